//! EndpointSlices: for every service with a selector the endpoints of its pods, in slices of a hundred, by address family and by ports
//! (upstream: `pkg/controller/endpointslice`, `k8s.io/endpointslice`).
//!
//! Hints follow `trafficDistribution`, or the zones' shares of the cluster ([`topology_hints`]).

use crate::claim::controller_reference;
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::endpoint_slices::{self, BY_SERVICE, Changes, EndpointKey, Group, MANAGED_BY, SERVICE_NAME, Template, ports_key};
use crate::ops::{Op, is_conflict};
use crate::topology_hints::{self, Shares, ZONE};
use crate::trigger_times::TriggerTimes;
use crate::written::WrittenChildren;
use crate::{children, pods, services};
use anyhow::anyhow;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// As what it labels its slices.
pub const NAME: &str = "endpointslice-controller.k8s.io";

/// Keys are services.
pub struct EndpointSliceController {
    context: Context,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    nodes: Arc<Cache<Node>>,
    slices: Arc<Cache<EndpointSlice>>,
    written: WrittenChildren,
    trigger_times: TriggerTimes,
    /// Services whose hints follow the zones' shares.
    by_share: Mutex<HashSet<ObjectKey>>,
}

/// What the cluster has for one service.
#[derive(Clone, Copy)]
struct State<'a> {
    service: &'a Service,
    pods: &'a [Arc<Pod>],
    slices: &'a [Arc<EndpointSlice>],
    /// The zone of a node; the outer `None` if there is no such node.
    zone: &'a dyn Fn(&str) -> Option<Option<String>>,
    /// The zones' shares of the cluster, as far as the service asks for them and they are known.
    shares: Option<&'a Shares>,
    /// Whether its hints have followed them so far.
    was_by_share: bool,
    /// How many endpoints a slice holds.
    capacity: usize,
}

/// What has to be done for one service.
#[derive(Debug, Default)]
struct Plan {
    changes: Changes,
    /// Which pods had to be left out for want of their nodes.
    lost: Vec<String>,
    /// Whether hints follow the zones' shares now.
    by_share: bool,
    /// What to tell.
    events: Vec<Op>,
}

impl EndpointSliceController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let slices: Arc<Cache<EndpointSlice>> = context.caches.of();
        slices.add_index(BY_SERVICE, endpoint_slices::index_of);
        Self {
            services: context.caches.of(),
            pods: context.caches.of(),
            nodes: context.caches.of(),
            written: WrittenChildren::default(),
            trigger_times: TriggerTimes::default(),
            by_share: Mutex::default(),
            slices,
            context,
        }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        // The slices of a service that is gone are the garbage collector's.
        let Some(service) = self.services.get(key) else {
            self.written.forget(key);
            self.trigger_times.forget(key);
            self.by_share.lock().remove(key);
            return Ok(None);
        };
        let Some(selector) = services::selector(&service) else { return Ok(None) };
        let mut slices = self.slices.by_index(BY_SERVICE, &endpoint_slices::index_key(key, NAME));
        slices.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        if let Some(wait) = self.written.wait(key, &slices) {
            return Ok(Some(wait));
        }
        let zone = |node: &str| {
            let node = self.nodes.get(&ObjectKey::new("", node))?;
            Some(node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned())
        };
        let pods = services::pods_of(&service, &selector, &self.pods);
        let shares = topology_hints::is_asked_for(&service).then(|| topology_hints::shares(&self.nodes.list())).flatten();
        let was_by_share = self.by_share.lock().remove(key);
        let capacity = self.context.settings.endpoints.per_slice;
        let Plan { mut changes, lost, by_share, events } =
            plan(&State { service: &service, pods: &pods, slices: &slices, zone: &zone, shares: shares.as_ref(), was_by_share, capacity });
        if by_share {
            self.by_share.lock().insert(key.clone());
        }
        self.context.executor.apply(events).await?;
        changes.since(self.trigger_times.since_last(&service, &pods));
        let written = endpoint_slices::write(&self.context.executor, &self.written, key, changes).await;
        let error = match (written, lost.first()) {
            (Ok(()), None) => return Ok(None),
            (Ok(()), Some(problem)) => anyhow!("{problem}"),
            (Err(error), _) => error.into(),
        };
        if !is_conflict(&error) {
            let why = error.downcast_ref().map_or_else(|| error.to_string(), children::text);
            let message = format!("Error updating Endpoint Slices for Service {key}: {why}");
            self.context.executor.apply(vec![Op::warning(service.as_ref(), "FailedToUpdateEndpointSlices", message)]).await?;
        }
        Err(error)
    }
}

