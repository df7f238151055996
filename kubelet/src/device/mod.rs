//! Device plugins: programs that know of devices of the node, which containers ask for as extended resources (`limits: {example.com/d: 1}`) (upstream:
//! `pkg/kubelet/cm/devicemanager`).
//!
//! A plugin says that it is there at a socket of the kubelet's ([`registration`]) or is found in the directory of all plugins
//! ([`crate::plugin`], see [`Discovered`]), is then asked for its devices for as long as it runs ([`plugin`]), and for what
//! a container needs to use those that it is given. Who has which is in the [`ledger`], which is written down. The node's status counts them.
//!
//! Left out: topology hints and the health of devices in pods' statuses.

pub mod ledger;
pub mod plugin;
#[allow(missing_docs)] // The names are the interface's.
pub mod protocol;
pub mod registration;

use crate::{
    container::{identity, resources::Amounts},
    node::admission::Refusal,
    plugin::{self as plugins, Kind},
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use ledger::{Given, Ledger};
use parking_lot::Mutex;
use plugin::Plugin;
use protocol::RegisterRequest;
use std::{
    collections::{BTreeMap, HashMap},
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
    /// One pod at a time: what is chosen for one must be written down before the next is asked for.
    turn: tokio::sync::Mutex<()>,
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
    /// What the last kubelet wrote down below `root`, and no plugin yet.
    pub fn new(root: &Path) -> io::Result<Arc<Self>> {
        let dir = root.join("device-plugins");
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&dir)?;
        let ledger = match fs::read(dir.join(CHECKPOINT)) {
            // Of a file that somebody else wrote nothing is believed.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(error),
        };
        let (changes, _) = watch::channel(());
        Ok(Arc::new(Devices { dir, ledger: Mutex::new(ledger), endpoints: Mutex::default(), turn: tokio::sync::Mutex::default(), changes }))
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

    /// The devices that can be given out, by resource.
    pub fn healthy(&self) -> BTreeMap<String, Vec<String>> {
        self.ledger.lock().healthy()
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        let plugin = self.endpoints.lock().get(resource).and_then(|e| e.plugin.clone());
        plugin.ok_or_else(|| format!("unknown Device Plugin {resource}"))
    }

    /// Gives every container of a pod the devices that it asks for, or refuses the pod and gives it none.
    pub async fn allocate(&self, pod: &Pod) -> Result<(), Refusal> {
        let _turn = self.turn.lock().await;
        let given = self.allocate_all(pod).await;
        if given.is_err() {
            self.ledger.lock().release(identity::uid(pod));
        }
        given.map_err(|error| Refusal {
            reason: "UnexpectedAdmissionError".into(),
            message: format!("Allocate failed due to {error}, which is unexpected"),
        })
    }

    async fn allocate_all(&self, pod: &Pod) -> Result<(), String> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let uid = identity::uid(pod);
        let mut any = false;
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let needs = self.ledger.lock().needs(container);
            for (resource, size) in needs {
                let choice = self.ledger.lock().choice(uid, spec, &container.name, &resource, size)?;
                let plugin = self.plugin(&resource)?;
                let available = choice.reusable.union(&choice.free).cloned().collect();
                let preferred = plugin.preferred(available, choice.reusable.iter().cloned().collect(), size).await;
                let devices = choice.pick(&preferred.map_err(|status| format!("rpc error: {status}"))?);
                let response = plugin.allocate(&devices).await.map_err(|status| format!("rpc error: {status}"))?;
                self.ledger.lock().give(uid, &container.name, &resource, Given::new(devices, &response));
                any = true;
            }
        }
        if any {
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
                plugin.pre_start(&given.devices).await.map_err(|status| format!("PreStartContainer of {resource}: {status}"))?;
            }
            extras.add(&given.response());
        }
        Ok(extras)
    }

    /// Nothing of the pod runs any more.
    pub fn release(&self, uid: &str) {
        if self.ledger.lock().release(uid) {
            self.save();
        }
    }

    /// Writes the ledger down, the old one until the new one is there whole.
    fn save(&self) {
        let ledger = self.ledger.lock();
        let fresh = self.dir.join(format!("{CHECKPOINT}.new"));
        let written = serde_json::to_vec(&*ledger).map_err(io::Error::other).and_then(|bytes| {
            fs::write(&fresh, bytes)?;
            fs::rename(&fresh, self.dir.join(CHECKPOINT))
        });
        if let Err(error) = written {
            tracing::error!(%error, "who has which devices could not be written down");
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
                        let device = |id: &str| Device { id: id.into(), health: protocol::HEALTHY.into() };
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

    fn counted(devices: &Devices) -> (Option<String>, Option<String>) {
        let (all, healthy) = devices.amounts();
        let of = |amounts: Amounts| amounts.get("example.com/d").map(|q| q.0.clone());
        (of(all), of(healthy))
    }

    #[tokio::test]
    async fn a_plugins_devices_are_counted_given_and_remembered() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("device-plugins");
        let devices = Devices::new(root.path()).expect("a directory");
        let stop = CancellationToken::new();
        tokio::spawn(devices.clone().run(stop.clone()));
        let started = Arc::new(Mutex::new(Vec::new()));
        let running = plugin(&dir.join("d.sock"), started.clone());
        let mut changes = devices.changes();
        register(&dir, "d.sock").await;
        changes.changed().await.expect("its devices are told");
        assert_eq!(counted(&devices), (Some("2".into()), Some("2".into())));

        devices.allocate(&pod("u", 2)).await.expect("there are two");
        let container = pod("u", 2).spec.expect("a spec").containers.remove(0);
        let extras = devices.start(&pod("u", 2), &container).await.expect("it may start");
        assert_eq!(extras.env, [("DEVICES".to_owned(), "a,b".to_owned())]);
        assert_eq!(*started.lock(), ["a", "b"]);
        let refused = devices.allocate(&pod("v", 1)).await.expect_err("none is left");
        let why = "Allocate failed due to requested number of devices unavailable for example.com/d. Requested: 1, Available: 0, which is unexpected";
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), ("UnexpectedAdmissionError", why));

        running.cancel();
        changes.changed().await.expect("its end is told");
        assert_eq!(counted(&devices), (Some("2".into()), Some("0".into())));

        stop.cancel();
        let next = Devices::new(root.path()).expect("the directory is there");
        let extras = next.start(&pod("u", 2), &container).await.expect("what runs again needs no plugin");
        assert_eq!(extras.env, [("DEVICES".to_owned(), "a,b".to_owned())]);
        assert_eq!(counted(&next), (Some("0".into()), Some("0".into())));
        next.release("u");
        assert!(next.start(&pod("u", 2), &container).await.expect("nothing was given").env.is_empty());
    }
}
