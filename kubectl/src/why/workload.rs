//! Why a workload has not what it wants: its own conditions, then its pods.

use super::{Answer, World, condition, count, grouped, items, namespace, number, pod, selector, text, told};
use crate::family::is_owned_by;
use serde_json::Value;

/// How many different states of pods are told.
const TOLD: usize = 3;
const REVISION: &str = "deployment.kubernetes.io/revision";

/// What a workload owns in a list of its namespace.
fn owned(world: &dyn World, owner: &Value, list: &str) -> Vec<Value> {
    let (group, resource) = list.rsplit_once('/').unwrap_or(("", list));
    let labels = selector(&owner["spec"]["selector"]);
    let found = world.list(&format!("{group}/namespaces/{}/{resource}", namespace(owner)), &labels, "");
    let kind = match resource {
        "pods" => "Pod",
        "replicasets" => "ReplicaSet",
        _ => "Job",
    };
    found
        .into_iter()
        .filter(|o| is_owned_by(o, owner))
        .map(|mut o| {
            // The items of a list do not say what they are.
            o["kind"] = kind.into();
            o
        })
        .collect()
}

/// The states of a workload's pods that are not well.
fn unwell(world: &dyn World, owner: &Value) -> Vec<Answer> {
    let answers = owned(world, owner, "/api/v1/pods").iter().map(|p| pod::why(world, p)).filter(|a| !a.fine).collect();
    grouped(answers, TOLD)
}

/// What the controller failed at: a quota, a pod that may not be made.
fn failure(object: &Value, kind: &str) -> Option<String> {
    condition(object, kind).filter(|c| c["status"] == "True").map(told)
}

/// Deployment.
pub fn deployment(world: &dyn World, deployment: &Value) -> Answer {
    let status = &deployment["status"];
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let (updated, available) = (number(&status["updatedReplicas"]), number(&status["availableReplicas"]));
    let behind = number(&status["observedGeneration"]) < number(&deployment["metadata"]["generation"]);
    if behind {
        return Answer::new(deployment, "has been changed, and its controller has not seen it yet")
            .remedy("is the controller-manager running?");
    }
    let surplus = number(&status["replicas"]) - updated;
    if updated >= wanted && available >= wanted && surplus <= 0 {
        return Answer::fine(deployment, format!("is complete: {available} of {wanted} available"));
    }
    let mut answer =
        Answer::new(deployment, format!("is not complete: {wanted} wanted, {updated} of the newest template, {available} available"));
    if deployment["spec"]["paused"] == true {
        answer = answer.detail("it is paused").remedy(format!("kubectl rollout resume {}", super::reference(deployment)));
    }
    if let Some(stuck) = condition(deployment, "Progressing").filter(|c| c["status"] == "False") {
        answer = answer.detail(told(stuck));
    }
    answer = answer.detail(failure(deployment, "ReplicaFailure").unwrap_or_default());
    if surplus > 0 {
        answer = answer.detail(format!("{} of older templates still there", count(usize::try_from(surplus).unwrap_or(0), "pod")));
    }
    let revision = |rs: &Value| text(&rs["metadata"]["annotations"][REVISION]).parse::<i64>().unwrap_or(0);
    let newest = owned(world, deployment, "/apis/apps/v1/replicasets").into_iter().max_by_key(revision);
    answer.because(newest.map(|rs| replica_set(world, &rs)).filter(|a| !a.fine))
}

/// ReplicaSet and ReplicationController.
pub fn replica_set(world: &dyn World, set: &Value) -> Answer {
    let wanted = set["spec"]["replicas"].as_i64().unwrap_or(1);
    let (have, ready) = (number(&set["status"]["replicas"]), number(&set["status"]["readyReplicas"]));
    if have == wanted && ready == wanted {
        return Answer::fine(set, format!("has its {}", count(usize::try_from(wanted).unwrap_or(0), "pod")));
    }
    let answer = Answer::new(set, format!("wants {wanted}, has {have}, {ready} ready"));
    answer.detail(failure(set, "ReplicaFailure").unwrap_or_default()).because(unwell(world, set))
}

/// StatefulSet: with ordered starts, the first pod that is not ready holds all behind it.
pub fn stateful_set(world: &dyn World, set: &Value) -> Answer {
    let wanted = set["spec"]["replicas"].as_i64().unwrap_or(1);
    let (ready, updated) = (number(&set["status"]["readyReplicas"]), number(&set["status"]["updatedReplicas"]));
    let rolled = set["status"]["updateRevision"] == set["status"]["currentRevision"] || updated >= wanted;
    if ready >= wanted && rolled {
        return Answer::fine(set, format!("is complete: {ready} of {wanted} ready"));
    }
    let answer = Answer::new(set, format!("is not complete: {wanted} wanted, {ready} ready, {updated} of the newest template"));
    let mut pods = owned(world, set, "/api/v1/pods");
    let ordinal = |p: &Value| text(&p["metadata"]["name"]).rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    pods.sort_by_key(ordinal);
    let first = pods.iter().map(|p| pod::why(world, p)).find(|a| !a.fine);
    let answer = match (&first, text(&set["spec"]["podManagementPolicy"])) {
        (Some(_), "Parallel") | (None, _) => answer,
        (Some(first), _) => answer.detail(format!("its pods start in order: {} holds those behind it", first.object)),
    };
    answer.because(first)
}

