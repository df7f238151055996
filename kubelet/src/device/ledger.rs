//! Which devices there are and who has them: values and functions over them (upstream: `pkg/kubelet/cm/devicemanager`, `manager.go` and
//! `pod_devices.go`).
//!
//! What a pod was given is written down, so that the next kubelet gives it to nobody else while the pod runs.

use super::protocol::{ContainerAllocateResponse, Device, HEALTHY};
use crate::{
    container::resources::{self, Amounts},
    topology_manager::{
        self,
        hint::{self, Hint},
        mask::Mask,
    },
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// How long the devices of a plugin that is gone still count as the node's, so that a plugin may be updated (upstream: `endpointStopGracePeriod`).
const GONE_FOR_GOOD: SignedDuration = SignedDuration::from_mins(5);

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    healthy: bool,
    /// The NUMA nodes it is near to, where its plugin says something of that.
    near: Option<Vec<i64>>,
}

impl Known {
    /// Whether it is near to one of the nodes.
    fn is_near(&self, mask: Mask) -> bool {
        self.near.iter().flatten().any(|node| u32::try_from(*node).is_ok_and(|node| mask.has(node)))
    }
}

/// The devices of one resource.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// By id.
    devices: BTreeMap<String, Known>,
    /// When its plugin went away, if it did.
    gone: Option<Timestamp>,
}

/// Where devices are that no NUMA node is nearer to than others, in the file.
const ANYWHERE: i64 = -1;

/// What one container was given of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The devices by the NUMA nodes that they are near to.
    pub by_node: BTreeMap<i64, BTreeSet<String>>,
    /// The plugin's answer, as it came.
    pub response: Vec<u8>,
}

impl Given {
    /// The devices.
    pub fn devices(&self) -> BTreeSet<String> {
        self.by_node.values().flatten().cloned().collect()
    }

    /// What the container is to be started with. What cannot be read any more is nothing.
    pub fn response(&self) -> ContainerAllocateResponse {
        ContainerAllocateResponse::decode(self.response.as_slice()).unwrap_or_default()
    }
}

/// By resource.
pub type OfContainer = BTreeMap<String, Given>;
/// By container.
pub type OfPod = BTreeMap<String, OfContainer>;

/// Devices and who has them.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    resources: BTreeMap<String, Resource>,
    /// By pod.
    pub pods: BTreeMap<String, OfPod>,
    /// The resources that were ever told of, so that the node says that it has none of them now.
    pub known: BTreeSet<String>,
}

/// What a container may be given of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// How many it needs.
    pub size: usize,
    /// What an init container of its pod had and needs no more: to be taken first.
    pub reusable: BTreeSet<String>,
    /// What nobody has, near to where the container goes.
    pub near: BTreeSet<String>,
    /// What nobody has elsewhere.
    pub far: BTreeSet<String>,
    /// What nobody has and is nowhere.
    pub anywhere: BTreeSet<String>,
}

impl Choice {
    /// The devices that are surely given, and those that the others are chosen from: what is near, if there is enough of it, else all.
    pub fn asked(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut must: BTreeSet<String> = self.reusable.iter().take(self.size).cloned().collect();
        if self.size - must.len() < self.near.len() {
            return (must, self.near.clone());
        }
        must.extend(self.near.iter().cloned());
        (must, self.far.union(&self.anywhere).cloned().collect())
    }

    /// The devices to give: what is surely given, then what the plugin prefers of those that it was asked of, then any.
    pub fn pick(&self, preferred: &[String]) -> BTreeSet<String> {
        let (mut out, among) = self.asked();
        let preferred = preferred.iter().filter(|id| among.contains(*id));
        for id in preferred.chain(&self.near).chain(&self.far).chain(&self.anywhere) {
            if out.len() < self.size {
                out.insert(id.clone());
            }
        }
        out
    }
}

impl Ledger {
    /// A plugin told of all its devices.
    pub fn tell(&mut self, resource: &str, devices: &[Device]) {
        let near = |device: &Device| Some(device.topology.as_ref()?.nodes.iter().map(|node| node.id).collect());
        let devices = devices.iter().map(|d| (d.id.clone(), Known { healthy: d.health == HEALTHY, near: near(d) })).collect();
        self.known.insert(resource.to_owned());
        self.resources.insert(resource.to_owned(), Resource { devices, gone: None });
    }

