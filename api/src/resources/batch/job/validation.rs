//! Validation of jobs, in upstream's order (upstream: `pkg/apis/batch/validation`).

use crate::field::{ErrorList, Path};
use crate::internal_text;
use crate::resources::apps::template as workload;
use crate::resources::core::pod::validation;
use crate::resources::defaulting::{items, str};
use crate::validation::{IMMUTABLE, labels, names, numbers::not_negative};
use k8s_openapi::api::batch::v1::{Job, JobSpec, PodFailurePolicyRule, SuccessPolicyRule};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

/// How many pods of an indexed job may run at once, and how many of its indexes may fail.
const INDEXED_MAX: i32 = 100_000;
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const TEMPLATE: &str = "io.k8s.api.core.v1.PodTemplateSpec";

pub(super) fn job(errors: &mut ErrorList, job: &Job) {
    let empty = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&empty);
    generated_selector(errors, job, spec);
    whole_spec(errors, spec);
}

/// The labels that keep the pods of two jobs apart have to be this job's, unless it says that it looks after that itself.
fn generated_selector(errors: &mut ErrorList, job: &Job, spec: &JobSpec) {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true)) else { return };
    let (uid, name) = (str(&job.metadata.uid), str(&job.metadata.name));
    let given = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    for (keys, value) in [(super::UID_LABELS, uid), (super::NAME_LABELS, name)] {
        for key in keys.iter().rev() {
            match given.and_then(|l| l.get(*key)) {
                None => errors.required(&path.key(key), &format!("must be '{value}'")),
                Some(found) if found != value => errors.invalid(&path.key(key), json!(given), &format!("must be '{value}'")),
                Some(_) => {}
            }
        }
    }
    let own: BTreeMap<String, String> = super::UID_LABELS.iter().map(|k| ((*k).to_owned(), uid.to_owned())).collect();
    if !labels::matches(selector, Some(&own)) {
        errors.invalid(&Path::new("spec").child("selector"), workload::shown(selector), "`selector` not auto-generated");
    }
}

fn whole_spec(errors: &mut ErrorList, spec: &JobSpec) {
    let path = Path::new("spec");
    self::spec(errors, &path, spec);
    match &spec.selector {
        None => errors.required(&path.child("selector"), ""),
        Some(selector) => labels::selector(errors, &path.child("selector"), Some(selector)),
    }
    let given = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if !spec.selector.as_ref().is_some_and(|s| labels::matches(s, given)) {
        workload::does_not_match(errors, &path.child("template"), &spec.template);
    }
}

/// What has to hold for a job and for the template of one.
pub(in crate::resources::batch) fn spec(errors: &mut ErrorList, path: &Path, spec: &JobSpec) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        not_negative(errors, &path.child(field), value.unwrap_or(0));
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = &spec.managed_by {
        managed_by(errors, &path.child("managedBy"), manager);
    }
    completion_mode(errors, path, spec);
    if let Some(policy) = &spec.pod_failure_policy {
        let path = path.child("podFailurePolicy").child("rules");
        if policy.rules.len() > RULES_MAX {
            errors.too_many(&path, policy.rules.len(), RULES_MAX);
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            failure_rule(errors, &path.index(i), rule, spec);
        }
    }
    if let Some(policy) = &spec.success_policy {
        let at = path.child("successPolicy");
        if spec.completion_mode.as_deref() != Some("Indexed") {
            errors.invalid(&at, json!(policy), "requires indexed completion mode");
        } else if policy.rules.is_empty() {
            errors.required(&at.child("rules"), "at least one rules must be specified when the successPolicy is specified");
        }
        policy.rules.iter().enumerate().for_each(|(i, rule)| success_rule(errors, &at.child("rules").index(i), rule, spec));
    }
    replacement(errors, &path.child("podReplacementPolicy"), spec);
    validation::template(errors, &path.child("template"), &spec.template);
    // The default for pods in general is no choice that a job could mean.
    let at = path.child("template").child("spec").child("restartPolicy");
    match spec.template.spec.as_ref().map_or("", |s| str(&s.restart_policy)) {
        "" | "Always" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        policy @ ("OnFailure" | "Never") => {
            if spec.pod_failure_policy.is_some() && policy != "Never" {
                errors.invalid(&at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
            }
        }
        other => errors.not_supported(&at, other, &["OnFailure", "Never"]),
    }
}

