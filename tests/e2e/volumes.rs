//! Volumes: what containers find in them, and how they follow what they come from.

use skiff_testing::{Cluster, Kubectl, eventually};

fn kubectl(test: &str) -> Kubectl<'static> {
    let cluster = Cluster::shared();
    Kubectl::new(cluster, cluster.binary("kubectl"), test, "ours")
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
