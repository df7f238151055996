//! The cluster of `deploy/docker-compose.yml`: a control plane and workers, each a container with a kubelet and a containerd of its own. What only several nodes show, and what happens
//! when one of them, or all, go away. `tests/compose/run` starts the cluster, runs these one after another, and removes it.

use serde_json::Value;
use skiff_testing::{Cluster, Kubectl, eventually};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const WEB: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: nginx
        image: nginx:1.14
        ports: [{name: http, containerPort: 80}]
        readinessProbe: {httpGet: {port: http}, periodSeconds: 1}
        lifecycle: {postStart: {exec: {command: [sh, -c, "echo $HOSTNAME > /usr/share/nginx/html/name"]}}}
      - name: shell
        image: busybox:1.28
        command: [sleep, "100000"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

/// Runs docker-compose on the cluster.
fn compose(cluster: &Cluster, arguments: &[&str]) -> String {
    let file = cluster.root().join("deploy/docker-compose.yml");
    let output = Command::new("docker-compose").arg("-f").arg(file).args(arguments).output().expect("tests/compose/run installs it");
    assert!(output.status.success(), "docker-compose {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("tests/compose/run installs it");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The container that is the node.
fn container(cluster: &Cluster, node: &str) -> String {
    let all = compose(cluster, &["ps", "-q", "worker"]);
    let of_node = |id: &&str| docker(&["exec", id, "cat", "/var/lib/kubelet/node-name"]).trim() == node;
    all.lines().find(of_node).unwrap_or_else(|| panic!("no worker is {node}")).to_owned()
}

/// Waits until just these nodes are there and Ready.
fn until_ready(k: &Kubectl<'_>, nodes: &[&str]) {
    let wanted: Vec<String> = nodes.iter().map(|node| format!("{node}=True")).collect();
    let path = "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    eventually(&format!("{nodes:?} are Ready"), 90, || {
        let shown = k.run(&["get", "nodes", "-o", path]);
        shown.code == 0 && shown.out.lines().eq(wanted.iter().map(String::as_str))
    });
}

/// The DaemonSet's pods by node, once there is a ready one on each of `nodes`.
fn web_pods(k: &Kubectl<'_>, nodes: &[&str]) -> BTreeMap<String, Value> {
    let mut pods = BTreeMap::new();
    eventually("a ready pod on each node", 90, || {
        let list = k.run(&["get", "pods", "-l", "app=web", "-o", "json"]);
        let Ok(list) = serde_json::from_str::<Value>(&list.out) else { return false };
        let ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        pods = list["items"].as_array().into_iter().flatten().filter(ready).map(|p| (text(&p["spec"]["nodeName"]), p.clone())).collect();
        pods.keys().map(String::as_str).eq(nodes.iter().copied())
    });
    pods
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().expect("a pod has a name")
}

fn address(pod: &Value) -> &str {
    pod["status"]["podIP"].as_str().expect("a ready pod has an address")
}

/// What `url` answers to the pod.
fn fetched(k: &Kubectl<'_>, pod: &Value, url: &str) -> Option<String> {
    let answer = k.run(&["exec", name(pod), "-c", "shell", "--", "timeout", "5", "wget", "-q", "-O", "-", url]);
    (answer.code == 0).then(|| answer.out.trim().to_owned())
}

/// What `url` answers to this machine; nothing if it does not answer well.
fn fetched_here(url: &str) -> String {
    let answer = Command::new("curl").args(["-sf", "-m", "5", url]).output().expect("tests/compose/run installs it");
    String::from_utf8_lossy(&answer.stdout).trim().to_owned()
}

/// Every pod reaches every other, by address, by the Service, by name, and this machine reaches the port on every node.
fn all_reach_all(k: &Kubectl<'_>, pods: &BTreeMap<String, Value>) {
    let names: BTreeSet<String> = pods.values().map(|pod| name(pod).to_owned()).collect();
    for from in pods.values() {
        for to in pods.values() {
            let url = format!("http://{}/name", address(to));
            eventually(&format!("{} reaches {}", name(from), name(to)), 30, || fetched(k, from, &url).as_deref() == Some(name(to)));
        }
        let service = format!("http://web.{}.svc.cluster.local/name", k.namespace);
        let mut seen = BTreeSet::new();
        eventually(&format!("{} is balanced over all by the Service", name(from)), 30, || {
            seen.extend(fetched(k, from, &service));
            seen == names
        });
    }
    let port = k.field("service", "web", "{.spec.ports[0].nodePort}");
    for pod in pods.values() {
        let host = pod["status"]["hostIP"].as_str().expect("a ready pod has a node's address");
        eventually(&format!("port {port} of {host}"), 30, || names.contains(&fetched_here(&format!("http://{host}:{port}/name"))));
    }
}

/// Proves DEP-02, NET-01, NET-02, NET-03, NET-04, NET-05, CMP-07 and CMP-08: workers that joined by a bootstrap token connect their pods.
#[test]
fn a_workers_join_and_connect_their_pods() {
    let cluster = Cluster::started();
    let k = Kubectl::ours(&cluster, "joined");
    until_ready(&k, &["worker-1", "worker-2"]);
    let requests = k.ok(&["get", "csr", "-o", "jsonpath={range .items[*]}{.spec.username} {.status.conditions[*].type}{\"\\n\"}{end}"]);
    assert!(
        requests.lines().filter(|line| line.starts_with("system:bootstrap:") && line.ends_with(" Approved")).count() >= 2,
        "{requests}"
    );
    k.apply(WEB);
    let pods = web_pods(&k, &["worker-1", "worker-2"]);
    for (node, pod) in &pods {
        let cidr = k.field("node", node, "{.spec.podCIDR}");
        let (network, bits) = cidr.split_once('/').expect("a network has a length");
        assert_eq!(bits, "24");
        let prefix = network.strip_suffix(".0").expect("a /24 ends so");
        assert!(address(pod).starts_with(&format!("{prefix}.")), "{} is not of {cidr}", address(pod));
    }
    all_reach_all(&k, &pods);
    // Without address translation: the one that is asked sees the address of who asked.
    let (one, other) = (&pods["worker-1"], &pods["worker-2"]);
    let log = k.ok(&["logs", name(other), "-c", "nginx"]);
    assert!(log.lines().any(|line| line.starts_with(&format!("{} - - ", address(one)))), "{log}");
}

/// Proves DEP-02 (`--scale`): one more worker joins, and a DaemonSet follows.
#[test]
fn c_a_third_worker_joins_and_daemons_follow() {
    let cluster = Cluster::started();
    let k = Kubectl::ours(&cluster, "third");
    k.apply(WEB);
    web_pods(&k, &["worker-1", "worker-2"]);
    compose(&cluster, &["up", "-d", "--scale", "worker=3"]);
    until_ready(&k, &["worker-1", "worker-2", "worker-3"]);
    let pods = web_pods(&k, &["worker-1", "worker-2", "worker-3"]);
    all_reach_all(&k, &pods);
    compose(&cluster, &["up", "-d", "--scale", "worker=2"]);
    k.ok(&["delete", "node", "worker-3"]);
    until_ready(&k, &["worker-1", "worker-2"]);
}

const LOCAL: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: local}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: "example.test/tool:1", imagePullPolicy: Never, command: [/bin/busybox, sleep, "100000"]}
"#;

