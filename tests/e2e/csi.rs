//! Volumes of a driver: attached, staged, published, and back.

use skiff_testing::{
    Cluster, Kubectl,
    csi_driver::{CsiDriver, MOST_VOLUMES, USED},
    eventually,
};
use std::path::{Path, PathBuf};
use tonic::Status;

/// A driver beside the cluster's kubelet, named after the test's namespace. It goes with all that it keeps.
struct Driver {
    driver: CsiDriver,
    volumes: PathBuf,
}

impl std::ops::Deref for Driver {
    type Target = CsiDriver;

    fn deref(&self) -> &CsiDriver {
        &self.driver
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What is left is below the directory of temporary files.
        drop(std::fs::remove_dir_all(&self.volumes));
    }
}

fn kubelet_root(cluster: &Cluster) -> PathBuf {
    std::fs::canonicalize(cluster.run_dir().join("kubelet")).expect("the kubelet has a root")
}

/// Starts a driver of which the API says `spec`, and waits until the node has it.
fn driver(k: &Kubectl<'_>, spec: &str) -> Driver {
    let name = format!("{}.example.com", k.namespace);
    let volumes = std::env::temp_dir().join(format!("skiff-csi-{}-{}", std::process::id(), k.namespace));
    k.apply(&format!("apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {name}}}\nspec: {spec}\n"));
    let driver = CsiDriver::start(&kubelet_root(k.cluster), &name, &volumes);
    eventually("the node has the driver", 60, || k.ok(&["get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers}"]).contains(&name));
    Driver { driver, volumes }
}

/// A volume of the driver under the namespace's name, and a claim `c` that is bound to it. `more` are further fields of the volume.
fn claim(k: &Kubectl<'_>, driver: &str, more: &str) {
    let name = &k.namespace;
    k.apply(&format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec: {{capacity: {{storage: 10Mi}}, accessModes: [ReadWriteOnce], storageClassName: '', persistentVolumeReclaimPolicy: Retain{more}, csi: {{driver: {driver}, volumeHandle: {name}, fsType: ext4, volumeAttributes: {{a: b}}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: c}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: '', volumeName: {name}, resources: {{requests: {{storage: 10Mi}}}}{}}}
",
        if more.contains("Block") { ", volumeMode: Block" } else { "" }
    ));
    k.until("pvc", "c", "{.status.phase}", "Bound");
}

fn pod(name: &str, volume: &str, container: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{fsGroup: 4321}}
  containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '100000'], {container}}}]
  volumes: [{{name: v, {volume}}}]
"
    )
}

const CLAIMED: &str = "persistentVolumeClaim: {claimName: c}";
const MOUNTED: &str = "volumeMounts: [{name: v, mountPath: /data}]";

fn remove_claim(k: &Kubectl<'_>, driver: &str) {
    k.ok(&["delete", "pvc", "c"]);
    k.ok(&["delete", "pv", &k.namespace]);
    k.ok(&["delete", "csidriver", driver]);
}

/// The node's name.
fn node(k: &Kubectl<'_>) -> String {
    k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])
}

/// The name of the attachment of the test's volume, waited for.
fn attachment(k: &Kubectl<'_>) -> String {
    let path = format!("{{.items[?(@.spec.source.persistentVolumeName==\"{}\")].metadata.name}}", k.namespace);
    let find = || k.ok(&["get", "volumeattachments", "-o", &format!("jsonpath={path}")]);
    eventually("the volume is to be attached", 60, || !find().is_empty());
    find()
}

/// Says that whatever is to be attached of the test's volume is, as a driver's attacher does. Answers its attachment's name.
fn attach(k: &Kubectl<'_>) -> String {
    let name = attachment(k);
    let status = r#"{"status": {"attached": true, "attachmentMetadata": {"device": "/dev/some"}}}"#;
    k.ok(&["patch", "volumeattachment", &name, "--subresource=status", "--type=merge", "-p", status]);
    name
}

