//! What pods ask for of the node, what they may use of it, and how that changes while they run.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};
use std::path::Path;

/// What the node has for pods, in whole CPUs.
fn cpus(k: &Kubectl<'_>) -> u64 {
    let text = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].status.allocatable.cpu}"]);
    text.parse().unwrap_or_else(|_| panic!("whole CPUs: {text:?}"))
}

/// Puts two of a resource of the test's own on the node, so that no other test is short of it, or takes it away again. Answers the node and the resource.
pub fn own_resource(k: &Kubectl<'_>, there: bool) -> (String, String) {
    let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let (op, value) = if there { ("add", r#", "value": "2""#) } else { ("remove", "") };
    let one = |list: &str| format!(r#"{{"op": "{op}", "path": "/status/{list}/example.com~1{}"{value}}}"#, k.namespace);
    let patch = format!("[{}, {}]", one("capacity"), one("allocatable"));
    k.ok(&["patch", "node", &node, "--subresource=status", "--type=json", "-p", &patch]);
    (node, format!("example.com/{}", k.namespace))
}

/// Proves POD-13: requests decide, and room that appears is used.
#[test]
fn a_pod_waits_for_room_and_takes_it() {
    for_each_kubectl(Cluster::shared(), "room", |k| {
        let (_, name) = own_resource(k, true);
        let pod = |pod: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '1000'], \
                 resources: {{requests: {{{name}: 2}}, limits: {{{name}: 2}}}}}}]}}\n---\n"
            )
        };
        k.apply(&pod("first"));
        k.until("pod", "first", "{.status.conditions[?(@.type==\"PodScheduled\")].status}", "True");
        k.apply(&pod("second"));
        eventually("the reason is told", 30, || {
            let wanted = format!("0/1 nodes are available: 1 Insufficient {name}.");
            k.events("second").iter().any(|(reason, text)| reason == "FailedScheduling" && text.starts_with(&wanted))
        });
        assert_eq!(k.field("pod", "second", "{.status.phase}"), "Pending");
        k.ok(&["delete", "pod", "first", "--now"]);
        k.until("pod", "second", "{.status.conditions[?(@.type==\"PodScheduled\")].status}", "True");
        k.ok(&["delete", "pod", "second", "--now"]);
        own_resource(k, false);
    });
}

const LIMITED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, "while true; do :; done"]
    resources: {requests: {cpu: 50m, memory: 1e7}, limits: {cpu: "0.2", memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers: [{name: c, image: "busybox:1.28", command: [sh, -c, "tail /dev/zero"], resources: {limits: {cpu: 250m, memory: "20971520"}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "busybox:1.28", command: [sleep, "1000"]}]}
"#;

/// What the container's own cgroup says, under cgroups v2 or v1.
fn cgroup(k: &Kubectl<'_>, pod: &str, v2: &str, v1: &str) -> String {
    k.ok(&["exec", pod, "--", "sh", "-c", &format!("cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}")]).trim().to_owned()
}

/// What the kernel has of a cgroup above the pod's first container's own, so many levels up, by its names under cgroups v2 and v1.
fn above(cluster: &Cluster, pod_uid: &str, levels: usize, controller: &str, [v2, v1]: [&str; 2]) -> (String, String) {
    let container = cluster.containers(pod_uid, "container").remove(0);
    let tasks = cluster.ctr(&["tasks", "ls"]);
    let pid = tasks.lines().find(|line| line.starts_with(&container)).and_then(|line| line.split_whitespace().nth(1)).expect("it runs");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (hierarchy, path) = groups
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .find(|(names, _)| if unified { names.is_empty() } else { names.split(',').any(|name| name == controller) })
        .expect("it has one");
    let level = Path::new(path).ancestors().nth(levels).expect("a pod's cgroup is no root");
    let directory = Path::new("/sys/fs/cgroup").join(hierarchy).join(level.strip_prefix("/").expect("it is absolute"));
    let name = level.file_name().expect("no root").to_string_lossy().into_owned();
    let file = directory.join(if unified { v2 } else { v1 });
    (name, std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned())
}

/// Proves POD-14.
#[test]
fn limits_hold() {
    let cluster = Cluster::shared();
    let k = Kubectl::ours(cluster, "limits");
    k.apply(LIMITED);
    k.until_ready("limited");
    k.until_ready("modest");
    let class = |pod: &str| k.field("pod", pod, "{.status.qosClass}");
    assert_eq!([class("limited"), class("greedy"), class("modest")], ["Burstable", "Guaranteed", "BestEffort"]);
    let quota = cgroup(&k, "limited", "cpu.max", "cpu/cpu.cfs_quota_us");
    assert_eq!(quota.split(' ').next(), Some("20000"), "a fifth of a CPU in 100 ms");
    assert_eq!(cgroup(&k, "limited", "memory.max", "memory/memory.limit_in_bytes"), (32 << 20).to_string());
    // So do those of the pod, whatever driver made them; all pods together have what the node has.
    let uid = k.field("pod", "limited", "{.metadata.uid}");
    let (quota, memory) = (["cpu.max", "cpu.cfs_quota_us"], ["memory.max", "memory.limit_in_bytes"]);
    let (name, own) = above(cluster, &uid, 1, "cpu", quota);
    assert!(name.contains(&uid) || name.contains(&uid.replace('-', "_")), "{name}");
    assert_eq!(own.split(' ').next(), Some("20000"));
    assert_eq!(above(cluster, &uid, 1, "memory", memory).1, (32 << 20).to_string());
    let class = above(cluster, &uid, 2, "cpu", ["cpu.weight", "cpu.shares"]);
    assert!(class.0.contains("kubepods") || class.0 == "burstable", "{class:?}");
    assert!(class.1.parse::<u64>().is_ok_and(|share| share > 1), "{class:?}");
    let capacity = k.field("node", &k.field("pod", "limited", "{.spec.nodeName}"), "{.status.capacity.memory}");
    let capacity = capacity.strip_suffix("Ki").and_then(|kib| kib.parse::<u64>().ok()).expect("in KiB") * 1024;
    assert_eq!(above(cluster, &uid, 3, "memory", memory).1, capacity.to_string());
    eventually("the CPU is throttled", 20, || {
        let stat = cgroup(&k, "limited", "cpu.stat", "cpu/cpu.stat");
        stat.lines().any(|line| line.strip_prefix("nr_throttled ").is_some_and(|n| n != "0"))
    });
    k.until_phase("greedy", "Failed");
    let ended = "{.status.containerStatuses[0].state.terminated";
    assert_eq!(k.field("pod", "greedy", &format!("{ended}.reason}} {ended}.exitCode}}")), "OOMKilled 137");
}

const RESIZED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: resized}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sleep, "1000"]
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 32Mi}}
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: RestartContainer}]
"#;

