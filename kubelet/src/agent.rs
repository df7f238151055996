//! A real node: flags and files become settings, the parts are put together and run until told to stop.

use crate::{
    certificate::{
        bootstrap,
        request::{Purpose, Wanted},
        rotation::{self, Renewed, Rotation},
        store::Store,
    },
    clock::Clock,
    config::{self, KubeletConfiguration},
    container::{
        network, security,
        swap::{self, Swap},
    },
    csi::{self, Csi},
    device::{Devices, Discovered},
    dynamic_resources::{Claims, drivers::Registrar},
    flags::Flags,
    image::{Images, access::Verification},
    lookup::Lookup,
    memory_manager::MemoryManager,
    metrics::Metrics,
    node::{
        self, Itself, Node, NodeFacts, Places,
        admission::Admission,
        cgroups::{Cgroups, Driver, Limits},
        eviction::threshold,
        machine::{self, Machine, Shares},
        registration::Registration,
        status::StatusFacts,
        usage::collect::own_group,
        user_namespaces::{Ids, UserNamespaces},
        vitals::Vitals,
    },
    pinning::{self, Pinning, topology::Topology},
    plugin,
    pod::workers::Workers,
    pod_resources,
    recorder::{About, Recorder},
    runtime::{Runtime, cri::Cri},
    server::{self, tls},
    source::{api, file, mirror::Mirrors},
    status_manager::StatusManager,
    topology_manager::{Provider, TopologyManager, machine::Numa},
};
use anyhow::{Context, bail};
use client::{EventRecorder, SharedCaches, connection::Renewable};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, Service, Taint};
use kube::{Api, Client, runtime::watcher};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How many images are pulled at once where nobody says: enough for anybody, and a bound still.
const UNLIMITED_PULLS: usize = 256;

/// Flags and file together, the flags first, checked.
pub fn settings(flags: &Flags) -> anyhow::Result<KubeletConfiguration> {
    let mut settings = config::read(flags.config.as_deref(), flags.config_dir.as_deref())?;
    fn overrule<T: Clone>(target: &mut T, flag: Option<&T>) {
        if let Some(value) = flag {
            target.clone_from(value);
        }
    }
    overrule(&mut settings.static_pod_path, flags.pod_manifest_path.as_ref());
    overrule(&mut settings.port, flags.port.as_ref());
    overrule(&mut settings.address, flags.address.as_ref());
    overrule(&mut settings.cgroup_root, flags.cgroup_root.as_ref());
    overrule(&mut settings.cgroup_driver, flags.cgroup_driver.as_ref());
    overrule(&mut settings.cluster_domain, flags.cluster_domain.as_ref());
    overrule(&mut settings.max_pods, flags.max_pods.as_ref());
    overrule(&mut settings.container_runtime_endpoint, flags.container_runtime_endpoint.as_ref());
    overrule(&mut settings.fail_swap_on, flags.fail_swap_on.as_ref());
    settings.rotate_certificates |= flags.rotate_certificates;
    settings.server_tls_bootstrap |= flags.rotate_server_certificates;
    overrule(&mut settings.pod_logs_dir, flags.pod_logs_dir.as_ref());
    if !flags.cluster_dns.is_empty() {
        settings.cluster_dns.clone_from(&flags.cluster_dns);
    }
    if let Some(path) = &flags.client_ca_file {
        settings.authentication.x509.client_ca_file = path.to_string_lossy().into_owned();
    }
    let wrong = config::validation::validate(&settings);
    match wrong.as_slice() {
        [] => {}
        [one] => bail!("failed to validate kubelet configuration, error: {one}"),
        many => bail!("failed to validate kubelet configuration, error: [{}]", many.join(", ")),
    }
    for field in settings.without_effect() {
        tracing::warn!(field, "this field of the configuration has no effect here");
    }
    Ok(settings)
}

