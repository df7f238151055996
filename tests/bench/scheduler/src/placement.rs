//! How well pods are placed: being fast is worth nothing if they all go to one node.

use crate::load::Load;
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;

const ZONE: &str = "topology.kubernetes.io/zone";

fn range(counts: &BTreeMap<String, usize>) -> (usize, usize) {
    (counts.values().copied().min().unwrap_or(0), counts.values().copied().max().unwrap_or(0))
}

/// The fewest and most pods of a namespace on a node and, where there are several, in a zone.
pub async fn describe(load: &Load, namespace: &str) -> Result<String> {
    let nodes = load.list("/api/v1/nodes").await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let zones: BTreeMap<String, String> =
        nodes.iter().map(|node| (text(&node["metadata"]["name"]), text(&node["metadata"]["labels"][ZONE]))).collect();
    let mut per_node: BTreeMap<String, usize> = zones.keys().map(|name| (name.clone(), 0)).collect();
    let mut per_zone: BTreeMap<String, usize> = zones.values().map(|zone| (zone.clone(), 0)).collect();
    for pod in load.list(&format!("/api/v1/namespaces/{namespace}/pods")).await? {
        let node = text(&pod["spec"]["nodeName"]);
        if let Some(zone) = zones.get(&node) {
            *per_zone.entry(zone.clone()).or_default() += 1;
        }
        *per_node.entry(node).or_default() += 1;
    }
    let (fewest, most) = range(&per_node);
    let mut described = format!("{fewest} to {most} a node");
    if per_zone.len() > 1 {
        let (fewest, most) = range(&per_zone);
        described += &format!(", {fewest} to {most} a zone");
    }
    Ok(described)
}
