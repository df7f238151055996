//! Volumes by the Container Storage Interface: drivers that register as plugins, and their volumes' way into pods (upstream: `pkg/volume/csi`).
//!
//! A driver is found in the directory of plugins and told of in the CSINode ([`node_info`]). A volume of one ([`volume`]) is waited for until it is attached,
//! staged once for the node, and published for each pod ([`mount`], [`device`]). What is mounted is written down beside it ([`layout`]) and nowhere else, so a
//! kubelet that was started again finds all of it.
//!
//! Left out: volumes of plugins that moved out of the tree, SELinux labels, the health that drivers tell of their volumes.

mod attached;
mod device;
#[allow(missing_docs)] // The calls are the interface's.
pub mod driver;
pub mod layout;
mod mount;
pub mod node_info;
#[allow(missing_docs)] // The names are the interface's.
pub mod protocol;
pub mod usage;
pub mod volume;

use crate::{
    plugin::{Kind, Plugin},
    volume::setup::Failure,
};
use ::api::scheduling::matches_term;
use client::{Cache, Change, SharedCaches};
use driver::{Driver, told};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume},
    storage::v1::CSIDriver,
};
use kube::Client;
use layout::{Layout, VolumeData};
use node_info::NodeInfo;
use parking_lot::Mutex;
use protocol::VolumeUsage;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};
use volume::CsiVolume;

/// What a pod has to be looked at again for while nothing happens to it: drivers that want to publish volumes anew, and claims that grow, which no node may
/// watch (upstream looks at every pod every minute).
const AGAIN: Duration = Duration::from_secs(60);

/// How long it takes until a volume that could not be unstaged is tried again: doubled each time, up to a longest (upstream: `exponentialbackoff`).
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(122);

/// Who has a use for a volume.
#[derive(Clone, Debug)]
struct Use {
    driver: String,
    handle: String,
    pods: BTreeSet<String>,
    /// Another kubelet staged it.
    is_left: bool,
}

/// A volume that a pod has.
#[derive(Clone, Debug)]
struct Published {
    /// The volume's name in the pod.
    name: String,
    at: Instant,
    /// It has to be looked at again after a while.
    again: bool,
    /// What of it is used, and when that was told.
    usage: Option<(Instant, Vec<VolumeUsage>)>,
}

/// The drivers of one node, and their volumes.
pub struct Csi {
    layout: Layout,
    node: String,
    client: Client,
    info: NodeInfo,
    /// What is said of drivers in the API.
    objects: Arc<Cache<CSIDriver>>,
    /// The node itself, whose status says what is attached.
    itself: Arc<Cache<Node>>,
    drivers: Mutex<HashMap<String, Driver>>,
    /// By the volumes' names in the node's status.
    uses: Mutex<BTreeMap<String, Use>>,
    /// What was staged by this kubelet; what another staged is staged again, which drivers take for done.
    staged: Mutex<HashSet<String>>,
    /// By pod and the volume's name.
    published: Mutex<HashMap<(String, String), Published>>,
    /// Volumes that are to be unstaged once their drivers can.
    unstaging: Mutex<HashSet<String>>,
    /// One at a time for each volume.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Pods to wake when something is attached or a driver comes.
    waiting: Mutex<HashMap<String, Arc<Notify>>>,
    /// One at a time for what is told of drivers.
    telling: tokio::sync::Mutex<()>,
    changes: watch::Sender<()>,
}