    /// A plugin went away: nothing of it is given to anybody until it is back.
    pub fn lose(&mut self, resource: &str, now: Timestamp) {
        if let Some(lost) = self.resources.get_mut(resource) {
            lost.devices.values_mut().for_each(|device| device.healthy = false);
            lost.gone = Some(now);
        }
    }

    /// What the node has of each resource, and what of it is healthy.
    pub fn amounts(&self, now: Timestamp) -> (Amounts, Amounts) {
        let count = |resource: &String, counts: fn(&Resource) -> usize| {
            let there = self.resources.get(resource).filter(|r| r.gone.is_none_or(|at| now.duration_since(at) < GONE_FOR_GOOD));
            (resource.clone(), Quantity(there.map_or(0, counts).to_string()))
        };
        let all = self.known.iter().map(|name| count(name, |r| r.devices.len())).collect();
        (all, self.known.iter().map(|name| count(name, |r| r.devices.values().filter(|device| device.healthy).count())).collect())
    }

    /// Whether a plugin gives this resource out.
    pub fn gives(&self, resource: &str) -> bool {
        self.resources.contains_key(resource)
    }

    /// What a container needs of resources that plugins give out, in the resources' order.
    pub fn needs(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.iter().flat_map(|r| r.limits.iter().flatten()).filter(|(name, _)| self.gives(name));
        let counted =
            limits.map(|(name, amount)| (name.clone(), resources::whole(amount).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)));
        counted.filter(|(_, size)| *size > 0).collect()
    }

    /// What nobody has of a resource.
    fn free(&self, resource: &str) -> BTreeMap<&String, &Known> {
        let taken: BTreeSet<String> =
            self.pods.values().flat_map(BTreeMap::values).filter_map(|c| c.get(resource)).flat_map(Given::devices).collect();
        let devices = self.resources.get(resource).into_iter().flat_map(|r| &r.devices);
        devices.filter(|(id, device)| device.healthy && !taken.contains(*id)).collect()
    }

    /// Whether it matters to somebody where the devices of a resource are.
    fn is_placed(&self, resource: &str) -> bool {
        self.resources.get(resource).is_some_and(|r| r.devices.values().any(|device| device.near.is_some()))
    }

    /// What the container may be given, where it goes to these nodes. The error is upstream's.
    pub fn choice(
        &self,
        uid: &str,
        spec: &PodSpec,
        container: &str,
        (resource, size): (&str, usize),
        affinity: Option<Mask>,
    ) -> Result<Choice, String> {
        let reusable = self.reusable(uid, spec, container, resource);
        let free = self.free(resource);
        let needed = size.saturating_sub(reusable.len());
        if needed > free.len() {
            return Err(format!("requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}", free.len()));
        }
        let mut choice = Choice { size, reusable, ..Default::default() };
        let affinity = affinity.filter(|_| self.is_placed(resource));
        for (id, device) in free {
            let list = match affinity {
                Some(mask) if device.is_near(mask) => &mut choice.near,
                Some(_) if device.near.as_ref().is_some_and(|near| !near.is_empty()) => &mut choice.far,
                _ => &mut choice.anywhere,
            };
            list.insert(id.clone());
        }
        Ok(choice)
    }

    /// What init containers of the pod had, which end before the next begins, and no container that stays has taken over.
    fn reusable(&self, uid: &str, spec: &PodSpec, container: &str, resource: &str) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for (other, ended) in topology_manager::before(spec, container) {
            let had = self.of(uid, &other.name).and_then(|given| Some(given.get(resource)?.devices())).unwrap_or_default();
            out = if ended { &out | &had } else { &out - &had };
        }
        out
    }

    /// Where so many devices of a resource can be taken from, for a container that is given something before it gets there, or for a pod (without
    /// `container`); nothing where it does not matter. `nodes` are the machine's.
    pub fn hints(
        &self,
        nodes: &[u32],
        uid: &str,
        spec: &PodSpec,
        container: Option<&str>,
        (resource, size): (&str, usize),
    ) -> Option<Vec<Hint>> {
        if !self.is_placed(resource) {
            return None;
        }
        let all = &self.resources.get(resource)?.devices;
        let has = match container {
            Some(container) => self.of(uid, container).and_then(|given| given.get(resource)).map(Given::devices).unwrap_or_default(),
            None => {
                self.pods.get(uid).into_iter().flat_map(BTreeMap::values).filter_map(|c| c.get(resource)).flat_map(Given::devices).collect()
            }
        };
        let (from, with) = match container {
            _ if has.len() == size => (has, BTreeSet::new()),
            Some(_) if !has.is_empty() => return Some(Vec::new()),
            Some(container) => (self.free(resource).into_keys().cloned().collect(), self.reusable(uid, spec, container, resource)),
            None => (self.free(resource).into_keys().cloned().collect(), has),
        };
        if (&from | &with).len() < size {
            return Some(Vec::new());
        }
        let near = |ids: &BTreeSet<String>, mask| ids.iter().filter_map(|id| all.get(id)).filter(|device| device.is_near(mask)).count();
        let placed = with.iter().filter_map(|id| all.get(id)).filter(|device| device.near.is_some()).count();
        let every = all.keys().cloned().collect();
        Some(hint::hints(
            nodes,
            |mask| near(&every, mask) >= size,
            |mask| near(&with, mask) == placed && near(&(&from | &with), mask) >= size,
        ))
    }

    /// The container has these devices now, with the plugin's answer.
    pub fn give(&mut self, uid: &str, container: &str, resource: &str, devices: &BTreeSet<String>, response: &ContainerAllocateResponse) {
        let mut given = Given { response: response.encode_to_vec(), ..Default::default() };
        for id in devices {
            for node in self.near(resource, id) {
                given.by_node.entry(node).or_default().insert(id.clone());
            }
        }
        let pod = self.pods.entry(uid.to_owned()).or_default();
        pod.entry(container.to_owned()).or_default().insert(resource.to_owned(), given);
    }

    /// What a container was given.
    pub fn of(&self, uid: &str, container: &str) -> Option<&OfContainer> {
        self.pods.get(uid)?.get(container)
    }

    /// The nodes that a device is near to, or that it is nowhere.
    fn near(&self, resource: &str, id: &str) -> Vec<i64> {
        let near = self.resources.get(resource).and_then(|r| r.devices.get(id)?.near.clone());
        near.filter(|near| !near.is_empty()).unwrap_or_else(|| vec![ANYWHERE])
    }

    /// The devices that can be given out, by resource and the nodes they are near to.
    pub fn healthy(&self) -> BTreeMap<String, BTreeMap<i64, BTreeSet<String>>> {
        let mut out: BTreeMap<String, BTreeMap<i64, BTreeSet<String>>> = BTreeMap::new();
        for (name, resource) in &self.resources {
            let nodes = out.entry(name.clone()).or_default();
            for (id, _) in resource.devices.iter().filter(|(_, device)| device.healthy) {
                for node in self.near(name, id) {
                    nodes.entry(node).or_default().insert(id.clone());
                }
            }
        }
        out
    }

    /// The healthy devices of every resource that was ever told of.
    pub fn registered(&self) -> BTreeMap<String, Vec<String>> {
        let well = |r: &Resource| r.devices.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id.clone()).collect();
        self.known.iter().map(|name| (name.clone(), self.resources.get(name).map(well).unwrap_or_default())).collect()
    }

    /// Nothing of the pod runs any more. Answers whether it had anything.
    pub fn release(&mut self, uid: &str) -> bool {
        self.pods.remove(uid).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::protocol::{NumaNode, TopologyInfo};
    use serde_json::json;

    const R: &str = "example.com/d";

    fn ledger(devices: &[(&str, bool)]) -> Ledger {
        let mut ledger = Ledger::default();
        let device = |(id, well): &(&str, bool)| Device {
            id: (*id).into(),
            health: if *well { HEALTHY } else { "Unhealthy" }.into(),
            topology: None,
        };
        ledger.tell(R, &devices.iter().map(device).collect::<Vec<_>>());
        ledger
    }

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn only_healthy_free_devices_are_given() {
        let mut ledger = ledger(&[("a", true), ("b", true), ("c", false)]);
        let spec: PodSpec = serde_json::from_value(json!({"containers": [{"name": "x"}]})).expect("a spec");
        let choice = ledger.choice("u", &spec, "x", (R, 1), None).expect("two are free");
        assert_eq!((choice.pick(&[]), choice.pick(&["b".into()]), choice.pick(&["c".into()])), (set(&["a"]), set(&["b"]), set(&["a"])));
        ledger.give("u", "x", R, &set(&["a"]), &ContainerAllocateResponse::default());
        let error = ledger.choice("v", &spec, "x", (R, 2), None).expect_err("one is free");
        assert_eq!(error, "requested number of devices unavailable for example.com/d. Requested: 2, Available: 1");
        assert!(ledger.release("u") && ledger.choice("v", &spec, "x", (R, 2), None).is_ok());
    }

    #[test]
    fn what_an_init_container_had_goes_to_one_container_that_stays() {
        let mut ledger = ledger(&[("a", true), ("b", true)]);
        let spec: PodSpec =
            serde_json::from_value(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "x"}, {"name": "y"}]}))
                .expect("a spec");
        for (container, want) in [("i", "a"), ("j", "a"), ("x", "a"), ("y", "b")] {
            let picked = ledger.choice("u", &spec, container, (R, 1), None).expect("there is one").pick(&[]);
            assert_eq!(picked, set(&[want]), "{container}");
            ledger.give("u", container, R, &picked, &ContainerAllocateResponse::default());
        }
    }

    #[test]
    fn the_node_counts_what_is_there() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut ledger = ledger(&[("a", true), ("b", false)]);
        let counts = |ledger: &Ledger, at: Timestamp| {
            let (all, healthy) = ledger.amounts(at);
            (all[R].0.clone(), healthy[R].0.clone())
        };
        assert_eq!(counts(&ledger, now), ("2".into(), "1".into()));
        ledger.lose(R, now);
        assert_eq!(counts(&ledger, now), ("2".into(), "0".into()));
        assert_eq!(counts(&ledger, now + GONE_FOR_GOOD), ("0".into(), "0".into()));
    }

    /// Devices `a` and `b` near to node 0, `c` to node 1, `d` to both, `e` to none.
    fn placed() -> Ledger {
        let device = |id: &str, nodes: Option<&[i64]>| Device {
            id: id.into(),
            health: HEALTHY.into(),
            topology: nodes.map(|nodes| TopologyInfo { nodes: nodes.iter().map(|id| NumaNode { id: *id }).collect() }),
        };
        let mut ledger = Ledger::default();
        let all = [("a", Some(&[0][..])), ("b", Some(&[0])), ("c", Some(&[1])), ("d", Some(&[0, 1])), ("e", None)];
        ledger.tell(R, &all.map(|(id, nodes)| device(id, nodes)));
        ledger
    }

    #[test]
    fn devices_are_told_and_taken_by_the_nodes_they_are_near_to() {
        let mut ledger = placed();
        let spec: PodSpec = serde_json::from_value(json!({"containers": [{"name": "x"}]})).expect("a spec");
        let hints = |ledger: &Ledger, size| -> Vec<(String, bool)> {
            let list = ledger.hints(&[0, 1], "u", &spec, Some("x"), (R, size)).expect("they are placed");
            list.iter().map(|hint| (hint.affinity.expect("nodes").to_string(), hint.preferred)).collect()
        };
        let [zero, one, both] = ["0", "1", "0,1"].map(str::to_owned);
        assert_eq!(hints(&ledger, 2), [(zero.clone(), true), (one.clone(), true), (both.clone(), false)]);
        assert_eq!(hints(&ledger, 3), [(zero.clone(), true), (both.clone(), false)]);
        assert_eq!(hints(&ledger, 6), []);
        let pick = |ledger: &Ledger, size, preferred: &[String]| {
            let choice = ledger.choice("u", &spec, "x", (R, size), Some([1].into_iter().collect())).expect("there are as many");
            choice.pick(preferred)
        };
        assert_eq!(pick(&ledger, 1, &["d".into()]), set(&["d"]), "the plugin chooses among what is near");
        assert_eq!(pick(&ledger, 1, &["a".into()]), set(&["c"]));
        assert_eq!(pick(&ledger, 3, &["b".into()]), set(&["b", "c", "d"]), "and elsewhere when that is not enough");
        assert_eq!(pick(&ledger, 5, &[]), set(&["a", "b", "c", "d", "e"]));
        ledger.give("u", "x", R, &set(&["c", "d", "e"]), &ContainerAllocateResponse::default());
        let given = &ledger.of("u", "x").expect("given")[R].by_node;
        assert_eq!(*given, BTreeMap::from([(-1, set(&["e"])), (0, set(&["d"])), (1, set(&["c", "d"]))]));
        assert_eq!(ledger.hints(&[0, 1], "v", &spec, Some("x"), (R, 2)).expect("placed").len(), 2, "two are left, of node 0");
        assert!(super::tests::ledger(&[("a", true)]).hints(&[0, 1], "v", &spec, Some("x"), (R, 1)).is_none());
    }
}
