//! postStart and preStop.

use super::*;
use crate::runtime::simulated::behaviour::{Command, Process};

fn with_hook(hook: &str, line: &str) -> Value {
    one(json!({"lifecycle": {hook: {"exec": {"command": [line]}}}}))
}

/// Proves TRM-03.
#[tokio::test(start_paused = true)]
async fn a_failed_post_start_kills_the_container() {
    let mut world = World::new(with_hook("postStart", "hello"));
    world.runtime.command("hello", Command { code: 1, ..Default::default() });
    world.apply();
    world.until("killed twice", |s| restarts(s, "c") == 2).await;
    let events = world.events();
    for wanted in ["FailedPostStartHook PostStartHook failed", "Killing FailedPostStartHook"] {
        assert!(events.contains(&wanted.to_owned()), "{wanted} in {events:#?}");
    }
    assert!(world.states("c").contains(&"PostStartHookError".to_owned()), "{:?}", world.states("c"));
    world.runtime.command("hello", Command::default());
    world.until_state("c", "running").await;
}

/// Proves TRM-02: the hook first, inside the grace period.
#[tokio::test(start_paused = true)]
async fn pre_stop_comes_before_the_signal() {
    let mut world = World::new(with_hook("preStop", "bye"));
    world.runtime.command("bye", Command { takes: Duration::from_secs(4), ..Default::default() });
    world.runtime.process("c", Process::deaf());
    world.apply();
    world.until_state("c", "running").await;
    world.delete(10);
    world.until_gone().await;
    assert_eq!(world.told()[3..], ["0 exec c bye", "4 term c", "10 kill c", "10 exit c 137"]);
    assert_eq!(world.status().phase.as_deref(), Some("Failed"));
}

/// Proves TRM-02: a hook that outlasts the grace period leaves two seconds for the signal.
#[tokio::test(start_paused = true)]
async fn a_pre_stop_that_takes_too_long_leaves_two_seconds() {
    let mut world = World::new(with_hook("preStop", "bye"));
    world.runtime.command("bye", Command { takes: Duration::from_secs(3600), ..Default::default() });
    world.runtime.process("c", Process::deaf());
    world.apply();
    world.until_state("c", "running").await;
    world.delete(5);
    world.until_gone().await;
    assert_eq!(world.told()[3..], ["0 exec c bye", "5 term c", "7 kill c", "7 exit c 137"]);
}

/// A hook that fails is told of and holds nothing up; so does one that sleeps end in its time.
#[tokio::test(start_paused = true)]
async fn a_failed_pre_stop_is_told_and_the_rest_goes_on() {
    let mut world = World::new(with_hook("preStop", "bye"));
    world.runtime.command("bye", Command { code: 1, ..Default::default() });
    world.apply();
    world.until_state("c", "running").await;
    world.delete(30);
    assert_eq!(world.until_gone().await, 0);
    assert!(world.events().contains(&"FailedPreStopHook PreStopHook failed".to_owned()));

    let mut world = World::new(one(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 6}}}})));
    world.apply();
    world.until_state("c", "running").await;
    world.delete(30);
    assert_eq!(world.until_gone().await, 6);
}