impl Csi {
    /// What another kubelet left below `root`, and no driver yet.
    pub fn new(root: &Path, node: &str, client: Client, caches: &SharedCaches, itself: Arc<Cache<Node>>) -> Arc<Self> {
        let layout = Layout(root.to_owned());
        let left = layout.all_staged().into_iter();
        let uses = left.map(|data| {
            (data.unique_name(), Use { driver: data.driver_name, handle: data.volume_handle, pods: BTreeSet::new(), is_left: true })
        });
        let csi = Arc::new(Csi {
            uses: Mutex::new(uses.collect()),
            layout,
            node: node.to_owned(),
            info: NodeInfo::new(client.clone(), node),
            client,
            objects: caches.of(),
            itself: itself.clone(),
            drivers: Mutex::default(),
            staged: Mutex::default(),
            published: Mutex::default(),
            unstaging: Mutex::default(),
            turns: Mutex::default(),
            waiting: Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            changes: watch::channel(()).0,
        });
        let woken = Arc::downgrade(&csi);
        itself.subscribe(move |change| {
            let volumes = |node: &Node| node.status.as_ref().map(|s| (s.volumes_attached.clone(), s.volumes_in_use.clone()));
            let same = matches!(change, Change::Updated { old, new } if volumes(old) == volumes(new));
            if let (false, Some(csi)) = (same, woken.upgrade()) {
                csi.wake_all();
            }
        });
        let woken = Arc::downgrade(&csi);
        // A driver may be said to attach nothing after all.
        csi.objects.subscribe(move |_| {
            if let Some(csi) = woken.upgrade() {
                csi.wake_all();
                csi.changes.send_replace(());
            }
        });
        csi
    }

    /// Makes the node's CSINode.
    pub async fn announce(&self) -> anyhow::Result<()> {
        let _turn = self.telling.lock().await;
        self.info.ensure().await
    }

    /// Notified when there are more or fewer volumes in use.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The volumes that must not be detached, for the node's status.
    pub fn in_use(&self) -> Vec<String> {
        let uses = self.uses.lock();
        uses.iter().filter(|(_, used)| self.is_attachable(&used.driver)).map(|(name, _)| name.clone()).collect()
    }

    /// When the pod's volumes have to be looked at again, if nothing happens before.
    pub fn next_look(&self, uid: &str) -> Option<Duration> {
        let published = self.published.lock();
        let own = published.iter().filter(|((pod, _), p)| pod == uid && p.again);
        own.map(|(_, p)| AGAIN.saturating_sub(p.at.elapsed())).min()
    }

    fn wake_all(&self) {
        for (_, waker) in self.waiting.lock().drain() {
            waker.notify_one();
        }
    }

    fn object(&self, driver: &str) -> Option<Arc<CSIDriver>> {
        self.objects.get(&client::ObjectKey::new("", driver))
    }

    fn is_attachable(&self, driver: &str) -> bool {
        ::api::csi::is_attachable(self.object(driver).as_deref())
    }

    /// Whether a volume can be had on this node, by what the API says of both.
    pub fn reaches(&self, volume: &PersistentVolume) -> bool {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
        let reaches = |node: &Node| affinity.is_none_or(|wanted| wanted.node_selector_terms.iter().any(|term| matches_term(term, node)));
        self.itself.list().iter().all(|node| reaches(node))
    }

