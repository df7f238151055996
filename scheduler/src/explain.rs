//! Why a pod can or cannot run on each node: what `kubectl why` shows. Every filter is asked, not only up to the first that refuses.

use crate::framework::{Context, CycleState, Point, PreFilter, Rejection};
use crate::listers::Listers;
use crate::node_info::NodeInfo;
use crate::plugins::PluginSet;
use crate::pod_info::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::HashMap;
use std::sync::Arc;

pub use crate::plugins::{Shortage, shortages};

/// What the filters say of one node.
#[derive(Clone, Debug)]
pub struct NodeVerdict {
    /// The node's name.
    pub node: String,
    /// Every refusal; none if the pod can run there.
    pub rejections: Vec<Rejection>,
    /// By how much resources are missing.
    pub shortages: Vec<Shortage>,
}

/// Asks every filter about every node. `pods` are all pods of the cluster; the pod itself is left out wherever it is. `listers` is everything else;
/// [`crate::listers::Nothing`] leaves out what volumes and the namespaces' labels have to say.
pub fn explain(pod: &Pod, nodes: &[Node], pods: &[Pod], listers: &dyn Listers) -> Vec<NodeVerdict> {
    let subject = PodInfo::new(Arc::new(pod.clone()));
    let mut infos: HashMap<String, NodeInfo> = HashMap::new();
    for node in nodes {
        infos.insert(node.metadata.name.clone().unwrap_or_default(), NodeInfo::new(Arc::new(node.clone()), []));
    }
    for other in pods {
        let other = PodInfo::new(Arc::new(other.clone()));
        if other.is_finished() || other.uid() == subject.uid() {
            continue;
        }
        if let Some(info) = other.node_name().and_then(|name| infos.get_mut(name)) {
            info.add_pod(Arc::new(other));
        }
    }
    let names = nodes.iter().filter_map(|node| node.metadata.name.as_deref());
    let ordered = names.filter_map(|name| infos.remove(name));
    let snapshot = Snapshot::new(ordered);
    let context = Context { snapshot: &snapshot, listers };
    let plugins = PluginSet::default();
    let mut cycle = CycleState::default();
    let (mut of_all, mut skipped) = (Vec::new(), Vec::new());
    for plugin in plugins.at(Point::PreFilter) {
        match plugin.pre_filter(&mut cycle, &subject, &context) {
            Ok(PreFilter::Skip) => skipped.push(plugin.name()),
            Ok(_) => {}
            Err(rejection) => of_all.push(rejection.by(plugin.name())),
        }
    }
    let judge = |node: &Arc<NodeInfo>| {
        let asked = plugins.at(Point::Filter).filter(|plugin| {
            // What has refused the pod as such has not remembered what its filter needs.
            !skipped.contains(&plugin.name()) && !of_all.iter().any(|rejection| rejection.plugin == plugin.name())
        });
        let refused = asked.filter_map(|plugin| {
            let rejection = plugin.filter(&cycle, &subject, node, &context).err()?;
            Some(rejection.by(plugin.name()))
        });
        NodeVerdict {
            node: node.name().to_owned(),
            rejections: of_all.iter().cloned().chain(refused).collect(),
            shortages: shortages(&subject, node),
        }
    };
    snapshot.nodes().iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use serde_json::json;

    #[test]
    fn every_reason_is_told() {
        let nodes = [
            fixtures::node("n1", json!({"spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]}})),
            fixtures::node("n2", json!({})),
        ]
        .map(|node| (*node).clone());
        let there = fixtures::pod("b", json!({"nodeName": "n1", "containers": [{"resources": {"requests": {"cpu": "3"}}}]}));
        let pod = fixtures::pod("a", json!({"containers": [{"resources": {"requests": {"cpu": "2"}}}]}));
        let verdicts = explain(&pod.pod, &nodes, &[(*there.pod).clone()], &crate::listers::Nothing);
        let plugins: Vec<_> = verdicts[0].rejections.iter().map(|rejection| rejection.plugin).collect();
        assert_eq!(plugins, ["NodeUnschedulable", "TaintToleration", "NodeResourcesFit"]);
        assert_eq!(verdicts[0].shortages, [Shortage { resource: "cpu".into(), requested: 2000, used: 3000, capacity: 4000 }]);
        assert!(verdicts[1].rejections.is_empty());
    }
}
