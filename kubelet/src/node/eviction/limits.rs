//! Pods that took more disk than they may: an emptyDir beyond its `sizeLimit`, a pod or container beyond its limit of `ephemeral-storage` (upstream:
//! `localStorageEviction`). No shortage is needed for it.

use crate::{
    container::resources,
    node::usage::summary::{Fs, PodStats},
};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::api::resource::Quantity};

const STORAGE: &str = "ephemeral-storage";

/// Whether the pod can go beyond anything at all: most cannot, and nobody measures them.
pub fn has_limits(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let sized = spec.volumes.iter().flatten().any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()));
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    sized || all.into_iter().any(|c| resources::limit(c, STORAGE) > 0)
}

fn beyond(used: u64, limit: &Quantity) -> bool {
    resources::whole(limit).is_some_and(|most| most > 0 && i64::try_from(used).unwrap_or(i64::MAX) > most)
}

fn canonical(amount: &Quantity) -> String {
    api::quantity::Quantity::of(amount).map_or_else(|_| amount.0.clone(), |q| q.to_string())
}

/// Why the pod has to go, if it has. `apart`: what containers write is on a file system of its own, which is not the node's to keep free.
pub fn exceeded(pod: &Pod, stats: &PodStats, apart: bool) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { continue };
        let used = stats.volumes.iter().find(|v| v.name == volume.name).and_then(|v| v.fs.used_bytes).unwrap_or(0);
        if beyond(used, limit) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, canonical(limit)));
        }
    }
    let limited = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| resources::limit(c, STORAGE) > 0);
    if limited {
        let total = resources::pod_total(spec, STORAGE, true).div_euclid(1000);
        let used = stats.ephemeral_storage.as_ref().and_then(|fs| fs.used_bytes).unwrap_or(0);
        if i64::try_from(used).unwrap_or(i64::MAX) > total {
            let total = crate::node::machine::binary(total);
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {total}. "));
        }
    }
    for container in &stats.containers {
        let defined = spec.containers.iter().find(|c| c.name == container.name);
        let Some(limit) = defined.and_then(|c| c.resources.as_ref()?.limits.as_ref()?.get(STORAGE)) else { continue };
        let root = if apart { 0 } else { Fs::taken(container.rootfs.as_ref()).0 };
        if beyond(Fs::taken(container.logs.as_ref()).0 + root, limit) {
            return Some(format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, canonical(limit)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::usage::summary::{ContainerStats, VolumeStats};
    use serde_json::json;

    fn fs(bytes: u64) -> Fs {
        Fs { used_bytes: Some(bytes), ..Default::default() }
    }

    #[test]
    fn what_goes_beyond_its_limit_is_named() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "resources": {"limits": {"ephemeral-storage": "1Ki"}}}, {"name": "d", "resources": {"limits": {"ephemeral-storage": "3Ki"}}}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "2Ki"}}, {"name": "w", "emptyDir": {}}]}}))
        .expect("a pod");
        assert!(has_limits(&pod));
        let container = |name: &str, root, logs| ContainerStats {
            name: name.into(),
            rootfs: Some(fs(root)),
            logs: Some(fs(logs)),
            ..Default::default()
        };
        let stats = |volume, root, logs, total| PodStats {
            volumes: vec![VolumeStats { name: "v".into(), fs: fs(volume), ephemeral: true, pvc_ref: None }],
            containers: vec![container("c", root, logs), container("d", 0, 0)],
            ephemeral_storage: Some(fs(total)),
            ..Default::default()
        };
        for (stats, apart, want) in [
            (stats(2048, 512, 512, 4096), false, None),
            (stats(2049, 0, 0, 0), false, Some("Usage of EmptyDir volume \"v\" exceeds the limit \"2Ki\". ")),
            (stats(0, 0, 0, 4097), false, Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Ki. ")),
            (stats(0, 1024, 1, 2000), false, Some("Container c exceeded its local ephemeral storage limit \"1Ki\". ")),
            (stats(0, 1024, 1, 2000), true, None),
        ] {
            assert_eq!(exceeded(&pod, &stats, apart).as_deref(), want);
        }
        assert!(!has_limits(&serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}]}})).expect("a pod")));
    }
}
