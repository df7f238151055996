//! The nodes at one moment: what a scheduling cycle looks at, whatever happens meanwhile.
//!
//! Bringing it up to date costs as much as has changed: nodes sit behind `Arc`s, only those touched since are replaced, and what
//! plugins count over all nodes is kept in [`Counters`]. The nodes are arranged so that zones take turns, as upstream's node tree does:
//! where only a part of the nodes is looked at, it is a part of every zone.

use crate::affinity::AffinityTerm;
use crate::counters::{Counters, Counts, Effect, Group, PlacedTerm};
use crate::node_info::NodeInfo;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

type Zone = (String, String);

/// See the module's description.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    positions: HashMap<String, usize>,
    /// The names of the nodes of each zone, in the order in which they came.
    zones: Vec<(Zone, Vec<String>)>,
    disarranged: bool,
    /// Groups are counted when they are first asked for.
    counters: Mutex<Counters>,
}

impl Snapshot {
    /// Of these nodes.
    pub fn new(nodes: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut snapshot = Self::default();
        for node in nodes {
            let name = node.name().to_owned();
            snapshot.set(&name, Some(Arc::new(node)));
        }
        snapshot.arrange();
        snapshot
    }

    /// All nodes, the zones taking turns.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    /// A node by name.
    pub fn get(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.position(name).and_then(|position| self.nodes.get(position))
    }

    /// Where a node is in [`Snapshot::nodes`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// Replaces, adds or removes a node. [`Snapshot::arrange`] has to follow before it is looked at.
    pub fn set(&mut self, name: &str, node: Option<Arc<NodeInfo>>) {
        let position = self.positions.get(name).copied();
        let old = position.map(|position| self.nodes[position].clone());
        self.counters.get_mut().apply(old.as_deref(), node.as_deref());
        let (zone_before, zone) = (old.as_deref().map(zone_of), node.as_deref().map(zone_of));
        if zone_before != zone {
            self.disarranged = true;
            if let Some(before) = zone_before {
                self.leave_zone(&before, name);
            }
            if let Some(zone) = zone {
                match self.zones.iter_mut().find(|(other, _)| *other == zone) {
                    Some((_, names)) => names.push(name.to_owned()),
                    None => self.zones.push((zone, vec![name.to_owned()])),
                }
            }
        }
        match (node, position) {
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

    /// Lets the zones take turns again after nodes have come or gone.
    pub fn arrange(&mut self) {
        if !std::mem::take(&mut self.disarranged) {
            return;
        }
        let mut arranged = Vec::with_capacity(self.nodes.len());
        let longest = self.zones.iter().map(|(_, names)| names.len()).max().unwrap_or(0);
        for turn in 0..longest {
            for name in self.zones.iter().filter_map(|(_, names)| names.get(turn)) {
                if let Some(position) = self.positions.get(name) {
                    arranged.push(self.nodes[*position].clone());
                }
            }
        }
        self.nodes = arranged;
        for (position, node) in self.nodes.iter().enumerate() {
            match self.positions.get_mut(node.name()) {
                Some(place) => *place = position,
                None => drop(self.positions.insert(node.name().to_owned(), position)),
            }
        }
    }

    /// How many pods of a group each node has.
    pub fn per_node(&self, group: &Group) -> Counts {
        self.counters.lock().per_node(group, &self.nodes)
    }

    /// How many pods of a group each domain of a topology has.
    pub fn domains(&self, group: &Group, key: &str) -> Counts {
        self.counters.lock().domains(group, key, &self.nodes)
    }

    /// How many nodes each domain of a topology has.
    pub fn topology(&self, key: &str) -> Counts {
        self.counters.lock().topology(key, &self.nodes)
    }

    /// The terms of placed pods that `wanted` picks.
    pub fn terms(&self, wanted: impl Fn(Effect, &AffinityTerm) -> bool) -> Vec<PlacedTerm> {
        self.counters.lock().terms(wanted)
    }

    /// How many nodes have an image.
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.counters.lock().nodes_with_image(name)
    }

    /// How many placed pods use a claim.
    pub fn claim_users(&self, namespace: &str, name: &str) -> usize {
        self.counters.lock().claim_users(namespace, name)
    }

    fn leave_zone(&mut self, zone: &Zone, name: &str) {
        if let Some(at) = self.zones.iter().position(|(other, _)| other == zone) {
            self.zones[at].1.retain(|other| other != name);
            if self.zones[at].1.is_empty() {
                self.zones.remove(at);
            }
        }
    }
}

fn zone_of(node: &NodeInfo) -> Zone {
    let label = |key| node.label(key).unwrap_or_default().to_owned();
    (label(REGION), label(ZONE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::node_info;
    use serde_json::json;

    #[test]
    fn zones_take_turns() {
        let in_zone = |name: &str, zone: &str| node_info(name, json!({"metadata": {"labels": {ZONE: zone}}}), &[]);
        let mut snapshot =
            Snapshot::new([in_zone("a1", "a"), in_zone("a2", "a"), in_zone("a3", "a"), in_zone("b1", "b"), in_zone("c1", "c")]);
        let names = |snapshot: &Snapshot| snapshot.nodes().iter().map(|node| node.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&snapshot), ["a1", "b1", "c1", "a2", "a3"]);
        snapshot.set("a1", None);
        snapshot.set("b1", Some(Arc::new(in_zone("b1", "c"))));
        snapshot.arrange();
        assert_eq!(names(&snapshot), ["a2", "c1", "a3", "b1"]);
        assert!(snapshot.nodes().iter().enumerate().all(|(position, node)| snapshot.position(node.name()) == Some(position)));
    }
}
