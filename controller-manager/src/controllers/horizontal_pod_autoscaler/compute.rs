//! What all metrics of an autoscaler together ask for: the most that any of them does.

use super::metrics::Object;
use super::replicas::{Proposal, Target, Tolerance, by_samples, by_shared_value, by_value, requests};
use super::scale::Scale;
use super::{Autoscaler, status};
use api::quantity::Quantity;
use api::selector::LabelSelector as Selector;
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HorizontalPodAutoscaler, MetricSpec, MetricStatus,
    MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::sync::Arc;

/// What the metrics ask for.
pub struct Reading {
    /// So many replicas.
    pub replicas: i32,
    /// By this metric.
    pub metric: String,
    /// What was measured.
    pub statuses: Vec<MetricStatus>,
}

/// What one metric asks for, its name in texts, and what was measured.
type One = (i32, String, MetricStatus);

/// Why one metric asks for nothing: the condition's reason, its text, and the text of the whole.
struct Refusal {
    reason: &'static str,
    condition: String,
    error: String,
}

/// What a metric is computed from.
struct Given<'a> {
    namespace: &'a str,
    scale: &'a Scale,
    pods: &'a [Arc<Pod>],
    tolerance: Tolerance,
    now: Timestamp,
}

fn milli(amount: &Option<Amount>) -> Option<i64> {
    Quantity::of(amount.as_ref()?).ok().map(Quantity::milli_value)
}

fn amount(milli: i64) -> Option<Amount> {
    Some(Quantity::from_milli(milli).into())
}

fn average(milli: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: amount(milli), ..Default::default() }
}

fn value(milli: i64) -> MetricValueStatus {
    MetricValueStatus { value: amount(milli), ..Default::default() }
}

/// A selector as upstream's texts show it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expression = |e: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement| {
        let values = e.values.clone().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
    };
    let expressions: String = selector.match_expressions.iter().flatten().map(expression).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}")
}

/// How far use may be off the target: as the autoscaler says, else as much as is usual.
fn tolerance(hpa: &HorizontalPodAutoscaler, usual: f64) -> Tolerance {
    let behavior = hpa.spec.behavior.as_ref();
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        rules.and_then(|rules| Quantity::of(rules.tolerance.as_ref()?).ok()).map_or(usual, Quantity::to_f64)
    };
    Tolerance {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}

