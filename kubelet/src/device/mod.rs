//! Device plugins: programs that know of devices of the node, which containers ask for as extended resources (`limits: {example.com/d: 1}`) (upstream:
//! `pkg/kubelet/cm/devicemanager`).
//!
//! A plugin says that it is there at a socket of the kubelet's ([`registration`]) or is found in the directory of all plugins
//! ([`crate::plugin`], see [`Discovered`]), is then asked for its devices for as long as it runs ([`plugin`]), and for what
//! a container needs to use those that it is given. Who has which is in the [`ledger`], which is written down. The node's status counts them.
//!
//! Left out: the health of devices in pods' statuses.

pub mod checkpoint;
pub mod ledger;
pub mod plugin;
#[allow(missing_docs)] // The names are the interface's.
pub mod protocol;
pub mod registration;

use crate::{
    container::{identity, resources::Amounts},
    node::admission::Refusal,
    plugin::{self as plugins, Kind},
    topology_manager::{
        self, Provider, Subject,
        hint::{Hint, Hints},
        mask::Mask,
        unexpected,
    },
};
use checkpoint::Checkpoint;
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use ledger::Ledger;
use parking_lot::Mutex;
use plugin::Plugin;
use protocol::RegisterRequest;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::watch, task::AbortHandle};
use tokio_util::sync::CancellationToken;

/// The ledger's file in the plugins' directory, as upstream names its own.
const CHECKPOINT: &str = "kubelet_internal_checkpoint";

/// A plugin that is there.
struct Endpoint {
    plugin: Option<Plugin>,
    following: AbortHandle,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// The devices of one node.
pub struct Devices {
    dir: PathBuf,
    ledger: Mutex<Ledger>,
    endpoints: Mutex<HashMap<String, Endpoint>>,
    /// The machine's NUMA nodes.
    nodes: Vec<u32>,
    changes: watch::Sender<()>,
}

/// What a container is started with besides what it says itself.
#[derive(Debug, Default, PartialEq)]
pub struct Extras {
    /// Variables.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<cri::Mount>,
    /// Device files.
    pub devices: Vec<cri::Device>,
    /// Annotations for the runtime.
    pub annotations: HashMap<String, String>,
    /// Devices by the names that the runtime knows them by.
    pub cdi: Vec<cri::CdiDevice>,
}

impl Devices {
    /// What the last kubelet wrote down below `root`, and no plugin yet. `nodes` are the machine's NUMA nodes.
    pub fn new(root: &Path, nodes: Vec<u32>) -> io::Result<Arc<Self>> {
        let dir = root.join("device-plugins");
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&dir)?;
        let mut ledger = Ledger::default();
        match crate::checkpoint::read(&dir.join(CHECKPOINT))?.as_deref().map(Checkpoint::read) {
            None => {}
            Some(Ok((pods, known))) => (ledger.pods, ledger.known) = (pods, known.into_iter().collect()),
            // Of a file that is broken nothing is believed.
            Some(Err(error)) => tracing::warn!(%error, "who has which devices is not known any more"),
        }
        let (changes, _) = watch::channel(());
        Ok(Arc::new(Devices { dir, ledger: Mutex::new(ledger), endpoints: Mutex::default(), nodes, changes }))
    }

