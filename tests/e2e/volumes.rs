//! Volumes: what containers find in them, and how they follow what they come from.

use skiff_testing::{Cluster, Kubectl, eventually};

fn kubectl(test: &str) -> Kubectl<'static> {
    Kubectl::ours(Cluster::shared(), test)
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: v, labels: {colour: red}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: busybox:1.28
    command: [sleep, "1000"]
    env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {limits: {memory: 64Mi}}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: disk, mountPath: /readonly, readOnly: true}
    - {name: disk, mountPath: /sub, subPathExpr: dir/$(POD)}
    - {name: memory, mountPath: /memory}
    - {name: map, mountPath: /map}
    - {name: map, mountPath: /one-file, subPath: a}
    - {name: secret, mountPath: /secret}
    - {name: down, mountPath: /down}
    - {name: all, mountPath: /all}
    - {name: host, mountPath: /host}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: map, configMap: {name: m, items: [{key: a, path: a, mode: 256}, {key: b, path: deep/b}]}}
  - {name: secret, secret: {secretName: s, defaultMode: 288}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: limit, resourceFieldRef: {containerName: c, resource: limits.memory, divisor: 1Mi}}]}}
  - name: all
    projected:
      sources:
      - configMap: {name: m}
      - configMap: {name: nowhere, optional: true}
      - secret: {name: s}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - serviceAccountToken: {path: token, expirationSeconds: 600}
  - {name: host, hostPath: {path: /etc/hostname, type: File}}
"#;

/// Proves POD-10 and VOL-01 to VOL-05: the pod waits for its config map and says so, then finds each volume with the modes and owners it asked for, and sees changes.
#[test]
fn a_pod_finds_what_it_asked_for() {
    let k = kubectl("volumes");
    k.ok(&["create", "secret", "generic", "s", "--from-literal=key=hidden"]);
    k.apply(POD);
    eventually("the event names the config map", 20, || {
        let wanted = ("FailedMount".to_owned(), "MountVolume.SetUp failed for volume \"map\" : configmap \"m\" not found".to_owned());
        k.events("v").contains(&wanted)
    });
    assert_eq!(k.field("pod", "v", "{.status.containerStatuses[0].state.waiting.reason}"), "ContainerCreating");
    k.ok(&["create", "configmap", "m", "--from-literal=a=one", "--from-literal=b=two"]);
    k.until_ready("v");

    let shell = |script: &str| k.ok(&["exec", "v", "--", "sh", "-c", script]);
    for (script, want) in [
        ("cd /map; cat a deep/b; stat -L -c %a a deep/b", "onetwo440\n644\n"),
        ("cat /one-file /secret/key; stat -L -c '%a %u %g' /secret/key", "onehidden440 0 2000\n"),
        ("cat /down/labels; echo; cat /down/limit", "colour=\"red\"\n64"),
        ("cd /all; cat a b key name; stat -L -c '%a %u %g' token", "onetwohiddenv640 1000 2000\n"),
        (
            "touch /sub/x; ls /disk/dir/v; touch /readonly/y 2>&1; touch /map/z 2>&1; true",
            "x\ntouch: /readonly/y: Read-only file system\ntouch: /map/z: Read-only file system\n",
        ),
        ("grep -c -E '^tmpfs /(memory|secret|all) ' /proc/mounts; df -k /memory | tail -n 1 | tr -s ' ' | cut -d' ' -f2", "3\n8192\n"),
        ("stat -c '%a %g' /disk /memory; test -f /host && echo file", "2777 2000\n2777 2000\nfile\n"),
        ("cd /var/run/secrets/kubernetes.io/serviceaccount; ls; cat namespace", &format!("ca.crt\nnamespace\ntoken\n{}", k.namespace)),
    ] {
        assert_eq!(shell(script), want, "{script}");
    }

    k.ok(&["patch", "configmap", "m", "-p", r#"{"data": {"a": "three"}}"#]);
    k.ok(&["label", "pod", "v", "size=2"]);
    eventually("mounted keys and fields follow", 20, || shell("cat /map/a /all/a /down/labels") == "threethreecolour=\"red\"\nsize=\"2\"");
}

const HOST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.28
    command: [sleep, "1000"]
    volumeMounts:
    - {name: made, mountPath: /made}
    - {name: made, mountPath: /below, subPath: a/b}
    - {name: device, mountPath: /device}
    - {name: seen, mountPath: /seen, mountPropagation: HostToContainer}
  volumes:
  - {name: made, hostPath: {path: BASE/made, type: DirectoryOrCreate}}
  - {name: device, hostPath: {path: /dev/null, type: CharDevice}}
  - {name: seen, hostPath: {path: BASE/seen, type: Directory}}
---
apiVersion: v1
kind: Pod
metadata: {name: wrong}
spec:
  containers: [{name: c, image: "busybox:1.28", volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, hostPath: {path: BASE/nosuch, type: Directory}}]
---
apiVersion: v1
kind: Pod
metadata: {name: outside}
spec:
  containers: [{name: c, image: "busybox:1.28", env: [{name: P, value: /etc}], volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(P)}]}]
  volumes: [{name: v, emptyDir: {}}]