impl Autoscaler {
    /// What all metrics together ask for, or why nothing can be said; the condition ScalingActive of `hpa` says which.
    pub(super) async fn compute(
        &self,
        key: &ObjectKey,
        hpa: &mut HorizontalPodAutoscaler,
        scale: &Scale,
        now: Timestamp,
    ) -> Result<Reading, String> {
        let pods = match self.pods_of(key, scale) {
            Ok(pods) => pods,
            Err((event, reason, condition, error)) => {
                self.event(hpa, true, event, &error);
                status::set_condition(hpa, "ScalingActive", false, reason, &condition, now);
                return Err(error);
            }
        };
        let specs = hpa.spec.metrics.clone().unwrap_or_default();
        let tolerance = tolerance(hpa, self.context.settings.autoscaling.tolerance);
        let given = Given { namespace: &key.namespace, scale, pods: &pods, tolerance, now };
        let mut best: Option<(i32, String)> = None;
        let mut statuses = Vec::new();
        let mut refusals: Vec<Refusal> = Vec::new();
        for spec in &specs {
            match self.one(&given, spec).await {
                Ok((replicas, name, measured)) => {
                    statuses.push(measured);
                    if best.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                        best = Some((replicas, name));
                    }
                }
                Err(refusal) => {
                    self.event(hpa, true, refusal.reason, &refusal.condition);
                    refusals.push(refusal);
                }
            }
        }
        let first = refusals.first();
        match best {
            // What is missing might have asked for more: only the way up is safe.
            Some((replicas, metric)) if first.is_none() || replicas >= scale.replicas => {
                let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
                status::set_condition(hpa, "ScalingActive", true, "ValidMetricFound", &message, now);
                Ok(Reading { replicas, metric, statuses })
            }
            _ => {
                let Some(first) = first else { return Err("no metrics are named".to_owned()) };
                let message = format!("the HPA was unable to compute the replica count: {}", first.condition);
                status::set_condition(hpa, "ScalingActive", false, first.reason, &message, now);
                Err(format!("invalid metrics ({} invalid out of {}), first error is: {}", refusals.len(), specs.len(), first.error))
            }
        }
    }

    /// The pods of the target, if no other autoscaler has a part in them. Else the event's reason, the condition's, its text and the error.
    fn pods_of(&self, key: &ObjectKey, scale: &Scale) -> Result<Vec<Arc<Pod>>, (&'static str, &'static str, String, String)> {
        if scale.selector.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return Err(("SelectorRequired", "InvalidSelector", message, "selector is required".to_owned()));
        }
        let selector = Selector::parse(&scale.selector).map_err(|error| {
            let message = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            ("InvalidSelector", "InvalidSelector", message.clone(), message)
        })?;
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selector.matches(pod.metadata.labels.as_ref()));
        let mut known = self.known.lock();
        known.entry(key.clone()).or_default().selector = Some(selector.clone());
        let picks = |other: &Selector| pods.iter().any(|pod| other.matches(pod.metadata.labels.as_ref()));
        let others = known.iter().filter(|(other, known)| other.namespace == key.namespace && known.selector.as_ref().is_some_and(picks));
        let mut sharing: Vec<String> = others.map(|(other, _)| other.to_string()).collect();
        if sharing.len() > 1 {
            sharing.sort();
            let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", sharing.join(" "));
            return Err(("AmbiguousSelector", "AmbiguousSelector", message.clone(), message));
        }
        Ok(pods)
    }

    async fn one(&self, given: &Given<'_>, spec: &MetricSpec) -> Result<One, Refusal> {
        let refusal = |reason, what: String| {
            move |inner: String| Refusal { reason, error: format!("failed to get {what} value: {inner}"), condition: inner }
        };
        if let Some(source) = &spec.resource {
            let found = self.resource(given, &source.name, &source.target, None).await;
            let (proposal, name) = found.map_err(refusal("FailedGetResourceMetric", format!("{} resource metric", source.name)))?;
            let current = utilization(&proposal);
            let measured = ResourceMetricStatus { name: source.name.clone(), current };
            return Ok((
                proposal.replicas,
                name,
                MetricStatus { type_: spec.type_.clone(), resource: Some(measured), ..Default::default() },
            ));
        }
        if let Some(source) = &spec.container_resource {
            let found = self.resource(given, &source.name, &source.target, Some(&source.container)).await;
            let (proposal, name) =
                found.map_err(refusal("FailedGetContainerResourceMetric", format!("{} container metric", source.name)))?;
            let current = utilization(&proposal);
            let measured = ContainerResourceMetricStatus { name: source.name.clone(), container: source.container.clone(), current };
            let status = MetricStatus { type_: spec.type_.clone(), container_resource: Some(measured), ..Default::default() };
            return Ok((proposal.replicas, name, status));
        }
        if let Some(source) = &spec.pods {
            let (replicas, current) =
                self.by_pods(given, source).await.map_err(refusal("FailedGetPodsMetric", "pods metric".to_owned()))?;
            let measured = PodsMetricStatus { metric: source.metric.clone(), current };
            let status = MetricStatus { type_: spec.type_.clone(), pods: Some(measured), ..Default::default() };
            return Ok((replicas, format!("pods metric {}", source.metric.name), status));
        }
        if let Some(source) = &spec.object {
            let found = self.by_object(given, source).await;
            let (replicas, current) = found.map_err(refusal("FailedGetObjectMetric", "object metric".to_owned()))?;
            let name = match current.value {
                Some(_) => format!("{} metric {}", source.described_object.kind, source.metric.name),
                None => format!("external metric {}({})", source.metric.name, shown(source.metric.selector.as_ref())),
            };
            let measured = ObjectMetricStatus { metric: source.metric.clone(), described_object: source.described_object.clone(), current };
            return Ok((replicas, name, MetricStatus { type_: spec.type_.clone(), object: Some(measured), ..Default::default() }));
        }
        if let Some(source) = &spec.external {
            let found = self.by_external(given, source).await;
            let (replicas, current) =
                found.map_err(refusal("FailedGetExternalMetric", format!("{} external metric", source.metric.name)))?;
            let name = format!("external metric {}({})", source.metric.name, shown(source.metric.selector.as_ref()));
            let measured = ExternalMetricStatus { metric: source.metric.clone(), current };
            return Ok((replicas, name, MetricStatus { type_: spec.type_.clone(), external: Some(measured), ..Default::default() }));
        }
        let error = format!("unknown metric source type {:?}", spec.type_);
        Err(Refusal { reason: "InvalidMetricSourceType", condition: error.clone(), error })
    }

    async fn resource(
        &self,
        given: &Given<'_>,
        resource: &str,
        target: &MetricTarget,
        container: Option<&str>,
    ) -> Result<(Proposal, String), String> {
        let what = if container.is_some() { "container resource" } else { "resource" };
        let read = async || {
            let found = self.metrics.resource(resource, given.namespace, &given.scale.selector, container).await;
            found.map_err(|error| format!("unable to get metrics for resource {resource}: {error}"))
        };
        let startup = (resource == "cpu").then_some(self.context.settings.autoscaling.startup);
        let propose = |target: &Target<'_>, samples| {
            by_samples(given.scale.replicas, target, given.pods, samples, startup, given.tolerance, given.now)
        };
        if let Some(wanted) = milli(&target.average_value) {
            let proposal = async { propose(&Target::Average(wanted), read().await?) }.await;
            let proposal = proposal.map_err(|error| format!("failed to get {resource} usage: {error}"))?;
            return Ok((proposal, format!("{resource} {what}")));
        }
        let Some(percent) = target.average_utilization else {
            return Err(format!(
                "invalid {what} metric source: neither an average utilization target nor an average value (usage) target was set"
            ));
        };
        let proposal = async {
            let samples = read().await?;
            let requests = requests(given.pods, resource, container)?;
            propose(&Target::Utilization { percent, requests: &requests }, samples)
        };
        let proposal = proposal.await.map_err(|error| format!("failed to get {resource} utilization: {error}"))?;
        Ok((proposal, format!("{resource} {what} utilization (percentage of request)")))
    }

    async fn by_pods(&self, given: &Given<'_>, source: &PodsMetricSource) -> Result<(i32, MetricValueStatus), String> {
        let name = &source.metric.name;
        let samples = self.metrics.pods(name, given.namespace, &given.scale.selector, source.metric.selector.as_ref()).await;
        let samples = samples.map_err(|error| format!("unable to get metric {name}: {error}"))?;
        let target = Target::Average(milli(&source.target.average_value).unwrap_or(0));
        let proposal = by_samples(given.scale.replicas, &target, given.pods, samples, None, given.tolerance, given.now)?;
        Ok((proposal.replicas, average(proposal.average)))
    }

    async fn by_object(&self, given: &Given<'_>, source: &ObjectMetricSource) -> Result<(i32, MetricValueStatus), String> {
        let (name, object) = (&source.metric.name, &source.described_object);
        let read = async {
            let served = self.scales.kind(object.api_version.as_deref().unwrap_or_default(), &object.kind).await?;
            let resource = served.qualified();
            let described = Object { resource: resource.trim_end_matches('.'), name: &object.name, namespaced: served.namespaced };
            self.metrics.object(name, given.namespace, &described, source.metric.selector.as_ref()).await
        };
        let usage = read
            .await
            .map_err(|error| format!("unable to get metric {name}: {} on {} {}/{error}", object.kind, given.namespace, object.name))?;
        shared(given, usage, &source.target, "object")
    }

    async fn by_external(&self, given: &Given<'_>, source: &ExternalMetricSource) -> Result<(i32, MetricValueStatus), String> {
        let (name, selector) = (&source.metric.name, source.metric.selector.as_ref());
        let usage = self.metrics.external(name, given.namespace, selector).await;
        let usage =
            usage.map_err(|error| format!("unable to get external metric {}/{name}/{}: {error}", given.namespace, shown(selector)))?;
        shared(given, usage, &source.target, "external")
    }
}

