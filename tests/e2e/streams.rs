//! What goes between a terminal and a container: exec, attach, files, ports and logs.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

const TALKING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talking, labels: {app: talk}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: counts, image: "busybox:1.28", command: [sh, -c, "echo one; sleep 2; echo two; sleep 1; echo to-stderr >&2; sleep 1000"]}
  - {name: echoes, image: "busybox:1.28", stdin: true, command: [sh, -c, "while read line; do echo got $line; done; sleep 1000"]}
  - {name: serves, image: "busybox:1.28", command: [sh, -c, "echo page > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: again, labels: {app: talk}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "busybox:1.28", command: [sh, -c, "echo begun; test -e /data/x || { touch /data/x; exit 1; }; sleep 1000"], volumeMounts: [{name: d, mountPath: /data}]}]
  volumes: [{name: d, emptyDir: {}}]
"#;

/// Proves POD-18 for logs.
#[test]
fn logs_show_what_was_asked_for() {
    for_each_kubectl(Cluster::shared(), "logs", |k| {
        k.apply(TALKING);
        k.until_ready("talking");
        let of = |arguments: &[&str]| k.ok(&[&["logs"], arguments].concat());
        let mut follow = k.command(&["logs", "-f", "talking", "-c", "counts"]).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let mut lines = BufReader::new(follow.stdout.take().expect("it is piped")).lines().map(|line| line.expect("text"));
        assert_eq!(
            (lines.next().as_deref(), lines.next().as_deref(), lines.next().as_deref()),
            (Some("one"), Some("two"), Some("to-stderr"))
        );
        follow.kill().and_then(|()| follow.wait()).expect("it is ours");

        assert_eq!(of(&["talking", "-c", "counts"]), "one\ntwo\nto-stderr\n");
        assert_eq!(of(&["talking", "-c", "counts", "--tail=2"]), "two\nto-stderr\n");
        assert_eq!(of(&["talking", "-c", "counts", "--limit-bytes=5"]), "one\nt");
        assert_eq!(of(&["talking", "-c", "counts", "--since=1h"]), "one\ntwo\nto-stderr\n");
        assert_eq!(of(&["talking", "-c", "counts", "--since-time=2999-01-01T00:00:00Z"]), "");
        let stamped = of(&["talking", "-c", "counts", "--timestamps", "--tail=1"]);
        let (time, text) = stamped.split_once(' ').expect("a time and a text");
        assert!(time.len() > 20 && time.starts_with("20") && time.contains('T') && text == "to-stderr\n", "{stamped}");
        assert!(of(&["talking", "--all-containers"]).contains("two\n"));
        let selected = of(&["-l", "app=talk", "--all-containers", "--prefix"]);
        assert!(selected.contains("[pod/talking/counts] two\n") && selected.contains("[pod/again/c] begun\n"), "{selected}");
        eventually("the last run has a log of its own", 40, || k.run(&["logs", "again", "-p"]).out == "begun\n");
    });
}

/// Runs a command with a terminal as its standard streams; answers what came there, and the exit code.
fn on_a_terminal(k: &Kubectl<'_>, arguments: &[&str]) -> (String, i32) {
    let command = k.command(arguments);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy());
    let line: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    let output = std::process::Command::new("script")
        .args(["-qec", &line.join(" "), "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script comes with Debian's essential packages");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1))
}

