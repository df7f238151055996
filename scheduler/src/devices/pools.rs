//! Pools of devices, put together from what drivers publish slice by slice.
//!
//! Of a pool only the slices of its newest generation count. It is incomplete while not all of them are there, and invalid where they contradict each
//! other; then no device is taken from it.

use super::DeviceId;
use k8s_openapi::api::core::v1::{Node, NodeSelector};
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A device of a pool.
#[derive(Clone, Debug)]
pub struct PoolDevice {
    /// Which it is.
    pub id: DeviceId,
    /// Its slice in the pool, and its place in that.
    slice: usize,
    index: usize,
}

/// A pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// `driver/pool`.
    pub name: String,
    /// Not all of its slices are there.
    pub incomplete: bool,
    /// Its slices contradict each other.
    pub invalid: bool,
    /// Its slices, by name.
    pub slices: Vec<Arc<ResourceSlice>>,
    /// Its devices, in the slices' order.
    pub devices: Vec<PoolDevice>,
}

/// All pools of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pools: Vec<Pool>,
    /// The pools with slices of one node, by its name.
    local: HashMap<String, Vec<usize>>,
    /// The pools with other slices.
    wide: Vec<usize>,
}

/// Where a device can be used.
pub(super) struct Reach<'a> {
    pub node_name: Option<&'a str>,
    pub all_nodes: bool,
    pub selector: Option<&'a NodeSelector>,
}

impl Reach<'_> {
    fn includes(&self, node: &Node) -> bool {
        match (self.node_name, self.selector) {
            (Some(name), _) => node.metadata.name.as_deref() == Some(name),
            (None, _) if self.all_nodes => true,
            (None, Some(selector)) => selects(selector, node),
            (None, None) => false,
        }
    }
}

/// Whether a node selector includes a node.
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| crate::selector::term_matches(term, node))
}

fn given(name: &Option<String>) -> Option<&str> {
    name.as_deref().filter(|name| !name.is_empty())
}

/// Where a device of a slice can be used.
pub(super) fn reach<'a>(slice: &'a ResourceSlice, device: &'a Device) -> Reach<'a> {
    let spec = &slice.spec;
    let (node_name, all_nodes, selector) = if spec.per_device_node_selection == Some(true) {
        (&device.node_name, device.all_nodes, &device.node_selector)
    } else {
        (&spec.node_name, spec.all_nodes, &spec.node_selector)
    };
    Reach { node_name: given(node_name), all_nodes: all_nodes == Some(true), selector: selector.as_ref() }
}

impl Pool {
    fn of(name: String, mut slices: Vec<Arc<ResourceSlice>>) -> Self {
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut devices = Vec::new();
        for (at, slice) in slices.iter().enumerate() {
            for (index, device) in slice.spec.devices.iter().flatten().enumerate() {
                let (driver, pool) = (slice.spec.driver.clone(), slice.spec.pool.name.clone());
                devices.push(PoolDevice { id: DeviceId { driver, pool, device: device.name.clone() }, slice: at, index });
            }
        }
        let mut pool = Pool { name, slices, devices, ..Pool::default() };
        let wanted = pool.slices.first().map_or(0, |slice| slice.spec.pool.resource_slice_count);
        pool.incomplete = i64::try_from(pool.slices.len()) != Ok(wanted);
        pool.invalid = pool.contradicts();
        pool
    }

    /// Whether a name is given twice, or a device consumes what there is not.
    fn contradicts(&self) -> bool {
        let mut names = HashSet::new();
        let mut sets = HashMap::new();
        let twice = self.slices.iter().flat_map(|s| s.spec.shared_counters.iter().flatten()).any(|s| sets.insert(&s.name, s).is_some());
        let unknown = |device: &Device| {
            device.consumes_counters.iter().flatten().any(|consumed| {
                let set = sets.get(&consumed.counter_set);
                !self.incomplete && set.is_none_or(|set| consumed.counters.keys().any(|name| !set.counters.contains_key(name)))
            })
        };
        twice || self.devices.iter().any(|d| !names.insert(&d.id.device) || unknown(self.device(d)))
    }

    /// The slice of a device.
    pub fn slice(&self, device: &PoolDevice) -> &ResourceSlice {
        &self.slices[device.slice]
    }

    /// A device, as its driver describes it.
    pub fn device(&self, device: &PoolDevice) -> &Device {
        // The places were taken from these very slices.
        &self.slices[device.slice].spec.devices.as_ref().expect("it has the device")[device.index]
    }

    /// Its devices that can be used on a node.
    pub fn on<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a PoolDevice> {
        self.devices.iter().filter(move |device| reach(self.slice(device), self.device(device)).includes(node))
    }

