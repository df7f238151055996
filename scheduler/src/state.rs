//! What the scheduler believes about the cluster: what the watches told, plus the pods it has assumed on nodes whose binding is on its way
//! (upstream: `pkg/scheduler/backend/cache`). No IO, no clock.
//!
//! An assumed pod stays until the watch shows it bound or gone, or its binding fails: the API is the only one to say what came of it.

use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::Node;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

struct Placed {
    pod: Arc<PodInfo>,
    node: String,
    assumed: bool,
}

/// How much there is of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Nodes, those included of which only pods are known.
    pub nodes: usize,
    /// Pods on nodes.
    pub pods: usize,
    /// Of these, pods whose binding is still on its way.
    pub assumed: usize,
}

/// See the module's description.
#[derive(Default)]
pub struct ClusterState {
    nodes: HashMap<String, Arc<NodeInfo>>,
    /// By UID.
    pods: HashMap<String, Placed>,
    assumed: usize,
    changed: HashSet<String>,
    /// The node promised to a pod, by UID.
    promised: HashMap<String, String>,
}

impl ClusterState {
    /// A node is there or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.change(&name).set_node(node);
    }

    /// A node is gone. Its pods may still be there; their deletion comes later, or not at all.
    pub fn remove_node(&mut self, name: &str) {
        self.change(name).node = None;
        self.drop_if_empty(name);
    }

    /// A pod is bound to a node, or has changed there. How it was there before, if it was; assumed does not count.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let node = pod.node_name().map(str::to_owned)?;
        self.place(pod, node, false)
    }

    /// A pod is gone or has ended. How it was on its node, if it was on one or assumed to be.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(uid)?;
        self.assumed -= usize::from(placed.assumed);
        self.change(&placed.node).remove_pod(uid);
        self.drop_if_empty(&placed.node);
        Some(placed.pod)
    }

    /// A pod is about to be bound to a node.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node.to_owned(), true);
    }

    /// The binding failed. Nothing happens if the watch has shown it bound in the meantime.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    /// Whether the pod is assumed to be on a node, and not yet seen there.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// Whether none of these pods is on a node any more.
    pub fn are_gone(&self, pods: &[Arc<PodInfo>]) -> bool {
        pods.iter().all(|pod| !self.pods.contains_key(pod.uid()))
    }

    /// How much is known.
    pub fn size(&self) -> Size {
        Size { nodes: self.nodes.len(), pods: self.pods.len(), assumed: self.assumed }
    }

    /// Brings a snapshot up to date, always the same one. Nodes of which only pods are known are left out.
    pub fn update(&mut self, snapshot: &mut Snapshot) {
        for name in self.changed.drain() {
            let node = self.nodes.get(&name).filter(|info| info.node.is_some()).cloned();
            snapshot.set(&name, node);
        }
        snapshot.arrange();
    }

    /// Promises a pod room on a node, and there only.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.denominate(pod.uid());
        self.promised.insert(pod.uid().to_owned(), node.to_owned());
        self.change(node).nominated.push(pod);
    }

    /// Takes the promise back. Whether there was one: then others may take the room.
    pub fn denominate(&mut self, uid: &str) -> bool {
        let Some(node) = self.promised.remove(uid) else { return false };
        self.change(&node).nominated.retain(|pod| pod.uid() != uid);
        self.drop_if_empty(&node);
        true
    }

    /// The node promised to a pod.
    pub fn promised(&self, uid: &str) -> Option<&str> {
        self.promised.get(uid).map(String::as_str)
    }

    /// The pods less important than this priority that have been promised room on a node.
    pub fn nominated_below(&self, node: &str, priority: i32) -> Vec<Arc<PodInfo>> {
        let nominated = self.nodes.get(node).into_iter().flat_map(|info| &info.nominated);
        nominated.filter(|pod| pod.priority() < priority).cloned().collect()
    }

    /// How the pod was on a node before, if it was and not only assumed to be.
    fn place(&mut self, pod: Arc<PodInfo>, node: String, assumed: bool) -> Option<Arc<PodInfo>> {
        let (stays, was_assumed) = self.pods.get(pod.uid()).map_or((false, false), |placed| (placed.node == node, placed.assumed));
        let before = if stays {
            self.change(&node).replace_pod(&pod);
            self.assumed -= usize::from(was_assumed);
            self.pods.remove(pod.uid()).map(|placed| placed.pod)
        } else {
            let before = self.remove_pod(pod.uid());
            self.change(&node).add_pod(pod.clone());
            before
        };
        self.assumed += usize::from(assumed);
        self.pods.insert(pod.uid().to_owned(), Placed { pod, node, assumed });
        before.filter(|_| !was_assumed)
    }

    fn change(&mut self, name: &str) -> &mut NodeInfo {
        if !self.changed.contains(name) {
            self.changed.insert(name.to_owned());
        }
        Arc::make_mut(self.nodes.entry(name.to_owned()).or_default())
    }

    fn drop_if_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| info.node.is_none() && info.pods.is_empty() && info.nominated.is_empty()) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node, pod};
    use serde_json::json;

    fn snapshot(state: &mut ClusterState) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let names: Vec<String> = state.nodes.keys().cloned().collect();
        state.changed.extend(names);
        state.update(&mut snapshot);
        snapshot
    }

    fn requested(state: &mut ClusterState, node: &str) -> Option<i64> {
        snapshot(state).get(node).map(|info| info.requested.milli_cpu)
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_seen_or_forgotten() {
        let mut state = ClusterState::default();
        state.set_node(node("n1", json!({})));
        state.set_node(node("n2", json!({})));
        let a = pod("a", json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}));
        state.assume(a.clone(), "n1");
        assert_eq!(requested(&mut state, "n1"), Some(1000));
        state.forget(a.uid());
        assert_eq!(requested(&mut state, "n1"), Some(0));

        state.assume(a.clone(), "n1");
        let bound = pod("a", json!({"nodeName": "n2", "containers": [{"resources": {"requests": {"cpu": "1"}}}]}));
        state.set_pod(bound);
        assert_eq!((requested(&mut state, "n1"), requested(&mut state, "n2")), (Some(0), Some(1000)));
        state.forget(a.uid());
        assert_eq!(requested(&mut state, "n2"), Some(1000), "what the API says is not forgotten");
        state.remove_pod(a.uid());
        assert_eq!(requested(&mut state, "n2"), Some(0));
        assert_eq!(state.size(), Size { nodes: 2, pods: 0, assumed: 0 });
    }

    #[test]
    fn a_pod_that_changes_on_its_node_is_told_apart_from_one_that_comes() {
        let mut state = ClusterState::default();
        let there = |cpu: &str| pod("a", json!({"nodeName": "n1", "containers": [{"resources": {"requests": {"cpu": cpu}}}]}));
        state.set_node(node("n1", json!({})));
        state.assume(there("1"), "n1");
        assert!(state.set_pod(there("1")).is_none(), "assumed is not seen");
        assert_eq!(state.set_pod(there("2")).unwrap().requests.milli_cpu, 1000);
        assert_eq!(requested(&mut state, "n1"), Some(2000));
        assert_eq!(state.size(), Size { nodes: 1, pods: 1, assumed: 0 });
    }

    #[test]
    fn promises_reach_the_snapshot_and_are_taken_back() {
        let (mut state, mut snapshot) = (ClusterState::default(), Snapshot::default());
        let promised = |snapshot: &Snapshot, node: &str| snapshot.get(node).map(|info| info.nominated.len());
        state.set_node(node("n1", json!({})));
        state.nominate(pod("a", json!({"priority": 5})), "n1");
        state.update(&mut snapshot);
        assert_eq!(promised(&snapshot, "n1"), Some(1));
        assert_eq!((state.nominated_below("n1", 5).len(), state.nominated_below("n1", 6).len()), (0, 1));
        state.nominate(pod("a", json!({})), "n2");
        state.update(&mut snapshot);
        assert_eq!((promised(&snapshot, "n1"), promised(&snapshot, "n2")), (Some(0), None), "that node is not known yet");
        state.set_node(node("n2", json!({})));
        state.update(&mut snapshot);
        assert_eq!(promised(&snapshot, "n2"), Some(1));
        state.denominate("a");
        state.update(&mut snapshot);
        assert_eq!((promised(&snapshot, "n2"), state.promised("a")), (Some(0), None));
    }

    #[test]
    fn pods_may_come_before_their_node_and_stay_after_it() {
        let (mut state, mut snapshot) = (ClusterState::default(), Snapshot::default());
        state.set_node(node("n1", json!({})));
        state.set_pod(pod("a", json!({"nodeName": "n1", "containers": []})));
        state.set_pod(pod("b", json!({"nodeName": "early", "containers": []})));
        state.update(&mut snapshot);
        assert_eq!(snapshot.get("n1").unwrap().pods.len(), 1);
        assert!(snapshot.get("early").is_none(), "its node is not known yet");
        state.set_node(node("early", json!({})));
        state.remove_node("n1");
        state.update(&mut snapshot);
        assert_eq!(snapshot.get("early").unwrap().pods.len(), 1);
        assert!(snapshot.get("n1").is_none());
    }
}
