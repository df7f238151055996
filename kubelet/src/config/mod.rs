//! KubeletConfiguration (`kubelet.config.k8s.io/v1beta1`), whole: upstream's fields, defaults ([`KubeletConfiguration`]) and checks ([`validation`]).
//!
//! A stock file is written with Go's zero values in it, which stand for the defaults. A field that nobody knows is told of and passed over, as upstream does
//! for this version of the API; a value of the wrong type is an error. What is accepted and has no effect here is listed in [`WITHOUT_EFFECT`], and said at
//! the start. Left out: the names of feature gates are not checked against a list.

pub mod duration;
pub mod validation;

use crate::{node::user_namespaces, pod::backoff};
use anyhow::{Context, bail};
pub use duration::GoDuration;
use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::Path};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

/// A map of texts, as the configuration has several.
pub type Texts = BTreeMap<String, String>;

/// The table: one row is a field with its type, its default and, where camel case is not what upstream has, its name.
macro_rules! configuration {
    ($($(#[$name:meta])? $field:ident: $type:ty = $default:expr;)*) => {
        /// The configuration file. The names are upstream's.
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(default, rename_all = "camelCase")]
        #[allow(missing_docs)]
        pub struct KubeletConfiguration {
            $($(#[$name])? pub $field: $type,)*
        }

        impl Default for KubeletConfiguration {
            fn default() -> Self {
                KubeletConfiguration { $($field: $default,)* }
            }
        }
    };
}

configuration! {
    enable_server: bool = true;
    static_pod_path: String = String::new();
    pod_logs_dir: String = "/var/log/pods".into();
    sync_frequency: GoDuration = GoDuration::seconds(60);
    file_check_frequency: GoDuration = GoDuration::seconds(20);
    http_check_frequency: GoDuration = GoDuration::seconds(20);
    #[serde(rename = "staticPodURL")] static_pod_url: String = String::new();
    #[serde(rename = "staticPodURLHeader")] static_pod_url_header: BTreeMap<String, Vec<String>> = BTreeMap::new();
    address: String = "0.0.0.0".into();
    port: u16 = 10250;
    read_only_port: i32 = 0;
    tls_cert_file: String = String::new();
    tls_private_key_file: String = String::new();
    tls_cipher_suites: Vec<String> = Vec::new();
    tls_min_version: String = String::new();
    tls_curve_preferences: Vec<String> = Vec::new();
    rotate_certificates: bool = false;
    #[serde(rename = "serverTLSBootstrap")] server_tls_bootstrap: bool = false;
    authentication: Authentication = Authentication::default();
    authorization: Authorization = Authorization::default();
    #[serde(rename = "registryPullQPS")] registry_pull_qps: i32 = 5;
    registry_burst: i32 = 10;
    image_pull_credentials_verification_policy: String = "NeverVerifyPreloadedImages".into();
    preloaded_images_verification_allowlist: Vec<String> = Vec::new();
    #[serde(rename = "eventRecordQPS")] event_record_qps: i32 = 50;
    event_burst: i32 = 100;
    enable_debugging_handlers: bool = true;
    enable_contention_profiling: bool = false;
    healthz_port: i32 = 10248;
    healthz_bind_address: String = "127.0.0.1".into();
    oom_score_adj: i32 = -999;
    cluster_domain: String = String::new();
    #[serde(rename = "clusterDNS")] cluster_dns: Vec<String> = Vec::new();
    streaming_connection_idle_timeout: GoDuration = GoDuration::seconds(4 * 3600);
    node_status_update_frequency: GoDuration = GoDuration::seconds(10);
    node_status_report_frequency: GoDuration = GoDuration::seconds(300);
    node_lease_duration_seconds: i32 = 40;
    #[serde(rename = "imageMinimumGCAge")] image_minimum_gc_age: GoDuration = GoDuration::seconds(120);
    #[serde(rename = "imageMaximumGCAge")] image_maximum_gc_age: GoDuration = GoDuration::default();
    #[serde(rename = "imageGCHighThresholdPercent")] image_gc_high_threshold_percent: i32 = 85;
    #[serde(rename = "imageGCLowThresholdPercent")] image_gc_low_threshold_percent: i32 = 80;
    volume_stats_agg_period: GoDuration = GoDuration::seconds(60);
    kubelet_cgroups: String = String::new();
    system_cgroups: String = String::new();
    cgroup_root: String = String::new();
    #[serde(rename = "cgroupsPerQOS")] cgroups_per_qos: bool = true;
    cgroup_driver: String = "cgroupfs".into();
    cpu_manager_policy: String = "none".into();
    #[serde(rename = "singleProcessOOMKill")] single_process_oom_kill: Option<bool> = None;
    cpu_manager_policy_options: Texts = Texts::new();
    cpu_manager_reconcile_period: GoDuration = GoDuration::seconds(10);
    memory_manager_policy: String = "None".into();
    topology_manager_policy: String = "none".into();
    topology_manager_scope: String = "container".into();
    topology_manager_policy_options: Texts = Texts::new();
    qos_reserved: Texts = Texts::new();
    runtime_request_timeout: GoDuration = GoDuration::seconds(120);
    hairpin_mode: String = "promiscuous-bridge".into();
    max_pods: i64 = 110;
    #[serde(rename = "podCIDR")] pod_cidr: String = String::new();
    pod_pids_limit: i64 = -1;
    #[serde(rename = "resolvConf")] resolv_conf: String = "/etc/resolv.conf".into();
    run_once: bool = false;
    #[serde(rename = "cpuCFSQuota")] cpu_cfs_quota: bool = true;
    #[serde(rename = "cpuCFSQuotaPeriod")] cpu_cfs_quota_period: GoDuration = GoDuration::millis(100);
    node_status_max_images: i32 = 50;
    max_open_files: i64 = 1_000_000;
    content_type: String = "application/vnd.kubernetes.protobuf".into();
    #[serde(rename = "kubeAPIQPS")] kube_api_qps: i32 = 50;
    #[serde(rename = "kubeAPIBurst")] kube_api_burst: i32 = 100;
    serialize_image_pulls: Option<bool> = None;
    max_parallel_image_pulls: Option<i32> = None;
    eviction_hard: Option<Texts> = None;
    eviction_soft: Texts = Texts::new();
    eviction_soft_grace_period: Texts = Texts::new();
    eviction_pressure_transition_period: GoDuration = GoDuration::seconds(300);
    eviction_max_pod_grace_period: i64 = 0;
    eviction_minimum_reclaim: Texts = Texts::new();
    merge_default_eviction_settings: bool = false;
    pods_per_core: i64 = 0;
    enable_controller_attach_detach: bool = true;
    protect_kernel_defaults: bool = false;
    #[serde(rename = "makeIPTablesUtilChains")] make_iptables_util_chains: bool = true;
    iptables_masquerade_bit: i32 = 14;
    iptables_drop_bit: i32 = 15;
    feature_gates: BTreeMap<String, bool> = BTreeMap::new();
    fail_swap_on: bool = true;
    memory_swap: MemorySwap = MemorySwap::default();
    container_log_max_size: String = "10Mi".into();
    container_log_max_files: i32 = 5;
    container_log_max_workers: i32 = 1;
    container_log_monitor_interval: GoDuration = GoDuration::seconds(10);
    config_map_and_secret_change_detection_strategy: String = "Watch".into();
    system_reserved: Texts = Texts::new();
    kube_reserved: Texts = Texts::new();
    #[serde(rename = "reservedSystemCPUs")] reserved_system_cpus: String = String::new();
    show_hidden_metrics_for_version: String = String::new();
    system_reserved_cgroup: String = String::new();
    kube_reserved_cgroup: String = String::new();
    enforce_node_allocatable: Vec<String> = vec!["pods".into()];
    allowed_unsafe_sysctls: Vec<String> = Vec::new();
    volume_plugin_dir: String = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".into();
    #[serde(rename = "providerID")] provider_id: String = String::new();
    kernel_memcg_notification: bool = false;
    logging: Map<String, Value> = Map::new();
    enable_system_log_handler: bool = true;
    enable_system_log_query: bool = false;
    shutdown_grace_period: GoDuration = GoDuration::default();
    shutdown_grace_period_critical_pods: GoDuration = GoDuration::default();
    shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriod> = Vec::new();
    crash_loop_back_off: CrashLoopBackOff = CrashLoopBackOff::default();
    reserved_memory: Vec<MemoryReservation> = Vec::new();
    enable_profiling_handler: bool = true;
    enable_debug_flags_handler: bool = true;
    seccomp_default: bool = false;
    memory_throttling_factor: f64 = 0.9;
    memory_reservation_policy: String = "None".into();
    register_with_taints: Vec<Taint> = Vec::new();
    register_node: bool = true;
    tracing: Option<Value> = None;
    local_storage_capacity_isolation: bool = true;
    container_runtime_endpoint: String = "unix:///run/containerd/containerd.sock".into();
    image_service_endpoint: String = String::new();
    fail_cgroup_v1: bool = false;
    user_namespaces: UserNamespaces = UserNamespaces::default();
}

/// Who may talk to the kubelet's server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Authentication {
    pub anonymous: Anonymous,
    pub webhook: AuthenticationWebhook,
    pub x509: X509,
}

/// Whether nobody is somebody.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Anonymous {
    pub enabled: bool,
}

/// Tokens are reviewed by the API server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AuthenticationWebhook {
    pub enabled: bool,
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: GoDuration,
}

