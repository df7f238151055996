//! Pods with users of their own (`hostUsers: false`).

use super::*;
use k8s_cri::v1::NamespaceMode;

/// A pod that wants users of its own.
fn own_users() -> Value {
    let mut spec = one(json!({}));
    spec["hostUsers"] = false.into();
    spec
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_ids_of_its_own_where_the_runtime_can_map_them() {
    let world = World::new(own_users());
    world.runtime.has_user_namespaces();
    world.apply();
    world.until("Running", |s| s.phase.as_deref() == Some("Running")).await;
    let asked = world.runtime.user_namespaces();
    let [sandbox, container] = asked.as_slice() else { panic!("one sandbox and one container: {asked:?}") };
    assert_eq!(sandbox, container, "the container is in its sandbox's");
    assert_eq!((sandbox.mode, sandbox.uids.len()), (NamespaceMode::Pod as i32, 1));
    assert_eq!(sandbox.uids, sandbox.gids);
    let ids = sandbox.uids[0];
    assert_eq!((ids.container_id, ids.length, ids.host_id % 65_536), (0, 65_536, 0));
    assert!(ids.host_id >= 65_536, "never the machine's own");
}

#[tokio::test(start_paused = true)]
async fn all_other_pods_have_the_nodes_users() {
    let world = World::new(one(json!({})));
    world.runtime.has_user_namespaces();
    world.apply();
    world.until("Running", |s| s.phase.as_deref() == Some("Running")).await;
    assert!(world.runtime.user_namespaces().iter().all(|users| users.mode == NamespaceMode::Node as i32 && users.uids.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_cannot_gets_no_sandbox_of_it() {
    let mut world = World::new(own_users());
    world.apply();
    world.pass(30).await;
    assert_eq!(world.told_of(&["sandbox"]), Vec::<String>::new());
    assert_eq!(state(&world.status(), "c"), "ContainerCreating");
    let want = "FailedCreatePodSandBox Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user \
                namespaces: the handler \"\" is not known";
    assert!(world.events().contains(&want.to_owned()));
}
