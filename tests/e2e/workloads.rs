//! Controllers that keep pods running.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};

const REPLICA_SET: &str = "
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'busybox:1.28', command: [sleep, '1000']}]}
";

fn living(k: &Kubectl<'_>, selector: &str) -> Vec<String> {
    let path = "jsonpath={range .items[*]}{.metadata.name}:{.metadata.deletionTimestamp}{\"\\n\"}{end}";
    k.ok(&["get", "pods", "-l", selector, "-o", path]).lines().filter_map(|line| line.strip_suffix(':').map(str::to_owned)).collect()
}

/// Proves WRK-01.
#[test]
fn a_replica_set_keeps_the_count() {
    for_each_kubectl(Cluster::shared(), "replicas", |k| {
        // A pod that is there before, with the labels and no owner, is adopted.
        k.ok(&["run", "orphan", "--image=busybox:1.28", "--labels=app=web", "--", "sleep", "1000"]);
        k.until_ready("orphan");
        assert_eq!(k.apply(REPLICA_SET), "replicaset.apps/web created\n");
        k.until("rs", "web", "{.status.readyReplicas}", "3");
        assert_eq!(living(k, "app=web").len(), 3);
        assert_eq!(k.field("pod", "orphan", "{.metadata.ownerReferences[0].name}"), "web");

        let victim = living(k, "app=web").into_iter().find(|name| name != "orphan").expect("two are its own");
        k.ok(&["delete", "pod", &victim]);
        k.until("rs", "web", "{.status.readyReplicas}", "3");
        assert!(!living(k, "app=web").contains(&victim));

        // One whose label changes is let go, and another takes its place.
        k.ok(&["label", "pod", "orphan", "app=other", "--overwrite"]);
        eventually("a new third pod", 30, || living(k, "app=web").len() == 3);
        eventually("it has no owner", 30, || k.field("pod", "orphan", "{.metadata.ownerReferences}").is_empty());

        k.ok(&["scale", "rs", "web", "--replicas=1"]);
        eventually("one is left", 60, || living(k, "app=web").len() == 1);
        k.ok(&["delete", "rs", "web"]);
        eventually("its pods go with it", 60, || living(k, "app=web").is_empty());
        assert_eq!(living(k, "app=other"), ["orphan"]);
    });
}

/// Proves the rolling part of WRK-02.
#[test]
fn a_deployment_rolls() {
    for_each_kubectl(Cluster::shared(), "rolls", |k| {
        k.ok(&["create", "deployment", "d", "--image=nginx:1.14", "--replicas=2"]);
        k.until("deployment", "d", "{.status.availableReplicas}", "2");
        let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"nginx","image":"nginx:1.14.2"}]}}}}"#;
        k.ok(&["patch", "deployment", "d", "-p", patch]);
        let done = k.ok(&["rollout", "status", "deployment/d", "--timeout=90s"]);
        assert!(
            done.ends_with(
                "deployment \"d\" successfully rolled out
"
            ),
            "{done}"
        );
        let images = k.ok(&[
            "get",
            "pods",
            "-l",
            "app=d",
            "--field-selector=status.phase=Running",
            "-o",
            "jsonpath={.items[*].spec.containers[0].image}",
        ]);
        assert!(images.split_whitespace().filter(|i| *i == "nginx:1.14.2").count() >= 2, "{images}");
        assert_eq!(k.ok(&["get", "rs", "-l", "app=d", "-o", "name"]).lines().count(), 2, "the old one stays for a rollback");
    });
}
