//! What kubectl explains: why something is as it is and what happened to it, which upstream's does not, and what kinds and manifests mean, as upstream's does.

use serde_json::Value;
use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};
use std::collections::BTreeMap;
use std::sync::Mutex;

fn kubectl(test: &str) -> Kubectl<'static> {
    let cluster = Cluster::shared();
    Kubectl::new(cluster, cluster.binary("kubectl"), test, "ours")
}

/// Proves SCH-03: a row a node, with the check that refuses the pod and by how much; and for what owns pods, the chain down to the cause.
#[test]
fn why_names_the_check_and_the_amount_and_follows_the_chain() {
    let k = kubectl("why");
    k.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: big}\nspec: {containers: [{name: c, image: 'busybox:1.28', resources: {requests: {cpu: '100'}}}]}\n");
    let mut said = String::new();
    eventually("the service account's token does not stand in the way", 30, || {
        said = k.ok(&["why", "pod/big"]);
        said.contains("NodeResourcesFit")
    });
    assert!(said.starts_with("pod/big is not scheduled: none of 1 node takes it\n"), "{said}");
    assert!(said.contains("cpu: wants 100, "), "{said}");
    assert!(said.contains("What would change it:") && said.contains(" more cpu free on node "), "{said}");

    k.ok(&["create", "deployment", "web", "--image=busybox:no-such-tag", "--port=80"]);
    k.ok(&["expose", "deployment", "web", "--port=80"]);
    eventually("the image is the cause", 60, || {
        said = k.ok(&["why", "deployment", "web"]);
        said.contains("cannot get the image of container busybox: ")
    });
    let chain: Vec<usize> = ["deployment/web", "replicaset/web-", "pod/web-"].iter().filter_map(|object| said.find(object)).collect();
    assert!(chain.len() == 3 && chain.is_sorted(), "{said}");
    let service = k.ok(&["why", "service/web"]);
    assert!(service.starts_with("service/web has no endpoints: 1 pod match, 0 ready\n"), "{service}");
    let answer: Value = serde_json::from_str(&k.ok(&["why", "svc/web", "-o", "json"])).expect("it prints JSON");
    assert_eq!((&answer["fine"], answer["because"].as_array().map(Vec::len)), (&Value::Bool(false), Some(1)), "{answer}");
}

/// Proves CLI-03: everything that happened to a pod, in order, with the time between and who did it; and to all that a Deployment owns.
#[test]
fn timeline_tells_a_life_in_order() {
    let k = kubectl("timeline");
    k.ok(&["create", "deployment", "web", "--image=busybox:1.28", "--", "sleep", "1000"]);
    k.until("deployment", "web", "{.status.readyReplicas}", "1");
    let pod = k.ok(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    let told = k.ok(&["timeline", &format!("pod/{pod}")]);
    let steps = ["created for replicaset/web-", "Scheduled: ", "Pulled: ", "Created: ", "Started: ", "Ready is True"];
    let places: Vec<usize> = steps.iter().filter_map(|step| told.find(step)).collect();
    assert!(places.len() == steps.len() && places.is_sorted(), "{told}");
    assert!(told.contains("default-scheduler") && told.contains("kubelet, "), "{told}");

    let all: Value = serde_json::from_str(&k.ok(&["timeline", "deployment/web", "-o", "json"])).expect("it prints JSON");
    let moments = all["moments"].as_array().expect("a list");
    for object in ["deployment/web", "replicaset/web-", "pod/web-"] {
        assert!(moments.iter().any(|m| m["object"].as_str().is_some_and(|o| o.starts_with(object))), "{object}: {all}");
    }
    let phases = all["phases"][format!("pod/{pod}")].as_array().expect("the pod's phases");
    let names: Vec<&str> = phases.iter().filter_map(|p| p["name"].as_str()).collect();
    assert!(names.first() == Some(&"scheduling") && names.last() == Some(&"ready"), "{names:?}");
}

/// Proves CLI-01 for `explain`: every kind that the server has, with descriptions and as a tree, byte for byte as upstream's.
#[test]
fn explain_says_what_upstreams_says() {
    let said: Mutex<BTreeMap<&str, Vec<(String, String)>>> = Mutex::default();
    for_each_kubectl(Cluster::shared(), "explain", |k| {
        let kinds = k.ok(&["api-resources", "-o", "name"]);
        // Upstream's takes these for fields of core's events, nodes and pods.
        let kinds = kinds.lines().filter(|name| *name != "events.events.k8s.io" && !name.ends_with(".metrics.k8s.io"));
        let fields = ["pod.spec.containers.resources", "deploy.spec.strategy.rollingUpdate", "pod.spec.nosuch", "nosuch"];
        let mut all = Vec::new();
        for subject in kinds.chain(fields) {
            for flags in [&[][..], &["--recursive"]] {
                let output = k.run(&[&["explain", subject], flags].concat());
                all.push((format!("{subject} {flags:?}"), format!("{}{}{}", output.out, output.err, output.code)));
            }
        }
        said.lock().expect("nobody panics with it").insert(k.name, all);
    });
    let said = said.into_inner().expect("nobody panics with it");
    let ours = &said["ours"];
    assert!(ours.len() > 100, "the server has kinds: {}", ours.len());
    for ((subject, ours), (_, theirs)) in said.get("upstream").into_iter().flat_map(|theirs| ours.iter().zip(theirs)) {
        assert_eq!(ours, theirs, "{subject}");
    }
}

/// Proves CLI-01 for `diff`: nothing to say and exit code 0 where nothing would change, a unified diff and exit code 1 where something would.
#[test]
fn diff_shows_what_apply_would_change() {
    for_each_kubectl(Cluster::shared(), "diff", |k| {
        let map = |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{a: {value}}}\n");
        let new = k.run_with(&["diff", "-f", "-"], &map("one"));
        assert_eq!((new.code, new.out.contains("+  a: one\n")), (1, true), "{new:?}");
        k.apply(&map("one"));
        let same = k.run_with(&["diff", "-f", "-"], &map("one"));
        assert_eq!((same.code, same.out.as_str()), (0, ""), "{same:?}");
        let changed = k.run_with(&["diff", "-f", "-"], &map("two"));
        assert_eq!((changed.code, changed.out.contains("-  a: one\n+  a: two\n")), (1, true), "{changed:?}");
        assert_eq!(k.field("configmap", "settings", "{.data.a}"), "one", "nothing was changed");
    });
}
