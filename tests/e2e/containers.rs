//! What containers are started with, what holds them back, and in which order they come and go.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};
use std::collections::BTreeMap;

const WORDS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {a: one, b: two}
---
apiVersion: v1
kind: Secret
metadata: {name: words}
stringData: {password: pw}
---
apiVersion: v1
kind: Pod
metadata: {name: words, labels: {x: blue}}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: busybox:1.28
    command: ["sh", "-c", "echo $0 $1; env | grep ^T_ | sort"]
    args: ["$(T_NAME)", "$$(T_NAME)"]
    resources: {limits: {cpu: 100m, memory: 32Mi}}
    envFrom:
    - {prefix: T_MAP_, configMapRef: {name: words}}
    - {prefix: T_SECRET_, secretRef: {name: words}}
    - {prefix: T_GONE_, configMapRef: {name: nosuch, optional: true}}
    env:
    - {name: T_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: T_LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['x']"}}}
    - {name: T_ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
    - {name: T_KEY, valueFrom: {configMapKeyRef: {name: words, key: a}}}
    - {name: T_PASSWORD, valueFrom: {secretKeyRef: {name: words, key: password}}}
    - {name: T_NOKEY, valueFrom: {secretKeyRef: {name: words, key: nosuch, optional: true}}}
    - {name: T_MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: T_TOGETHER, value: "$(T_KEY)-$(T_PASSWORD)-$(T_NOSUCH)"}
  - name: arguments
    image: busybox:1.28
    args: ["echo", "instead of CMD"]
"#;

/// Proves POD-05 and POD-06.
#[test]
fn containers_get_their_command_and_environment() {
    for_each_kubectl(Cluster::shared(), "words", |k| {
        k.apply(WORDS);
        k.until_phase("words", "Succeeded");
        let wanted = "words $(T_NAME)\nT_ACCOUNT=default\nT_KEY=one\nT_LABEL=blue\nT_MAP_a=one\nT_MAP_b=two\nT_MEMORY=32\nT_NAME=words\n\
                      T_PASSWORD=pw\nT_SECRET_password=pw\nT_TOGETHER=one-pw-$(T_NOSUCH)\n";
        assert_eq!(k.ok(&["logs", "words", "-c", "c"]), wanted);
        assert_eq!(k.ok(&["logs", "words", "-c", "arguments"]), "instead of CMD\n");

        let changed = k.run_with(&["apply", "-f", "-"], &WORDS.replace("instead of CMD", "something else"));
        assert!(changed.code == 1 && changed.err.contains("pod updates may not change fields other than"), "{changed:?}");
        let number = k.run_with(&["apply", "-f", "-"], &WORDS.replace("\"instead of CMD\"", "1").replace("name: words", "name: number"));
        assert!(number.code == 1 && number.err.contains("cannot unmarshal number into Go struct field"), "{number:?}");
    });
}

const HELD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: noimage}
spec: {containers: [{name: c, image: "localhost:1/nosuch:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nokey}
spec:
  containers:
  - {name: c, image: "busybox:1.28", command: [sleep, "1000"], env: [{name: A, valueFrom: {configMapKeyRef: {name: later, key: k}}}]}
  terminationGracePeriodSeconds: 0
---
apiVersion: v1
kind: Pod
metadata: {name: novolume}
spec:
  containers: [{name: c, image: "busybox:1.28", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, secret: {secretName: later}}]
  terminationGracePeriodSeconds: 0
---
apiVersion: v1
kind: Pod
metadata: {name: initfails}
spec:
  initContainers: [{name: i, image: "busybox:1.28", command: ["false"]}]
  containers: [{name: c, image: "busybox:1.28"}]
---
apiVersion: v1
kind: Pod
metadata: {name: crashes}
spec: {containers: [{name: c, image: "busybox:1.28", command: ["false"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nocommand}
spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:1.28", command: ["/no/such"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done}
spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:1.28", command: ["true"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: fails}
spec: {restartPolicy: Never, containers: [{name: c, image: "busybox:1.28", command: ["sh", "-c", "exit 3"]}]}
"#;

/// The STATUS column by pod.
fn states(k: &Kubectl<'_>) -> BTreeMap<String, String> {
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        Some((fields.next()?.to_owned(), fields.nth(1)?.to_owned()))
    };
    k.ok(&["get", "pods", "--no-headers"]).lines().filter_map(row).collect()
}

/// Proves POD-08 (that it backs off), POD-09, POD-10 and POD-16 (an image that is not there).
#[test]
fn what_holds_a_pod_back_is_said_and_it_goes_on_once_it_can() {
    for_each_kubectl(Cluster::shared(), "held", |k| {
        k.apply(HELD);
        for (pod, wanted) in [
            ("noimage", &["ErrImagePull", "ImagePullBackOff"] as &[&str]),
            ("nokey", &["CreateContainerConfigError"]),
            ("novolume", &["ContainerCreating"]),
            ("initfails", &["Init:CrashLoopBackOff"]),
            ("crashes", &["CrashLoopBackOff"]),
            ("nocommand", &["StartError", "ContainerCannotRun"]),
            ("done", &["Completed"]),
            ("fails", &["Error"]),
        ] {
            eventually(&format!("{pod} shows {wanted:?}"), 60, || states(k).get(pod).is_some_and(|state| wanted.contains(&state.as_str())));
        }
        let said = |pod: &str, reason: &str, words: &str| {
            eventually(&format!("an event {reason} of {pod} that says {words:?}"), 20, || {
                k.events(pod).iter().any(|(r, message)| r == reason && message.contains(words))
            });
        };
        said("noimage", "Failed", "Failed to pull image \"localhost:1/nosuch:1\"");
        said("nokey", "Failed", "Error: configmap \"later\" not found");
        said("novolume", "FailedMount", "MountVolume.SetUp failed for volume \"v\" : secret \"later\" not found");
        said("crashes", "BackOff", "Back-off restarting failed container c in pod crashes");
        let code = |pod: &str| k.field("pod", pod, "{.status.containerStatuses[0].state.terminated.exitCode}");
        assert_eq!((code("done"), code("fails"), code("nocommand")), ("0".into(), "3".into(), "128".into()));

        k.ok(&["create", "secret", "generic", "later", "--from-literal=k=v"]);
        k.ok(&["create", "configmap", "later", "--from-literal=k=v"]);
        k.until_ready("novolume");
        k.until_ready("nokey");
        assert_eq!(k.ok(&["exec", "novolume", "--", "cat", "/v/k"]), "v");
        assert_eq!(k.ok(&["exec", "nokey", "--", "sh", "-c", "echo $A"]), "v\n");
    });
}

const ORDER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: order}
spec:
  terminationGracePeriodSeconds: 20
  initContainers:
  - {name: one, image: "busybox:1.28", command: [sh, -c, "echo one began >> /out/log; sleep 1; echo one done >> /out/log"], volumeMounts: &out [{name: out, mountPath: /out}]}
  - name: side
    image: busybox:1.28
    restartPolicy: Always
    command: [sh, -c, "trap 'echo side done >> /out/log; exit 0' TERM; touch /up; while true; do sleep 0.1; done"]
    startupProbe: {exec: {command: [cat, /up]}, periodSeconds: 1}
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo side began >> /out/log"]}}}
    volumeMounts: *out
  - {name: two, image: "busybox:1.28", command: [sh, -c, "echo two began >> /out/log; sleep 1; echo two done >> /out/log"], volumeMounts: *out}
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, "trap 'sleep 1; echo app done >> /out/log; exit 0' TERM; echo app began >> /out/log; while true; do sleep 0.1; done"]
    volumeMounts: *out
  volumes: [{name: out, hostPath: {path: OUT, type: DirectoryOrCreate}}]
"#;

/// Proves POD-11, and TRM-04: what a process writes in its grace period is there.
#[test]
fn init_containers_and_sidecars_keep_their_order() {
    for_each_kubectl(Cluster::shared(), "order", |k| {
        let out = std::env::temp_dir().join(format!("skiff-order-{}-{}", k.name, std::process::id()));
        k.apply(&ORDER.replace("OUT", &out.display().to_string()));
        k.until_ready("order");
        assert_eq!(states(k)["order"], "Running");
        assert_eq!(k.ok(&["get", "pod", "order", "--no-headers"]).split_whitespace().nth(1), Some("2/2"), "the sidecar counts");
        let log = || std::fs::read_to_string(out.join("log")).unwrap_or_default();
        let began = "one began\none done\nside began\ntwo began\ntwo done\napp began\n";
        eventually("all have begun", 20, || log().ends_with("app began\n"));
        assert_eq!(log(), began);
        k.ok(&["delete", "pod", "order"]);
        assert_eq!(log(), format!("{began}app done\nside done\n"));
        std::fs::remove_dir_all(&out).expect("it is ours");
    });
}

const HOOKS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: hooked}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sleep, "1000"]
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo hello > /told"]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: unhooked}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "busybox:1.28", command: [sleep, "1000"], lifecycle: {postStart: {exec: {command: ["false"]}}}}]
"#;

/// Proves TRM-03.
#[test]
fn post_start_runs_and_its_failure_kills_the_container() {
    for_each_kubectl(Cluster::shared(), "hooks", |k| {
        k.apply(HOOKS);
        k.until_ready("hooked");
        assert_eq!(k.ok(&["exec", "hooked", "--", "cat", "/told"]), "hello\n");
        eventually("the container without a hook's success is restarted", 40, || {
            k.field("pod", "unhooked", "{.status.containerStatuses[0].restartCount}").parse().is_ok_and(|n: u32| n > 0)
        });
        let reasons: Vec<String> = k.events("unhooked").into_iter().map(|(reason, _)| reason).collect();
        assert!(reasons.iter().any(|r| r == "FailedPostStartHook") && reasons.iter().any(|r| r == "Killing"), "{reasons:?}");
    });
}
