//! Making and starting what a plan asks for: a sandbox, and containers in it, with the events and the words for what goes wrong
//! (upstream: `kuberuntime_container.go`, `startContainer`).

use super::{
    actions::{KillReason, Role},
    hooks, kill,
    observed::{Instance, Observed},
    status::told_restarts,
};
use crate::{
    container::{
        config::{Ingredients, container_config},
        env_file,
        environment::{self, EnvError, Fetched, Sources, Unavailable},
        identity, network,
        sandbox::{SandboxContext, sandbox_config},
        security,
    },
    device::Extras,
    image::{self, NotStarted, Wanted},
    lookup::LookupError,
    node::{Node, admission::Refusal, user_namespaces},
    recorder::About,
    runtime::{self, Features, RuntimeError},
    volume::{
        self,
        setup::{self, Paths},
    },
};
use k8s_cri::v1::{CdiDevice, Image, Mount, NamespaceMode, PodSandboxConfig, UserNamespace};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Service, VolumeMount};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};
use tracing::Instrument;

/// What all containers of one pod are started with.
pub struct PodContext<'a> {
    /// The node.
    pub node: &'a Node,
    /// The pod.
    pub pod: &'a Pod,
    /// What was reported of it last.
    pub told: &'a PodStatus,
    /// Where its volumes are.
    pub volumes: &'a Paths,
    /// The images of its volumes that are not there.
    pub missing: &'a volume::image::Missing,
    /// Its sandbox's id.
    pub sandbox: &'a str,
    /// Its sandbox's configuration.
    pub sandbox_config: &'a PodSandboxConfig,
    /// Its addresses.
    pub ips: &'a [String],
}

/// The configuration of the pod's n-th sandbox.
pub async fn sandbox_for(node: &Node, pod: &Pod, attempt: u32) -> runtime::Result<PodSandboxConfig> {
    let users = node.user_namespace(pod).await?;
    let log_root = node.places.as_ref().map(|p| p.logs.to_string_lossy().into_owned()).unwrap_or_default();
    let cgroup_parent = node.cgroups.as_ref().map(|c| c.pod_parent(pod)).unwrap_or_default();
    let context = SandboxContext { node: &node.facts.name, log_root: &log_root, cgroup_parent, users, resolver: &node.resolver };
    Ok(sandbox_config(pod, attempt, &context))
}

