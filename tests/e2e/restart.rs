//! A kubelet, and a runtime, that are killed and started again under pods that run.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_testing::{Cluster, Kubectl, eventually};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: stays}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: "busybox:1.28", command: [sh, -c, "echo first >> /data/log"], volumeMounts: &data [{name: data, mountPath: /data}]}
  - {name: side, image: "busybox:1.28", restartPolicy: Always, command: [sleep, "100000"]}
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, "echo began >> /data/log; echo began; sleep 100000"]
    readinessProbe: {exec: {command: [cat, /data/log]}, periodSeconds: 1}
    livenessProbe: {exec: {command: [cat, /data/log]}, periodSeconds: 1}
    startupProbe: {exec: {command: [cat, /data/log]}, periodSeconds: 1}
    volumeMounts: *data
  volumes: [{name: data, emptyDir: {medium: Memory}}]
---
apiVersion: v1
kind: Pod
metadata: {name: fell}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "busybox:1.28", command: [sh, -c, "test -e /data/x || { touch /data/x; exit 3; }; sleep 100000"], volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: falls}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "busybox:1.28", command: [sleep, "100000"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:1.28", command: [echo, hello]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: leaves}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "busybox:1.28", command: [sleep, "100000"]}]}
"#;

/// Kills a process that `deploy/up` started as nothing can be told of it before.
fn kill_hard(cluster: &Cluster, name: &str) {
    let (_, pid) = cluster.processes().into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} runs"));
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is ours");
    eventually("it is dead", 10, || !cluster.processes().iter().any(|(_, running)| *running == pid));
}

/// What of a pod must not change: its containers, how often they ran, since when it is ready.
fn account(k: &Kubectl<'_>, pod: &str) -> String {
    let of = |list: &str| format!("{{range .status.{list}[*]}}{{.containerID}} {{.restartCount}} {{.state}} {{.lastState}};{{end}}");
    let path =
        format!("{}{}{{.status.conditions[?(@.type==\"Ready\")]}} {{.status.phase}}", of("initContainerStatuses"), of("containerStatuses"));
    k.field("pod", pod, &path)
}

/// Proves CMP-10 for the kubelet and the runtime: what runs goes on, what ended meanwhile is seen, what was deleted meanwhile goes.
#[test]
fn a_killed_kubelet_and_a_killed_runtime_restart_nothing() {
    let cluster = Cluster::private(6);
    let up = || cluster.up(&["--local-images", "--node-name", "n1"]);
    up();
    let k = Kubectl::ours(&cluster, "restart");
    k.apply(PODS);
    for pod in ["stays", "falls", "leaves"] {
        k.until_ready(pod);
    }
    k.until("pod", "fell", "{.status.containerStatuses[0].restartCount}", "1");
    k.until_ready("fell");
    k.until_phase("done", "Succeeded");
    let before: Vec<String> = ["stays", "fell", "done"].iter().map(|pod| account(&k, pod)).collect();
    let id = |pod: &str| k.field("pod", pod, "{.status.containerStatuses[0].containerID}").replace("containerd://", "");
    let leaving = k.field("pod", "leaves", "{.metadata.uid}");

    kill_hard(&cluster, "kubelet");
    cluster.ctr(&["tasks", "kill", "-s", "SIGKILL", &id("falls")]);
    k.ok(&["delete", "pod", "leaves", "--wait=false"]);
    up();
    k.until("pod", "falls", "{.status.containerStatuses[0].restartCount}", "1");
    assert_eq!(k.field("pod", "falls", "{.status.containerStatuses[0].lastState.terminated.exitCode}"), "137");
    k.until_gone("pod", "leaves");
    assert!(cluster.containers(&leaving, "sandbox").is_empty());
    let same = |when: &str| {
        for (pod, was) in ["stays", "fell", "done"].iter().zip(&before) {
            assert_eq!(account(&k, pod), *was, "{pod}, {when}");
        }
        assert_eq!(k.ok(&["exec", "stays", "-c", "c", "--", "cat", "/data/log"]), "first\nbegan\n", "{when}");
        assert_eq!(k.ok(&["logs", "stays", "-c", "c"]), "began\n", "{when}");
        assert_eq!(k.ok(&["logs", "done"]), "hello\n", "{when}");
    };
    same("after the kubelet's end");

    kill_hard(&cluster, "containerd");
    up();
    eventually("a new pod starts on the new runtime", 60, || {
        k.run(&["run", "new", "--image=busybox:1.28", "--", "sleep", "1000"]).code == 0
    });
    k.until_ready("new");
    same("after the runtime's end");
    k.ok(&["delete", "pod", "stays", "--wait=false"]);
    k.until_gone("pod", "stays");
}
