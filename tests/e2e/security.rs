//! Who containers run as, what of the node they see, and what they are called.

use skiff_testing::{Cluster, Kubectl, eventually};

const SECURED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: secured}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 3000, supplementalGroups: [4000], fsGroup: 2000, sysctls: [{name: kernel.shm_rmid_forced, value: "1"}]}
  containers:
  - name: plain
    image: busybox:1.28
    command: [sleep, "1000"]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
  - name: able
    image: busybox:1.28
    command: [sleep, "1000"]
    securityContext: {runAsUser: 0, capabilities: {add: [NET_ADMIN], drop: [CHOWN]}}
  - name: privileged
    image: busybox:1.28
    command: [sleep, "1000"]
    securityContext: {runAsUser: 0, privileged: true}
"#;

const REFUSED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: root}
spec: {securityContext: {runAsNonRoot: true}, containers: [{name: c, image: "busybox:1.28", command: [sleep, "1000"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unsafe}
spec: {securityContext: {sysctls: [{name: kernel.msgmax, value: "65536"}]}, containers: [{name: c, image: "busybox:1.28", command: [sleep, "1000"]}]}
"#;

/// Proves POD-15.
#[test]
fn security_contexts_hold() {
    let k = Kubectl::ours(Cluster::shared(), "secured");
    k.apply(SECURED);
    k.apply(REFUSED);
    k.until_ready("secured");
    let of = |container: &str, script: &str| k.ok(&["exec", "secured", "-c", container, "--", "sh", "-c", script]);
    assert_eq!(of("plain", "id -u; id -g; id -G"), "1000\n3000\n3000 2000 4000\n");
    assert_eq!(of("plain", "touch /x 2>&1; true"), "touch: /x: Read-only file system\n");
    let status = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
    assert_eq!(of("plain", status), "CapEff:0000000000000000 NoNewPrivs:1 Seccomp:2 ");
    assert_eq!(of("plain", "cat /proc/sys/kernel/shm_rmid_forced"), "1\n");
    let effective = |container: &str| {
        let text = of(container, "grep ^CapEff /proc/self/status | cut -f2");
        u64::from_str_radix(text.trim(), 16).unwrap_or_else(|_| panic!("a mask: {text:?}"))
    };
    // CAP_CHOWN is 0, CAP_NET_ADMIN 12, CAP_SYS_ADMIN 21.
    let able = effective("able");
    assert_eq!((able & 1, able >> 12 & 1, able >> 21 & 1), (0, 1, 0), "{able:x}");
    assert_eq!(of("able", "ls /dev/kmsg 2>&1; true"), "ls: /dev/kmsg: No such file or directory\n");
    assert_eq!(effective("privileged") >> 21 & 1, 1);
    assert_eq!(of("privileged", "ls /dev/null"), "/dev/null\n");

    k.until("pod", "root", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    let message = k.field("pod", "root", "{.status.containerStatuses[0].state.waiting.message}");
    assert!(message.starts_with("container has runAsNonRoot and image will run as root (pod: \"root_"), "{message}");
    k.until("pod", "unsafe", "{.status.phase} {.status.reason}", "Failed SysctlForbidden");
}

const NAMED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: named}
spec:
  terminationGracePeriodSeconds: 0
  hostname: me
  subdomain: family
  hostAliases: [{ip: 10.1.2.3, hostnames: [one.example, two.example]}]
  dnsPolicy: None
  dnsConfig: {nameservers: [10.9.8.7], searches: [example.com], options: [{name: ndots, value: "2"}, {name: edns0}]}
  containers:
  - {name: c, image: "busybox:1.28", command: [httpd, -f, -p, "8080"], ports: [{containerPort: 8080, hostPort: HOSTPORT, hostIP: 127.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hostly}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  hostPID: true
  dnsPolicy: Default
  containers: [{name: c, image: "busybox:1.28", command: [sleep, "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  terminationGracePeriodSeconds: 0
  shareProcessNamespace: true
  containers:
  - {name: one, image: "busybox:1.28", command: [sleep, "1234"]}
  - {name: two, image: "busybox:1.28", command: [sleep, "1000"]}
"#;

/// Proves POD-17, and the process namespace of POD-03.
#[test]
fn pods_have_the_names_and_the_part_of_the_node_that_they_ask_for() {
    let k = Kubectl::ours(Cluster::shared(), "named");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    k.apply(&NAMED.replace("HOSTPORT", &port.to_string()));
    for pod in ["named", "hostly", "shared"] {
        k.until_ready(pod);
    }
    let of = |pod: &str, script: &str| k.ok(&["exec", pod, "--", "sh", "-c", script]);
    assert_eq!(of("named", "hostname; hostname -f"), format!("me\nme.family.{}.svc.cluster.local\n", k.namespace));
    let address = k.field("pod", "named", "{.status.podIP}");
    let hosts = of("named", "cat /etc/hosts");
    assert!(hosts.contains(&format!("{address}\tme.family.{}.svc.cluster.local\tme\n", k.namespace)), "{hosts}");
    assert!(hosts.contains("10.1.2.3\tone.example\ttwo.example\n"), "{hosts}");
    assert_eq!(of("named", "cat /etc/resolv.conf"), "search example.com\nnameserver 10.9.8.7\noptions ndots:2 edns0\n");
    eventually("the port of the node leads to the pod", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());

    assert_eq!(k.field("pod", "hostly", "{.status.podIP}"), k.field("pod", "hostly", "{.status.hostIP}"));
    // This process is in the node's namespaces, too.
    let namespace = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("the kernel has it").display().to_string();
    for kind in ["net", "pid"] {
        assert_eq!(of("hostly", &format!("readlink /proc/self/ns/{kind}")).trim(), namespace(kind), "{kind}");
    }
    let processes = k.ok(&["exec", "shared", "-c", "two", "--", "ps"]);
    assert!(processes.contains("sleep 1234") && processes.contains("/pause"), "{processes}");
}