    /// Serves plugins until told to stop. They notice that the kubelet's socket is a new one, and register again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if let Err(error) = fs::remove_file(self.dir.join(registration::SOCKET))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, "the old socket for device plugins is in the way");
        }
        let devices = self.clone();
        let register = Arc::new(move |request: RegisterRequest| devices.clone().registered(request));
        if let Err(error) = registration::serve(&self.dir, register, stop).await {
            tracing::error!(%error, "device plugins cannot register");
        }
        self.endpoints.lock().clear();
    }

    /// A plugin is there, or there again.
    fn registered(self: Arc<Self>, request: RegisterRequest) {
        tracing::info!(resource = %request.resource_name, endpoint = %request.endpoint, "a device plugin registered");
        let (devices, name) = (self.clone(), request.resource_name.clone());
        // The lock is held until the endpoint is there, so that the task finds it.
        let mut endpoints = self.endpoints.lock();
        let following = tokio::spawn(async move {
            if let Err(error) = devices.follow(&request).await {
                tracing::warn!(resource = %request.resource_name, %error, "a device plugin went away");
            }
            devices.ledger.lock().lose(&request.resource_name, Timestamp::now());
            devices.changes.send_replace(());
        });
        endpoints.insert(name, Endpoint { plugin: None, following: following.abort_handle() });
    }

    /// Follows a plugin's devices for as long as it runs.
    async fn follow(&self, request: &RegisterRequest) -> Result<(), tonic::Status> {
        let plugin = Plugin::connect(&self.dir.join(&request.endpoint), request.options.clone()).await?;
        let mut stream = plugin.watch().await?;
        if let Some(endpoint) = self.endpoints.lock().get_mut(&request.resource_name) {
            endpoint.plugin = Some(plugin);
        }
        while let Some(told) = stream.message().await? {
            self.ledger.lock().tell(&request.resource_name, &told.devices);
            self.save();
            self.changes.send_replace(());
        }
        Ok(())
    }

    /// Notified when the node has more or fewer devices.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What the node has of each resource, and what of it is healthy.
    pub fn amounts(&self) -> (Amounts, Amounts) {
        self.ledger.lock().amounts(Timestamp::now())
    }

    /// What a container was given, by resource.
    pub fn given(&self, uid: &str, container: &str) -> ledger::OfContainer {
        self.ledger.lock().of(uid, container).cloned().unwrap_or_default()
    }

    /// The devices that can be given out, by resource and the NUMA nodes they are near to.
    pub fn healthy(&self) -> BTreeMap<String, BTreeMap<i64, BTreeSet<String>>> {
        self.ledger.lock().healthy()
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        let plugin = self.endpoints.lock().get(resource).and_then(|e| e.plugin.clone());
        plugin.ok_or_else(|| format!("unknown Device Plugin {resource}"))
    }

    /// Gives a container the devices that it asks for and does not have yet, of these nodes first.
    async fn allocate(&self, pod: &Pod, container: &Container, affinity: Option<Mask>) -> Result<(), String> {
        let (uid, Some(spec)) = (identity::uid(pod), &pod.spec) else { return Ok(()) };
        let needs = self.ledger.lock().needs(container);
        for (resource, size) in needs {
            let choice = {
                let ledger = self.ledger.lock();
                if ledger.of(uid, &container.name).is_some_and(|given| given.contains_key(&resource)) {
                    continue;
                }
                ledger.choice(uid, spec, &container.name, (&resource, size), affinity)?
            };
            let plugin = self.plugin(&resource)?;
            let (must, among) = choice.asked();
            let available = among.union(&must).cloned().collect();
            let preferred = plugin.preferred(available, must.into_iter().collect(), size).await;
            let devices = choice.pick(&preferred.map_err(|status| format!("rpc error: {status}"))?);
            let response = plugin.allocate(&devices).await.map_err(|status| format!("rpc error: {status}"))?;
            self.ledger.lock().give(uid, &container.name, &resource, &devices, &response);
            self.save();
        }
        Ok(())
    }

    /// What a container of the pod is to be started with; its plugins are told that it starts.
    pub async fn start(&self, pod: &Pod, container: &Container) -> Result<Extras, String> {
        let given = self.given(identity::uid(pod), &container.name);
        let mut extras = Extras::default();
        for (resource, given) in given {
            // A container that runs again while its plugin does not needs nobody's leave.
            if let Ok(plugin) = self.plugin(&resource) {
                plugin.pre_start(&given.devices()).await.map_err(|status| format!("PreStartContainer of {resource}: {status}"))?;
            }
            extras.add(&given.response());
        }
        Ok(extras)
    }

    /// Writes the ledger down.
    fn save(&self) {
        let ledger = self.ledger.lock();
        let written = Checkpoint::of(&ledger.pods, ledger.registered());
        if let Err(error) = crate::checkpoint::write(&self.dir.join(CHECKPOINT), &written) {
            tracing::error!(%error, "who has which devices could not be written down");
        }
    }
}

