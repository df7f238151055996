//! The file as it is written: fields, defaults, and the strict decoding that names every field it does not know.

use super::extender::Extender;
use anyhow::bail;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::time::Duration;

/// Seconds and the like as Go writes them: `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        kube::core::Duration::from(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = kube::core::Duration::deserialize(deserializer)?;
        if span.is_negative() {
            return Err(serde::de::Error::custom(format!("{span} is negative")));
        }
        Ok(Self(span.into()))
    }
}

/// See the module's description.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct File {
    api_version: String,
    kind: String,
    pub parallelism: i32,
    pub leader_election: LeaderElection,
    pub client_connection: ClientConnection,
    enable_profiling: bool,
    enable_contention_profiling: bool,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub pod_initial_backoff_seconds: i64,
    pub pod_max_backoff_seconds: i64,
    pub profiles: Vec<Profile>,
    pub extenders: Vec<Extender>,
    delay_cache_until_active: bool,
}

impl Default for File {
    fn default() -> Self {
        Self {
            api_version: super::VERSION.to_owned(),
            kind: super::KIND.to_owned(),
            parallelism: 16,
            leader_election: LeaderElection::default(),
            client_connection: ClientConnection::default(),
            enable_profiling: true,
            enable_contention_profiling: true,
            percentage_of_nodes_to_score: Some(0),
            pod_initial_backoff_seconds: 1,
            pod_max_backoff_seconds: 10,
            profiles: Vec::new(),
            extenders: Vec::new(),
            delay_cache_until_active: false,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaderElection {
    pub leader_elect: bool,
    pub lease_duration: Span,
    pub renew_deadline: Span,
    pub retry_period: Span,
    pub resource_lock: String,
    pub resource_name: String,
    pub resource_namespace: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            leader_elect: true,
            lease_duration: Span(client::election::LEASE_DURATION),
            renew_deadline: Span(client::election::RENEW_DEADLINE),
            retry_period: Span(client::election::RETRY_PERIOD),
            resource_lock: "leases".to_owned(),
            resource_name: "kube-scheduler".to_owned(),
            resource_namespace: "kube-system".to_owned(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    pub kubeconfig: String,
    accept_content_types: String,
    content_type: String,
    qps: f32,
    pub burst: i32,
}

impl Default for ClientConnection {
    fn default() -> Self {
        Self {
            kubeconfig: String::new(),
            accept_content_types: String::new(),
            content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            qps: 50.0,
            burst: 100,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    pub scheduler_name: Option<String>,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: Option<Plugins>,
    pub plugin_config: Vec<PluginConfig>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Plugins {
    pub pre_enqueue: PluginList,
    pub queue_sort: PluginList,
    pub pre_filter: PluginList,
    pub filter: PluginList,
    pub post_filter: PluginList,
    pub pre_score: PluginList,
    pub score: PluginList,
    pub reserve: PluginList,
    pub permit: PluginList,
    pub pre_bind: PluginList,
    pub bind: PluginList,
    pub post_bind: PluginList,
    pub multi_point: PluginList,
}

impl Plugins {
    /// By the points' order, with the names under which the file has them.
    pub fn by_point(&self) -> [(&'static str, &PluginList); 12] {
        [
            ("preEnqueue", &self.pre_enqueue),
            ("queueSort", &self.queue_sort),
            ("preFilter", &self.pre_filter),
            ("filter", &self.filter),
            ("postFilter", &self.post_filter),
            ("preScore", &self.pre_score),
            ("score", &self.score),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("bind", &self.bind),
            ("postBind", &self.post_bind),
        ]
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginList {
    pub enabled: Vec<PluginName>,
    pub disabled: Vec<PluginName>,
}

impl PluginList {
    /// Whether a default plugin stays out.
    pub fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|plugin| plugin.name == name || plugin.name == "*")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginName {
    pub name: String,
    pub weight: Option<i64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginConfig {
    pub name: String,
    pub args: Value,
}

/// Decodes a value, and refuses it if it has fields that were not understood: those that are not there any more when it is written again.
pub fn strictly<T: Serialize + for<'de> Deserialize<'de>>(value: &Value, root: &str) -> anyhow::Result<T> {
    let decoded: T = serde_json::from_value(value.clone())?;
    let mut unknown = Vec::new();
    not_understood(value, &serde_json::to_value(&decoded)?, root, &mut unknown);
    if !unknown.is_empty() {
        let fields: Vec<String> = unknown.iter().map(|field| format!("unknown field {field:?}")).collect();
        bail!("strict decoding error: {}", fields.join(", "));
    }
    Ok(decoded)
}

fn not_understood(given: &Value, understood: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (key, value) in given {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match understood.get(key) {
                    Some(other) => not_understood(value, other, &path, unknown),
                    // What is null is left out in writing.
                    None if value.is_null() => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (index, (value, other)) in given.iter().zip(understood).enumerate() {
                not_understood(value, other, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}
