//! How pods and containers are found again in the runtime: labels and annotations on what was made (upstream:
//! `kuberuntime/labels.go`), their log paths, and the hash that tells whether a container's definition changed.
//!
//! They are all that survives a restart of the kubelet: restart counts and grace periods are read back from them.

use k8s_cri::v1::ContainerStatus;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::HashMap;

/// Label: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name in the pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where in the container its last words are.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: whether the log stands in for them.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";

/// Annotation on a pod: where it came from (`file`, `api`).
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation on a static pod: the hash of its manifest.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation on a pod: when the kubelet first saw it.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// Annotation on a mirror pod: the hash of the static pod it mirrors.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The UID that names the pod on this node: a static pod's is the hash of its manifest, also where its mirror is looked at.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as messages name a pod.
pub fn described(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// An annotation of the pod.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the pod comes from a manifest on this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source != "api") && annotation(pod, CONFIG_MIRROR).is_none()
}

/// Whether the pod is the API's image of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// 32-bit FNV-1a, upstream's hash for container definitions.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The hash of what may not change without a restart: name and image.
pub fn container_hash(container: &Container) -> String {
    let picked = serde_json::json!({"name": container.name, "image": container.image});
    format!("{:x}", fnv1a(picked.to_string().as_bytes()))
}

/// The labels of a pod's sandbox: the pod's own, and who it is.
pub fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.insert(POD_NAME.into(), name(pod).into());
    labels.insert(POD_NAMESPACE.into(), namespace(pod).into());
    labels.insert(POD_UID.into(), uid(pod).into());
    labels
}

/// The labels of a container.
pub fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    [(POD_NAME, name(pod)), (POD_NAMESPACE, namespace(pod)), (POD_UID, uid(pod)), (CONTAINER_NAME, &container.name)]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// The annotations of a container.
pub fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let mut out = HashMap::from([
        (HASH.to_owned(), container_hash(container)),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (TERMINATION_PATH.to_owned(), container.termination_message_path.clone().unwrap_or_default()),
        (TERMINATION_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_default()),
    ]);
    if let Some(grace) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        out.insert(GRACE.to_owned(), grace.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        out.insert(PRE_STOP.to_owned(), serde_json::to_string(hook).unwrap_or_default());
    }
    if let Some(ports) = &container.ports {
        out.insert(PORTS.to_owned(), serde_json::to_string(ports).unwrap_or_default());
    }
    out
}

/// The restart count a container was made with.
pub fn restart_count(status: &ContainerStatus) -> u32 {
    let attempt = status.metadata.as_ref().map_or(0, |m| m.attempt);
    status.annotations.get(RESTART_COUNT).and_then(|n| n.parse().ok()).unwrap_or(attempt)
}

/// The definition's hash a container was made with.
pub fn recorded_hash(status: &ContainerStatus) -> &str {
    status.annotations.get(HASH).map_or("", String::as_str)
}

/// The grace period of the pod a container was made for: what a pod that only the runtime remembers is stopped with.
pub fn recorded_grace(status: &ContainerStatus) -> Option<u64> {
    status.annotations.get(GRACE)?.parse().ok()
}

/// The name of a container in its pod, from its labels.
pub fn container_name(status: &ContainerStatus) -> &str {
    status.labels.get(CONTAINER_NAME).map_or("", String::as_str)
}

/// The directory of a pod's logs below the root of all logs: `NAMESPACE_NAME_UID`.
pub fn log_directory(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}_{name}_{uid}")
}

/// A container's log below its pod's: `CONTAINER/RESTARTS.log`.
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_the_image_and_nothing_that_may_change() {
        let container = Container { name: "c".into(), image: Some("a".into()), ..Default::default() };
        let renamed = Container { image: Some("b".into()), ..container.clone() };
        let resized = Container { tty: Some(true), ..container.clone() };
        assert_ne!(container_hash(&container), container_hash(&renamed));
        assert_eq!(container_hash(&container), container_hash(&resized));
        assert_eq!(fnv1a(b"a"), 0xe40c_292c);
    }
}
