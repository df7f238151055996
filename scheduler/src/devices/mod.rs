//! Devices for claims: which there are ([`pools`]), which of them a request can have ([`selector`], [`capacity`], [`counters`]), and a choice that suits
//! all claims of a pod on a node ([`allocator`]) (upstream: `dynamic-resource-allocation/structured`).
//!
//! All of it is functions over values. Who has which device is in the claims' statuses and nowhere else ([`InUse`]); what the scheduler has decided and
//! the API does not say yet is in the [`store`].

pub mod allocator;
mod capacity;
mod counters;
pub mod pools;
mod request;
mod result;
pub mod selector;
pub mod store;

pub use allocator::allocate;
pub use pools::Pools;
pub use store::DeviceStore;

use api::quantity::Quantity;
use k8s_openapi::api::resource::v1::ResourceClaim;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How many devices a claim can have (upstream: `AllocationResultsMaxSize`).
pub const MAX_RESULTS: usize = 32;

/// Which device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    /// Its driver.
    pub driver: String,
    /// The driver's pool that it is in.
    pub pool: String,
    /// Its name there.
    pub device: String,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// How much of a device's capacities is taken, by the capacities' names.
pub type Consumed = BTreeMap<String, Quantity>;

/// The devices that claims have.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// By one claim alone.
    whole: HashSet<DeviceId>,
    /// By several, and how much of them.
    shared: HashMap<DeviceId, Consumed>,
}

impl InUse {
    /// What these claims have. Access for administrators takes nothing from anybody.
    pub fn by<'a>(claims: impl IntoIterator<Item = &'a ResourceClaim>) -> Self {
        let mut in_use = Self::default();
        let allocations = claims.into_iter().filter_map(|claim| claim.status.as_ref()?.allocation.as_ref());
        for result in allocations.filter_map(|a| a.devices.as_ref()).flat_map(|d| d.results.iter().flatten()) {
            if result.admin_access == Some(true) {
                continue;
            }
            let id = DeviceId { driver: result.driver.clone(), pool: result.pool.clone(), device: result.device.clone() };
            if result.share_id.is_none() {
                in_use.whole.insert(id);
                continue;
            }
            let consumed = in_use.shared.entry(id).or_default();
            for (name, amount) in result.consumed_capacity.iter().flatten() {
                let amount = Quantity::of(amount).unwrap_or_else(|_| Quantity::from_units(0));
                consumed.entry(name.clone()).and_modify(|sum| *sum += amount).or_insert(amount);
            }
        }
        in_use
    }

    fn is_whole(&self, id: &DeviceId) -> bool {
        self.whole.contains(id)
    }

    fn consumed(&self, id: &DeviceId) -> Option<&Consumed> {
        self.shared.get(id)
    }

    fn is_any(&self, id: &DeviceId) -> bool {
        self.whole.contains(id) || self.shared.contains_key(id)
    }
}

/// A name of an attribute or capacity without a domain is in its driver's.
fn qualified(name: &str, driver: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{driver}/{name}") }
}

/// The domains and names in a map of attributes or capacities: `(domain, name, value)`.
fn by_domain<'a, V>(map: Option<&'a BTreeMap<String, V>>, driver: &'a str) -> impl Iterator<Item = (&'a str, &'a str, &'a V)> {
    map.into_iter().flatten().map(move |(name, value)| {
        let (domain, name) = name.split_once('/').unwrap_or((driver, name));
        (domain, name, value)
    })
}

/// The names of claims' requests that something is for; all if empty. An alternative is named by its request or with it.
fn is_for(names: &BTreeSet<&str>, request: &str) -> bool {
    names.is_empty() || names.contains(request) || request.split_once('/').is_some_and(|(parent, _)| names.contains(parent))
}
