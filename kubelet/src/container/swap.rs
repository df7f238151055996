//! How much swap a container may use (`memorySwap.swapBehavior`) (upstream: `pkg/kubelet/kuberuntime/kuberuntime_container_linux.go`, KEP-2400).
//!
//! Without swap for containers the kernel is told so wherever it can be told: on cgroup v2 by the unified file, on v1 by a limit of memory and swap together
//! that is the limit of memory.

use super::resources::{self, Qos};
use crate::node::admission::is_critical;
use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::{fs, path::Path};

/// The file of cgroup v2 that limits it.
const LIMIT: &str = "memory.swap.max";

/// What the node does about swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    /// What the machine has, in bytes.
    pub capacity: i64,
    /// Containers of Burstable pods get the share of it that they ask for of the memory (`LimitedSwap`).
    pub limited: bool,
    /// The kernel can limit it.
    pub controlled: bool,
    /// On cgroup v2.
    pub unified: bool,
}

impl Swap {
    /// What the machine with these cgroups has and can, and what is wanted of it.
    pub fn of(behavior: &str, capacity: i64, mount: &Path, own: Option<&str>) -> Self {
        let unified = mount.join("cgroup.controllers").exists();
        // The root of cgroup v2 has no limits, so any other cgroup is asked: the process' own, or one right below the root.
        let limits = |dir: &Path| dir.join(LIMIT).exists();
        let below = || fs::read_dir(mount).into_iter().flatten().flatten().any(|entry| limits(&entry.path()));
        let controlled = match unified {
            true => own.is_some_and(|own| limits(&mount.join(own.trim_start_matches('/')))) || below(),
            false => mount.join("memory/memory.memsw.limit_in_bytes").exists(),
        };
        Swap { capacity, limited: behavior == "LimitedSwap", controlled, unified }
    }

    /// The container's limits, with that of swap. `memory` is the machine's, in bytes.
    pub fn limit(&self, pod: &Pod, container: &Container, memory: i64, mut limits: LinuxContainerResources) -> LinuxContainerResources {
        if !self.controlled {
            return limits;
        }
        if self.unified {
            limits.unified.insert(LIMIT.into(), self.share(pod, container, memory).to_string());
        } else {
            limits.memory_swap_limit_in_bytes = limits.memory_limit_in_bytes;
        }
        limits
    }

    /// How much of the swap a container may use, in bytes.
    fn share(&self, pod: &Pod, container: &Container, memory: i64) -> i64 {
        let requested = resources::request(container, "memory") / 1000;
        let fixed = requested == 0 || requested == resources::limit(container, "memory") / 1000;
        if !self.limited || fixed || resources::qos(pod) != Qos::Burstable || is_critical(pod) || requested > memory {
            return 0;
        }
        let share = i128::from(requested) * i128::from(self.capacity) / i128::from(memory.max(1));
        i64::try_from(share).unwrap_or(0)
    }
}

/// Whether the machine swaps to something, by `/proc/swaps`.
pub fn is_on(swaps: &str) -> bool {
    swaps.lines().skip(1).any(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const GIB: i64 = 1 << 30;

    fn limited(swap: Swap, spec: &Value) -> LinuxContainerResources {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
        let container = &pod.spec.as_ref().expect("a spec").containers[0];
        let limits = LinuxContainerResources { memory_limit_in_bytes: 7, ..Default::default() };
        swap.limit(&pod, container, 8 * GIB, limits)
    }

    fn asking(requests: &Value, limits: &Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]})
    }

    #[test]
    fn burstable_containers_get_their_share_on_cgroup_v2() {
        let swap = Swap { capacity: 4 * GIB, limited: true, controlled: true, unified: true };
        let mut critical = asking(&json!({"memory": "2Gi"}), &json!({}));
        critical["priority"] = json!(2_000_000_000);
        for (swap, spec, want) in [
            (swap, asking(&json!({"memory": "2Gi"}), &json!({})), GIB),
            (swap, asking(&json!({"memory": "2Gi"}), &json!({"memory": "4Gi"})), GIB),
            (swap, asking(&json!({"memory": "2Gi"}), &json!({"memory": "2Gi"})), 0),
            (swap, asking(&json!({"memory": "2Gi", "cpu": "1"}), &json!({"memory": "2Gi", "cpu": "1"})), 0),
            (swap, asking(&json!({"cpu": "1"}), &json!({})), 0),
            (swap, asking(&json!({}), &json!({})), 0),
            (swap, critical, 0),
            (Swap { limited: false, ..swap }, asking(&json!({"memory": "2Gi"}), &json!({})), 0),
        ] {
            assert_eq!(limited(swap, &spec).unified[LIMIT], want.to_string(), "{spec}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_limit_is_not_limited() {
        let spec = asking(&json!({"memory": "2Gi"}), &json!({}));
        let swap = Swap { capacity: GIB, limited: true, controlled: true, unified: false };
        let on_v1 = limited(swap, &spec);
        assert_eq!((on_v1.memory_swap_limit_in_bytes, on_v1.unified.len()), (7, 0), "v1 has no swap for containers");
        let without = limited(Swap { controlled: false, ..swap }, &spec);
        assert_eq!((without.memory_swap_limit_in_bytes, without.unified.len()), (0, 0));
    }

    #[test]
    fn the_machine_is_looked_at() {
        assert!(!is_on("Filename\tType\tSize\tUsed\tPriority\n"));
        assert!(is_on("Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 8 0 -2\n"));
        let mount = tempfile::tempdir().expect("a directory");
        let of = |own| Swap::of("LimitedSwap", 1, mount.path(), own);
        assert_eq!((of(None).unified, of(None).controlled), (false, false));
        fs::write(mount.path().join("cgroup.controllers"), "memory").expect("written");
        assert_eq!((of(Some("/a")).unified, of(Some("/a")).controlled), (true, false));
        fs::create_dir(mount.path().join("a")).expect("made");
        fs::write(mount.path().join("a").join(LIMIT), "max").expect("written");
        assert!(of(Some("/a")).controlled && of(None).controlled && of(None).limited);
    }
}
