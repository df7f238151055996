//! What the provisioner does about a claim or a volume of its own.

use super::super::*;
use super::NAME;
use crate::ops::{DeleteOptions, Op, Request};
use crate::pods;
use client::ObjectKey;
use client::events::reference;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Where the pods run that remove directories.
pub const NAMESPACE: &str = "kube-system";
/// The node that a volume is on.
const NODE: &str = "skiff.dev/node";
/// Keeps a volume's object until its directory is gone, whoever deletes it first (upstream's name, of its library for provisioners).
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Names the volume whose directory a pod removes.
pub const REMOVES: &str = "skiff.dev/removes-volume";
/// Where directories are made unless the class says.
const PATH: &str = "/var/lib/skiff/volumes";
/// What removes them unless the class says.
const IMAGE: &str = "busybox:latest";
/// How long removing may take before it counts as failed.
const PATIENCE: i64 = 600;
/// How soon to try again after a failure.
const AGAIN: Duration = Duration::from_secs(30);

fn parameter<'a>(class: Option<&'a StorageClass>, name: &str, otherwise: &'a str) -> &'a str {
    class.and_then(|class| class.parameters.as_ref()?.get(name)).map_or(otherwise, String::as_str)
}

/// The node that a volume is on.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    annotation(volume, NODE)
}

/// The name of the pod that removes a volume's directory.
pub fn remover_name(volume: &PersistentVolume) -> String {
    format!("remove-{}", volume.metadata.name.as_deref().unwrap_or_default())
}

/// The volume whose directory a pod removes, if it does.
pub fn volume_of_remover(pod: &Pod) -> Option<&str> {
    annotation(pod, REMOVES).filter(|_| pod.metadata.namespace.as_deref() == Some(NAMESPACE))
}

/// Why no volume can be made for a claim.
fn refusal(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<&'static str> {
    let spec = claim.spec.clone().unwrap_or_default();
    let modes = spec.access_modes.unwrap_or_default();
    let reasons = [
        (
            class.volume_binding_mode.as_deref() != Some("WaitForFirstConsumer"),
            "no node was specified: the class has to have the volumeBindingMode WaitForFirstConsumer",
        ),
        (!Path::new(parameter(Some(class), "path", PATH)).is_absolute(), "the class's parameter path has to be an absolute path"),
        (spec.volume_mode.as_deref() == Some("Block"), "block volumes are not supported"),
        (spec.selector.is_some(), "claim.Spec.Selector is not supported"),
        (
            modes.iter().any(|mode| mode != "ReadWriteOnce" && mode != "ReadWriteOncePod"),
            "only the access modes ReadWriteOnce and ReadWriteOncePod are supported: the volume is on one node",
        ),
    ];
    reasons.iter().find(|(applies, _)| *applies).map(|(_, text)| *text)
}

/// What to do about a claim that waits for this provisioner. `node` is the one that it names, if that is there.
pub fn for_claim(claim: &PersistentVolumeClaim, class: &StorageClass, node: Option<&Node>) -> Vec<Op> {
    if !volume_name(claim).is_empty() || claim.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    if let Some(why) = refusal(claim, class) {
        let class = class.metadata.name.as_deref().unwrap_or_default();
        return vec![Op::warning(claim, "ProvisioningFailed", format!("failed to provision volume with StorageClass {class:?}: {why}"))];
    }
    let Some(chosen) = annotation(claim, SELECTED_NODE) else { return Vec::new() };
    let Some(node) = node else {
        // The scheduler is to choose again.
        let mut released = claim.clone();
        released.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
        let why = format!("failed to get target node: nodes {chosen:?} not found");
        return vec![Op::warning(claim, "ProvisioningFailed", why), Op::send(Request::replace(&released).tolerating(&[404]))];
    };
    let volume = volume(claim, class, node);
    let name = volume.metadata.name.clone().unwrap_or_default();
    let key = ObjectKey::of(claim);
    vec![
        Op::normal(claim, "Provisioning", format!("External provisioner is provisioning volume for claim \"{key}\"")),
        Op::send(Request::create(&volume).tolerating(&[409])),
        Op::normal(claim, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}")),
    ]
}

/// The volume for a claim on a node.
fn volume(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node) -> PersistentVolume {
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
    let node_name = node.metadata.name.as_deref().unwrap_or_default();
    let host = node.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/hostname")).map_or(node_name, String::as_str);
    let spec = claim.spec.clone().unwrap_or_default();
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers = if policy == "Delete" { vec![FINALIZER] } else { Vec::new() };
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [host]});
    let made = json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: NAME, NODE: node_name}, "finalizers": finalizers},
        "spec": {
            "capacity": {"storage": spec.resources.and_then(|resources| resources.requests?.remove("storage"))},
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class.metadata.name,
            "mountOptions": class.mount_options,
            "claimRef": reference(claim, None),
            "hostPath": {"path": format!("{}/{name}", parameter(Some(class), "path", PATH).trim_end_matches('/')), "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
    });
    serde_json::from_value(made).expect("the object is a PersistentVolume by construction")
}

