//! Reads metrics from the three metrics APIs, whoever serves them (upstream: `pkg/controller/podautoscaler/metrics`). Error texts are upstream's.

use super::replicas::{Sample, Samples};
use crate::children::text;
use api::quantity::Quantity;
use api::selector::LabelSelector as Selector;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Client;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// What a metric of another source is taken to be an average over.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: ObjectMeta,
    timestamp: Timestamp,
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: BTreeMap<String, Amount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    #[serde(default)]
    described_object: Described,
    timestamp: Timestamp,
    window_seconds: Option<i64>,
    value: Amount,
}

#[derive(Default, Deserialize)]
struct Described {
    #[serde(default)]
    name: String,
}

/// What a metric describes, as its API names it.
pub struct Object<'a> {
    /// `deployments.apps`, `pods`.
    pub resource: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Whether it lives in the namespace.
    pub namespaced: bool,
}

/// The reader.
#[derive(Clone)]
pub struct Metrics(pub Client);

fn milli(amount: &Amount) -> Option<i64> {
    Quantity::of(amount).ok().map(Quantity::milli_value)
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A selector as text; empty for one that picks everything.
fn selector_text(selector: Option<&LabelSelector>) -> String {
    selector.and_then(|selector| Selector::of(Some(selector)).ok()).map(|selector| selector.to_string()).unwrap_or_default()
}

/// The samples of one resource, of all containers or one; a pod that lacks any of them has no sample.
fn resource_samples(list: Vec<PodMetrics>, resource: &str, container: Option<&str>) -> Result<Samples, String> {
    let mut samples = Samples::new();
    for pod in list {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if let Some(wanted) = container
            && !pod.containers.iter().any(|container| container.name == wanted)
        {
            let namespace = pod.metadata.namespace.unwrap_or_default();
            return Err(format!("container {wanted} not present in metrics for pod {namespace}/{name}"));
        }
        let counted = pod.containers.iter().filter(|one| container.is_none_or(|wanted| one.name == wanted));
        let values: Option<Vec<i64>> = counted.map(|container| milli(container.usage.get(resource)?)).collect();
        let Some(values) = values.filter(|values| !values.is_empty()) else { continue };
        let window = pod.window.parse().unwrap_or(SignedDuration::ZERO);
        samples.insert(name, Sample { value: values.iter().sum(), at: pod.timestamp, window });
    }
    Ok(samples)
}

impl Metrics {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> kube::Result<T> {
        self.0.request(http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?).await
    }

    /// The use of a resource by the pods that a selector picks.
    pub async fn resource(&self, resource: &str, namespace: &str, selector: &str, container: Option<&str>) -> Result<Samples, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}", encoded(selector));
        let list: List<PodMetrics> =
            self.get(&path).await.map_err(|error| format!("unable to fetch metrics from resource metrics API: {}", text(&error)))?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        resource_samples(list.items, resource, container)
    }

    /// The newer version of the custom metrics API, or the older where that is not served.
    async fn custom(&self, rest: &str) -> Result<Vec<MetricValue>, String> {
        let mut answer = Err(String::new());
        for version in ["v1beta2", "v1beta1"] {
            match self.get::<List<MetricValue>>(&format!("/apis/custom.metrics.k8s.io/{version}/{rest}")).await {
                Ok(list) if list.items.is_empty() => return Err("no metrics returned from custom metrics API".to_owned()),
                Ok(list) => return Ok(list.items),
                Err(error) => {
                    let missing = matches!(&error, kube::Error::Api(status) if status.code == 404);
                    answer = Err(format!("unable to fetch metrics from custom metrics API: {}", text(&error)));
                    if !missing {
                        break;
                    }
                }
            }
        }
        answer
    }

    /// A metric of the pods that a selector picks.
    pub async fn pods(&self, metric: &str, namespace: &str, selector: &str, of: Option<&LabelSelector>) -> Result<Samples, String> {
        let (pods, labels) = (encoded(selector), encoded(&selector_text(of)));
        let rest = format!("namespaces/{namespace}/pods/*/{metric}?labelSelector={pods}&metricLabelSelector={labels}");
        let sample = |value: MetricValue| {
            let window = value.window_seconds.map_or(WINDOW, SignedDuration::from_secs);
            Some((value.described_object.name, Sample { value: milli(&value.value)?, at: value.timestamp, window }))
        };
        Ok(self.custom(&rest).await?.into_iter().filter_map(sample).collect())
    }

    /// A metric of one object.
    pub async fn object(&self, metric: &str, namespace: &str, object: &Object<'_>, of: Option<&LabelSelector>) -> Result<i64, String> {
        let labels = encoded(&selector_text(of));
        let (resource, name) = (object.resource, object.name);
        let rest = match (resource, object.namespaced) {
            ("namespaces", _) => format!("namespaces/{name}/metrics/{metric}?metricLabelSelector={labels}"),
            (_, true) => format!("namespaces/{namespace}/{resource}/{name}/{metric}?metricLabelSelector={labels}"),
            (_, false) => format!("{resource}/{name}/{metric}?metricLabelSelector={labels}"),
        };
        let values = self.custom(&rest).await?;
        values.first().and_then(|value| milli(&value.value)).ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
    }

    /// The sum of a metric of something outside the cluster.
    pub async fn external(&self, metric: &str, namespace: &str, of: Option<&LabelSelector>) -> Result<i64, String> {
        let labels = encoded(&selector_text(of));
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}?labelSelector={labels}");
        let list: List<MetricValue> =
            self.get(&path).await.map_err(|error| format!("unable to fetch metrics from external metrics API: {}", text(&error)))?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items.iter().filter_map(|value| milli(&value.value)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn samples_are_sums_of_containers() {
        let list = |second: serde_json::Value| -> Vec<PodMetrics> {
            let containers = json!([{"name": "a", "usage": {"cpu": "250m", "memory": "1Ki"}}, {"name": "b", "usage": second}]);
            let pod = json!({"metadata": {"namespace": "ns", "name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.5s", "containers": containers});
            serde_json::from_value::<List<PodMetrics>>(json!({"items": [pod]})).unwrap().items
        };
        let of = |second, resource, container| {
            resource_samples(list(second), resource, container).map(|samples| samples.get("p").map(|s| (s.value, s.window)))
        };
        let window = SignedDuration::from_millis(15_500);
        assert_eq!(of(json!({"cpu": "100000000n"}), "cpu", None), Ok(Some((350, window))));
        assert_eq!(of(json!({"cpu": "1"}), "memory", None), Ok(None), "one container has none");
        assert_eq!(of(json!({}), "memory", Some("a")), Ok(Some((1_024_000, window))));
        assert_eq!(of(json!({}), "cpu", Some("c")), Err("container c not present in metrics for pod ns/p".to_owned()));
    }
}
