//! Claims of devices on a real node, with a driver of the test's own: prepared before the pod's containers start, taken back when they have ended.

use kubelet::dynamic_resources::protocol::{Device, PrepareResponse, Prepared, Request, UnprepareResponse, Unprepared};
use kubelet::plugin::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use kubelet::plugin::serving::{self, Answer, Call};
use kubelet::plugin::socket::{call, connect};
use kubelet::pod_resources::protocol::{Empty, GetRequest, GetResponse, ListResponse};
use skiff_testing::{Cluster, Kubectl, eventually};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// How long the kubelet may take to say who has what.
const LIMIT: Duration = Duration::from_secs(30);

/// What a driver was asked, and what it is to answer.
#[derive(Default)]
struct State {
    /// `prepare name` and `unprepare name`, in order.
    calls: Vec<String>,
    registered: bool,
    /// What it says instead of preparing.
    error: String,
}

/// A driver that runs until dropped.
struct Driver {
    name: String,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
    registration: PathBuf,
    threads: tokio::runtime::Runtime,
}

impl Driver {
    /// Serves, and says so in the directory of all plugins.
    fn start(root: &Path, name: &str) -> Self {
        let directory = root.join("plugins").join(name);
        fs::create_dir_all(&directory).expect("the kubelet's directory is ours");
        let (endpoint, registration) = (directory.join("dra.sock"), root.join("plugins_registry").join(format!("{name}-reg.sock")));
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let (state, stop) = (Arc::<Mutex<State>>::default(), CancellationToken::new());
        let info = PluginInfo {
            kind: "DRAPlugin".into(),
            name: name.into(),
            endpoint: endpoint.display().to_string(),
            supported_versions: vec!["v1.DRAPlugin".into()],
        };
        for socket in [&endpoint, &registration] {
            let _ = fs::remove_file(socket);
            let (state, info, stop) = (state.clone(), info.clone(), stop.clone());
            let _entered = threads.enter();
            let listener = UnixListener::bind(socket).expect("a socket");
            threads.spawn(serving::serve(listener, stop, move |call| answer(call, info.clone(), state.clone())));
        }
        Driver { name: name.to_owned(), state, stop, registration, threads }
    }

    fn calls(&self) -> Vec<String> {
        self.state.lock().expect("nobody panicked").calls.clone()
    }

    fn fail(&self, error: &str) {
        self.state.lock().expect("nobody panicked").error = error.to_owned();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.registration);
        self.stop.cancel();
    }
}

async fn answer(call: Call, info: PluginInfo, state: Arc<Mutex<State>>) -> Answer {
    let path = call.uri().path().to_owned();
    let note = move |state: &Mutex<State>, what: &str, request: &Request| {
        let mut state = state.lock().expect("nobody panicked");
        state.calls.extend(request.claims.iter().map(|claim| format!("{what} {}", claim.name)));
        state.error.clone()
    };
    match path.rsplit('/').next().unwrap_or_default() {
        "GetInfo" => serving::unary(call, move |_: InfoRequest| std::future::ready(Ok(info.clone()))).await,
        "NotifyRegistrationStatus" => {
            let told = move |status: RegistrationStatus| {
                state.lock().expect("nobody panicked").registered = status.plugin_registered;
                std::future::ready(Ok(RegistrationStatusResponse {}))
            };
            serving::unary(call, told).await
        }
        "NodePrepareResources" => {
            let prepare = move |request: Request| {
                let error = note(&state, "prepare", &request);
                let device = Device { pool_name: "pool".into(), device_name: "d-0".into(), ..Default::default() };
                let prepared = Prepared { devices: vec![device], error };
                let claims = request.claims.into_iter().map(|claim| (claim.uid, prepared.clone())).collect();
                std::future::ready(Ok(PrepareResponse { claims }))
            };
            serving::unary(call, prepare).await
        }
        "NodeUnprepareResources" => {
            let unprepare = move |request: Request| {
                note(&state, "unprepare", &request);
                let claims = request.claims.into_iter().map(|claim| (claim.uid, Unprepared::default())).collect();
                std::future::ready(Ok(UnprepareResponse { claims }))
            };
            serving::unary(call, unprepare).await
        }
        _ => serving::unimplemented(&call),
    }
}

/// What the kubelet's socket for whoever measures devices says of the pod `user`: claim, driver, pool and device.
fn devices_of(driver: &Driver, cluster: &Cluster, namespace: &str) -> Vec<(String, String, String, String)> {
    let socket = cluster.run_dir().join("kubelet/pod-resources/kubelet.sock");
    let request = GetRequest { pod_name: "user".into(), pod_namespace: namespace.into() };
    let (got, listed) = driver.threads.block_on(async {
        let channel = connect(&socket).await.expect("the kubelet listens");
        let got: GetResponse = call(&channel, "/v1.PodResourcesLister/Get", request, LIMIT).await.expect("an answer");
        let listed: ListResponse = call(&channel, "/v1.PodResourcesLister/List", Empty {}, LIMIT).await.expect("an answer");
        (got.pod_resources.expect("the pod is known"), listed.pod_resources)
    });
    assert!(listed.contains(&got), "{got:?} in {listed:?}");
    let claims = got.containers.into_iter().flat_map(|container| container.dynamic_resources);
    claims
        .flat_map(|claim| {
            let devices = claim.claim_resources.into_iter();
            devices.map(move |d| (claim.claim_name.clone(), d.driver_name, d.pool_name, d.device_name)).collect::<Vec<_>>()
        })
        .collect()
}

