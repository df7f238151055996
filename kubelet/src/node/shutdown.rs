//! Ending pods before the machine goes down, the important ones last (upstream: `pkg/kubelet/nodeshutdown`).
//!
//! [`shut_down`] is the whole of it, whoever calls for it. On a machine with systemd logind does: [`follow_logind`] holds a lock that delays the shutdown,
//! and hears of it before it happens. Both go through systemd's own programs, `systemd-inhibit` and `busctl`: one lock and one signal do not carry a D-Bus
//! library. Left out: raising logind's `InhibitDelayMaxSec` where it is shorter than the grace period; a warning says so.

use crate::{
    config::{KubeletConfiguration, ShutdownGracePeriod},
    container::identity,
    pod::{worker::Failure, workers::Workers},
};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::Value;
use std::{path::Path, process::Stdio, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

/// The priority from which on pods are critical (upstream: `SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;
/// The words that pods end with.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// How soon logind is asked again after it went away.
const RETRY: Duration = Duration::from_secs(5);

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
            tracing::warn!(%error, "logind cannot be followed; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// A lock that lasts as long as the process that holds it.
fn inhibit() -> std::io::Result<Child> {
    let arguments =
        ["--what=shutdown", "--mode=delay", "--who=kubelet", "--why=Kubelet needs time to handle node shutdown", "sleep", "infinity"];
    Command::new("systemd-inhibit").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()
}

async fn follow(workers: &Arc<Workers>, periods: &[ShutdownGracePeriod]) -> std::io::Result<()> {
    let mut lock = Some(inhibit()?);
    let rule = "type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown'";
    let mut monitor = Command::new("busctl")
        .args(["--system", "--json=short", "--match", rule, "monitor"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let Some(output) = monitor.stdout.take() else { return Ok(()) };
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        match announced(&line) {
            Some(true) => {
                tracing::info!("the machine is about to shut down: ending pods");
                shut_down(workers, periods).await;
                // The machine may go down now.
                drop(lock.take());
            }
            Some(false) => {
                tracing::info!("the shutdown was called off");
                resume(workers);
                lock = Some(inhibit()?);
            }
            None => {}
        }
    }
    Ok(())
}

/// Whether a line of `busctl monitor` announces a shutdown, or that there is none after all.
fn announced(line: &str) -> Option<bool> {
    let message: Value = serde_json::from_str(line).ok()?;
    let ours = message.get("member")? == "PrepareForShutdown" && message.get("interface")? == "org.freedesktop.login1.Manager";
    message.get("payload")?.get("data")?.get(0)?.as_bool().filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    }

    #[test]
    fn logind_is_understood() {
        let line = |data: bool| {
            json!({"type": "signal", "interface": "org.freedesktop.login1.Manager", "member": "PrepareForShutdown", "payload": {"type": "b", "data": [data]}})
                .to_string()
        };
        assert_eq!(
            [announced(&line(true)), announced(&line(false)), announced("Monitoring bus message stream.")],
            [Some(true), Some(false), None]
        );
        assert_eq!(announced(&line(true).replace("PrepareForShutdown", "PrepareForSleep")), None);
    }
}
