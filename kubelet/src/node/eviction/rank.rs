//! Who goes first, and what is said about it (upstream: the rank functions and `evictionMessage` of `helpers.go`).
//!
//! Pods that use more than they asked for come before those that do not, then the less important, then who uses most beyond what was asked for. A pod whose
//! use is not known comes before all.

use super::{
    sample::Sample,
    signal::{Place, Signal},
    threshold::Threshold,
};
use crate::{
    container::{identity, resources},
    node::usage::summary::{Fs, PodStats, Summary},
};
use api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use std::{cmp::Reverse, fmt::Write, sync::Arc};

fn requested(spec: &PodSpec, name: &str) -> i64 {
    resources::pod_total(spec, name, false).div_euclid(1000)
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

fn whole(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// What of a pod's disk counts: with images on a file system of their own, each file system has its parts.
fn disk_use(stats: &PodStats, signal: &Signal, apart: bool) -> i64 {
    let (root, logs) = (!apart || signal.place == Place::ImageFs, !apart || signal.place == Place::NodeFs);
    let pick = |(bytes, inodes): (u64, u64)| if signal.bytes { bytes } else { inodes };
    let containers = stats.containers.iter().map(|c| {
        let part = |counts: bool, fs: Option<&Fs>| if counts { pick(Fs::taken(fs)) } else { 0 };
        part(root, c.rootfs.as_ref()) + part(logs, c.logs.as_ref())
    });
    let volumes = stats.volumes.iter().filter(|v| logs && v.ephemeral).map(|v| pick(Fs::taken(Some(&v.fs))));
    whole(containers.chain(volumes).sum())
}

/// How much of what runs short the pod uses, and how much it asked for.
fn use_and_request(pod: &Pod, stats: &PodStats, signal: &Signal, apart: bool) -> (i64, i64) {
    let spec = pod.spec.clone().unwrap_or_default();
    match signal.place {
        Place::Memory => {
            let used = stats.memory.as_ref().and_then(|m| m.working_set_bytes);
            let parts = || stats.containers.iter().filter_map(|c| c.memory.as_ref()?.working_set_bytes).sum();
            (whole(used.unwrap_or_else(parts)), requested(&spec, "memory"))
        }
        Place::Processes => (whole(stats.process_stats.map_or(0, |p| p.process_count)), 0),
        Place::NodeFs | Place::ImageFs => {
            let asked = if signal.bytes { requested(&spec, "ephemeral-storage") } else { 0 };
            (disk_use(stats, signal, apart), asked)
        }
    }
}

/// Orders pods, who goes first at the front. `apart`: images have a file system of their own.
pub fn rank(pods: &mut [Arc<Pod>], usage: &Summary, signal: &Signal, apart: bool) {
    pods.sort_by_cached_key(|pod| {
        let Some(stats) = usage.pod(identity::uid(pod)) else { return (0, false, priority(pod), Reverse(0)) };
        let (used, asked) = use_and_request(pod, stats, signal, apart);
        let within = used <= asked && signal.place != Place::Processes;
        (1, within, priority(pod), Reverse(used - asked))
    });
}

fn shown(signal: &Signal, amount: i64) -> String {
    Quantity::new(amount, if signal.bytes { Format::BinarySi } else { Format::DecimalSi }).to_string()
}

/// The words: what ran short, by how much, and which containers use more of it than they asked for.
pub fn message(pod: &Pod, usage: &Summary, starved: &[Threshold], sample: &Sample) -> String {
    let Some(first) = starved.first() else { return String::new() };
    let resource = first.signal.resource;
    let mut out = format!("The node was low on resource: {resource}. ");
    let seen = starved.iter().find(|t| t.signal.resource == resource).and_then(|t| Some((t, (t.signal.observe)(sample)?)));
    // Writing into a String cannot fail.
    if let Some((threshold, seen)) = seen {
        let (quantity, available) = (shown(threshold.signal, threshold.value.of(seen.capacity)), shown(threshold.signal, seen.available));
        let _ = write!(out, "Threshold quantity: {quantity}, available: {available}. ");
    }
    let (Some(stats), Some(spec)) = (usage.pod(identity::uid(pod)), &pod.spec) else { return out };
    for container in &stats.containers {
        let mut defined = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let Some(defined) = defined.find(|c| c.name == container.name) else { continue };
        let request = defined.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
        let used = match resource {
            "memory" => container.memory.as_ref().and_then(|m| m.working_set_bytes),
            "ephemeral-storage" => {
                let part = |fs: Option<&Fs>| fs.and_then(|fs| fs.used_bytes);
                part(container.rootfs.as_ref()).zip(part(container.logs.as_ref())).map(|(a, b)| a + b)
            }
            _ => None,
        };
        let Some(used) = used.map(whole) else { continue };
        if used > request.and_then(resources::whole).unwrap_or(0) {
            let (used, request) = (Quantity::new(used, Format::BinarySi), request.map_or("0", |r| r.0.as_str()));
            let name = &container.name;
            let _ = write!(out, "Container {name} was using {used}, request is {request}, has larger consumption of {resource}. ");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{
        super::{signal, signal::Observation, threshold::Amount},
        *,
    };
    use crate::node::usage::summary::{ContainerStats, Memory, PodReference, Processes, VolumeStats};
    use serde_json::json;
    use std::time::Duration;

    fn pod(name: &str, priority: i32, request: &str) -> Arc<Pod> {
        let requests = json!({"memory": request, "ephemeral-storage": request});
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "spec": spec})).expect("a pod"))
    }

    fn fs(bytes: u64) -> Option<Fs> {
        Some(Fs { used_bytes: Some(bytes), inodes_used: Some(bytes / 10), ..Default::default() })
    }

    fn stats(name: &str, memory: u64, root: u64, volume: u64, processes: u64) -> PodStats {
        let own = Memory { working_set_bytes: Some(memory), ..Default::default() };
        let container = ContainerStats { name: "c".into(), memory: Some(own.clone()), rootfs: fs(root), logs: fs(0), ..Default::default() };
        PodStats {
            pod_ref: PodReference { uid: name.into(), ..Default::default() },
            containers: vec![container],
            memory: Some(own),
            volumes: vec![VolumeStats { name: "v".into(), fs: fs(volume).unwrap_or_default(), ephemeral: true, pvc_ref: None }],
            process_stats: Some(Processes { process_count: processes }),
            ..Default::default()
        }
    }

    fn order(signal: &str, apart: bool) -> Vec<String> {
        let mut pods =
            vec![pod("within", 0, "1000"), pod("little", 0, "100"), pod("much", 0, "100"), pod("dear", 5, "0"), pod("unknown", 9, "0")];
        let usage = Summary {
            pods: vec![
                stats("within", 900, 900, 0, 1),
                stats("little", 150, 0, 150, 7),
                stats("much", 300, 300, 0, 2),
                stats("dear", 500, 100, 600, 9),
            ],
            ..Default::default()
        };
        rank(&mut pods, &usage, signal::by_name(signal).expect("it is one"), apart);
        pods.iter().map(|p| identity::name(p).to_owned()).collect()
    }

    #[test]
    fn use_beyond_requests_then_priority_then_amount() {
        assert_eq!(order("memory.available", false), ["unknown", "much", "little", "dear", "within"]);
        assert_eq!(order("nodefs.available", false), ["unknown", "much", "little", "dear", "within"]);
        assert_eq!(order("nodefs.available", true), ["unknown", "little", "dear", "much", "within"], "only logs and volumes");
        assert_eq!(order("imagefs.available", true), ["unknown", "much", "dear", "within", "little"], "only what containers write");
        assert_eq!(order("nodefs.inodesFree", false), ["unknown", "within", "much", "little", "dear"], "nobody asks for inodes");
        assert_eq!(order("pid.available", false), ["unknown", "little", "much", "within", "dear"]);
    }

    #[test]
    fn the_message_is_upstreams() {
        let threshold = Threshold {
            signal: signal::by_name("memory.available").expect("it is one"),
            value: Amount::Fixed(100 << 20),
            grace: Duration::ZERO,
            reclaim: None,
        };
        let sample = Sample { memory: Some(Observation { available: 64 << 10, capacity: 1 << 30 }), ..Default::default() };
        let usage = Summary { pods: vec![stats("p", 150 << 20, 0, 0, 0)], ..Default::default() };
        let want = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 64Ki. \
             Container c was using 150Mi, request is 0, has larger consumption of memory. ";
        assert_eq!(message(&pod("p", 0, "0"), &usage, &[threshold], &sample), want);
        let without = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 64Ki. ";
        assert_eq!(message(&pod("p", 0, "1Gi"), &usage, &[threshold], &sample), without);
    }
}