    /// Whether a device of it waits for something after it was chosen; others are better.
    fn binds_later(&self) -> bool {
        self.devices.iter().any(|device| self.device(device).binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty()))
    }
}

impl Pools {
    /// Puts them together. Their order is that in which devices are tried.
    pub fn gather(slices: Vec<Arc<ResourceSlice>>) -> Self {
        let mut by_name: BTreeMap<String, Vec<Arc<ResourceSlice>>> = BTreeMap::new();
        for slice in slices {
            let name = format!("{}/{}", slice.spec.driver, slice.spec.pool.name);
            let known = by_name.entry(name).or_default();
            let newest = known.first().map_or(i64::MIN, |other| other.spec.pool.generation);
            if slice.spec.pool.generation > newest {
                known.clear();
            }
            if slice.spec.pool.generation >= newest {
                known.push(slice);
            }
        }
        let mut pools: Vec<Pool> = by_name.into_iter().map(|(name, slices)| Pool::of(name, slices)).collect();
        pools.sort_by_key(Pool::binds_later);
        let (mut local, mut wide): (HashMap<String, Vec<usize>>, Vec<usize>) = Default::default();
        for (index, pool) in pools.iter().enumerate() {
            let mut nodes = HashSet::new();
            for slice in &pool.slices {
                match given(&slice.spec.node_name) {
                    Some(node) if nodes.insert(Some(node)) => local.entry(node.to_owned()).or_default().push(index),
                    None if nodes.insert(None) => wide.push(index),
                    _ => {}
                }
            }
        }
        Pools { pools, local, wide }
    }

    /// The pools with devices that a node may be able to use.
    pub fn of_node(&self, node: &str) -> Vec<&Pool> {
        let mut indices: Vec<usize> = self.local.get(node).into_iter().flatten().chain(&self.wide).copied().collect();
        indices.sort_unstable();
        indices.dedup();
        indices.into_iter().map(|index| &self.pools[index]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::node;
    use serde_json::json;

    fn slice(name: &str, generation: i64, count: i64, place: serde_json::Value, devices: &[&str]) -> Arc<ResourceSlice> {
        let devices: Vec<_> = devices.iter().map(|name| json!({"name": name})).collect();
        let mut spec =
            json!({"driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": count}, "devices": devices});
        crate::fixtures::merge(&mut spec, place);
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
    }

    #[test]
    fn only_whole_pools_of_the_newest_generation_count() {
        let local = || json!({"nodeName": "n"});
        for (what, slices, expected) in [
            ("one", vec![slice("a", 1, 1, local(), &["x", "y"])], (false, false, vec!["x", "y"])),
            ("newer", vec![slice("a", 1, 1, local(), &["x"]), slice("b", 2, 1, local(), &["y"])], (false, false, vec!["y"])),
            ("part", vec![slice("a", 1, 2, local(), &["x"])], (true, false, vec!["x"])),
            ("both", vec![slice("b", 1, 2, local(), &["y"]), slice("a", 1, 2, local(), &["x"])], (false, false, vec!["x", "y"])),
            ("twice", vec![slice("a", 1, 1, local(), &["x", "x"])], (false, true, vec!["x", "x"])),
        ] {
            let pools = Pools::gather(slices);
            let found = pools.of_node("n");
            let [pool] = found.as_slice() else { panic!("{what}: one pool") };
            let here = node("n", json!({}));
            let names: Vec<_> = pool.on(&here).map(|d| d.id.device.as_str()).collect();
            assert_eq!((pool.incomplete, pool.invalid, names), expected, "{what}");
            assert!(pools.of_node("other").is_empty());
        }
    }

    #[test]
    fn where_devices_can_be_used() {
        let labelled = node("n", json!({"metadata": {"labels": {"zone": "z"}}}));
        let selector = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z"]}]}]});
        let each = json!({"perDeviceNodeSelection": true, "devices": [{"name": "x", "nodeName": "n"}, {"name": "y", "allNodes": true}, {"name": "z", "nodeName": "m"}]});
        for (place, expected) in [
            (json!({"allNodes": true}), vec!["x"]),
            (json!({"nodeSelector": selector}), vec!["x"]),
            (json!({"nodeName": "m"}), vec![]),
            (each, vec!["x", "y"]),
            (json!({}), vec![]),
        ] {
            let pools = Pools::gather(vec![slice("a", 1, 1, place.clone(), &["x"])]);
            let names: Vec<_> = pools.pools[0].on(&labelled).map(|d| d.id.device.as_str()).collect();
            assert_eq!(names, expected, "{place}");
        }
    }
}
