//! Pods that are to end: Jobs, and Jobs by the clock.

use skiff_testing::{Cluster, Kubectl, eventually, for_each_kubectl};

/// A Job whose container runs `script`, with `more` in its spec and pods that are never restarted in place.
fn job(name: &str, more: &str, script: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{more}template: {{spec: {{restartPolicy: Never, terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: 'busybox:1.28', command: [sh, -c, '{script}']}}]}}}}}}\n---\n"
    )
}

/// Waits until a condition of the Job is True for this reason.
fn until_condition(k: &Kubectl<'_>, job: &str, condition: &str, reason: &str) {
    k.until("job", job, &format!("{{.status.conditions[?(@.type==\"{condition}\")]['status', 'reason']}}"), &format!("True {reason}"));
}

/// How many pods of a Job have ended well, and how many not.
fn counts(k: &Kubectl<'_>, job: &str) -> String {
    k.field("job", job, "{.status.succeeded}/{.status.failed}")
}

/// Proves WRK-05: how many pods, how many at once and of which index; when it has failed and when it has done enough; its pods and what they said stay.
#[test]
fn a_job_ends_as_its_spec_says() {
    for_each_kubectl(Cluster::shared(), "jobs", |k| {
        k.apply(
            &[
                job("plain", "completions: 3, parallelism: 2, ", "echo done"),
                job("indexed", "completions: 2, parallelism: 2, completionMode: Indexed, ", "echo part $JOB_COMPLETION_INDEX"),
                job("hopeless", "backoffLimit: 0, ", "exit 1"),
                job("late", "activeDeadlineSeconds: 1, ", "sleep 1000"),
                job(
                    "forbidden",
                    "backoffLimit: 6, podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}, ",
                    "exit 42",
                ),
                job(
                    "enough",
                    "completions: 2, parallelism: 2, completionMode: Indexed, successPolicy: {rules: [{succeededIndexes: \"0\"}]}, ",
                    "[ $JOB_COMPLETION_INDEX = 0 ] || sleep 1000",
                ),
                job("held", "suspend: true, ", "echo released"),
                job("brief", "ttlSecondsAfterFinished: 1, ", "true"),
            ]
            .concat(),
        );
        until_condition(k, "plain", "Complete", "CompletionsReached");
        assert_eq!(counts(k, "plain"), "3/");
        let pods = k.ok(&["get", "pods", "-l", "batch.kubernetes.io/job-name=plain", "--no-headers"]);
        assert_eq!(pods.lines().filter(|line| line.contains("Completed")).count(), 3, "they stay: {pods}");
        assert_eq!(k.ok(&["logs", "-l", "batch.kubernetes.io/job-name=plain"]), "done\n".repeat(3));

        until_condition(k, "indexed", "Complete", "CompletionsReached");
        assert_eq!(k.field("job", "indexed", "{.status.completedIndexes}"), "0,1");
        let mut said: Vec<_> = k.ok(&["logs", "-l", "batch.kubernetes.io/job-name=indexed"]).lines().map(str::to_owned).collect();
        said.sort();
        assert_eq!(said, ["part 0", "part 1"]);

        until_condition(k, "hopeless", "Failed", "BackoffLimitExceeded");
        assert_eq!(counts(k, "hopeless"), "/1");
        until_condition(k, "late", "Failed", "DeadlineExceeded");
        until_condition(k, "forbidden", "Failed", "PodFailurePolicy");
        assert_eq!(counts(k, "forbidden"), "/1", "it is not tried six times more");
        until_condition(k, "enough", "SuccessCriteriaMet", "SuccessPolicy");
        until_condition(k, "enough", "Complete", "SuccessPolicy");
        k.until_gone("job", "brief");

        until_condition(k, "held", "Suspended", "JobSuspended");
        assert_eq!(k.ok(&["get", "pods", "-l", "batch.kubernetes.io/job-name=held", "-o", "name"]), "");
        k.ok(&["patch", "job", "held", "-p", r#"{"spec":{"suspend":false}}"#]);
        until_condition(k, "held", "Complete", "CompletionsReached");
        assert_eq!(k.ok(&["logs", "job/held"]), "released\n");
    });
}

/// Proves WRK-06: a Job each minute and no second one beside it, one by hand, none while it is suspended.
#[test]
fn a_cron_job_makes_jobs() {
    for_each_kubectl(Cluster::shared(), "cron", |k| {
        let owner = "{.metadata.ownerReferences[0].kind} {.metadata.ownerReferences[0].name}";
        let cron_job = |name: &str, suspended: bool| {
            format!(
                "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: {name}}}\nspec: {{schedule: '* * * * *', timeZone: Europe/Berlin, suspend: {suspended}, \
                 concurrencyPolicy: Forbid, startingDeadlineSeconds: 100, jobTemplate: {{spec: {{template: {{spec: {{restartPolicy: Never, \
                 terminationGracePeriodSeconds: 0, containers: [{{name: c, image: 'busybox:1.28', command: [sleep, '1000']}}]}}}}}}}}}}\n---\n"
            )
        };
        k.apply(&(cron_job("c", false) + &cron_job("suspended", true)));
        k.ok(&["create", "job", "by-hand", "--from=cronjob/c"]);
        assert_eq!(k.field("job", "by-hand", "{.metadata.annotations.cronjob\\.kubernetes\\.io/instantiate}"), "manual");
        assert_eq!(k.field("job", "by-hand", owner), "CronJob c");

        let jobs = || -> Vec<String> {
            let names = k.ok(&["get", "jobs", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"]);
            names.lines().filter(|name| *name != "by-hand").map(str::to_owned).collect()
        };
        eventually("the minute's Job", 90, || !jobs().is_empty());
        let [first] = &jobs()[..] else { panic!("one Job: {:?}", jobs()) };
        let minutes = first.strip_prefix("c-").and_then(|minutes| minutes.parse::<i64>().ok());
        assert!(minutes.is_some_and(|minutes| minutes > 29_000_000), "named after its minute: {first}");
        assert_eq!(k.field("job", first, owner), "CronJob c");
        k.until("cronjob", "c", "{.status.active[0].name}", first);

        // The next minute comes while that Job runs.
        let not_again = "Not starting job because prior execution is running and concurrency policy is Forbid";
        eventually("the next minute is left out", 90, || k.events("c").contains(&("JobAlreadyActive".into(), not_again.into())));
        assert_eq!(jobs(), [first.as_str()]);

        assert_eq!(k.field("cronjob", "suspended", "{.status.lastScheduleTime}"), "");
        k.ok(&["delete", "cronjob", "c"]);
        eventually("its Jobs go with it", 60, || k.ok(&["get", "jobs", "-o", "name"]).is_empty());
    });
}