/// DaemonSet.
pub fn daemon_set(world: &dyn World, set: &Value) -> Answer {
    let status = &set["status"];
    let (wanted, ready) = (number(&status["desiredNumberScheduled"]), number(&status["numberReady"]));
    let misplaced = number(&status["numberMisscheduled"]);
    let answer = match (wanted, ready) {
        (0, _) => Answer::fine(set, "wants no pod: no node is eligible"),
        (w, r) if r >= w => Answer::fine(set, format!("is complete: {r} of {w} nodes")),
        (w, r) => Answer::new(set, format!("is not complete: {w} nodes are eligible, {r} have a ready pod")).because(unwell(world, set)),
    };
    if misplaced > 0 { answer.detail(format!("{misplaced} run where they should not")) } else { answer }
}

/// Job.
pub fn job(world: &dyn World, job: &Value) -> Answer {
    let status = &job["status"];
    let (active, done, failed) = (number(&status["active"]), number(&status["succeeded"]), number(&status["failed"]));
    if condition(job, "Complete").is_some_and(|c| c["status"] == "True") {
        return Answer::fine(job, format!("is complete: {done} succeeded"));
    }
    if let Some(why) = condition(job, "Failed").or(condition(job, "FailureTarget")).filter(|c| c["status"] == "True") {
        return Answer::new(job, "has failed")
            .detail(told(why))
            .detail(format!("{failed} failed, {done} succeeded"))
            .because(unwell(world, job));
    }
    if job["spec"]["suspend"] == true {
        return Answer::new(job, "is suspended")
            .remedy(format!("kubectl patch {} -p '{{\"spec\":{{\"suspend\":false}}}}'", super::reference(job)));
    }
    let wanted = job["spec"]["completions"].as_i64().map_or_else(|| "any number".to_owned(), |n| n.to_string());
    Answer::new(job, format!("is not complete: {done} of {wanted} succeeded, {active} at work, {failed} failed"))
        .because(unwell(world, job))
}

/// CronJob.
pub fn cron_job(world: &dyn World, cron: &Value) -> Answer {
    if cron["spec"]["suspend"] == true {
        return Answer::new(cron, "is suspended");
    }
    let last = cron["status"]["lastScheduleTime"].as_str().map_or_else(|| "never run yet".to_owned(), |t| format!("last run at {t}"));
    let at_work = items(&cron["status"]["active"]).count();
    let answer = Answer::fine(cron, format!("runs at {:?}: {last}, {} at work", text(&cron["spec"]["schedule"]), count(at_work, "job")));
    let jobs = owned(world, cron, "/apis/batch/v1/jobs");
    let newest = jobs.iter().max_by_key(|j| text(&j["metadata"]["creationTimestamp"]).to_owned());
    let unwell = newest.map(|j| self::job(world, j)).filter(|a| !a.fine);
    answer.because(unwell)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deployment_is_followed_down_to_its_pods() {
        let owner = |uid: &str| json!([{"uid": uid, "controller": true}]);
        let labels = json!({"app": "web"});
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "d", "uid": "1", "generation": 2},
            "spec": {"replicas": 3, "selector": {"matchLabels": labels}}, "status": {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 1}});
        let set = json!({"metadata": {"name": "web-1", "namespace": "d", "uid": "2", "labels": labels, "ownerReferences": owner("1")},
            "spec": {"replicas": 3, "selector": {"matchLabels": labels}}, "status": {"replicas": 3, "readyReplicas": 1}});
        let pod = |name: &str| {
            json!({"metadata": {"name": name, "namespace": "d", "labels": labels, "ownerReferences": owner("2")}, "spec": {"nodeName": "n1"},
            "status": {"containerStatuses": [{"name": "c", "image": "x", "containerID": "r", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}})
        };
        let node = json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let world = Cluster::default()
            .with("/api/v1/nodes", node)
            .with("/apis/apps/v1/namespaces/d/replicasets", set)
            .with("/api/v1/namespaces/d/pods", pod("web-1-a"))
            .with("/api/v1/namespaces/d/pods", pod("web-1-b"));
        let answer = self::deployment(&world, &deployment);
        assert_eq!(answer.state, "is not complete: 3 wanted, 3 of the newest template, 1 available");
        let [set] = &answer.because[..] else { panic!("one set: {answer:?}") };
        assert_eq!((set.object.as_str(), set.state.as_str()), ("replicaset/web-1", "wants 3, has 3, 1 ready"));
        let [pod] = &set.because[..] else { panic!("pods alike are told once: {set:?}") };
        assert_eq!((pod.object.as_str(), pod.alike, pod.details[0].as_str()), ("pod/web-1-a", 1, "no such image"));
    }

    #[test]
    fn jobs_say_what_became_of_them() {
        let job = |spec: Value, status: Value| json!({"kind": "Job", "metadata": {"name": "j", "namespace": "d", "uid": "1"}, "spec": spec, "status": status});
        for (job, fine, state) in [
            (
                job(json!({"completions": 2}), json!({"succeeded": 1, "active": 1})),
                false,
                "is not complete: 1 of 2 succeeded, 1 at work, 0 failed",
            ),
            (
                job(json!({}), json!({"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]})),
                true,
                "is complete: 1 succeeded",
            ),
            (
                job(
                    json!({}),
                    json!({"failed": 7, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}),
                ),
                false,
                "has failed",
            ),
            (job(json!({"suspend": true}), json!({})), false, "is suspended"),
        ] {
            let answer = self::job(&Cluster::default(), &job);
            assert_eq!((answer.fine, answer.state.as_str()), (fine, state));
        }
    }
}