fn plan(state: &State) -> Plan {
    let types = services::address_types(state.service);
    let Plan { mut changes, mut lost, mut by_share, mut events } = Plan::default();
    let of_type =
        |address_type: &str| -> Vec<_> { state.slices.iter().filter(|slice| slice.address_type == address_type).cloned().collect() };
    changes.delete.extend(state.slices.iter().filter(|slice| !types.contains(&slice.address_type.as_str())).cloned());
    for address_type in types {
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for pod in state.pods.iter().filter(|pod| services::can_be_endpoint(pod)) {
            let zone = match pods::node_name(pod).map(|node| (node, (state.zone)(node))) {
                Some((node, None)) => {
                    if !services::publishes_not_ready(state.service) {
                        let (pod, service) = (ObjectKey::of(pod.as_ref()), ObjectKey::of(state.service));
                        lost.push(format!("skipping Pod {:?} for Service {service}: Node {node:?} Not Found", pod.name));
                    }
                    continue;
                }
                Some((_, Some(zone))) => zone,
                None => None,
            };
            let endpoint = endpoint(pod, state.service, address_type, zone);
            if endpoint.addresses.is_empty() {
                continue;
            }
            let ports = ports(pod, state.service);
            let group = groups.entry(ports_key(&ports)).or_insert_with(|| Group { ports, ..Group::default() });
            group.endpoints.insert(EndpointKey::of(&endpoint), endpoint);
        }
        let present = of_type(address_type);
        let endpoints = groups.values_mut().flat_map(|group| group.endpoints.values_mut()).collect();
        let told = by_shares(state, &present, endpoints);
        by_share |= told.as_ref().is_some_and(Result::is_ok);
        events.extend(told.and_then(|told| tell(state, address_type, told)));
        let packed = template(state.service, address_type, state.capacity).pack(groups, &present);
        changes.create.extend(packed.create);
        changes.update.extend(packed.update);
        changes.delete.extend(packed.delete);
    }
    Plan { changes, lost, by_share, events }
}

/// Gives endpoints their hints by the zones' shares, if the service asks for that; as the error why that cannot be. `None`: it does not, and did not.
fn by_shares(state: &State, present: &[Arc<EndpointSlice>], endpoints: Vec<&mut Endpoint>) -> Option<Result<(), String>> {
    if !topology_hints::is_asked_for(state.service) {
        return state.was_by_share.then(|| Err("Topology Aware Hints has been disabled".to_owned()));
    }
    let zone = |endpoint: &Endpoint| endpoint.hints.as_ref()?.for_zones.as_ref()?.first().map(|zone| zone.name.clone());
    let all = present.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let before: BTreeMap<EndpointKey, String> = all.filter_map(|endpoint| Some((EndpointKey::of(endpoint), zone(endpoint)?))).collect();
    Some(topology_hints::assign(state.shares, endpoints, |endpoint| before.get(&EndpointKey::of(endpoint)).cloned()))
}

/// That hints follow the zones' shares from now on is news, and that they cannot.
fn tell(state: &State, address_type: &str, outcome: Result<(), String>) -> Option<Op> {
    match outcome {
        Ok(()) if state.was_by_share => None,
        Ok(()) => {
            let message = format!("Topology Aware Hints has been enabled, addressType: {address_type}");
            Some(Op::normal(state.service, "TopologyAwareHintsEnabled", message))
        }
        Err(why) => Some(Op::warning(state.service, "TopologyAwareHintsDisabled", format!("{why}, addressType: {address_type}"))),
    }
}

fn template(service: &Service, address_type: &'static str, capacity: usize) -> Template {
    let key = ObjectKey::of(service);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(services::HEADLESS);
    if !services::has_cluster_ip(service) {
        labels.insert(services::HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), key.name.clone());
    labels.insert(MANAGED_BY.to_owned(), NAME.to_owned());
    Template { service: key, labels, annotations: BTreeMap::new(), owner: controller_reference(service), address_type, capacity }
}

