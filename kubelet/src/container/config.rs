//! One container's configuration for the runtime, from the pod and all that was fetched for it (upstream:
//! `kuberuntime_container.go`, `generateContainerConfig`).

use super::{expansion::expand, identity, resources, security, swap::Swap};
use crate::{device, pinning::Cpus, topology_manager::mask::Mask};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig, LinuxContainerResources, Mount, MountPropagation,
    UserNamespace,
};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use std::collections::HashMap;

/// What a container's configuration is made from besides pod and container.
pub struct Ingredients<'a> {
    /// How often it was restarted.
    pub restart_count: u32,
    /// The image as it is to be run: its id, so that a tag that moves meanwhile does not matter.
    pub image_ref: String,
    /// The user the image names as a number.
    pub image_uid: Option<i64>,
    /// The user the image names by name.
    pub image_username: &'a str,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// What devices of its own add: device files, names and annotations. Their variables and mounts are among the others.
    pub devices: device::Extras,
    /// The mounts: volumes, hosts file, termination log.
    pub mounts: Vec<Mount>,
    /// The namespace of its users, which is the sandbox's.
    pub users: UserNamespace,
    /// Security settings of the kubelet.
    pub security: &'a security::Settings,
    /// The node's memory in bytes.
    pub memory_capacity: i64,
    /// What the node does about swap.
    pub swap: Swap,
    /// The CPUs it is to run on.
    pub cpus: Cpus,
    /// The NUMA nodes whose memory it may use, none for all.
    pub memory_nodes: Mask,
}

/// The configuration.
pub fn container_config(pod: &Pod, container: &Container, given: Ingredients<'_>) -> ContainerConfig {
    let lookup = |name: &str| given.env.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, lookup)).collect();
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: given.restart_count }),
        image: Some(ImageSpec {
            image: given.image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        labels: identity::container_labels(pod, container),
        annotations: annotations(pod, container, given.restart_count, given.devices.annotations),
        devices: given.devices.devices,
        cdi_devices: given.devices.cdi,
        mounts: mapped(given.mounts, &given.users),
        log_path: identity::log_path(&container.name, given.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(pinned(
                resources::linux_resources(pod, container, given.memory_capacity, &given.swap),
                given.cpus,
                given.memory_nodes,
            )),
            security_context: Some(security::container_context(
                pod,
                container,
                given.image_uid,
                given.image_username,
                given.users,
                given.security,
            )),
        }),
        envs: given.env.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        ..Default::default()
    }
}

/// The devices' annotations, and those that the container is found again by, which nobody else may set.
fn annotations(pod: &Pod, container: &Container, restart_count: u32, devices: HashMap<String, String>) -> HashMap<String, String> {
    let mut all = devices;
    all.extend(identity::container_annotations(pod, container, restart_count));
    all
}

/// The limits of a container that is to run on these CPUs, with the memory of these nodes. To CPUs that are its own alone no quota applies.
fn pinned(limits: LinuxContainerResources, cpus: Cpus, memory_nodes: Mask) -> LinuxContainerResources {
    let cpu_quota = if cpus.exclusive { -1 } else { limits.cpu_quota };
    LinuxContainerResources { cpuset_cpus: cpus.set, cpuset_mems: memory_nodes.to_string(), cpu_quota, ..limits }
}

/// The mounts with the ids in them as the container's users see them.
fn mapped(mounts: Vec<Mount>, users: &UserNamespace) -> Vec<Mount> {
    let map = |mount| Mount { uid_mappings: users.uids.clone(), gid_mappings: users.gids.clone(), ..mount };
    mounts.into_iter().map(map).collect()
}

/// How mounts on either side are seen on the other.
pub fn propagation(mount: &VolumeMount) -> i32 {
    let mode = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    mode as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn commands_expand_from_the_final_environment() {
        let pod = Pod::default();
        let container: Container =
            serde_json::from_value(json!({"name": "c", "command": ["sh", "$(A)"], "args": ["$(NO)", "$$(A)"]})).expect("a container");
        let given = Ingredients {
            restart_count: 3,
            image_ref: "sha256:x".into(),
            image_uid: None,
            image_username: "",
            env: vec![("A".into(), "1".into())],
            devices: device::Extras::default(),
            mounts: Vec::new(),
            users: UserNamespace::default(),
            security: &security::Settings::default(),
            memory_capacity: 1,
            swap: Swap::default(),
            cpus: Cpus { set: "1-2".into(), exclusive: true },
            memory_nodes: [0, 1].into_iter().collect(),
        };
        let config = container_config(&pod, &container, given);
        assert_eq!(config.command, ["sh", "1"]);
        assert_eq!(config.args, ["$(NO)", "$(A)"]);
        assert_eq!(config.log_path, "c/3.log");
        let limits = config.linux.and_then(|linux| linux.resources).expect("limits");
        assert_eq!((limits.cpuset_cpus.as_str(), limits.cpuset_mems.as_str(), limits.cpu_quota), ("1-2", "0,1", -1));
    }
}
