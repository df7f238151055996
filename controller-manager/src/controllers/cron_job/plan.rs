//! What a CronJob calls for: the account of its Jobs, the Job that is due, and old Jobs to remove (upstream: `cronjob_controllerv2.go`).

use super::schedule::Schedule;
use crate::claim::controller_reference;
use crate::controllers::job::plan as job;
use crate::ops::Op;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::sync::Arc;

/// For which time a Job was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So that the next look is not a little too early.
const LATER: SignedDuration = SignedDuration::from_millis(100);

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Events.
    pub events: Vec<Op>,
    /// The status.
    pub status: CronJobStatus,
    /// Jobs to delete because another takes their place.
    pub replace: Vec<ObjectReference>,
    /// A Job to create, and for which time.
    pub create: Option<(Box<Job>, Timestamp)>,
    /// When to look again.
    pub after: Option<SignedDuration>,
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

fn ended_how(job: &Job) -> Option<&'static str> {
    let status = job.status.as_ref()?;
    ["Complete", "Failed"].into_iter().find(|condition| job::condition(status, condition).is_some())
}

/// Brings the list of active Jobs up to date. `missing` are those of the list that are no longer there.
fn account(cron_job: &CronJob, jobs: &[Arc<Job>], missing: &[String], plan: &mut Plan) {
    let active = plan.status.active.get_or_insert_default();
    for job in jobs {
        let listed = active.iter().any(|entry| entry.uid == job.metadata.uid);
        match (ended_how(job), listed) {
            (None, false) => {
                let message = format!("Saw a job that the controller did not create or forgot: {}", name(job));
                plan.events.push(Op::warning(cron_job, "UnexpectedJob", message));
            }
            (Some(how), true) => {
                active.retain(|entry| entry.uid != job.metadata.uid);
                let message = format!("Saw completed job: {}, condition: {how}", name(job));
                plan.events.push(Op::normal(cron_job, "SawCompletedJob", message));
            }
            _ => {}
        }
        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if ended_how(job) == Some("Complete") && completed.as_ref().map(|t| t.0) > plan.status.last_successful_time.as_ref().map(|t| t.0) {
            plan.status.last_successful_time = completed;
        }
    }
    for entry in active.extract_if(.., |entry| entry.uid.as_ref().is_some_and(|uid| missing.contains(uid))) {
        let message = format!("Active job went missing: {}", entry.name.unwrap_or_default());
        plan.events.push(Op::normal(cron_job, "MissingJob", message));
    }
}

/// Decides.
pub fn plan(cron_job: &CronJob, jobs: &[Arc<Job>], missing: &[String], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron_job.status.clone().unwrap_or_default(), ..Plan::default() };
    account(cron_job, jobs, missing, &mut plan);
    if cron_job.metadata.deletion_timestamp.is_none() {
        run(cron_job, now, &mut plan);
    }
    plan
}

fn run(cron_job: &CronJob, now: Timestamp, plan: &mut Plan) {
    let spec = &cron_job.spec;
    if let Some(zone) = &spec.time_zone
        && let Err(error) = jiff::tz::TimeZone::get(zone)
    {
        plan.events.push(Op::warning(cron_job, "UnknownTimeZone", format!("invalid timeZone: {zone:?}: {error}")));
        return;
    }
    if spec.suspend == Some(true) {
        return;
    }
    if spec.schedule.contains("TZ") {
        let message = format!(
            "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ \
             for more details",
            spec.schedule
        );
        plan.events.push(Op::warning(cron_job, "UnsupportedSchedule", message));
    }
    let schedule = match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            plan.events.push(Op::warning(cron_job, "UnparseableSchedule", message));
            return;
        }
    };
    let created = cron_job.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let last = plan.status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    plan.after = schedule.next(now).map(|next| next.duration_since(now) + LATER);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let since = deadline.and_then(|deadline| now.checked_sub(deadline).ok()).map_or(last, |earliest| earliest.max(last));
    let Some(missed) = schedule.missed(since, now) else { return };
    if missed.many {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push(Op::warning(cron_job, "TooManyMissedTimes", message));
    }
    let due = missed.last;
    if deadline.is_some_and(|deadline| now.duration_since(due) > deadline) {
        let message = format!("Missed scheduled time to start a job: {}", due.strftime("%a, %d %b %Y %H:%M:%S %z"));
        plan.events.push(Op::warning(cron_job, "MissSchedule", message));
        return;
    }
    let new = from_template(cron_job, &schedule, due);
    let active = plan.status.active.get_or_insert_default();
    if active.iter().any(|entry| entry.name == new.metadata.name) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push(Op::normal(cron_job, "JobAlreadyActive", message));
            return;
        }
        Some("Replace") => plan.replace = std::mem::take(active),
        _ => {}
    }
    plan.create = Some((Box::new(new), due));
}