    fn driver(&self, name: &str) -> Result<Driver, String> {
        let found = self.drivers.lock().get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// The turn of a volume, to be waited for.
    fn turn(&self, volume: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().entry(volume.to_owned()).or_default().clone()
    }

    /// The pod has a use for a volume, and says so before it is there.
    fn want(&self, volume: &CsiVolume, uid: &str) {
        let mut uses = self.uses.lock();
        let used = uses.entry(volume.unique_name()).or_insert_with(|| Use {
            driver: volume.driver.clone(),
            handle: volume.handle.clone(),
            pods: BTreeSet::new(),
            is_left: false,
        });
        if used.pods.insert(uid.to_owned()) {
            drop(uses);
            self.changes.send_replace(());
        }
    }

    /// Nobody has a use for a volume any more.
    fn forget(&self, volume: &str) {
        self.uses.lock().remove(volume);
        self.staged.lock().remove(volume);
        // Whoever waits for a turn holds on to it.
        self.turns.lock().retain(|_, turn| Arc::strong_count(turn) > 1);
        self.changes.send_replace(());
    }

    /// Takes away what was left staged of a driver's volumes, which nobody else will.
    async fn sweep(self: &Arc<Self>, driver: &str) {
        for data in self.layout.all_staged().into_iter().filter(|data| data.driver_name == driver) {
            self.release_or_retry(data, "").await;
        }
    }

    /// A pod has no use for a volume any more. Where the volume cannot be unstaged, that is tried again, and the pod need not wait for it.
    async fn release_or_retry(self: &Arc<Self>, data: VolumeData, uid: &str) {
        let Err(error) = self.release(&data, uid).await else { return };
        tracing::warn!(volume = data.unique_name(), error, "a volume that nobody uses could not be unstaged");
        let name = data.unique_name();
        if !self.unstaging.lock().insert(name.clone()) {
            return;
        }
        let csi = self.clone();
        tokio::spawn(async move {
            let mut wait = FIRST_RETRY;
            loop {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_RETRY);
                // Whoever fails from here on starts anew, unless this one is first.
                csi.unstaging.lock().remove(&name);
                let Err(error) = csi.release(&data, "").await else { return };
                tracing::debug!(volume = name, error, "it still cannot be unstaged");
                if !csi.unstaging.lock().insert(name.clone()) {
                    return;
                }
            }
        });
    }
}

/// Drivers that register.
pub struct Registrar(pub Arc<Csi>);

/// Why a driver's versions will not do.
fn verify_versions(driver: &str, versions: &[String]) -> Result<(), String> {
    let major = |version: &String| version.trim_start_matches('v').split('.').next().and_then(|part| part.parse::<u32>().ok());
    if versions.iter().any(|version| major(version) == Some(1)) {
        return Ok(());
    }
    Err(format!(
        "kubernetes.io/csi: RegisterPlugin for CSI driver {driver:?} failed. None of the versions specified {versions:?} are supported."
    ))
}

impl Registrar {
    async fn take(&self, plugin: &Plugin) -> Result<(), String> {
        verify_versions(&plugin.name, &plugin.versions)?;
        let csi = &self.0;
        let (driver, info) = Driver::ask(plugin.endpoint.clone()).await.map_err(|status| told(&status))?;
        csi.drivers.lock().insert(plugin.name.clone(), driver);
        let _turn = csi.telling.lock().await;
        if let Err(error) = csi.info.install(&plugin.name, &info).await {
            csi.drivers.lock().remove(&plugin.name);
            return Err(format!("{error:#}"));
        }
        csi.wake_all();
        let (csi, name) = (csi.clone(), plugin.name.clone());
        tokio::spawn(async move { csi.sweep(&name).await });
        Ok(())
    }
}

impl Kind for Registrar {
    fn name(&self) -> &'static str {
        "CSIPlugin"
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.take(plugin))
    }

    fn gone(&self, plugin: &Plugin) {
        let (csi, name) = (self.0.clone(), plugin.name.clone());
        csi.drivers.lock().remove(&name);
        tokio::spawn(async move {
            let _turn = csi.telling.lock().await;
            // It may be back by now.
            if csi.driver(&name).is_ok() {
                return;
            }
            if let Err(error) = csi.info.uninstall(&name).await {
                tracing::warn!(driver = %name, error = format!("{error:#}"), "the API could not be told that a driver is gone");
            }
        });
    }
}

/// What goes wrong with a volume, as an event tells it.
fn failure(reason: &'static str, step: &str, spec_name: &str, error: impl std::fmt::Display) -> Failure {
    Failure { volume: spec_name.to_owned(), event: Some((reason, format!("{step} failed for volume {spec_name:?} : {error}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_is_spoken() {
        for (versions, well) in
            [(vec!["1.0.0"], true), (vec!["v1"], true), (vec!["0.3.0", "1.7.0"], true), (vec!["0.3.0"], false), (vec![], false)]
        {
            let versions: Vec<String> = versions.into_iter().map(str::to_owned).collect();
            assert_eq!(verify_versions("d", &versions).is_ok(), well, "{versions:?}");
        }
    }
}
