//! The nodes at one moment: what a scheduling cycle looks at, whatever happens meanwhile.
//!
//! Taking one costs as much as has changed since the last: nodes sit behind `Arc`s, and only those touched since are replaced.

use crate::node_info::NodeInfo;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module's description.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    positions: HashMap<String, usize>,
}

impl Snapshot {
    /// Of these nodes.
    pub fn new(nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut snapshot = Self::default();
        for node in nodes {
            let name = node.name().to_owned();
            snapshot.set(&name, Some(Arc::new(node)));
        }
        snapshot
    }

    /// All nodes, in the order in which they came, but that a removed node's place is taken by the last.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    /// A node by name.
    pub fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.positions.get(name).and_then(|position| self.nodes.get(*position))
    }

    /// Replaces, adds or removes a node.
    pub fn set(&mut self, name: &str, node: Option<Arc<NodeInfo>>) {
        match (node, self.positions.get(name).copied()) {
            (Some(node), Some(position)) => self.nodes[position] = node,
            (Some(node), None) => {
                self.positions.insert(name.to_owned(), self.nodes.len());
                self.nodes.push(node);
            }
            (None, Some(position)) => {
                self.positions.remove(name);
                self.nodes.swap_remove(position);
                if let Some(moved) = self.nodes.get(position) {
                    self.positions.insert(moved.name().to_owned(), position);
                }
            }
            (None, None) => {}
        }
    }
}
