//! Keeping logs small: a container's log that has grown beyond the limit is moved aside and the runtime opens a new one; old ones are compressed by nobody,
//! and removed beyond the number to keep (upstream: `pkg/kubelet/logs/container_log_manager.go`, which also compresses).

use super::workers::Workers;
use crate::container::resources;
use k8s_cri::v1::ContainerState;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often sizes are looked at (upstream: `containerLogMonitorInterval`).
const LOOK: Duration = Duration::from_secs(10);
/// What a log may grow to where the configuration's word is no amount.
const DEFAULT_SIZE: u64 = 10 << 20;

/// Rotates until told to stop.
pub async fn keep(workers: Arc<Workers>, max_size: String, max_files: usize, stop: CancellationToken) {
    let max = resources::whole(&Quantity(max_size)).and_then(|n| u64::try_from(n).ok()).unwrap_or(DEFAULT_SIZE);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(places) = &workers.node().places else { return };
        for log in oversized(&places.logs, max) {
            if let Err(error) = rotate(&workers, &log, max_files).await {
                tracing::warn!(log = %log.display(), %error, "the log could not be rotated");
            }
        }
    }
}

/// The logs in `ROOT/POD/CONTAINER/N.log` that are too large. Directories that vanish meanwhile are skipped.
fn oversized(root: &Path, max: u64) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> { fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default() };
    let pods = list(root);
    let files = pods.iter().flat_map(|pod| list(pod)).flat_map(|container| list(&container));
    files.filter(|f| f.extension().is_some_and(|e| e == "log") && fs::metadata(f).is_ok_and(|m| m.len() > max)).collect()
}

async fn rotate(workers: &Workers, log: &Path, max_files: usize) -> anyhow::Result<()> {
    let runtime = &workers.node().runtime;
    for container in runtime.list_containers(&[]).await? {
        if container.state != ContainerState::ContainerRunning as i32 {
            continue;
        }
        let status = runtime.container_status(&container.id).await?;
        if Path::new(&status.log_path) == log {
            let stamp = workers.node().clock.now().strftime("%Y%m%d-%H%M%S").to_string();
            fs::rename(log, with_suffix(log, &stamp))?;
            runtime.reopen_log(&container.id).await?;
            remove_oldest(log, max_files)?;
            return Ok(());
        }
    }
    Ok(())
}

fn with_suffix(log: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}.{suffix}", log.display()))
}

/// The rotated logs of a log, oldest first: the names hold the times.
pub fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = log.file_name().map(|n| format!("{}.", n.to_string_lossy())).unwrap_or_default();
    let dir = log.parent().unwrap_or(log);
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
        .collect();
    found.sort();
    Ok(found)
}

/// Keeps `max_files` in all, the current one included.
fn remove_oldest(log: &Path, max_files: usize) -> io::Result<()> {
    let old = rotated(log)?;
    let keep = max_files.saturating_sub(1);
    for path in old.iter().take(old.len().saturating_sub(keep)) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logs_are_found_and_old_ones_removed() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("ns_pod_uid/c");
        fs::create_dir_all(&dir).expect("made");
        let log = dir.join("0.log");
        fs::write(&log, vec![b'x'; 100]).expect("written");
        assert_eq!(oversized(root.path(), 99), std::slice::from_ref(&log));
        assert!(oversized(root.path(), 100).is_empty());
        for stamp in ["20260101-000001", "20260101-000002", "20260101-000003"] {
            fs::write(with_suffix(&log, stamp), "").expect("written");
        }
        remove_oldest(&log, 3).expect("removed");
        assert_eq!(rotated(&log).expect("listed"), [with_suffix(&log, "20260101-000002"), with_suffix(&log, "20260101-000003")]);
    }
}
