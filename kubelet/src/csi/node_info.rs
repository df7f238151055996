//! What the API is told of the drivers of a node: the CSINode, the annotation with what drivers call the node, and labels for where their volumes can be
//! reached (upstream: `pkg/volume/csi/nodeinfomanager`).

use super::protocol::InfoResponse;
use anyhow::{Context, bail};
use k8s_openapi::{
    api::{
        core::v1::Node,
        storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::collections::BTreeMap;

/// The annotation of what each driver calls the node.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// The annotation of the plugins whose volumes drivers have taken over, and those: none is left in the tree.
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";
/// How often a write that somebody was faster than is tried again.
const ATTEMPTS: usize = 8;

/// The objects of one node.
#[derive(Clone)]
pub struct NodeInfo {
    name: String,
    nodes: Api<Node>,
    csi_nodes: Api<CSINode>,
}

/// A driver as the CSINode has it.
fn entry(driver: &str, info: &InfoResponse) -> CSINodeDriver {
    let segments = info.accessible_topology.iter().flat_map(|t| t.segments.keys().cloned());
    let keys: std::collections::BTreeSet<String> = segments.collect();
    let count = i32::try_from(info.max_volumes_per_node).ok().filter(|most| *most > 0);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: (!keys.is_empty()).then(|| keys.into_iter().collect()),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

/// The node's annotations and labels with a driver, or without it; labels stay. `None`: nothing differs.
fn node_patch(node: &Node, driver: &str, info: Option<&InfoResponse>) -> anyhow::Result<Option<serde_json::Value>> {
    let told = node.metadata.annotations.as_ref().and_then(|a| a.get(NODE_IDS));
    let before: BTreeMap<String, String> = match told {
        Some(text) => serde_json::from_str(text).with_context(|| format!("the annotation {NODE_IDS}"))?,
        None => BTreeMap::new(),
    };
    let mut ids = before.clone();
    match info {
        Some(info) => ids.insert(driver.to_owned(), info.node_id.clone()),
        None => ids.remove(driver),
    };
    let mut labels = BTreeMap::new();
    for (key, value) in info.iter().flat_map(|i| &i.accessible_topology).flat_map(|t| &t.segments) {
        match node.metadata.labels.as_ref().and_then(|labels| labels.get(key)) {
            Some(old) if old != value => {
                bail!("detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{old:?}")
            }
            Some(_) => {}
            None => drop(labels.insert(key, value)),
        }
    }
    if ids == before && labels.is_empty() {
        return Ok(None);
    }
    let text = (!ids.is_empty()).then(|| serde_json::to_string(&ids)).transpose()?;
    Ok(Some(json!({"metadata": {"annotations": {NODE_IDS: text}, "labels": labels}})))
}

impl NodeInfo {
    /// Of the node of this name.
    pub fn new(client: Client, name: &str) -> Self {
        NodeInfo { name: name.to_owned(), nodes: Api::all(client.clone()), csi_nodes: Api::all(client) }
    }

    /// A driver came to the node.
    pub async fn install(&self, driver: &str, info: &InfoResponse) -> anyhow::Result<()> {
        self.patch_node(driver, Some(info)).await.context("error updating Node object with CSI driver node info")?;
        self.change_drivers(|drivers| {
            drivers.retain(|d| d.name != driver);
            drivers.push(entry(driver, info));
        })
        .await
        .context("error updating CSINode object with CSI driver node info")
    }

    /// A driver left it.
    pub async fn uninstall(&self, driver: &str) -> anyhow::Result<()> {
        self.change_drivers(|drivers| drivers.retain(|d| d.name != driver)).await?;
        self.patch_node(driver, None).await
    }

    /// Makes the CSINode where there is none: who looks at it knows then that the node has no drivers.
    pub async fn ensure(&self) -> anyhow::Result<()> {
        self.change_drivers(|_| {}).await
    }

    async fn patch_node(&self, driver: &str, info: Option<&InfoResponse>) -> anyhow::Result<()> {
        if let Some(patch) = node_patch(&self.nodes.get(&self.name).await?, driver, info)? {
            self.nodes.patch(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        }
        Ok(())
    }

    /// Changes the CSINode's list, and makes the object if there is none.
    async fn change_drivers(&self, change: impl Fn(&mut Vec<CSINodeDriver>)) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let (written, is_new) = match self.csi_nodes.get_opt(&self.name).await? {
                Some(mut there) => {
                    let before = there.spec.drivers.clone();
                    change(&mut there.spec.drivers);
                    if there.spec.drivers == before {
                        return Ok(());
                    }
                    (self.csi_nodes.replace(&self.name, &PostParams::default(), &there).await, false)
                }
                None => {
                    let mut drivers = Vec::new();
                    change(&mut drivers);
                    (self.csi_nodes.create(&PostParams::default(), &self.fresh(drivers).await?).await, true)
                }
            };
            match written {
                Ok(_) => return Ok(()),
                // Somebody was faster; what is there now is looked at again.
                Err(kube::Error::Api(status)) if status.code == 409 => tracing::debug!(is_new, "the CSINode was changed meanwhile"),
                Err(error) => return Err(error.into()),
            }
        }
        bail!("the CSINode changes too often")
    }

    async fn fresh(&self, drivers: Vec<CSINodeDriver>) -> anyhow::Result<CSINode> {
        let node = self.nodes.get(&self.name).await?;
        let mut fresh = CSINode { spec: CSINodeSpec { drivers }, ..Default::default() };
        fresh.metadata.name = Some(self.name.clone());
        fresh.metadata.annotations = Some(BTreeMap::from([(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned())]));
        fresh.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: self.name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..Default::default()
        }]);
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::protocol::Topology;

    fn info() -> InfoResponse {
        let segments = [("example.com/zone".to_owned(), "a".to_owned()), ("example.com/rack".to_owned(), "1".to_owned())].into();
        InfoResponse { node_id: "id".into(), max_volumes_per_node: 3, accessible_topology: Some(Topology { segments }) }
    }

    #[test]
    fn the_csi_node_says_what_the_driver_said() {
        let got = entry("d", &info());
        assert_eq!((got.name.as_str(), got.node_id.as_str(), got.allocatable.and_then(|a| a.count)), ("d", "id", Some(3)));
        assert_eq!(got.topology_keys, Some(vec!["example.com/rack".to_owned(), "example.com/zone".to_owned()]));
        let plain = entry("d", &InfoResponse { node_id: "id".into(), ..Default::default() });
        assert_eq!((plain.topology_keys, plain.allocatable), (None, None));
    }

    #[test]
    fn the_node_is_patched_where_it_differs() {
        let node = |annotations: serde_json::Value, labels: serde_json::Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n", "annotations": annotations, "labels": labels}})).expect("a node")
        };
        let labels = json!({"example.com/zone": "a", "example.com/rack": "1"});
        let (bare, told) = (node(json!({}), json!({})), node(json!({NODE_IDS: "{\"d\":\"id\"}"}), labels.clone()));
        let fresh = node_patch(&bare, "d", Some(&info())).expect("no collision").expect("something differs");
        assert_eq!(fresh, json!({"metadata": {"annotations": {NODE_IDS: "{\"d\":\"id\"}"}, "labels": labels}}));
        assert_eq!(node_patch(&told, "d", Some(&info())).expect("no collision"), None);
        let gone = node_patch(&told, "d", None).expect("no collision").expect("something differs");
        assert_eq!(gone["metadata"]["annotations"][NODE_IDS], json!(null));
        let error = node_patch(&node(json!({}), json!({"example.com/zone": "b"})), "d", Some(&info())).expect_err("a collision");
        assert!(error.to_string().starts_with("detected topology value collision"), "{error}");
    }
}
