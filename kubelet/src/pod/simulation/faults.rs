//! What cannot work, and a runtime that fails or hangs: the pod says so, goes on when it can, and nothing is left behind.

use super::*;
use crate::runtime::{
    RuntimeError,
    simulated::behaviour::{Call, Distortion, Fault},
};
use k8s_cri::v1 as api;

fn fails() -> Fault {
    Fault::Fails(RuntimeError::Failed("it is broken".into()))
}

/// Proves POD-16: `ErrImagePull`, then `ImagePullBackOff`, and a registry that comes back is used.
#[tokio::test(start_paused = true)]
async fn a_missing_image_is_tried_again_with_back_off() {
    let mut world = World::new(one(json!({})));
    world.runtime.image_missing("i:1", true);
    world.apply();
    world.pass(100).await;
    let pulls = world.when("pull i:1");
    assert_eq!(pulls.len(), 4, "{pulls:?}");
    for (pair, at_least) in pulls.windows(2).zip([10, 20, 40]) {
        assert!((at_least..at_least + 6).contains(&(pair[1] - pair[0])), "{pulls:?}");
    }
    assert_eq!(world.states("c")[..4], ["ContainerCreating", "ErrImagePull", "ImagePullBackOff", "ErrImagePull"]);
    let events = world.events();
    for wanted in [
        "Pulling Pulling image \"i:1\"",
        "Failed Failed to pull image \"i:1\": failed to resolve reference \"i:1\": not found",
        "Failed Error: ErrImagePull",
        "BackOff Back-off pulling image \"i:1\"",
        "Failed Error: ImagePullBackOff",
    ] {
        assert!(events.contains(&wanted.to_owned()), "{wanted} in {events:#?}");
    }
    world.runtime.image_missing("i:1", false);
    world.until_state("c", "running").await;
}

/// Proves POD-10: a missing key is named, and asked for again every now and then.
#[tokio::test(start_paused = true)]
async fn a_missing_key_holds_the_container_back() {
    let mut world = World::new(one(json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]})));
    world.apply();
    world.until_state("c", "CreateContainerConfigError").await;
    world.pass(35).await;
    assert!(world.told_of(&["create"]).is_empty());
    let errors = world.events().iter().filter(|e| e.starts_with("Failed Error: ")).count();
    assert!((3..=6).contains(&errors), "{errors} tries in 35 s");
}

/// A runtime that makes no container is asked again every now and then, however its words change.
#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_made_is_tried_again_in_peace() {
    let mut world = World::new(one(json!({})));
    for attempt in 0..10 {
        world.runtime.fault(Call::Create, 1, Fault::Fails(RuntimeError::Failed(format!("no container {attempt}"))));
    }
    world.apply();
    world.until_state("c", "CreateContainerError").await;
    world.pass(35).await;
    let tries = world.events().iter().filter(|e| e.starts_with("Failed Error: no container ")).count();
    assert!((3..=6).contains(&tries), "{tries} tries in 35 s");
    world.until_state("c", "running").await;
}

/// A command that does not exist is the runtime's word, counted as a restart each time.
#[tokio::test(start_paused = true)]
async fn a_missing_command_backs_off() {
    let world = World::new(one(json!({})));
    world.runtime.fault(Call::Start, 3, fails());
    world.apply();
    world.until_state("c", "running").await;
    assert!(world.states("c").contains(&"RunContainerError".to_owned()), "{:?}", world.states("c"));
    assert_eq!(world.told_of(&["create"]).len(), 4);
    assert_eq!(restarts(&world.status(), "c"), 3);
}

/// Every call that makes something may fail a few times, or hang until its deadline: the pod runs in the end.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_fails_or_hangs_holds_a_pod_up_and_no_more() {
    for call in [Call::RunSandbox, Call::List, Call::Create, Call::Start, Call::Pull] {
        for fault in [fails(), Fault::Hangs] {
            let mut world = World::new(one(json!({"imagePullPolicy": "Always"})));
            world.runtime.fault(call, 2, fault.clone());
            world.apply();
            let when = world.until_state("c", "running").await;
            assert!(when < 400, "{call:?} {fault:?}: {when}");
            world.delete(1);
            world.until_gone().await;
            assert_eq!(world.runtime.held(), (0, 0), "{call:?} {fault:?}");
        }
    }
}

/// So may every call that ends something: the pod is gone in the end, and not before nothing is left.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_fails_or_hangs_does_not_lose_what_has_to_end() {
    for call in [Call::Stop, Call::StopSandbox, Call::RemoveSandbox, Call::List] {
        for fault in [fails(), Fault::Hangs] {
            let mut world = World::new(one(json!({})));
            world.apply();
            world.until_state("c", "running").await;
            world.runtime.fault(call, 2, fault.clone());
            world.delete(1);
            world.until_gone().await;
            assert_eq!(world.runtime.held(), (0, 0), "{call:?} {fault:?}");
        }
    }
}

