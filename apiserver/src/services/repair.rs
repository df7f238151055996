//! Keeps the addresses of services and the objects that stand for them together: an address without its object gets one, an object whose service does not have
//! the address goes (upstream: `registry/core/service/ipallocator/controller/repairip.go`). That is how the services of a store that knew no such objects get them,
//! and how an address comes back whose server ended between taking it and writing the service.
//!
//! It looks at everything, at the start and some time after something has changed. Left out: events about what was repaired; it is in the log.

use super::addresses::{ADDRESSES, Owner, claim, is_labelled, is_managed};
use crate::cache::Filter;
use crate::objects::{Collection, Objects, decode, decoded_list};
use crate::registry::Registry;
use api::status::Result;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IPAddress;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SERVICES: Collection = Collection::core("services");
/// How long after a change it looks again (upstream looks that often).
const INTERVAL: Duration = Duration::from_secs(180);
/// How old an object is before it counts as left behind: a service takes its address before it is written (upstream's).
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// How many repairs are under way at once: enough to fill a commit of the store.
const AT_ONCE: usize = 64;

/// One thing to put right.
#[derive(Debug, PartialEq, Eq)]
enum Repair {
    /// The service has the address, which has no object, or one that says otherwise (its uid) and goes first.
    Take { address: IpAddr, owner: Owner, wrong: Option<String> },
    /// No service has the address of the object with this uid, also not the one that it names.
    GiveBack { address: IpAddr, uid: String, named: Option<Owner> },
}

fn uid(object: &IPAddress) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// What is to be put right, and whether there is something that is too young to tell.
fn plan(services: &[Service], objects: &[IPAddress], now: Timestamp) -> (Vec<Repair>, bool) {
    let mut owners: BTreeMap<IpAddr, Vec<Owner>> = BTreeMap::new();
    for service in services {
        let owner = Owner::of(&service.metadata);
        super::addresses(service).into_iter().for_each(|address| owners.entry(address).or_default().push(owner.clone()));
    }
    let objects: BTreeMap<IpAddr, &IPAddress> =
        objects.iter().filter_map(|object| Some((object.metadata.name.as_ref()?.parse().ok()?, object))).collect();
    let is_right = |address: IpAddr, owners: &[Owner], object: &IPAddress| {
        is_labelled(object, address) && Owner::named_by(object).is_some_and(|named| owners.contains(&named))
    };
    let mut repairs = Vec::new();
    for (address, owners) in &owners {
        let object = objects.get(address);
        if !object.is_some_and(|object| is_right(*address, owners, object)) {
            // Of several that have one address the first gets the object; the others have to be made anew by whoever made them.
            repairs.push(Repair::Take { address: *address, owner: owners[0].clone(), wrong: object.map(|object| uid(object)) });
        }
    }
    let mut young = false;
    for (address, object) in objects.iter().filter(|(address, object)| is_managed(object) && !owners.contains_key(address)) {
        let made = object.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        if now.duration_since(made) < GRACE {
            young = true;
        } else {
            repairs.push(Repair::GiveBack { address: *address, uid: uid(object), named: Owner::named_by(object) });
        }
    }
    (repairs, young)
}

/// Whether the service has the address by what the store says: the caches, of which there are two, may have been behind.
async fn has(objects: &dyn Objects, owner: &Owner, address: IpAddr) -> Result<bool> {
    let service: Option<Service> = objects.read(SERVICES, &owner.namespace, &owner.name).await?.as_ref().and_then(decode);
    Ok(service.is_some_and(|service| super::addresses(&service).contains(&address)))
}

/// Puts one thing right, unless it was put right in between. Whether it was done.
async fn apply(objects: &dyn Objects, repair: &Repair) -> Result<bool> {
    match repair {
        Repair::Take { address, owner, wrong } => {
            if !has(objects, owner, *address).await? {
                return Ok(false);
            }
            if let Some(uid) = wrong {
                objects.delete(ADDRESSES, "", &address.to_string(), uid).await?;
            }
            claim(objects, *address, owner, false).await
        }
        Repair::GiveBack { address, uid, named } => {
            if let Some(named) = named
                && has(objects, named, *address).await?
            {
                return Ok(false);
            }
            objects.delete(ADDRESSES, "", &address.to_string(), uid).await.map(|()| true)
        }
    }
}

