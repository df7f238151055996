//! Names: pods resolve Services, endpoints and whatever is not the cluster's, by the name server that they are given.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};

const BACKENDS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: members}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.NAMESPACE.svc.cluster.local}
---
apiVersion: v1
kind: Pod
metadata: {name: first, labels: {app: web}}
spec:
  hostname: first
  subdomain: members
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'busybox:1.28', command: [httpd, -f, -p, '8080']}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'busybox:1.28', command: [sleep, '1000']}]
";

/// What the client's `nslookup` prints about a name; with a type also records that are no addresses.
fn lookup(k: &Kubectl<'_>, arguments: &[&str]) -> String {
    let output = k.run(&[&["exec", "client", "--", "nslookup"], arguments].concat());
    output.out + &output.err
}

/// Proves CMP-08 and NET-04 but for the wait of `init-containers.yml`.
#[test]
fn pods_resolve_what_the_cluster_has() {
    for_each_kubectl(Cluster::shared(), "names", |k| {
        let namespace = k.namespace.as_str();
        k.apply(&BACKENDS.replace("NAMESPACE", namespace));
        k.until_ready("first");
        k.until_ready("client");
        let service = k.field("service", "web", "{.spec.clusterIP}");
        let pod = k.field("pod", "first", "{.status.podIP}");
        let dashed = pod.replace('.', "-");
        let zone = format!("{namespace}.svc.cluster.local");
        let reversed = |address: &str| address.split('.').rev().collect::<Vec<_>>().join(".") + ".in-addr.arpa";
        let [to_service, to_pod] = [&service, &pod].map(|address| format!("Address: {address}"));

        let full = format!("web.{zone}");
        eventually("the Service's name", 20, || lookup(k, &[&full]).contains(&to_service));
        for (asked, expected) in [
            (vec![format!("members.{zone}")], to_pod.clone()),
            (vec![format!("first.members.{zone}")], to_pod.clone()),
            (vec![format!("{dashed}.{namespace}.pod.cluster.local")], to_pod.clone()),
            (vec![format!("alias.{zone}")], to_service.clone()),
            (vec!["-type=srv".to_owned(), format!("_http._tcp.web.{zone}")], format!("service = 0 100 80 web.{zone}")),
            (vec!["-type=srv".to_owned(), format!("_http._tcp.members.{zone}")], format!("service = 0 100 8080 first.members.{zone}")),
            (vec!["-type=ptr".to_owned(), reversed(&service)], format!("name = web.{zone}")),
            (vec!["-type=ptr".to_owned(), reversed(&pod)], format!("name = first.members.{zone}")),
            (vec!["-type=txt".to_owned(), "dns-version.cluster.local".to_owned()], "\"1.1.0\"".to_owned()),
            (vec!["kubernetes.default.svc.cluster.local".to_owned()], "Address: ".to_owned() + &cluster_address(k)),
            (vec![format!("absent.{zone}")], "NXDOMAIN".to_owned()),
        ] {
            let arguments: Vec<&str> = asked.iter().map(String::as_str).collect();
            eventually(&format!("{asked:?} says {expected}"), 20, || lookup(k, &arguments).replace('\t', " ").contains(&expected));
        }
        // The C library's resolver adds the search path: the name alone, and with the namespace.
        for host in ["web".to_owned(), format!("web.{namespace}"), format!("web.{namespace}.svc")] {
            let answer = k.run(&["exec", "client", "--", "ping", "-c", "1", "-W", "1", &host]);
            assert!(answer.out.contains(&format!("({service})")), "{host}: {answer:?}");
        }

        // A pod that is gone is gone from the names too.
        k.ok(&["delete", "pod", "first"]);
        eventually("no member is left", 20, || lookup(k, &[&format!("members.{zone}")]).contains("NXDOMAIN"));
    });
}

fn cluster_address(k: &Kubectl<'_>) -> String {
    k.ok(&["get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}"])
}

/// Proves POD-11 on `init-containers.yml`, and the wait of NET-04.
#[test]
fn init_containers_wait_for_services() {
    for_each_kubectl(Cluster::shared(), "waits", |k| {
        k.ok(&["apply", "-f", &k.cluster.manifest("init-containers.yml")]);
        let waiting = |name: &str| k.run(&["logs", "myapp-pod", "-c", name]).out.contains("waiting for");
        eventually("the first waits", 30, || waiting("init-myservice"));
        assert!(k.ok(&["get", "pod", "myapp-pod"]).contains("Init:0/2"));
        for (service, next) in [("myservice", "Init:1/2"), ("mydb", "Running")] {
            k.ok(&["create", "service", "clusterip", service, "--tcp=80:9376"]);
            eventually(&format!("{next} once {service} is there"), 40, || k.ok(&["get", "pod", "myapp-pod"]).contains(next));
        }
        k.until_ready("myapp-pod");
    });
}
