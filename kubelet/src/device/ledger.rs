//! Which devices there are and who has them: values and functions over them (upstream: `pkg/kubelet/cm/devicemanager`, `manager.go` and
//! `pod_devices.go`).
//!
//! What a pod was given is written down, so that the next kubelet gives it to nobody else while the pod runs.

use super::protocol::{ContainerAllocateResponse, Device, HEALTHY};
use crate::{
    container::resources::{self, Amounts},
    pod::restart::is_sidecar,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long the devices of a plugin that is gone still count as the node's, so that a plugin may be updated (upstream: `endpointStopGracePeriod`).
const GONE_FOR_GOOD: SignedDuration = SignedDuration::from_mins(5);

/// The devices of one resource.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// By id, and whether they are healthy.
    devices: BTreeMap<String, bool>,
    /// When its plugin went away, if it did.
    gone: Option<Timestamp>,
}

/// What one container was given of one resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Given {
    /// The devices.
    pub devices: BTreeSet<String>,
    /// The plugin's answer, as it came.
    response: String,
}

impl Given {
    /// These devices, with the plugin's answer.
    pub fn new(devices: BTreeSet<String>, response: &ContainerAllocateResponse) -> Self {
        Given { devices, response: STANDARD.encode(response.encode_to_vec()) }
    }

    /// What the container is to be started with. What cannot be read any more is nothing.
    pub fn response(&self) -> ContainerAllocateResponse {
        let bytes = STANDARD.decode(&self.response).unwrap_or_default();
        ContainerAllocateResponse::decode(bytes.as_slice()).unwrap_or_default()
    }
}

/// By resource.
pub type OfContainer = BTreeMap<String, Given>;
/// By container.
pub type OfPod = BTreeMap<String, OfContainer>;

/// Devices and who has them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    #[serde(skip)]
    resources: BTreeMap<String, Resource>,
    /// By pod.
    pods: BTreeMap<String, OfPod>,
    /// The resources that were ever told of, so that the node says that it has none of them now.
    known: BTreeSet<String>,
}

/// What a container may be given of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// How many it needs.
    pub size: usize,
    /// What an init container of its pod had and needs no more: to be taken first.
    pub reusable: BTreeSet<String>,
    /// What nobody has.
    pub free: BTreeSet<String>,
}