/// What to do about a volume of ours: once it is released, its directory is removed, and then it.
pub fn for_volume(volume: &PersistentVolume, node: Option<&Node>, remover: Option<&Pod>, class: Option<&StorageClass>) -> Vec<Op> {
    if reclaim_policy(volume) != "Delete" || !matches!(phase(volume), "Released" | "Failed") {
        return Vec::new();
    }
    let runtime = |node: &Node| Some(node.status.as_ref()?.node_info.as_ref()?.container_runtime_version.clone());
    if node.is_none_or(|node| runtime(node).is_some_and(|runtime| runtime.starts_with("simulated://"))) {
        return delete(volume);
    }
    match remover.map(pods::phase) {
        None => removal(volume, class).map(|pod| Op::send(Request::create(&pod).tolerating(&[409]))).into_iter().collect(),
        Some("Succeeded") => delete(volume),
        Some("Failed") => {
            let pod = remover.expect("it has a phase");
            let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
            let message = pod.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
            let why = format!("removing the directory failed: pod {}: {message}", ObjectKey::of(pod));
            vec![
                Op::warning(volume, "VolumeFailedDelete", why.trim_end_matches(": ").to_owned()),
                Op::send(Request::delete::<Pod>(&ObjectKey::of(pod), &options).tolerating(&[404, 409])),
                Op::After(AGAIN),
            ]
        }
        Some(_) => Vec::new(),
    }
}

/// The directory is gone: so goes the volume. The pod that has removed it is owned by it, and follows.
fn delete(volume: &PersistentVolume) -> Vec<Op> {
    let mut released = volume.clone();
    let finalizers = released.metadata.finalizers.get_or_insert_default();
    let kept = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    let options = DeleteOptions { uid: volume.metadata.uid.clone(), ..DeleteOptions::default() };
    let deleting =
        volume.metadata.deletion_timestamp.is_none().then(|| Request::delete::<PersistentVolume>(&ObjectKey::of(volume), &options));
    // The other way round another finalizer might hold the object, and the directory would be looked for again.
    kept.then(|| Request::replace(&released).tolerating(&[404])).into_iter().chain(deleting).map(Op::send).collect()
}

