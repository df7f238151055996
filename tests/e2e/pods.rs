//! What pods are: how they start, what their containers share, how they restart.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Proves POD-01 and CMP-06, and that a pod answers on its own address.
#[test]
fn a_web_server_runs_and_answers() {
    for_each_kubectl(Cluster::shared(), "nginx", |k| {
        assert_eq!(k.ok(&["apply", "-f", &k.cluster.manifest("nginx-pod.yml")]), "pod/my-nginx-pod created\n");
        k.until_ready("my-nginx-pod");
        let table = k.ok(&["get", "pods"]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        assert_eq!(rows[1][..4], ["my-nginx-pod", "1/1", "Running", "0"]);

        let address = k.field("pod", "my-nginx-pod", "{.status.podIP}");
        let page = http_get(&address);
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("nginx"), "{page}");
        eventually("the request is in the log", 10, || k.ok(&["logs", "my-nginx-pod"]).contains("GET / HTTP/1.1"));
        assert_eq!(k.run(&["exec", "my-nginx-pod", "--", "sh", "-c", "exit 3"]).code, 3);

        let node = k.object("node", &k.field("pod", "my-nginx-pod", "{.spec.nodeName}"));
        assert!(
            node["status"]["capacity"]["cpu"].is_string() && node["status"]["nodeInfo"]["containerRuntimeVersion"].is_string(),
            "{node:#}"
        );
    });
}

/// One HTTP request by hand: no client is worth its weight here.
fn http_get(address: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = None;
    // A pod without a readiness probe is ready before its server listens.
    eventually("the pod answers on its address", 20, || {
        stream = std::net::TcpStream::connect((address, 80)).ok();
        stream.is_some()
    });
    let mut stream = stream.expect("it is there");
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    text
}

/// Proves POD-02.
#[test]
fn a_watcher_sees_each_state() {
    for_each_kubectl(Cluster::shared(), "states", |k| {
        let mut watch = k.command(&["get", "pods", "-w", "--no-headers"]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
        // Once it shows this one it is there to see all of the next.
        k.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: mark}\nspec: {schedulingGates: [{name: example.com/no}], containers: [{name: c, image: x}]}\n");
        assert!(lines.next().is_some_and(|line| line.expect("text").starts_with("mark ")));
        k.ok(&["run", "w", "--image=busybox:1.28", "--", "sleep", "1000"]);
        let mut seen: Vec<String> = Vec::new();
        for line in lines {
            let line = line.expect("text");
            if !line.starts_with("w ") {
                continue;
            }
            let status = line.split_whitespace().nth(2).unwrap_or_default().to_owned();
            if seen.last() != Some(&status) {
                seen.push(status);
            }
            if seen.last().is_some_and(|s| s == "Running") {
                break;
            }
        }
        watch.kill().and_then(|()| watch.wait()).expect("it is ours");
        assert_eq!(seen, ["Pending", "ContainerCreating", "Running"]);

        let wanted = ["Scheduled", "Pulled", "Created", "Started"];
        eventually("all of its events are there", 20, || {
            let events = k.events("w");
            wanted.iter().all(|w| events.iter().any(|(reason, _)| reason == w))
        });
        let described = k.ok(&["describe", "pod", "w"]);
        for word in wanted {
            assert!(described.contains(word), "{word} in {described}");
        }
    });
}

