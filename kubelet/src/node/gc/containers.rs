//! Dead containers and sandboxes, and the directories, logs and cgroups of pods that are gone (upstream: `kuberuntime_gc.go`, `kubelet_volumes.go`).
//!
//! Workers take away what their pods had. What is left is of pods whose end nobody saw: the kubelet was not running, or was killed half way. So there is a
//! pass at the start and a minute after something ended, and none while nothing happens; upstream makes one every minute.

use crate::{
    container::identity::{CONTAINER_NAME, POD_UID},
    csi::Csi,
    node::{Node, Places},
    pod::workers::Workers,
    volume::setup,
};
use k8s_cri::v1::{Container, ContainerState, PodSandbox, PodSandboxState};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long after something ended there is a pass (upstream: `ContainerGCPeriod`).
const AFTER: Duration = Duration::from_secs(60);
/// How many dead instances of a container stay for their logs and their last state (upstream: `maximum-dead-containers-per-container`).
const KEPT: usize = 1;

/// What is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// What nobody can ask for any more.
    Superfluous,
    /// Whatever has ended for good, logs that somebody may still want to read among it: room is short.
    AllUnused,
}

/// Ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers, to be removed first.
    pub containers: Vec<String>,
    /// Sandboxes.
    pub sandboxes: Vec<String>,
}

/// What is to go. `pods`: those that the node knows, and whether they have run their course.
pub fn plan(containers: &[Container], sandboxes: &[PodSandbox], pods: &HashMap<String, bool>, which: Which) -> Plan {
    let uid = |labels: &HashMap<String, String>| labels.get(POD_UID).cloned();
    // Whatever is of no pod at all was made by somebody else.
    let all_of = |uid: &str| pods.get(uid).is_none_or(|over| *over && which == Which::AllUnused);
    let mut plan = Plan::default();
    let mut dead: HashMap<(String, String), Vec<&Container>> = HashMap::new();
    for container in containers.iter().filter(|c| c.state != ContainerState::ContainerRunning as i32) {
        let Some(uid) = uid(&container.labels) else { continue };
        dead.entry((uid, container.labels.get(CONTAINER_NAME).cloned().unwrap_or_default())).or_default().push(container);
    }
    for ((uid, _), mut instances) in dead {
        instances.sort_by_key(|c| std::cmp::Reverse(c.created_at));
        let keep = if all_of(&uid) { 0 } else { KEPT };
        plan.containers.extend(instances.into_iter().skip(keep).map(|c| c.id.clone()));
    }
    let gone: HashSet<&String> = plan.containers.iter().collect();
    let held: HashSet<&String> = containers.iter().filter(|c| !gone.contains(&c.id)).map(|c| &c.pod_sandbox_id).collect();
    let mut by_pod: HashMap<String, Vec<&PodSandbox>> = HashMap::new();
    for sandbox in sandboxes {
        if let Some(uid) = uid(&sandbox.labels) {
            by_pod.entry(uid).or_default().push(sandbox);
        }
    }
    for (uid, mut list) in by_pod {
        list.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        // The newest is the pod's, dead or not, as long as there is a pod.
        let keep = usize::from(!all_of(&uid));
        let dead = list.into_iter().skip(keep).filter(|s| s.state != PodSandboxState::SandboxReady as i32 && !held.contains(&s.id));
        plan.sandboxes.extend(dead.map(|s| s.id.clone()));
    }
    plan.containers.sort();
    plan.sandboxes.sort();
    plan
}

/// One pass over the runtime.
pub async fn collect(workers: &Workers, which: Which) -> crate::runtime::Result<()> {
    let runtime = &workers.node().runtime;
    let (containers, sandboxes) = tokio::try_join!(runtime.list_containers(&[]), runtime.list_sandboxes(&[]))?;
    let plan = plan(&containers, &sandboxes, &workers.known(), which);
    for id in &plan.containers {
        tracing::info!(container = %id, "removing a dead container");
        runtime.remove_container(id).await?;
    }
    for id in &plan.sandboxes {
        tracing::info!(sandbox = %id, "removing a dead sandbox");
        runtime.remove_sandbox(id).await?;
    }
    Ok(())
}

/// Passes at the start, once all pods are known, and whenever something has ended, until told to stop.
pub async fn keep(workers: Arc<Workers>, mut ready: watch::Receiver<bool>, stop: CancellationToken) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    loop {
        if let Err(error) = collect(&workers, Which::Superfluous).await {
            tracing::warn!(%error, "dead containers could not be removed");
        }
        if let Err(error) = sweep(&workers).await {
            tracing::warn!(%error, "what is left of pods could not be removed");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = workers.node().vitals.housekeeping.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AFTER) => {}
        }
    }
}

/// The UIDs that something on the node is named after, of pods that nobody knows. `found`: pairs of a UID and what bears it.
fn orphans(found: Vec<(String, PathBuf)>, known: &HashSet<String>) -> Vec<(String, PathBuf)> {
    found.into_iter().filter(|(uid, _)| !uid.is_empty() && !known.contains(uid)).collect()
}

fn list(dir: &std::path::Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| Some((e.file_name().to_str()?.to_owned(), e.path()))).collect()
}