fn managed_by(errors: &mut ErrorList, path: &Path, manager: &str) {
    match manager.split_once('/') {
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            crate::validation::invalid(errors, path, manager, names::dns1123_subdomain(domain));
        }
        _ => errors.invalid(path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    if manager.len() > names::LABEL_MAX {
        errors.too_long(path, names::LABEL_MAX);
    }
}

fn completion_mode(errors: &mut ErrorList, path: &Path, spec: &JobSpec) {
    const NEEDS_INDEXES: &str = "requires indexed completion mode";
    let at = path.child("completionMode");
    let indexed = match spec.completion_mode.as_deref() {
        Some("Indexed") => true,
        None | Some("NonIndexed") => false,
        Some(other) => {
            errors.not_supported(&at, other, &["NonIndexed", "Indexed"]);
            return;
        }
    };
    if !indexed {
        for (field, value) in [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", spec.max_failed_indexes)] {
            if let Some(value) = value {
                errors.invalid(&path.child(field), value, NEEDS_INDEXES);
            }
        }
        return;
    }
    if spec.completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let too_many = format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
    if let Some(value) = spec.parallelism.filter(|p| *p > INDEXED_MAX) {
        errors.invalid(&path.child("parallelism"), value, &too_many);
    }
    if let (Some(failed), Some(completions)) = (spec.max_failed_indexes, spec.completions) {
        if failed > completions {
            errors.invalid(&path.child("maxFailedIndexes"), failed, "must be less than or equal to completions");
        }
        if failed > INDEXED_MAX {
            errors.invalid(&path.child("maxFailedIndexes"), failed, &format!("must be less than or equal to {INDEXED_MAX}"));
        }
    }
}

fn failure_rule(errors: &mut ErrorList, path: &Path, rule: &PodFailurePolicyRule, spec: &JobSpec) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let at = path.child("action");
    match rule.action.as_str() {
        "" => errors.required(&at, "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\""),
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            errors.invalid(&at, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        action if !ACTIONS.contains(&action) => errors.not_supported(&at, action, ACTIONS),
        _ => {}
    }
    let conditions = items(&rule.on_pod_conditions);
    match (&rule.on_exit_codes, conditions.is_empty()) {
        (Some(_), false) => {
            errors.invalid(path, json!(rule), "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (None, true) => errors.invalid(path, json!(rule), "specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
    if let Some(codes) = &rule.on_exit_codes {
        let path = path.child("onExitCodes");
        if !matches!(codes.operator.as_str(), "In" | "NotIn") {
            errors.not_supported(&path.child("operator"), codes.operator.as_str(), &["In", "NotIn"]);
        }
        if let Some(name) = &codes.container_name {
            let pod = spec.template.spec.as_ref();
            let known = pod.is_some_and(|p| p.containers.iter().chain(items(&p.init_containers)).any(|c| c.name == *name));
            if !known {
                errors.invalid(
                    &path.child("containerName"),
                    name.as_str(),
                    "must be one of the container or initContainer names in the pod template",
                );
            }
        }
        let at = path.child("values");
        if codes.values.is_empty() {
            errors.invalid(&at, json!(codes.values), "at least one value is required");
        } else if codes.values.len() > EXIT_CODES_MAX {
            errors.too_many(&at, codes.values.len(), EXIT_CODES_MAX);
        }
        let mut seen = HashSet::new();
        for (i, code) in codes.values.iter().enumerate() {
            if *code == 0 && codes.operator == "In" {
                errors.invalid(&at.index(i), *code, "must not be 0 for the In operator");
            } else if !seen.insert(code) {
                errors.duplicate(&at.index(i), *code);
            }
        }
    }
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(&path.child("onPodConditions"), conditions.len(), CONDITIONS_MAX);
    }
    for (i, pattern) in conditions.iter().enumerate() {
        let path = path.child("onPodConditions").index(i);
        labels::label_name(errors, &path.child("type"), &pattern.type_);
        let status = str(&pattern.status);
        validation::containers::one_of(errors, &path.child("status"), status, &["False", "True", "Unknown"]);
    }
}

fn success_rule(errors: &mut ErrorList, path: &Path, rule: &SuccessPolicyRule, spec: &JobSpec) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    if let Some(count) = rule.succeeded_count {
        let at = path.child("succeededCount");
        if count < 1 {
            errors.invalid(&at, count, "must be greater than or equal to 1");
        }
        if spec.completions.is_some_and(|completions| count > completions) {
            let completions = spec.completions.unwrap_or(0);
            errors.invalid(&at, count, &format!("must be less than or equal to {completions} (the number of specified completions)"));
        }
    }
}

fn replacement(errors: &mut ErrorList, path: &Path, spec: &JobSpec) {
    let Some(policy) = spec.pod_replacement_policy.as_deref() else { return };
    if spec.pod_failure_policy.is_some() {
        // A pod that may yet be judged by how it failed has to fail first.
        if policy != "Failed" {
            errors.not_supported(path, policy, &["Failed"]);
        }
    } else if !matches!(policy, "Failed" | "TerminatingOrFailed") {
        errors.not_supported(path, policy, &["Failed", "TerminatingOrFailed"]);
    }
}

/// Upstream validates the new job twice on an update, and its clients see each mistake twice among the causes.
pub(super) fn update(errors: &mut ErrorList, new: &Job, old: &Job) {
    job(errors, new);
    let empty = JobSpec::default();
    let (spec, before) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    whole_spec(errors, spec);
    let path = Path::new("spec");
    completions(errors, &path.child("completions"), spec, before);
    fixed(errors, &path.child("selector"), &spec.selector, &before.selector);
    let mut template = before.template.clone();
    if has_stopped(old) {
        permit(&mut template, &spec.template);
    }
    if spec.template != template {
        errors.invalid_as(&path.child("template"), &internal_text::of(TEMPLATE, &spec.template), IMMUTABLE);
    }
    fixed(errors, &path.child("completionMode"), &spec.completion_mode, &before.completion_mode);
    fixed(errors, &path.child("podFailurePolicy"), &spec.pod_failure_policy, &before.pod_failure_policy);
    fixed(errors, &path.child("backoffLimitPerIndex"), &spec.backoff_limit_per_index, &before.backoff_limit_per_index);
    fixed(errors, &path.child("managedBy"), &spec.managed_by, &before.managed_by);
    fixed(errors, &path.child("successPolicy"), &spec.success_policy, &before.success_policy);
}

/// Whether no pod has been made from the template yet, or none is left and none will be: the job is suspended.
fn has_stopped(job: &Job) -> bool {
    let suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
    let status = job.status.as_ref();
    let noted = || {
        let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|condition| condition.type_ == "Suspended" && condition.status == "True")
    };
    let idle = status.is_none_or(|status| status.active.unwrap_or(0) == 0);
    suspended && idle && (status.is_none_or(|status| status.start_time.is_none()) || noted())
}

/// Takes over what may be changed of such a job: where its pods will run, how much they ask for, and their labels and annotations.
fn permit(template: &mut PodTemplateSpec, wanted: &PodTemplateSpec) {
    if let (Some(pod), Some(now)) = (&mut template.spec, &wanted.spec) {
        pod.node_selector = now.node_selector.clone();
        pod.tolerations = now.tolerations.clone();
        pod.scheduling_gates = now.scheduling_gates.clone();
        let node = now.affinity.as_ref().and_then(|a| a.node_affinity.clone());
        match (&mut pod.affinity, node) {
            (None, None) => {}
            (affinity, node) => affinity.get_or_insert_default().node_affinity = node,
        }
        if now.affinity.is_none() && pod.affinity == Some(Default::default()) {
            pod.affinity = None;
        }
        let before = pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten());
        for (container, now) in before.zip(now.containers.iter().chain(now.init_containers.iter().flatten())) {
            container.resources = now.resources.clone();
        }
    }
    if let Some(now) = &wanted.metadata {
        let metadata = template.metadata.get_or_insert_default();
        metadata.annotations = now.annotations.clone();
        metadata.labels = now.labels.clone();
    }
}

