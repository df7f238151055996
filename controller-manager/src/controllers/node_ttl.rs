//! Tells kubelets by an annotation on their nodes for how long they may keep secrets and ConfigMaps: the longer, the larger the cluster
//! (upstream: `pkg/controller/ttl`).

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, PatchKind, Request};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// From and up to how many nodes, how many seconds. They overlap, so that a cluster at a boundary does not go back and forth.
const STEPS: &[(usize, usize, u32)] = &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// Keys are nodes.
pub struct NodeTtl {
    context: Context,
    nodes: Arc<Cache<Node>>,
    step: Arc<Mutex<usize>>,
}

/// The step for this many nodes, coming from `step`.
fn next_step(mut step: usize, nodes: usize) -> usize {
    while step + 1 < STEPS.len() && nodes > STEPS[step].1 {
        step += 1;
    }
    while step > 0 && nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

fn plan(node: &Node, seconds: u32) -> Option<Op> {
    let text = seconds.to_string();
    let told = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION));
    let patch = json!({"metadata": {"annotations": {ANNOTATION: text}}});
    let request = Request::patch::<Node>(&ObjectKey::of(node), "", PatchKind::Strategic, patch).tolerating(&[404]);
    (told != Some(&text)).then(|| Op::send(request))
}

impl NodeTtl {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { nodes: context.caches.of(), step: Arc::default(), context }
    }
}

impl Controller for NodeTtl {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.nodes, keys);
        let (keys, nodes, step) = (keys.clone(), Arc::downgrade(&self.nodes), self.step.clone());
        self.nodes.subscribe(move |change| {
            let Some(nodes) = nodes.upgrade().filter(|_| !matches!(change, Change::Updated { .. })) else { return };
            let mut step = step.lock();
            let next = next_step(*step, nodes.len());
            if next != *step {
                *step = next;
                nodes.list().iter().for_each(|node| keys.add(ObjectKey::of(node.as_ref())));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let seconds = STEPS[*self.step.lock()].2;
            let ops = self.nodes.get(key).and_then(|node| plan(&node, seconds)).into_iter().collect();
            Ok(self.context.executor.apply(ops).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        for (step, nodes, expected) in
            [(0, 100, 0), (0, 101, 1), (1, 90, 1), (1, 89, 0), (0, 5000, 4), (4, 1800, 4), (4, 10, 0), (2, 600, 2)]
        {
            assert_eq!(next_step(step, nodes), expected, "{step} {nodes}");
        }
    }

    #[test]
    fn told_once() {
        let mut node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        assert!(plan(&node, 15).is_some());
        node.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), "15".to_owned());
        assert_eq!(plan(&node, 15), None);
    }
}