/// A driver of devices of the shared node, which its kubelet knows.
fn registered(cluster: &Cluster, k: &Kubectl<'_>) -> Driver {
    let driver = Driver::start(&cluster.run_dir().join("kubelet"), &format!("{}.example.com", k.namespace));
    eventually("the driver is told that it is registered", 60, || driver.state.lock().expect("nobody panicked").registered);
    driver
}

/// The driver's class, with more to its spec, and its one device, as a manifest.
fn device(k: &Kubectl<'_>, name: &str, more: &str) -> String {
    let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    format!(
        "apiVersion: resource.k8s.io/v1\nkind: DeviceClass\nmetadata: {{name: {name}}}\nspec: {{{more}selectors: [{{cel: {{expression: \"device.driver == '{name}'\"}}}}]}}\n---\n\
         apiVersion: resource.k8s.io/v1\nkind: ResourceSlice\nmetadata: {{name: {name}}}\nspec: {{driver: {name}, nodeName: {node}, pool: {{name: pool, generation: 1, resourceSliceCount: 1}}, devices: [{{name: d-0}}]}}\n"
    )
}

/// Proves SCH-02 and POD-13 for devices: a pod with a claim runs once its driver has prepared it, is told what keeps it from that, and gives it back.
#[test]
fn a_driver_prepares_what_a_pod_claims() {
    let cluster = Cluster::shared();
    let k = Kubectl::ours(cluster, "devices");
    let driver = registered(cluster, &k);
    let name = driver.name.clone();
    driver.fail("no luck");
    k.apply(&format!(
        "{}---\n\
         apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\nmetadata: {{name: claim}}\nspec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: {name}}}}}]}}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: user}}\nspec:\n  terminationGracePeriodSeconds: 0\n  resourceClaims: [{{name: c, resourceClaimName: claim}}]\n  \
         containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '1000'], resources: {{claims: [{{name: c}}]}}}}]\n",
        device(&k, &name, "")
    ));
    let why =
        "Failed to prepare dynamic resources: prepare dynamic resources: NodePrepareResources failed for ResourceClaim claim: no luck";
    eventually("the pod is told what keeps it", 60, || {
        k.events("user").iter().any(|(reason, text)| reason == "FailedPrepareDynamicResources" && text == why)
    });
    assert_eq!(k.field("pod", "user", "{.status.phase}"), "Pending");
    assert_eq!(k.field("resourceclaim", "claim", "{.status.allocation.devices.results[0].device}"), "d-0");
    driver.fail("");
    k.until_phase("user", "Running");
    assert_eq!(devices_of(&driver, cluster, &k.namespace), [("claim".to_owned(), name.clone(), "pool".to_owned(), "d-0".to_owned())]);
    k.ok(&["delete", "pod", "user", "--now"]);
    eventually("it is taken back", 60, || driver.calls().last().is_some_and(|call| call == "unprepare claim"));
    k.until("resourceclaim", "claim", "{.status.allocation}", "");
    k.ok(&["delete", "resourceclaim", "claim"]);

    drop(driver);
    // It might only be replaced, so its devices stay for half a minute.
    eventually("what a driver published goes with it", 180, || k.run(&["get", "resourceslice", &name]).code != 0);
    k.ok(&["delete", "deviceclass", &name]);
}

/// Proves SCH-02 for extended resources: a pod that only counts what it wants gets a class's devices, and what was made for it goes with it.
#[test]
fn a_class_of_devices_can_be_an_extended_resource() {
    let cluster = Cluster::shared();
    let k = Kubectl::ours(cluster, "gpus");
    let driver = registered(cluster, &k);
    let name = driver.name.clone();
    k.apply(&format!(
        "{}---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: user}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '1000'], resources: {{limits: {{{name}/gpu: 1}}}}}}]\n",
        device(&k, &name, &format!("extendedResourceName: {name}/gpu, "))
    ));
    k.until_phase("user", "Running");
    let claim = k.field("pod", "user", "{.status.extendedResourceClaimStatus.resourceClaimName}");
    assert!(claim.starts_with("user-extended-resources-"), "{claim}");
    assert_eq!(k.field("resourceclaim", &claim, "{.status.allocation.devices.results[0].device}"), "d-0");
    assert_eq!(devices_of(&driver, cluster, &k.namespace), [(claim.clone(), name.clone(), "pool".to_owned(), "d-0".to_owned())]);
    k.ok(&["delete", "pod", "user", "--now"]);
    eventually("it is taken back", 60, || driver.calls().last().is_some_and(|call| *call == format!("unprepare {claim}")));
    eventually("the claim goes with its pod", 60, || k.run(&["get", "resourceclaim", &claim]).code != 0);
    k.ok(&["delete", "resourceslice,deviceclass", &name]);
}
