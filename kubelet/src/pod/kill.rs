//! Ending containers: `preStop`, then the stop signal, then SIGKILL, all inside the grace period (upstream:
//! `kuberuntime_container.go`, `killContainer` and `killContainersWithSyncResult`).

use super::{
    actions::{KillReason, Role},
    hooks,
    observed::{Instance, Observed},
    restart::is_sidecar,
};
use crate::{container::identity, node::Node, recorder::About, runtime};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use std::{collections::HashSet, time::Duration};
use tokio::{sync::watch, time::Instant};

/// What a container gets to end at least, however long its `preStop` took (upstream: `minimumGracePeriodInSeconds`).
const MINIMUM: Duration = Duration::from_secs(2);

/// The container of that name, of whatever list; ephemeral ones as ordinary ones.
pub fn definition(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    let spec = pod.spec.as_ref()?;
    let named = |list: &[Container]| list.iter().find(|c| c.name == name).cloned();
    named(&spec.containers)
        .map(|c| (Role::App, c))
        .or_else(|| named(spec.init_containers.as_deref().unwrap_or_default()).map(|c| (Role::Init, c)))
        .or_else(|| spec.ephemeral_containers.iter().flatten().find(|c| c.name == name).map(|c| (Role::Ephemeral, ephemeral(c))))
}

/// An ephemeral container as the container it is once it runs. The two types have the same fields but for the target.
pub fn ephemeral(container: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    let value = serde_json::to_value(container);
    // Every field of the one that the other lacks is ignored, so this cannot fail; a default would be a container without an image.
    value.and_then(serde_json::from_value).unwrap_or_else(|_| Container { name: container.name.clone(), ..Default::default() })
}

/// What events about a container refer to.
pub fn about(pod: &Pod, role: Role, name: &str) -> About {
    let list = match role {
        Role::Init => "initContainers",
        Role::App => "containers",
        Role::Ephemeral => "ephemeralContainers",
    };
    About::container(pod, list, name)
}

/// A probe's own grace period, where a probe is the reason.
fn probe_grace(container: &Container, reason: Option<KillReason>) -> Option<i64> {
    let probe: Option<&Probe> = match reason? {
        KillReason::Liveness => container.liveness_probe.as_ref(),
        KillReason::Startup => container.startup_probe.as_ref(),
        KillReason::Unknown | KillReason::Changed => None,
    };
    probe?.termination_grace_period_seconds
}

/// How long a container has: the caller's word, then the deletion's, the pod's; a probe that failed may have its own for the case.
fn grace_period(pod: &Pod, container: Option<&Container>, instance: &Instance, reason: Option<KillReason>, over: Option<u64>) -> Duration {
    let spec = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let seconds = match (over, pod.metadata.deletion_grace_period_seconds) {
        (Some(seconds), _) => seconds,
        (None, Some(seconds)) => u64::try_from(seconds).unwrap_or(0),
        (None, None) => {
            let own = container.and_then(|c| probe_grace(c, reason)).or(spec).and_then(|s| u64::try_from(s).ok());
            own.or_else(|| identity::recorded_grace(&instance.status)).unwrap_or(30)
        }
    };
    Duration::from_secs(seconds)
}

/// Ends one container. `message` is for the event; `over` replaces the pod's grace period.
pub async fn kill_container(
    node: &Node,
    pod: &Pod,
    instance: &Instance,
    message: &str,
    reason: Option<KillReason>,
    over: Option<u64>,
) -> runtime::Result<()> {
    kill_in_turn(node, pod, instance, (message, reason), over, std::future::ready(())).await
}

