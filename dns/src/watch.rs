//! From the watches to the index: one Service, one Service's slices or one namespace at a time.

use crate::resolver::Resolver;
use client::{Cache, Change, ObjectKey, SharedCaches};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::sync::{Arc, Weak};

/// The index of slices by the Service they belong to.
const BY_SERVICE: &str = "service";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Keeps the resolver's index as the caches are.
pub fn follow(caches: &SharedCaches, resolver: &Arc<Resolver>) {
    let (services, namespaces, slices) = (caches.of::<Service>(), caches.of::<Namespace>(), caches.of::<EndpointSlice>());
    let into = resolver.clone();
    services.subscribe(move |change| {
        let service = change.object();
        let present = (!matches!(change, Change::Deleted(_))).then_some(service.as_ref());
        into.index.write().set_service(&ObjectKey::of(service.as_ref()), present);
    });
    let into = resolver.clone();
    namespaces.subscribe(move |change| {
        let name = change.object().metadata.name.as_deref().unwrap_or_default();
        into.index.write().set_namespace(name, !matches!(change, Change::Deleted(_)));
    });
    slices.add_index(BY_SERVICE, |slice| service_of(slice).iter().map(ObjectKey::to_string).collect());
    // The cache holds its subscribers: one that held the cache would keep both for ever.
    let (into, all): (_, Weak<Cache<EndpointSlice>>) = (resolver.clone(), Arc::downgrade(&slices));
    slices.subscribe(move |change| {
        let Some(all) = all.upgrade() else { return };
        // The label can move from one Service to another.
        let (old, new) = (change.old().and_then(|slice| service_of(slice)), service_of(change.object()));
        let moved = old.filter(|old| Some(old) != new.as_ref());
        for key in moved.into_iter().chain(new) {
            let slices = all.by_index(BY_SERVICE, &key.to_string());
            into.index.write().set_endpoints(&key, &slices);
        }
    });
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}
