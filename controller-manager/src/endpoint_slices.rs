//! Packing endpoints into slices, so that a change of one endpoint changes one slice (upstream: `k8s.io/endpointslice`), and remembering what was
//! written, so that nobody packs anew from a cache that has not seen it yet.
//!
//! What is where stays where it is; new endpoints go where something has to be written anyway, then into the slice that they fill best, and only then
//! into a new one. Slices are never merged for the sake of merging.

use crate::ops::{DeleteOptions, Executor, Request, namespace_is_terminating};
use crate::trigger_times::{self, TRIGGER_TIME};
use crate::written::WrittenChildren;
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The label that names a slice's service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names a slice's controller.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// What bounds Endpoints and their slices, and how long changes of pods wait for others before they show there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Endpoints of a slice (`--max-endpoints-per-slice`).
    pub per_slice: usize,
    /// Addresses of a subset that are mirrored (`--mirroring-max-endpoints-per-subset`).
    pub per_subset: usize,
    /// The wait before Endpoints (`--endpoint-updates-batch-period`).
    pub endpoints_wait: Duration,
    /// The wait before EndpointSlices (`--endpointslice-updates-batch-period`).
    pub slices_wait: Duration,
    /// The wait before a change of a mirrored one is looked at (`--mirroring-endpointslice-updates-batch-period`).
    pub mirror_wait: Duration,
}

impl Default for Limits {
    /// Upstream's.
    fn default() -> Self {
        let none = Duration::ZERO;
        Self { per_slice: 100, per_subset: 1000, endpoints_wait: none, slices_wait: none, mirror_wait: none }
    }
}

/// What all slices of one service and address type have in common.
pub struct Template {
    /// The service's namespace and name.
    pub service: ObjectKey,
    /// Labels, those that name service and controller among them.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Who owns the slices.
    pub owner: OwnerReference,
    /// `IPv4`, `IPv6`.
    pub address_type: &'static str,
    /// How many endpoints fit into a slice.
    pub capacity: usize,
}

/// The endpoints that belong into slices of their own, because they have these ports.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The ports.
    pub ports: Vec<EndpointPort>,
    /// The endpoints by what makes two the same.
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
}

/// What makes two endpoints the same one: address and what it is an address of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey {
    addresses: Vec<String>,
    target: Option<(Option<String>, Option<String>)>,
}

impl EndpointKey {
    /// An endpoint's.
    pub fn of(endpoint: &Endpoint) -> Self {
        let target = |target: &ObjectReference| (target.namespace.clone(), target.name.clone());
        Self { addresses: endpoint.addresses.clone(), target: endpoint.target_ref.as_ref().map(target) }
    }
}

/// Ports in one order, as the key of a [`Group`].
pub fn ports_key(ports: &[EndpointPort]) -> String {
    let mut ports: Vec<_> = ports.iter().map(|port| (&port.name, &port.protocol, port.port, &port.app_protocol)).collect();
    ports.sort();
    format!("{ports:?}")
}

/// What has to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// New slices, named by the server.
    pub create: Vec<EndpointSlice>,
    /// Slices with new content.
    pub update: Vec<EndpointSlice>,
    /// Slices that nobody needs.
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Changes {
    /// Notes since when everything that is written is to be as it will be.
    pub fn since(&mut self, time: Option<Timestamp>) {
        for slice in self.create.iter_mut().chain(&mut self.update) {
            trigger_times::note(&mut slice.metadata.annotations, time);
        }
    }

    fn extend(&mut self, more: Changes) {
        self.create.extend(more.create);
        self.update.extend(more.update);
        self.delete.extend(more.delete);
    }
}

impl Template {
    /// An empty slice.
    fn slice(&self, ports: &[EndpointPort]) -> EndpointSlice {
        let metadata = ObjectMeta {
            namespace: Some(self.service.namespace.clone()),
            generate_name: Some(format!("{}-", self.service.name)),
            labels: Some(self.labels.clone()),
            annotations: some_map(&self.annotations),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        };
        EndpointSlice { metadata, address_type: self.address_type.to_owned(), ports: Some(ports.to_vec()), endpoints: None }
    }

    fn dress(&self, slice: &mut EndpointSlice) -> bool {
        // Since when a slice is what it is was true when it was written.
        let own = slice.metadata.annotations.iter().flatten().filter(|(key, _)| *key != TRIGGER_TIME);
        let dressed = slice.metadata.labels.as_ref() == Some(&self.labels) && own.eq(&self.annotations);
        slice.metadata.labels = Some(self.labels.clone());
        slice.metadata.annotations = some_map(&self.annotations);
        !dressed
    }

