//! How it has to end, whatever went wrong on the way: everything as its owner asks for it, and nothing left over.

use super::invariants::{of_kind, owners};
use super::world::{CLUSTERED, Objects, controller, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn is_over(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// What is left in a namespace that has been deleted, and it itself.
pub fn of_namespace(objects: &Objects) -> Vec<String> {
    let left = objects.keys().filter(|(plural, _)| *plural == "namespaces" || !CLUSTERED.contains(plural));
    left.map(|(plural, name)| format!("{plural} {name} is still there")).collect()
}

/// What is not yet as it should be of workloads and all that belongs to them. `unanswered` are the owners of pods whose creation got no answer.
pub fn of(kinds: &[&'static str], objects: &Objects, unanswered: &[String]) -> Vec<String> {
    let mut open = Vec::new();
    let uids: BTreeSet<&str> = objects.values().map(|object| text(object, "/metadata/uid")).collect();
    for ((plural, name), object) in objects {
        if owners(object).any(|owner| !uids.contains(text(owner, "/uid"))) {
            open.push(format!("{plural} {name} has an owner that is gone"));
        }
        if !text(object, "/metadata/deletionTimestamp").is_empty() {
            open.push(format!("{plural} {name} is still going"));
        }
    }
    for kind in kinds {
        if let Some(object) = objects.get(&(*kind, (*kind).to_owned())) {
            end_of(kind, object, objects, unanswered, &mut open);
            // One that has ended is adopted by nobody, and stays for whoever wants to look at it.
            for pod in selected(kind, objects).filter(|pod| !is_over(pod) && controller(pod).is_none()) {
                open.push(format!("pod {} is nobody's", text(pod, "/metadata/name")));
            }
        }
        served(kind, objects, &mut open);
        budgeted(kind, objects, &mut open);
    }
    scaled(objects, &mut open);
    bounded(objects, &mut open);
    open
}

/// An autoscaled workload has as many pods as its load calls for, or is as near to that as makes no difference.
fn scaled(objects: &Objects, open: &mut Vec<String>) {
    let Some(autoscaler) = of_kind(objects, "horizontalpodautoscalers").next() else { return };
    let target = text(autoscaler, "/spec/scaleTargetRef/name");
    let Some((_, scaled)) = objects.iter().find(|((plural, name), _)| *plural == target && name == target) else { return };
    let load: i64 = text(autoscaler, "/metadata/annotations/load").parse().unwrap_or(0);
    let replicas = scaled.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    // Each is to use 50, and a tenth more or less is fine. Nobody scales what has been scaled to nothing.
    let each = load / replicas.max(1);
    let wanted = (each * replicas + 49) / 50;
    let is_near = (45..=55).contains(&each) || replicas == 0;
    if !is_near && replicas != wanted.clamp(1, 6) {
        open.push(format!("{target}: {replicas} replicas for a load of {load}"));
    }
    if autoscaler.pointer("/status/desiredReplicas").and_then(Value::as_i64).unwrap_or(0) != replicas {
        open.push(format!("{target}: {replicas} replicas, and the autoscaler says {}", autoscaler["status"]));
    }
}

/// A quota counts every pod that has not ended.
fn bounded(objects: &Objects, open: &mut Vec<String>) {
    let Some(quota) = of_kind(objects, "resourcequotas").next() else { return };
    let count = of_kind(objects, "pods").filter(|pod| !is_over(pod)).count();
    if text(quota, "/status/used/pods") != count.to_string() {
        open.push(format!("{count} pods, and the quota says {}", quota["status"]));
    }
}

fn selected<'a>(kind: &'a str, objects: &'a Objects) -> impl Iterator<Item = &'a Value> {
    of_kind(objects, "pods").filter(move |pod| text(pod, "/metadata/labels/app") == kind)
}

fn is_ready(pod: &Value) -> bool {
    text(pod, "/status/conditions/0/status") == "True"
}

/// Slices and Endpoints list every pod that runs, once, and as ready as it is.
fn served(kind: &str, objects: &Objects, open: &mut Vec<String>) {
    let running = selected(kind, objects).filter(|pod| text(pod, "/status/phase") == "Running");
    let mut wanted: Vec<(&str, bool)> = running.map(|pod| (text(pod, "/status/podIP"), is_ready(pod))).collect();
    wanted.sort_unstable();
    let slices = of_kind(objects, "endpointslices").filter(|slice| text(slice, "/metadata/labels/kubernetes.io~1service-name") == kind);
    let all = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let mut listed: Vec<(&str, bool)> =
        all.map(|endpoint| (text(endpoint, "/addresses/0"), endpoint.pointer("/conditions/ready") == Some(&json!(true)))).collect();
    listed.sort_unstable();
    if listed != wanted {
        open.push(format!("{kind}: slices list {listed:?} of {wanted:?}"));
    }
    let subsets = objects.get(&("endpoints", kind.to_owned())).and_then(|endpoints| endpoints["subsets"].as_array());
    let mut listed = Vec::new();
    for subset in subsets.into_iter().flatten() {
        for (list, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
            listed.extend(subset[list].as_array().into_iter().flatten().map(|address| (text(address, "/ip"), is_ready)));
        }
    }
    listed.sort_unstable();
    if listed != wanted {
        open.push(format!("{kind}: Endpoints list {listed:?} of {wanted:?}"));
    }
}

/// The budget counts the pods that serve, and allows what they are above what is promised.
fn budgeted(kind: &str, objects: &Objects, open: &mut Vec<String>) {
    let Some(budget) = objects.get(&("poddisruptionbudgets", kind.to_owned())) else { return };
    let status = |field: &str| budget.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(-1);
    let healthy = i64::try_from(selected(kind, objects).filter(|pod| is_ready(pod)).count()).unwrap_or(i64::MAX);
    let (expected, desired) = (status("expectedPods"), status("desiredHealthy"));
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    if (status("currentHealthy"), status("disruptionsAllowed")) != (healthy, allowed) {
        open.push(format!("{kind}: {healthy} pods serve, and the budget says {}", budget["status"]));
    }
}

/// `unanswered`: a pod of a Job may have been created once more for each time that its Job is among them, since nobody was told of the first.
fn end_of(kind: &str, object: &Value, objects: &Objects, unanswered: &[String], open: &mut Vec<String>) {
    if kind == "cronjobs" {
        return scheduled(object, objects, unanswered, open);
    }
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            open.push(format!("{kind}: {what}"));
        }
    };
    let status = |field: &str| object.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    let spec = |field: &str| object.pointer(&format!("/spec/{field}")).and_then(Value::as_i64).unwrap_or(0);
    let uid = text(object, "/metadata/uid");
    let unanswered = i64::try_from(unanswered.iter().filter(|owner| *owner == uid).count()).unwrap_or(i64::MAX);
    let image = |of: &Value| of.pointer("/spec/containers/0/image").cloned();
    let version = object.pointer("/spec/template/spec/containers/0/image").cloned();
    let owners: Vec<&str> = match kind {
        "deployments" => {
            of_kind(objects, "replicasets").filter(|set| controller(set) == Some(uid)).map(|set| text(set, "/metadata/uid")).collect()
        }
        _ => vec![uid],
    };
    let pods: Vec<&Value> = of_kind(objects, "pods").filter(|pod| controller(pod).is_some_and(|of| owners.contains(&of))).collect();
    let active: Vec<&&Value> = pods.iter().filter(|pod| !is_over(pod)).collect();
    let ready = active.iter().filter(|pod| is_ready(pod)).count();
    let is = |count: usize, wanted: i64| i64::try_from(count) == Ok(wanted);
    if kind != "jobs" {
        expect(status("observedGeneration") == object["metadata"]["generation"].as_i64().unwrap_or(0), "its spec has not been seen");
        let rolled = kind == "replicasets" || kind == "replicationcontrollers" || active.iter().all(|pod| image(pod) == version);
        expect(rolled, "pods of an older version");
    }
    match kind {
        "jobs" => {
            let done = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
            expect(done.clone().any(|condition| condition["type"] == "Complete" && condition["status"] == "True"), "not complete");
            // Of an index it is counted once that it succeeded.
            let most = spec("completions") + if text(object, "/spec/completionMode") == "Indexed" { 0 } else { unanswered };
            expect((spec("completions")..=most).contains(&status("succeeded")), "not as many successes as were asked for");
            expect(active.is_empty() && status("active") == 0, "pods are still active");
            expect(pods.iter().all(|pod| pod.pointer("/metadata/finalizers/0").is_none()), "pods are still tracked");
            let succeeded = pods.iter().filter(|pod| text(pod, "/status/phase") == "Succeeded").count();
            expect(
                i64::try_from(succeeded).is_ok_and(|there| there <= spec("completions") + unanswered),
                "more successes than were asked for",
            );
        }
        "daemonsets" => {
            let nodes = of_kind(objects, "nodes").filter(|node| node.pointer("/spec/taints/0").is_none()).count();
            expect(ready == nodes && active.len() == nodes, "not one pod on every node");
            expect(is(nodes, status("desiredNumberScheduled")) && is(nodes, status("numberAvailable")), "its status is wrong");
            expect(is(nodes, status("updatedNumberScheduled")), "its status does not know the update");
        }
        _ => {
            expect(is(ready, spec("replicas")) && is(active.len(), spec("replicas")), "not as many pods as asked for");
            for count in ["replicas", "readyReplicas", "availableReplicas"] {
                expect(status(count) == spec("replicas"), "its status is wrong");
            }
        }
    }
    match kind {
        "deployments" => {
            let left = of_kind(objects, "replicasets").filter(|set| controller(set) == Some(uid) && set["spec"]["replicas"] != 0).count();
            expect(left <= 1 && status("updatedReplicas") == spec("replicas"), "old ReplicaSets have pods");
        }
        "statefulsets" => {
            let start = spec("ordinals/start");
            let mut names: Vec<String> = (start..start + spec("replicas")).map(|ordinal| format!("{kind}-{ordinal}")).collect();
            names.sort();
            expect(
                active.iter().map(|pod| text(pod, "/metadata/name")).eq(names.iter().map(String::as_str)),
                "other ordinals than asked for",
            );
            expect(text(object, "/status/currentRevision") == text(object, "/status/updateRevision"), "the rollout is not over");
        }
        _ => {}
    }
}

/// All Jobs of a CronJob have come to their ends, it knows, and only those are left that it keeps.
fn scheduled(cron_job: &Value, objects: &Objects, unanswered: &[String], open: &mut Vec<String>) {
    if cron_job.pointer("/status/active/0").is_some() {
        open.push(format!("it lists active jobs: {}", cron_job["status"]));
    }
    let jobs: Vec<&Value> = of_kind(objects, "jobs").filter(|job| controller(job) == Some(text(cron_job, "/metadata/uid"))).collect();
    for job in &jobs {
        end_of("jobs", job, objects, unanswered, open);
    }
    let kept = cron_job.pointer("/spec/successfulJobsHistoryLimit").and_then(Value::as_i64).unwrap_or(0);
    if i64::try_from(jobs.len()).is_ok_and(|left| left > kept) {
        open.push(format!("{} jobs are left, and {kept} are to be kept", jobs.len()));
    }
}