/// `key=value:effect` or `key:effect`.
pub fn parse_taint(text: &str) -> anyhow::Result<Taint> {
    let (rest, effect) = text.rsplit_once(':').with_context(|| format!("invalid taint {text:?}: want key=value:effect"))?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        bail!("invalid taint {text:?}: unknown effect {effect:?}");
    }
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    Ok(Taint { key: key.into(), value: Some(value.to_owned()).filter(|v| !v.is_empty()), effect: effect.into(), ..Default::default() })
}

/// `key=value` pairs.
pub fn parse_labels(list: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("invalid label {text:?}: want key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    list.iter().filter(|l| !l.is_empty()).map(pair).collect()
}

/// Runs one real node until told to stop.
pub async fn run(flags: Flags, stop: CancellationToken) -> anyhow::Result<()> {
    let settings = settings(&flags)?;
    let machine_name = machine::host_name()?;
    let name = flags.hostname_override.clone().unwrap_or_else(|| machine_name.clone()).to_lowercase();
    fs::DirBuilder::new().recursive(true).mode(0o750).create(&flags.root_dir).context("making the root directory")?;
    let root = fs::canonicalize(&flags.root_dir)?;
    if settings.fail_swap_on && swap::is_on(&fs::read_to_string("/proc/swaps").unwrap_or_default()) {
        bail!("running with swap on is not supported, please disable swap or set --fail-swap-on flag to false");
    }
    let machine = machine::inspect(&root).context("reading what the machine is")?;
    let address = match &flags.node_ip {
        Some(ip) => ip.parse().with_context(|| format!("--node-ip {ip:?}"))?,
        None => machine::main_address()?,
    };
    let cert_dir = flags.cert_dir.clone().unwrap_or_else(|| root.join("pki"));
    let store = |purpose| Store::new(&cert_dir, rotation::prefix(purpose));
    if let Some(bootstrap) = &flags.bootstrap_kubeconfig {
        let kubeconfig = flags.kubeconfig.as_deref().context("--bootstrap-kubeconfig needs --kubeconfig, which it is to make")?;
        let own = store(Purpose::Client);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            joined = bootstrap::join(bootstrap, kubeconfig, &own, &name) => joined.context("joining the cluster")?,
        }
    }
    let connection = match &flags.kubeconfig {
        Some(path) => Some(Renewable::connect(path, "kubelet").await?),
        None => None,
    };
    let client = connection.as_ref().map(|(client, _)| client.clone());
    let metrics = Arc::<Metrics>::default();
    let runtime: Arc<dyn Runtime> = Arc::new(Cri::new(&settings.container_runtime_endpoint, metrics.clone()));
    let statuses = StatusManager::new(client.clone());
    let caches = client.clone().map(SharedCaches::new);
    let thresholds = threshold::parse(&settings).map_err(anyhow::Error::msg)?;
    let shares = Shares::of(&settings, &thresholds, machine.cpus).map_err(anyhow::Error::msg)?;
    let facts = NodeFacts {
        name: name.clone(),
        host_ips: vec![address.to_string()],
        capacity: machine::capacity(&machine, shares.pods),
        allocatable: machine::allocatable(&machine, &shares),
        memory: machine.memory,
        swap: Swap::of(
            &settings.memory_swap.swap_behavior,
            machine.swap,
            Path::new("/sys/fs/cgroup"),
            own_group(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
        ),
    };
    let logs = PathBuf::from(&settings.pod_logs_dir);
    let cgroups = Cgroups::detect(driver(&settings, runtime.as_ref()).await, &settings.cgroup_root)
        .with_process_limit(Some(settings.pod_pids_limit).filter(|most| *most > 0));
    enforce(&settings, &cgroups, &machine, &shares).await.context("Failed to enforce node allocatable")?;
    let per_pod = settings.user_namespaces.ids_per_pod();
    let users = Ids::of_machine(per_pod).context("kubelet mappings")?;
    let users = UserNamespaces::new(users, per_pod, settings.max_pods)
        .and_then(|users| users.recorded(&root))
        .context("create user namespace manager")?;
    let allowed = &settings.preloaded_images_verification_allowlist;
    let verification = Verification::of(&settings.image_pull_credentials_verification_policy, allowed).unwrap_or_default();
    let reserved = shares.reserved.get("cpu").map_or(0, |cpu| cpu.milli_value());
    let cpus = Topology::read(Path::new("/sys/devices/system")).context("reading which CPUs there are")?;
    let pinning = Pinning::of(&settings, reserved, cpus, &root)?;
    let numa = Numa::read(Path::new("/sys/devices/system"), &machine);
    let memory = MemoryManager::of(&settings, &shares.kept_memory(machine.memory), &numa, &root)?;
    let devices = Devices::new(&root, numa.nodes().collect()).context("the directory of device plugins")?;
    let mut providers: Vec<Arc<dyn Provider>> = vec![devices.clone()];
    providers.extend(pinning.clone().map(|cpus| cpus as Arc<dyn Provider>));
    providers.extend(memory.clone().map(|memory| memory as Arc<dyn Provider>));
    let resources = TopologyManager::of(&settings, numa, providers).context("the topology manager")?;
    let claims = Claims::new(&root, &name, client.clone()).context("the claims of dynamic resources")?;
    let itself = client.clone().zip(caches.as_ref()).map(|(client, caches)| Itself {
        cache: caches.selected::<NodeObject>(watcher::Config::default().fields(&format!("metadata.name={name}"))),
        api: Api::all(client),
    });
    let csi = client.clone().zip(caches.as_ref()).zip(itself.as_ref());
    let csi = csi.map(|((client, caches), itself)| Csi::new(&root, &name, client, caches, itself.cache.clone()));
    let node = Arc::new(Node {
        clock: Clock::Wall,
        facts: facts.clone(),
        runtime: runtime.clone(),
        events: Recorder(client.clone().map(|c| EventRecorder::core(c, "kubelet", &name))),
        lookup: Lookup::new(client.clone()),
        services: caches.as_ref().map(|c| c.of::<Service>()),
        images: Images::with_records(settings.parallel_pulls().unwrap_or(UNLIMITED_PULLS), &root, verification),
        longest_backoff: settings.crash_loop_back_off.longest(),
        admission: Admission::new(settings.allowed_unsafe_sysctls.clone(), machine::has_apparmor()),
        devices: Some(devices.clone()),
        pinning,
        memory,
        resources,
        claims: Some(claims.clone()),
        csi: csi.clone(),
        itself,
        cgroups: Some(cgroups),
        places: Some(Places { root: root.clone(), logs }),
        resolver: network::Resolver {
            cluster_dns: settings.cluster_dns.clone(),
            cluster_domain: settings.cluster_domain.clone(),
            host: read_resolver(&settings.resolv_conf),
        },
        users,
        security: security::Settings {
            seccomp_root: root.join("seccomp").to_string_lossy().into_owned(),
            seccomp_default: settings.seccomp_default,
        },
        statuses: statuses.clone(),
        vitals: Vitals { metrics, ..Default::default() },
    });
    let workers = Workers::new(node.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(devices.clone().run(stop.clone()));
    if node.pinning.is_some() {
        tasks.spawn(pinning::keep(node.clone(), stop.clone()));
    }
    claims.drivers.wipe_all();
    let mut kinds: Vec<Arc<dyn plugin::Kind>> = vec![Arc::new(Discovered(devices.clone())), Arc::new(Registrar(claims.drivers.clone()))];
    kinds.extend(csi.map(|csi| Arc::new(csi::Registrar(csi)) as Arc<dyn plugin::Kind>));
    tasks.spawn(plugin::watcher::follow(root.clone(), kinds, stop.clone()));
    let shown = pod_resources::Told {
        workers: workers.clone(),
        devices,
        claims: claims.clone(),
        pinning: node.pinning.clone(),
        memory: node.memory.clone(),
    };
    tasks.spawn(pod_resources::serve(root.clone(), shown, stop.clone()));

    let host_names = vec![name.clone(), machine_name.clone(), address.to_string()];
    let awaited = settings.server_tls_bootstrap && settings.tls_cert_file.is_empty();
    let serving = if awaited { tls::Serving::awaited() } else { tls::Serving::of_files(&settings, &cert_dir, &host_names)? };
    if let Some((client, renewable)) = &connection {
        let rotation = |purpose, names, renewed| Rotation {
            store: store(purpose),
            wanted: Wanted { purpose, node: name.clone(), names },
            client: client.clone(),
            renewed,
        };
        if awaited {
            let serving = serving.clone();
            let renewed: Renewed = Arc::new(move |pem| told("serving", serving.set(pem)));
            if let Some(pem) = store(Purpose::Serving).load() {
                renewed(&pem);
            }
            let names = vec![name.clone(), address.to_string()];
            tasks.spawn(rotation::keep(rotation(Purpose::Serving, names, renewed), stop.clone()));
        }
        // A certificate that somebody else put into the kubeconfig is somebody else's to renew.
        let own = store(Purpose::Client);
        if settings.rotate_certificates && flags.kubeconfig.as_deref().is_some_and(|path| bootstrap::names(path, &own.current())) {
            let renewable = renewable.clone();
            let renewed: Renewed = Arc::new(move |_| {
                let renewable = renewable.clone();
                tokio::spawn(async move { told("client", renewable.renew().await) });
            });
            tasks.spawn(rotation::keep(rotation(Purpose::Client, Vec::new(), renewed), stop.clone()));
        }
    }

    let (server_port, serving) = server::start(server::Options {
        settings: &settings,
        workers: workers.clone(),
        client: client.clone(),
        kubeconfig: flags.kubeconfig.clone(),
        serving,
        stop: stop.clone(),
    })
    .await
    .context("starting the server")?;
    tasks.spawn(serving);
    if let Some(port) = u16::try_from(settings.healthz_port).ok().filter(|port| *port > 0) {
        tasks.spawn(server::healthz_in_the_clear(settings.healthz_bind_address.clone(), port, stop.clone()));
    }

    let mirrors = client.clone().map(|c| Mirrors::new(c, &name));
    let (statics_read, mut statics_ready) = watch::channel(settings.static_pod_path.is_empty());
    if !settings.static_pod_path.is_empty() {
        let (workers, mirrors) = (workers.clone(), mirrors.clone());
        let mut known: Vec<Arc<Pod>> = Vec::new();
        let tell = move |pods: Vec<Arc<Pod>>| {
            for gone in known.iter().filter(|old| !pods.iter().any(|new| new.metadata.uid == old.metadata.uid)) {
                workers.remove(gone.metadata.uid.as_deref().unwrap_or_default());
            }
            for fresh in pods.iter().filter(|new| !known.iter().any(|old| old.metadata.uid == new.metadata.uid)) {
                workers.update(fresh.clone());
            }
            if let Some(mirrors) = &mirrors {
                mirrors.statics(&pods);
            }
            known = pods;
            statics_read.send_replace(true);
        };
        tasks.spawn(file::follow(PathBuf::from(&settings.static_pod_path), name.clone(), stop.clone(), tell));
    }

    let (sources_ready, ready) = watch::channel(false);
    let told_ready = ready.clone();
    tasks.spawn(workers.clone().follow_runtime(ready.clone(), stop.clone()));
    tasks.spawn(node::gc::containers::keep(workers.clone(), ready, stop.clone()));
    let images = node::gc::images::Keeper::new(
        workers.clone(),
        node::gc::images::Policy {
            high: i64::from(settings.image_gc_high_threshold_percent),
            low: i64::from(settings.image_gc_low_threshold_percent),
            minimum_age: settings.image_minimum_gc_age.0,
            maximum_age: settings.image_maximum_gc_age.0,
        },
        flags.pod_infra_container_image.clone().unwrap_or_default(),
    );
    tasks.spawn(images.clone().run(stop.clone()));
    let evictions = node::eviction::keeper::Settings {
        thresholds,
        transition: settings.eviction_pressure_transition_period.get(),
        max_grace: u64::try_from(settings.eviction_max_pod_grace_period).unwrap_or(0),
        pods_memory: shares.for_pods("memory", facts.memory),
        storage_limits: settings.local_storage_capacity_isolation,
    };
    tasks.spawn(node::eviction::keeper::keep(workers.clone(), evictions, images, stop.clone()));
    tasks.spawn(workers.node().clone().share_cpus(stop.clone()));
    tasks.spawn(node::shutdown::follow_logind(workers.clone(), node::shutdown::periods(&settings), stop.clone()));
    tasks.spawn(crate::pod::log_rotation::keep(
        workers.clone(),
        settings.container_log_max_size.clone(),
        usize::try_from(settings.container_log_max_files).unwrap_or(2),
        stop.clone(),
    ));

    let Some((client, caches)) = client.zip(caches) else {
        // The sender of an empty directory's channel is gone, which is an answer too.
        drop(statics_ready.wait_for(|ready| *ready).await);
        sources_ready.send_replace(true);
        tracing::info!(node = %name, port = server_port, "running static pods only");
        return finish(tasks, stop).await;
    };

    let status_facts = StatusFacts {
        name: name.clone(),
        host_name: name.clone(),
        addresses: facts.host_ips.clone(),
        machine,
        capacity: facts.capacity.clone(),
        allocatable: facts.allocatable.clone(),
        port: i32::from(server_port),
        max_images: usize::try_from(settings.node_status_max_images).ok(),
        pinned: node.pinning.is_some(),
    };
    let mut taints = settings.register_with_taints.clone();
    for text in flags.register_with_taints.iter().filter(|t| !t.is_empty()) {
        taints.push(parse_taint(text)?);
    }
    let registration = Registration {
        name: name.clone(),
        labels: parse_labels(&flags.node_labels)?,
        taints,
        pod_cidr: Some(settings.pod_cidr.clone()).filter(|c| !c.is_empty()),
        provider_id: Some(settings.provider_id.clone()).filter(|id| !id.is_empty()),
        register: settings.register_node,
        status: node::status::first(&status_facts, &node).await,
    };
    // Pods are watched at once; the server knows which are ours before it knows our node.
    let config = watcher::Config::default().fields(&format!("spec.nodeName={name}"));
    let pods = caches.selected::<Pod>(config);
    let (routed, to, keeper) = (workers.clone(), statuses.clone(), mirrors.clone());
    pods.subscribe(move |change| api::route(change, &routed, &to, keeper.as_deref()));
    node.events.normal(&About::node(&name), "Starting", "Starting kubelet.");
    tasks.spawn(async move {
        pods.wait_until_synced().await;
        drop(statics_ready.wait_for(|ready| *ready).await);
        sources_ready.send_replace(true);
    });
    tasks.spawn(claims.keep(workers.clone(), told_ready, stop.clone()));
    tasks.spawn(register_and_keep(client, registration, status_facts, node, settings, mirrors, stop.clone()));
    finish(tasks, stop).await
}

/// Registers the node and keeps its lease, its status and its mirrors.
async fn register_and_keep(
    client: Client,
    registration: Registration,
    facts: StatusFacts,
    node: Arc<Node>,
    settings: KubeletConfiguration,
    mirrors: Option<Arc<Mirrors>>,
    stop: CancellationToken,
) {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let Some(registered) = node::registration::register(&nodes, &registration, &stop).await else { return };
    tracing::info!(node = %registration.name, port = facts.port, "registered");
    if let Some(csi) = &node.csi
        && let Err(error) = csi.announce().await
    {
        tracing::warn!(error = format!("{error:#}"), "the CSINode could not be made; the first driver will make it");
    }
    let uid = registered.metadata.uid.unwrap_or_default();
    let lease = node::lease::keep(client, registration.name.clone(), uid.clone(), settings.node_lease_duration_seconds, stop.clone());
    let frequency =
        node::status::Frequency { look: settings.node_status_update_frequency.get(), report: settings.node_status_report_frequency.get() };
    let status = node::status::keep(nodes, facts, node, frequency, stop.clone());
    let mirrored = async {
        if let Some(mirrors) = mirrors {
            mirrors.run(uid, stop.clone()).await;
        }
    };
    tokio::join!(lease, status, mirrored);
}

/// Waits for the end: until told to stop, or a part fails in a way that it cannot go on from.
async fn finish(mut tasks: JoinSet<()>, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => {}
        Some(Err(error)) = tasks.join_next() => {
            stop.cancel();
            bail!("a part of the kubelet failed: {error}");
        }
    }
    // Containers go on running; the next kubelet takes them over.
    tasks.shutdown().await;
    Ok(())
}

/// Says that a new certificate could not be put in force.
fn told(which: &str, put: anyhow::Result<()>) {
    if let Err(error) = put {
        tracing::error!(certificate = which, error = format!("{error:#}"), "a new certificate could not be put in force");
    }
}

/// How the runtime makes cgroups, where it tells; else what the configuration says.
async fn driver(settings: &KubeletConfiguration, runtime: &dyn Runtime) -> Driver {
    match runtime.cgroup_driver().await {
        Ok(driver) => driver,
        Err(_) if settings.cgroup_driver == "systemd" => Driver::Systemd,
        Err(_) => Driver::Cgroupfs,
    }
}

/// Sets the limits that `enforceNodeAllocatable` asks for: of all pods together, and of the cgroups that something is reserved for.
async fn enforce(settings: &KubeletConfiguration, cgroups: &Cgroups, machine: &Machine, shares: &Shares) -> anyhow::Result<()> {
    let has = |word: &str| settings.enforce_node_allocatable.iter().any(|w| w == word);
    if has("pods") {
        let limits = Limits { memory: Some(shares.for_pods("memory", machine.memory)), ..Default::default() };
        cgroups.limit_pods(&limits).await.context("the pods' cgroup")?;
    }
    for (word, cgroup, reserved) in [
        ("kube-reserved", &settings.kube_reserved_cgroup, &settings.kube_reserved),
        ("system-reserved", &settings.system_reserved_cgroup, &settings.system_reserved),
    ] {
        let compressible = has(&format!("{word}-compressible"));
        if has(word) || compressible {
            let amount = |name: &str| reserved.get(name).and_then(|text| text.parse::<::api::quantity::Quantity>().ok());
            let limits = Limits {
                cpu: amount("cpu").map(|q| q.milli_value()),
                memory: amount("memory").map(|q| q.value()).filter(|_| !compressible),
                processes: amount("pid").map(|q| q.value()).filter(|_| !compressible),
            };
            cgroups.limit(Path::new(cgroup.trim_matches('/')), &limits).await.with_context(|| format!("{word}: {cgroup}"))?;
        }
    }
    Ok(())
}

/// The node's own resolver. Without the file pods get none from the node, which upstream warns of, too.
fn read_resolver(path: &str) -> k8s_cri::v1::DnsConfig {
    match fs::read_to_string(path) {
        Ok(text) => network::parse_resolv_conf(&text),
        Err(error) => {
            tracing::warn!(%path, %error, "no resolver configuration");
            k8s_cri::v1::DnsConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels_are_parsed_or_refused() {
        let taint = parse_taint("a=b:NoSchedule").expect("a taint");
        assert_eq!((taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()), ("a", Some("b"), "NoSchedule"));
        assert_eq!(parse_taint("a:NoExecute").expect("a taint").value, None);
        assert!(parse_taint("a=b").is_err() && parse_taint("a=b:x").is_err());
        assert_eq!(parse_labels(&["a=b".into()]).expect("labels")["a"], "b");
        assert!(parse_labels(&["a".into()]).is_err());
    }
}
