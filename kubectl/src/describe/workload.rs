//! What makes pods: deployments, replica sets, stateful sets, daemon sets, jobs, cron jobs.

use super::Asker;
use super::pod;
use super::writer::{Writer, list, or_none, selector, show, time};
use serde_json::Value;

fn head(object: &Value, chosen: bool, w: &mut Writer) {
    let meta = &object["metadata"];
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    if chosen {
        w.field(0, "Selector", chooser(object));
    }
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
}

/// A selector of either form as text.
fn chooser(object: &Value) -> String {
    let s = &object["spec"]["selector"];
    if s["matchLabels"].is_null() && s["matchExpressions"].is_null() {
        return super::service::pairs(s);
    }
    selector(s)
}

fn count(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// `2 Running / 1 Waiting / 0 Succeeded / 0 Failed`, of the pods an object controls.
fn pods_status(asker: &Asker<'_>, object: &Value) -> String {
    let meta = &object["metadata"];
    let path = format!("/api/v1/namespaces/{}/pods", show(&meta["namespace"]));
    let pods = asker.list(&path, &chooser(object), "");
    let own = pods.iter().filter(|p| list(&p["metadata"]["ownerReferences"]).iter().any(|o| o["uid"] == meta["uid"]));
    let phases: Vec<String> = own.map(|p| show(&p["status"]["phase"])).collect();
    let n = |phase: &str| phases.iter().filter(|p| *p == phase).count();
    format!("{} Running / {} Waiting / {} Succeeded / {} Failed", n("Running"), n("Pending"), n("Succeeded"), n("Failed"))
}

pub(super) fn deployment(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    w.field(0, "CreationTimestamp", time(&meta["creationTimestamp"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    w.field(0, "Selector", selector(&spec["selector"]));
    w.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            count(&spec["replicas"]),
            count(&status["updatedReplicas"]),
            count(&status["replicas"]),
            count(&status["availableReplicas"]),
            count(&status["unavailableReplicas"])
        ),
    );
    w.field(0, "StrategyType", show(&spec["strategy"]["type"]));
    w.field(0, "MinReadySeconds", count(&spec["minReadySeconds"]).to_string());
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        w.field(
            0,
            "RollingUpdateStrategy",
            format!("{} max unavailable, {} max surge", show(&rolling["maxUnavailable"]), show(&rolling["maxSurge"])),
        );
    }
    pod::template(&spec["template"], w);
    conditions(status, w);
    let path = format!("/apis/apps/v1/namespaces/{}/replicasets", show(&meta["namespace"]));
    let sets = asker.list(&path, &selector(&spec["selector"]), "");
    let mut own: Vec<&Value> =
        sets.iter().filter(|r| list(&r["metadata"]["ownerReferences"]).iter().any(|o| o["uid"] == meta["uid"])).collect();
    let revision = |r: &Value| {
        r["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str().and_then(|n| n.parse::<i64>().ok()).unwrap_or(0)
    };
    own.sort_by_key(|r| revision(r));
    let newest = own.pop();
    let shown = |r: &Value| {
        format!("{} ({}/{} replicas created)", show(&r["metadata"]["name"]), count(&r["status"]["replicas"]), count(&r["spec"]["replicas"]))
    };
    if !list(&status["conditions"]).is_empty() || newest.is_some() {
        w.field(0, "OldReplicaSets", or_none(own.iter().map(|r| shown(r)).collect::<Vec<_>>().join(", ")));
        w.field(0, "NewReplicaSet", newest.map_or("<none>".into(), shown));
    }
}

fn conditions(status: &Value, w: &mut Writer) {
    let all = list(&status["conditions"]);
    if !all.is_empty() {
        w.line(0, "Conditions:\n  Type\tStatus\tReason");
        w.line(1, "----\t------\t------");
        all.iter().for_each(|c| w.line(1, format!("{}\t{}\t{}", show(&c["type"]), show(&c["status"]), show(&c["reason"]))));
    }
}

pub(super) fn replica_set(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    head(object, false, w);
    let mut rest = Writer::default();
    let (spec, status) = (&object["spec"], &object["status"]);
    if let Some(owner) = pod::controller(object) {
        rest.field(0, "Controlled By", owner);
    }
    rest.field(0, "Replicas", format!("{} current / {} desired", count(&status["replicas"]), count(&spec["replicas"])));
    rest.field(0, "Pods Status", pods_status(asker, object));
    insert_selector(object, w);
    rest.into_lines().iter().for_each(|l| w.line(0, l));
    pod::template(&spec["template"], w);
    conditions(status, w);
}

/// Upstream has the selector between namespace and labels for these kinds.
fn insert_selector(object: &Value, w: &mut Writer) {
    let lines = std::mem::take(w).into_lines();
    for (i, line) in lines.iter().enumerate() {
        w.line(0, line);
        if i == 1 {
            w.field(0, "Selector", chooser(object));
        }
    }
}

pub(super) fn stateful_set(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    w.field(0, "CreationTimestamp", time(&meta["creationTimestamp"]));
    w.field(0, "Selector", selector(&spec["selector"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    w.field(0, "Replicas", format!("{} desired | {} total", count(&spec["replicas"]), count(&status["replicas"])));
    w.field(0, "Update Strategy", show(&spec["updateStrategy"]["type"]));
    let partition = &spec["updateStrategy"]["rollingUpdate"]["partition"];
    if !partition.is_null() {
        w.field(1, "Partition", show(partition));
    }
    w.field(0, "Pods Status", pods_status(asker, object));
    pod::template(&spec["template"], w);
    let claims = list(&spec["volumeClaimTemplates"]);
    if claims.is_empty() {
        w.field(0, "Volume Claims", "<none>");
        return;
    }
    w.line(0, "Volume Claims:");
    for c in claims {
        w.field(1, "Name", show(&c["metadata"]["name"]));
        w.field(1, "StorageClass", show(&c["spec"]["storageClassName"]));
        w.field(1, "Labels", or_none(super::service::pairs(&c["metadata"]["labels"])));
        w.field(1, "Annotations", or_none(super::service::pairs(&c["metadata"]["annotations"])));
        w.field(1, "Capacity", or_none(show(&c["spec"]["resources"]["requests"]["storage"])));
        let modes: Vec<String> = list(&c["spec"]["accessModes"]).iter().map(show).collect();
        w.field(1, "Access Modes", format!("[{}]", modes.join(" ")));
    }
}

pub(super) fn daemon_set(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    w.field(0, "Selector", selector(&spec["selector"]));
    w.field(0, "Node-Selector", or_none(super::service::pairs(&spec["template"]["spec"]["nodeSelector"])));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    for (title, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        w.line(0, format!("{title}: {}", count(&status[field])));
    }
    w.field(0, "Pods Status", pods_status(asker, object));
    pod::template(&spec["template"], w);
}

pub(super) fn job(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (spec, status) = (&object["spec"], &object["status"]);
    head(object, false, w);
    insert_selector(object, w);
    if let Some(owner) = pod::controller(object) {
        w.field(0, "Controlled By", owner);
    }
    w.some(0, "Parallelism", &spec["parallelism"]);
    w.field(0, "Completions", if spec["completions"].is_null() { "<unset>".into() } else { show(&spec["completions"]) });
    w.some(0, "Completion Mode", &spec["completionMode"]);
    w.some(0, "Suspend", &spec["suspend"]);
    w.some(0, "Backoff Limit", &spec["backoffLimit"]);
    w.some(0, "TTL Seconds After Finished", &spec["ttlSecondsAfterFinished"]);
    if !status["startTime"].is_null() {
        w.field(0, "Start Time", time(&status["startTime"]));
    }
    if !status["completionTime"].is_null() {
        w.field(0, "Completed At", time(&status["completionTime"]));
        let at = |v: &Value| v.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second);
        w.field(0, "Duration", crate::duration::human(at(&status["completionTime"]) - at(&status["startTime"])));
    }
    if !spec["activeDeadlineSeconds"].is_null() {
        w.field(0, "Active Deadline Seconds", format!("{}s", show(&spec["activeDeadlineSeconds"])));
    }
    let ready = if status["ready"].is_null() { String::new() } else { format!(" ({} Ready)", count(&status["ready"])) };
    w.field(
        0,
        "Pods Statuses",
        format!(
            "{} Active{ready} / {} Succeeded / {} Failed",
            count(&status["active"]),
            count(&status["succeeded"]),
            count(&status["failed"])
        ),
    );
    if spec["completionMode"] == "Indexed" {
        w.field(0, "Completed Indexes", or_none(show(&status["completedIndexes"])));
    }
    pod::template(&spec["template"], w);
}

pub(super) fn cron_job(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    head(object, false, w);
    w.field(0, "Schedule", show(&spec["schedule"]));
    w.some(0, "Time Zone", &spec["timeZone"]);
    w.field(0, "Concurrency Policy", show(&spec["concurrencyPolicy"]));
    let suspend = if spec["suspend"] == true { "True" } else { "False" };
    w.field(0, "Suspend", suspend);
    w.field(0, "Successful Job History Limit", show(&spec["successfulJobsHistoryLimit"]));
    w.field(0, "Failed Job History Limit", show(&spec["failedJobsHistoryLimit"]));
    w.field(
        0,
        "Starting Deadline Seconds",
        if spec["startingDeadlineSeconds"].is_null() { "<unset>".into() } else { format!("{}s", show(&spec["startingDeadlineSeconds"])) },
    );
    let job = &spec["jobTemplate"]["spec"];
    w.field(0, "Selector", selector(&job["selector"]));
    w.field(0, "Parallelism", if job["parallelism"].is_null() { "<unset>".into() } else { show(&job["parallelism"]) });
    w.field(0, "Completions", if job["completions"].is_null() { "<unset>".into() } else { show(&job["completions"]) });
    w.some(0, "Active Deadline Seconds", &job["activeDeadlineSeconds"]);
    pod::template(&job["template"], w);
    w.field(0, "Last Schedule Time", time(&status["lastScheduleTime"]));
    w.field(0, "Active Jobs", or_none(list(&status["active"]).iter().map(|j| show(&j["name"])).collect::<Vec<_>>().join(", ")));
    let _ = meta;
}
