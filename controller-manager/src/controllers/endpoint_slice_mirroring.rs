//! Slices for those Endpoints that a user or another controller keeps, so that whoever reads slices sees them too (upstream:
//! `pkg/controller/endpointslicemirroring`): for services without a selector.

use crate::claim::controller_reference;
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::endpoint_slices::{self, BY_SERVICE, Changes, EndpointKey, Group, MANAGED_BY, SERVICE_NAME, Template, ports_key};
use crate::ops::Op;
use crate::services;
use crate::trigger_times::TRIGGER_TIME;
use crate::written::WrittenChildren;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// What holds a lease has no endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations of the Endpoints that say nothing about the slices.
const OWN_ANNOTATIONS: [&str; 2] = [TRIGGER_TIME, "kubectl.kubernetes.io/last-applied-configuration"];

/// Keys are Endpoints, and the services of the same name.
pub struct MirroringController {
    context: Context,
    services: Arc<Cache<Service>>,
    endpoints: Arc<Cache<Endpoints>>,
    slices: Arc<Cache<EndpointSlice>>,
    written: WrittenChildren,
}

impl MirroringController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let slices: Arc<Cache<EndpointSlice>> = context.caches.of();
        slices.add_index(BY_SERVICE, endpoint_slices::index_of);
        Self { services: context.caches.of(), endpoints: context.caches.of(), written: WrittenChildren::default(), slices, context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let mut slices = self.slices.by_index(BY_SERVICE, &endpoint_slices::index_key(key, NAME));
        slices.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        if let Some(wait) = self.written.wait(key, &slices) {
            return Ok(Some(wait));
        }
        let has_none_of_its_own = |service: &Arc<Service>| service.spec.as_ref().is_none_or(|spec| spec.selector.is_none());
        let mirrored = self.services.get(key).filter(has_none_of_its_own).and_then(|_| self.endpoints.get(key));
        let (changes, events) = match mirrored.filter(|endpoints| is_mirrored(endpoints)) {
            Some(endpoints) => plan(&endpoints, &slices, self.context.settings.endpoints.per_subset),
            None => (Changes { delete: slices, ..Changes::default() }, Vec::new()),
        };
        self.context.executor.apply(events).await?;
        endpoint_slices::write(&self.context.executor, &self.written, key, changes).await?;
        Ok(None)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skip = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|skip| skip == "true");
    !skip && endpoints.metadata.annotations.as_ref().is_none_or(|annotations| !annotations.contains_key(LEADER))
}

/// What has to be written, and what to tell of what is not mirrored.
fn plan(endpoints: &Endpoints, slices: &[Arc<EndpointSlice>], capacity: usize) -> (Changes, Vec<Op>) {
    let (mut skipped, mut invalid) = (0, 0);
    let mut by_type: BTreeMap<&'static str, BTreeMap<String, Group>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let lists = [(&subset.addresses, true), (&subset.not_ready_addresses, false)];
        let addresses = lists.into_iter().flat_map(|(list, ready)| list.iter().flatten().map(move |address| (address, ready)));
        skipped += addresses.clone().count().saturating_sub(capacity);
        for (address, ready) in addresses.take(capacity) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            let groups = by_type.entry(services::family_of(ip)).or_default();
            let group = groups.entry(ports_key(&ports)).or_insert_with(|| Group { ports: ports.clone(), ..Group::default() });
            let endpoint = endpoint(address, ready);
            group.endpoints.insert(EndpointKey::of(&endpoint), endpoint);
        }
    }
    let mut changes = Changes::default();
    for address_type in ["IPv4", "IPv6"] {
        let present: Vec<_> = slices.iter().filter(|slice| slice.address_type == address_type).cloned().collect();
        match by_type.remove(address_type) {
            None => changes.delete.extend(present),
            Some(groups) => {
                let packed = template(endpoints, address_type, capacity).pack(groups, &present);
                changes.create.extend(packed.create);
                changes.update.extend(packed.update);
                changes.delete.extend(packed.delete);
            }
        }
    }
    let mut events = Vec::new();
    if invalid > 0 {
        let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        events.push(Op::warning(endpoints, "InvalidIPAddress", message));
    }
    if skipped > 0 {
        let message = format!(
            "A max of {capacity} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        events.push(Op::warning(endpoints, "TooManyAddressesToMirror", message));
    }
    (changes, events)
}