impl Choice {
    /// The devices to give: what is reusable, then what the plugin prefers, then any.
    pub fn pick(&self, preferred: &[String]) -> BTreeSet<String> {
        let preferred = preferred.iter().filter(|id| self.free.contains(*id));
        let mut out = BTreeSet::new();
        for id in self.reusable.iter().chain(preferred).chain(&self.free) {
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
        let devices = devices.iter().map(|d| (d.id.clone(), d.health == HEALTHY)).collect();
        self.known.insert(resource.to_owned());
        self.resources.insert(resource.to_owned(), Resource { devices, gone: None });
    }

    /// A plugin went away: nothing of it is given to anybody until it is back.
    pub fn lose(&mut self, resource: &str, now: Timestamp) {
        if let Some(lost) = self.resources.get_mut(resource) {
            lost.devices.values_mut().for_each(|healthy| *healthy = false);
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
        (all, self.known.iter().map(|name| count(name, |r| r.devices.values().filter(|healthy| **healthy).count())).collect())
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

    /// What the container may be given. The error is upstream's.
    pub fn choice(&self, uid: &str, spec: &PodSpec, container: &str, resource: &str, size: usize) -> Result<Choice, String> {
        let reusable = self.reusable(uid, spec, container, resource);
        let none = Resource::default();
        let devices = &self.resources.get(resource).unwrap_or(&none).devices;
        let taken: BTreeSet<&String> =
            self.pods.values().flat_map(BTreeMap::values).filter_map(|c| c.get(resource)).flat_map(|g| &g.devices).collect();
        let free: BTreeSet<String> =
            devices.iter().filter(|(id, healthy)| **healthy && !taken.contains(id)).map(|(id, _)| id.clone()).collect();
        let needed = size.saturating_sub(reusable.len());
        if needed > free.len() {
            return Err(format!("requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}", free.len()));
        }
        Ok(Choice { size, reusable, free })
    }

    /// What init containers of the pod had, which end before the next begins, and no container that stays has taken over.
    fn reusable(&self, uid: &str, spec: &PodSpec, container: &str, resource: &str) -> BTreeSet<String> {
        let of = |name: &str| {
            self.pods.get(uid).and_then(|pod| pod.get(name)?.get(resource)).map(|given| given.devices.clone()).unwrap_or_default()
        };
        let mut out = BTreeSet::new();
        for other in spec.init_containers.iter().flatten().chain(&spec.containers).take_while(|c| c.name != container) {
            let is_init = spec.init_containers.iter().flatten().any(|c| c.name == other.name);
            if is_init && !is_sidecar(other) {
                out.extend(of(&other.name));
            } else {
                out = &out - &of(&other.name);
            }
        }
        out
    }

    /// The container has these now.
    pub fn give(&mut self, uid: &str, container: &str, resource: &str, given: Given) {
        let pod = self.pods.entry(uid.to_owned()).or_default();
        pod.entry(container.to_owned()).or_default().insert(resource.to_owned(), given);
    }

    /// What a container was given.
    pub fn of(&self, uid: &str, container: &str) -> Option<&OfContainer> {
        self.pods.get(uid)?.get(container)
    }

    /// The devices that can be given out, by resource.
    pub fn healthy(&self) -> BTreeMap<String, Vec<String>> {
        let well = |resource: &Resource| resource.devices.iter().filter(|(_, healthy)| **healthy).map(|(id, _)| id.clone()).collect();
        self.resources.iter().map(|(name, resource)| (name.clone(), well(resource))).collect()
    }

    /// Nothing of the pod runs any more. Answers whether it had anything.
    pub fn release(&mut self, uid: &str) -> bool {
        self.pods.remove(uid).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const R: &str = "example.com/d";

    fn ledger(devices: &[(&str, bool)]) -> Ledger {
        let mut ledger = Ledger::default();
        let device = |(id, well): &(&str, bool)| Device { id: (*id).into(), health: if *well { HEALTHY } else { "Unhealthy" }.into() };
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
        let choice = ledger.choice("u", &spec, "x", R, 1).expect("two are free");
        assert_eq!((choice.pick(&[]), choice.pick(&["b".into()]), choice.pick(&["c".into()])), (set(&["a"]), set(&["b"]), set(&["a"])));
        ledger.give("u", "x", R, Given::new(set(&["a"]), &ContainerAllocateResponse::default()));
        let error = ledger.choice("v", &spec, "x", R, 2).expect_err("one is free");
        assert_eq!(error, "requested number of devices unavailable for example.com/d. Requested: 2, Available: 1");
        assert!(ledger.release("u") && ledger.choice("v", &spec, "x", R, 2).is_ok());
    }

    #[test]
    fn what_an_init_container_had_goes_to_one_container_that_stays() {
        let mut ledger = ledger(&[("a", true), ("b", true)]);
        let spec: PodSpec =
            serde_json::from_value(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "x"}, {"name": "y"}]}))
                .expect("a spec");
        for (container, want) in [("i", "a"), ("j", "a"), ("x", "a"), ("y", "b")] {
            let picked = ledger.choice("u", &spec, container, R, 1).expect("there is one").pick(&[]);
            assert_eq!(picked, set(&[want]), "{container}");
            ledger.give("u", container, R, Given::new(picked, &ContainerAllocateResponse::default()));
        }
    }

    #[test]
    fn the_node_counts_what_is_there_and_what_is_written_survives() {
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
        let response = ContainerAllocateResponse { envs: [("A".to_owned(), "1".to_owned())].into(), ..Default::default() };
        ledger.give("u", "x", R, Given::new(set(&["a"]), &response));
        let text = serde_json::to_string(&ledger).expect("it can be written");
        let read: Ledger = serde_json::from_str(&text).expect("it can be read");
        assert_eq!(read.of("u", "x").expect("given")[R].response(), response);
        assert_eq!(counts(&read, now), ("0".into(), "0".into()), "until its plugin is back");
    }
}