impl Default for AuthenticationWebhook {
    fn default() -> Self {
        AuthenticationWebhook { enabled: true, cache_ttl: GoDuration::seconds(120) }
    }
}

/// Client certificates.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// What they may do there: `Webhook` asks the API server, `AlwaysAllow` asks nobody.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Authorization {
    pub mode: String,
    pub webhook: AuthorizationWebhook,
}

impl Default for Authorization {
    fn default() -> Self {
        Authorization { mode: "Webhook".into(), webhook: AuthorizationWebhook::default() }
    }
}

/// How long the API server's answers hold.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AuthorizationWebhook {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: GoDuration,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: GoDuration,
}

impl Default for AuthorizationWebhook {
    fn default() -> Self {
        AuthorizationWebhook { cache_authorized_ttl: GoDuration::seconds(300), cache_unauthorized_ttl: GoDuration::seconds(30) }
    }
}

/// How containers may use swap.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct MemorySwap {
    pub swap_behavior: String,
}

/// What is kept of a NUMA node's memory.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct MemoryReservation {
    pub numa_node: u32,
    pub limits: Texts,
}

/// How restarts of containers that fail again and again are put off.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct CrashLoopBackOff {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_container_restart_period: Option<GoDuration>,
}

impl CrashLoopBackOff {
    /// The longest wait.
    pub fn longest(&self) -> jiff::SignedDuration {
        self.max_container_restart_period.map_or(backoff::MAX, |period| period.0)
    }
}

