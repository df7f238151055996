//! Pods with names of their own, and pods of nodes.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};

const STATEFUL_SET: &str = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 3
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'busybox:1.28', command: [sleep, '10000']}]}
";

fn image(k: &Kubectl<'_>, pod: &str) -> String {
    k.run(&["get", "pod", pod, "-o", "jsonpath={.spec.containers[0].image}"]).out
}

/// Proves WRK-03 but for the claims: one pod after the other, each with a name that resolves, updated from the last on down to the partition, and ended in
/// the opposite order.
#[test]
fn a_stateful_set_keeps_its_order() {
    for_each_kubectl(Cluster::shared(), "stateful", |k| {
        k.apply(STATEFUL_SET);
        k.until("statefulset", "db", "{.status.readyReplicas}", "3");
        let created = |pod: &str| k.field("pod", pod, "{.metadata.creationTimestamp}");
        let ready = |pod: &str| k.field("pod", pod, "{.status.conditions[?(@.type==\"Ready\")].lastTransitionTime}");
        assert!(created("db-1") >= ready("db-0") && created("db-2") >= ready("db-1"), "each waits for the one before");

        let name = format!("db-2.db.{}.svc.cluster.local", k.namespace);
        let address = k.field("pod", "db-2", "{.status.podIP}");
        eventually("the last one's name is known to the first", 60, || {
            k.run(&["exec", "db-0", "--", "nslookup", &name]).out.lines().any(|line| line.contains(&address))
        });

        // Only what is not below the partition is updated.
        let update = |partition: u8, image: &str| {
            let strategy = format!(r#""updateStrategy":{{"type":"RollingUpdate","rollingUpdate":{{"partition":{partition}}}}}"#);
            let template = format!(r#""template":{{"spec":{{"containers":[{{"name":"c","image":"{image}"}}]}}}}"#);
            k.ok(&["patch", "statefulset", "db", "-p", &format!(r#"{{"spec":{{{strategy},{template}}}}}"#)]);
        };
        update(2, "busybox:latest");
        k.until("statefulset", "db", "{.status.updatedReplicas} {.status.readyReplicas}", "1 3");
        assert_eq!(["db-0", "db-1", "db-2"].map(|pod| image(k, pod)), ["busybox:1.28", "busybox:1.28", "busybox:latest"]);
        assert_eq!(k.field("pod", "db-2", "{.metadata.name}"), "db-2", "the name stays");
        update(0, "busybox:latest");
        k.until("statefulset", "db", "{.status.updatedReplicas} {.status.readyReplicas}", "3 3");
        assert_eq!(["db-0", "db-1", "db-2"].map(|pod| image(k, pod)), ["busybox:latest"; 3]);

        k.ok(&["delete", "events", "--all"]);
        k.ok(&["scale", "statefulset", "db", "--replicas=1"]);
        k.until_gone("pod", "db-1");
        let ended = || -> Vec<String> {
            k.events("db").into_iter().filter(|(reason, _)| reason == "SuccessfulDelete").map(|(_, text)| text).collect()
        };
        let text = |pod: &str| format!("Delete Pod {pod} in StatefulSet db successful");
        eventually("both are told of", 60, || ended().len() == 2);
        assert_eq!(ended(), [text("db-2"), text("db-1")], "the last goes first");
        assert_eq!(k.field("pod", "db-0", "{.status.phase}"), "Running");
    });
}

/// Proves WRK-04: a pod on each eligible node, on one that becomes eligible too; all of them follow the template.
#[test]
fn a_daemon_set_follows_the_nodes() {
    let cluster = Cluster::private(4);
    cluster.up(&["--hollow", "3"]);
    for_each_kubectl(&cluster, "daemons", |k| {
        let key = format!("runs-{}", k.name);
        let nodes = k.ok(&["get", "nodes", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"]);
        let nodes: Vec<&str> = nodes.lines().collect();
        let label = |node: &str, value: &str| drop(k.ok(&["label", "node", node, &format!("{key}{value}")]));
        label(nodes[0], "=yes");
        k.apply(&format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: d}}\nspec: {{selector: {{matchLabels: {{app: d}}}}, template: {{metadata: {{labels: {{app: d}}}}, \
             spec: {{nodeSelector: {{{key}: 'yes'}}, containers: [{{name: c, image: 'any:1'}}]}}}}}}\n"
        ));
        let places = || {
            let mut places: Vec<String> = k
                .ok(&["get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"])
                .lines()
                .map(str::to_owned)
                .collect();
            places.sort();
            places
        };
        let counts = "{.status.desiredNumberScheduled} {.status.numberReady} {.status.updatedNumberScheduled}";
        k.until("daemonset", "d", counts, "1 1 1");
        assert_eq!(places(), [nodes[0]]);
        label(nodes[1], "=yes");
        k.until("daemonset", "d", counts, "2 2 2");
        assert_eq!(places(), nodes[..2]);
        label(nodes[0], "-");
        k.until("daemonset", "d", counts, "1 1 1");
        eventually("the pod leaves", 60, || places() == [nodes[1]]);

        label(nodes[2], "=yes");
        k.ok(&["set", "image", "daemonset/d", "c=any:2"]);
        let done = k.ok(&["rollout", "status", "daemonset/d", "--timeout=90s"]);
        assert!(done.ends_with("daemon set \"d\" successfully rolled out\n"), "{done}");
        eventually("the new ones alone", 60, || {
            k.ok(&["get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"]) == "any:2 any:2" && places() == nodes[1..]
        });
    });
}