/// Proves CMP-09: a load balancer answers on each node's address, under the Service's own port.
#[test]
fn b_a_load_balancer_answers_on_the_nodes() {
    let cluster = Cluster::started();
    let k = Kubectl::ours(&cluster, "balanced");
    until_ready(&k, &["worker-1", "worker-2"]);
    k.apply(WEB);
    let pods = web_pods(&k, &["worker-1", "worker-2"]);
    k.ok(&["patch", "service", "web", "-p", r#"{"spec": {"type": "LoadBalancer"}}"#]);
    let mut hosts: Vec<&str> = pods.values().filter_map(|pod| pod["status"]["hostIP"].as_str()).collect();
    hosts.sort_unstable();
    eventually("it has the nodes' addresses", 30, || k.field("service", "web", "{.status.loadBalancer.ingress[*].ip}") == hosts.join(" "));
    for host in hosts {
        eventually(&format!("{host} answers on port 80"), 30, || {
            let answer = fetched_here(&format!("http://{host}/name"));
            pods.values().any(|pod| name(pod) == answer)
        });
    }
}

/// A local docker image gets onto every node, and a pod runs it there without a registry.
#[test]
fn b_local_images_get_onto_all_nodes() {
    let cluster = Cluster::started();
    let k = Kubectl::ours(&cluster, "local");
    until_ready(&k, &["worker-1", "worker-2"]);
    let made = Command::new("sh")
        .args(["-c", "tar -C / -c bin/busybox | docker import - example.test/tool:1"])
        .output()
        .expect("there is a shell");
    assert!(made.status.success(), "{made:?}");
    let (ok, text) = cluster.deploy("load-image", &["example.test/tool:1"]);
    assert!(ok, "{text}");
    docker(&["image", "rm", "example.test/tool:1"]);
    k.apply(LOCAL);
    web_pods(&k, &["worker-1", "worker-2"]);
}

const MOVED: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: moved}
spec:
  selector: {matchLabels: {app: moved}}
  template:
    metadata: {labels: {app: moved}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:
      - {name: c, image: "busybox:1.28", command: [sleep, "100000"]}
"#;

/// Proves WRK-08: the pods of a node that was switched off are replaced elsewhere, and the node comes back.
#[test]
fn d_the_pods_of_a_dead_worker_are_replaced_and_it_comes_back() {
    let cluster = Cluster::started();
    let k = Kubectl::ours(&cluster, "dead");
    until_ready(&k, &["worker-1", "worker-2"]);
    k.apply(MOVED);
    k.until("deployment", "moved", "{.status.readyReplicas}", "1");
    let node = k.ok(&["get", "pods", "-l", "app=moved", "-o", "jsonpath={.items[0].spec.nodeName}"]);
    let other = if node == "worker-1" { "worker-2" } else { "worker-1" };
    let worker = container(&cluster, &node);
    docker(&["kill", &worker]);
    eventually("the node is not Ready, and tainted", 90, || {
        let ready = k.field("node", &node, "{.status.conditions[?(@.type==\"Ready\")].status}");
        let taints = k.field("node", &node, "{.spec.taints[*].key}");
        ready == "Unknown" && taints.contains("node.kubernetes.io/unreachable")
    });
    eventually("its pod is replaced elsewhere", 60, || {
        let path = "jsonpath={range .items[*]}{.spec.nodeName}={.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
        k.ok(&["get", "pods", "-l", "app=moved", "-o", path]).lines().any(|line| line == format!("{other}=True"))
    });
    docker(&["start", &worker]);
    until_ready(&k, &["worker-1", "worker-2"]);
    eventually("the pod that was there is gone", 60, || k.ok(&["get", "pods", "-l", "app=moved", "-o", "name"]).lines().count() == 1);
}

/// Proves DEP-03 for the cluster of containers: the control plane killed, and everything restarted, and the same cluster is back.
#[test]
fn e_everything_restarts_with_its_state() {
    let cluster = Cluster::started();
    let k = Kubectl::ours(&cluster, "restarted");
    until_ready(&k, &["worker-1", "worker-2"]);
    k.apply(WEB);
    let before = web_pods(&k, &["worker-1", "worker-2"]);
    k.ok(&["create", "configmap", "kept", "--from-literal=k=v"]);

    compose(&cluster, &["kill", "apiserver", "controller-manager", "scheduler", "dns"]);
    compose(&cluster, &["up", "-d", "--no-build"]);
    eventually("the apiserver answers", 60, || k.run(&["get", "--raw", "/readyz"]).code == 0);
    assert_eq!(k.field("configmap", "kept", "{.data.k}"), "v");
    let pods = web_pods(&k, &["worker-1", "worker-2"]);
    let identities = |pods: &BTreeMap<String, Value>| -> Vec<Value> {
        pods.values().map(|pod| serde_json::json!([pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["containerID"]])).collect()
    };
    assert_eq!(identities(&before), identities(&pods), "what runs does not notice");
    all_reach_all(&k, &pods);

    compose(&cluster, &["restart", "--timeout", "5"]);
    eventually("the apiserver answers", 60, || k.run(&["get", "--raw", "/readyz"]).code == 0);
    assert_eq!(k.field("configmap", "kept", "{.data.k}"), "v");
    eventually("the workers run their pods again", 90, || {
        let counts = k.run(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"]);
        counts.out.split(' ').filter(|count| *count == "1").count() == 2
    });
    until_ready(&k, &["worker-1", "worker-2"]);
    all_reach_all(&k, &web_pods(&k, &["worker-1", "worker-2"]));
}