/// Proves the in-place part of POD-14: a limit changes under a running process, or restarts it where the policy says so, and what has no room is told.
#[test]
fn a_pod_is_resized_in_place() {
    let k = Kubectl::ours(Cluster::shared(), "resized");
    k.apply(RESIZED);
    k.until_ready("resized");
    let resize = |resources: &str| {
        let patch = format!(r#"{{"spec": {{"containers": [{{"name": "c", "resources": {resources}}}]}}}}"#);
        k.ok(&["patch", "pod", "resized", "--subresource=resize", "-p", &patch]);
    };
    let restarts = || k.field("pod", "resized", "{.status.containerStatuses[0].restartCount}");
    let quota = || cgroup(&k, "resized", "cpu.max", "cpu/cpu.cfs_quota_us").split(' ').next().unwrap_or_default().to_owned();
    assert_eq!(quota(), "10000");

    resize(r#"{"limits": {"cpu": "300m"}}"#);
    k.until("pod", "resized", "{.status.containerStatuses[0].resources.limits.cpu}", "300m");
    assert_eq!((quota().as_str(), restarts().as_str()), ("30000", "0"));
    let told = |reason: &str, words: &str| {
        eventually(&format!("an event {reason} with {words:?}"), 20, || {
            k.events("resized").iter().any(|(r, m)| r == reason && m.contains(words))
        });
    };
    told("ResizeStarted", "Pod resize started: {\"containers\":[{\"name\":\"c\",\"resources\":{\"limits\":{\"cpu\":\"300m\"");
    told("ResizeCompleted", "Pod resize completed: {\"containers\":[{\"name\":\"c\"");

    resize(r#"{"requests": {"memory": "48Mi"}, "limits": {"memory": "48Mi"}}"#);
    k.until("pod", "resized", "{.status.containerStatuses[0].restartCount}", "1");
    k.until("pod", "resized", "{.status.containerStatuses[0].resources.limits.memory}", "48Mi");

    let pending = "{.status.conditions[?(@.type==\"PodResizePending\")]";
    resize(r#"{"requests": {"cpu": "900"}, "limits": {"cpu": "1000"}}"#);
    k.until("pod", "resized", &format!("{pending}.reason}}"), "Infeasible");
    let capacity = cpus(&k) * 1000;
    assert_eq!(
        k.field("pod", "resized", &format!("{pending}.message}}")),
        format!("Node didn't have enough capacity: cpu, requested: 900000, capacity: {capacity}")
    );
    told("ResizeInfeasible", "Pod resize Infeasible: ");
    assert_eq!(k.field("pod", "resized", "{.status.containerStatuses[0].resources.limits.cpu}"), "300m", "it goes on with what it had");
    resize(r#"{"requests": {"cpu": "60m"}, "limits": {"cpu": "200m"}}"#);
    k.until("pod", "resized", "{.status.containerStatuses[0].allocatedResources.cpu}", "60m");
    k.until("pod", "resized", &format!("{pending}.reason}}"), "");
    assert_eq!((quota().as_str(), restarts().as_str()), ("20000", "1"));
}
