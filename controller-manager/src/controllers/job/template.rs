//! The pods of a Job: its template with the tracking finalizer and, in an indexed one, with the index in an annotation, a label, the environment and the host name.

use super::plan::{INDEX, TRACKING};
use crate::claim::controller_reference;
use crate::pods;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

/// How often a pod's index had failed when the pod was made.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often in ways that do not count.
pub const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const ENVIRONMENT: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix of a generated name.
const LONGEST_PREFIX: usize = 58;

/// A pod, with its index and with how often that has failed (counted, ignored).
pub fn pod(job: &Job, index: Option<(i32, Option<(i32, i32)>)>) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let template = job.spec.as_ref().map(|spec| &spec.template);
    let prefix = match index {
        None => format!("{name}-"),
        Some((index, _)) => {
            let end = format!("-{index}-");
            format!("{}{end}", name.get(..LONGEST_PREFIX - end.len()).unwrap_or(name))
        }
    };
    let mut pod = pods::from_template(template, namespace, prefix, controller_reference(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let Some((index, failures)) = index else { return pod };
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = failures {
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        add_index(container);
    }
    pod
}

fn add_index(container: &mut Container) {
    let environment = container.env.get_or_insert_default();
    if environment.iter().any(|variable| variable.name == ENVIRONMENT) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..ObjectFieldSelector::default() };
    environment.push(EnvVar {
        name: ENVIRONMENT.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}
