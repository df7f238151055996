//! Static pods: every manifest in a directory is a pod, with or without an API server (upstream: `pkg/kubelet/config/file_linux.go`).

use crate::container::identity::{CONFIG_HASH, CONFIG_SEEN, CONFIG_SOURCE};
use ::api::Kind;
use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The directory is read again this often whether or not anything was noticed (upstream: `fileCheckFrequency`).
const CHECK: Duration = Duration::from_secs(20);
/// A manifest larger than this is no pod (upstream: 10 MB).
const MAX_MANIFEST: u64 = 10 << 20;
/// Writing a file makes several notices; reading waits until they have stopped for this long.
const SETTLE: Duration = Duration::from_millis(50);

/// The pod in a manifest, as it is known on this node.
pub fn parse(text: &str, file: &str, node: &str, seen: Timestamp) -> anyhow::Result<Pod> {
    let value: serde_json::Value = serde_yaml::from_str(text)?;
    match (value["apiVersion"].as_str(), value["kind"].as_str()) {
        (Some("v1"), Some("Pod")) => {}
        (version, kind) => bail!("expected a v1 Pod, got kind {kind:?} of {version:?}"),
    }
    let mut pod: Pod = serde_json::from_value(value)?;
    let Some(name) = pod.metadata.name.clone().filter(|n| !n.is_empty()) else { bail!("the pod has no name") };
    if pod.spec.as_ref().is_none_or(|s| s.containers.is_empty()) {
        bail!("the pod has no containers");
    }
    let digest = Sha256::digest(format!("{node}\n{file}\n{}", serde_json::to_string(&pod)?).as_bytes());
    let uid: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    Kind::set_defaults(&mut pod);
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.uid = Some(uid.clone());
    pod.metadata.generation.get_or_insert(1);
    let annotations = pod.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(CONFIG_HASH.into(), uid);
    annotations.insert(CONFIG_SEEN.into(), seen.to_string());
    annotations.insert(CONFIG_SOURCE.into(), "file".into());
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.into());
    // It runs here whatever befalls the node.
    let tolerations = spec.tolerations.get_or_insert_with(Vec::new);
    tolerations.push(Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Default::default() });
    Ok(pod)
}

/// Reads all manifests of a directory, in the order of their names. One that is no pod is left out, with a warning.
pub fn read_dir(dir: &Path, node: &str, known: &[Arc<Pod>]) -> std::io::Result<Vec<Arc<Pod>>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let mut pods = Vec::new();
    for path in paths {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        match read(&path, node) {
            // When it was first seen stays as it is as long as the manifest does.
            Ok(pod) => pods.push(match known.iter().find(|k| k.metadata.uid == pod.metadata.uid) {
                Some(known) => known.clone(),
                None => Arc::new(pod),
            }),
            Err(error) => tracing::warn!(file = %path.display(), error = format!("{error:#}"), "not a manifest of a pod"),
        }
    }
    Ok(pods)
}

fn read(path: &Path, node: &str) -> anyhow::Result<Pod> {
    let size = fs::metadata(path)?.len();
    if size > MAX_MANIFEST {
        bail!("the file has {size} bytes, which is more than {MAX_MANIFEST}");
    }
    let text = fs::read_to_string(path).context("reading")?;
    parse(&text, &path.to_string_lossy(), node, Timestamp::now())
}

/// Notices of changes in the directory, from a thread that waits for the kernel; the channel closes when the directory is gone.
fn notices(dir: &Path) -> std::io::Result<mpsc::Receiver<()>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let what = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(dir, what)?;
    // One notice that waits says as much as many.
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("manifests".into()).spawn(move || {
        while let Ok(events) = inotify.read_events() {
            let gone = events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_IGNORED));
            if gone || matches!(sender.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Follows the directory until told to stop; `tell` gets all its pods whenever it was read, also when nothing changed.
pub async fn follow(dir: PathBuf, node: String, stop: CancellationToken, mut tell: impl FnMut(Vec<Arc<Pod>>)) {
    let mut known: Vec<Arc<Pod>> = Vec::new();
    let mut notified: Option<mpsc::Receiver<()>> = None;
    loop {
        // Noticing starts before reading, so that nothing falls in between.
        if notified.is_none() {
            notified = notices(&dir).ok();
        }
        match read_dir(&dir, &node, &known) {
            Ok(pods) => {
                known.clone_from(&pods);
                tell(pods);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::debug!(dir = %dir.display(), "the manifest directory does not exist");
                known.clear();
                tell(Vec::new());
            }
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "the manifest directory could not be read"),
        }
        let noticed = async {
            match &mut notified {
                Some(receiver) => receiver.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK) => {}
            notice = noticed => {
                if notice.is_none() {
                    notified = None;
                }
                tokio::time::sleep(SETTLE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {role: x}}\nspec: {containers: [{name: c, image: nginx}]}\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = parse(MANIFEST, "f", "N1", Timestamp::UNIX_EPOCH).expect("a pod");
        assert_eq!((pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref()), (Some("web-n1"), Some("default")));
        let spec = pod.spec.as_ref().expect("a spec");
        assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("N1"), Some("Always")));
        assert_eq!(pod.metadata.uid.as_deref().map(str::len), Some(32));
        let changed = parse(&MANIFEST.replace("nginx", "other"), "f", "N1", Timestamp::UNIX_EPOCH).expect("a pod");
        assert_ne!(pod.metadata.uid, changed.metadata.uid);
        for bad in [
            "",
            "kind: Pod",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}",
        ] {
            assert!(parse(bad, "f", "n", Timestamp::UNIX_EPOCH).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn changes_of_the_directory_are_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let path = dir.path().to_owned();
        let task = tokio::spawn(follow(path, "n".into(), stop.clone(), move |pods| sender.send(pods.len()).expect("the test listens")));
        assert_eq!(told.recv().await, Some(0));
        fs::write(dir.path().join("a.yaml"), MANIFEST).expect("written");
        while told.recv().await.expect("told") != 1 {}
        fs::write(dir.path().join(".hidden"), MANIFEST).expect("written");
        fs::remove_file(dir.path().join("a.yaml")).expect("removed");
        while told.recv().await.expect("told") != 0 {}
        stop.cancel();
        task.await.expect("it ends when told");
    }
}
