//! What a configuration may not say, in upstream's words (`pkg/kubelet/apis/config/validation`). All complaints are collected before any is told.
//!
//! Left out: checks that need the list of feature gates and the stage each is in.

use super::{GoDuration, KubeletConfiguration, MemoryReservation};
use crate::{
    image::access::{Verification, repository},
    memory_manager::policy::is_memory,
    node::user_namespaces::UNIT,
};
use api::quantity::Quantity;
use std::collections::BTreeSet;

/// A list of words as Go's `%q` prints it.
fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// All that is wrong.
pub fn validate(c: &KubeletConfiguration) -> Vec<String> {
    let mut wrong: Vec<String> = Vec::new();
    let mut check = |fine: bool, message: String| {
        if !fine {
            wrong.push(format!("invalid configuration: {message}"));
        }
    };
    check(c.node_lease_duration_seconds > 0, "nodeLeaseDurationSeconds must be greater than 0".into());
    check(
        c.system_cgroups.is_empty() || !c.cgroup_root.is_empty(),
        "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified".into(),
    );
    for (name, flag, value) in [
        ("eventBurst", "event-burst", i64::from(c.event_burst)),
        ("eventRecordQPS", "event-qps", i64::from(c.event_record_qps)),
        ("kubeAPIBurst", "kube-api-burst", i64::from(c.kube_api_burst)),
        ("kubeAPIQPS", "kube-api-qps", i64::from(c.kube_api_qps)),
        ("maxOpenFiles", "max-open-files", c.max_open_files),
        ("maxPods", "max-pods", c.max_pods),
        ("podsPerCore", "pods-per-core", c.pods_per_core),
        ("registryBurst", "registry-burst", i64::from(c.registry_burst)),
        ("registryPullQPS", "registry-qps", i64::from(c.registry_pull_qps)),
    ] {
        check(value >= 0, format!("{name} (--{flag}) {value} must not be a negative number"));
    }
    for (name, flag, value, low, high) in [
        ("imageGCHighThresholdPercent", "image-gc-high-threshold", c.image_gc_high_threshold_percent, 0, 100),
        ("imageGCLowThresholdPercent", "image-gc-low-threshold", c.image_gc_low_threshold_percent, 0, 100),
        ("iptablesDropBit", "iptables-drop-bit", c.iptables_drop_bit, 0, 31),
        ("iptablesMasqueradeBit", "iptables-masquerade-bit", c.iptables_masquerade_bit, 0, 31),
        ("oomScoreAdj", "oom-score-adj", c.oom_score_adj, -1000, 1000),
    ] {
        check((low..=high).contains(&value), format!("{name} (--{flag}) {value} must be between {low} and {high}, inclusive"));
    }
    check(
        (0..=65535).contains(&c.healthz_port),
        format!("healthzPort (--healthz-port) {} must be between 1 and 65535, inclusive", c.healthz_port),
    );
    check(
        (0..=65535).contains(&c.read_only_port),
        format!("readOnlyPort (--read-only-port) {} must be between 0 and 65535, inclusive", c.read_only_port),
    );
    let (low, high) = (c.image_gc_low_threshold_percent, c.image_gc_high_threshold_percent);
    check(
        low < high,
        format!(
            "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
        ),
    );
    let none = GoDuration::default();
    let (minimum, maximum) = (c.image_minimum_gc_age, c.image_maximum_gc_age);
    check(minimum >= none, format!("imageMinimumGCAge {minimum} must not be negative"));
    check(maximum >= none, format!("imageMaximumGCAge {maximum} must not be negative"));
    check(maximum <= none || maximum > minimum, format!("imageMaximumGCAge {maximum} must be greater than imageMinimumGCAge {minimum}"));
    check(
        c.cpu_cfs_quota_period == GoDuration::millis(100),
        format!("cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {} requires feature gate CustomCPUCFSQuotaPeriod", c.cpu_cfs_quota_period),
    );
    check(
        c.node_status_max_images >= -1,
        format!("nodeStatusMaxImages (--node-status-max-images) {} must be -1 or greater", c.node_status_max_images),
    );
    if let Some(parallel) = c.max_parallel_image_pulls {
        check(parallel >= 1, format!("maxParallelImagePulls {parallel} must be a positive number"));
        check(
            parallel <= 1 || c.serialize_image_pulls != Some(true),
            "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false".into(),
        );
    }
    check(!c.run_once, "runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set".into());
    check(
        matches!(c.cgroup_driver.as_str(), "cgroupfs" | "systemd"),
        format!("option {:?} specified for cgroupDriver. Valid options are {:?} or {:?}", c.cgroup_driver, "cgroupfs", "systemd"),
    );
    let policies = ["none", "best-effort", "restricted", "single-numa-node"];
    check(
        policies.contains(&c.topology_manager_policy.as_str()),
        format!("topologyManagerPolicy (--topology-manager-policy) {:?} must be one of: {}", c.topology_manager_policy, quoted(&policies)),
    );
    check(
        matches!(c.topology_manager_scope.as_str(), "container" | "pod"),
        format!(
            "topologyManagerScope (--topology-manager-scope) {:?} must be one of: {:?}, or {:?}",
            c.topology_manager_scope, "container", "pod"
        ),
    );
    check(
        matches!(c.hairpin_mode.as_str(), "none" | "hairpin-veth" | "promiscuous-bridge"),
        format!(
            "option {:?} specified for hairpinMode (--hairpin-mode). Valid options are {:?}, {:?} or {:?}",
            c.hairpin_mode, "none", "hairpin-veth", "promiscuous-bridge"
        ),
    );
    check(
        matches!(c.memory_swap.swap_behavior.as_str(), "" | "NoSwap" | "LimitedSwap"),
        format!("memorySwap.swapBehavior {:?} must be one of: \"\", {:?} or {:?}", c.memory_swap.swap_behavior, "LimitedSwap", "NoSwap"),
    );
    let factor = c.memory_throttling_factor;
    check(factor > 0.0 && factor <= 1.0, format!("memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0"));
    check(!c.enable_system_log_query || c.enable_system_log_handler, "enableSystemLogHandler is required for enableSystemLogQuery".into());
    check(c.container_log_max_workers >= 1, "containerLogMaxWorkers must be greater than or equal to 1".into());
    check(
        c.container_log_monitor_interval >= GoDuration::seconds(3),
        "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".into(),
    );
    if let Some(period) = c.crash_loop_back_off.max_container_restart_period {
        let seconds = period.0.as_secs_f64();
        check(
            (1.0..=300.0).contains(&seconds),
            format!("CrashLoopBackOff.MaxContainerRestartPeriod (got: {seconds} seconds) must be set between 1s and 300s"),
        );
    }
    verification(c, &mut check);
    if let Some(ids) = c.user_namespaces.ids_per_pod {
        let fits = u32::try_from(ids).is_ok_and(|ids| ids > 0 && ids.is_multiple_of(UNIT));
        check(fits, format!("userNamespaces.idsPerPod {ids} must be a multiple of {UNIT} and at most {}", u32::MAX));
    }
    check(c.container_log_max_files > 1, "containerLogMaxFiles must be greater than 1".into());
    check(c.pod_logs_dir.starts_with('/'), format!("pod logs path {:?} must be absolute path", c.pod_logs_dir));
    check(c.pod_logs_dir.is_ascii(), format!("pod logs path {:?} mut contains ASCII characters only", c.pod_logs_dir));
    check(
        c.reserved_system_cpus.is_empty() || (c.system_reserved_cgroup.is_empty() && c.kube_reserved_cgroup.is_empty()),
        "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)"
            .into(),
    );
    reserved_memory(c, &mut check);
    shutdown(c, &mut check);
    enforcement(c, &mut check);
    for taint in &c.register_with_taints {
        let known = matches!(taint.effect.as_str(), "NoSchedule" | "PreferNoSchedule" | "NoExecute");
        if !known || taint.key.is_empty() {
            wrong.push(format!("invalid taint: {}={}:{}", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect));
        }
    }
    wrong
}