    /// What turns the present slices of this address type into slices of these groups. One slice is left even if there are no endpoints, so that
    /// readers can tell that from not knowing yet.
    pub fn pack(&self, groups: BTreeMap<String, Group>, present: &[Arc<EndpointSlice>]) -> Changes {
        let mut by_ports: BTreeMap<String, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in present {
            by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice.clone());
        }
        let mut changes = Changes::default();
        for (key, group) in groups {
            changes.extend(self.pack_group(group, by_ports.remove(&key).unwrap_or_default()));
        }
        changes.delete.extend(by_ports.into_values().flatten());
        if changes.delete.len() == present.len() && changes.create.is_empty() {
            let placeholder = self.slice(&[]);
            let is_placeholder = |slice: &EndpointSlice| {
                count(slice) == 0 && slice.ports.as_ref().is_none_or(Vec::is_empty) && !self.dress(&mut slice.clone())
            };
            match changes.delete.iter().position(|slice| is_placeholder(slice)) {
                Some(position) => drop(changes.delete.swap_remove(position)),
                None => changes.create.push(placeholder),
            }
        }
        // A slice that has to go takes the content of one that would have to be made.
        while !changes.create.is_empty() && !changes.delete.is_empty() {
            if let (Some(new), Some(old)) = (changes.create.pop(), changes.delete.pop()) {
                changes.update.push(EndpointSlice {
                    metadata: ObjectMeta { labels: new.metadata.labels, annotations: new.metadata.annotations, ..old.metadata.clone() },
                    ..new
                });
            }
        }
        changes
    }

    fn pack_group(&self, mut group: Group, present: Vec<Arc<EndpointSlice>>) -> Changes {
        let mut changes = Changes::default();
        let mut unchanged = Vec::new();
        for old in present {
            let mut slice = old.as_ref().clone();
            let mut touched = false;
            let kept: Vec<Endpoint> = slice
                .endpoints
                .take()
                .into_iter()
                .flatten()
                .filter_map(|endpoint| {
                    let wanted = group.endpoints.remove(&EndpointKey::of(&endpoint));
                    touched |= wanted.as_ref() != Some(&endpoint);
                    wanted
                })
                .collect();
            let empty = kept.is_empty();
            slice.endpoints = Some(kept);
            touched |= self.dress(&mut slice);
            match (empty, touched) {
                (true, _) => changes.delete.push(old),
                (false, true) => changes.update.push(slice),
                (false, false) => unchanged.push(slice),
            }
        }
        let mut left = std::mem::take(&mut group.endpoints).into_values().collect::<std::collections::VecDeque<_>>();
        let fill = |slice: &mut EndpointSlice, left: &mut std::collections::VecDeque<Endpoint>| {
            let room = self.capacity.saturating_sub(count(slice)).min(left.len());
            slice.endpoints.get_or_insert_default().extend(left.drain(..room));
        };
        changes.update.sort_by_key(|slice| std::cmp::Reverse(count(slice)));
        for slice in &mut changes.update {
            fill(slice, &mut left);
        }
        while !left.is_empty() {
            let fits = |slice: &&mut EndpointSlice| count(slice) + left.len() <= self.capacity;
            let best = unchanged.iter_mut().filter(fits).max_by_key(|slice| count(slice)).map(|slice| slice.metadata.name.clone());
            match best.and_then(|name| unchanged.iter().position(|slice| slice.metadata.name == name)) {
                Some(position) => {
                    let mut slice = unchanged.swap_remove(position);
                    fill(&mut slice, &mut left);
                    changes.update.push(slice);
                }
                None => {
                    let mut slice = self.slice(&group.ports);
                    fill(&mut slice, &mut left);
                    changes.create.push(slice);
                }
            }
        }
        changes
    }
}

