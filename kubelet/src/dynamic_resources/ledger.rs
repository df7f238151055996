//! Which claims of devices are prepared on the node, by which drivers and for which pods: values and functions over them (upstream:
//! `pkg/kubelet/cm/dra/{claiminfo,state}`).
//!
//! It is written down, so that the next kubelet knows which devices a restarted container gets, and takes back what was prepared for pods that are gone.

use super::protocol;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A device that a driver has prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Its pool.
    pub pool: String,
    /// Its name there.
    pub name: String,
    /// Which part of it, where it is shared.
    pub share: Option<String>,
    /// For which requests of the claim; for all if empty.
    pub requests: Vec<String>,
    /// Its names for the runtime.
    pub cdi: Vec<String>,
}

impl From<protocol::Device> for Device {
    fn from(device: protocol::Device) -> Self {
        Device {
            pool: device.pool_name,
            name: device.device_name,
            share: device.share_id,
            requests: device.request_names,
            cdi: device.cdi_device_ids,
        }
    }
}

impl Device {
    /// Whether it is for this request; every device is for an empty one. A request with alternatives is named by itself or with the one it got.
    fn is_for(&self, request: &str) -> bool {
        let base = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        request.is_empty() || self.requests.is_empty() || self.requests.iter().any(|r| r == request || base(r) == request)
    }
}

/// A claim on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claim {
    /// Its UID.
    pub uid: String,
    /// The pods on this node that use it, by UID.
    pub pods: BTreeSet<String>,
    /// Whether all drivers have prepared it.
    pub prepared: bool,
    /// What each of its drivers has prepared.
    pub drivers: BTreeMap<String, Vec<Device>>,
}

impl Claim {
    /// A claim as it was allocated; `None` if it is not.
    pub fn of(claim: &ResourceClaim) -> Option<Self> {
        let results = claim.status.as_ref()?.allocation.as_ref()?.devices.as_ref().and_then(|d| d.results.clone()).unwrap_or_default();
        let drivers = results.into_iter().map(|result| (result.driver, Vec::new())).collect();
        Some(Claim { uid: claim.metadata.uid.clone().unwrap_or_default(), drivers, ..Claim::default() })
    }

    /// The devices of one request, or of all for an empty one, with their drivers.
    pub fn devices(&self, request: &str) -> impl Iterator<Item = (&String, &Device)> {
        let all = self.drivers.iter().flat_map(|(driver, devices)| devices.iter().map(move |device| (driver, device)));
        all.filter(move |(_, device)| device.is_for(request))
    }

    /// What the runtime calls them.
    pub fn cdi(&self, request: &str) -> impl Iterator<Item = &String> {
        self.devices(request).flat_map(|(_, device)| &device.cdi)
    }
}

/// All claims on the node, by `namespace/name`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    claims: BTreeMap<String, Claim>,
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// What a driver is to be asked to take back.
pub type Batches = BTreeMap<String, Vec<protocol::Claim>>;