/// Proves POD-18 for exec, attach and port-forward.
#[test]
fn streams_go_both_ways() {
    for_each_kubectl(Cluster::shared(), "streams", |k| {
        k.apply(TALKING);
        k.until_ready("talking");
        let failed = k.run(&["exec", "talking", "-c", "counts", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((failed.out.as_str(), failed.code), ("out\n", 7), "{failed:?}");
        assert!(failed.err.starts_with("err\n") && failed.err.contains("command terminated with exit code 7"), "{failed:?}");
        assert_eq!(k.run_with(&["exec", "-i", "talking", "-c", "counts", "--", "cat"], "there and back\n").out, "there and back\n");
        let (text, code) = on_a_terminal(k, &["exec", "-it", "talking", "-c", "counts", "--", "sh", "-c", "tty; exit 4"]);
        assert!(text.contains("/dev/pts/") && code == 4, "{text:?} {code}");
        let missing = k.run(&["exec", "talking", "-c", "counts", "--", "/no/such"]);
        assert!(missing.code != 0 && missing.err.contains("no such file or directory"), "{missing:?}");

        let mut attached = k
            .command(&["attach", "-i", "talking", "-c", "echoes"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl starts");
        attached.stdin.as_mut().expect("it is piped").write_all(b"hello\n").expect("it reads");
        let mut line = String::new();
        BufReader::new(attached.stdout.as_mut().expect("it is piped")).read_line(&mut line).expect("text");
        assert_eq!(line, "got hello\n");
        attached.kill().and_then(|()| attached.wait()).expect("it is ours");

        let mut forward = k
            .command(&["port-forward", "pod/talking", ":8080"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl starts");
        let mut line = String::new();
        BufReader::new(forward.stdout.as_mut().expect("it is piped")).read_line(&mut line).expect("text");
        let port =
            line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next()).and_then(|p| p.parse::<u16>().ok());
        let port = port.unwrap_or_else(|| panic!("where it listens: {line:?}"));
        for _ in 0..2 {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it reads");
            let (mut text, mut part) = (Vec::new(), [0; 1024]);
            // How the connection ends is nobody's business once all is there.
            while let Ok(length @ 1..) = stream.read(&mut part) {
                text.extend_from_slice(&part[..length]);
            }
            assert!(text.ends_with(b"page\n"), "{:?}", String::from_utf8_lossy(&text));
        }
        forward.kill().and_then(|()| forward.wait()).expect("it is ours");
    });
}

/// Proves POD-19: an ephemeral container joins a running pod, shares processes with its target, and is there to stay.
#[test]
fn an_ephemeral_container_joins_a_pod() {
    let k = Kubectl::ours(Cluster::shared(), "ephemeral");
    k.apply(TALKING);
    k.until_ready("talking");
    let add = |name: &str, command: serde_json::Value| {
        let mut pod = k.object("pod", "talking");
        let container = serde_json::json!({"name": name, "image": "busybox:1.28", "targetContainerName": "counts", "command": command});
        match pod["spec"]["ephemeralContainers"].as_array_mut() {
            Some(list) => list.push(container),
            None => pod["spec"]["ephemeralContainers"] = serde_json::json!([container]),
        }
        let path = format!("/api/v1/namespaces/{}/pods/talking/ephemeralcontainers", k.namespace);
        let output = k.run_with(&["replace", "--raw", &path, "-f", "-"], &pod.to_string());
        assert_eq!(output.code, 0, "{output:?}");
    };
    add("looks", serde_json::json!(["sh", "-c", "ps; exit 3"]));
    let state = |name: &str, path: &str| format!("{{.status.ephemeralContainerStatuses[?(@.name==\"{name}\")].state.{path}}}");
    k.until("pod", "talking", &state("looks", "terminated.exitCode"), "3");
    let seen = k.ok(&["logs", "talking", "-c", "looks"]);
    assert!(seen.contains("sleep 1000") && seen.contains("ps"), "{seen}");
    add("stays", serde_json::json!(["sleep", "1000"]));
    eventually("the second runs beside the first", 30, || !k.field("pod", "talking", &state("stays", "running.startedAt")).is_empty());
    assert_eq!(k.ok(&["exec", "talking", "-c", "stays", "--", "echo", "here"]), "here\n");
    assert_eq!(k.field("pod", "talking", "{.status.ephemeralContainerStatuses[*].restartCount}"), "0 0");
    assert_eq!(k.ok(&["get", "pod", "talking", "--no-headers"]).split_whitespace().nth(1), Some("3/3"), "it does not count");
}

/// What comes by WebSocket from a path of a pod, as the namespace's default service account: headers and frames as they are.
fn by_web_socket(k: &Kubectl<'_>, path: &str, protocol: &str) -> Vec<u8> {
    let token = k.ok(&["create", "token", "default"]);
    let server = k.ok(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let headers = [
        format!("Authorization: Bearer {}", token.trim()),
        "Connection: Upgrade".into(),
        "Upgrade: websocket".into(),
        "Sec-WebSocket-Version: 13".into(),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".into(),
        format!("Sec-WebSocket-Protocol: {protocol}"),
    ];
    let mut command = std::process::Command::new("curl");
    command.args(["-sikN", "--http1.1", "--max-time", "20", &format!("{server}/api/v1/namespaces/{}/pods/{path}", k.namespace)]);
    for header in &headers {
        command.args(["-H", header]);
    }
    command.output().expect("curl is installed").stdout
}

/// Proves POD-18 for clients that ask for a log, or run a command, by WebSocket. Who may only read runs nothing.
#[test]
fn logs_and_commands_come_by_web_socket_too() {
    let k = Kubectl::ours(Cluster::shared(), "socket");
    k.ok(&["run", "alive", "--image=busybox:1.28", "--restart=Never", "--", "sh", "-c", "echo container is alive; sleep 1000"]);
    k.until_ready("alive");
    let account = format!("--serviceaccount={}:default", k.namespace);
    k.ok(&["create", "role", "reads", "--verb=get", "--resource=pods/log,pods/exec"]);
    k.ok(&["create", "rolebinding", "reads", "--role=reads", &account]);
    let holds = |output: &[u8], message: &[u8]| output.windows(message.len()).any(|w| w == message);

    let log = by_web_socket(&k, "alive/log", "binary.k8s.io");
    let text = String::from_utf8_lossy(&log);
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("sec-websocket-protocol: binary.k8s.io"), "{text}");
    // One binary message of 19 bytes, not masked.
    assert!(holds(&log, &[&[0x82, 19], b"container is alive\n".as_slice()].concat()), "{text:?}");

    let path = "alive/exec?stderr=1&stdout=1&container=alive&command=echo&command=remote%20execution%20test";
    let refused = by_web_socket(&k, path, "channel.k8s.io");
    let text = String::from_utf8_lossy(&refused);
    assert!(text.starts_with("HTTP/1.1 403 ") && text.contains("cannot create resource \\\"pods/exec\\\""), "{text}");
    k.ok(&["create", "rolebinding", "edits", "--clusterrole=edit", &account]);
    let mut text = Vec::new();
    eventually("the role is in force", 10, || {
        text = by_web_socket(&k, path, "channel.k8s.io");
        text.starts_with(b"HTTP/1.1 101 ")
    });
    // The same, led by the channel of standard output.
    assert!(holds(&text, &[&[0x82, 23, 1], b"remote execution test\n".as_slice()].concat()), "{:?}", String::from_utf8_lossy(&text));
}

/// Files and directories get into a container and out of it, with whatever bytes they hold.
#[test]
fn files_are_copied_both_ways() {
    for_each_kubectl(Cluster::shared(), "copied", |k| {
        k.ok(&["run", "p", "--image=busybox:1.28", "--", "sleep", "1000"]);
        k.until_ready("p");
        let here = tempfile::tempdir().expect("there is room");
        let path = |name: &str| here.path().join(name).display().to_string();
        // More than fits into any buffer on the way, and no text.
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::create_dir_all(here.path().join("tree/deep")).expect("there is room");
        std::fs::write(here.path().join("tree/deep/bytes"), &bytes).expect("there is room");
        std::fs::write(here.path().join("tree/text"), "text\n").expect("there is room");

        k.ok(&["cp", &path("tree"), "p:/tmp/renamed"]);
        assert_eq!(k.ok(&["exec", "p", "--", "cat", "/tmp/renamed/text"]), "text\n");
        // Into a directory that is there, under its own name.
        k.ok(&["cp", &path("tree/text"), "p:/tmp"]);
        assert_eq!(k.ok(&["exec", "p", "--", "cat", "/tmp/text"]), "text\n");
        k.ok(&["cp", &format!("{}/p:/tmp/renamed", k.namespace), &path("back")]);
        assert_eq!(std::fs::read(here.path().join("back/deep/bytes")).expect("it was copied"), bytes);
        k.ok(&["cp", "p:tmp/text", &path("one")]);
        assert_eq!(std::fs::read_to_string(here.path().join("one")).expect("it was copied"), "text\n");

        // Upstream's tells it only if it is quick enough.
        let missing = k.run(&["cp", "p:/tmp/none", &path("none")]);
        assert!(k.name == "upstream" || missing.code == 1 && missing.err.contains("No such file or directory"), "{missing:?}");
        assert!(!here.path().join("none").exists());
        for (from, to, why) in [
            (path("none"), "p:/tmp/none".to_owned(), "doesn't exist in local filesystem"),
            ("p:/tmp/text".to_owned(), "p:/tmp/again".to_owned(), "one of src or dest must be a local file specification"),
            (path("tree"), path("again"), "one of src or dest must be a remote file specification"),
        ] {
            let refused = k.run(&["cp", &from, &to]);
            assert!(refused.code != 0 && refused.err.contains(why), "{from} {to}: {refused:?}");
        }
    });
}

/// Proves POD-19 for what `kubectl debug` makes besides: a copy of a pod with one container more, and a pod that sees its node.
#[test]
fn a_copy_and_a_node_are_looked_into() {
    for_each_kubectl(Cluster::shared(), "looked", |k| {
        k.ok(&["run", "p", "--image=busybox:1.28", "--labels=app=p", "--", "sleep", "1000"]);
        k.until_ready("p");
        let made = k.ok(&["debug", "p", "--copy-to=q", "--image=busybox:1.28", "-c", "look", "--profile=general", "--", "sleep", "1000"]);
        assert_eq!(made, "");
        k.until_ready("q");
        assert_eq!(k.field("pod", "q", "{.spec.containers[*].name} {.spec.shareProcessNamespace} {.metadata.labels}"), "p look true ");
        assert!(k.ok(&["exec", "q", "-c", "look", "--", "ps"]).lines().filter(|line| line.contains("sleep 1000")).count() >= 2);
        // Its image alone is another.
        k.ok(&["debug", "p", "--copy-to=r", "--set-image=*=busybox:latest", "--profile=general"]);
        assert_eq!(k.field("pod", "r", "{.spec.containers[*].image}"), "busybox:latest");

        let node = k.field("pod", "p", "{.spec.nodeName}");
        let text =
            k.ok(&["debug", &format!("node/{node}"), "--image=busybox:1.28", "--profile=general", "--", "cat", "/host/etc/debian_version"]);
        let name = text.strip_prefix("Creating debugging pod ").and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
        assert!(
            name.starts_with(&format!("node-debugger-{node}-")) && text.contains(&format!("with container debugger on node {node}.")),
            "{text}"
        );
        k.until_phase(&name, "Succeeded");
        assert_eq!(k.ok(&["logs", &name]).trim(), std::fs::read_to_string("/etc/debian_version").expect("this is a Debian").trim());

        for (arguments, why) in [
            (&["debug", "p"][..], "you must specify --image when not using --copy-to."),
            (&["debug", "p", "--image=b", "--replace"], "--replace may only be used with --copy-to."),
            (&["debug", "p", "--image=b", "-t"], "-i/--stdin is required for containers with -t/--tty=true"),
            (&["debug", "p", "--image=b", "--profile=none"], "unknown profile: none"),
        ] {
            let refused = k.refused(arguments);
            assert!(refused.contains(why), "{arguments:?}: {refused}");
        }
    });
}
