//! `metrics.k8s.io/v1beta1`: what nodes and pods use, asked of their kubelets when somebody asks here (upstream: the metrics server, a program of its own).
//!
//! The group is served while there is an APIService `v1beta1.metrics.k8s.io` that names no service, that is, while the cluster wants it from this server; an
//! APIService that names one puts that service in its place, and without any there is no such group. Nothing is stored, and nothing is asked
//! of kubelets between requests. Left out: watching, which the metrics server has not either.

mod exposition;
mod scrape;

use crate::connect::Connections;
use crate::handlers::Call;
use crate::handlers::parameters::ListParameters;
use crate::negotiation::{Offer, Shape};
use crate::objects::{Collection, Objects, decoded, decoded_list};
use crate::respond::{self, Response};
use api::quantity::{Format, Quantity};
use api::resource::{Resource, Scope, Verb};
use api::status::{Result, StatusError};
use exposition::{NodeUse, Use};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use scrape::Scraper;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// The most that a kubelet may answer: a thousand times what a full node does.
const MAX_ANSWER: usize = 64 << 20;

/// What discovery says of it.
static ROWS: LazyLock<[Resource; 2]> = LazyLock::new(|| {
    let row = |kind: &'static str, plural: &'static str, scope| Resource {
        group: GROUP.into(),
        version: VERSION.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: "".into(),
        scope,
        verbs: vec![Verb::Get, Verb::List].into(),
        ..Resource::of::<Node>()
    };
    [row("NodeMetrics", "nodes", Scope::Cluster), row("PodMetrics", "pods", Scope::Namespaced)]
});

/// Answers for the group.
pub struct Usage {
    objects: Arc<dyn Objects>,
    scraper: Scraper,
}

impl Usage {
    /// Finds nodes and pods in these objects and kubelets through these connections.
    pub fn new(objects: Arc<dyn Objects>, connections: Arc<Connections>) -> Self {
        let ask = move |node: String| -> futures::future::BoxFuture<'static, Result<bytes::Bytes>> {
            let connections = connections.clone();
            Box::pin(async move { connections.ask_kubelet(&node, "/metrics/resource", MAX_ANSWER).await })
        };
        Self { objects, scraper: Scraper::new(Arc::new(ask)) }
    }

    /// Whether the cluster wants the group from this server.
    fn is_wanted(&self) -> bool {
        let name = format!("{VERSION}.{GROUP}");
        let registered = decoded::<APIService>(&*self.objects, Collection::of("apiregistration.k8s.io", "apiservices"), "", &name);
        registered.is_some_and(|registered| registered.spec.is_some_and(|spec| spec.service.is_none()))
    }

    /// Its resources, for discovery; none while it is not served.
    pub fn rows(&self) -> &'static [Resource] {
        if self.is_wanted() { &*ROWS } else { &[] }
    }

    /// Answers a request for the group, if it is served.
    pub async fn answer(&self, call: Call) -> Result<Response> {
        let format = call.format(Offer::Resource);
        let Call { info, query, .. } = call;
        let Some(row) = self.rows().iter().find(|row| row.version == info.version && row.plural == info.resource) else {
            return if self.is_wanted() { Err(respond::generic(404)) } else { Ok(respond::page_not_found()) };
        };
        if !info.subresource.is_empty() || (!row.namespaced() && !info.namespace.is_empty()) {
            return Err(respond::generic(404));
        }
        let format = format?;
        let found = match info.verb.as_ref() {
            "get" => {
                let item = self.items(row, &info.namespace, |meta| meta.name.as_deref() == Some(&info.name)).await.pop();
                let shown = if row.namespaced() { format!("{}/{}", info.namespace, info.name) } else { info.name.clone() };
                vec![item.ok_or_else(|| StatusError::not_found(GROUP, &row.kind.to_lowercase(), &shown))?]
            }
            "list" => {
                let picks = ListParameters::parse(&query, false)?.picks()?;
                self.items(row, &info.namespace, picks).await
            }
            _ => return Err(respond::generic(405)),
        };
        let value = match (format.shape, info.verb.as_ref()) {
            (Shape::Table, _) => table(row, &found),
            (_, "get") => found.into_iter().next().unwrap_or_default(),
            _ => json!({"kind": format!("{}List", row.kind), "apiVersion": row.api_version(), "metadata": {}, "items": found}),
        };
        Ok(respond::value(200, &value, format))
    }

    async fn items(&self, row: &Resource, namespace: &str, picks: impl Fn(&ObjectMeta) -> bool) -> Vec<Value> {
        let nodes: Vec<Node> = decoded_list(&*self.objects, Collection::core("nodes"), "");
        let name = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
        let present: Vec<String> = nodes.iter().map(|node| name(&node.metadata)).collect();
        let now = Timestamp::now();
        if !row.namespaced() {
            let wanted: Vec<&Node> = nodes.iter().filter(|node| picks(&node.metadata)).collect();
            let ready = wanted.iter().filter(|node| is_ready(node)).map(|node| name(&node.metadata)).collect();
            let usage = self.scraper.usage(ready, &present).await;
            let of = |node: &&Node| node_metrics(&node.metadata, usage.get(&name(&node.metadata))?, now);
            return wanted.iter().filter_map(of).collect();
        }
        let pods: Vec<Pod> = decoded_list(&*self.objects, Collection::core("pods"), namespace);
        let wanted: Vec<&Pod> = pods.iter().filter(|pod| picks(&pod.metadata)).collect();
        let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let mut hosts: Vec<String> = wanted.iter().map(|pod| node_of(pod)).collect();
        hosts.sort();
        hosts.dedup();
        hosts.retain(|host| nodes.iter().any(|node| node.metadata.name.as_ref() == Some(host) && is_ready(node)));
        let usage = self.scraper.usage(hosts, &present).await;
        let mut of_pod: HashMap<(&str, &str), Vec<(&str, &Use)>> = HashMap::new();
        for (name, used) in usage.values().flat_map(|usage| &usage.containers) {
            of_pod.entry((name.namespace.as_str(), name.pod.as_str())).or_default().push((name.container.as_str(), used));
        }
        let of = |pod: &&Pod| {
            let key = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
            pod_metrics(&pod.metadata, of_pod.get(&key)?, now)
        };
        wanted.iter().filter_map(of).collect()
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn amounts(used: &Use) -> Value {
    let cpu = format!("{}n", used.cpu_nanocores).parse::<Quantity>().unwrap_or(Quantity::ZERO);
    let memory = Quantity::new(i64::try_from(used.memory).unwrap_or(i64::MAX), Format::BinarySi);
    json!({"cpu": cpu.to_string(), "memory": memory.to_string()})
}

/// What the metadata of both kinds says: whose it is, and when it was made, namely now.
fn metrics(kind: &str, meta: &ObjectMeta, used: &Use, now: Timestamp) -> Value {
    let mut metadata = json!({"name": meta.name, "creationTimestamp": Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()});
    if let Some(namespace) = &meta.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if let Some(labels) = &meta.labels {
        metadata["labels"] = json!(labels);
    }
    let at = Timestamp::from_second(used.at / 1000).unwrap_or(now);
    let window = format!("{}s", used.window.as_millis() as f64 / 1000.0);
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata, "timestamp": at.to_string(), "window": window})
}