/// The words for a sandbox that cannot be made.
#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_made_is_told_of() {
    let mut world = World::new(one(json!({})));
    world.runtime.fault(Call::RunSandbox, 2, fails());
    world.apply();
    world.until_state("c", "running").await;
    let failed = world.events().into_iter().filter(|e| e == "FailedCreatePodSandBox Failed to create pod sandbox: it is broken").count();
    assert_eq!(failed, 2);
}

/// What a broken runtime may answer: each is well-formed, and none of it is true.
fn nonsense() -> Vec<(&'static str, Distortion)> {
    let none = Distortion::default();
    vec![
        ("ids are empty", Distortion { made: String::clear, ..none }),
        ("ids are of nothing", Distortion { made: |id| id.push('x'), ..none }),
        ("no sandbox", Distortion { sandboxes: Vec::clear, ..none }),
        ("each sandbox twice", Distortion { sandboxes: |all| all.extend(all.clone()), ..none }),
        (
            "sandboxes of nobody",
            Distortion { sandboxes: |all| all.push(api::PodSandbox { id: "stray".into(), ..Default::default() }), ..none },
        ),
        ("a sandbox without anything", Distortion { sandbox: |status| *status = api::PodSandboxStatus::default(), ..none }),
        ("a sandbox in no state", Distortion { sandbox: |status| status.state = 77, ..none }),
        ("a sandbox without network", Distortion { sandbox: |status| status.network = None, ..none }),
        (
            "an address that is none",
            Distortion { sandbox: |status| status.network.iter_mut().for_each(|n| n.ip = "::nowhere".into()), ..none },
        ),
        ("a sandbox before all time", Distortion { sandbox: |status| status.created_at = i64::MIN, ..none }),
        ("no container", Distortion { containers: Vec::clear, ..none }),
        ("each container twice", Distortion { containers: |all| all.extend(all.clone()), ..none }),
        (
            "containers of nobody",
            Distortion { containers: |all| all.push(api::Container { id: "stray".into(), ..Default::default() }), ..none },
        ),
        ("containers of no sandbox", Distortion { containers: |all| all.iter_mut().for_each(|c| c.pod_sandbox_id.clear()), ..none }),
        ("a container without anything", Distortion { container: |status| *status = api::ContainerStatus::default(), ..none }),
        ("a container in no state", Distortion { container: |status| status.state = -9, ..none }),
        ("a container without a name", Distortion { container: |status| status.metadata = None, ..none }),
        ("a container without labels", Distortion { container: |status| (status.labels.clear(), status.annotations.clear()).0, ..none }),
        (
            "a container beyond all time",
            Distortion {
                container: |status| {
                    status.created_at = i64::MAX;
                    (status.started_at, status.finished_at) = (i64::MAX, i64::MIN);
                },
                ..none
            },
        ),
        (
            "a container that is over and never began",
            Distortion {
                container: |status| {
                    (status.state, status.exit_code) = (api::ContainerState::ContainerExited as i32, i32::MIN);
                    status.message = "x".repeat(100_000);
                },
                ..none
            },
        ),
    ]
}

/// A runtime that answers nonsense for a while, from the start or while the pod runs: the worker goes on, and once the answers are true again
/// the pod runs and goes without a trace.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_answers_nonsense_is_outlived() {
    for (what, distortion) in nonsense() {
        for running in [false, true] {
            println!("{what}, while it {}", if running { "runs" } else { "starts" });
            let mut world = World::new(one(json!({})));
            if running {
                world.apply();
                world.until_state("c", "running").await;
            }
            world.runtime.distort(distortion);
            world.apply();
            world.pass(60).await;
            world.runtime.distort(Distortion::default());
            world.until("running", |status| state(status, "c") == "running" && status.phase.as_deref() == Some("Running")).await;
            world.delete(1);
            world.until_gone().await;
            assert_eq!(world.runtime.held(), (0, 0), "{what}");
        }
    }
}

/// Nor does it keep a pod that is deleted meanwhile from ending; what the runtime had hidden is swept away once it tells the truth.
#[tokio::test(start_paused = true)]
async fn a_pod_ends_though_the_runtime_answered_nonsense() {
    for (what, distortion) in nonsense() {
        println!("{what}");
        let mut world = World::new(one(json!({})));
        world.apply();
        world.until_state("c", "running").await;
        world.runtime.distort(distortion);
        world.delete(1);
        world.pass(60).await;
        world.runtime.distort(Distortion::default());
        world.until_gone().await;
        world.until_swept().await;
    }
}