"#;

/// Runs a program of the machine that must succeed.
fn machine(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Proves VOL-02.
#[test]
fn paths_of_the_node_are_what_their_type_says() {
    let k = kubectl("host");
    let base = std::env::temp_dir().join(format!("skiff-host-{}", std::process::id()));
    let at = |path: &str| base.join(path).display().to_string();
    std::fs::create_dir_all(at("seen/mount")).expect("made");
    // What is mounted there is to be seen elsewhere.
    machine("mount", &["--bind", &at("seen"), &at("seen")]);
    machine("mount", &["--make-shared", &at("seen")]);
    k.apply(&HOST.replace("BASE", &base.display().to_string()));
    k.until_ready("host");
    let shell = |script: &str| k.ok(&["exec", "host", "--", "sh", "-c", script]);
    assert_eq!(shell("echo x > /below/f; stat -c '%a %F' /made /device"), "755 directory\n666 character special file\n");
    assert_eq!(std::fs::read_to_string(at("made/a/b/f")).expect("it is on the node"), "x\n");
    machine("mount", &["-t", "tmpfs", "none", &at("seen/mount")]);
    std::fs::write(at("seen/mount/later"), "y").expect("written");
    assert_eq!(shell("cat /seen/mount/later"), "y");

    eventually("the wrong type is told", 20, || {
        let text = format!("MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {} is not a directory", at("nosuch"));
        k.events("wrong").contains(&("FailedMount".to_owned(), text))
    });
    k.until("pod", "outside", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    k.ok(&["delete", "pods", "--all", "--now"]);
    machine("umount", &[&at("seen/mount")]);
    machine("umount", &[&at("seen")]);
    std::fs::remove_dir_all(&base).expect("it is ours");
}

const FILES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: files}
spec:
  restartPolicy: Never
  initContainers:
  - {name: writes, image: "busybox:1.28", command: [sh, -c, "echo \"ONE='value 1'\" > /data/env; echo \"TWO='v2'\" >> /data/env"], volumeMounts: [{name: d, mountPath: /data}]}
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, "env | grep ^V_ | sort"]
    env:
    - {name: V_ONE, valueFrom: {fileKeyRef: {volumeName: d, path: env, key: ONE}}}
    - {name: V_NONE, valueFrom: {fileKeyRef: {volumeName: d, path: env, key: THREE, optional: true}}}
    - {name: V_BOTH, value: "$(V_ONE) and more"}
  volumes: [{name: d, emptyDir: {}}]
"#;

/// Proves the part of POD-06 that comes from files of the pod's own.
#[test]
fn variables_come_from_a_file_that_an_init_container_wrote() {
    let k = kubectl("files");
    k.apply(FILES);
    k.until_phase("files", "Succeeded");
    assert_eq!(k.ok(&["logs", "files"]), "V_BOTH=value 1 and more\nV_ONE=value 1\n");
}