/// How many user and group ids a pod with users of its own has.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct UserNamespaces {
    #[serde(rename = "idsPerPod", skip_serializing_if = "Option::is_none")]
    pub ids_per_pod: Option<i64>,
}

impl UserNamespaces {
    /// The number, or the usual one. What was checked fits.
    pub fn ids_per_pod(&self) -> u32 {
        self.ids_per_pod.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(user_namespaces::UNIT)
    }
}

/// How long pods of a priority and above it get when the machine shuts down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ShutdownGracePeriod {
    pub priority: i32,
    pub shutdown_grace_period_seconds: i64,
}

/// Fields whose value changes nothing here, because what they tune is not there or works another way: polling intervals of what is watched, burst limits of
/// a client that has one connection. Whoever sets one to something else than its default is told.
const WITHOUT_EFFECT: &[&str] = &[
    "enableContentionProfiling",
    "enableSystemLogQuery",
    "imageServiceEndpoint",
    "kernelMemcgNotification",
    "kubeletCgroups",
    "memoryReservationPolicy",
    "protectKernelDefaults",
    "qosReserved",
    "readOnlyPort",
    "staticPodURL",
    "staticPodURLHeader",
    "systemCgroups",
    "tracing",
];

/// Numbers that Go cannot tell from missing ones: 0 is the default.
const ZERO_IS_DEFAULT: &[&str] =
    &["port", "maxPods", "registryBurst", "eventBurst", "nodeLeaseDurationSeconds", "kubeAPIBurst", "maxOpenFiles"];