/// The same, where the signal waits for `turn`: not the hook, and not beyond the grace period.
async fn kill_in_turn(
    node: &Node,
    pod: &Pod,
    instance: &Instance,
    (message, reason): (&str, Option<KillReason>),
    over: Option<u64>,
    turn: impl Future<Output = ()>,
) -> runtime::Result<()> {
    let known = definition(pod, instance.name());
    let role = known.as_ref().map_or(Role::App, |(role, _)| *role);
    let container = known.map(|(_, container)| container);
    let mut grace = grace_period(pod, container.as_ref(), instance, reason, over);
    if !instance.running() {
        return node.runtime.stop_container(&instance.status.id, Duration::ZERO).await;
    }
    let text = if message.is_empty() { format!("Stopping container {}", instance.name()) } else { message.to_owned() };
    let about = about(pod, role, instance.name());
    node.events.normal(&about, "Killing", text);
    let began = Instant::now();
    let end = grace;
    let pre_stop = container.as_ref().and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref().map(|hook| (c, hook)));
    if let Some((container, hook)) = pre_stop
        && !grace.is_zero()
    {
        let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default();
        match tokio::time::timeout(grace, hooks::run(node, hook, container, &instance.status.id, &ip)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(pod = %identity::described(pod), container = instance.name(), %error, "preStop hook failed");
                node.events.warning(&about, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => {
                tracing::warn!(pod = %identity::described(pod), container = instance.name(), "preStop hook outlasted the grace period")
            }
        }
        grace = end.saturating_sub(began.elapsed());
    }
    // A turn that does not come in time is taken.
    drop(tokio::time::timeout(grace, turn).await);
    grace = end.saturating_sub(began.elapsed());
    // A forced deletion gives nothing; everybody else a moment for the signal to be heard.
    if over != Some(0) {
        grace = grace.max(MINIMUM);
    }
    node.runtime.stop_container(&instance.status.id, grace).await
}

/// Ends all containers of a pod, then its sandboxes. Hooks run at once; the signal of a sidecar waits until all app containers and the
/// sidecars that started after it have ended. What fails does not keep the rest from ending; the first error is answered.
pub async fn kill_pod(node: &Node, pod: &Pod, observed: &Observed, over: Option<u64>) -> runtime::Result<()> {
    let sidecars = sidecar_order(pod);
    let running = || observed.instances.iter().filter(|i| i.running()).map(|i| i.name().to_owned());
    let (left, _) = watch::channel(running().collect::<HashSet<String>>());
    let all = observed.instances.iter().map(|instance| {
        let (left, name) = (&left, instance.name());
        let before = waits_for(pod, &sidecars, name);
        let mut watched = left.subscribe();
        async move {
            let turn = async {
                // The sender lives as long as this.
                drop(watched.wait_for(|left| left.is_disjoint(&before)).await);
            };
            let ended = kill_in_turn(node, pod, instance, ("", None), over, turn).await;
            if instance.running() {
                left.send_if_modified(|left| left.remove(name));
            }
            ended
        }
    });
    let mut results = futures::future::join_all(all).await;
    for sandbox in &observed.sandboxes {
        results.push(node.runtime.stop_sandbox(&sandbox.id).await);
    }
    results.into_iter().collect()
}

/// Whom a container waits for before it is signalled: nobody, unless it is a sidecar.
fn waits_for(pod: &Pod, sidecars: &[String], name: &str) -> HashSet<String> {
    let Some(place) = sidecars.iter().position(|s| s == name) else { return HashSet::new() };
    let apps = pod.spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone());
    apps.chain(sidecars[..place].iter().cloned()).collect()
}

/// The names of sidecars, the last first.
fn sidecar_order(pod: &Pod) -> Vec<String> {
    let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let mut names: Vec<String> = init.filter(|c| is_sidecar(c)).map(|c| c.name.clone()).collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_grace_period_is_the_nearest_word_on_it() {
        let instance = Instance { sandbox: String::new(), status: k8s_cri::v1::ContainerStatus::default() };
        let pod = |deletion: Option<i64>| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"deletionGracePeriodSeconds": deletion}, "spec": {"terminationGracePeriodSeconds": 20,
                "containers": [{"name": "c", "livenessProbe": {"terminationGracePeriodSeconds": 3}}]}}),
            )
            .expect("a pod")
        };
        let container = pod(None).spec.expect("a spec").containers.remove(0);
        let cases = [
            (None, None, None, 20),
            (Some(7), None, None, 7),
            (None, Some(KillReason::Liveness), None, 3),
            (None, Some(KillReason::Startup), None, 20),
            (Some(7), Some(KillReason::Liveness), None, 7),
            (Some(7), None, Some(0), 0),
        ];
        for (deletion, reason, over, want) in cases {
            let got = grace_period(&pod(deletion), Some(&container), &instance, reason, over);
            assert_eq!(got, Duration::from_secs(want), "{deletion:?} {reason:?} {over:?}");
        }
    }
}