/// Makes the pod's n-th sandbox, with its log directory, or says why not in an event. Answers with its id and its configuration.
pub async fn create_sandbox(node: &Node, pod: &Pod, attempt: u32) -> runtime::Result<(String, PodSandboxConfig)> {
    let made = make_sandbox(node, pod, attempt).await;
    node.vitals.metrics.sandbox(made.is_err());
    if let Err(error) = &made {
        node.events.warning(&About::pod(pod), "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
    }
    made
}

async fn make_sandbox(node: &Node, pod: &Pod, attempt: u32) -> runtime::Result<(String, PodSandboxConfig)> {
    let config = sandbox_for(node, pod, attempt).await?;
    if node.places.is_some() {
        fs::create_dir_all(&config.log_directory).map_err(|e| RuntimeError::Failed(format!("making the log directory: {e}")))?;
    }
    let handler = node.lookup.runtime_handler(pod).await;
    let handler = handler.map_err(|error| RuntimeError::Failed(format!("failed to get sandbox runtime: {error}")))?;
    network::verify_hostname(pod, &node.facts.name, &node.resolver.cluster_domain).map_err(RuntimeError::Failed)?;
    Ok((node.runtime.run_sandbox(config.clone(), &handler).await?, config))
}

/// Whether the runtime can make all that is mounted below a mount read-only with it, where a container asks for that.
async fn mounts_recursively(node: &Node, pod: &Pod, container: &Container) -> bool {
    let asked =
        container.volume_mounts.iter().flatten().any(|m| matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")));
    if !asked {
        return false;
    }
    let Ok(handler) = node.lookup.runtime_handler(pod).await else { return false };
    node.runtime.status().await.is_ok_and(|said| Features::of(&said, &handler).recursive_read_only)
}

/// Whether all that is mounted below a mount is to be read-only with it. `able`: the runtime can do that.
fn recursive(mount: &VolumeMount, able: bool) -> Result<bool, String> {
    let refused = |why: String| Err(format!("volume {:?} requested recursive read-only mode, but it is {why}", mount.name));
    let mode = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
    let propagation = mount.mount_propagation.as_deref().unwrap_or("None");
    match mode {
        "Disabled" => Ok(false),
        _ if mount.read_only != Some(true) => refused("not read-only".into()),
        _ if propagation != "None" => refused(format!("not compatible with propagation {propagation:?}")),
        "IfPossible" => Ok(able),
        "Enabled" if able => Ok(true),
        "Enabled" => refused("not supported by the runtime".into()),
        unknown => Err(format!("unknown recursive read-only mode {unknown:?}")),
    }
}

/// Why the node cannot run the pod at all, with the runtime it has (upstream: `pkg/kubelet/lifecycle`, the pod features' handler).
pub async fn unsupported(node: &Node, pod: &Pod) -> Option<Refusal> {
    let policy = pod.spec.as_ref()?.security_context.as_ref()?.supplemental_groups_policy.as_deref();
    // A runtime that does not answer is asked again when the sandbox is made.
    let lacks =
        policy == Some("Strict") && node.runtime.status().await.is_ok_and(|said| !Features::of(&said, "").supplemental_groups_policy);
    lacks.then(|| Refusal {
        reason: "SupplementalGroupsPolicyNotSupported".into(),
        message: "SupplementalGroupsPolicy=Strict is not supported in this node".into(),
    })
}

/// Starts one container. Whatever goes wrong comes back as the reason and message of its waiting state; the events are written here.
pub async fn start_container(context: &PodContext<'_>, role: Role, container: &Container, observed: &Observed) -> Result<(), NotStarted> {
    let started = try_start(context, role, container, observed).await;
    context.node.vitals.metrics.container(role, started.as_ref().err().map(|error| error.reason));
    started
}

async fn try_start(context: &PodContext<'_>, role: Role, container: &Container, observed: &Observed) -> Result<(), NotStarted> {
    let (node, pod) = (context.node, context.pod);
    let about = kill::about(pod, role, &container.name);
    let failed = |error: NotStarted| {
        let text = match error.reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => error.reason,
            _ => error.message.as_str(),
        };
        node.events.warning(&about, "Failed", format!("Error: {text}"));
        error
    };
    if let Some(lacking) = volume::image::lacks(container, context.missing) {
        node.events.warning(&about, "Failed", format!("Error: {}", lacking.message));
        return Err(lacking);
    }
    let image_name = container.image.clone().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref();
    let wanted = Wanted { pod, image: &image_name, policy, about: about.clone(), sandbox: context.sandbox_config };
    let image = image::ensure(node, &wanted).instrument(tracing::debug_span!("image")).await.map_err(failed)?;
    let last = observed.latest(&container.name);
    let restart_count = last.map_or_else(|| told_restarts(context.told, &container.name), |last| identity::restart_count(&last.status) + 1);
    let config = prepare(context, container, &image, restart_count).await;
    let mut config = config.map_err(|message| failed(NotStarted::new("CreateContainerConfigError", message)))?;
    if let (Role::Ephemeral, Some(target)) = (role, target_of(pod, &container.name, observed)) {
        let options = config.linux.as_mut().and_then(|l| l.security_context.as_mut()).and_then(|s| s.namespace_options.as_mut());
        if let Some(options) = options {
            options.pid = NamespaceMode::Target as i32;
            options.target_id = target;
        }
    }
    let id = node
        .runtime
        .create_container(context.sandbox, config, context.sandbox_config.clone())
        .instrument(tracing::debug_span!("create", container = %container.name))
        .await
        .map_err(|error| failed(NotStarted::new("CreateContainerError", error.to_string())))?;
    node.events.normal(&about, "Created", "Container created");
    let started = node.runtime.start_container(&id).instrument(tracing::debug_span!("start", container = %container.name)).await;
    started.map_err(|error| failed(NotStarted::new("RunContainerError", error.to_string())))?;
    node.events.normal(&about, "Started", "Container started");
    post_start(context, role, container, &id).await
}

/// The instance that an ephemeral container wants to share processes with.
fn target_of(pod: &Pod, name: &str, observed: &Observed) -> Option<String> {
    let ephemeral = pod.spec.as_ref()?.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    let target = ephemeral.target_container_name.as_deref().filter(|t| !t.is_empty())?;
    observed.latest(target).map(|i| i.status.id.clone())
}

/// Removes what no restart will look back to: of every container the running instance and the last one that ended stay, for its log and last state
/// (upstream's garbage collection keeps one, too).
pub async fn remove_old_instances(node: &Node, observed: &Observed) {
    let mut kept: HashMap<&str, usize> = HashMap::new();
    for instance in &observed.instances {
        let seen = kept.entry(instance.name()).or_default();
        *seen += 1;
        if *seen > 2
            && let Err(error) = node.runtime.remove_container(&instance.status.id).await
        {
            tracing::warn!(container = instance.name(), %error, "an old instance could not be removed");
        }
    }
}

async fn post_start(context: &PodContext<'_>, role: Role, container: &Container, id: &str) -> Result<(), NotStarted> {
    let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let (node, pod) = (context.node, context.pod);
    let ip = context.ips.first().map(String::as_str).unwrap_or_default();
    let Err(error) = hooks::run(node, hook, container, id, ip).await else { return Ok(()) };
    tracing::warn!(pod = %identity::described(pod), container = %container.name, %error, "postStart hook failed");
    node.events.warning(&kill::about(pod, role, &container.name), "FailedPostStartHook", "PostStartHook failed");
    let status = node.runtime.container_status(id).await.map_err(|e| NotStarted::new("PostStartHookError", e.to_string()))?;
    let instance = Instance { sandbox: context.sandbox.to_owned(), status };
    if let Err(error) = kill::kill_container(node, pod, &instance, "FailedPostStartHook", None::<KillReason>, None).await {
        tracing::warn!(pod = %identity::described(pod), container = %container.name, %error, "the container could not be stopped");
    }
    Err(NotStarted::new("PostStartHookError", "PostStartHook failed"))
}

/// The container's configuration, and its log directory made.
async fn prepare(
    context: &PodContext<'_>,
    container: &Container,
    image: &Image,
    restart_count: u32,
) -> Result<k8s_cri::v1::ContainerConfig, String> {
    let (node, pod) = (context.node, context.pod);
    let image_uid = image.uid.as_ref().map(|u| u.value);
    security::verify_non_root(pod, container, image_uid, &image.username)?;
    let mut env = container_environment(context, container).await.map_err(|e| e.0)?;
    let mut devices = match &node.devices {
        Some(devices) => devices.start(pod, container).await?,
        None => Extras::default(),
    };
    if let Some(claims) = &node.claims {
        devices.cdi.extend(claims.devices(pod, container)?.into_iter().map(|name| CdiDevice { name }));
    }
    // What the container sets itself wins over what its devices set.
    let own: HashSet<&String> = env.iter().map(|(name, _)| name).collect();
    let of_devices: Vec<_> = std::mem::take(&mut devices.env).into_iter().filter(|(name, _)| !own.contains(name)).collect();
    env.extend(of_devices);
    devices.devices.extend(setup::devices(container, context.volumes).map_err(|e| e.0)?);
    let mut mounts = std::mem::take(&mut devices.mounts);
    // A simulated node has no volumes, so nothing is mounted.
    if let Some(places) = &node.places {
        let able = mounts_recursively(node, pod, container).await;
        let mut of_volumes =
            setup::mounts(container, context.volumes, &setup::pod_dir(&places.root, identity::uid(pod)), &env).map_err(|e| e.0)?;
        for (mount, wanted) in of_volumes.iter_mut().zip(container.volume_mounts.iter().flatten()) {
            mount.recursive_read_only = recursive(wanted, able)?;
        }
        mounts.extend(of_volumes);
        mounts.extend(own_files(context, places.root.as_path(), container).map_err(|e| e.to_string())?);
        let directory = Path::new(&context.sandbox_config.log_directory).join(&container.name);
        fs::create_dir_all(directory).map_err(|e| e.to_string())?;
    }
    let given = Ingredients {
        restart_count,
        image_ref: image.id.clone(),
        image_uid,
        image_username: &image.username,
        env,
        devices,
        mounts,
        users: users_of(context.sandbox_config),
        security: &node.security,
        memory_capacity: node.facts.memory,
        swap: node.facts.swap,
        memory_nodes: node.memory.as_ref().map(|memory| memory.nodes(identity::uid(pod), &container.name)).unwrap_or_default(),
        cpus: node.pinning.as_ref().map(|pinning| pinning.cpus(identity::uid(pod), &container.name)).unwrap_or_default(),
    };
    Ok(container_config(pod, container, given))
}

/// The namespace of the users in a sandbox.
fn users_of(sandbox: &PodSandboxConfig) -> UserNamespace {
    let context = sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.as_ref()?.userns_options.clone()).unwrap_or_else(user_namespaces::of_node)
}