fn verification(c: &KubeletConfiguration, check: &mut impl FnMut(bool, String)) {
    let (policy, allowed) = (c.image_pull_credentials_verification_policy.as_str(), &c.preloaded_images_verification_allowlist);
    let known = Verification::of(policy, allowed).is_some();
    let valid = "\"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\"";
    check(known, format!("option {policy:?} specified for imagePullCredentialsVerificationPolicy. Valid options are {valid}"));
    check(
        allowed.is_empty() || policy == "NeverVerifyAllowlistedImages",
        "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\""
            .into(),
    );
    for pattern in allowed {
        let name = pattern.strip_suffix("/*").unwrap_or(pattern);
        let good = !name.is_empty() && name == name.trim() && !name.contains(['*', '@']) && repository(name) == name;
        check(good, format!("invalid image pattern in `preloadedImagesVerificationAllowlist`: {pattern:?}"));
    }
}

fn reserved_memory(c: &KubeletConfiguration, check: &mut impl FnMut(bool, String)) {
    let mut known = BTreeSet::new();
    for MemoryReservation { numa_node, limits } in &c.reserved_memory {
        for (kind, amount) in limits {
            check(
                is_memory(kind),
                format!(
                    "the limit type {kind:?} for NUMA node {numa_node} is not supported, only [memory hugepages-<HugePageSize>] is accepted"
                ),
            );
            let zero = amount.parse::<Quantity>().is_ok_and(|amount| amount.sign() == 0);
            check(!zero, format!("reserved memory may not be zero for NUMA node {numa_node} and resource {kind:?}"));
            let fresh = known.insert((numa_node, kind));
            check(fresh, format!("the reserved memory has a duplicate value for NUMA node {numa_node} and resource {kind:?}"));
        }
    }
}

