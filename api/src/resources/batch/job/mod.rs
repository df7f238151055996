//! Job: pods that run to their end.

mod validation;

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, SelectableField, Subresource, texts};
use crate::resources::apps::template::name_warning;
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::warnings;
use crate::resources::defaulting::{absent, text};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("Job")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Status", "string"),
    shown("Completions", "string"),
    shown("Duration", "string"),
    AGE,
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

impl Kind for Job {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        job_spec(spec);
        take_labels(&mut self.metadata, self.spec.as_ref());
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
        let Some(spec) = &mut self.spec else { return };
        if spec.manual_selector != Some(true) {
            generate_selector(&self.metadata, spec);
        }
        // Counting by finalizers is the only way there is, and is no longer announced on the object.
        if let Some(annotations) = &mut self.metadata.annotations {
            annotations.remove("batch.kubernetes.io/job-tracking");
        }
        take_labels(&mut self.metadata, self.spec.as_ref());
    }

    fn validate(&self, errors: &mut ErrorList) {
        validation::job(errors, self);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        validation::update(errors, self, old);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.as_ref().map(|s| &s.template);
        let name = name_warning(&self.metadata).filter(|_| old.is_none());
        name.into_iter().chain(template.into_iter().flat_map(|t| warnings::template(&Path::new("spec").child("template"), t))).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone().unwrap_or_default(), self.status.clone().unwrap_or_default());
        let (names, images) = printer::containers(&spec.template.spec.clone().unwrap_or_default().containers);
        let duration = match (&status.start_time, &status.completion_time) {
            (Some(start), Some(end)) => crate::duration::human(end.0.duration_since(start.0).as_secs()),
            (Some(start), None) => printer::since_timestamp(start.0, context),
            (None, _) => String::new(),
        };
        let succeeded = status.succeeded.unwrap_or(0);
        let completions = match (spec.completions, spec.parallelism) {
            (Some(completions), _) => format!("{succeeded}/{completions}"),
            (None, Some(parallelism)) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        vec![
            printer::name(&self.metadata),
            json!(status_text(&status, self.metadata.deletion_timestamp.is_some())),
            json!(completions),
            json!(duration),
            printer::age(&self.metadata, context),
            json!(names),
            json!(images),
            json!(printer::selector(spec.selector.as_ref())),
        ]
    }
}

/// Defaults of a job's spec, which are also those of the job template of a CronJob.
pub fn job_spec(spec: &mut JobSpec) {
    template(&mut spec.template);
    // Left out together they mean one pod; completions alone left out mean that pods decide when the work is done.
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    absent(&mut spec.parallelism, 1);
    absent(&mut spec.backoff_limit, if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
    text(&mut spec.completion_mode, "NonIndexed");
    absent(&mut spec.suspend, false);
    let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    text(&mut spec.pod_replacement_policy, replacement);
    absent(&mut spec.manual_selector, false);
    for rule in spec.pod_failure_policy.iter_mut().flat_map(|p| &mut p.rules) {
        for pattern in rule.on_pod_conditions.iter_mut().flatten() {
            text(&mut pattern.status, "True");
        }
    }
}

/// The labels of the pods of a job, under the names of today and those that came before.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Gives the pods labels that no other job's pods have, and selects by them.
fn generate_selector(metadata: &ObjectMeta, spec: &mut JobSpec) {
    let Some(uid) = metadata.uid.clone() else { return };
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for name in NAME_LABELS {
        labels.insert(name.into(), metadata.name.clone().unwrap_or_default());
    }
    for name in UID_LABELS {
        labels.insert(name.into(), uid.clone());
    }
    let selector = spec.selector.get_or_insert_default();
    selector.match_labels.get_or_insert_default().entry(UID_LABELS[0].into()).or_insert(uid);
}

/// A job without labels has those of its pods.
fn take_labels(metadata: &mut ObjectMeta, spec: Option<&JobSpec>) {
    if metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
        metadata.labels = spec.and_then(|s| s.template.metadata.as_ref()).and_then(|m| m.labels.clone());
    }
}

/// What is wrong with the job of a CronJob's template, which has no selector yet.
pub fn template_spec(errors: &mut ErrorList, path: &Path, spec: &JobSpec) {
    validation::spec(errors, path, spec);
}

/// The STATUS column: the first of the conditions that decide.
fn status_text(status: &JobStatus, deleting: bool) -> &'static str {
    let has = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if deleting => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        selectable_fields: [SelectableField::with("status.successful", &["status.succeeded"], "0")].to_vec().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<Job>()
    }
}