fn utilization(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus { average_utilization: proposal.utilization, ..average(proposal.average) }
}

/// What one value that all pods share asks for.
fn shared(given: &Given<'_>, usage: i64, target: &MetricTarget, what: &str) -> Result<(i32, MetricValueStatus), String> {
    if let Some(wanted) = milli(&target.average_value) {
        let (replicas, each) = by_shared_value(given.scale.status_replicas, usage, wanted, given.tolerance);
        return Ok((replicas, average(each)));
    }
    let Some(wanted) = milli(&target.value) else {
        return Err(format!("invalid {what} metric source: neither a value target nor an average value target was set"));
    };
    Ok((by_value(given.scale.replicas, usage, wanted, given.pods, given.tolerance)?, value(usage)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_shown_as_upstream_shows_them() {
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"queue": "worker"}})).unwrap();
        assert_eq!(shown(None), "nil");
        assert_eq!(
            shown(Some(&selector)),
            "&LabelSelector{MatchLabels:map[string]string{queue: worker,},MatchExpressions:[]LabelSelectorRequirement{},}"
        );
    }

    #[test]
    fn an_autoscaler_can_have_a_tolerance_of_its_own() {
        let hpa: HorizontalPodAutoscaler = serde_json::from_value(json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "behavior": {"scaleUp": {"tolerance": "50m"}}}}))
        .unwrap();
        assert_eq!(tolerance(&hpa, 0.1), Tolerance { up: 0.05, down: 0.1 });
    }
}
