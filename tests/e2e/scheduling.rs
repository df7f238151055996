//! Where pods go.

use skiff_testing::{Cluster, eventually, for_each_kubectl};

/// Proves SCH-01 and CMP-04.
#[test]
fn a_node_selector_waits_for_its_node() {
    for_each_kubectl(Cluster::shared(), "selector", |k| {
        let key = format!("place-{}", k.name);
        let manifest = std::fs::read_to_string(k.cluster.manifest("nodeselector.yml")).expect("it is in the repository");
        k.apply(&manifest.replace("foo: bar", &format!("{key}: bar")));
        eventually("the reason is told", 30, || {
            k.events("nginx-foo").iter().any(|(reason, text)| {
                reason == "FailedScheduling"
                    && text.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
            })
        });
        assert_eq!(
            k.field("pod", "nginx-foo", "{.status.phase} {.status.conditions[?(@.type==\"PodScheduled\")].reason}"),
            "Pending Unschedulable"
        );
        let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
        k.ok(&["label", "node", &node, &format!("{key}=bar")]);
        k.until_ready("nginx-foo");
        let wide = k.ok(&["get", "pod", "nginx-foo", "-o", "wide", "--no-headers"]);
        k.ok(&["label", "node", &node, &format!("{key}-")]);
        assert!(wide.split_whitespace().any(|cell| cell == node), "{wide}");
    });
}

/// Proves CMP-04: filters, then ranks, then binds.
#[test]
fn what_does_not_fit_stays_pending() {
    for_each_kubectl(Cluster::shared(), "no-room", |k| {
        k.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: big}\nspec: {containers: [{name: c, image: 'busybox:1.28', resources: {requests: {cpu: '100', memory: 1000Gi}}}]}\n");
        eventually("the reason is told", 30, || {
            k.events("big")
                .iter()
                .any(|(reason, text)| reason == "FailedScheduling" && text.contains("1 Insufficient cpu, 1 Insufficient memory"))
        });
        k.ok(&["run", "small", "--image=busybox:1.28", "--", "sleep", "1000"]);
        k.until_ready("small");
        let node = k.field("pod", "small", "{.spec.nodeName}");
        let assigned = format!("Successfully assigned {}/small to {node}", k.namespace);
        assert!(k.events("small").contains(&("Scheduled".into(), assigned)), "{:?}", k.events("small"));
    });
}