fn from_template(cron_job: &CronJob, schedule: &Schedule, due: Timestamp) -> Job {
    let template = cron_job.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), schedule.show(due));
    let metadata = ObjectMeta {
        name: Some(format!("{}-{}", cron_job.metadata.name.as_deref().unwrap_or_default(), due.as_second() / 60)),
        namespace: cron_job.metadata.namespace.clone(),
        labels: meta.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![controller_reference(cron_job)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: template.spec, status: None }
}

/// Notes a Job that was made.
pub fn started(status: &mut CronJobStatus, job: &Job, due: Timestamp) {
    status.last_schedule_time = Some(Time(due));
    status.active.get_or_insert_default().push(ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
}

/// The oldest finished Jobs beyond the number that is to be kept.
pub fn surplus(cron_job: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cron_job.spec;
    let limits = [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let mut surplus = Vec::new();
    for (how, limit) in limits {
        let Some(limit) = limit else { continue };
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(|job| ended_how(job) == Some(how)).cloned().collect();
        ended.sort_by_key(|job| (job.status.as_ref().and_then(|s| s.start_time.clone()).map(|t| t.0), job.metadata.name.clone()));
        let too_many = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        surplus.extend(ended.into_iter().take(too_many));
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cron_job(more: Value, status: Value) -> CronJob {
        let mut spec = json!({"schedule": "*/10 * * * *", "timeZone": "UTC", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 0, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let meta = json!({"namespace": "ns", "name": "c", "uid": "c", "creationTimestamp": "2026-01-01T00:01:00Z"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
    }

    fn job(name: &str, how: Option<&str>, start: &str) -> Arc<Job> {
        let conditions: Vec<Value> = how.into_iter().map(|how| json!({"type": how, "status": "True"})).collect();
        let completed = (how == Some("Complete")).then_some("2026-01-01T00:05:00Z");
        let status = json!({"conditions": conditions, "startTime": start, "completionTime": completed});
        Arc::new(serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "status": status})).unwrap())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.events.iter().map(|op| if let Op::Event { reason, .. } = op { *reason } else { "" }).collect()
    }

    #[test]
    fn what_is_due() {
        let active = json!({"active": [{"name": "old", "uid": "old"}]});
        type Case<'a> = (Value, Value, &'a str, Option<&'a str>, Vec<&'a str>);
        let cases: Vec<Case<'_>> = vec![
            (json!({}), json!({}), "2026-01-01T00:09:59Z", None, vec![]),
            (json!({}), json!({}), "2026-01-01T00:10:01Z", Some("2026-01-01T00:10:00Z"), vec![]),
            (json!({}), json!({"lastScheduleTime": "2026-01-01T00:10:00Z"}), "2026-01-01T00:10:01Z", None, vec![]),
            (json!({}), json!({}), "2026-01-01T00:31:00Z", Some("2026-01-01T00:30:00Z"), vec![]),
            (json!({}), json!({}), "2026-01-02T00:31:00Z", Some("2026-01-02T00:30:00Z"), vec!["TooManyMissedTimes"]),
            (json!({"suspend": true}), json!({}), "2026-01-01T00:10:01Z", None, vec![]),
            (json!({"startingDeadlineSeconds": 30}), json!({}), "2026-01-01T00:11:00Z", None, vec![]),
            (json!({"startingDeadlineSeconds": 60}), json!({}), "2026-01-01T00:10:50Z", Some("2026-01-01T00:10:00Z"), vec![]),
            (json!({"concurrencyPolicy": "Forbid"}), active.clone(), "2026-01-01T00:10:01Z", None, vec!["JobAlreadyActive"]),
            (json!({"concurrencyPolicy": "Replace"}), active, "2026-01-01T00:10:01Z", Some("2026-01-01T00:10:00Z"), vec![]),
            (json!({"timeZone": "Nowhere/Land"}), json!({}), "2026-01-01T00:10:01Z", None, vec!["UnknownTimeZone"]),
        ];
        for (spec, status, now, due, told) in cases {
            let planned = plan(&cron_job(spec.clone(), status), &[], &[], at(now));
            assert_eq!(planned.create.as_ref().map(|(_, due)| *due), due.map(at), "{spec} {now}");
            assert_eq!(reasons(&planned), told, "{spec} {now}");
            assert_eq!(planned.replace.len(), usize::from(spec["concurrencyPolicy"] == "Replace"), "{spec}");
        }
    }

    #[test]
    fn the_job_made() {
        let planned = plan(&cron_job(json!({"timeZone": "Asia/Tokyo"}), json!({})), &[], &[], at("2026-01-01T00:10:01Z"));
        let (job, due) = planned.create.unwrap();
        assert_eq!(job.metadata.name, Some(format!("c-{}", due.as_second() / 60)));
        assert_eq!(job.metadata.annotations.as_ref().unwrap()[SCHEDULED], "2026-01-01T09:10:00+09:00");
        assert_eq!(job.metadata.labels.as_ref().unwrap()["a"], "b");
        let mut status = planned.status;
        started(&mut status, &job, due);
        assert_eq!((status.last_schedule_time, status.active.unwrap().len()), (Some(Time(due)), 1));
    }

    #[test]
    fn the_account() {
        let listed = |names: &[&str]| json!({"active": names.iter().map(|name| json!({"name": name, "uid": name})).collect::<Vec<_>>()});
        let cron_job = cron_job(json!({}), listed(&["done", "running", "gone"]));
        let jobs = [
            job("done", Some("Complete"), "2026-01-01T00:00:00Z"),
            job("running", None, "2026-01-01T00:00:00Z"),
            job("found", None, "2026-01-01T00:00:00Z"),
        ];
        let planned = plan(&cron_job, &jobs, &["gone".to_owned()], at("2026-01-01T00:02:00Z"));
        assert_eq!(reasons(&planned), ["SawCompletedJob", "UnexpectedJob", "MissingJob"]);
        let left: Vec<_> = planned.status.active.unwrap().into_iter().map(|entry| entry.name.unwrap()).collect();
        assert_eq!(left, ["running"]);
        assert_eq!(planned.status.last_successful_time, Some(Time(at("2026-01-01T00:05:00Z"))));
        assert_eq!(planned.after.map(|after| after.as_secs()), Some(480));
    }

    #[test]
    fn the_oldest_go() {
        let jobs = [
            job("b", Some("Complete"), "2026-01-01T00:02:00Z"),
            job("a", Some("Complete"), "2026-01-01T00:01:00Z"),
            job("f", Some("Failed"), "2026-01-01T00:03:00Z"),
            job("r", None, "2026-01-01T00:00:00Z"),
        ];
        let going: Vec<_> = surplus(&cron_job(json!({}), json!({})), &jobs).iter().map(|job| name(job).to_owned()).collect();
        assert_eq!(going, ["a", "f"]);
    }
}
