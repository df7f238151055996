//! A kubelet that starts where another was killed.

use super::*;
use crate::runtime::simulated::behaviour::{Command, Process};

/// Proves CMP-10: what runs goes on, is restarted by nobody, and stays ready all along.
#[tokio::test(start_paused = true)]
async fn what_runs_is_adopted_and_stays_ready() {
    let world = World::new(one(json!({
        "startupProbe": {"exec": {"command": ["started"]}, "periodSeconds": 1},
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 10}})));
    world.apply();
    world.until("ready", |s| ready(s, "c")).await;
    let before = world.status();
    world.pass(60).await;
    let world = world.restart_kubelet();
    // The first answer is a long time coming; until then what was known holds.
    world.runtime.command("ready", Command { takes: Duration::from_millis(900), ..Default::default() });
    world.apply();
    world.pass(30).await;
    let reported = world.statuses.reported.lock().clone();
    assert!(!reported.is_empty());
    for (_, status) in reported {
        assert_eq!(status, before, "nothing changed, so nothing is told");
    }
    assert_eq!(world.told_of(&["start", "term"]), ["start c"]);
    assert_eq!(world.when("exec c started").len(), 1, "it has started once and for all");
}

/// Proves CMP-10: a container that ended meanwhile counts as any other.
#[tokio::test(start_paused = true)]
async fn what_ended_meanwhile_is_told_and_restarted() {
    let world = World::new(one(json!({})));
    world.apply();
    world.until_state("c", "running").await;
    let world = world.restart_kubelet();
    world.runtime.exit("c", 7);
    world.apply();
    world.until("again", |s| restarts(s, "c") == 1 && state(s, "c") == "running").await;
    let last = find(&world.status(), "c").and_then(|c| c.last_state.clone()?.terminated).expect("how it ended is known");
    assert_eq!(last.exit_code, 7);
}

/// Proves CMP-10: a pod that was to end when the kubelet was killed ends.
#[tokio::test(start_paused = true)]
async fn a_pod_that_was_ending_goes_on_ending() {
    let mut world = World::new(one(json!({})));
    world.runtime.process("c", Process::slow(40));
    world.apply();
    world.until_state("c", "running").await;
    world.delete(60);
    world.pass(5).await;
    let world = world.restart_kubelet();
    world.apply();
    world.until_gone().await;
    assert_eq!(world.runtime.held(), (0, 0));
    assert_eq!(world.told_of(&["term", "kill", "exit"]), ["term c", "exit c 0"]);
}

/// A pod that had failed for a reason of its own keeps the reason.
#[tokio::test(start_paused = true)]
async fn a_failed_pod_keeps_its_reason() {
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = 5.into();
    let world = World::new(spec);
    world.apply();
    world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    let before = world.status();
    let world = world.restart_kubelet();
    world.apply();
    world.pass(30).await;
    let after = world.status();
    assert_eq!((after.phase, after.reason, after.message), (before.phase, before.reason, before.message));
    assert_eq!(world.told_of(&["start"]).len(), 1);
}