fn template(endpoints: &Endpoints, address_type: &'static str, capacity: usize) -> Template {
    let key = ObjectKey::of(endpoints);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), key.name.clone());
    labels.insert(MANAGED_BY.to_owned(), NAME.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    Template { service: key, labels, annotations, owner: controller_reference(endpoints), address_type, capacity }
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

impl Controller for MirroringController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.services, keys);
        watch_all(&self.endpoints, keys);
        let (queue, controller, wait) = (keys.clone(), self.clone(), self.context.settings.endpoints.mirror_wait);
        self.slices.subscribe(move |change| {
            let slice = change.object();
            let ours = |slice: &Arc<EndpointSlice>| {
                slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == NAME)
            };
            let Some(service) = endpoint_slices::service_of(slice) else { return };
            if let Change::Deleted(slice) = change {
                controller.written.deleted(&service, slice.as_ref());
            }
            if ours(slice) || change.old().is_some_and(ours) {
                queue.add_after(service, wait);
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
    use serde_json::json;

    #[test]
    fn what_a_mirror_shows() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "s", "uid": "u", "labels": {"l": "v"}, "annotations": {
                "a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "subsets": [{
                "addresses": [{"ip": "10.0.0.1", "nodeName": "n"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.0.0.2", "hostname": "h"}],
                "ports": [{"port": 80}]}]}))
        .unwrap();
        let (changes, events) = plan(&endpoints, &[], 1000);
        assert_eq!(events, []);
        let shown: Vec<_> = changes
            .create
            .iter()
            .map(|slice| {
                let endpoints = slice.endpoints.iter().flatten();
                let endpoints: Vec<_> = endpoints.map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready)).collect();
                (slice.address_type.as_str(), endpoints)
            })
            .collect();
        let expected = [("IPv4", vec![("10.0.0.1", Some(true)), ("10.0.0.2", Some(false))]), ("IPv6", vec![("fd00::1", Some(true))])];
        assert_eq!(shown, expected);
        let slice = serde_json::to_value(&changes.create[0]).unwrap();
        assert_eq!(slice["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints");

        let emptied = Endpoints { subsets: None, ..endpoints };
        let mut present = changes.create;
        present[0].metadata.name = Some("x".to_owned());
        assert_eq!(plan(&emptied, &[Arc::new(present.swap_remove(0))], 1000).0.delete.len(), 1);
    }

    #[test]
    fn what_is_left_out_is_told() {
        let addresses: Vec<_> =
            (0..1002).map(|i| json!({"ip": if i == 0 { "none".to_owned() } else { format!("10.0.{}.{}", i / 256, i % 256) }})).collect();
        let subsets = json!([{"addresses": addresses[..1001], "notReadyAddresses": addresses[1001..]}]);
        let endpoints = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "subsets": subsets})).unwrap();
        let (changes, events) = plan(&endpoints, &[], 1000);
        assert_eq!(changes.create[0].endpoints.as_ref().map(Vec::len), Some(999));
        let told: Vec<_> = events
            .iter()
            .map(|op| if let Op::Event { reason, message, .. } = op { (*reason, message.as_str()) } else { ("", "") })
            .collect();
        let expected = [
            ("InvalidIPAddress", "Skipped 1 invalid IP addresses when mirroring to EndpointSlices"),
            (
                "TooManyAddressesToMirror",
                "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 2 addresses were skipped",
            ),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn who_is_not_mirrored() {
        for (metadata, expected) in [
            (json!({}), true),
            (json!({"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}), false),
            (json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}), false),
        ] {
            let endpoints: Endpoints = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            assert_eq!(is_mirrored(&endpoints), expected, "{metadata}");
        }
    }
}