const PAIR: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: one
    image: busybox:1.28
    command: ["sh", "-c", "echo secret > /only-one; echo hello > /data/shared; exec httpd -f -p 8080 -h /data"]
    volumeMounts: [{name: data, mountPath: /data}]
  - name: two
    image: busybox:1.28
    command: ["sleep", "1000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

/// Proves POD-03 and POD-04.
#[test]
fn containers_of_a_pod_share_what_they_should() {
    for_each_kubectl(Cluster::shared(), "share", |k| {
        k.apply(PAIR);
        k.until_ready("pair");
        let of = |container: &str, command: &[&str]| {
            let mut line = vec!["exec", "pair", "-c", container, "--"];
            line.extend(command);
            k.ok(&line)
        };
        assert_eq!(of("two", &["hostname"]), "pair\n");
        assert_eq!(of("one", &["hostname", "-i"]), of("two", &["hostname", "-i"]));
        assert_eq!(of("two", &["wget", "-qO-", "localhost:8080/shared"]), "hello\n");
        assert_eq!(of("two", &["cat", "/data/shared"]), "hello\n");
        for namespace in ["ipc", "net", "uts"] {
            let link = format!("/proc/self/ns/{namespace}");
            assert_eq!(of("one", &["readlink", &link]), of("two", &["readlink", &link]), "{namespace}");
        }
        for namespace in ["mnt", "pid"] {
            let link = format!("/proc/self/ns/{namespace}");
            assert_ne!(of("one", &["readlink", &link]), of("two", &["readlink", &link]), "{namespace}");
        }
        of("one", &["sh", "-c", "echo there > /dev/shm/x"]);
        assert_eq!(of("two", &["cat", "/dev/shm/x"]), "there\n");
        assert_ne!(k.run(&["exec", "pair", "-c", "two", "--", "ls", "/only-one"]).code, 0, "file systems stay apart");
        assert!(!of("two", &["ps"]).contains("httpd"), "processes stay apart");

        // The sandbox is the runtime's, made and removed with the pod, and shows nowhere in the API.
        let uid = k.field("pod", "pair", "{.metadata.uid}");
        assert_eq!(k.cluster.containers(&uid, "sandbox").len(), 1);
        assert_eq!(k.cluster.containers(&uid, "container").len(), 2);
        assert_eq!(k.object("pod", "pair")["status"]["containerStatuses"].as_array().map(Vec::len), Some(2));
        assert_eq!(k.ok(&["get", "pods", "-o", "name"]), "pod/pair\n");
        k.ok(&["delete", "pod", "pair"]);
        eventually("the sandbox is gone", 30, || {
            k.cluster.containers(&uid, "sandbox").is_empty() && k.cluster.containers(&uid, "container").is_empty()
        });
    });
}

/// Proves POD-07.
#[test]
fn restarts_follow_the_policy() {
    for_each_kubectl(Cluster::shared(), "restarts", |k| {
        k.ok(&["apply", "-f", &k.cluster.manifest("echo-onfailure.yml")]);
        let pod = |name: &str, policy: &str, script: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{restartPolicy: {policy}, terminationGracePeriodSeconds: 1, containers: [{{name: c, image: 'busybox:1.28', command: [sh, -c, {script:?}]}}]}}\n---\n"
            )
        };
        k.apply(
            &(pod("never", "Never", "exit 4")
                + &pod("failing", "OnFailure", "ls /mark; touch /mark; exit 1")
                + &pod("always", "Always", "ls /mark; touch /mark; sleep 1")),
        );
        k.until_phase("echo-once", "Succeeded");
        assert_eq!(k.ok(&["logs", "echo-once"]), "hello\n");
        assert_eq!(k.field("pod", "echo-once", "{.status.containerStatuses[0].restartCount}"), "0");
        k.until_phase("never", "Failed");
        assert_eq!(
            k.field("pod", "never", "{.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].restartCount}"),
            "4 0"
        );
        for name in ["failing", "always"] {
            eventually(&format!("{name} is restarted"), 60, || {
                k.field("pod", name, "{.status.containerStatuses[0].restartCount}").parse::<u32>().is_ok_and(|n| n >= 1)
            });
            // The second container starts from the image again: the mark of the first is not there.
            eventually(&format!("{name} has a log"), 30, || k.run(&["logs", name]).out.contains("No such file"));
        }
        let table = k.ok(&["get", "pod", "failing", "--no-headers"]);
        let ago = table.split_whitespace().skip(3).take(3).collect::<Vec<_>>().join(" ");
        assert!(ago.contains("(") && ago.ends_with("ago)"), "{table}");
    });
}

