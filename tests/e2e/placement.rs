//! Where pods go when there are several nodes: a cluster of simulated ones.

use skiff_testing::{Cluster, Kubectl, eventually};

fn pod(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{terminationGracePeriodSeconds: 0, {spec}containers: [{{name: c, image: any}}]}}\n---\n"
    )
}

fn node_of(k: &Kubectl<'_>, pod: &str) -> String {
    k.until_ready(pod);
    k.field("pod", pod, "{.spec.nodeName}")
}

/// What the scheduler last said of a pod that it placed nowhere.
fn refused(k: &Kubectl<'_>, pod: &str, why: &str) {
    k.until(
        "pod",
        pod,
        "{.status.conditions[?(@.type==\"PodScheduled\")]['status', 'reason', 'message']}",
        &format!("False Unschedulable {why}"),
    );
}

const NO_VICTIMS: &str = "preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.";

/// Proves SCH-02 but for volumes and preemption, each with the words for a pod that finds no place.
#[test]
fn pods_go_where_nodes_and_pods_allow() {
    let cluster = Cluster::private(5);
    cluster.up(&["--hollow", "4"]);
    let k = &Kubectl::ours(&cluster, "placement");
    let nodes = k.ok(&["get", "nodes", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"]);
    let nodes: Vec<&str> = nodes.lines().collect();
    for (number, node) in nodes.iter().enumerate() {
        k.ok(&["label", "node", node, &format!("zone=z{}", number / 2), &format!("number={number}")]);
    }

    // Node affinity: what is required, and of that what is preferred.
    let term = |key: &str, value: &str| format!("{{matchExpressions: [{{key: {key}, operator: In, values: ['{value}']}}]}}");
    let required = format!("requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{}]}}", term("zone", "z1"));
    let preferred = format!("preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 100, preference: {}}}]", term("number", "3"));
    k.apply(&pod("likes", "app: likes", &format!("affinity: {{nodeAffinity: {{{required}, {preferred}}}}}, ")));
    assert_eq!(node_of(k, "likes"), nodes[3]);
    let nowhere = format!("requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{}]}}", term("zone", "z9"));
    k.apply(&pod("nowhere", "app: nowhere", &format!("affinity: {{nodeAffinity: {{{nowhere}}}}}, ")));
    refused(
        k,
        "nowhere",
        &format!("0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, {NO_VICTIMS}"),
    );

    // By other pods: beside one, in its zone, and not on its node.
    let by = |kind: &str, key: &str| {
        format!(
            "affinity: {{{kind}: {{requiredDuringSchedulingIgnoredDuringExecution: [{{labelSelector: {{matchLabels: {{app: likes}}}}, topologyKey: {key}}}]}}}}, "
        )
    };
    k.apply(
        &(pod("beside", "app: b", &by("podAffinity", "kubernetes.io/hostname"))
            + &pod("elsewhere", "app: e", &by("podAntiAffinity", "zone"))),
    );
    assert_eq!(node_of(k, "beside"), nodes[3]);
    assert!(nodes[..2].contains(&&*node_of(k, "elsewhere")));

    // Taints, and who tolerates them; nodes that are closed.
    for node in &nodes[..3] {
        k.ok(&["taint", "node", node, "kept=for:NoSchedule"]);
    }
    k.ok(&["cordon", nodes[3]]);
    k.apply(
        &(pod("plain", "app: p", "")
            + &pod("kept", "app: k", "tolerations: [{key: kept, operator: Exists}], nodeSelector: {number: '1'}, ")),
    );
    assert_eq!(node_of(k, "kept"), nodes[1]);
    refused(
        k,
        "plain",
        &format!(
            "0/4 nodes are available: 1 node(s) were unschedulable, 3 node(s) had untolerated taint(s). no new claims to deallocate, {NO_VICTIMS}"
        ),
    );
    k.ok(&["uncordon", nodes[3]]);
    assert_eq!(node_of(k, "plain"), nodes[3]);
    for node in &nodes[..3] {
        k.ok(&["taint", "node", node, "kept-"]);
    }

    // A port of the node is there once.
    let port = |name: &str| {
        pod(name, "app: port", "nodeSelector: {number: '0'}, ")
            .replace("image: any", "image: any, ports: [{containerPort: 80, hostPort: 8080}]")
    };
    k.apply(&port("first"));
    assert_eq!(node_of(k, "first"), nodes[0]);
    k.apply(&port("second"));
    eventually("the port is taken", 60, || {
        k.events("second").iter().any(|(reason, text)| {
            reason == "FailedScheduling" && text.contains("1 node(s) didn't have free ports for the requested pod ports")
        })
    });
    k.ok(&["delete", "pod", "first"]);
    assert_eq!(node_of(k, "second"), nodes[0]);

    // Spread over nodes and zones.
    let spread = |key: &str| {
        format!("{{maxSkew: 1, topologyKey: {key}, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: spread}}}}}}")
    };
    let constraints = format!("topologySpreadConstraints: [{}, {}], ", spread("zone"), spread("kubernetes.io/hostname"));
    let names: Vec<String> = (0..8).map(|number| format!("spread-{number}")).collect();
    k.apply(&names.iter().map(|name| pod(name, "app: spread", &constraints)).collect::<String>());
    let mut places: Vec<String> = names.iter().map(|name| node_of(k, name)).collect();
    places.sort();
    assert_eq!(places, nodes.iter().flat_map(|node| [*node; 2]).collect::<Vec<_>>());

    // A gate holds a pod back, without a word about nodes.
    k.apply(&pod("gated", "app: g", "schedulingGates: [{name: example.com/wait}], "));
    let gated = "{.status.conditions[?(@.type==\"PodScheduled\")].reason}";
    k.until("pod", "gated", gated, "SchedulingGated");
    k.ok(&["patch", "pod", "gated", "--type=json", "-p", r#"[{"op": "remove", "path": "/spec/schedulingGates"}]"#]);
    k.until_ready("gated");

    // A node is emptied but for what belongs to it, and stays closed.
    k.ok(&["create", "deployment", "web", "--image=any", "--replicas=4"]);
    k.until("deployment", "web", "{.status.availableReplicas}", "4");
    k.ok(&["drain", nodes[1], "--force", "--timeout=60s"]);
    let on_it = || k.ok(&["get", "pods", "--field-selector", &format!("spec.nodeName={}", nodes[1]), "-o", "name"]);
    assert_eq!(on_it(), "");
    k.until("deployment", "web", "{.status.availableReplicas}", "4");
    assert_eq!(on_it(), "", "it is closed");
}
