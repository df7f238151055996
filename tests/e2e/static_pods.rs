//! Pods from manifests on the node: with a kubelet that knows of no apiserver, and with one that does.

use crate::own_kubelet::{start, take_over};
use skiff_testing::{Cluster, Kubectl, eventually};
use std::fs;

const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: still, labels: {a: b}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
                        containers: [{name: c, image: \"busybox:1.28\", command: [sh, -c, \"sleep 1000\"]}]\n";

/// Proves STA-01 and STA-02.
#[test]
fn manifests_are_pods_with_and_without_an_apiserver() {
    let cluster = Cluster::private(7);
    cluster.up(&["--local-images", "--node-name", "n1"]);
    let manifests = cluster.run_dir().join("manifests");
    fs::create_dir(&manifests).expect("the state directory is there");
    let config = cluster.run_dir().join("kubelet.yml");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: {}\nauthorization: {{mode: AlwaysAllow}}\nfailSwapOn: false\n",
        manifests.display()
    );
    fs::write(&config, text).expect("written");
    let flags = take_over(&cluster);
    let at = flags.iter().position(|f| f == "--kubeconfig").expect("it has an apiserver");
    let alone: Vec<String> = flags[..at].iter().chain(&flags[at + 2..]).cloned().collect();
    let running = || {
        let filter = "labels.\"io.kubernetes.pod.name\"==still-n1,labels.\"io.kubernetes.container.name\"==c";
        let made: Vec<String> = cluster.ctr(&["containers", "ls", "-q", filter]).lines().map(str::to_owned).collect();
        let tasks = cluster.ctr(&["tasks", "ls"]);
        let runs = |id: &String| tasks.lines().any(|line| line.starts_with(id) && line.contains("RUNNING"));
        made.into_iter().filter(runs).collect::<Vec<_>>()
    };

    let kubelet = start(&cluster, &alone, &config);
    fs::write(manifests.join("still.yml"), MANIFEST).expect("written");
    eventually("it runs without any apiserver", 30, || running().len() == 1);
    let first = running();
    cluster.ctr(&["tasks", "kill", "-s", "SIGKILL", &first[0]]);
    eventually("it runs again after it failed", 30, || running().first().is_some_and(|id| *id != first[0]));
    let second = running();
    drop(kubelet);

    let kubelet = start(&cluster, &flags, &config);
    let k = Kubectl::new(&cluster, cluster.binary("kubectl"), "statics", "ours");
    let mirror = |arguments: &[&str]| k.run(&[arguments, &["pod", "still-n1", "-n", "default"]].concat());
    eventually("its mirror shows", 40, || mirror(&["get", "--no-headers"]).out.split_whitespace().nth(2) == Some("Running"));
    assert_eq!(running(), second, "the next kubelet took it over as it was");
    let uid = mirror(&["get", "-o", "jsonpath={.metadata.uid}"]).out;
    mirror(&["delete", "--wait=false"]);
    eventually("the mirror comes back as another", 40, || {
        let now = mirror(&["get", "-o", "jsonpath={.metadata.uid} {.status.phase}"]).out;
        now.ends_with(" Running") && !now.starts_with(&uid)
    });
    k.ok(&["label", "pod", "still-n1", "-n", "default", "more=labels"]);
    assert_eq!(running(), second, "whatever is done to the mirror");

    fs::remove_file(manifests.join("still.yml")).expect("it is there");
    eventually("it goes with its manifest", 40, || running().is_empty());
    eventually("and its mirror too", 40, || mirror(&["get"]).err.contains("NotFound"));
    drop(kubelet);
}
