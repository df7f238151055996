//! What one try found out about the nodes, for the next pod that is like it: replicas ask the same of every node, and a node that has not changed
//! since gives the same answer (upstream has equal pods scheduled in a batch for this, KEP-5598).
//!
//! An answer is recognised by the node's place and by being about the very same [`NodeInfo`]: whatever happens on a node makes a new one. Only of filters that
//! look at nothing else ([`crate::framework::Plugin::looks_at_node_only`]) can answers be kept. It holds one answer per node, for one kind of pod.

use crate::framework::Verdict;
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::preemption::Trial;
use crate::resources::Resources;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

/// See the module's description.
#[derive(Default)]
pub struct Memory {
    subject: Option<Subject>,
    /// Counts the subjects; answers to earlier ones are left where they are until there are newer ones.
    turn: u64,
    nodes: Vec<Option<Answer>>,
}

/// The kind of pod that the answers are about.
struct Subject {
    pod: Arc<Pod>,
    requests: Resources,
}

impl Subject {
    fn is_like(&self, pod: &PodInfo) -> bool {
        self.requests == pod.requests && (Arc::ptr_eq(&self.pod, &pod.pod) || self.pod.spec == pod.pod.spec)
    }
}

struct Answer {
    turn: u64,
    node: Arc<NodeInfo>,
    /// Room on the node is promised to others than the pod that asked: one of those would get another answer.
    is_promised: bool,
    verdict: Verdict,
    trial: Option<Arc<Trial>>,
}

impl Memory {
    /// From now on it is about this pod; answers to a pod unlike it are forgotten.
    pub fn turn_to(&mut self, pod: &PodInfo) {
        if !self.subject.as_ref().is_some_and(|subject| subject.is_like(pod)) {
            self.subject = Some(Subject { pod: pod.pod.clone(), requests: pod.requests.clone() });
            self.turn += 1;
        }
    }

    /// What the filters say of the node at this place.
    pub fn verdict(&self, position: usize, node: &Arc<NodeInfo>, pod: &PodInfo) -> Option<&Verdict> {
        self.answer(position, node, pod).map(|answer| &answer.verdict)
    }

    /// Remembers it.
    pub fn remember(&mut self, position: usize, node: &Arc<NodeInfo>, pod: &PodInfo, verdict: &Verdict) {
        if is_promised_to(node, pod) {
            return;
        }
        if self.nodes.len() <= position {
            self.nodes.resize_with(position + 1, || None);
        }
        let is_promised = !node.nominated.is_empty();
        self.nodes[position] = Some(Answer { turn: self.turn, node: node.clone(), is_promised, verdict: verdict.clone(), trial: None });
    }

    /// What preemption on the node at this place would come to.
    pub fn trial(&self, position: usize, node: &Arc<NodeInfo>, pod: &PodInfo) -> Option<Arc<Trial>> {
        self.answer(position, node, pod)?.trial.clone()
    }

    /// Remembers that beside the filters' verdict, if that is remembered.
    pub fn remember_trial(&mut self, position: usize, node: &Arc<NodeInfo>, trial: &Arc<Trial>) {
        let answer = self.nodes.get_mut(position).and_then(Option::as_mut);
        if let Some(answer) = answer.filter(|answer| answer.turn == self.turn && Arc::ptr_eq(&answer.node, node)) {
            answer.trial = Some(trial.clone());
        }
    }

    fn answer(&self, position: usize, node: &Arc<NodeInfo>, pod: &PodInfo) -> Option<&Answer> {
        let answer = self.nodes.get(position)?.as_ref()?;
        let is_same = answer.turn == self.turn && Arc::ptr_eq(&answer.node, node);
        (is_same && !(answer.is_promised && is_promised_to(node, pod))).then_some(answer)
    }
}

fn is_promised_to(node: &NodeInfo, pod: &PodInfo) -> bool {
    node.nominated.iter().any(|other| other.uid() == pod.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{node_info, pod};
    use crate::framework::Rejection;
    use serde_json::json;

    #[test]
    fn only_the_same_node_answers_and_only_to_pods_alike() {
        let asking = |name: &str, cpu: &str| pod(name, json!({"containers": [{"resources": {"requests": {"cpu": cpu}}}]}));
        let (first, alike, unlike) = (asking("a", "1"), asking("b", "1"), asking("c", "2"));
        let (node, same) = (Arc::new(node_info("n", json!({}), &[])), Arc::new(node_info("n", json!({}), &[])));
        let mut memory = Memory::default();
        memory.turn_to(&first);
        memory.remember(0, &node, &first, &Err(Rejection::unschedulable("full")));
        let recall = |memory: &mut Memory, node: &Arc<NodeInfo>, position, pod: &PodInfo| {
            memory.turn_to(pod);
            memory.verdict(position, node, pod).is_some()
        };
        assert!(recall(&mut memory, &node, 0, &alike));
        assert!(!recall(&mut memory, &same, 0, &alike), "it has changed");
        assert!(!recall(&mut memory, &node, 1, &alike), "elsewhere");
        assert!(!recall(&mut memory, &node, 0, &unlike));
        assert!(!recall(&mut memory, &node, 0, &first), "answers to others are in between");
    }

    #[test]
    fn a_pod_that_room_is_promised_to_is_not_answered_as_others() {
        let (owner, other, third) = (pod("a", json!({})), pod("b", json!({})), pod("c", json!({})));
        let node = Arc::new(NodeInfo { nominated: vec![owner.clone()], ..node_info("n", json!({}), &[]) });
        let mut memory = Memory::default();
        memory.turn_to(&owner);
        memory.remember(0, &node, &owner, &Ok(()));
        assert!(memory.verdict(0, &node, &other).is_none(), "what the owner is told is for nobody else");
        memory.remember(0, &node, &other, &Err(Rejection::unschedulable("full")));
        assert!(memory.verdict(0, &node, &third).is_some());
        assert!(memory.verdict(0, &node, &owner).is_none());
    }
}