/// Removes directories, logs and cgroups of pods that neither the sources nor the runtime know.
async fn sweep(workers: &Workers) -> anyhow::Result<()> {
    let node: &Node = workers.node();
    let Some(places) = &node.places else { return Ok(()) };
    // What there is comes before who is known: a pod that appears in between is then known, and nothing of it was found.
    let found = Found::on(places);
    let cgroups = node.cgroups.as_ref().map(|c| c.pods_with_cgroups()).transpose()?.unwrap_or_default();
    let mut known: HashSet<String> = workers.known().into_keys().collect();
    let (containers, sandboxes) = tokio::try_join!(node.runtime.list_containers(&[]), node.runtime.list_sandboxes(&[]))?;
    let labels = containers.iter().map(|c| &c.labels).chain(sandboxes.iter().map(|s| &s.labels));
    known.extend(labels.filter_map(|l| l.get(POD_UID).cloned()));
    node.users.retain(&known);
    found.remove_orphans(node.csi.as_ref(), places, &known).await?;
    for uid in cgroups.iter().filter(|uid| !known.contains(*uid)) {
        if let Some(all) = &node.cgroups {
            all.remove_by_uid(uid).await?;
        }
    }
    Ok(())
}

/// What is named after pods: UIDs and paths.
struct Found {
    directories: Vec<(String, PathBuf)>,
    logs: Vec<(String, PathBuf)>,
}

impl Found {
    fn on(places: &Places) -> Self {
        // NAMESPACE_NAME_UID: neither a namespace nor a name has underscores in it.
        let logs = list(&places.logs).into_iter().filter(|(name, _)| name.split('_').count() == 3);
        let logs = logs.map(|(name, path)| (name.rsplit('_').next().unwrap_or_default().to_owned(), path)).collect();
        Found { directories: list(&places.root.join("pods")), logs }
    }

    async fn remove_orphans(self, csi: Option<&Arc<Csi>>, places: &Places, known: &HashSet<String>) -> io::Result<()> {
        for (uid, path) in orphans(self.directories, known) {
            tracing::info!(path = %path.display(), "removing what is left of a pod that is gone");
            if let Some(csi) = csi
                && let Err(error) = csi.tear_down(&uid).await
            {
                // Its driver may come later.
                tracing::warn!(path = %path.display(), %error, "volumes of drivers could not be taken down");
                continue;
            }
            setup::tear_down(&places.root, &uid)?;
        }
        for (_, path) in orphans(self.logs, known) {
            tracing::info!(path = %path.display(), "removing the logs of a pod that is gone");
            fs::remove_dir_all(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::identity;

    fn log_name(uid: &str) -> String {
        identity::log_directory("ns", "p", uid)
    }

    fn labels(uid: &str, name: &str) -> HashMap<String, String> {
        HashMap::from([(POD_UID.to_owned(), uid.to_owned()), (CONTAINER_NAME.to_owned(), name.to_owned())])
    }

    fn container(id: &str, uid: &str, sandbox: &str, running: bool, created_at: i64) -> Container {
        let state = if running { ContainerState::ContainerRunning } else { ContainerState::ContainerExited };
        Container {
            id: id.into(),
            pod_sandbox_id: sandbox.into(),
            state: state as i32,
            created_at,
            labels: labels(uid, "c"),
            ..Default::default()
        }
    }

    fn sandbox(id: &str, uid: &str, ready: bool, created_at: i64) -> PodSandbox {
        let state = if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        PodSandbox { id: id.into(), state: state as i32, created_at, labels: labels(uid, ""), ..Default::default() }
    }

    #[test]
    fn one_dead_instance_stays_and_all_of_pods_that_are_gone_go() {
        let containers = [
            container("a0", "a", "sa0", false, 1),
            container("a1", "a", "sa1", false, 2),
            container("a2", "a", "sa1", true, 3),
            container("gone", "b", "sb", false, 1),
            container("over", "c", "sc", false, 1),
        ];
        let sandboxes =
            [sandbox("sa0", "a", false, 1), sandbox("sa1", "a", true, 2), sandbox("sb", "b", false, 1), sandbox("sc", "c", false, 1)];
        let pods = HashMap::from([("a".to_owned(), false), ("c".to_owned(), true)]);
        let ids = |plan: Plan| (plan.containers.join(" "), plan.sandboxes.join(" "));
        assert_eq!(ids(plan(&containers, &sandboxes, &pods, Which::Superfluous)), ("a0 gone".into(), "sa0 sb".into()));
        assert_eq!(ids(plan(&containers, &sandboxes, &pods, Which::AllUnused)), ("a0 gone over".into(), "sa0 sb sc".into()));
    }

    #[tokio::test]
    async fn directories_and_logs_of_pods_that_are_gone_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let places = Places { root: dir.path().join("root"), logs: dir.path().join("logs") };
        for uid in ["known", "gone"] {
            fs::create_dir_all(places.root.join("pods").join(uid).join("volumes")).expect("made");
            fs::create_dir_all(places.logs.join(log_name(uid)).join("c")).expect("made");
        }
        fs::create_dir_all(places.logs.join("somebody's own")).expect("made");
        Found::on(&places).remove_orphans(None, &places, &HashSet::from(["known".to_owned()])).await.expect("swept");
        let names = |path: &PathBuf| {
            let mut names: Vec<_> = list(path).into_iter().map(|(name, _)| name).collect();
            names.sort();
            names
        };
        assert_eq!(names(&places.root.join("pods")), ["known"]);
        assert_eq!(names(&places.logs), [log_name("known"), "somebody's own".to_owned()]);
    }
}