fn some_map(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// Carries changes out and remembers them.
pub async fn write(executor: &Executor, written: &WrittenChildren, service: &ObjectKey, changes: Changes) -> Result<(), kube::Error> {
    let requests = changes.create.iter().map(Request::create).chain(changes.update.iter().map(Request::replace));
    for request in requests {
        match executor.send(request).await {
            Ok(answer) => written.note(service, &answer),
            Err(error) if namespace_is_terminating(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    for slice in changes.delete {
        let uid = slice.metadata.uid.clone();
        let options = DeleteOptions { uid: uid.clone(), ..DeleteOptions::default() };
        executor.send(Request::delete::<EndpointSlice>(&ObjectKey::of(slice.as_ref()), &options).tolerating(&[404, 409])).await?;
        written.note_deletion(service, uid.as_deref().unwrap_or_default());
    }
    Ok(())
}

/// The index of slices by service and controller.
pub const BY_SERVICE: &str = "service";

/// How a slice is found in the index: its namespace, service and controller.
pub fn index_key(service: &ObjectKey, managed_by: &str) -> String {
    format!("{service} {managed_by}")
}

/// The index's function.
pub fn index_of(slice: &EndpointSlice) -> Vec<String> {
    let label = |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let managed_by = label(MANAGED_BY).map(String::as_str).unwrap_or_default();
    service_of(slice).map(|service| index_key(&service, managed_by)).into_iter().collect()
}

/// The service that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(capacity: usize) -> Template {
        Template {
            service: ObjectKey::new("ns", "s"),
            labels: BTreeMap::from([(SERVICE_NAME.to_owned(), "s".to_owned())]),
            annotations: BTreeMap::new(),
            owner: OwnerReference::default(),
            address_type: "IPv4",
            capacity,
        }
    }

    fn group(port: i32, addresses: std::ops::Range<usize>) -> BTreeMap<String, Group> {
        let ports = vec![EndpointPort { port: Some(port), ..EndpointPort::default() }];
        let endpoint = |i| Endpoint { addresses: vec![format!("10.0.{}.{}", i / 256, i % 256)], ..Endpoint::default() };
        let endpoints = addresses.map(endpoint).map(|endpoint| (EndpointKey::of(&endpoint), endpoint)).collect();
        BTreeMap::from([(ports_key(&ports), Group { ports, endpoints })])
    }

    /// Applies changes as a server would.
    fn apply(present: Vec<Arc<EndpointSlice>>, changes: Changes, next: &mut usize) -> Vec<Arc<EndpointSlice>> {
        let gone: Vec<_> = changes.delete.iter().map(|slice| slice.metadata.name.clone()).collect();
        let mut slices: Vec<_> = present
            .into_iter()
            .filter(|slice| !gone.contains(&slice.metadata.name))
            .map(|slice| changes.update.iter().find(|new| new.metadata.name == slice.metadata.name).cloned().map_or(slice, Arc::new))
            .collect();
        for mut slice in changes.create {
            *next += 1;
            slice.metadata.name = Some(format!("s-{next}"));
            slices.push(Arc::new(slice));
        }
        slices
    }

    fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        slices.iter().map(|slice| count(slice)).collect()
    }

    #[test]
    fn packing_writes_as_little_as_it_can() {
        let template = template(100);
        let mut next = 0;
        let mut slices = Vec::new();
        for (what, wanted, writes, expected) in [
            ("a placeholder", BTreeMap::new(), (1, 0, 0), vec![0]),
            ("the same again", BTreeMap::new(), (0, 0, 0), vec![0]),
            ("the placeholder is filled", group(80, 0..50), (0, 1, 0), vec![50]),
            ("more than fits", group(80, 0..250), (2, 0, 0), vec![50, 100, 100]),
            ("one gone", group(80, 1..250), (0, 1, 0), vec![49, 100, 100]),
            ("one more, where it fits best", group(80, 1..251), (0, 1, 0), vec![50, 100, 100]),
            ("half of them gone", group(80, 150..251), (0, 3, 0), vec![1, 50, 50]),
            ("other ports", group(81, 150..251), (0, 2, 1), vec![100, 1]),
            ("nothing left", BTreeMap::new(), (0, 1, 1), vec![0]),
        ] {
            let changes = template.pack(wanted, &slices);
            let made = (changes.create.len(), changes.update.len(), changes.delete.len());
            slices = apply(slices, changes, &mut next);
            let (mut shown, mut expected) = (sizes(&slices), expected);
            shown.sort_unstable();
            expected.sort_unstable();
            assert_eq!((made, shown), (writes, expected), "{what}");
        }
    }

    #[test]
    fn new_labels_are_written() {
        let mut next = 0;
        let slices = apply(Vec::new(), template(100).pack(group(80, 0..3), &[]), &mut next);
        let mut relabelled = template(100);
        relabelled.labels.insert("a".to_owned(), "b".to_owned());
        let changes = relabelled.pack(group(80, 0..3), &slices);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
        assert_eq!(changes.update[0].metadata.labels.as_ref().unwrap()["a"], "b");
    }

    #[test]
    fn what_is_written_says_since_when_and_is_not_written_for_that() {
        let mut next = 0;
        let mut changes = template(100).pack(group(80, 0..3), &[]);
        changes.since(Some(Timestamp::UNIX_EPOCH));
        let slices = apply(Vec::new(), changes, &mut next);
        assert_eq!(slices[0].metadata.annotations.as_ref().unwrap()[TRIGGER_TIME], "1970-01-01T00:00:00Z");
        assert_eq!(template(100).pack(group(80, 0..3), &slices), Changes::default());
        let mut changes = template(100).pack(group(80, 0..4), &slices);
        changes.since(None);
        assert_eq!(changes.update[0].metadata.annotations, None);
    }
}
