//! Addresses of services as objects: an IPAddress is there exactly while a service has the address or is about to
//! (upstream: `registry/core/service/ipallocator`).

use crate::objects::{Collection, Objects, decode, decoded_list};
use api::StatusError;
use api::resources::networking::{AddressRange, is_open, ranges};
use api::status::Result;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The objects.
pub(super) const ADDRESSES: Collection = Collection::of("networking.k8s.io", "ipaddresses");
const RANGES: Collection = Collection::of("networking.k8s.io", "servicecidrs");

/// The label that says which objects are ours, and its value.
const MANAGED: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The service that an address is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub namespace: String,
    pub name: String,
}

impl Owner {
    pub fn of(metadata: &ObjectMeta) -> Self {
        Owner { namespace: metadata.namespace.clone().unwrap_or_default(), name: metadata.name.clone().unwrap_or_default() }
    }

    /// The service that an IPAddress names, if it is one.
    pub fn named_by(address: &IPAddress) -> Option<Self> {
        let parent = &address.spec.parent_ref;
        let is_service = parent.resource == "services" && parent.group.as_deref().unwrap_or_default().is_empty();
        is_service.then(|| Owner { namespace: parent.namespace.clone().unwrap_or_default(), name: parent.name.clone() })
    }
}

fn labels(address: IpAddr) -> [(&'static str, &'static str); 2] {
    [(FAMILY, if address.is_ipv4() { "IPv4" } else { "IPv6" }), MANAGED]
}

/// Whether the object was made by an allocator.
pub(super) fn is_managed(object: &IPAddress) -> bool {
    object.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED.0)).is_some_and(|value| value == MANAGED.1)
}

/// Whether the object has the labels of an allocator's.
pub(super) fn is_labelled(object: &IPAddress, address: IpAddr) -> bool {
    let has = |(key, value): (&str, &str)| object.metadata.labels.as_ref().and_then(|l| l.get(key)).is_some_and(|v| v == value);
    labels(address).into_iter().all(has)
}

/// The object that says that the address is the owner's.
fn object(address: IpAddr, owner: &Owner) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address.to_string(), "labels": labels(address).into_iter().collect::<std::collections::BTreeMap<_, _>>()},
        "spec": {"parentRef": {"resource": "services", "namespace": owner.namespace, "name": owner.name}},
    })
}

/// The ranges that addresses may be taken from now; `first` before there is any ServiceCIDR.
pub(super) fn open_ranges(objects: &dyn Objects, first: AddressRange) -> Vec<AddressRange> {
    let known: Vec<ServiceCIDR> = decoded_list(objects, RANGES, "");
    if known.is_empty() {
        return vec![first];
    }
    known.iter().filter(|object| is_open(object)).flat_map(ranges).filter(AddressRange::is_ipv4).collect()
}

/// Takes the address; false if somebody has it.
pub(super) async fn claim(objects: &dyn Objects, address: IpAddr, owner: &Owner, dry_run: bool) -> Result<bool> {
    if dry_run {
        return Ok(objects.get(ADDRESSES, "", &address.to_string()).is_none());
    }
    match objects.create(ADDRESSES, "", object(address, owner)).await {
        Ok(_) => Ok(true),
        Err(error) if error.reason() == "AlreadyExists" => Ok(false),
        Err(error) => Err(StatusError::internal(format!("failed to allocate IP {address}: {error}"))),
    }
}

/// Takes any address of these ranges; `None` if there is none left.
pub(super) async fn claim_any(objects: &dyn Objects, ranges: Vec<AddressRange>, owner: &Owner, dry_run: bool) -> Result<Option<IpAddr>> {
    for range in ranges {
        for address in range.from(|count| rand::random_range(0..count)) {
            let free = objects.get(ADDRESSES, "", &address.to_string()).is_none();
            // Another server may be quicker; then the next is tried.
            if free && claim(objects, address, owner, dry_run).await? {
                return Ok(Some(address));
            }
        }
    }
    Ok(None)
}

/// Gives the owner's address back. If that fails it is found later that nobody has it.
pub(super) async fn release(objects: &dyn Objects, address: IpAddr, owner: &Owner) {
    if let Err(error) = delete(objects, address, owner).await
        && error.code() != 404
    {
        tracing::warn!(%address, %error, "an address cannot be given back yet");
    }
}

async fn delete(objects: &dyn Objects, address: IpAddr, owner: &Owner) -> Result<()> {
    let name = address.to_string();
    // As the store has it: another server may have given the address to somebody else.
    let found: Option<IPAddress> = objects.read(ADDRESSES, "", &name).await?.as_ref().and_then(decode);
    match found.filter(|object| Owner::named_by(object).as_ref() == Some(owner)).and_then(|object| object.metadata.uid) {
        Some(uid) => objects.delete(ADDRESSES, "", &name, &uid).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Fixed;

    fn range(name: &str, cidr: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}, "status": {"conditions": [{"type": "Ready", "status": ready,
            "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    }

    #[tokio::test]
    async fn an_address_has_one_owner_and_a_full_range_is_followed_by_the_next() {
        let objects = Fixed::default();
        let first = AddressRange::parse("10.0.0.0/30").unwrap();
        let owner = |name: &str| Owner { namespace: "ns".into(), name: name.into() };
        assert_eq!(open_ranges(&objects, first), [first]);
        objects.put(RANGES, range("kubernetes", "10.0.0.0/30", "True"));
        objects.put(RANGES, range("closed", "10.1.0.0/30", "False"));
        objects.put(RANGES, range("more", "10.2.0.0/30", "True"));
        let open = || open_ranges(&objects, first);
        assert_eq!(open(), ["10.0.0.0/30", "10.2.0.0/30"].map(|cidr| AddressRange::parse(cidr).unwrap()));

        let address = "10.0.0.1".parse().unwrap();
        assert!(claim(&objects, address, &owner("a"), true).await.unwrap());
        assert!(claim(&objects, address, &owner("a"), false).await.unwrap());
        assert!(!claim(&objects, address, &owner("b"), false).await.unwrap());
        let made: IPAddress = crate::objects::decoded(&objects, ADDRESSES, "", "10.0.0.1").unwrap();
        assert_eq!((Owner::named_by(&made), is_managed(&made), is_labelled(&made, address)), (Some(owner("a")), true, true));

        let mut taken = Vec::new();
        while let Some(address) = claim_any(&objects, open(), &owner("c"), false).await.unwrap() {
            taken.push(address.to_string());
        }
        taken[1..].sort();
        assert_eq!(taken, ["10.0.0.2", "10.2.0.1", "10.2.0.2"]);
        release(&objects, address, &owner("b")).await;
        assert_eq!(claim_any(&objects, open(), &owner("d"), false).await.unwrap(), None, "it is a's to give back");
        release(&objects, address, &owner("a")).await;
        assert_eq!(claim_any(&objects, open(), &owner("d"), false).await.unwrap(), Some(address));
    }
}
