//! Dynamic resources: claims of devices that the scheduler has allocated, and that their drivers prepare on this node before a pod that uses them starts
//! and take back when it has ended (upstream: `pkg/kubelet/cm/dra`).
//!
//! Drivers make themselves known as plugins ([`drivers`]); which claims are prepared for whom is in the [`ledger`], which is written down. Containers get
//! what their claims' devices are called by the runtime (the Container Device Interface).
//!
//! Left out: the health of devices as drivers may tell it.

pub mod drivers;
pub mod ledger;
#[allow(missing_docs)] // The names are the interface's.
pub mod protocol;

use crate::{container::identity, pod::workers::Workers};
use ::api::device_claims::{self, Used};
use drivers::{Driver, Drivers};
use k8s_openapi::api::{
    core::v1::{Container, Pod},
    resource::v1::ResourceClaim,
};
use kube::{Api, Client};
use ledger::{Batches, Ledger};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The ledger's file below the kubelet's root, as upstream names its own.
const CHECKPOINT: &str = "dra_manager_state";
/// How long until what could not be taken back is tried again (upstream: `defaultReconcilePeriod`).
const RECONCILE: Duration = Duration::from_secs(60);

/// The claims of one node.
pub struct Claims {
    file: PathBuf,
    client: Option<Client>,
    /// The drivers.
    pub drivers: Arc<Drivers>,
    ledger: Mutex<Ledger>,
    /// One pod at a time: what is prepared for one must be known before it is asked for again or taken back.
    turn: tokio::sync::Mutex<()>,
}

/// A claim that a pod waits for, with its drivers.
struct Wanted {
    name: String,
    claim: ledger::Claim,
    drivers: BTreeMap<String, Driver>,
}

impl Claims {
    /// What the last kubelet wrote down below `root`.
    pub fn new(root: &Path, node: &str, client: Option<Client>) -> io::Result<Arc<Self>> {
        let file = root.join(CHECKPOINT);
        let ledger = match fs::read(&file) {
            // Of a file that somebody else wrote nothing is believed; drivers are asked again, which changes nothing for them.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(error),
        };
        let drivers = Drivers::new(node, client.clone());
        Ok(Arc::new(Claims { file, client, drivers, ledger: Mutex::new(ledger), turn: tokio::sync::Mutex::default() }))
    }

    /// Has all claims of a pod prepared. The error is upstream's.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        if uses(pod)?.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        self.prepare_all(pod).await.map_err(|error| format!("prepare dynamic resources: {error}"))
    }

    async fn prepare_all(&self, pod: &Pod) -> Result<(), String> {
        let mut wanted = Vec::new();
        for used in uses(pod)? {
            wanted.push(self.wanted(pod, &used).await?);
        }
        let namespace = identity::namespace(pod);
        let mut batches: BTreeMap<String, (Driver, Vec<protocol::Claim>)> = BTreeMap::new();
        let mut asked = Vec::new();
        for Wanted { name, claim, drivers } in wanted {
            if !self.ledger.lock().take(namespace, &name, &claim, identity::uid(pod))? {
                continue;
            }
            let request = protocol::Claim { namespace: namespace.into(), uid: claim.uid, name };
            for (driver_name, driver) in drivers {
                batches.entry(driver_name).or_insert_with(|| (driver, Vec::new())).1.push(request.clone());
            }
            asked.push(request);
        }
        // A driver may have prepared something although its answer never came: who is to take it back is written down before it is asked.
        self.save()?;
        for (name, (driver, claims)) in batches {
            let mut answer = driver.prepare(claims.clone()).await.map_err(|status| format!("NodePrepareResources: rpc error: {status}"))?;
            for claim in &claims {
                let prepared = answer.claims.remove(&claim.uid).ok_or("NodePrepareResources skipped 1 ResourceClaims")?;
                if !prepared.error.is_empty() {
                    return Err(format!("NodePrepareResources failed for ResourceClaim {}: {}", claim.name, prepared.error));
                }
                self.ledger.lock().prepared_by(&name, claim, prepared.devices.into_iter().map(Into::into).collect());
            }
            if let Some(uid) = answer.claims.keys().next() {
                return Err(format!("NodePrepareResources returned result for unknown claim UID {uid}"));
            }
        }
        asked.iter().for_each(|claim| self.ledger.lock().prepared(claim));
        self.save()
    }

    /// A claim that the pod may use, with the drivers it needs.
    async fn wanted(&self, pod: &Pod, used: &Used<'_>) -> Result<Wanted, String> {
        let client = self.client.clone().ok_or("there is no API server")?;
        let api: Api<ResourceClaim> = Api::namespaced(client, identity::namespace(pod));
        let name = used.name;
        let found = api.get(name).await.map_err(|error| {
            let text = if let kube::Error::Api(status) = &error { status.message.clone() } else { error.to_string() };
            format!("fetch ResourceClaim {name}: {text}")
        })?;
        if used.own {
            device_claims::is_for_pod(pod, &found)?;
        }
        let uid = found.metadata.uid.as_deref().unwrap_or_default();
        if !device_claims::is_reserved_for(pod, &found) {
            let (pod, pod_uid) = (identity::name(pod), identity::uid(pod));
            return Err(format!("pod {pod} ({pod_uid}) is not allowed to use ResourceClaim {name} ({uid})"));
        }
        let claim = ledger::Claim::of(&found).ok_or_else(|| format!("ResourceClaim {name}: not allocated"))?;
        let drivers = claim.drivers.keys().map(|driver| Ok((driver.clone(), self.drivers.get(driver)?)));
        let drivers = drivers.collect::<Result<_, String>>()?;
        Ok(Wanted { name: name.to_owned(), claim, drivers })
    }

    /// What the runtime calls the devices that a container is to have.
    pub fn devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, String> {
        let ledger = self.ledger.lock();
        let namespace = identity::namespace(pod);
        let mut names = Vec::new();
        for (name, request) in requests(pod, container)? {
            let claim = ledger.get(namespace, &name);
            let claim = claim.ok_or_else(|| format!("unable to get claim info for ResourceClaim {name} in namespace {namespace}"))?;
            names.extend(claim.cdi(&request).cloned());
        }
        // Two requests may have been given the same device.
        let mut seen = BTreeSet::new();
        names.retain(|name: &String| seen.insert(name.clone()));
        Ok(names)
    }

    /// Nothing of the pod runs any more: has its claims taken back that no other pod uses.
    pub async fn unprepare(&self, uid: &str) -> Result<(), String> {
        if !self.ledger.lock().pods().contains(uid) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let batches = self.ledger.lock().leave(uid);
        self.take_back(batches).await.map_err(|error| format!("unprepare dynamic resources: {error}"))?;
        self.ledger.lock().forget(uid);
        self.save()
    }

    async fn take_back(&self, batches: Batches) -> Result<(), String> {
        for (name, claims) in batches {
            let driver = self.drivers.get(&name)?;
            let answer = driver.unprepare(claims.clone()).await.map_err(|status| format!("NodeUnprepareResources: rpc error: {status}"))?;
            for claim in claims {
                let outcome = answer.claims.get(&claim.uid).ok_or("NodeUnprepareResources skipped 1 ResourceClaims")?;
                if !outcome.error.is_empty() {
                    return Err(format!("NodeUnprepareResources failed for ResourceClaim {}: {}", claim.name, outcome.error));
                }
            }
        }
        Ok(())
    }

    /// Has claims taken back of pods that the node does not know, once it knows which there are. What fails is tried again with the next driver that
    /// registers, and now and then.
    pub async fn keep(self: Arc<Self>, workers: Arc<Workers>, mut ready: watch::Receiver<bool>, stop: CancellationToken) {
        let mut registered = self.drivers.registered();
        if ready.wait_for(|ready| *ready).await.is_err() {
            return;
        }
        loop {
            let known = workers.known();
            let gone: Vec<String> = self.ledger.lock().pods().into_iter().filter(|uid| !known.contains_key(uid)).collect();
            let mut left = false;
            for uid in gone {
                if let Err(error) = self.unprepare(&uid).await {
                    left = true;
                    tracing::info!(uid, error, "the claims of a pod that is gone could not be taken back yet");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                // The sender lives as long as self.
                _ = registered.changed() => {}
                () = tokio::time::sleep(RECONCILE), if left => {}
            }
        }
    }

    /// What is prepared, by claim.
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Writes the ledger down, the old one until the new one is there whole.
    fn save(&self) -> Result<(), String> {
        let ledger = self.ledger.lock();
        let fresh = self.file.with_extension("new");
        let written = serde_json::to_vec(&*ledger).map_err(io::Error::other).and_then(|bytes| {
            fs::write(&fresh, bytes)?;
            fs::rename(&fresh, &self.file)
        });
        written.map_err(|error| format!("checkpoint ResourceClaim state: {error}"))
    }
}

