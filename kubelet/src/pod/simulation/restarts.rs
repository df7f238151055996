//! Restart policies and the back-off between restarts.

use super::*;
use crate::runtime::simulated::behaviour::Process;

/// Proves POD-07.
#[tokio::test(start_paused = true)]
async fn the_policy_decides_who_runs_again() {
    for (policy, code, phase, again) in [
        ("Always", 0, "Running", true),
        ("Always", 1, "Running", true),
        ("OnFailure", 0, "Succeeded", false),
        ("OnFailure", 1, "Running", true),
        ("Never", 0, "Succeeded", false),
        ("Never", 3, "Failed", false),
    ] {
        let mut spec = one(json!({}));
        spec["restartPolicy"] = policy.into();
        let world = World::new(spec);
        world.runtime.process("c", Process::ending(5, code));
        world.apply();
        world.pass(60).await;
        let status = world.status();
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {code}");
        assert_eq!(restarts(&status, "c") > 0, again, "{policy} {code}");
        assert_eq!(world.when("start c").len() > 1, again, "{policy} {code}");
    }
}

/// Proves POD-08.
#[tokio::test(start_paused = true)]
async fn restarts_back_off_up_to_five_minutes() {
    let mut world = World::new(one(json!({})));
    world.runtime.process("c", Process::ending(1, 1));
    world.apply();
    world.pass(2400).await;
    let starts = world.when("start c");
    let waits: Vec<i64> = starts.windows(2).map(|pair| pair[1] - pair[0] - 1).collect();
    assert_eq!(waits[..9], [0, 10, 20, 40, 80, 160, 300, 300, 300], "{starts:?}");
    assert_eq!(world.states("c")[..6], ["ContainerCreating", "running", "exit 1", "running", "exit 1", "CrashLoopBackOff"]);
    let status = world.status();
    let waiting = find(&status, "c").and_then(|c| c.state.clone()?.waiting?.message);
    assert_eq!(waiting.as_deref(), Some("back-off 5m0s restarting failed container=c pod=p_ns(u)"));
    assert!(world.events().contains(&"BackOff Back-off restarting failed container c in pod p_ns(u)".to_owned()));
    let last = find(&status, "c").and_then(|c| c.last_state.clone()?.terminated).expect("how it ended stays visible");
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
}

/// Proves POD-08, its reset.
#[tokio::test(start_paused = true)]
async fn ten_minutes_of_running_reset_the_back_off() {
    let world = World::new(one(json!({})));
    let second = Duration::from_secs(1);
    let crash = (second, 1);
    world.runtime.process("c", Process { runs: vec![crash, crash, crash, (second * 1200, 1), crash], ..Process::steady() });
    world.apply();
    world.pass(1400).await;
    let starts = world.when("start c");
    let waits: Vec<i64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits[..5], [1, 11, 21, 1200, 11], "after the long run it is as if it were the first failure: {starts:?}");
}

