//! Endpoints: for every service with a selector an object of the same name that lists the addresses of its pods (upstream: `pkg/controller/endpoint`).
//!
//! Slices have taken their place; these are kept for those who still read them, in one address family and up to a thousand addresses.

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{DeleteOptions, Op, Request, namespace_is_terminating};
use crate::trigger_times::{self, TriggerTimes};
use crate::{children, pods, services};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// Says that there are more addresses than are listed.
const OVER_CAPACITY: (&str, &str) = ("endpoints.kubernetes.io/over-capacity", "truncated");
const CAPACITY: usize = 1000;
/// What holds a lease is not ours, whatever services there are.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Keys are services.
pub struct EndpointsController {
    context: Context,
    services: Arc<Cache<Service>>,
    pods: Arc<Cache<Pod>>,
    endpoints: Arc<Cache<Endpoints>>,
    trigger_times: TriggerTimes,
}

impl EndpointsController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let (services, pods, endpoints) = (context.caches.of(), context.caches.of(), context.caches.of());
        Self { services, pods, endpoints, trigger_times: TriggerTimes::default(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(service) = self.services.get(key) else {
            self.trigger_times.forget(key);
            self.context.executor.send(Request::delete::<Endpoints>(key, &DeleteOptions::default())).await?;
            return Ok(None);
        };
        let Some(selector) = services::selector(&service) else { return Ok(None) };
        let pods = services::pods_of(&service, &selector, &self.pods);
        let since = self.trigger_times.since_last(&service, &pods);
        let Some(request) = plan(&service, &pods, self.endpoints.get(key).as_deref(), since) else { return Ok(None) };
        let creates = request.method == "POST";
        match self.context.executor.send(request).await {
            Ok(_) => Ok(None),
            Err(error) if namespace_is_terminating(&error) => Ok(None),
            Err(error) => {
                let (reason, verb) = if creates { ("FailedToCreateEndpoint", "create") } else { ("FailedToUpdateEndpoint", "update") };
                let message = format!("Failed to {verb} endpoint {key}: {}", children::text(&error));
                if !matches!(&error, kube::Error::Api(status) if status.code == 409) {
                    let about = self.endpoints.get(key).unwrap_or_else(|| Arc::new(new(&service)));
                    self.context.executor.apply(vec![Op::warning(about.as_ref(), reason, message)]).await?;
                }
                Err(error.into())
            }
        }
    }
}

fn new(service: &Service) -> Endpoints {
    let metadata =
        ObjectMeta { namespace: service.metadata.namespace.clone(), name: service.metadata.name.clone(), ..ObjectMeta::default() };
    Endpoints { metadata, subsets: None }
}

