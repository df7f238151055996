//! Where pods go.

use crate::resources::own_resource;
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

/// Proves SCH-02: a more important pod takes the place of another, which is told why and has its time to end; until then the place is kept.
#[test]
fn an_urgent_pod_takes_the_place_of_another() {
    for_each_kubectl(Cluster::shared(), "urgent", |k| {
        let (node, resource) = own_resource(k, true);
        let class = format!("{}-urgent", k.namespace);
        k.apply(&format!("apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {{name: {class}}}\nvalue: 10\n"));
        let pod = |name: &str, more: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{more}, containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '10000'], \
                 resources: {{limits: {{{resource}: 2}}}}}}]}}\n"
            )
        };
        // As the first process of its container it does not hear the signal that asks it to end.
        k.apply(&pod("first", "terminationGracePeriodSeconds: 3600"));
        k.until_ready("first");
        k.apply(&pod("urgent", &format!("terminationGracePeriodSeconds: 0, priorityClassName: {class}")));
        k.until("pod", "urgent", "{.status.nominatedNodeName}", &node);
        let told = "{.status.conditions[?(@.type==\"DisruptionTarget\")]['status', 'reason', 'message']}";
        k.until("pod", "first", told, "True PreemptionByScheduler default-scheduler: preempting to accommodate a higher priority pod");
        let preempted = format!("Preempted by pod {} on node {node}", k.field("pod", "urgent", "{.metadata.uid}"));
        eventually("the event", 60, || k.events("first").contains(&("Preempted".into(), preempted.clone())));
        assert_ne!(k.field("pod", "first", "{.metadata.deletionTimestamp}"), "", "it is ending");
        assert_eq!(k.field("pod", "urgent", "{.status.phase}{.spec.nodeName}"), "Pending", "it is not gone yet");
        k.ok(&["delete", "pod", "first", "--now"]);
        k.until_ready("urgent");
        assert_eq!(k.field("pod", "urgent", "{.spec.nodeName} {.status.nominatedNodeName}"), format!("{node} "));
        k.ok(&["delete", "pod", "urgent", "--now"]);
        k.ok(&["delete", "priorityclass", &class]);
        own_resource(k, false);
    });
}
