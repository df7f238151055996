//! Probes, on processes that really answer or do not.

use skiff_testing::{Cluster, eventually, for_each_kubectl};

const PROBED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: nginx:1.14
    ports: [{name: web, containerPort: 80}]
    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {httpGet: {path: /, port: web}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {httpGet: {path: /, port: 80, httpHeaders: [{name: X-Y, value: z}]}, periodSeconds: 1}
  - name: shell
    image: busybox:1.28
    command: [sleep, "1000"]
    readinessProbe: {exec: {command: [cat, /ready]}, periodSeconds: 1, failureThreshold: 1}
"#;

/// Proves PRB-01 (exec, httpGet, tcpSocket), PRB-02 and PRB-04.
#[test]
fn readiness_follows_the_probe_and_restarts_nothing() {
    for_each_kubectl(Cluster::shared(), "probed", |k| {
        k.apply(PROBED);
        let ready = |wanted: &str| k.until("pod", "probed", "{.status.containerStatuses[*].ready}", wanted);
        // In the order of their names: shell, web.
        ready("false true");
        k.until("pod", "probed", "{.status.conditions[?(@.type==\"Ready\")].reason}", "ContainersNotReady");
        k.ok(&["exec", "probed", "-c", "shell", "--", "touch", "/ready"]);
        ready("true true");
        k.until_ready("probed");
        k.ok(&["exec", "probed", "-c", "shell", "--", "rm", "/ready"]);
        ready("false true");
        assert_eq!(k.field("pod", "probed", "{.status.containerStatuses[*].restartCount}"), "0 0");
        assert_eq!(k.field("pod", "probed", "{.spec.containers[0].livenessProbe.timeoutSeconds}"), "1", "upstream's default");
    });
}

const KILLED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: dies}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, "touch /alive; sleep 1000"]
    # The answer is what is asked for here, however busy the machine.
    livenessProbe: {exec: {command: [sh, -c, "test -e /alive || { echo it is gone; exit 1; }"]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: unstarted}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sleep, "1000"]
    startupProbe: {tcpSocket: {port: 81}, periodSeconds: 1, failureThreshold: 2}
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}
"#;

/// Proves PRB-03 and PRB-05.
#[test]
fn failed_liveness_and_startup_kill_the_container() {
    for_each_kubectl(Cluster::shared(), "killed", |k| {
        k.apply(KILLED);
        k.until_ready("dies");
        k.ok(&["exec", "dies", "--", "rm", "/alive"]);
        for (pod, word) in [("dies", "Liveness"), ("unstarted", "Startup")] {
            eventually(&format!("{pod} is restarted"), 40, || {
                k.field("pod", pod, "{.status.containerStatuses[0].restartCount}").parse().is_ok_and(|n: u32| n > 0)
            });
            let killing = format!("Container c failed {} probe, will be restarted", word.to_lowercase());
            eventually(&format!("{pod} has its events"), 20, || {
                let events = k.events(pod);
                events.iter().any(|(r, m)| r == "Unhealthy" && m.starts_with(&format!("{word} probe failed: ")))
                    && events.contains(&("Killing".to_owned(), killing.clone()))
            });
        }
        k.until_ready("dies");
        let unhealthy = k.events("dies").into_iter().find(|(r, _)| r == "Unhealthy");
        assert_eq!(unhealthy.map(|(_, m)| m).as_deref(), Some("Liveness probe failed: it is gone\n"));
        assert!(!k.events("unstarted").iter().any(|(_, m)| m.starts_with("Liveness")), "it waits for the startup probe");
    });
}