fn node_metrics(meta: &ObjectMeta, usage: &NodeUse, now: Timestamp) -> Option<Value> {
    let used = usage.node.as_ref()?;
    let mut value = metrics("NodeMetrics", meta, used, now);
    value["usage"] = amounts(used);
    Some(value)
}

fn pod_metrics(meta: &ObjectMeta, containers: &[(&str, &Use)], now: Timestamp) -> Option<Value> {
    let earliest = containers.iter().min_by_key(|(_, used)| used.at)?.1;
    let mut value = metrics("PodMetrics", meta, earliest, now);
    value["containers"] = containers.iter().map(|(name, used)| json!({"name": name, "usage": amounts(used)})).collect();
    Some(value)
}

/// As the metrics server prints them.
fn table(kind: &Resource, items: &[Value]) -> Value {
    let column = |name: &str, format: &str| json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0});
    let columns = json!([column("Name", "name"), column("cpu", ""), column("memory", ""), column("Window", "")]);
    let sum = |item: &Value, resource: &str| {
        let parts =
            item["containers"].as_array().map_or(vec![&item["usage"]], |containers| containers.iter().map(|c| &c["usage"]).collect());
        let amounts = parts.iter().filter_map(|usage| usage[resource].as_str()?.parse::<Quantity>().ok());
        amounts.reduce(|a, b| a + b).unwrap_or(Quantity::ZERO).to_string()
    };
    let row = |item: &Value| {
        let cells = json!([item["metadata"]["name"], sum(item, "cpu"), sum(item, "memory"), item["window"]]);
        json!({"cells": cells, "object": crate::table::metadata_only(kind, item)})
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns,
        "rows": items.iter().map(row).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn metrics_look_as_the_metrics_server_writes_them() {
        let used = |cpu, memory| Use { cpu_nanocores: cpu, memory, at: 1_767_225_600_500, window: Duration::from_millis(15_200) };
        let meta: ObjectMeta = serde_json::from_value(json!({"namespace": "ns", "name": "p", "uid": "u", "labels": {"a": "b"}})).unwrap();
        let now = Timestamp::from_second(1_767_225_601).unwrap();
        let (a, b) = (used(250_000_123, 12 << 20), used(2_000_000_000, 1 << 10));
        let value = pod_metrics(&meta, &[("a", &a), ("b", &b)], now).unwrap();
        let expected = json!({
            "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"namespace": "ns", "name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:01Z"},
            "timestamp": "2026-01-01T00:00:00Z", "window": "15.2s",
            "containers": [{"name": "a", "usage": {"cpu": "250000123n", "memory": "12Mi"}}, {"name": "b", "usage": {"cpu": "2", "memory": "1Ki"}}],
        });
        assert_eq!(value, expected);
        let printed = table(&ROWS[1], &[value]);
        assert_eq!(printed["rows"][0]["cells"], json!(["p", "2250000123n", "12289Ki", "15.2s"]));
        assert_eq!(node_metrics(&meta, &NodeUse::default(), now), None);
    }
}
