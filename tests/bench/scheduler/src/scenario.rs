//! Scenarios as upstream's scheduler_perf has them: cases of steps, and workloads that say how many of what.
//!
//! Left out: steps that go on beside others (`churn`), that change the scheduler's features, and thresholds of other metrics than throughput.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What the numbers of a workload are called.
pub type Params = BTreeMap<String, usize>;

/// Steps, and the workloads to run them with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    pub name: String,
    pub default_pod_template_path: Option<String>,
    pub workload_template: Vec<Op>,
    pub workloads: Vec<Workload>,
}

/// How many of what.
#[derive(Debug, Deserialize)]
pub struct Workload {
    pub name: String,
    #[serde(default)]
    pub labels: Vec<String>,
    /// The rate below which upstream's own measurement fails.
    pub threshold: Option<f64>,
    #[serde(default)]
    pub params: Params,
}

/// One step.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Op {
    pub opcode: String,
    pub count: Option<usize>,
    pub count_param: Option<String>,
    pub prefix: Option<String>,
    pub namespace: Option<String>,
    pub namespace_prefix: Option<String>,
    pub namespace_template_path: Option<String>,
    pub node_template_path: Option<String>,
    pub pod_template_path: Option<String>,
    pub template_path: Option<String>,
    pub label_node_prepare_strategy: Option<NodeLabels>,
    pub create_pods_op: Option<Box<Op>>,
    pub collect_metrics: bool,
    pub skip_wait_to_completion: bool,
}

/// A label whose values the nodes take in turn.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeLabels {
    pub label_key: String,
    pub label_values: Vec<String>,
}

impl Op {
    /// How many, by itself or by the workload.
    pub fn count(&self, params: &Params) -> Result<usize> {
        match (&self.count_param, self.count) {
            (Some(param), _) => {
                let name = param.trim_start_matches('$');
                params.get(name).copied().with_context(|| format!("{}: no parameter {name:?}", self.opcode))
            }
            (None, count) => Ok(count.unwrap_or(1)),
        }
    }
}

/// A template next to the scenarios. Upstream's have an index in some places.
pub fn template(base: &Path, path: &str) -> Result<Value> {
    let file = base.join(path);
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("in {}", file.display()))
}