fn fixed<T: Serialize + PartialEq>(errors: &mut ErrorList, path: &Path, new: &Option<T>, old: &Option<T>) {
    if new != old {
        let shown = new.as_ref().map_or(Value::Null, |value| json!(value));
        errors.invalid(path, shown, IMMUTABLE);
    }
}

/// How many completions a job has is fixed, but for indexed jobs that run all of their indexes at once.
fn completions(errors: &mut ErrorList, path: &Path, new: &JobSpec, old: &JobSpec) {
    let elastic = new.completion_mode.as_deref() == Some("Indexed") && new.completions.is_some();
    if !elastic {
        return fixed(errors, path, &new.completions, &old.completions);
    }
    let in_tandem = old.completions == old.parallelism && new.completions == new.parallelism;
    if new.completions != old.completions && !in_tandem {
        errors.invalid(path, json!(new.completions), "can only be modified in tandem with spec.parallelism");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_changed_while_a_job_is_suspended() {
        let job = |suspend: bool, status: &Value, container: Value, pod: Value| -> Job {
            let mut spec = json!({"restartPolicy": "Never", "containers": [container]});
            spec.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
            serde_json::from_value(json!({"spec": {"suspend": suspend, "template": {"spec": spec}}, "status": status})).unwrap()
        };
        let container = || json!({"name": "c", "image": "i"});
        let (new, started) = (json!({}), json!({"startTime": "2026-01-01T00:00:00Z"}));
        let mut stopped = started.clone();
        stopped["conditions"] = json!([{"type": "Suspended", "status": "True"}]);
        let mut stopping = stopped.clone();
        stopping["active"] = json!(1);
        let sized = || json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}});
        let placed = || json!({"nodeSelector": {"a": "b"}});
        for (suspend, status, container_after, pod, expected) in [
            (true, &new, sized(), placed(), true),
            (true, &stopped, sized(), placed(), true),
            (true, &stopping, sized(), json!({}), false),
            (true, &started, json!({"name": "c", "image": "i"}), placed(), false),
            (false, &new, sized(), json!({}), false),
            (true, &new, json!({"name": "c", "image": "other"}), json!({}), false),
            (true, &new, container(), json!({"initContainers": [container()]}), false),
        ] {
            let (old, wanted) = (job(suspend, status, container(), json!({})), job(suspend, status, container_after, pod));
            let mut template = old.spec.as_ref().unwrap().template.clone();
            if has_stopped(&old) {
                permit(&mut template, &wanted.spec.as_ref().unwrap().template);
            }
            let equal = template == wanted.spec.as_ref().unwrap().template;
            assert_eq!(equal, expected, "{suspend} {status} {}", json!(wanted.spec));
        }
    }
}
