//! Claims and persistent volumes, static and made for them, and what is measured of pods.

use skiff_testing::{Cluster, eventually, for_each_kubectl};

/// A pod that appends a line to a file on a claim's volume, as somebody who is not root, and stays.
fn writer(name: &str, claim: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsUser: 1000}}
  containers:
  - {{name: c, image: 'busybox:1.28', command: [sh, -c, 'echo {name} >> /data/log; sleep 1000'], volumeMounts: [{{name: v, mountPath: /data}}]}}
  volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]
"
    )
}

/// Proves VOL-06: static binding by class and size, a volume that is kept, and used again.
#[test]
fn a_claim_gets_the_volume_that_suits_it() {
    for_each_kubectl(Cluster::shared(), "static-claims", |k| {
        let (small, large) = (format!("small-{}", k.namespace), format!("large-{}", k.namespace));
        let directory = std::env::temp_dir().join(format!("skiff-{}", k.namespace));
        for (name, size) in [(&small, "10Mi"), (&large, "1Gi")] {
            let path = directory.join(name);
            k.apply(&format!(
                "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec: {{capacity: {{storage: {size}}}, accessModes: [ReadWriteOnce], storageClassName: {}, hostPath: {{path: {}}}}}
",
                k.namespace,
                path.display()
            ));
        }
        let claim = |name: &str, size: &str| {
            k.apply(&format!(
                "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: {}, resources: {{requests: {{storage: {size}}}}}}}
",
                k.namespace
            ))
        };
        claim("c", "100Mi");
        k.until("pvc", "c", "{.status.phase}", "Bound");
        assert_eq!(k.field("pvc", "c", "{.spec.volumeName} {.status.capacity.storage}"), format!("{large} 1Gi"));
        assert_eq!(k.field("pv", &large, "{.status.phase}"), "Bound");
        k.apply(&writer("a", "c").replace("securityContext: {runAsUser: 1000}", "securityContext: {}"));
        k.until_ready("a");

        // A claim in use stays until its pod has gone.
        k.ok(&["delete", "pvc", "c", "--wait=false"]);
        assert_ne!(k.field("pvc", "c", "{.metadata.deletionTimestamp}"), "");
        k.ok(&["delete", "pod", "a"]);
        k.until_gone("pvc", "c");
        k.until("pv", &large, "{.status.phase}", "Released");
        k.ok(&["patch", "pv", &large, "-p", r#"{"spec": {"claimRef": null}}"#]);
        k.until("pv", &large, "{.status.phase}", "Available");
        claim("again", "100Mi");
        k.until("pvc", "again", "{.status.phase}", "Bound");
        k.apply(&writer("b", "again").replace("securityContext: {runAsUser: 1000}", "securityContext: {}"));
        k.until_ready("b");
        eventually("what the first pod wrote is still there", 30, || k.ok(&["exec", "b", "--", "cat", "/data/log"]) == "a\nb\n");

        k.ok(&["delete", "pod", "b"]);
        k.ok(&["delete", "pvc", "again"]);
        k.ok(&["delete", "pv", &small, &large]);
        std::fs::remove_dir_all(&directory).expect("the kubelet made it");
    });
}

/// Proves VOL-06: the default class makes a volume where the first pod runs, data survives the pod, and goes with the claim.
#[test]
fn the_default_class_provides() {
    for_each_kubectl(Cluster::shared(), "provided-claims", |k| {
        assert_eq!(k.field("storageclass", "standard", "{.provisioner}"), "skiff.dev/local");
        k.apply(
            "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: c}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 5Mi}}}
",
        );
        assert_eq!(k.field("pvc", "c", "{.spec.storageClassName}"), "standard");
        eventually("it waits for a pod", 30, || k.events("c").iter().any(|(reason, _)| reason == "WaitForFirstConsumer"));
        k.apply(&writer("a", "c"));
        k.until_ready("a");
        let volume = k.field("pvc", "c", "{.spec.volumeName}");
        assert_eq!(k.field("pvc", "c", "{.status.phase}"), "Bound");
        k.ok(&["delete", "pod", "a"]);
        k.apply(&writer("b", "c"));
        k.until_ready("b");
        eventually("data survives the pod", 30, || k.ok(&["exec", "b", "--", "cat", "/data/log"]) == "a\nb\n");
        let path = k.field("pv", &volume, "{.spec.hostPath.path}");
        assert!(std::path::Path::new(&path).is_dir(), "{path}");
        k.ok(&["delete", "pod", "b"]);
        k.ok(&["delete", "pvc", "c"]);
        k.until_gone("pv", &volume);
        assert!(!std::path::Path::new(&path).exists(), "{path} went with the claim");
    });
}

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec:
  serviceName: s
  replicas: 2
  selector: {matchLabels: {app: s}}
  template:
    metadata: {labels: {app: s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sh, -c, 'hostname >> /data/log; sleep 1000'], volumeMounts: [{name: d, mountPath: /data}]}]
  volumeClaimTemplates:
  - metadata: {name: d}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";

/// Proves VOL-06: each pod of a StatefulSet has a claim of its own, and finds it again.
#[test]
fn pods_of_a_stateful_set_keep_their_claims() {
    for_each_kubectl(Cluster::shared(), "set-claims", |k| {
        k.apply(SET);
        k.until("statefulset", "s", "{.status.readyReplicas}", "2");
        let log = || k.run(&["exec", "s-1", "--", "cat", "/data/log"]).out;
        eventually("the first s-1 has written", 30, || log() == "s-1\n");
        k.ok(&["delete", "pod", "s-1"]);
        k.until("statefulset", "s", "{.status.readyReplicas}", "2");
        eventually("the second s-1 finds what the first wrote", 60, || log() == "s-1\ns-1\n");
        assert_eq!(k.ok(&["exec", "s-0", "--", "cat", "/data/log"]), "s-0\n");
        k.ok(&["delete", "statefulset", "s"]);
        k.ok(&["delete", "pvc", "d-s-0", "d-s-1"]);
    });
}

const BUSY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'busybox:1.28', command: [sh, -c, 'while :; do :; done'], resources: {requests: {cpu: 50m}, limits: {cpu: 100m, memory: 32Mi}}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  maxReplicas: 2
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
";

/// Proves the autoscaling part of CMP-05: what pods use is measured, shown by `kubectl top`, and scales their Deployment.
#[test]
fn a_busy_deployment_is_measured_and_scaled() {
    for_each_kubectl(Cluster::shared(), "busy", |k| {
        k.apply(BUSY);
        k.until("hpa", "busy", "{.status.desiredReplicas}", "2");
        k.until("deployment", "busy", "{.spec.replicas}", "2");
        let rescaled = "New size: 2; reason: cpu resource utilization (percentage of request) above target";
        eventually("that is told", 20, || {
            k.events("busy").iter().any(|(reason, message)| reason == "SuccessfulRescale" && message == rescaled)
        });
        let top = k.ok(&["top", "pods"]);
        assert!(top.lines().next().is_some_and(|head| head.split_whitespace().eq(["NAME", "CPU(cores)", "MEMORY(bytes)"])), "{top}");
        let millis: u32 = top.lines().nth(1).and_then(|line| line.split_whitespace().nth(1)?.strip_suffix('m')?.parse().ok()).unwrap_or(0);
        assert!((20..=200).contains(&millis), "it uses about its limit of 100m: {top}");
        let nodes = k.ok(&["top", "nodes"]);
        assert_eq!(nodes.lines().count(), 2, "{nodes}");
    });
}
