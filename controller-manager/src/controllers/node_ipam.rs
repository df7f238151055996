//! Gives every node networks for its pods, one out of each cluster network (upstream: `pkg/controller/nodeipam/ipam/range_allocator.go`): `spec.podCIDRs`.
//!
//! What is taken is what nodes have, so nothing is kept anywhere else; a node that goes gives its networks back. Networks that overlap the Services' are never given.
//! One worker, so that no two nodes are given the same.

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, PatchKind, Request};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// The networks to give out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Networks {
    /// `--cluster-cidr`: one, or one of each family.
    pub cluster: Vec<IpNet>,
    /// `--service-cluster-ip-range`.
    pub services: Vec<IpNet>,
    /// The length of a node's prefix, by the length of an address in bits (32, 128).
    pub mask: HashMap<u8, u8>,
}

impl Networks {
    /// Checks what upstream checks at the start.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.cluster.is_empty() && self.cluster.len() <= 2, "--cluster-cidr: one network, or one of each family");
        let families: HashSet<u8> = self.cluster.iter().map(IpNet::max_prefix_len).collect();
        anyhow::ensure!(families.len() == self.cluster.len(), "--cluster-cidr: expected one IPv4 and one IPv6 network");
        for network in &self.cluster {
            let mask = self.mask_of(network);
            anyhow::ensure!(
                mask >= network.prefix_len() && mask <= network.max_prefix_len(),
                "--node-cidr-mask-size: a node's network /{mask} does not fit into {network}"
            );
            anyhow::ensure!(mask - network.prefix_len() <= 16, "--cluster-cidr: {network} has more than 65536 networks of /{mask}");
        }
        Ok(())
    }

    fn mask_of(&self, network: &IpNet) -> u8 {
        self.mask.get(&network.max_prefix_len()).copied().unwrap_or(if network.max_prefix_len() == 32 { 24 } else { 64 })
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// What is given out, and to whom.
#[derive(Default)]
struct Pool {
    of_node: HashMap<String, Vec<IpNet>>,
    taken: HashSet<IpNet>,
    /// Networks that somebody else chose for a node, in sizes that are not ours.
    odd: Vec<IpNet>,
}

impl Pool {
    fn take(&mut self, node: &str, networks: Vec<IpNet>, known: &Networks) {
        for network in &networks {
            self.taken.insert(*network);
            if !known.cluster.iter().any(|cluster| cluster.contains(network) && known.mask_of(cluster) == network.prefix_len()) {
                self.odd.push(*network);
            }
        }
        self.of_node.insert(node.to_owned(), networks);
    }

    fn release(&mut self, node: &str) {
        for network in self.of_node.remove(node).into_iter().flatten() {
            self.taken.remove(&network);
            self.odd.retain(|odd| *odd != network);
        }
    }

    /// A free network out of each; `None` if one of them is exhausted.
    fn free(&self, known: &Networks) -> Option<Vec<IpNet>> {
        let free_in = |cluster: &IpNet| {
            let all = cluster.subnets(known.mask_of(cluster)).ok()?;
            let mut free = all.filter(|network| !self.taken.contains(network));
            free.find(|network| !known.services.iter().chain(&self.odd).any(|other| overlap(other, network)))
        };
        known.cluster.iter().map(free_in).collect()
    }
}

fn networks_of(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.clone().unwrap_or_default();
    let listed = spec.pod_cidrs.filter(|listed| !listed.is_empty()).or_else(|| spec.pod_cidr.map(|one| vec![one])).unwrap_or_default();
    listed.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Keys are nodes.
pub struct NodeIpam {
    context: Context,
    networks: Networks,
    nodes: Arc<Cache<Node>>,
    pool: Arc<Mutex<Pool>>,
}

impl NodeIpam {
    /// With the shared caches; `None` if nodes are given no networks.
    pub fn new(context: Context) -> Option<Self> {
        let networks = context.settings.node_networks.clone()?;
        Some(Self { networks, nodes: context.caches.of(), pool: Arc::default(), context })
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(node) = self.nodes.get(key) else { return Ok(None) };
        if !networks_of(&node).is_empty() {
            return Ok(None);
        }
        let given = {
            let mut pool = self.pool.lock();
            let given = pool.of_node.get(&key.name).filter(|given| !given.is_empty()).cloned().or_else(|| pool.free(&self.networks));
            if let Some(given) = &given {
                pool.take(&key.name, given.clone(), &self.networks);
            }
            given
        };
        let Some(given) = given else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.context.executor.apply(vec![Op::normal(node.as_ref(), "CIDRNotAvailable", message)]).await?;
            anyhow::bail!("there are no remaining CIDRs left to allocate in the accepted range");
        };
        let texts: Vec<String> = given.iter().map(IpNet::to_string).collect();
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": texts[0], "podCIDRs": texts}});
        let request = Request::patch::<Node>(key, "", PatchKind::Strategic, patch).tolerating(&[404]);
        Ok(self.context.executor.apply(vec![Op::send(request)]).await?)
    }
}

impl Controller for NodeIpam {
    fn workers(&self) -> usize {
        1
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        let (pool, networks, queue, nodes) = (self.pool.clone(), self.networks.clone(), keys.clone(), Arc::downgrade(&self.nodes));
        // Before any key is worked on: what nodes have is taken.
        self.nodes.subscribe(move |change| {
            let node = change.object();
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let has = networks_of(node);
            let mut pool = pool.lock();
            if matches!(change, Change::Deleted(_)) {
                pool.release(name);
                // Somebody may be waiting for one.
                let waiting = nodes.upgrade().map(|nodes| nodes.list()).unwrap_or_default();
                waiting.iter().filter(|node| networks_of(node).is_empty()).for_each(|node| queue.add(ObjectKey::of(node.as_ref())));
            } else if !has.is_empty() && pool.of_node.get(name) != Some(&has) {
                pool.release(name);
                pool.take(name, has, &networks);
            }
        });
        watch_all(&self.nodes, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(cluster: &[&str], services: &[&str], mask: &[(u8, u8)]) -> Networks {
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Networks { cluster: parsed(cluster), services: parsed(services), mask: mask.iter().copied().collect() }
    }

    #[test]
    fn every_node_gets_its_own() {
        let known = networks(&["10.244.0.0/22", "fd00::/62"], &["10.244.0.0/24"], &[]);
        known.check().unwrap();
        let mut pool = Pool::default();
        let mut seen = Vec::new();
        for name in ["a", "b", "c"] {
            let given = pool.free(&known).unwrap();
            seen.push(given.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","));
            pool.take(name, given, &known);
        }
        assert_eq!(seen, ["10.244.1.0/24,fd00::/64", "10.244.2.0/24,fd00:0:0:1::/64", "10.244.3.0/24,fd00:0:0:2::/64"]);
        assert_eq!(pool.free(&known), None, "the Services' part is never given");
        pool.release("b");
        assert_eq!(pool.free(&known).unwrap()[0].to_string(), "10.244.2.0/24");
        pool.take("odd", vec!["10.244.2.128/25".parse().unwrap()], &known);
        assert_eq!(pool.free(&known), None, "somebody has half of it");
        pool.release("odd");
        assert!(pool.free(&known).is_some());
    }

    #[test]
    fn networks_that_make_no_sense() {
        for (cluster, mask) in [
            (vec![], vec![]),
            (vec!["10.0.0.0/8", "11.0.0.0/8"], vec![]),
            (vec!["10.0.0.0/25"], vec![]),
            (vec!["10.0.0.0/8"], vec![(32, 28)]),
        ] {
            assert!(networks(&cluster, &[], &mask).check().is_err(), "{cluster:?}");
        }
        networks(&["10.0.0.0/8"], &[], &[(32, 24)]).check().unwrap();
    }
}
