//! What a Deployment's owner does with it, and what becomes of what is owned.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};

fn deployment(name: &str, replicas: u8, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec: {{replicas: {replicas}, {more}selector: {{matchLabels: {{app: {name}}}}}, template: \
         {{metadata: {{labels: {{app: {name}}}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '10000']}}]}}}}}}\n---\n"
    )
}

/// The names of what there is of a kind with the label `app`.
fn owned(k: &Kubectl<'_>, kind: &str, app: &str) -> Vec<String> {
    let names = k.ok(&["get", kind, "-l", &format!("app={app}"), "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"]);
    names.lines().map(str::to_owned).collect()
}

/// Proves WRK-02 but for the rolling itself: no replacement while it is paused, one when it goes on; a rollout that makes no progress is told so and undone; the
/// revisions it went through; restarted; and with Recreate no new pod beside an old one.
#[test]
fn a_rollout_is_held_undone_and_restarted() {
    for_each_kubectl(Cluster::shared(), "rollouts", |k| {
        let image = || k.field("deployment", "d", "{.spec.template.spec.containers[0].image}");
        let settled = |replicas: &str| {
            let done = k.ok(&["rollout", "status", "deployment/d", "--timeout=90s"]);
            assert!(done.ends_with("deployment \"d\" successfully rolled out\n"), "{done}");
            k.until(
                "deployment",
                "d",
                "{.status.replicas} {.status.updatedReplicas} {.status.availableReplicas}",
                &[replicas; 3].join(" "),
            );
        };
        k.apply(&(deployment("d", 2, "") + &deployment("r", 1, "strategy: {type: Recreate}, ")));
        settled("2");

        k.ok(&["rollout", "pause", "deployment/d"]);
        k.ok(&["set", "image", "deployment/d", "c=nowhere/none:1"]);
        k.until("deployment", "d", "{.status.conditions[?(@.type==\"Progressing\")].reason}", "DeploymentPaused");
        let generation = k.field("deployment", "d", "{.metadata.generation}");
        k.until("deployment", "d", "{.status.observedGeneration}", &generation);
        assert_eq!(owned(k, "rs", "d").len(), 1, "nothing is rolled out");
        k.ok(&["scale", "deployment", "d", "--replicas=3"]);
        k.until("deployment", "d", "{.status.availableReplicas}", "3");
        let deadline =
            |seconds: u16| k.ok(&["patch", "deployment", "d", "-p", &format!(r#"{{"spec":{{"progressDeadlineSeconds":{seconds}}}}}"#)]);
        deadline(2);
        k.ok(&["rollout", "resume", "deployment/d"]);
        let condition = "{.status.conditions[?(@.type==\"Progressing\")]['status', 'reason']}";
        k.until("deployment", "d", condition, "False ProgressDeadlineExceeded");
        let refused = k.run(&["rollout", "status", "deployment/d"]);
        assert_eq!((refused.code, refused.err.trim()), (1, "error: deployment \"d\" exceeded its progress deadline"));
        assert_eq!(k.field("deployment", "d", "{.status.availableReplicas}"), "3", "a quarter of three, rounded down, may be missing");

        deadline(600);
        k.ok(&["rollout", "undo", "deployment/d"]);
        settled("3");
        assert_eq!(image(), "busybox:1.28");
        assert_eq!(k.field("deployment", "d", "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}"), "3");
        let history = k.ok(&["rollout", "history", "deployment/d"]);
        let revisions: Vec<_> = history.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(revisions, ["2", "3"], "the first has become the third: {history}");

        let before = owned(k, "pods", "d");
        k.ok(&["rollout", "restart", "deployment/d"]);
        settled("3");
        eventually("no pod of before is left", 60, || owned(k, "pods", "d").iter().all(|pod| !before.contains(pod)));

        // A pod that takes its time to end is waited for.
        k.ok(&["rollout", "status", "deployment/r", "--timeout=90s"]);
        let [old] = &owned(k, "pods", "r")[..] else { panic!("one pod") };
        k.ok(&["patch", "pod", old, "-p", r#"{"metadata":{"finalizers":["example.com/held"]}}"#]);
        k.ok(&["set", "image", "deployment/r", "c=busybox:latest"]);
        k.until("pod", old, "{.status.phase}", "Failed");
        eventually("a new one once the old one has ended", 60, || owned(k, "pods", "r").len() == 2);
        let created = |pod: &str| k.field("pod", pod, "{.metadata.creationTimestamp}");
        let ended = k.field("pod", old, "{.status.containerStatuses[0].state.terminated.finishedAt}");
        let pods = owned(k, "pods", "r");
        let new = pods.iter().find(|pod| *pod != old).expect("there are two");
        assert!(created(new) >= ended, "{} before {ended}", created(new));
        k.ok(&["patch", "pod", old, "-p", r#"{"metadata":{"finalizers":null}}"#]);
        k.ok(&["rollout", "status", "deployment/r", "--timeout=90s"]);
    });
}

/// Proves WRK-07: what is owned goes after its owner, before it, or not at all.
#[test]
fn owned_objects_go_after_their_owner_before_it_or_stay() {
    for_each_kubectl(Cluster::shared(), "cascades", |k| {
        let names = ["background", "foreground", "orphan"];
        k.apply(&names.map(|name| deployment(name, 1, "")).concat());
        for name in names {
            k.until("deployment", name, "{.status.availableReplicas}", "1");
        }
        k.ok(&["delete", "deployment", "orphan", "--cascade=orphan"]);
        k.until_gone("deployment", "orphan");
        let [left] = &owned(k, "rs", "orphan")[..] else { panic!("its ReplicaSet stays") };
        eventually("nobody owns it", 60, || k.field("rs", left, "{.metadata.ownerReferences}").is_empty());
        assert_eq!(owned(k, "pods", "orphan").len(), 1);

        // A pod that does not go holds its owners, or it does not.
        for name in ["background", "foreground"] {
            let [pod] = &owned(k, "pods", name)[..] else { panic!("one pod of {name}") };
            k.ok(&["patch", "pod", pod, "-p", r#"{"metadata":{"finalizers":["example.com/held"]}}"#]);
            k.ok(&["delete", "deployment", name, &format!("--cascade={name}"), "--wait=false"]);
            eventually("the pod is asked to go", 60, || !k.field("pod", pod, "{.metadata.deletionTimestamp}").is_empty());
        }
        k.until_gone("deployment", "background");
        eventually("its ReplicaSet as well", 60, || owned(k, "rs", "background").is_empty());
        assert_eq!(owned(k, "pods", "background").len(), 1);
        let [held] = &owned(k, "rs", "foreground")[..] else { panic!("its ReplicaSet is there") };
        assert_eq!(k.field("rs", held, "{.metadata.finalizers[0]}"), "foregroundDeletion");
        assert_eq!(k.field("deployment", "foreground", "{.metadata.finalizers[0]}"), "foregroundDeletion");
        for name in ["background", "foreground"] {
            k.ok(&["patch", "pod", &owned(k, "pods", name)[0], "-p", r#"{"metadata":{"finalizers":null}}"#]);
        }
        k.until_gone("deployment", "foreground");
        eventually("all of it is gone", 60, || owned(k, "rs", "foreground").is_empty() && owned(k, "pods", "foreground").is_empty());
        assert_eq!(owned(k, "pods", "orphan").len(), 1, "who has no owner stays");
    });
}