async fn container_environment(context: &PodContext<'_>, container: &Container) -> Result<Vec<(String, String)>, EnvError> {
    let (node, pod) = (context.node, context.pod);
    let (map_names, secret_names) = environment::references(container);
    let mut config_maps: BTreeMap<String, Fetched<_>> = BTreeMap::new();
    for name in map_names {
        let found = node.lookup.config_map(pod, name).await.map_err(unavailable);
        config_maps.insert(name.to_owned(), found);
    }
    let mut secrets: BTreeMap<String, Fetched<_>> = BTreeMap::new();
    for name in secret_names {
        let found = node.lookup.secret(pod, name).await.map_err(unavailable);
        secrets.insert(name.to_owned(), found);
    }
    let mut files: BTreeMap<(String, String), Fetched<_>> = BTreeMap::new();
    for (volume, path) in environment::file_references(container) {
        files.entry((volume.to_owned(), path.to_owned())).or_insert_with(|| env_file(context.volumes, volume, path).map(Arc::new));
    }
    let services = visible_services(node, pod).await;
    let sources = Sources {
        config_maps: &config_maps,
        secrets: &secrets,
        files: &files,
        services: &services,
        pod_ips: context.ips,
        host_ips: &node.facts.host_ips,
        allocatable: &node.facts.allocatable,
    };
    environment::environment(pod, container, &sources)
}