/// The address of a pod in the service's first family.
fn address(pod: &Pod, service: &Service) -> Option<EndpointAddress> {
    let family = services::address_types(service)[0];
    // A headless service that says nothing takes what the pod has.
    let any =
        service.spec.as_ref().is_none_or(|spec| spec.ip_families.as_ref().is_none_or(Vec::is_empty)) && !services::has_cluster_ip(service);
    let ip: IpAddr = services::pod_ips(pod).into_iter().find(|ip| any || services::family_of(*ip) == family)?;
    Some(EndpointAddress {
        ip: ip.to_string(),
        hostname: services::hostname(pod, service),
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

fn ports(pod: &Pod, service: &Service) -> Option<Vec<EndpointPort>> {
    let spec = service.spec.as_ref()?;
    let offered = spec.ports.as_deref().unwrap_or_default();
    if offered.is_empty() {
        // Only a headless service needs no ports.
        return services::is_headless(service).then(Vec::new);
    }
    let mut ports: Vec<EndpointPort> = offered
        .iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: port.name.clone().filter(|name| !name.is_empty()),
                port: services::target_port(pod, port)?,
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort_by(|a, b| (a.port, &a.protocol, &a.name).cmp(&(b.port, &b.protocol, &b.name)));
    (!ports.is_empty()).then_some(ports)
}

/// The addresses by the ports they have in common, ready and not.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let all = services::publishes_not_ready(service);
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| services::can_be_endpoint(pod) && (all || !pods::is_terminating(pod))) {
        let (Some(address), Some(ports)) = (address(pod, service), ports(pod, service)) else { continue };
        let key = format!("{ports:?}");
        let subset = by_ports.entry(key).or_insert_with(|| EndpointSubset { ports: some(ports), ..EndpointSubset::default() });
        let list = if all || pods::is_ready(pod) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<_> = by_ports.into_values().collect();
    for list in subsets.iter_mut().flat_map(|subset| [&mut subset.addresses, &mut subset.not_ready_addresses]).flatten() {
        list.sort_by_key(|address| (address.ip.parse::<IpAddr>().ok(), address.target_ref.as_ref().and_then(|target| target.uid.clone())));
    }
    subsets
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Cuts down to the capacity; what is ready comes first. Whether anything had to go.
fn truncate(subsets: &mut Vec<EndpointSubset>) -> bool {
    let mut left = CAPACITY;
    let mut over = false;
    type List = fn(&mut EndpointSubset) -> &mut Option<Vec<EndpointAddress>>;
    let lists: [List; 2] = [|subset| &mut subset.addresses, |subset| &mut subset.not_ready_addresses];
    for list in lists {
        for addresses in subsets.iter_mut().filter_map(|subset| list(subset).as_mut()) {
            over |= addresses.len() > left;
            addresses.truncate(left);
            left -= addresses.len();
        }
    }
    for subset in subsets.iter_mut() {
        subset.addresses = subset.addresses.take().and_then(some);
        subset.not_ready_addresses = subset.not_ready_addresses.take().and_then(some);
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    over
}

/// What has to be written, if anything; then also since when it is to be so.
fn plan(service: &Service, pods: &[Arc<Pod>], present: Option<&Endpoints>, since: Option<Timestamp>) -> Option<Request> {
    let mut wanted = present.cloned().unwrap_or_else(|| new(service));
    let mut subsets = subsets(service, pods);
    let over = truncate(&mut subsets);
    wanted.subsets = some(subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    if services::has_cluster_ip(service) {
        labels.remove(services::HEADLESS);
    } else {
        labels.insert(services::HEADLESS.to_owned(), String::new());
    }
    wanted.metadata.labels = Some(labels);
    let mut annotations = wanted.metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY.0);
    if over {
        annotations.insert(OVER_CAPACITY.0.to_owned(), OVER_CAPACITY.1.to_owned());
    }
    wanted.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    if present == Some(&wanted) {
        return None;
    }
    trigger_times::note(&mut wanted.metadata.annotations, since);
    Some(if present.is_some() { Request::replace(&wanted) } else { Request::create(&wanted) })
}

impl Controller for EndpointsController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.services, keys);
        services::watch_pods(&self.pods, &self.services, keys, self.context.settings.endpoints.endpoints_wait);
        // Those that were left behind while nobody looked.
        for left in self.endpoints.list() {
            if left.metadata.annotations.as_ref().is_none_or(|annotations| !annotations.contains_key(LEADER)) {
                keys.add(ObjectKey::of(left.as_ref()));
            }
        }
        // Also after every write of its own: what it has decided since was on what the cache had before, and a write may be carried out though it failed.
        let (queue, services) = (keys.clone(), self.services.clone());
        self.endpoints.subscribe(move |change| {
            let key = ObjectKey::of(change.object().as_ref());
            if services.get(&key).is_some() {
                queue.add(key);
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s", "labels": {"l": "v"}}, "spec": spec})).unwrap()
    }

    fn pod(name: &str, ip: &str, ready: &str, more: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}});
        for (part, fields) in more.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                pod[part][field] = value.clone();
            }
        }
        Arc::new(held(pod))
    }

    /// Ready and other addresses, by port.
    fn shown(request: &Request) -> Vec<(Vec<i64>, Vec<String>, Vec<String>)> {
        let ips = |list: &Value| {
            list.as_array().into_iter().flatten().map(|address| address["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let subsets = request.body["subsets"].as_array().cloned().unwrap_or_default();
        subsets
            .iter()
            .map(|subset| {
                let ports = subset["ports"].as_array().into_iter().flatten().map(|port| port["port"].as_i64().unwrap()).collect();
                (ports, ips(&subset["addresses"]), ips(&subset["notReadyAddresses"]))
            })
            .collect()
    }

    #[test]
    fn who_is_listed() {
        let spec = json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "selector": {}, "ports": [{"port": 80, "targetPort": "web"}]});
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let pods = [
            pod("b", "10.1.0.2", "True", json!({})),
            pod("a", "10.1.0.1", "True", json!({})),
            pod("unready", "10.1.0.3", "False", json!({})),
            pod("going", "10.1.0.4", "True", going),
            pod("ended", "10.1.0.5", "False", json!({"status": {"phase": "Succeeded"}})),
            pod("other-family", "fd00::1", "True", json!({})),
            pod("no-such-port", "10.1.0.6", "True", json!({"spec": {"containers": []}})),
        ];
        let request = plan(&service(spec.clone()), &pods, None, None).unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(shown(&request), [(vec![8080], vec!["10.1.0.1".into(), "10.1.0.2".into()], vec!["10.1.0.3".into()])]);
        assert_eq!(request.body["metadata"]["labels"], json!({"l": "v", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}));
        let made: Endpoints = serde_json::from_value(request.body).unwrap();
        assert!(plan(&service(spec.clone()), &pods, Some(&made), Some(Timestamp::UNIX_EPOCH)).is_none(), "nothing to do the second time");
        let request = plan(&service(spec.clone()), &pods[1..], Some(&made), Some(Timestamp::UNIX_EPOCH)).unwrap();
        assert_eq!(request.body["metadata"]["annotations"], json!({trigger_times::TRIGGER_TIME: "1970-01-01T00:00:00Z"}));
        let noted: Endpoints = serde_json::from_value(request.body).unwrap();
        assert!(plan(&service(spec.clone()), &pods[1..], Some(&noted), None).is_none(), "the time alone is not worth a write");
        let request = plan(&service(spec.clone()), &pods, Some(&noted), None).unwrap();
        assert_eq!(request.body["metadata"]["annotations"], Value::Null, "a change of which nobody knows since when");

        let mut all = spec;
        all["publishNotReadyAddresses"] = json!(true);
        let request = plan(&service(all), &pods, Some(&made), None).unwrap();
        assert_eq!((request.method, shown(&request)[0].1.len(), shown(&request)[0].2.len()), ("PUT", 4, 0));
    }

    #[test]
    fn headless_needs_no_ports_and_names_its_pods() {
        let named = json!({"spec": {"hostname": "h", "subdomain": "s"}});
        let request =
            plan(&service(json!({"clusterIP": "None", "selector": {}})), &[pod("a", "10.1.0.1", "True", named)], None, None).unwrap();
        let address = &request.body["subsets"][0]["addresses"][0];
        assert_eq!((&address["ip"], &address["hostname"]), (&json!("10.1.0.1"), &json!("h")));
        assert_eq!(request.body["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    }

    #[test]
    fn no_more_than_a_thousand() {
        let spec = json!({"clusterIP": "10.0.0.1", "selector": {}, "ports": [{"port": 80}]});
        let pods: Vec<_> = (0..1002)
            .map(|i| pod(&i.to_string(), &format!("10.1.{}.{}", i / 250, i % 250 + 1), if i < 1 { "False" } else { "True" }, json!({})))
            .collect();
        let request = plan(&service(spec), &pods, None, None).unwrap();
        let subsets = shown(&request);
        assert_eq!((subsets[0].1.len(), subsets[0].2.len()), (1000, 0));
        assert_eq!(request.body["metadata"]["annotations"], json!({"endpoints.kubernetes.io/over-capacity": "truncated"}));
    }
}
