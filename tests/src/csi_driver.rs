//! A driver of volumes for tests: it serves the kubelet's side of the Container Storage Interface from the test's own process, keeps each volume in a directory, and
//! notes what it is asked. Attaching is left to the test, which writes the attachments' statuses itself.

use kubelet::{
    csi::protocol::{
        Ability, CapabilitiesResponse, Empty, ExpandRequest, ExpandResponse, InfoResponse, NodeCapability, PublishRequest, Rpc,
        StageRequest, StatsRequest, StatsResponse, Topology, UnpublishRequest, UnstageRequest, VolumeUsage,
    },
    plugin::{
        registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse},
        serving::{self, Answer, Call},
    },
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// What every driver of tests says of itself: at most this many volumes on a node.
pub const MOST_VOLUMES: i64 = 7;
/// What it says is used of any volume, in bytes.
pub const USED: i64 = 4096;

/// What the driver has been asked, and what it knows.
#[derive(Debug, Default)]
pub struct Asked {
    /// The calls in their order: `stage HANDLE`.
    pub calls: Vec<String>,
    /// The last request to publish.
    pub publish: Option<PublishRequest>,
    /// The last request to stage.
    pub stage: Option<StageRequest>,
    /// The last request to expand.
    pub expand: Option<ExpandRequest>,
    /// What fails from now on, and why: `stage`, `unstage`, `publish` and `expand`.
    pub failing: HashMap<&'static str, Status>,
}

/// A running driver. It ends with this value, and its sockets with it.
pub struct CsiDriver {
    /// Its name.
    pub name: String,
    inner: Arc<Inner>,
    sockets: [PathBuf; 2],
    /// Runs for as long as the driver does.
    _threads: tokio::runtime::Runtime,
}

struct Inner {
    name: String,
    /// Where volumes are kept, each under its handle: a directory, or a link to a device.
    volumes: PathBuf,
    asked: Mutex<Asked>,
}

impl CsiDriver {
    /// Starts a driver beside a kubelet, whose root directory is given. It keeps its volumes below `volumes`.
    pub fn start(kubelet: &Path, name: &str, volumes: &Path) -> Self {
        let own = kubelet.join("plugins").join(name);
        fs::create_dir_all(&own).expect("the kubelet's directory can be written");
        fs::create_dir_all(volumes).expect("the volumes' directory can be made");
        let endpoint = own.join("csi.sock");
        let registration = kubelet.join("plugins_registry").join(format!("{name}-reg.sock"));
        let inner = Arc::new(Inner { name: name.to_owned(), volumes: volumes.to_owned(), asked: Mutex::default() });
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread");
        let sockets = [endpoint.clone(), registration];
        for socket in &sockets {
            let listener = threads.block_on(async { UnixListener::bind(socket) }).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
            let (inner, endpoint) = (inner.clone(), endpoint.clone());
            threads.spawn(serving::serve(listener, CancellationToken::new(), move |call| inner.clone().answer(call, endpoint.clone())));
        }
        CsiDriver { name: name.to_owned(), inner, sockets, _threads: threads }
    }

    /// What it has been asked.
    pub fn asked(&self) -> MutexGuard<'_, Asked> {
        self.inner.asked()
    }

    /// How often it has been asked this.
    pub fn count(&self, call: &str) -> usize {
        self.asked().calls.iter().filter(|made| *made == call).count()
    }
}

impl Drop for CsiDriver {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // The cluster may have been ended with all its directories.
            drop(fs::remove_file(socket));
        }
    }
}

