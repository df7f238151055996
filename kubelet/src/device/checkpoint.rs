//! The file that says who has which devices, as upstream's kubelet writes it (`pkg/kubelet/cm/devicemanager/checkpoint`).

use super::ledger::{Given, OfPod};
use crate::checkpoint::{self, printed_list, printed_map};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One container's devices of one resource.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID", default)]
    pod_uid: String,
    #[serde(rename = "ContainerName", default)]
    container_name: String,
    #[serde(rename = "ResourceName", default)]
    resource_name: String,
    /// By NUMA node; -1 where no node is nearer than others.
    #[serde(rename = "DeviceIDs", default)]
    device_ids: Option<BTreeMap<i64, Vec<String>>>,
    /// The plugin's answer as it came, in base 64.
    #[serde(rename = "AllocResp", default)]
    alloc_resp: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checkpoint {
    data: Data,
    checksum: u64,
}

const NIL: &str = "<nil>";

impl Data {
    fn sum(&self) -> u64 {
        let ids = |ids: &Vec<String>| printed_list(ids, String::clone);
        let entry = |e: &Entry| {
            let bytes = |text: &String| printed_list(STANDARD.decode(text).unwrap_or_default(), |byte| byte.to_string());
            format!(
                "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} DeviceIDs:(checkpoint.DevicesPerNUMA){} AllocResp:([]uint8){}}}",
                e.pod_uid,
                e.container_name,
                e.resource_name,
                e.device_ids.as_ref().map_or(NIL.into(), |all| printed_map(all, ids)),
                e.alloc_resp.as_ref().map_or(NIL.into(), bytes)
            )
        };
        let entries = self.pod_device_entries.as_ref().map_or(NIL.into(), |all| printed_list(all, entry));
        let registered = self.registered_devices.as_ref();
        let registered = registered.map_or(NIL.into(), |all| printed_map(all, |list| list.as_ref().map_or(NIL.into(), ids)));
        checkpoint::checksum(&format!(
            "(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} RegisteredDevices:(map[string][]string){registered}}}"
        ))
    }
}

impl Checkpoint {
    /// What is to be written: who has what, and the healthy devices of every resource that was ever told of.
    pub fn of(pods: &BTreeMap<String, OfPod>, registered: BTreeMap<String, Vec<String>>) -> Self {
        let mut entries = Vec::new();
        for (uid, pod) in pods {
            for (container, resources) in pod {
                entries.extend(resources.iter().map(|(resource, given)| Entry {
                    pod_uid: uid.clone(),
                    container_name: container.clone(),
                    resource_name: resource.clone(),
                    device_ids: Some(given.by_node.iter().map(|(node, ids)| (*node, ids.iter().cloned().collect())).collect()),
                    alloc_resp: Some(STANDARD.encode(&given.response)),
                }));
            }
        }
        let registered = registered.into_iter().map(|(resource, ids)| (resource, Some(ids))).collect();
        let data = Data { pod_device_entries: Some(entries), registered_devices: Some(registered) };
        Checkpoint { checksum: data.sum(), data }
    }

    /// Who has what, and the resources that were ever told of, if the file is whole.
    pub fn read(bytes: &[u8]) -> Result<(BTreeMap<String, OfPod>, Vec<String>), String> {
        let file: Checkpoint = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if file.data.sum() != file.checksum {
            return Err("checkpoint is corrupted".into());
        }
        let mut pods: BTreeMap<String, OfPod> = BTreeMap::new();
        for entry in file.data.pod_device_entries.into_iter().flatten() {
            let response = STANDARD.decode(entry.alloc_resp.unwrap_or_default()).map_err(|error| error.to_string())?;
            let by_node = entry.device_ids.unwrap_or_default();
            let given = Given { by_node: by_node.into_iter().map(|(node, ids)| (node, ids.into_iter().collect())).collect(), response };
            pods.entry(entry.pod_uid).or_default().entry(entry.container_name).or_default().insert(entry.resource_name, given);
        }
        Ok((pods, file.data.registered_devices.unwrap_or_default().into_keys().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_upstreams_are_taken_and_ours_are_like_them() {
        // What upstream's kubelets wrote.
        let text = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"bf52b2cd-b611-4e79-86b1-280b283185c3","ContainerName":"check","ResourceName":"nvidia.com/gpu","DeviceIDs":{"-1":["tegra"]},"AllocResp":"Ch8KFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSBXRlZ3Jh"}],"RegisteredDevices":{"nvidia.com/gpu":["tegra"]}},"Checksum":3660592824}"#;
        let (pods, known) = Checkpoint::read(text.as_bytes()).expect("a good file");
        assert_eq!(known, ["nvidia.com/gpu"]);
        let given = &pods["bf52b2cd-b611-4e79-86b1-280b283185c3"]["check"]["nvidia.com/gpu"];
        assert_eq!(given.response().envs["NVIDIA_VISIBLE_DEVICES"], "tegra");
        let again = Checkpoint::of(&pods, BTreeMap::from([("nvidia.com/gpu".to_owned(), vec!["tegra".to_owned()])]));
        assert_eq!(serde_json::to_string(&again).expect("it can be written"), text);
        let none = r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{"nvidia.com/gpu":["GPU-0650a168-e770-3ea8-8ac3-8a1d419763e0"]}},"Checksum":3952659280}"#;
        assert!(Checkpoint::read(none.as_bytes()).expect("a good file").0.is_empty());
        let changed = text.replace("[\"tegra\"]},\"Alloc", "[\"tegrb\"]},\"Alloc");
        assert_eq!(Checkpoint::read(changed.as_bytes()).err().as_deref(), Some("checkpoint is corrupted"));
    }
}