/// The pod that removes a volume's directory. Nothing if the volume names no directory of ours.
fn removal(volume: &PersistentVolume, class: Option<&StorageClass>) -> Option<Pod> {
    let path = Path::new(volume.spec.as_ref()?.host_path.as_ref()?.path.as_str());
    let (parent, directory) = (path.parent()?.to_str()?, path.file_name()?.to_str()?);
    let name = volume.metadata.name.as_deref()?;
    if directory != name {
        return None;
    }
    let owner = json!({"apiVersion": "v1", "kind": "PersistentVolume", "name": name, "uid": volume.metadata.uid});
    let container = json!({
        "name": "remove", "image": parameter(class, "removerImage", IMAGE), "imagePullPolicy": "IfNotPresent",
        "command": ["rm", "-rf", format!("/volumes/{directory}")],
        "volumeMounts": [{"name": "volumes", "mountPath": "/volumes"}],
        "securityContext": {"runAsUser": 0},
    });
    let spec = json!({
        "nodeName": node_of(volume)?,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": PATIENCE,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "volumes", "hostPath": {"path": parent, "type": "DirectoryOrCreate"}}],
    });
    let metadata =
        json!({"namespace": NAMESPACE, "name": remover_name(volume), "annotations": {REMOVES: name}, "ownerReferences": [owner]});
    Some(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("the object is a Pod by construction"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::Value;

    fn merged(mut base: Value, more: Value) -> Value {
        json_patch::merge(&mut base, &more);
        base
    }

    fn class(more: Value) -> StorageClass {
        let base = json!({"metadata": {"name": "standard"}, "provisioner": NAME, "volumeBindingMode": "WaitForFirstConsumer", "parameters": {"path": "/data/"}});
        serde_json::from_value(merged(base, more)).unwrap()
    }

    fn claim(more: Value) -> PersistentVolumeClaim {
        let meta = json!({"namespace": "ns", "name": "p", "uid": "u", "annotations": {SELECTED_NODE: "n"}});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "standard"});
        serde_json::from_value(merged(json!({"metadata": meta, "spec": spec}), more)).unwrap()
    }

    fn node(runtime: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "host"}}, "status": {"nodeInfo": {
            "architecture": "", "bootID": "", "containerRuntimeVersion": runtime, "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "",
            "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}}))
        .unwrap()
    }

    /// Method and path of each request, reason of each event.
    fn shown(ops: &[Op]) -> Vec<String> {
        ops.iter()
            .map(|op| match op {
                Op::Send(request) => format!("{} {}", request.method, request.path),
                Op::Event { reason, .. } => (*reason).to_owned(),
                Op::After(_) => "later".to_owned(),
            })
            .collect()
    }

    fn made() -> PersistentVolume {
        let ops = for_claim(&claim(json!({})), &class(json!({})), Some(&node("containerd://1")));
        assert_eq!(shown(&ops), ["Provisioning", "POST /api/v1/persistentvolumes", "ProvisioningSucceeded"]);
        let Op::Send(request) = &ops[1] else { panic!("a request") };
        serde_json::from_value(request.body.clone()).unwrap()
    }

    #[test]
    fn a_claim_gets_a_directory_on_its_node() {
        let spec = made().spec.unwrap();
        assert_eq!(spec.host_path.unwrap().path, "/data/pvc-u");
        let affinity = serde_json::to_value(spec.node_affinity).unwrap();
        let expression = &affinity["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
        assert_eq!(expression["values"], json!(["host"]));
        assert_eq!((spec.claim_ref.unwrap().uid.as_deref(), spec.persistent_volume_reclaim_policy.as_deref()), (Some("u"), Some("Delete")));
    }

    #[test]
    fn claims_that_get_none() {
        let unchosen = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
        let given = json!({"spec": {"volumeName": "v"}});
        let cases: [(Value, Value, bool, &[&str]); 7] = [
            (unchosen, json!({}), true, &[]),
            (given, json!({}), true, &[]),
            (json!({"spec": {"volumeMode": "Block"}}), json!({}), true, &["ProvisioningFailed"]),
            (json!({"spec": {"accessModes": ["ReadWriteMany"]}}), json!({}), true, &["ProvisioningFailed"]),
            (json!({}), json!({"volumeBindingMode": "Immediate"}), true, &["ProvisioningFailed"]),
            (json!({}), json!({"parameters": {"path": "data"}}), true, &["ProvisioningFailed"]),
            (json!({}), json!({}), false, &["ProvisioningFailed", "PUT /api/v1/namespaces/ns/persistentvolumeclaims/p"]),
        ];
        for (of_claim, of_class, there, expected) in cases {
            let node = node("containerd://1");
            let ops = for_claim(&claim(of_claim.clone()), &class(of_class), there.then_some(&node));
            assert_eq!(shown(&ops), expected, "{of_claim}");
        }
    }

    #[test]
    fn a_released_volume_goes_after_its_directory() {
        let volume = |phase: &str, policy: &str| -> PersistentVolume {
            let more = json!({"metadata": {"uid": "v"}, "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase}});
            serde_json::from_value(merged(serde_json::to_value(made()).unwrap(), more)).unwrap()
        };
        let remover = |phase: &str| -> Pod {
            held(json!({"metadata": {"namespace": NAMESPACE, "name": "remove-pvc-u", "uid": "r"}, "status": {"phase": phase}}))
        };
        let (real, pretended) = (node("containerd://1"), node("simulated://1"));
        let gone = ["PUT /api/v1/persistentvolumes/pvc-u", "DELETE /api/v1/persistentvolumes/pvc-u"];
        let failed = ["VolumeFailedDelete", "DELETE /api/v1/namespaces/kube-system/pods/remove-pvc-u", "later"];
        // Phase, policy, the node, the phase of the pod that removes, what is done.
        type Case<'a> = (&'a str, &'a str, Option<&'a Node>, Option<&'a str>, &'a [&'a str]);
        let cases: [Case<'_>; 9] = [
            ("Bound", "Delete", Some(&real), None, &[]),
            ("Released", "Retain", Some(&real), None, &[]),
            ("Released", "Delete", Some(&real), None, &["POST /api/v1/namespaces/kube-system/pods"]),
            ("Released", "Delete", Some(&real), Some("Running"), &[]),
            ("Released", "Delete", Some(&real), Some("Failed"), &failed),
            ("Released", "Delete", Some(&real), Some("Succeeded"), &gone),
            ("Released", "Delete", Some(&pretended), None, &gone),
            ("Released", "Delete", None, None, &gone),
            ("Failed", "Delete", Some(&real), None, &["POST /api/v1/namespaces/kube-system/pods"]),
        ];
        for (phase, policy, node, pod, expected) in cases {
            let pod = pod.map(remover);
            let ops = for_volume(&volume(phase, policy), node, pod.as_ref(), None);
            assert_eq!(shown(&ops), expected, "{phase} {policy}");
        }
        let pod = removal(&volume("Released", "Delete"), None).unwrap();
        assert_eq!(volume_of_remover(&pod), Some("pvc-u"));
        let spec = serde_json::to_value(pod.spec).unwrap();
        assert_eq!(spec["containers"][0]["command"], json!(["rm", "-rf", "/volumes/pvc-u"]));
        assert_eq!((&spec["volumes"][0]["hostPath"]["path"], &spec["nodeName"]), (&json!("/data"), &json!("n")));
        let mut elsewhere = volume("Released", "Delete");
        elsewhere.spec.as_mut().unwrap().host_path.as_mut().unwrap().path = "/etc".into();
        assert_eq!(removal(&elsewhere, None), None);
    }
}