const CLAIMED: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: CLASS}
spec:
  storageClassName: CLASS
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: BASE, type: DirectoryOrCreate}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {storageClassName: CLASS, accessModes: [ReadWriteOnce], resources: {requests: {storage: 500Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: large}
spec: {storageClassName: CLASS, accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}
"#;

fn uses_claim(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{restartPolicy: Never, containers: [{{name: c, image: 'busybox:1.28', command: [sh, -c, {script:?}], \
         volumeMounts: [{{name: v, mountPath: /v}}]}}], volumes: [{{name: v, persistentVolumeClaim: {{claimName: claim}}}}]}}\n"
    )
}

/// Proves VOL-06 for volumes that somebody made: bound by class, size and access mode; what is on them survives the pod, and the claim.
#[test]
fn what_is_on_a_claimed_volume_survives_the_pod() {
    let k = kubectl("claimed");
    let base = std::env::temp_dir().join(format!("skiff-claimed-{}", std::process::id()));
    let class = format!("class-{}", std::process::id());
    k.apply(&CLAIMED.replace("CLASS", &class).replace("BASE", &base.display().to_string()));
    k.until("pvc", "claim", "{.status.phase} {.spec.volumeName}", &format!("Bound {class}"));
    assert_eq!(k.field("pvc", "large", "{.status.phase}"), "Pending", "no volume is large enough");
    k.apply(&uses_claim("writes", "echo kept > /v/file"));
    k.until_phase("writes", "Succeeded");
    k.ok(&["delete", "pod", "writes", "--now"]);
    k.apply(&uses_claim("reads", "cat /v/file"));
    k.until_phase("reads", "Succeeded");
    assert_eq!(k.ok(&["logs", "reads"]), "kept\n");
    k.ok(&["delete", "pod", "reads", "--now"]);
    k.ok(&["delete", "pvc", "claim", "large"]);
    k.until("pv", &class, "{.status.phase}", "Released");
    assert_eq!(std::fs::read_to_string(base.join("file")).expect("it is retained"), "kept\n");
    k.ok(&["delete", "pv", &class]);
    std::fs::remove_dir_all(&base).expect("it is ours");
}

const SUB_PATHS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: inside}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: i, image: "busybox:1.28", command: [sh, -c, "mkdir /v/real && echo -n file > /v/real/f && ln -s real /v/link"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - name: c
    image: busybox:1.28
    command: [sh, -c, "cat /word /link/f /file; echo; touch /made/here; test -e /v/again && sleep 1000; touch /v/again; exit 1"]
    volumeMounts:
    - {name: v, mountPath: /v}
    - {name: v, mountPath: /made, subPath: deep/er}
    - {name: v, mountPath: /link, subPath: link}
    - {name: v, mountPath: /file, subPath: real/f}
    - {name: words, mountPath: /word, subPath: word}
  volumes: [{name: v, emptyDir: {}}, {name: words, configMap: {name: words}}]
---
apiVersion: v1
kind: Pod
metadata: {name: outside}
spec:
  terminationGracePeriodSeconds: 0
  initContainers: [{name: i, image: "busybox:1.28", command: [ln, -s, /etc, /v/out], volumeMounts: [{name: v, mountPath: /v}]}]
  containers: [{name: c, image: "busybox:1.28", command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /x, subPath: out}]}]
  volumes: [{name: v, emptyDir: {}}]
"#;

/// Proves VOL-02 for subPath: places in a volume, files and links among them, again after a restart, and none outside of it.
#[test]
fn a_sub_path_is_a_place_in_its_volume() {
    let k = kubectl("subpath");
    k.apply(SUB_PATHS);
    k.until("pod", "inside", "{.status.containerStatuses[0].restartCount}", "1");
    k.until_ready("inside");
    eventually("it reads what the places hold", 20, || k.run(&["logs", "inside", "-c", "c"]).out == "hellofilefile\n");
    assert_eq!(k.ok(&["exec", "inside", "-c", "c", "--", "ls", "/v/deep/er"]), "here\n");
    k.until("pod", "outside", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    assert_eq!(
        k.field("pod", "outside", "{.status.containerStatuses[0].state.waiting.message}"),
        "failed to prepare subPath for volumeMount \"v\" of container \"c\""
    );
}