impl Ledger {
    /// A claim.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(&key(namespace, name))
    }

    /// A pod uses a claim from now on. Answers whether the claim has yet to be prepared. Another claim under the same name that is still there is an error.
    pub fn take(&mut self, namespace: &str, name: &str, claim: &Claim, pod: &str) -> Result<bool, String> {
        let known = self.claims.entry(key(namespace, name)).or_insert_with(|| claim.clone());
        if known.uid != claim.uid {
            let old = &known.uid;
            return Err(format!(
                "old ResourceClaim with same name {name} and different UID {old} still exists (previous pod force-deleted?!)"
            ));
        }
        known.pods.insert(pod.to_owned());
        Ok(!known.prepared)
    }

    /// A driver has prepared its part of a claim.
    pub fn prepared_by(&mut self, driver: &str, claim: &protocol::Claim, devices: Vec<Device>) {
        if let Some(known) = self.claims.get_mut(&key(&claim.namespace, &claim.name)).filter(|known| known.uid == claim.uid) {
            known.drivers.insert(driver.to_owned(), devices);
        }
    }

    /// All drivers have prepared a claim.
    pub fn prepared(&mut self, claim: &protocol::Claim) {
        if let Some(known) = self.claims.get_mut(&key(&claim.namespace, &claim.name)) {
            known.prepared = true;
        }
    }

    /// A pod uses no claim any more: what nobody else uses has to be taken back, by driver. Those claims stay until [`Ledger::forget`].
    pub fn leave(&mut self, pod: &str) -> Batches {
        let mut batches = Batches::new();
        for (key, claim) in &mut self.claims {
            if !claim.pods.contains(pod) {
                continue;
            }
            if claim.pods.len() > 1 {
                claim.pods.remove(pod);
                continue;
            }
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            let asked = protocol::Claim { namespace: namespace.into(), uid: claim.uid.clone(), name: name.into() };
            for driver in claim.drivers.keys() {
                batches.entry(driver.clone()).or_default().push(asked.clone());
            }
        }
        batches
    }

    /// What only this pod used has been taken back.
    pub fn forget(&mut self, pod: &str) {
        self.claims.retain(|_, claim| {
            claim.pods.remove(pod);
            !claim.pods.is_empty()
        });
    }

    /// The pods that use claims.
    pub fn pods(&self) -> BTreeSet<String> {
        self.claims.values().flat_map(|claim| claim.pods.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(uid: &str, drivers: &[&str]) -> Claim {
        Claim { uid: uid.into(), drivers: drivers.iter().map(|d| ((*d).to_owned(), Vec::new())).collect(), ..Claim::default() }
    }

    fn asked(uid: &str, name: &str) -> protocol::Claim {
        protocol::Claim { namespace: "ns".into(), uid: uid.into(), name: name.into() }
    }

    #[test]
    fn a_claim_is_prepared_once_and_taken_back_with_its_last_pod() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.take("ns", "c", &claim("1", &["a", "b"]), "p"), Ok(true));
        assert_eq!(ledger.take("ns", "c", &claim("1", &["a", "b"]), "q"), Ok(true), "not yet");
        ledger.prepared(&asked("1", "c"));
        assert_eq!(ledger.take("ns", "c", &claim("1", &["a", "b"]), "q"), Ok(false));
        let other = ledger.take("ns", "c", &claim("2", &["a"]), "r").unwrap_err();
        assert_eq!(other, "old ResourceClaim with same name c and different UID 1 still exists (previous pod force-deleted?!)");
        assert_eq!(ledger.leave("p"), Batches::new(), "another uses it");
        assert_eq!(ledger.leave("q"), Batches::from([("a".into(), vec![asked("1", "c")]), ("b".into(), vec![asked("1", "c")])]));
        assert!(ledger.get("ns", "c").is_some(), "until it has been taken back");
        ledger.forget("q");
        assert_eq!((ledger.get("ns", "c"), ledger.pods().len()), (None, 0));
    }

    #[test]
    fn devices_are_found_by_request() {
        let mut ledger = Ledger::default();
        ledger.take("ns", "c", &claim("1", &["a"]), "p").unwrap();
        let device = |name: &str, requests: &[&str]| Device {
            name: name.into(),
            requests: requests.iter().map(|r| (*r).to_owned()).collect(),
            cdi: vec![format!("v/c={name}")],
            ..Device::default()
        };
        ledger.prepared_by("a", &asked("1", "c"), vec![device("one", &["r"]), device("two", &["s/t"]), device("any", &[])]);
        let found = |request: &str| ledger.get("ns", "c").unwrap().cdi(request).cloned().collect::<Vec<_>>();
        for (request, expected) in [
            ("", vec!["v/c=one", "v/c=two", "v/c=any"]),
            ("r", vec!["v/c=one", "v/c=any"]),
            ("s", vec!["v/c=two", "v/c=any"]),
            ("s/t", vec!["v/c=two", "v/c=any"]),
            ("x", vec!["v/c=any"]),
        ] {
            assert_eq!(found(request), expected, "{request:?}");
        }
    }
}
