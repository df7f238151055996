//! Services on real containers: what a Service's address, ports and policies lead to.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};
use std::collections::BTreeSet;
use std::process::Command;

/// A pod that says its name over HTTP, on 8080.
fn server(name: &str, label: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {label}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: 'busybox:1.28'
    command: [sh, -c, 'mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www']
    ports: [{{name: web, containerPort: 8080}}]
    readinessProbe: {{tcpSocket: {{port: web}}, periodSeconds: 1}}
"
    )
}

const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '1000']}]
";

/// What a pod gets from a URL; nothing if it gets no answer.
fn fetch(k: &Kubectl<'_>, from: &str, url: &str) -> Option<String> {
    let output = k.run(&["exec", from, "--", "timeout", "2", "wget", "-qO-", url]);
    (output.code == 0).then(|| output.out.trim().to_owned())
}

/// What this machine gets.
fn fetch_from_node(url: &str) -> Option<String> {
    let output = Command::new("curl").args(["-sf", "-m", "2", url]).output().expect("curl starts");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The servers that answer within some tries.
fn answering(tries: usize, mut fetch: impl FnMut() -> Option<String>) -> BTreeSet<String> {
    (0..tries).filter_map(|_| fetch()).collect()
}

/// Whether all of these servers answer, and nobody else: asked until each has, since who answers is a matter of chance.
fn all_answer(all: &[&str], fetch: impl FnMut() -> Option<String>) -> bool {
    who_answers(all.len(), fetch) == names(all)
}

/// Who answers until so many different servers have, or sixty requests were sent.
fn who_answers(enough: usize, mut fetch: impl FnMut() -> Option<String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        seen.extend(fetch());
        if seen.len() >= enough {
            break;
        }
    }
    seen
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|&name| name.to_owned()).collect()
}

fn start(k: &Kubectl<'_>) {
    k.apply(&[server("one", "web"), server("two", "web"), CLIENT.to_owned()].join("---"));
    ["one", "two", "client"].iter().for_each(|pod| k.until_ready(pod));
}

/// Proves NET-03 and CMP-07 on one node, and NET-05 for NodePort.
#[test]
fn services_balance_over_ready_pods() {
    for_each_kubectl(Cluster::shared(), "balance", |k| {
        start(k);
        k.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: web}]}");
        let address = k.field("service", "web", "{.spec.clusterIP}");
        let node_port = k.field("service", "web", "{.spec.ports[0].nodePort}");
        let node = k.field("pod", "one", "{.status.hostIP}");
        let by_address = format!("http://{address}");
        eventually("both answer at the Service's address", 30, || all_answer(&["one", "two"], || fetch(k, "client", &by_address)));
        assert_eq!(who_answers(2, || fetch_from_node(&format!("http://{node}:{node_port}"))), names(&["one", "two"]));
        assert_eq!(who_answers(2, || fetch(k, "client", &format!("http://{node}:{node_port}"))), names(&["one", "two"]));
        // A pod reaches itself by its own Service, and any other.
        assert_eq!(who_answers(2, || fetch(k, "one", &by_address)), names(&["one", "two"]));
        // Ports that the Service does not have are refused, not ignored.
        let refused = k.run(&["exec", "client", "--", "timeout", "5", "wget", "-qO-", &format!("http://{address}:81")]);
        assert!(refused.err.contains("refused"), "{refused:?}");

        k.ok(&["delete", "pod", "two", "--wait=false"]);
        eventually("one is left", 30, || answering(12, || fetch(k, "client", &by_address)) == names(&["one"]));
        k.ok(&["label", "pod", "one", "app=other", "--overwrite"]);
        eventually("nobody is left, and that is said at once", 30, || {
            k.run(&["exec", "client", "--", "timeout", "5", "wget", "-qO-", &by_address]).err.contains("refused")
        });
    });
}