/// The claims that a pod uses, each once.
fn uses(pod: &Pod) -> Result<Vec<Used<'_>>, String> {
    let mut all = Vec::new();
    for claim in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
        all.extend(device_claims::used(pod, claim)?);
    }
    all.extend(device_claims::extended(pod).map(|name| Used { name, own: false }));
    all.sort_by(|a, b| a.name.cmp(b.name));
    all.dedup_by(|a, b| a.name == b.name);
    Ok(all)
}

/// The claims and requests that a container is to have; an empty request is all of the claim.
pub fn requests(pod: &Pod, container: &Container) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    let wanted = container.resources.iter().flat_map(|r| r.claims.iter().flatten());
    for wanted in wanted {
        let mut claims = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
        let Some(claim) = claims.find(|claim| claim.name == wanted.name) else { continue };
        if let Some(used) = device_claims::used(pod, claim)? {
            found.push((used.name.to_owned(), wanted.request.clone().unwrap_or_default()));
        }
    }
    if let Some(status) = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref()) {
        let mappings = status.request_mappings.iter().filter(|m| m.container_name == container.name);
        found.extend(mappings.map(|m| (status.resource_claim_name.clone(), m.request_name.clone())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_has_the_requests_of_claims_that_it_names() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
            "spec": {
                "resourceClaims": [{"name": "a", "resourceClaimName": "c"}, {"name": "b", "resourceClaimTemplateName": "t"}],
                "containers": [
                    {"name": "all", "resources": {"claims": [{"name": "a"}, {"name": "b", "request": "r"}]}},
                    {"name": "none"},
                    {"name": "ext"},
                ],
            },
            "status": {
                "resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "e", "requestMappings":
                    [{"containerName": "ext", "resourceName": "example.com/d", "requestName": "container-0-request-0"}]},
            },
        }))
        .unwrap();
        let containers = &pod.spec.as_ref().unwrap().containers;
        let of = |index: usize| requests(&pod, &containers[index]).unwrap();
        let pair = |claim: &str, request: &str| (claim.to_owned(), request.to_owned());
        assert_eq!(of(0), [pair("c", ""), pair("p-b-x", "r")]);
        assert_eq!(of(1), []);
        assert_eq!(of(2), [pair("e", "container-0-request-0")]);
        assert_eq!(uses(&pod).unwrap().iter().map(|u| u.name).collect::<Vec<_>>(), ["c", "e", "p-b-x"]);
    }
}
