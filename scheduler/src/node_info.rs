//! A node with the pods on it and what they add up to.

use crate::pod_info::PodInfo;
use crate::resources::{self, PODS, Resources};
use api::scheduling::HostPort;
use k8s_openapi::api::core::v1::{ContainerImage, Node, Taint};
use std::collections::HashMap;
use std::sync::Arc;

/// See the module's description. Cloned when it changes while a snapshot holds it, so what grows with the number of pods sits behind `Arc`s.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// The node; pods can be seen on a node before the node itself is.
    pub node: Option<Arc<Node>>,
    /// The pods on it, those included whose binding is still on its way.
    pub pods: Vec<Arc<PodInfo>>,
    /// What they ask for.
    pub requested: Resources,
    /// What they count as when nodes are scored.
    pub scored: Resources,
    /// What the node has for pods.
    pub allocatable: Resources,
    /// How many pods it may have.
    pub allowed_pods: i64,
    /// Sizes in bytes of the images on it, by name.
    pub images: Arc<HashMap<String, i64>>,
    /// Pods that have been promised room on it, and are not there yet.
    pub nominated: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    /// A node with pods on it.
    pub fn new(node: Arc<Node>, pods: impl IntoIterator<Item = Arc<PodInfo>>) -> Self {
        let mut info = Self::default();
        info.set_node(node);
        for pod in pods {
            info.add_pod(pod);
        }
        info
    }

    /// Takes in a new state of the node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::from_quantities(allocatable);
        self.allowed_pods = allocatable.and_then(|a| a.get(PODS)).map_or(0, resources::value);
        let before = self.node.as_ref().and_then(|old| old.status.as_ref()).and_then(|status| status.images.as_ref());
        let images = status.and_then(|status| status.images.as_ref());
        // Heartbeats come often, other images seldom.
        if before != images {
            let named = |image: &ContainerImage| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size)).collect::<Vec<_>>()
            };
            self.images = Arc::new(images.into_iter().flatten().flat_map(named).collect());
        }
        self.node = Some(node);
    }

    /// Adds a pod.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.pods.push(pod);
    }

    /// Puts a newer state of a pod in the place of the older one; whether it was there.
    pub fn replace_pod(&mut self, pod: &Arc<PodInfo>) -> bool {
        let Some(position) = self.pods.iter().position(|other| other.uid() == pod.uid()) else { return false };
        let old = std::mem::replace(&mut self.pods[position], pod.clone());
        self.requested.subtract(&old.requests);
        self.scored.subtract(&old.scored);
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        true
    }

    /// Removes a pod, by UID; whether it was there.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(position) = self.pods.iter().position(|pod| pod.uid() == uid) else { return false };
        let pod = self.pods.swap_remove(position);
        self.requested.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        true
    }

    /// The node's name; empty while the node itself is not known.
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|node| node.metadata.name.as_deref()).unwrap_or_default()
    }

    /// A label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The node's taints.
    pub fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    /// Whether the node is cordoned.
    pub fn is_unschedulable(&self) -> bool {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.unschedulable).unwrap_or(false)
    }

    /// The ports of the node that its pods take.
    pub fn host_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.iter().flat_map(|pod| &pod.host_ports)
    }
}
