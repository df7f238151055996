//! The drivers of dynamic resources that are there, and what they are asked (upstream: `pkg/kubelet/cm/dra/plugin`).
//!
//! What a driver publishes of the node's devices (ResourceSlices) goes a while after the driver has: a driver that is only updated keeps them.

use super::protocol::{Claim, PrepareResponse, Request, UnprepareResponse, VERSIONS, Version};
use crate::plugin::{Kind, Plugin, socket};
use futures::future::BoxFuture;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, task::AbortHandle};
use tonic::Status;

/// How long a call may take (upstream: `PluginClientTimeout`).
const CALL: Duration = Duration::from_secs(45);
/// How long the slices of a driver that is gone stay (upstream: `defaultWipingDelay`).
const WIPING_DELAY: Duration = Duration::from_secs(30);
/// How long to wait between attempts to remove slices.
const WIPING_RETRY: Duration = Duration::from_secs(5);

/// A driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    endpoint: PathBuf,
    version: Version,
}

impl Driver {
    /// Asks it to prepare claims.
    pub async fn prepare(&self, claims: Vec<Claim>) -> Result<PrepareResponse, Status> {
        socket::call(&socket::connect(&self.endpoint).await?, self.version.prepare, Request { claims }, CALL).await
    }

    /// Asks it to take back what it prepared.
    pub async fn unprepare(&self, claims: Vec<Claim>) -> Result<UnprepareResponse, Status> {
        socket::call(&socket::connect(&self.endpoint).await?, self.version.unprepare, Request { claims }, CALL).await
    }
}

/// The newest version that a driver and we speak.
fn common_version(spoken: &[String]) -> Result<Version, String> {
    let common = VERSIONS.into_iter().find(|version| spoken.iter().any(|s| s == version.name));
    common.ok_or_else(|| format!("none of the DRA gRPC API versions is supported: {spoken:?}"))
}

/// All drivers of the node.
pub struct Drivers {
    node: String,
    client: Option<Client>,
    /// By name; the last to register is the one that is asked. The others are there while a driver is replaced by the next of its kind.
    known: Mutex<BTreeMap<String, Vec<Driver>>>,
    wiping: Mutex<BTreeMap<String, AbortHandle>>,
    registered: watch::Sender<()>,
}

impl Drivers {
    /// None yet.
    pub fn new(node: &str, client: Option<Client>) -> Arc<Self> {
        let (registered, _) = watch::channel(());
        Arc::new(Drivers { node: node.to_owned(), client, known: Mutex::default(), wiping: Mutex::default(), registered })
    }

    /// A driver that is there.
    pub fn get(&self, name: &str) -> Result<Driver, String> {
        let found = self.known.lock().get(name).and_then(|drivers| drivers.last().cloned());
        found.ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    /// Notified when a driver has registered.
    pub fn registered(&self) -> watch::Receiver<()> {
        self.registered.subscribe()
    }

    /// Removes what drivers have published of this node that nobody has heard of since the kubelet started: who is there publishes again.
    pub fn wipe_all(self: &Arc<Self>) {
        self.wipe(String::new(), Duration::ZERO);
    }

    /// Removes the slices of a driver, of all for an empty name, after a while.
    fn wipe(self: &Arc<Self>, driver: String, delay: Duration) {
        let Some(client) = self.client.clone() else { return };
        let mut fields = format!("spec.nodeName={}", self.node);
        if !driver.is_empty() {
            fields += &format!(",spec.driver={driver}");
        }
        let name = driver.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let slices: Api<ResourceSlice> = Api::all(client);
            while let Err(error) = slices.delete_collection(&DeleteParams::default(), &ListParams::default().fields(&fields)).await {
                tracing::warn!(driver, %error, "the slices of a driver that is gone could not be removed; trying again");
                tokio::time::sleep(WIPING_RETRY).await;
            }
        });
        if let Some(before) = self.wiping.lock().insert(name, task.abort_handle()) {
            before.abort();
        }
    }
}

/// As the watcher sees them.
pub struct Registrar(pub Arc<Drivers>);

impl Kind for Registrar {
    fn name(&self) -> &'static str {
        "DRAPlugin"
    }

    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let drivers = &self.0;
            let version = common_version(&plugin.versions)?;
            let driver = Driver { endpoint: plugin.endpoint.clone(), version };
            let mut known = drivers.known.lock();
            let same_name = known.entry(plugin.name.clone()).or_default();
            same_name.retain(|other| other.endpoint != driver.endpoint);
            same_name.push(driver);
            if let Some(wiping) = drivers.wiping.lock().remove(&plugin.name) {
                wiping.abort();
            }
            drivers.registered.send_replace(());
            Ok(())
        })
    }

    fn gone(&self, plugin: &Plugin) {
        let mut known = self.0.known.lock();
        let Some(drivers) = known.get_mut(&plugin.name) else { return };
        drivers.retain(|driver| driver.endpoint != plugin.endpoint);
        if drivers.is_empty() {
            known.remove(&plugin.name);
            self.0.wipe(plugin.name.clone(), WIPING_DELAY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_to_register_is_asked_and_the_newest_version_is_spoken() {
        let registrar = Registrar(Drivers::new("n", None));
        let plugin = |endpoint: &str, versions: &[&str]| Plugin {
            name: "d".into(),
            endpoint: endpoint.into(),
            versions: versions.iter().map(|v| (*v).to_owned()).collect(),
        };
        let asked = || registrar.0.get("d").map(|driver| (driver.endpoint, driver.version.name));
        assert_eq!(asked().unwrap_err(), "DRA driver d is not registered");
        let (old, new) = (plugin("/old", &["v1beta1.DRAPlugin"]), plugin("/new", &["v1beta1.DRAPlugin", "v1.DRAPlugin"]));
        registrar.register(&old).await.unwrap();
        assert_eq!(asked(), Ok(("/old".into(), "v1beta1.DRAPlugin")));
        registrar.register(&new).await.unwrap();
        registrar.gone(&old);
        assert_eq!(asked(), Ok(("/new".into(), "v1.DRAPlugin")));
        registrar.gone(&new);
        assert!(asked().is_err());
        assert!(registrar.register(&plugin("/odd", &["1.0.0"])).await.is_err());
    }
}