impl KubeletConfiguration {
    /// How many images are pulled at once; `None` is as many as are wanted.
    pub fn parallel_pulls(&self) -> Option<usize> {
        let parallel = self.max_parallel_image_pulls;
        if self.serialize_image_pulls.unwrap_or(parallel.is_none_or(|n| n < 2)) {
            return Some(1);
        }
        parallel.and_then(|n| usize::try_from(n).ok())
    }

    /// As `/configz` shows it.
    pub fn shown(&self) -> Value {
        // Plain data, so this cannot fail.
        let mut fields = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = fields.as_object_mut() {
            fields.retain(|_, value| !value.is_null() && *value != Value::String(String::new()));
            fields.insert("kind".into(), KIND.into());
            fields.insert("apiVersion".into(), API_VERSION.into());
        }
        fields
    }

    /// The fields that are set to something and have no effect here.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let (own, default) = (self.shown(), KubeletConfiguration::default().shown());
        WITHOUT_EFFECT.iter().copied().filter(|name| own.get(name) != default.get(name)).collect()
    }
}

/// Reads a configuration file and, over it in the order of their names, the `*.conf` files of a directory.
pub fn read(path: Option<&Path>, directory: Option<&Path>) -> anyhow::Result<KubeletConfiguration> {
    let mut documents = Vec::new();
    if let Some(path) = path {
        documents.push(path.to_owned());
    }
    if let Some(directory) = directory {
        let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        let mut parts: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
        parts.sort();
        documents.extend(parts);
    }
    let mut merged = Value::Object(Map::new());
    for path in &documents {
        let load = || document(&std::fs::read_to_string(path).context("reading it")?);
        api::patch::merge(&mut merged, &load().with_context(|| format!("failed to load kubelet config file {}", path.display()))?);
    }
    decode(merged).with_context(|| documents.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))
}

/// One file's fields, if it is a configuration of this kind.
fn document(text: &str) -> anyhow::Result<Value> {
    let mut value: Value = serde_yaml::from_str(text)?;
    let fields = value.as_object_mut().context("failed to decode: Object 'Kind' is missing")?;
    let text = |value: Option<Value>| value.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let (version, kind) = (text(fields.remove("apiVersion")), text(fields.remove("kind")));
    if (version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
        bail!(
            "failed to decode: no kind {kind:?} is registered for version {version:?} in scheme \"pkg/kubelet/apis/config/scheme/scheme.go\""
        );
    }
    Ok(value)
}

fn decode(mut given: Value) -> anyhow::Result<KubeletConfiguration> {
    drop_zeros(&mut given);
    let mut config: KubeletConfiguration = serde_json::from_value(given.clone()).context("failed to decode")?;
    // The two frequencies were one once: who sets the old one means both.
    if given.get("nodeStatusUpdateFrequency").is_some() && given.get("nodeStatusReportFrequency").is_none() {
        config.node_status_report_frequency = config.node_status_update_frequency;
    }
    if config.pod_pids_limit < 0 {
        config.pod_pids_limit = -1;
    }
    // Everything that was understood is in what it would be written as.
    let kept = serde_json::to_value(&config).unwrap_or_default();
    let unknown = unknown_fields(&given, &kept, "");
    if !unknown.is_empty() {
        let error = unknown.iter().map(|field| format!("unknown field {field:?}")).collect::<Vec<_>>().join(", ");
        tracing::warn!(error = format!("strict decoding error: {error}"), "using lenient decoding as strict decoding failed");
    }
    Ok(config)
}

