//! A node whose disk is full: what pods say of it, what is evicted, and that all goes on once there is room.

use crate::own_kubelet::{start, take_over};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use skiff_testing::{Cluster, Kubectl, eventually};
use std::fs;
use std::path::{Path, PathBuf};

/// A small file system in memory; gone with this value, if the cluster on it has not taken it down.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).expect("a directory");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str())).expect("tests run as root");
        SmallDisk(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It is gone already where `deploy/down` has run.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn pod(name: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: 'busybox:1.28', \
         command: [sh, -c, '{command}'], volumeMounts: [{{name: v, mountPath: /v}}, {{name: m, mountPath: /m}}]}}]\n  volumes: [{{name: v, emptyDir: {{}}}}, \
         {{name: m, configMap: {{name: m}}}}]\n"
    )
}

/// Without thresholds a pod that needs the disk waits and says why; with them the one that uses most of it is evicted, with upstream's words, and the node
/// takes no pods until it has recovered. Whoever does not need the disk runs on.
#[test]
fn a_full_disk_is_told_evicted_for_and_outlived() {
    let private = Cluster::private(3);
    let root = private.run_dir().join("kubelet");
    let _disk = SmallDisk::at(&root, "64m");
    // Declared last, so that it ends first.
    let cluster = private;
    cluster.up(&["--local-images", "--node-name", "n1"]);
    let k = Kubectl::new(&cluster, cluster.binary("kubectl"), "disk", "ours");
    // Large, so that it does not fit into what somebody else gives back meanwhile.
    k.ok(&["create", "configmap", "m", &format!("--from-literal=a={}", "b".repeat(100_000))]);
    k.apply(&pod("calm", "sleep 1000"));
    k.until_ready("calm");
    let condition = |kind: &str| k.field("node", "n1", &format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}"));
    let calm = || k.field("pod", "calm", "{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}");

    let fill = root.join("fill");
    let filled = fs::write(&fill, vec![1; 80 << 20]);
    assert!(filled.is_err(), "the disk is smaller");
    k.apply(&pod("waits", "sleep 1000"));
    eventually("the event says that there is no space", 60, || {
        k.events("waits").iter().any(|(reason, message)| reason == "FailedMount" && message.contains("no space left on device"))
    });
    assert_eq!((condition("Ready"), calm()), ("True".into(), "0 true".into()), "the node and whoever runs go on");
    fs::remove_file(&fill).expect("it is ours");
    k.until_ready("waits");
    k.ok(&["delete", "pod", "waits"]);

    let config = cluster.run_dir().join("kubelet-of-the-test.yml");
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                evictionHard: {memory.available: 100Mi, nodefs.available: 30%, nodefs.inodesFree: 0%, imagefs.available: 0%}\n\
                evictionPressureTransitionPeriod: 5s\nimageGCHighThresholdPercent: 100\nfailSwapOn: false\n";
    fs::write(&config, text).expect("written");
    let flags = take_over(&cluster);
    let kubelet = start(&cluster, &flags, &config);
    k.apply(&pod("hog", "dd if=/dev/zero of=/v/x bs=1M count=50; sleep 1000"));
    k.until_phase("hog", "Failed");
    assert_eq!(k.field("pod", "hog", "{.status.reason}"), "Evicted");
    let message = k.field("pod", "hog", "{.status.message}");
    assert!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "), "{message}");
    assert!(
        message.contains("Container c was using ") && message.contains(", request is 0, has larger consumption of ephemeral-storage"),
        "{message}"
    );
    let disrupted = "{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";
    assert_eq!(k.field("pod", "hog", disrupted), "TerminationByKubelet");
    eventually("an event of the node says that the disk ran full", 20, || {
        let told = k.run(&[
            "get",
            "events",
            "-n",
            "default",
            "--field-selector",
            "reason=EvictionThresholdMet",
            "-o",
            "jsonpath={.items[*].message}",
        ]);
        told.out == "Attempting to reclaim ephemeral-storage"
    });
    eventually("the node has recovered", 90, || condition("DiskPressure") == "False" && k.field("node", "n1", "{.spec.taints}").is_empty());
    assert_eq!(calm(), "0 true");
    k.apply(&pod("next", "sleep 1000"));
    k.until_ready("next");
    k.ok(&["delete", "pod", "--all"]);
    drop(kubelet);
}