fn unavailable(error: LookupError) -> Unavailable {
    Unavailable { missing: error.is_missing(), error: EnvError(error.to_string()) }
}

/// The largest environment file (upstream: 64 KiB).
const MAX_ENV_FILE: u64 = 64 * 1024;

/// The variables in a file of a volume, which has to be in it really.
fn env_file(volumes: &Paths, volume: &str, path: &str) -> Result<BTreeMap<String, String>, Unavailable> {
    let missing = || Unavailable { error: EnvError(format!("file {path:?} not found in volume {volume:?}")), missing: true };
    let wrong = |text: String| Unavailable { error: EnvError(text), missing: false };
    let root = fs::canonicalize(&volumes.get(volume).ok_or_else(missing)?.path).map_err(|_| missing())?;
    let file = fs::canonicalize(root.join(path)).map_err(|_| missing())?;
    let metadata = fs::metadata(&file).map_err(|_| missing())?;
    if !file.starts_with(&root) || !metadata.is_file() {
        return Err(missing());
    }
    if metadata.len() > MAX_ENV_FILE {
        return Err(wrong(format!("file {path:?} in volume {volume:?} has more than {MAX_ENV_FILE} bytes")));
    }
    let text = fs::read_to_string(&file).map_err(|error| wrong(format!("reading file {path:?} of volume {volume:?}: {error}")))?;
    env_file::parse(&text).map_err(|error| wrong(format!("file {path:?} of volume {volume:?}: {error}")))
}

async fn visible_services(node: &Node, pod: &Pod) -> Vec<Arc<Service>> {
    let Some(cache) = &node.services else { return Vec::new() };
    if !identity::is_static(pod) {
        // A pod that started before the services are known would lack their variables for good.
        cache.wait_until_synced().await;
    }
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let namespace = identity::namespace(pod);
    let mut found = if links { cache.in_namespace(namespace) } else { Vec::new() };
    found.extend(cache.get(&client::ObjectKey::new("default", "kubernetes")).filter(|_| !links || namespace != "default"));
    found.retain(|service| environment::service_is_visible(service, namespace, links));
    found
}

/// Files that the kubelet makes for a container: the hosts file, shared by the pod, and the termination log, new for every instance.
fn own_files(context: &PodContext<'_>, root: &Path, container: &Container) -> io::Result<Vec<Mount>> {
    let (node, pod) = (context.node, context.pod);
    let dir = setup::pod_dir(root, identity::uid(pod));
    let mut mounts = Vec::new();
    if !setup::mounts_at(container, "/etc/hosts") {
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let host_file = if host_network { fs::read_to_string("/etc/hosts")? } else { String::new() };
        let text = network::hosts_file(pod, &node.facts.name, &node.resolver.cluster_domain, context.ips, &host_file);
        let path = dir.join("etc-hosts");
        fs::create_dir_all(&dir)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        mounts.push(setup::file_mount(&path, "/etc/hosts"));
    }
    let message_path = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    if let Some(message_path) = message_path {
        let dir = dir.join("containers").join(&container.name);
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{:08x}", rand::random::<u32>()));
        fs::write(&path, [])?;
        // The process may run as anybody.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        mounts.push(setup::file_mount(&path, message_path));
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn recursive_read_only_is_what_the_runtime_can_do() {
        for (mount, able, want) in [
            (json!({}), true, Ok(false)),
            (json!({"recursiveReadOnly": "Disabled"}), true, Ok(false)),
            (json!({"recursiveReadOnly": "IfPossible", "readOnly": true}), true, Ok(true)),
            (json!({"recursiveReadOnly": "IfPossible", "readOnly": true}), false, Ok(false)),
            (json!({"recursiveReadOnly": "Enabled", "readOnly": true}), true, Ok(true)),
            (json!({"recursiveReadOnly": "Enabled", "readOnly": true}), false, Err("not supported by the runtime")),
            (json!({"recursiveReadOnly": "Enabled"}), true, Err("not read-only")),
            (
                json!({"recursiveReadOnly": "Enabled", "readOnly": true, "mountPropagation": "Bidirectional"}),
                true,
                Err("not compatible with propagation \"Bidirectional\""),
            ),
        ] {
            let mut named = json!({"name": "v", "mountPath": "/v"});
            named.as_object_mut().expect("an object").extend(mount.as_object().expect("an object").clone());
            let mount: VolumeMount = serde_json::from_value(named).expect("a mount");
            let want = want.map_err(|why| format!("volume \"v\" requested recursive read-only mode, but it is {why}"));
            assert_eq!(recursive(&mount, able), want);
        }
    }
}