/// Proves NET-03 for `sessionAffinity` and Services without selectors, and NET-05 for external addresses.
#[test]
fn services_keep_clients_and_take_endpoints_by_hand() {
    for_each_kubectl(Cluster::shared(), "affinity", |k| {
        start(k);
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, sessionAffinity: AFFINITY, ports: [{port: 80, targetPort: 8080}], externalIPs: [198.51.100.77]}";
        k.apply(&service.replace("AFFINITY", "ClientIP"));
        let address = format!("http://{}", k.field("service", "web", "{.spec.clusterIP}"));
        eventually("somebody answers", 30, || fetch(k, "client", &address).is_some());
        assert_eq!(answering(12, || fetch(k, "client", &address)).len(), 1);
        k.apply(&service.replace("AFFINITY", "None"));
        eventually("both answer again", 30, || all_answer(&["one", "two"], || fetch(k, "client", &address)));
        assert_eq!(who_answers(2, || fetch(k, "client", "http://198.51.100.77")), names(&["one", "two"]));
        assert_eq!(who_answers(2, || fetch_from_node("http://198.51.100.77")), names(&["one", "two"]));

        let pod = k.field("pod", "two", "{.status.podIP}");
        k.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: hand}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: hand-1, labels: {{kubernetes.io/service-name: hand}}}}\n\
             addressType: IPv4\nendpoints: [{{addresses: [{pod}]}}]\nports: [{{name: http, port: 8080}}]"
        ));
        let by_hand = format!("http://{}", k.field("service", "hand", "{.spec.clusterIP}"));
        eventually("the endpoint answers", 30, || answering(6, || fetch(k, "client", &by_hand)) == names(&["two"]));
    });
}

/// Proves NET-03 for requests by way of the apiserver.
#[test]
fn the_apiserver_passes_requests_on() {
    for_each_kubectl(Cluster::shared(), "passed-on", |k| {
        k.apply(&server("one", "web"));
        k.until_ready("one");
        k.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}]}");
        let get = |path: &str| {
            let output = k.run(&["get", "--raw", &format!("/api/v1/namespaces/{}/{path}", k.namespace)]);
            if output.code == 0 { output.out.trim().to_owned() } else { output.err }
        };
        for path in [
            "pods/one:8080/proxy/",
            "pods/http:one:8080/proxy/index.html",
            "services/web/proxy/",
            "services/web:http/proxy/",
            "services/http:web:80/proxy/index.html",
        ] {
            eventually(&format!("{path} answers"), 30, || get(path) == "one");
        }
        assert!(
            get("services/web:nosuch/proxy/").contains("no service port \"nosuch\" found for service \"web\""),
            "{}",
            get("services/web:nosuch/proxy/")
        );
    });
}

/// Proves NET-06 for NetworkPolicy.
#[test]
fn policies_hold_pods_apart() {
    for_each_kubectl(Cluster::shared(), "policies", |k| {
        start(k);
        k.apply(&CLIENT.replace("name: client", "name: friend").replace("app: client", "app: friend"));
        k.until_ready("friend");
        let [one, two] = ["one", "two"].map(|pod| k.field("pod", pod, "{.status.podIP}"));
        let (to_one, to_two) = (format!("http://{one}:8080"), format!("http://{two}:8080"));
        let reaches = |from: &str, url: &str| fetch(k, from, url).is_some();
        assert!(reaches("client", &to_one) && reaches("friend", &to_one) && reaches("client", &to_two));

        let policy = |name: &str, spec: &str| {
            format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {spec}")
        };
        k.apply(&policy("deny", "{podSelector: {}, policyTypes: [Ingress]}"));
        eventually("nobody reaches anybody", 20, || !reaches("client", &to_one) && !reaches("friend", &to_two));
        // The node does, so probes go on.
        assert!(fetch_from_node(&to_one).is_some());

        k.apply(&policy("friends", "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: web}]}]}"));
        eventually("friends do", 20, || reaches("friend", &to_one) && reaches("friend", &to_two));
        assert!(!reaches("client", &to_one) && !reaches("two", &to_one));
        k.ok(&["label", "pod", "client", "app=friend", "--overwrite"]);
        eventually("whoever becomes one does", 20, || reaches("client", &to_one));

        k.apply(&policy("blocks", &format!("{{podSelector: {{matchLabels: {{app: friend}}}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{two}/32]}}}}]}}]}}")));
        eventually("not where the exception says", 20, || !reaches("client", &to_two));
        assert!(reaches("client", &to_one));

        k.ok(&["delete", "networkpolicy", "--all"]);
        eventually("all is open again", 20, || reaches("client", &to_two) && reaches("two", &to_one));
    });
}