fn shutdown(c: &KubeletConfiguration, check: &mut impl FnMut(bool, String)) {
    let (all, critical, none) = (c.shutdown_grace_period, c.shutdown_grace_period_critical_pods, GoDuration::default());
    check(critical <= all, format!("shutdownGracePeriodCriticalPods {critical} must be <= shutdownGracePeriod {all}"));
    for (name, value) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        check(value == none || value >= GoDuration::seconds(1), format!("{name} {value} must be either zero or otherwise >= 1 sec"));
    }
    check(
        c.shutdown_grace_period_by_pod_priority.is_empty() || (all <= none && critical <= none),
        "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time".into(),
    );
}

/// What of `enforceNodeAllocatable` needs a cgroup of its own: its words, and the field that names the cgroup.
const RESERVED: [(&str, &str, &str, &str); 2] = [
    ("system-reserved", "system-reserved-compressible", "systemReservedCgroup", "system-reserved-cgroup"),
    ("kube-reserved", "kube-reserved-compressible", "kubeReservedCgroup", "kube-reserved-cgroup"),
];

fn enforcement(c: &KubeletConfiguration, check: &mut impl FnMut(bool, String)) {
    const FIELD: &str = "enforceNodeAllocatable (--enforce-node-allocatable)";
    let list = &c.enforce_node_allocatable;
    let has = |word: &str| list.iter().any(|w| w == word);
    for (plain, compressible, _, _) in RESERVED {
        check(!(has(plain) && has(compressible)), format!("both {plain:?} and {compressible:?} cannot be specified together in {FIELD}"));
    }
    for (at, word) in list.iter().enumerate() {
        if list[..at].contains(word) {
            check(false, format!("duplicated enforcements {word:?} in {FIELD}"));
            continue;
        }
        let reserved = RESERVED.iter().position(|(plain, compressible, _, _)| word == plain || word == compressible);
        match (word.as_str(), reserved) {
            ("pods", _) => {}
            ("none", _) => {
                check(list.len() == 1, format!("{FIELD} may not contain additional enforcements when \"none\" is specified"));
                continue;
            }
            (_, Some(row)) => {
                let (plain, compressible, field, flag) = RESERVED[row];
                let cgroup = if row == 0 { &c.system_reserved_cgroup } else { &c.kube_reserved_cgroup };
                check(
                    !cgroup.is_empty(),
                    format!("{field} (--{flag}) must be specified when {plain:?} or {compressible:?} included in {FIELD}"),
                );
            }
            _ => {
                let valid = "\"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \"kube-reserved-compressible\" or \"none\"";
                check(false, format!("option {word:?} specified for {FIELD}. Valid options are {valid}"));
                continue;
            }
        }
        check(c.cgroups_per_qos, format!("cgroupsPerQOS (--cgroups-per-qos) must be set to true when {word:?} contained in {FIELD}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        assert!(validate(&KubeletConfiguration::default()).is_empty());
        for (given, want) in [
            (json!({"maxPods": -1}), "maxPods (--max-pods) -1 must not be a negative number"),
            (
                json!({"imageGCHighThresholdPercent": 101}),
                "imageGCHighThresholdPercent (--image-gc-high-threshold) 101 must be between 0 and 100, inclusive",
            ),
            (
                json!({"imageGCLowThresholdPercent": 85}),
                "imageGCLowThresholdPercent (--image-gc-low-threshold) 85 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 85",
            ),
            (json!({"imageMaximumGCAge": "1m"}), "imageMaximumGCAge 1m0s must be greater than imageMinimumGCAge 2m0s"),
            (json!({"shutdownGracePeriodCriticalPods": "10s"}), "shutdownGracePeriodCriticalPods 10s must be <= shutdownGracePeriod 0s"),
            (json!({"shutdownGracePeriod": "100ms"}), "shutdownGracePeriod 100ms must be either zero or otherwise >= 1 sec"),
            (
                json!({"topologyManagerPolicy": "x"}),
                "topologyManagerPolicy (--topology-manager-policy) \"x\" must be one of: [\"none\" \"best-effort\" \"restricted\" \"single-numa-node\"]",
            ),
            (
                json!({"enforceNodeAllocatable": ["kube-reserved"]}),
                "kubeReservedCgroup (--kube-reserved-cgroup) must be specified when \"kube-reserved\" or \"kube-reserved-compressible\" included in enforceNodeAllocatable (--enforce-node-allocatable)",
            ),
            (
                json!({"enforceNodeAllocatable": ["none", "pods"]}),
                "enforceNodeAllocatable (--enforce-node-allocatable) may not contain additional enforcements when \"none\" is specified",
            ),
            (
                json!({"userNamespaces": {"idsPerPod": 1000}}),
                "userNamespaces.idsPerPod 1000 must be a multiple of 65536 and at most 4294967295",
            ),
            (
                json!({"crashLoopBackOff": {"maxContainerRestartPeriod": "500ms"}}),
                "CrashLoopBackOff.MaxContainerRestartPeriod (got: 0.5 seconds) must be set between 1s and 300s",
            ),
            (
                json!({"imagePullCredentialsVerificationPolicy": "Sometimes"}),
                "option \"Sometimes\" specified for imagePullCredentialsVerificationPolicy. Valid options are \"NeverVerify\", \"NeverVerifyPreloadedImages\", \"NeverVerifyAllowlistedImages\" or \"AlwaysVerify\"",
            ),
            (
                json!({"preloadedImagesVerificationAllowlist": ["a"]}),
                "can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\"",
            ),
            (
                json!({"imagePullCredentialsVerificationPolicy": "NeverVerifyAllowlistedImages", "preloadedImagesVerificationAllowlist": ["a/*/b"]}),
                "invalid image pattern in `preloadedImagesVerificationAllowlist`: \"a/*/b\"",
            ),
            (
                json!({"reservedMemory": [{"numaNode": 0, "limits": {"memory": "1Gi"}}, {"numaNode": 0, "limits": {"memory": "1Gi"}}]}),
                "the reserved memory has a duplicate value for NUMA node 0 and resource \"memory\"",
            ),
            (
                json!({"reservedMemory": [{"numaNode": 1, "limits": {"cpu": "1"}}]}),
                "the limit type \"cpu\" for NUMA node 1 is not supported, only [memory hugepages-<HugePageSize>] is accepted",
            ),
            (json!({"containerLogMaxFiles": 1}), "containerLogMaxFiles must be greater than 1"),
        ] {
            let config: KubeletConfiguration = serde_json::from_value(given).expect("it can be read");
            assert_eq!(validate(&config), [format!("invalid configuration: {want}")]);
        }
    }
}