/// Proves POD-12.
#[test]
fn a_container_that_exits_is_restarted_alone() {
    for_each_kubectl(Cluster::shared(), "two", |k| {
        k.ok(&["apply", "-f", &k.cluster.manifest("multipod.yml")]);
        // The second container ends when the first does not answer yet, and may be waiting to be started again.
        eventually("both containers run", 90, || {
            let table = k.ok(&["get", "pod", "multipod", "--no-headers"]);
            table.split_whitespace().nth(1) == Some("2/2")
        });
        let started = k.field("pod", "multipod", "{.status.containerStatuses[?(@.name==\"nginx-container\")].state.running.startedAt}");
        let count = || {
            k.field("pod", "multipod", "{.status.containerStatuses[?(@.name==\"second-container\")].restartCount}")
                .parse::<u32>()
                .unwrap_or(0)
        };
        let before = count();
        eventually("the second container is restarted", 90, || count() > before);
        assert_eq!(k.field("pod", "multipod", "{.status.containerStatuses[?(@.name==\"nginx-container\")].restartCount}"), "0");
        assert_eq!(
            k.field("pod", "multipod", "{.status.containerStatuses[?(@.name==\"nginx-container\")].state.running.startedAt}"),
            started
        );

        let logs = k.run(&["logs", "multipod"]);
        assert_eq!(logs.err, "Defaulted container \"nginx-container\" out of: nginx-container, second-container\n", "{logs:?}");
        assert!(k.ok(&["logs", "multipod", "-c", "second-container", "-p"]).contains("nginx"), "the page that it fetched");
        let wrong = k.refused(&["logs", "multipod", "-c", "nosuch"]);
        assert!(wrong.contains("container nosuch is not valid for pod multipod"), "{wrong}");
        let exec = k.run(&["exec", "multipod", "--", "cat", "/etc/hostname"]);
        assert_eq!((exec.out.as_str(), exec.code), ("multipod\n", 0), "{exec:?}");
        assert!(exec.err.contains("Defaulted container"), "{exec:?}");
    });
}

/// Proves POD-07 for a rule that starts the whole pod anew, in place: all containers run again, in the sandbox and with the volumes that were there.
#[test]
fn a_rule_starts_the_whole_pod_anew() {
    let k = Kubectl::ours(Cluster::shared(), "anew");
    k.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: anew}
spec:
  restartPolicy: Never
  initContainers: [{name: i, image: "busybox:1.28", command: [sh, -c, "echo init >> /data/log"], volumeMounts: &data [{name: data, mountPath: /data}]}]
  containers:
  - {name: c, image: "busybox:1.28", command: [sh, -c, "echo main >> /data/log; sleep 1000"], volumeMounts: *data}
  - name: w
    image: busybox:1.28
    command: [sh, -c, "test -e /data/again && sleep 1000; while ! grep -q main /data/log; do sleep 0.1; done; touch /data/again; exit 88"]
    restartPolicy: Never
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}]
    volumeMounts: *data
  volumes: [{name: data, emptyDir: {}}]
"#,
    );
    k.until("pod", "anew", "{.status.containerStatuses[*].restartCount}", "1 1");
    k.until_ready("anew");
    assert_eq!(k.field("pod", "anew", "{.status.initContainerStatuses[*].restartCount}"), "1");
    assert_eq!(k.ok(&["exec", "anew", "-c", "c", "--", "cat", "/data/log"]), "init\nmain\ninit\nmain\n");
    let last = k.field("pod", "anew", "{.status.containerStatuses[*].lastState.terminated.reason}");
    assert_eq!(last, "RestartingAllContainers RestartingAllContainers");
    assert_eq!(k.field("pod", "anew", "{.status.conditions[?(@.type==\"AllContainersRestarting\")].status}"), "False");
    let sandboxes = Cluster::shared().containers(&k.field("pod", "anew", "{.metadata.uid}"), "sandbox");
    assert_eq!(sandboxes.len(), 1, "{sandboxes:?}");
}