/// Whether a pod has run here before: its containers go on with what they have, whether or not its plugins are back.
fn has_started(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

impl Provider for Devices {
    fn hints(&self, pod: &Pod, subject: Subject<'_>) -> Hints {
        let Some(spec) = pod.spec.as_ref().filter(|_| !has_started(pod)) else { return Hints::new() };
        let (ledger, uid) = (self.ledger.lock(), identity::uid(pod));
        let (needs, name): (BTreeMap<String, usize>, _) = match subject {
            Subject::Container(container) => (ledger.needs(container).into_iter().collect(), Some(container.name.as_str())),
            Subject::Pod => {
                let of = |container: &Container, resource: &String| {
                    ledger.needs(container).iter().find(|(name, _)| name == resource).map_or(0, |(_, size)| *size as u64)
                };
                let resources = topology_manager::containers(spec).flat_map(|container| ledger.needs(container));
                let peak = |resource: &String| topology_manager::peak(spec, |container| of(container, resource));
                let sizes = resources.map(|(resource, _)| (resource.clone(), usize::try_from(peak(&resource)).unwrap_or(usize::MAX)));
                (sizes.collect(), None)
            }
        };
        let places = |resource: &str, size| ledger.hints(&self.nodes, uid, spec, name, (resource, size));
        needs.iter().map(|(resource, size)| (resource.clone(), places(resource, *size))).collect()
    }

    fn allocate<'a>(&'a self, pod: &'a Pod, container: &'a Container, place: Hint) -> BoxFuture<'a, Result<(), Refusal>> {
        if has_started(pod) {
            return std::future::ready(Ok(())).boxed();
        }
        async move { Devices::allocate(self, pod, container, place.affinity).await.map_err(|error| unexpected(&error)) }.boxed()
    }

    fn release(&self, uid: &str) {
        let released = self.ledger.lock().release(uid);
        if released {
            self.save();
        }
    }
}

/// Device plugins that are found in the directory of all plugins.
pub struct Discovered(pub Arc<Devices>);

impl Kind for Discovered {
    fn name(&self) -> &'static str {
        "DevicePlugin"
    }

    fn register<'a>(&'a self, plugin: &'a plugins::Plugin) -> BoxFuture<'a, Result<(), String>> {
        let endpoint = plugin.endpoint.to_string_lossy().into_owned();
        let request = RegisterRequest { version: protocol::VERSION.into(), endpoint, resource_name: plugin.name.clone(), options: None };
        let verdict = if plugin.versions.iter().any(|version| version == protocol::VERSION) {
            registration::verify_name(&plugin.name).map_err(|status| status.message().to_owned())
        } else {
            Err(format!("manager version, {}, is not among plugin supported versions {:?}", protocol::VERSION, plugin.versions))
        };
        Box::pin(std::future::ready(verdict.map(|()| self.0.clone().registered(request))))
    }

    fn gone(&self, plugin: &plugins::Plugin) {
        if self.0.endpoints.lock().remove(&plugin.name).is_some() {
            self.0.ledger.lock().lose(&plugin.name, Timestamp::now());
            self.0.changes.send_replace(());
        }
    }
}