/// Proves POD-12: a container that exits is restarted alone.
#[tokio::test(start_paused = true)]
async fn a_container_restarts_alone() {
    let world = World::new(json!({"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]}));
    world.apply();
    world.until_state("b", "running").await;
    world.runtime.exit("b", 0);
    world.until("b again", |s| restarts(s, "b") == 1 && state(s, "b") == "running").await;
    assert_eq!(world.told_of(&["start", "sandbox"]), ["sandbox p", "start a", "start b", "start b"]);
    assert_eq!(restarts(&world.status(), "a"), 0);
}

/// Proves POD-19: an ephemeral container joins a pod that runs, disturbs nothing, and is never restarted.
#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_joins_and_disturbs_nothing() {
    let mut world = World::new(one(json!({})));
    world.runtime.process("dbg", Process::ending(5, 1));
    world.apply();
    world.until_state("c", "running").await;
    let ephemeral = json!([{"name": "dbg", "image": "i:2", "targetContainerName": "c"}]);
    let spec = world.pod.spec.as_mut().expect("a spec");
    spec.ephemeral_containers = Some(serde_json::from_value(ephemeral).expect("well formed"));
    world.pod.metadata.generation = Some(2);
    world.apply();
    world.until_state("dbg", "running").await;
    world.until_state("dbg", "exit 1").await;
    world.pass(60).await;
    assert_eq!(world.told_of(&["start", "term"]), ["start c", "start dbg"]);
    let status = world.status();
    assert_eq!((status.phase.as_deref(), status.observed_generation), (Some("Running"), Some(2)));
    assert!(ready(&status, "c"));
}

/// Proves POD-09, for rules of a container's own.
#[tokio::test(start_paused = true)]
async fn a_rule_of_the_container_wins_over_the_policy() {
    let mut spec = one(json!({"restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}));
    spec["restartPolicy"] = "Never".into();
    let world = World::new(spec);
    let second = Duration::from_secs(1);
    world.runtime.process("c", Process { runs: vec![(second, 42), (second, 1)], ..Process::steady() });
    world.apply();
    world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!(world.when("start c").len(), 2);
}

/// Proves POD-09, for a rule that starts the whole pod anew: at once, without hooks or back-off, in the sandbox it has, from the first init container, also
/// what had ended for good.
#[tokio::test(start_paused = true)]
async fn a_rule_starts_the_whole_pod_anew() {
    let hook = json!({"preStop": {"exec": {"command": ["bye"]}}});
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "i:1"}, {"name": "s", "image": "i:1", "restartPolicy": "Always"}],
        "containers": [
            {"name": "c", "image": "i:1", "lifecycle": hook},
            {"name": "done", "image": "i:1"},
            {"name": "w", "image": "i:1", "restartPolicy": "Never",
             "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]}]});
    let world = World::new(spec);
    let second = Duration::from_secs(1);
    world.runtime.process("i", Process::ending(1, 0));
    world.runtime.process("c", Process::deaf());
    world.runtime.process("done", Process::ending(1, 3));
    world.runtime.process("w", Process { runs: vec![(second * 5, 88), (second * 5, 88), (second * 5, 0)], ..Process::steady() });
    world.apply();
    world.until("ended", |s| state(s, "w") == "exit 0" && restarts(s, "w") == 2).await;
    let status = world.status();
    for container in ["i", "s", "c", "done", "w"] {
        assert_eq!(restarts(&status, container), 2, "{container}");
    }
    assert_eq!(world.when("start c"), [1, 7, 13], "at once: {:#?}", world.told());
    assert_eq!(world.told_of(&["sandbox", "exec", "term"]), ["sandbox p"], "in one sandbox, without a hook or a signal to heed");
    assert_eq!(
        world.states("c"),
        [
            "PodInitializing",
            "running",
            "RestartingAllContainers",
            "PodInitializing",
            "running",
            "RestartingAllContainers",
            "PodInitializing",
            "running"
        ]
    );
    let last = find(&status, "c").and_then(|c| c.last_state.clone()?.terminated).expect("it was ended");
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("RestartingAllContainers")));
    let told: Vec<String> = {
        let reported = world.statuses.reported.lock();
        let of = |s: &PodStatus| s.conditions.iter().flatten().find(|c| c.type_ == "AllContainersRestarting").map(|c| c.status.clone());
        let mut all: Vec<String> = reported.iter().filter_map(|(_, s)| of(s)).collect();
        all.dedup();
        all
    };
    assert_eq!(told, ["False", "True", "False", "True", "False"]);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

/// Proves POD-09: a pod that is active for too long fails.
#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_pod() {
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = 7.into();
    let mut world = World::new(spec);
    world.apply();
    let failed = world.until("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!((failed, world.status().reason.as_deref()), (7, Some("DeadlineExceeded")));
    assert!(world.events().contains(&"DeadlineExceeded Pod was active on the node longer than the specified deadline".to_owned()));
}
