//! Ending pods before the machine goes down, the important ones last (upstream: `pkg/kubelet/nodeshutdown`).
//!
//! [`shut_down`] is the whole of it, whoever calls for it. On a machine with systemd logind does: [`follow_logind`] holds a lock that delays the shutdown,
//! and hears of it before it happens. Where logind would not wait as long as pods may take, its configuration is given a file that says so.

use crate::{
    config::{KubeletConfiguration, ShutdownGracePeriod},
    container::identity,
    pod::{worker::Failure, workers::Workers},
    systemd::{self, LogindProxy, ManagerProxy},
};
use anyhow::{Context as _, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use std::{fs, path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use zbus::OwnedFd;

/// The priority from which on pods are critical (upstream: `SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;
/// The words that pods end with.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// How soon logind is asked again after it went away.
const RETRY: Duration = Duration::from_secs(5);
/// Where logind reads what was added to its configuration, and the file of it that is ours.
const LOGIND_DIRECTORY: &str = "/etc/systemd/logind.conf.d";
const LOGIND_FILE: &str = "99-kubelet.conf";
/// How long logind may take to read it.
const RELOAD: Duration = Duration::from_secs(5);

/// How long pods get by priority, the lowest first. Empty: nothing is done at a shutdown.
pub fn periods(config: &KubeletConfiguration) -> Vec<ShutdownGracePeriod> {
    let mut own = config.shutdown_grace_period_by_pod_priority.clone();
    if !own.is_empty() {
        own.sort_by_key(|period| period.priority);
        return own;
    }
    let seconds = |duration: crate::config::GoDuration| i64::try_from(duration.get().as_secs()).unwrap_or(i64::MAX);
    let (all, critical) = (seconds(config.shutdown_grace_period), seconds(config.shutdown_grace_period_critical_pods));
    if all == 0 {
        return Vec::new();
    }
    vec![
        ShutdownGracePeriod { priority: 0, shutdown_grace_period_seconds: all - critical },
        ShutdownGracePeriod { priority: CRITICAL, shutdown_grace_period_seconds: critical },
    ]
}

/// The pods that go together, and how long they get, in the order in which they go. A pod below all priorities goes with the lowest.
fn groups(pods: &[Arc<Pod>], periods: &[ShutdownGracePeriod]) -> Vec<(u64, Vec<Arc<Pod>>)> {
    let mut groups: Vec<(u64, Vec<Arc<Pod>>)> =
        periods.iter().map(|p| (u64::try_from(p.shutdown_grace_period_seconds).unwrap_or(0), Vec::new())).collect();
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        let place = periods.partition_point(|p| p.priority <= priority).saturating_sub(1);
        if let Some((_, members)) = groups.get_mut(place) {
            members.push(pod.clone());
        }
    }
    groups
}

/// Takes no more pods, says that the node is not ready, and ends all that runs, group by group.
pub async fn shut_down(workers: &Arc<Workers>, periods: &[ShutdownGracePeriod]) {
    let node = workers.node();
    node.vitals.shutting_down.send_replace(true);
    node.admission.close(Some(("NodeShutdown", "Pod was rejected as the node is shutting down.".into())));
    for (seconds, pods) in groups(&workers.active(), periods) {
        let ending = pods.iter().map(|pod| async move {
            let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
            let condition = PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("TerminationByKubelet".into()),
                message: Some(MESSAGE.into()),
                ..Default::default()
            };
            let grace = Some(own.map_or(seconds, |own| own.min(seconds)));
            workers.fail(pod.clone(), Failure { grace, condition: Some(condition), ..Failure::new("Terminated", MESSAGE) });
            workers.ended(identity::uid(pod)).await;
        });
        // Whoever has not ended by then is the next group's fellow sufferer, not its obstacle.
        if tokio::time::timeout(Duration::from_secs(seconds), futures::future::join_all(ending)).await.is_err() {
            tracing::warn!(seconds, "pods have not ended in their part of the shutdown's time");
        }
    }
}

/// The shutdown was called off.
fn resume(workers: &Workers) {
    let node = workers.node();
    node.admission.close(None);
    node.vitals.shutting_down.send_replace(false);
}