impl Inner {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no test panics while it looks")
    }

    async fn answer(self: Arc<Self>, call: Call, endpoint: PathBuf) -> Answer {
        let path = call.uri().path().to_owned();
        match path.rsplit('/').next().unwrap_or_default() {
            "GetInfo" => {
                let info = PluginInfo {
                    kind: "CSIPlugin".into(),
                    name: self.name.clone(),
                    endpoint: endpoint.display().to_string(),
                    supported_versions: vec!["1.0.0".into()],
                };
                respond(call, move |_: InfoRequest| Ok(info.clone())).await
            }
            "NotifyRegistrationStatus" => {
                respond(call, move |status: RegistrationStatus| {
                    self.asked().calls.push(format!("registered {}", status.plugin_registered));
                    Ok(RegistrationStatusResponse {})
                })
                .await
            }
            "NodeGetInfo" => {
                let segments = [(format!("topology.{}/node", self.name), "here".to_owned())].into();
                let info = InfoResponse {
                    node_id: "here".into(),
                    max_volumes_per_node: MOST_VOLUMES,
                    accessible_topology: Some(Topology { segments }),
                };
                respond(call, move |_: Empty| Ok(info.clone())).await
            }
            "NodeGetCapabilities" => {
                let abilities = [Ability::StageUnstageVolume, Ability::GetVolumeStats, Ability::ExpandVolume];
                let capabilities = abilities.map(|able| NodeCapability { rpc: Some(Rpc { r#type: able as i32 }) }).to_vec();
                respond(call, move |_: Empty| Ok(CapabilitiesResponse { capabilities: capabilities.clone() })).await
            }
            "NodeStageVolume" => respond(call, move |request| self.stage(request)).await,
            "NodeUnstageVolume" => respond(call, move |request| self.unstage(request)).await,
            "NodePublishVolume" => respond(call, move |request| self.publish(request)).await,
            "NodeUnpublishVolume" => respond(call, move |request| self.unpublish(request)).await,
            "NodeGetVolumeStats" => {
                let usage = VolumeUsage { available: USED, total: 2 * USED, used: USED, unit: 1 };
                respond(call, move |_: StatsRequest| Ok(StatsResponse { usage: vec![usage.clone()] })).await
            }
            "NodeExpandVolume" => {
                respond(call, move |request: ExpandRequest| {
                    self.attempt("expand", &request.volume_id)?;
                    let capacity_bytes = request.capacity_range.as_ref().map_or(0, |range| range.required_bytes);
                    self.asked().expand = Some(request);
                    Ok(ExpandResponse { capacity_bytes })
                })
                .await
            }
            _ => serving::unimplemented(&call),
        }
    }

    fn note(&self, verb: &str, handle: &str) {
        self.asked().calls.push(format!("{verb} {handle}"));
    }

    /// The same for what may have to fail.
    fn attempt(&self, verb: &str, handle: &str) -> Result<(), Status> {
        self.note(verb, handle);
        self.asked().failing.get(verb).cloned().map_or(Ok(()), Err)
    }

    /// A volume that is a directory is bound where it is to be staged; a device is nothing that has to be prepared.
    fn stage(&self, request: StageRequest) -> Result<Empty, Status> {
        self.attempt("stage", &request.volume_id)?;
        let is_device = request.volume_capability.as_ref().is_some_and(|capability| capability.block.is_some());
        if !is_device {
            let volume = self.volumes.join(&request.volume_id);
            fs::create_dir_all(&volume).and_then(|()| bind(&volume, Path::new(&request.staging_target_path))).map_err(internal)?;
        }
        self.asked().stage = Some(request);
        Ok(Empty {})
    }

    fn unstage(&self, request: UnstageRequest) -> Result<Empty, Status> {
        self.attempt("unstage", &request.volume_id)?;
        unbind(Path::new(&request.staging_target_path)).map_err(internal)?;
        Ok(Empty {})
    }

    fn publish(&self, request: PublishRequest) -> Result<Empty, Status> {
        self.attempt("publish", &request.volume_id)?;
        let target = PathBuf::from(&request.target_path);
        let volume = self.volumes.join(&request.volume_id);
        let is_device = request.volume_capability.as_ref().is_some_and(|capability| capability.block.is_some());
        let done = if is_device {
            fs::write(&target, []).and_then(|()| bind(&fs::canonicalize(&volume)?, &target))
        } else {
            let source = if request.staging_target_path.is_empty() { volume } else { PathBuf::from(&request.staging_target_path) };
            fs::create_dir_all(&source).and_then(|()| fs::create_dir_all(&target)).and_then(|()| bind(&source, &target))
        };
        done.map_err(internal)?;
        self.asked().publish = Some(request);
        Ok(Empty {})
    }

    fn unpublish(&self, request: UnpublishRequest) -> Result<Empty, Status> {
        self.note("unpublish", &request.volume_id);
        let target = Path::new(&request.target_path);
        unbind(target).map_err(internal)?;
        Ok(Empty {})
    }
}

/// Answers at once, from a function that may be asked again.
async fn respond<Q, A>(call: Call, answer: impl Fn(Q) -> Result<A, Status> + Clone + Send + Sync + 'static) -> Answer
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    serving::unary(call, move |request| std::future::ready(answer(request))).await
}

fn internal(error: io::Error) -> Status {
    Status::internal(error.to_string())
}

/// Whether something is mounted there.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|target| Path::new(target) == path))
}

/// Binds once: who asks twice has what he wants.
fn bind(source: &Path, target: &Path) -> io::Result<()> {
    if is_mounted(target)? {
        return Ok(());
    }
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn unbind(target: &Path) -> io::Result<()> {
    while is_mounted(target)? {
        umount2(target, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}