/// Looks at everything and puts right what can be. Whether it has to look again though nothing changes.
pub async fn pass(objects: &dyn Objects, now: Timestamp) -> bool {
    let (repairs, young) = plan(&decoded_list(objects, SERVICES, ""), &decoded_list(objects, ADDRESSES, ""), now);
    let apply_one = |repair: Repair| async move {
        match apply(objects, &repair).await {
            Ok(done) => {
                if done {
                    tracing::warn!(?repair, "the addresses of services were not in order");
                }
                false
            }
            // Another server was quicker.
            Err(error) if matches!(error.code(), 404 | 409) => false,
            Err(error) => {
                tracing::warn!(?repair, %error, "an address of a service cannot be put in order");
                true
            }
        }
    };
    stream::iter(repairs).map(apply_one).buffer_unordered(AT_ONCE).fold(young, async |again, failed| again | failed).await
}

/// Looks and repairs until the server stops.
pub async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let changes = |collection| registry.changes(collection, Filter::all());
    while let (Some(mut services), Some(mut objects)) = (changes(SERVICES), changes(ADDRESSES)) {
        if !pass(&*registry, Timestamp::now()).await {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = services.next() => {}
                _ = objects.next() => {}
            }
        }
        drop((services, objects));
        if stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Fixed;
    use serde_json::{Value, json};

    fn service(name: &str, address: &str) -> Value {
        json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"clusterIP": address, "clusterIPs": [address]}})
    }

    fn object(address: &str, owner: &str, made: &str) -> Value {
        json!({"metadata": {"name": address, "uid": "u", "creationTimestamp": made, "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
            "spec": {"parentRef": {"resource": "services", "namespace": "ns", "name": owner}}})
    }

    fn names(objects: &Fixed) -> Vec<(String, String)> {
        let all: Vec<IPAddress> = decoded_list(objects, ADDRESSES, "");
        all.into_iter().map(|object| (object.metadata.name.unwrap(), object.spec.parent_ref.name)).collect()
    }

    #[tokio::test]
    async fn every_address_has_its_object_and_every_object_its_service() {
        let (now, old, new) = ("2026-01-01T00:02:00Z".parse().unwrap(), "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z");
        let objects = Fixed::default();
        for (name, address) in
            [("fine", "10.0.0.1"), ("missing", "10.0.0.2"), ("wrong", "10.0.0.3"), ("twin", "10.0.0.1"), ("headless", "None")]
        {
            objects.put(SERVICES, service(name, address));
        }
        objects.put(ADDRESSES, object("10.0.0.1", "fine", old));
        objects.put(ADDRESSES, object("10.0.0.3", "somebody", old));
        objects.put(ADDRESSES, object("10.0.0.4", "left", old));
        objects.put(ADDRESSES, object("10.0.0.5", "young", new));
        let mut foreign = object("10.0.0.6", "gateway", old);
        foreign["metadata"]["labels"] = json!({});
        objects.put(ADDRESSES, foreign);
        // Two servers that start at once.
        let both = tokio::join!(pass(&objects, now), pass(&objects, now));
        assert_eq!(both, (true, true), "one is too young to tell");
        let pairs = |wanted: &[(&str, &str)]| wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        let first = [("10.0.0.1", "fine"), ("10.0.0.2", "missing"), ("10.0.0.3", "wrong"), ("10.0.0.5", "young"), ("10.0.0.6", "gateway")];
        assert_eq!(names(&objects), pairs(&first));
        assert!(!pass(&objects, "2026-01-01T00:09:00Z".parse().unwrap()).await);
        assert_eq!(names(&objects), pairs(&[first[0], first[1], first[2], first[4]]));
    }
}