/// Holds logind's lock and acts on its word, until told to stop. Without logind nothing announces a shutdown.
pub async fn follow_logind(workers: Arc<Workers>, periods: Vec<ShutdownGracePeriod>, stop: CancellationToken) {
    if periods.is_empty() {
        return;
    }
    if !Path::new("/run/systemd/system").exists() || !Path::new("/run/dbus/system_bus_socket").exists() {
        tracing::warn!("no systemd-logind here: pods are not ended in good order when the machine shuts down");
        return;
    }
    while !stop.is_cancelled() {
        let followed = tokio::select! {
            () = stop.cancelled() => return,
            followed = follow(&workers, &periods) => followed,
        };
        if let Err(error) = followed {
            tracing::warn!(error = format!("{error:#}"), "logind cannot be followed; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// A lock that lasts as long as it is open.
async fn inhibit(logind: &LogindProxy<'_>) -> zbus::Result<OwnedFd> {
    logind.inhibit("shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay").await
}

async fn follow(workers: &Arc<Workers>, periods: &[ShutdownGracePeriod]) -> anyhow::Result<()> {
    let connection = systemd::connect().await?;
    let logind = LogindProxy::new(&connection).await?;
    ask_for_time(&logind, &ManagerProxy::new(&connection).await?, wanted(periods)).await?;
    let mut announced = logind.receive_prepare_for_shutdown().await?;
    let mut lock = Some(inhibit(&logind).await?);
    while let Some(signal) = announced.next().await {
        if signal.args()?.start {
            tracing::info!("the machine is about to shut down: ending pods");
            shut_down(workers, periods).await;
            // The machine may go down now.
            drop(lock.take());
        } else {
            tracing::info!("the shutdown was called off");
            resume(workers);
            lock = Some(inhibit(&logind).await?);
        }
    }
    bail!("the connection was closed")
}

/// How long all pods together may take.
fn wanted(periods: &[ShutdownGracePeriod]) -> Duration {
    Duration::from_secs(periods.iter().filter_map(|period| u64::try_from(period.shutdown_grace_period_seconds).ok()).sum())
}

/// Sees to it that logind waits so long for a lock.
async fn ask_for_time(logind: &LogindProxy<'_>, manager: &ManagerProxy<'_>, wanted: Duration) -> anyhow::Result<()> {
    let enough = async || anyhow::Ok(Duration::from_micros(logind.inhibit_delay_max().await?) >= wanted);
    if enough().await? {
        return Ok(());
    }
    let directory = Path::new(LOGIND_DIRECTORY);
    let text = format!("# Written by kubelet: pods may take as long as this to end.\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs());
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(directory.join(LOGIND_FILE), text))
        .context("telling logind how long pods may take")?;
    manager.kill_unit("systemd-logind.service", "all", nix::libc::SIGHUP).await?;
    let read = async {
        while !enough().await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    let read = tokio::time::timeout(RELOAD, read).await;
    ensure!(read.is_ok(), "logind's InhibitDelayMaxSec stays less than the requested ShutdownGracePeriod ({} s)", wanted.as_secs());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(value: Value) -> KubeletConfiguration {
        serde_json::from_value(value).expect("it can be read")
    }

    fn pod(name: &str, priority: Option<i32>) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": []}})).expect("a pod"),
        )
    }

    fn grouped(config: &KubeletConfiguration) -> Vec<(u64, String)> {
        let pods = [pod("low", Some(-5)), pod("plain", None), pod("dear", Some(1000)), pod("critical", Some(CRITICAL + 1))];
        let names = |pods: Vec<Arc<Pod>>| pods.iter().map(|p| identity::name(p).to_owned()).collect::<Vec<_>>().join(" ");
        groups(&pods, &periods(config)).into_iter().map(|(seconds, pods)| (seconds, names(pods))).collect()
    }

    #[test]
    fn critical_pods_go_last_and_have_their_part_of_the_time() {
        let whole = config(json!({"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"}));
        assert_eq!(grouped(&whole), [(20, "low plain dear".into()), (10, "critical".into())]);
        let own = json!({"shutdownGracePeriodByPodPriority": [{"priority": 1000, "shutdownGracePeriodSeconds": 5}, {"priority": 0, "shutdownGracePeriodSeconds": 7}]});
        assert_eq!(grouped(&config(own)), [(7, "low plain".into()), (5, "dear critical".into())]);
        assert!(grouped(&config(json!({}))).is_empty());
        assert_eq!(wanted(&periods(&whole)), Duration::from_secs(30));
    }
}