fn ports(pod: &Pod, service: &Service) -> Vec<EndpointPort> {
    let offered = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    offered
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(services::target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(pod: &Pod, service: &Service, address_type: &str, zone: Option<String>) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let ready = services::publishes_not_ready(service) || (serving && !terminating);
    let node_name = pods::node_name(pod).map(str::to_owned);
    let ips = services::pod_ips(pod).into_iter().filter(|ip| services::family_of(*ip) == address_type);
    Endpoint {
        addresses: ips.map(|ip| ip.to_string()).collect(),
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
        hints: if ready { hints(service, zone.as_deref(), node_name.as_deref()) } else { None },
        hostname: services::hostname(pod, service),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        deprecated_topology: None,
    }
}

/// For whom an endpoint is meant, as the service's `trafficDistribution` wants it.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    if topology_hints::is_asked_for(service) {
        return None;
    }
    let nodes_too = match service.spec.as_ref()?.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let for_zones = zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let for_nodes = node.filter(|_| nodes_too).map(|name| vec![ForNode { name: name.to_owned() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

impl Controller for EndpointSliceController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.services, keys);
        services::watch_pods(&self.pods, &self.services, keys, self.context.settings.endpoints.slices_wait);
        let (queue, services) = (keys.clone(), Arc::downgrade(&self.services));
        self.nodes.subscribe(move |change| {
            let unchanged = change.old().is_some_and(|old| topology_hints::part(old) == topology_hints::part(change.object()));
            let services = services.upgrade().filter(|_| !unchanged).map(|services| services.list()).unwrap_or_default();
            for service in services.iter().filter(|service| topology_hints::is_asked_for(service)) {
                queue.add(ObjectKey::of(service.as_ref()));
            }
        });
        let (queue, controller) = (keys.clone(), self.clone());
        self.slices.subscribe(move |change| {
            let slice = change.object();
            let Some(service) = endpoint_slices::service_of(slice) else { return };
            if let Change::Deleted(slice) = change {
                controller.written.deleted(&service, slice.as_ref());
            }
            if [Some(slice), change.old()].into_iter().flatten().any(|slice| is_ours(slice)) {
                queue.add(service);
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s", "uid": "u", "labels": {"l": "v"}}, "spec": spec}))
            .unwrap()
    }

    fn pod(name: &str, ips: &[&str], ready: &str, node: &str, going: bool) -> Arc<Pod> {
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let mut pod = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": ready}]}});
        if going {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(held(pod))
    }

    fn planned(service: &Service, pods: &[Arc<Pod>]) -> (Changes, Vec<String>) {
        let zone = |node: &str| (node == "n").then(|| Some("z".to_owned()));
        let Plan { changes, lost, .. } =
            plan(&State { service, pods, slices: &[], zone: &zone, shares: None, was_by_share: false, capacity: 100 });
        (changes, lost)
    }

    #[test]
    fn conditions() {
        let spec = json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"port": 80}]});
        for (ready, going, publish, expected) in [
            ("True", false, false, (true, true, false)),
            ("False", false, false, (false, false, false)),
            ("True", true, false, (false, true, true)),
            ("False", true, false, (false, false, true)),
            ("False", true, true, (true, false, true)),
        ] {
            let mut spec = spec.clone();
            spec["publishNotReadyAddresses"] = json!(publish);
            let (changes, _) = planned(&service(spec), &[pod("p", &["10.1.0.1"], ready, "n", going)]);
            let conditions = changes.create[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
            assert_eq!(
                (conditions.ready, conditions.serving, conditions.terminating),
                (Some(expected.0), Some(expected.1), Some(expected.2))
            );
        }
    }

    #[test]
    fn a_slice_for_each_family() {
        let dual = service(json!({"clusterIP": "None", "ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 80, "name": "web"}]}));
        let (changes, _) = planned(&dual, &[pod("p", &["10.1.0.1", "fd00::1"], "True", "n", false)]);
        let shown: Vec<_> = changes
            .create
            .iter()
            .map(|slice| (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap()[0].addresses.join(",")))
            .collect();
        assert_eq!(shown, [("IPv4", "10.1.0.1".to_owned()), ("IPv6", "fd00::1".to_owned())]);
        let slice = serde_json::to_value(&changes.create[0]).unwrap();
        assert_eq!(
            slice["metadata"]["labels"],
            json!({
                "l": "v", "kubernetes.io/service-name": "s", "service.kubernetes.io/headless": "",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
        );
        assert_eq!(
            (&slice["metadata"]["generateName"], &slice["metadata"]["ownerReferences"][0]["kind"]),
            (&json!("s-"), &json!("Service"))
        );
        assert_eq!(slice["ports"], json!([{"name": "web", "port": 80, "protocol": "TCP"}]));
        assert_eq!(slice["endpoints"][0]["zone"], "z");
    }

    #[test]
    fn a_pod_whose_node_is_gone_is_left_out() {
        let spec = json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"port": 80}]});
        let (changes, lost) = planned(&service(spec), &[pod("p", &["10.1.0.1"], "True", "gone", false)]);
        assert_eq!(lost, [r#"skipping Pod "p" for Service ns/s: Node "gone" Not Found"#]);
        assert_eq!(changes.create[0].endpoints, None);
    }

    #[test]
    fn hints_follow_the_traffic_distribution() {
        for (distribution, ready, expected) in [
            (json!(null), "True", json!(null)),
            (json!("PreferClose"), "True", json!({"forZones": [{"name": "z"}]})),
            (json!("PreferSameZone"), "False", json!(null)),
            (json!("PreferSameNode"), "True", json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]})),
        ] {
            let spec =
                json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"port": 80}], "trafficDistribution": distribution});
            let (changes, _) = planned(&service(spec), &[pod("p", &["10.1.0.1"], ready, "n", false)]);
            let slice = serde_json::to_value(&changes.create[0]).unwrap();
            assert_eq!(slice["endpoints"][0]["hints"], expected, "{distribution}");
        }
    }

    #[test]
    fn hints_follow_the_zones_shares_if_asked_to() {
        let shares = Shares::from([("y".to_owned(), 0.5), ("z".to_owned(), 0.5)]);
        let pods: Vec<_> = (1..=2).map(|i| pod(&format!("p{i}"), &[&format!("10.1.0.{i}")], "True", "n", false)).collect();
        let spec = json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"port": 80}], "trafficDistribution": "PreferClose"});
        let mut auto = service(spec);
        auto.metadata.annotations = Some([("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned())].into());
        let zone = |_: &str| Some(Some("z".to_owned()));
        let state =
            State { service: &auto, pods: &pods, slices: &[], zone: &zone, shares: Some(&shares), was_by_share: false, capacity: 100 };
        let told = |plan: &Plan| match &plan.events[..] {
            [Op::Event { message, .. }] => message.clone(),
            other => format!("{} events", other.len()),
        };
        let hints = |slice: &EndpointSlice| {
            let endpoints = slice.endpoints.iter().flatten();
            endpoints.map(|endpoint| json!(endpoint.hints)["forZones"][0]["name"].clone()).collect::<Vec<Value>>()
        };
        let first = plan(&state);
        assert_eq!((first.by_share, told(&first).as_str()), (true, "Topology Aware Hints has been enabled, addressType: IPv4"));
        let mut slice = first.changes.create[0].clone();
        slice.metadata.name = Some("slice".to_owned());
        assert_eq!(hints(&slice), ["y", "z"]);

        let slices = [Arc::new(slice)];
        let again = plan(&State { slices: &slices, was_by_share: true, ..state });
        assert_eq!((again.by_share, again.events.len(), again.changes), (true, 0, Changes::default()));
        let alone = plan(&State { slices: &slices, was_by_share: true, pods: &pods[..1], ..state });
        let why = "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv4";
        assert_eq!((alone.by_share, told(&alone).as_str(), hints(&alone.changes.update[0])), (false, why, vec![json!(null)]));
        let plain = Service {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta { annotations: None, ..auto.metadata.clone() },
            ..auto.clone()
        };
        let back = plan(&State { service: &plain, slices: &slices, was_by_share: true, ..state });
        assert_eq!((back.by_share, told(&back).as_str()), (false, "Topology Aware Hints has been disabled, addressType: IPv4"));
        assert_eq!(hints(&back.changes.update[0]), ["z", "z"]);
    }
}
