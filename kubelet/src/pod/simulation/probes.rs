//! Probes: which are asked when, and what follows.

use super::*;
use crate::runtime::simulated::behaviour::{Command, Process};

fn failing() -> Command {
    Command { code: 1, output: "no".into(), ..Default::default() }
}

/// Proves PRB-05, and the periods and thresholds of PRB-02.
#[tokio::test(start_paused = true)]
async fn the_startup_probe_holds_the_others_back() {
    let world = World::new(one(json!({
        "startupProbe": {"exec": {"command": ["started"]}, "periodSeconds": 2, "failureThreshold": 100},
        "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1},
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1}})));
    world.runtime.command("started", failing());
    world.apply();
    world.pass(20).await;
    assert!(world.when("exec c alive").is_empty() && world.when("exec c ready").is_empty());
    assert!((9..=11).contains(&world.when("exec c started").len()));
    assert_eq!(find(&world.status(), "c").and_then(|c| c.started), Some(false));
    world.runtime.command("started", Command::default());
    world.until("ready", |s| ready(s, "c")).await;
    world.pass(10).await;
    let asked = world.when("exec c started").len();
    assert!(world.when("exec c alive").len() >= 9);
    world.pass(10).await;
    assert_eq!(world.when("exec c started").len(), asked, "it is not asked again");
}

/// Proves PRB-05: what has started is asked at once whether it is ready, however long the readiness probe's period is.
#[tokio::test(start_paused = true)]
async fn what_has_started_is_ready_at_once() {
    let world = World::new(one(json!({
        "startupProbe": {"exec": {"command": ["started"]}, "periodSeconds": 5, "failureThreshold": 100},
        "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 600}})));
    world.runtime.command("started", failing());
    world.apply();
    world.pass(22).await;
    world.runtime.command("started", Command::default());
    let at = world.until("ready", |s| ready(s, "c")).await;
    assert_eq!((at, world.when("exec c ready")), (25, vec![25]));
}

/// Proves PRB-05: its failure kills the container, with the probe's own grace period.
#[tokio::test(start_paused = true)]
async fn a_failed_startup_probe_kills() {
    let mut world = World::new(one(json!({"startupProbe":
        {"exec": {"command": ["started"]}, "periodSeconds": 1, "failureThreshold": 3, "terminationGracePeriodSeconds": 4}})));
    world.runtime.command("started", failing());
    world.runtime.process("c", Process::deaf());
    world.apply();
    world.until("again", |s| restarts(s, "c") == 1).await;
    let (term, kill) = (world.when("term c")[0], world.when("kill c")[0]);
    assert_eq!((term, kill - term), (2, 4));
    let events = world.events();
    assert!(events.contains(&"Killing Container c failed startup probe, will be restarted".to_owned()), "{events:#?}");
    let failures = events.iter().take_while(|e| !e.starts_with("Killing")).filter(|e| *e == "Unhealthy Startup probe failed: no");
    assert_eq!(failures.count(), 3);
}

/// Proves PRB-03.
#[tokio::test(start_paused = true)]
async fn a_failed_liveness_probe_kills_after_its_threshold() {
    let mut world = World::new(one(json!({"livenessProbe":
        {"exec": {"command": ["alive"]}, "initialDelaySeconds": 10, "periodSeconds": 5, "failureThreshold": 2}})));
    world.apply();
    world.until_state("c", "running").await;
    world.pass(22).await;
    assert_eq!(world.when("exec c alive"), [10, 15, 20]);
    world.runtime.command("alive", failing());
    world.until("again", |s| restarts(s, "c") == 1 && state(s, "c") == "running").await;
    assert_eq!(world.when("term c"), [30], "the second failure in a row");
    let events = world.events();
    assert!(events.contains(&"Killing Container c failed liveness probe, will be restarted".to_owned()), "{events:#?}");
    assert!(events.contains(&"Unhealthy Liveness probe failed: no".to_owned()), "{events:#?}");
}

/// Proves PRB-04: readiness goes and comes, and never restarts anything.
#[tokio::test(start_paused = true)]
async fn readiness_flips_and_restarts_nothing() {
    let world = World::new(one(json!({"readinessProbe":
        {"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 2, "successThreshold": 2}})));
    world.apply();
    let is_ready = |s: &PodStatus| s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    world.until("ready", is_ready).await;
    world.runtime.command("ready", failing());
    world.until("unready", |s| !is_ready(s)).await;
    world.runtime.command("ready", Command::default());
    world.until("ready again", is_ready).await;
    assert_eq!((restarts(&world.status(), "c"), world.told_of(&["term"]).len()), (0, 0));
}

/// Proves PRB-01: a command that takes longer than its time has failed.
#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_has_failed() {
    let mut world = World::new(one(json!({"readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 10, "timeoutSeconds": 2}})));
    world.runtime.command("ready", Command { takes: Duration::from_secs(60), ..Default::default() });
    world.apply();
    world.pass(30).await;
    assert!(!ready(&world.status(), "c"));
    let events = world.events();
    assert!(events.iter().any(|e| e.starts_with("Unhealthy Readiness probe failed: command timed out:")), "{events:#?}");
}

/// Proves TRM-01 and PRB-04: of a pod that ends, what has ended and what is not ready any more is told while the rest goes on ending.
#[tokio::test(start_paused = true)]
async fn readiness_is_told_of_a_pod_that_ends() {
    let probe = json!({"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    let containers = json!([{"name": "c", "image": "i:1", "readinessProbe": probe}, {"name": "quick", "image": "i:1"}]);
    let mut world = World::new(json!({"containers": containers, "restartPolicy": "Always"}));
    world.runtime.process("c", Process::deaf());
    world.apply();
    world.until("ready", |s| ready(s, "c") && ready(s, "quick")).await;
    world.delete(30);
    world.until("one left", |s| ready(s, "c") && !ready(s, "quick")).await;
    world.runtime.command("ready", failing());
    world.until("none left", |s| !ready(s, "c") && state(s, "c") == "running").await;
    world.until_gone().await;
}

/// Proves TRM-01: a pod that ends is not restarted by its probes, and is not ready at once.
#[tokio::test(start_paused = true)]
async fn liveness_is_not_asked_of_a_pod_that_ends() {
    let mut world = World::new(one(json!({"livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}})));
    world.runtime.process("c", Process::slow(20));
    world.apply();
    world.until_state("c", "running").await;
    world.pass(3).await;
    world.runtime.command("alive", failing());
    world.delete(30);
    world.until_gone().await;
    assert_eq!(world.told_of(&["term", "start", "exit"]), ["start c", "term c", "exit c 0"]);
}
