//! How pods end.

use super::*;
use crate::{
    config::ShutdownGracePeriod,
    node::shutdown,
    pod::worker::Failure,
    runtime::simulated::behaviour::{Call, Fault, Process},
};
use k8s_openapi::api::core::v1::PodCondition;

async fn running(process: Process) -> World {
    let world = World::new(one(json!({})));
    world.runtime.process("c", process);
    world.apply();
    world.until_state("c", "running").await;
    world
}

/// Proves TRM-02: SIGTERM, and SIGKILL when the grace period is over.
#[tokio::test(start_paused = true)]
async fn a_process_has_its_grace_period_and_no_longer() {
    for (process, grace, gone, end) in
        [(Process::slow(3), 30, 3, "exit c 0"), (Process::deaf(), 30, 30, "exit c 137"), (Process::slow(60), 10, 10, "exit c 137")]
    {
        let mut world = running(process).await;
        world.delete(grace);
        assert_eq!(world.until_gone().await, gone);
        assert_eq!(world.told_of(&["exit"]), [end]);
    }
}

/// Proves TRM-01: whoever asks again with less time gets it.
#[tokio::test(start_paused = true)]
async fn a_shorter_grace_period_counts_while_the_pod_ends() {
    let mut world = running(Process::deaf()).await;
    world.delete(600);
    world.pass(10).await;
    world.delete(5);
    let gone = world.until_gone().await;
    assert_eq!(gone, 15, "five seconds after it was asked for, not ten minutes");

    let mut world = running(Process::deaf()).await;
    world.delete(20);
    world.pass(10).await;
    world.delete(600);
    assert_eq!(world.until_gone().await, 20, "a longer one does not");
}

/// Proves TRM-01, `--force`: the API has forgotten the pod, and its containers end all the same.
#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_from_the_api_is_ended() {
    let world = running(Process::slow(2)).await;
    world.workers.remove("u");
    world.pass(60).await;
    assert_eq!(world.runtime.held(), (0, 0));
    assert_eq!(world.told_of(&["term", "exit"]), ["term c", "exit c 0"]);
}

/// Proves STA-01 for a manifest that is taken away and put back while its pod ends: the pod has the same UID, and runs again.
#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_back_while_it_ends_runs_anew() {
    let world = running(Process::slow(5)).await;
    world.workers.remove("u");
    world.pass(2).await;
    world.apply();
    world.pass(10).await;
    assert_eq!(world.told_of(&["start", "exit"]), ["start c", "exit c 0", "start c"]);
    assert_eq!(state(&world.status(), "c"), "running");
}

/// Proves TRM-05 for a pod that was deleted before it ran, at whatever step it was.
#[tokio::test(start_paused = true)]
async fn a_pod_deleted_while_it_starts_leaves_nothing() {
    for call in [Call::RunSandbox, Call::Pull, Call::Create, Call::Start] {
        let mut world = World::new(one(json!({"imagePullPolicy": "Always"})));
        world.runtime.fault(call, 1, Fault::Hangs);
        world.apply();
        world.pass(5).await;
        world.delete(30);
        let gone = world.until_gone().await;
        assert!(gone <= 6, "{call:?}: it did not wait for the call: {gone}");
        assert_eq!(world.runtime.held(), (0, 0), "{call:?}");
    }
}

/// What never ran did not succeed.
#[tokio::test(start_paused = true)]
async fn a_pod_that_never_ran_ends_as_failed() {
    let mut world = World::new(one(json!({})));
    world.runtime.fault(Call::RunSandbox, 1, Fault::Hangs);
    world.apply();
    world.pass(5).await;
    world.delete(30);
    world.until_gone().await;
    let status = world.status();
    assert_eq!((status.phase.as_deref(), state(&status, "c").as_str()), (Some("Failed"), "exit 137"));

    let world = World::new(json!({"initContainers": [{"name": "i", "image": "i:1"}, {"name": "j", "image": "i:1"}],
        "containers": [{"name": "c", "image": "i:1"}], "restartPolicy": "Never"}));
    world.runtime.process("i", Process::ending(1, 4));
    world.apply();
    world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    world.pass(5).await;
    let status = world.status();
    assert_eq!(["i", "j", "c"].map(|name| state(&status, name)), ["exit 4", "PodInitializing", "PodInitializing"]);
}

/// A pod that the node refuses has a reason, and no containers.
#[tokio::test(start_paused = true)]
async fn a_refused_pod_has_no_containers() {
    let world = World::new(one(json!({})));
    world.workers.fail(Arc::new(world.pod.clone()), Failure::new("OutOfcpu", "Node didn't have enough resource: cpu"));
    world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    world.pass(5).await;
    let status = world.status();
    assert_eq!((status.reason.as_deref(), status.container_statuses), (Some("OutOfcpu"), None));
    assert!(world.told().is_empty());
}

/// A pod that is evicted gets the eviction's grace period, fails with its words, and says that it was disrupted.
#[tokio::test(start_paused = true)]
async fn an_evicted_pod_ends_in_the_evictions_time() {
    let world = running(Process::deaf()).await;
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        ..Default::default()
    };
    let failure =
        Failure { grace: Some(1), condition: Some(condition), ..Failure::new("Evicted", "The node was low on resource: memory. ") };
    let began = world.clock.now();
    world.workers.fail(Arc::new(world.pod.clone()), failure);
    world.workers.ended("u").await;
    world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    let status = world.status();
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some("The node was low on resource: memory. ")));
    let disrupted = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").expect("it says so");
    assert_eq!(disrupted.reason.as_deref(), Some("TerminationByKubelet"));
    assert!(disrupted.last_transition_time.is_some());
    assert!(world.told().last().is_some_and(|last| last.ends_with("exit c 137")));
    assert!(world.clock.now().duration_since(began).as_secs() <= 2, "the pod's own grace period is 30 s");
}

/// At the machine's shutdown pods end in its time, say why, and no other is let in.
#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_pods_and_lets_none_in() {
    let world = running(Process::deaf()).await;
    let began = world.clock.now();
    let period = |priority, shutdown_grace_period_seconds| ShutdownGracePeriod { priority, shutdown_grace_period_seconds };
    shutdown::shut_down(&world.workers, &[period(0, 10), period(2_000_000_000, 5)]).await;
    world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    assert!(world.clock.now().duration_since(began).as_secs() <= 11, "the pod's own grace period is 30 s");
    let status = world.status();
    assert_eq!(status.reason.as_deref(), Some("Terminated"));
    assert_eq!(status.message.as_deref(), Some("Pod was terminated in response to imminent node shutdown."));
    assert!(status.conditions.iter().flatten().any(|c| c.type_ == "DisruptionTarget"));
    let mut late = world.pod.clone();
    late.metadata.uid = Some("late".into());
    let refused = world.workers.node().admit(&late).await.expect_err("the node is shutting down");
    assert_eq!(refused.reason, "NodeShutdown");
}

/// Proves POD-09: a pod that has run its course stays as it ended until it is deleted.
#[tokio::test(start_paused = true)]
async fn a_pod_that_is_done_keeps_its_containers_until_it_is_deleted() {
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    let mut world = World::new(spec);
    world.runtime.process("c", Process::ending(1, 0));
    world.apply();
    world.until("Succeeded", |s| s.phase.as_deref() == Some("Succeeded")).await;
    world.pass(600).await;
    assert_eq!(world.runtime.held(), (1, 1), "its log can still be read");
    world.delete(0);
    world.until_gone().await;
    assert_eq!(world.runtime.held(), (0, 0));
}