/// Proves VOL-06 for drivers: a persistent volume that is waited for until it is attached, in the container with the pod's group, and gone from the node before it is detached.
#[test]
fn a_volume_is_attached_staged_published_and_back() {
    let k = Kubectl::ours(Cluster::shared(), "csi-attached");
    let driver = driver(&k, "{attachRequired: true, podInfoOnMount: true}");
    let (node, handle) = (node(&k), k.namespace.clone());
    let in_csi_node = |field: &str| k.field("csinode", &node, &format!("{{.spec.drivers[?(@.name==\"{}\")]{field}}}", driver.name));
    assert_eq!(in_csi_node(".allocatable.count"), MOST_VOLUMES.to_string());
    assert_eq!(in_csi_node(".topologyKeys[0]"), format!("topology.{}/node", driver.name));
    let label = format!("{{.metadata.labels.topology\\.{}/node}}", driver.name.replace('.', "\\."));
    assert_eq!(k.field("node", &node, &label), "here");
    assert!(k.field("node", &node, "{.metadata.annotations.csi\\.volume\\.kubernetes\\.io/nodeid}").contains(&driver.name));

    claim(&k, &driver.name, "");
    k.apply(&pod("p", CLAIMED, MOUNTED));
    let volume = format!("kubernetes.io/csi/{}^{handle}", driver.name);
    until_listed(&k, &node, "volumesInUse", &volume, true);
    assert_eq!(driver.count(&format!("stage {handle}")), 0, "before it is attached");
    let attachment = attach(&k);
    k.until_ready("p");
    let attached = ("SuccessfulAttachVolume".to_owned(), format!("AttachVolume.Attach succeeded for volume {handle:?} "));
    eventually("it is told that it is attached", 30, || k.events("p").contains(&attached));
    assert_eq!(k.ok(&["exec", "p", "--", "sh", "-c", "echo x > /data/f; stat -c %g /data; cat /data/f"]), "4321\nx\n");
    let told = driver.asked().publish.clone().expect("it was asked");
    assert_eq!((told.publish_context["device"].as_str(), told.volume_context["a"].as_str()), ("/dev/some", "b"));
    assert_eq!(told.volume_context["csi.storage.k8s.io/pod.name"], "p");
    until_listed(&k, &node, "volumesAttached[*].name", &volume, true);
    let stats = || k.ok(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")]);
    eventually("what the driver says is used is told", 60, || {
        let stats: serde_json::Value = serde_json::from_str(&stats()).expect("a summary");
        let pods = stats["pods"].as_array().cloned().unwrap_or_default();
        let own = pods.iter().find(|pod| pod["podRef"]["namespace"] == k.namespace.as_str()).cloned().unwrap_or_default();
        own["volume"]
            .as_array()
            .is_some_and(|all| all.iter().any(|v| v["name"] == "v" && v["usedBytes"] == USED && v["pvcRef"]["name"] == "c"))
    });

    k.ok(&["delete", "pod", "p"]);
    assert_eq!(driver.count(&format!("unpublish {handle}")), 1, "it was taken down before the pod was gone");
    assert_eq!(driver.count(&format!("unstage {handle}")), 1);
    until_listed(&k, &node, "volumesInUse", &volume, false);
    k.until_gone("volumeattachment", &attachment);
    until_listed(&k, &node, "volumesAttached[*].name", &volume, false);
    remove_claim(&k, &driver.name);
}

/// Waits until a list of the node's status has a volume, or has it no more.
fn until_listed(k: &Kubectl<'_>, node: &str, list: &str, volume: &str, wanted: bool) {
    eventually(&format!("{volume} in {list}: {wanted}"), 60, || {
        k.field("node", node, &format!("{{.status.{list}}}")).contains(volume) == wanted
    });
}

/// Whether volumes have to be attached is what the driver's object says by now: pods that wait go on, and attachments that nobody needs any more go.
#[test]
fn a_driver_may_say_that_it_attaches_nothing_after_all() {
    let k = Kubectl::ours(Cluster::shared(), "csi-says");
    let driver = driver(&k, "{attachRequired: true}");
    claim(&k, &driver.name, "");
    let say = |spec: &str| {
        // It cannot be changed, but made anew.
        k.ok(&["delete", "csidriver", &driver.name]);
        k.apply(&format!("apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {}}}\nspec: {spec}\n", driver.name));
    };
    k.apply(&pod("runs", CLAIMED, MOUNTED));
    let attached = attach(&k);
    k.until_ready("runs");
    say("{attachRequired: false}");
    k.until_gone("volumeattachment", &attached);
    assert_eq!(k.field("pod", "runs", "{.status.phase} {.status.containerStatuses[0].restartCount}"), "Running 0");
    k.ok(&["delete", "pod", "runs"]);

    say("{attachRequired: true}");
    k.apply(&pod("waits", CLAIMED, MOUNTED));
    let never = attachment(&k);
    say("{attachRequired: false}");
    k.until_ready("waits");
    k.until_gone("volumeattachment", &never);
    k.ok(&["delete", "pod", "waits"]);
    remove_claim(&k, &driver.name);
}

/// What a driver surely has not staged is not unstaged, what it may have staged is; and no pod waits for what cannot be unstaged.
#[test]
fn a_driver_that_fails_holds_up_no_pod_that_goes_or_comes() {
    let k = Kubectl::ours(Cluster::shared(), "csi-fails");
    let driver = driver(&k, "{attachRequired: false}");
    claim(&k, &driver.name, "");
    let count = |verb: &str| driver.count(&format!("{verb} {}", k.namespace));
    for (error, unstaged) in [(Status::invalid_argument("no such file system"), 0), (Status::deadline_exceeded("busy"), 1)] {
        driver.asked().failing.insert("stage", error);
        let before = count("stage");
        k.apply(&pod("never", CLAIMED, MOUNTED));
        eventually("it is tried", 60, || count("stage") > before);
        k.ok(&["delete", "pod", "never"]);
        assert_eq!(count("unstage"), unstaged);
    }
    driver.asked().failing = [("unstage", Status::invalid_argument("held"))].into();
    let before = count("stage");
    k.apply(&pod("first", CLAIMED, MOUNTED));
    k.until_ready("first");
    k.ok(&["delete", "pod", "first"]);
    assert!(count("unstage") > 1, "it was tried");
    k.apply(&pod("second", CLAIMED, MOUNTED));
    k.until_ready("second");
    assert_eq!(count("stage"), before + 2, "for each of them");
    k.ok(&["delete", "pod", "second"]);
    let staged = kubelet_root(k.cluster).join("plugins/kubernetes.io/csi").join(&driver.name);
    let left = || std::fs::read_dir(&staged).map_or(0, Iterator::count);
    assert_eq!(left(), 1, "it cannot be unstaged yet");
    driver.asked().failing.clear();
    eventually("it is unstaged", 60, || left() == 0);
    remove_claim(&k, &driver.name);
}

/// A volume that the pod defines itself, of a driver that attaches nothing and wants to know of the pod; and what is told of a driver that fails.
#[test]
fn an_inline_volume_lives_and_ends_with_its_pod() {
    let k = Kubectl::ours(Cluster::shared(), "csi-inline");
    let driver =
        driver(&k, "{attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Ephemeral], tokenRequests: [{audience: store}]}");
    driver.asked().failing.insert("publish", Status::internal("no room"));
    k.apply(&pod("p", &format!("csi: {{driver: {}, volumeAttributes: {{size: 1Gi}}}}", driver.name), MOUNTED));
    let text = "MountVolume.SetUp failed for volume \"v\" : rpc error: code = Internal desc = no room";
    eventually("the failure is told", 60, || k.events("p").contains(&("FailedMount".into(), text.into())));
    driver.asked().failing.clear();
    k.until_ready("p");
    let told = driver.asked().publish.clone().expect("it was asked");
    assert_eq!((told.volume_context["size"].as_str(), told.volume_context["csi.storage.k8s.io/ephemeral"].as_str()), ("1Gi", "true"));
    let tokens: serde_json::Value = serde_json::from_str(&told.volume_context["csi.storage.k8s.io/serviceAccount.tokens"]).expect("tokens");
    assert!(tokens["store"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3), "{tokens}");
    assert!(told.staging_target_path.is_empty() && told.volume_id.starts_with("csi-"), "{}", told.volume_id);
    assert_eq!(k.ok(&["exec", "p", "--", "sh", "-c", "echo x > /data/f && cat /data/f"]), "x\n");
    k.ok(&["delete", "pod", "p"]);
    assert_eq!(driver.count(&format!("unpublish {}", told.volume_id)), 1);
    let claimed = pod("q", "csi: {driver: unknown.example.com}", MOUNTED);
    k.apply(&claimed);
    let text = "MountVolume.NewMounter initialization failed for volume \"v\" : volume mode \"Ephemeral\" not supported by driver unknown.example.com (no CSIDriver object)";
    eventually("an unknown driver is told of", 60, || k.events("q").contains(&("FailedMount".into(), text.into())));
    k.ok(&["delete", "pod", "q"]);
    k.ok(&["delete", "csidriver", &driver.name]);
}

/// A claim that grows while a pod uses it: the driver is asked to bring the file system to its size, and the claim says so.
#[test]
fn a_volume_in_use_grows() {
    let k = Kubectl::ours(Cluster::shared(), "csi-grows");
    let driver = driver(&k, "{attachRequired: false}");
    claim(&k, &driver.name, "");
    // As the driver's resizer does once the volume itself has grown.
    let grow = || {
        k.ok(&["patch", "pv", &k.namespace, "-p", r#"{"spec": {"capacity": {"storage": "20Mi"}}}"#]);
        let pending = r#"{"status": {"allocatedResourceStatuses": {"storage": "NodeResizePending"}, "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}}"#;
        k.ok(&["patch", "pvc", "c", "--subresource=status", "--type=merge", "-p", pending]);
    };
    driver.asked().failing.insert("expand", Status::out_of_range("too much"));
    grow();
    k.apply(&pod("p", CLAIMED, MOUNTED));
    k.until_ready("p");
    let told = "{.status.allocatedResourceStatuses.storage} {.status.conditions[?(@.type==\"NodeResizeError\")].message}";
    let why = "NodeResizeInfeasible failed to expand pvc with rpc error: code = OutOfRange desc = too much";
    assert_eq!(k.field("pvc", "c", told), why);
    driver.asked().failing.clear();
    grow();
    // The pod is looked at again after a minute at the latest.
    eventually("the claim says its size", 150, || k.field("pvc", "c", "{.status.capacity.storage} {.status.conditions}").trim() == "20Mi");
    let asked = driver.asked().expand.clone().expect("it was asked");
    assert_eq!(asked.capacity_range.map(|range| range.required_bytes), Some(20 << 20));
    assert!(asked.volume_path.ends_with(&format!("/kubernetes.io~csi/{}/mount", k.namespace)), "{}", asked.volume_path);
    eventually("it is told", 30, || k.events("p").iter().any(|(reason, _)| reason == "FileSystemResizeSuccessful"));
    k.ok(&["delete", "pod", "p"]);
    remove_claim(&k, &driver.name);
}

/// A loop device over a file, released with this value.
struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `None` where the machine lets nobody have one.
    fn over(file: &Path) -> Option<Self> {
        std::fs::write(file, vec![b'x'; 1 << 20]).expect("the file can be written");
        let output = std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        output.status.success().then(|| LoopDevice(String::from_utf8_lossy(&output.stdout).trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        drop(std::process::Command::new("losetup").arg("--detach").arg(&self.0).status());
    }
}

/// A claim in `volumeMode: Block`: the container has a device.
#[test]
fn a_volume_can_be_a_device() {
    let k = Kubectl::ours(Cluster::shared(), "csi-block");
    let driver = driver(&k, "{attachRequired: false}");
    let Some(device) = LoopDevice::over(&driver.volumes.join("file")) else {
        eprintln!("csi-block: left out: this machine has no loop devices");
        return;
    };
    std::os::unix::fs::symlink(&device.0, driver.volumes.join(&k.namespace)).expect("a link");
    claim(&k, &driver.name, ", volumeMode: Block");
    k.apply(&pod("p", CLAIMED, "volumeDevices: [{name: v, devicePath: /dev/given}]"));
    k.until_ready("p");
    assert_eq!(k.ok(&["exec", "p", "--", "sh", "-c", "test -b /dev/given && head -c 4 /dev/given"]), "xxxx");
    assert!(driver.asked().publish.as_ref().is_some_and(|told| told.target_path.contains("/volumeDevices/publish/")));
    k.ok(&["delete", "pod", "p"]);
    assert_eq!(driver.count(&format!("unpublish {}", k.namespace)), 1);
    assert_eq!(driver.count(&format!("unstage {}", k.namespace)), 1);
    remove_claim(&k, &driver.name);
}

/// Proves CMP-10 for volumes of drivers: a kubelet that is killed leaves them to the next, which takes down what has to go meanwhile.
#[test]
fn a_killed_kubelets_volumes_are_the_next_ones() {
    let cluster = Cluster::private(8);
    let up = || cluster.up(&["--local-images", "--node-name", "n1"]);
    up();
    let k = Kubectl::ours(&cluster, "csi-restart");
    let driver = driver(&k, "{attachRequired: false}");
    let handle = k.namespace.clone();
    claim(&k, &driver.name, "");
    for name in ["stays", "leaves"] {
        k.apply(&pod(name, CLAIMED, MOUNTED));
        k.until_ready(name);
    }
    assert_eq!(driver.count(&format!("stage {handle}")), 1, "once for both");
    let (_, pid) = cluster.processes().into_iter().find(|(name, _)| name == "kubelet").expect("it runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("it is ours");
    eventually("it is dead", 10, || !cluster.processes().iter().any(|(_, running)| *running == pid));
    k.ok(&["delete", "pod", "leaves", "--wait=false"]);
    up();
    k.until_gone("pod", "leaves");
    assert_eq!(driver.count(&format!("unpublish {handle}")), 1);
    assert_eq!(driver.count(&format!("unstage {handle}")), 0, "the other pod has it still");
    assert_eq!(k.field("pod", "stays", "{.status.containerStatuses[0].restartCount}"), "0");
    assert_eq!(k.ok(&["exec", "stays", "--", "sh", "-c", "echo x > /data/f && cat /data/f"]), "x\n");
    k.ok(&["delete", "pod", "stays"]);
    assert_eq!((driver.count(&format!("unpublish {handle}")), driver.count(&format!("unstage {handle}"))), (2, 1));
    remove_claim(&k, &driver.name);
}