impl Extras {
    fn add(&mut self, response: &protocol::ContainerAllocateResponse) {
        let mut env: Vec<_> = response.envs.clone().into_iter().collect();
        env.sort();
        self.env.extend(env);
        self.annotations.extend(response.annotations.clone());
        self.mounts.extend(response.mounts.iter().map(|m| cri::Mount {
            container_path: m.container_path.clone(),
            host_path: m.host_path.clone(),
            readonly: m.read_only,
            ..Default::default()
        }));
        self.devices.extend(response.devices.iter().map(|d| cri::Device {
            container_path: d.container_path.clone(),
            host_path: d.host_path.clone(),
            permissions: d.permissions.clone(),
        }));
        self.cdi.extend(response.cdi_devices.iter().map(|d| cri::CdiDevice { name: d.name.clone() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{serving, socket};
    use futures::StreamExt;
    use protocol::{
        AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, Empty, ListAndWatchResponse, PreStartContainerRequest,
    };
    use serde_json::json;
    use std::time::Duration;
    use tokio::net::UnixListener;
    use tonic::{Response, Status, server::Grpc};
    use tonic_prost::ProstCodec;

    /// A plugin with two devices at `socket`, which notes what starts.
    fn plugin(socket: &Path, started: Arc<Mutex<Vec<String>>>) -> CancellationToken {
        let listener = UnixListener::bind(socket).expect("a socket");
        let answer = move |call: serving::Call| {
            let started = started.clone();
            async move {
                match call.uri().path() {
                    "/v1beta1.DevicePlugin/ListAndWatch" => {
                        let device = |id: &str| Device { id: id.into(), health: protocol::HEALTHY.into(), topology: None };
                        let all = ListAndWatchResponse { devices: vec![device("a"), device("b")] };
                        let told = tower::service_fn(move |_: tonic::Request<Empty>| {
                            let told = futures::stream::iter([Ok(all.clone())]).chain(futures::stream::pending());
                            std::future::ready(Ok(Response::new(told)))
                        });
                        // Streaming is a trait of its own, which functions do not have.
                        Grpc::new(ProstCodec::<ListAndWatchResponse, Empty>::default()).server_streaming(Streams(told), call).await
                    }
                    "/v1beta1.DevicePlugin/Allocate" => {
                        let given = |request: AllocateRequest| {
                            let ids = request.container_requests[0].devices_ids.join(",");
                            let one = ContainerAllocateResponse { envs: [("DEVICES".to_owned(), ids)].into(), ..Default::default() };
                            std::future::ready(Ok(AllocateResponse { container_responses: vec![one] }))
                        };
                        serving::unary(call, given).await
                    }
                    "/v1beta1.DevicePlugin/PreStartContainer" => {
                        let noted = move |request: PreStartContainerRequest| {
                            started.lock().extend(request.devices_ids);
                            std::future::ready(Ok(Empty {}))
                        };
                        serving::unary(call, noted).await
                    }
                    _ => serving::unimplemented(&call),
                }
            }
        };
        let stop = CancellationToken::new();
        tokio::spawn(serving::serve(listener, stop.clone(), answer));
        stop
    }

    struct Streams<S>(S);

    impl<S, T> tonic::server::ServerStreamingService<Empty> for Streams<S>
    where
        S: tower::Service<tonic::Request<Empty>, Response = Response<T>, Error = Status>,
        T: futures::Stream<Item = Result<ListAndWatchResponse, Status>>,
    {
        type Response = ListAndWatchResponse;
        type ResponseStream = T;
        type Future = S::Future;

        fn call(&mut self, request: tonic::Request<Empty>) -> Self::Future {
            self.0.call(request)
        }
    }

    async fn register(dir: &Path, endpoint: &str) {
        let channel = loop {
            match socket::connect(&dir.join(registration::SOCKET)).await {
                Ok(channel) => break channel,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request = RegisterRequest {
            version: protocol::VERSION.into(),
            endpoint: endpoint.into(),
            resource_name: "example.com/d".into(),
            options: Some(protocol::Options { pre_start_required: true, get_preferred_allocation_available: false }),
        };
        let path = "/v1beta1.Registration/Register";
        let registered = socket::call::<_, Empty>(&channel, path, request, Duration::from_secs(10)).await;
        registered.expect("it registers");
    }

    fn pod(uid: &str, devices: u32) -> Pod {
        let container = json!({"name": "c", "resources": {"limits": {"example.com/d": devices.to_string(), "cpu": "1"}}});
        serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": [container]}})).expect("a pod")
    }

    async fn allocate(devices: &Devices, pod: &Pod) -> Result<(), Refusal> {
        Provider::allocate(devices, pod, &pod.spec.as_ref().expect("a spec").containers[0], Hint::default()).await
    }

    fn counted(devices: &Devices) -> (Option<String>, Option<String>) {
        let (all, healthy) = devices.amounts();
        let of = |amounts: Amounts| amounts.get("example.com/d").map(|q| q.0.clone());
        (of(all), of(healthy))
    }

    #[tokio::test]
    async fn a_plugins_devices_are_counted_given_and_remembered() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("device-plugins");
        let devices = Devices::new(root.path(), vec![0]).expect("a directory");
        let stop = CancellationToken::new();
        tokio::spawn(devices.clone().run(stop.clone()));
        let started = Arc::new(Mutex::new(Vec::new()));
        let running = plugin(&dir.join("d.sock"), started.clone());
        let mut changes = devices.changes();
        register(&dir, "d.sock").await;
        changes.changed().await.expect("its devices are told");
        assert_eq!(counted(&devices), (Some("2".into()), Some("2".into())));

        allocate(&devices, &pod("u", 2)).await.expect("there are two");
        let container = pod("u", 2).spec.expect("a spec").containers.remove(0);
        let extras = devices.start(&pod("u", 2), &container).await.expect("it may start");
        assert_eq!(extras.env, [("DEVICES".to_owned(), "a,b".to_owned())]);
        assert_eq!(*started.lock(), ["a", "b"]);
        let refused = allocate(&devices, &pod("v", 1)).await.expect_err("none is left");
        let why = "Allocate failed due to requested number of devices unavailable for example.com/d. Requested: 1, Available: 0, which is unexpected";
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), ("UnexpectedAdmissionError", why));

        running.cancel();
        changes.changed().await.expect("its end is told");
        assert_eq!(counted(&devices), (Some("2".into()), Some("0".into())));

        stop.cancel();
        let next = Devices::new(root.path(), vec![0]).expect("the directory is there");
        let extras = next.start(&pod("u", 2), &container).await.expect("what runs again needs no plugin");
        assert_eq!(extras.env, [("DEVICES".to_owned(), "a,b".to_owned())]);
        assert_eq!(counted(&next), (Some("0".into()), Some("0".into())));
        next.release("u");
        assert!(next.start(&pod("u", 2), &container).await.expect("nothing was given").env.is_empty());
    }
}