/// Takes away what Go writes for fields that are not set: nothing, empty texts, spans of no time, some zeros.
fn drop_zeros(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    fields.retain(|name, value| match value {
        Value::Null => false,
        Value::String(text) => name == "resolvConf" || !matches!(text.as_str(), "" | "0s"),
        Value::Number(number) => number.as_i64() != Some(0) || !ZERO_IS_DEFAULT.contains(&name.as_str()),
        _ => true,
    });
    for (name, value) in fields {
        // Maps of thresholds keep what is in them.
        if matches!(name.as_str(), "authentication" | "authorization" | "webhook" | "x509" | "anonymous") {
            drop_zeros(value);
        }
    }
}

fn unknown_fields(given: &Value, kept: &Value, path: &str) -> Vec<String> {
    let (Some(given), Some(kept)) = (given.as_object(), kept.as_object()) else { return Vec::new() };
    let mut out = Vec::new();
    for (name, value) in given {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match kept.get(name) {
            Some(kept) => out.extend(unknown_fields(value, kept, &path)),
            None => out.push(path),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<KubeletConfiguration> {
        decode(document(text)?)
    }

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    /// What `kubeadm` writes, with the zeros it writes.
    const STOCK: &str = "\
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: \"\"
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
";

    #[test]
    fn a_stock_file_is_read_and_its_zeros_are_the_defaults() {
        let config = parse(&format!("{HEAD}{STOCK}")).expect("a good file");
        assert_eq!((config.cgroup_driver.as_str(), config.cluster_dns[0].as_str()), ("systemd", "10.96.0.10"));
        assert!(config.rotate_certificates && !config.authentication.anonymous.enabled);
        assert_eq!(config.authentication.webhook.cache_ttl, GoDuration::seconds(120));
        assert_eq!(config.eviction_pressure_transition_period, GoDuration::seconds(300));
        assert_eq!(config.node_status_report_frequency, GoDuration::seconds(300));
        assert_eq!(config.container_runtime_endpoint, KubeletConfiguration::default().container_runtime_endpoint);
        assert_eq!(config.parallel_pulls(), Some(1));
        assert!(validation::validate(&config).is_empty());
        assert!(config.without_effect().is_empty());
    }

    #[test]
    fn every_field_has_upstreams_name() {
        let shown = KubeletConfiguration::default();
        let shown = serde_json::to_value(&shown).expect("plain data");
        for name in ["clusterDNS", "podCIDR", "imageGCHighThresholdPercent", "cpuCFSQuotaPeriod", "singleProcessOOMKill", "kubeAPIQPS"] {
            assert!(shown.get(name).is_some(), "{name}");
        }
        for (name, want) in
            [("evictionPressureTransitionPeriod", "5m0s"), ("cpuCFSQuotaPeriod", "100ms"), ("runtimeRequestTimeout", "2m0s")]
        {
            assert_eq!(shown[name], want);
        }
    }

    #[test]
    fn unknown_fields_are_named_and_wrong_types_refused() {
        let given = serde_json::json!({"maxPods": 5, "maxPod": 5, "authentication": {"x509": {"ca": "x"}}, "evictionHard": {"memory.available": "1"}});
        let config = decode(given.clone()).expect("lenient");
        assert_eq!(config.max_pods, 5);
        let kept = serde_json::to_value(&config).expect("plain data");
        assert_eq!(unknown_fields(&given, &kept, ""), ["authentication.x509.ca", "maxPod"]);
        for bad in [
            "kind: KubeletConfiguration",
            "apiVersion: v1\nkind: Pod",
            &format!("{HEAD}maxPods: many"),
            &format!("{HEAD}syncFrequency: 5 parsecs"),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_of_a_directory_come_over_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), format!("{HEAD}{text}")).expect("written");
        write("base.yaml", "maxPods: 1\nevictionHard: {memory.available: 1Gi}\n");
        write("20.conf", "maxPods: 3\n");
        write("10.conf", "maxPods: 2\nport: 1234\n");
        let config = read(Some(&dir.path().join("base.yaml")), Some(dir.path())).expect("good files");
        assert_eq!((config.max_pods, config.port), (3, 1234));
        assert_eq!(config.eviction_hard.expect("kept")["memory.available"], "1Gi");
    }
}
