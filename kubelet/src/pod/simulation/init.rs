//! Init containers and sidecars.

use super::*;
use crate::runtime::simulated::behaviour::{Command, Process};

fn with_init(init: Value, policy: &str) -> Value {
    json!({"initContainers": init, "containers": [{"name": "c", "image": "i:1"}], "restartPolicy": policy, "terminationGracePeriodSeconds": 30})
}

/// Proves POD-11: one at a time, in order, each to success.
#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_the_other() {
    let world = World::new(with_init(json!([{"name": "i", "image": "i:1"}, {"name": "j", "image": "i:1"}]), "Always"));
    world.runtime.process("i", Process::ending(3, 0));
    world.runtime.process("j", Process::ending(4, 0));
    world.apply();
    world.until_state("c", "running").await;
    let told = world.told();
    assert_eq!(
        told.iter().filter(|t| !t.contains("create")).collect::<Vec<_>>(),
        ["0 sandbox p", "0 start i", "3 exit i 0", "3 start j", "7 exit j 0", "7 start c"]
    );
    let status = world.status();
    let initialized = status.conditions.iter().flatten().find(|c| c.type_ == "Initialized").expect("it is always there");
    assert_eq!(initialized.status, "True");
    assert_eq!(world.states("c")[..2], ["PodInitializing", "running"]);
}

/// Proves POD-11: again after failure by the policy, with back-off.
#[tokio::test(start_paused = true)]
async fn a_failed_init_container_runs_again_or_fails_the_pod() {
    let init = || json!([{"name": "i", "image": "i:1"}]);
    let world = World::new(with_init(init(), "Always"));
    let second = Duration::from_secs(1);
    world.runtime.process("i", Process { runs: vec![(second, 2), (second, 2), (second, 0)], ..Process::steady() });
    world.apply();
    world.until_state("c", "running").await;
    assert_eq!(world.when("start i"), [0, 1, 12]);
    assert_eq!(world.states("i"), ["PodInitializing", "running", "exit 2", "running", "exit 2", "CrashLoopBackOff", "running", "exit 0"]);

    let world = World::new(with_init(init(), "Never"));
    world.runtime.process("i", Process::ending(1, 2));
    world.apply();
    world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!((world.when("start i").len(), world.when("start c").len()), (1, 0));
}

/// Proves POD-11: sidecars start in order, each once the one before has started, stay, are restarted, and end last in reverse order.
#[tokio::test(start_paused = true)]
async fn sidecars_start_in_order_stay_and_end_last() {
    let probe = json!({"exec": {"command": ["up"]}, "periodSeconds": 1, "failureThreshold": 100});
    let init = json!([{"name": "s", "image": "i:1", "restartPolicy": "Always", "startupProbe": probe},
        {"name": "t", "image": "i:1", "restartPolicy": "Always"}]);
    let mut world = World::new(with_init(init, "Always"));
    world.runtime.command("up", Command { code: 1, ..Default::default() });
    world.runtime.process("c", Process::slow(5));
    for name in ["s", "t"] {
        world.runtime.process(name, Process::slow(1));
    }
    world.apply();
    world.pass(10).await;
    assert_eq!(world.told_of(&["start"]), ["start s"], "the next waits for its startup probe");
    world.runtime.command("up", Command::default());
    world.until_state("c", "running").await;
    assert_eq!(world.told_of(&["start"]), ["start s", "start t", "start c"]);

    world.runtime.exit("s", 0);
    world.until("s again", |s| restarts(s, "s") == 1 && state(s, "s") == "running").await;
    assert_eq!(state(&world.status(), "c"), "running");

    let begun = world.now();
    world.delete(30);
    let gone = world.until_gone().await;
    assert_eq!(world.told_of(&["term", "kill", "exit"])[1..], ["term c", "exit c 0", "term t", "exit t 0", "term s", "exit s 0"]);
    assert_eq!(gone - begun, 7);
}

/// Proves POD-11: sidecars do not keep a pod that has done its work.
#[tokio::test(start_paused = true)]
async fn sidecars_end_with_the_last_container() {
    let world = World::new(with_init(json!([{"name": "s", "image": "i:1", "restartPolicy": "Always"}]), "Never"));
    world.runtime.process("c", Process::ending(5, 0));
    world.runtime.process("s", Process::slow(3));
    world.apply();
    world.until("Succeeded", |s| s.phase.as_deref() == Some("Succeeded")).await;
    assert_eq!(world.told_of(&["term"]), ["term s"]);
    assert_eq!(state(&world.status(), "s"), "exit 0", "the pod has not succeeded while the sidecar still runs");
}

/// The hooks of sidecars run as soon as the pod is to end; their signals wait for their turn, and no longer than the grace period.
#[tokio::test(start_paused = true)]
async fn sidecars_hooks_do_not_wait_and_their_turn_ends_with_the_grace_period() {
    let hook = json!({"preStop": {"exec": {"command": ["bye"]}}});
    let init = json!([{"name": "s", "image": "i:1", "restartPolicy": "Always", "lifecycle": hook}]);
    let mut world = World::new(with_init(init, "Always"));
    world.runtime.process("c", Process::deaf());
    world.apply();
    world.until_state("c", "running").await;
    world.delete(6);
    let gone = world.until_gone().await;
    let told = world.told();
    assert!(told.contains(&"0 exec s bye".to_owned()), "{told:#?}");
    assert!(told.contains(&"6 term s".to_owned()), "{told:#?}");
    assert!((6..=8).contains(&gone), "{gone}");
}
