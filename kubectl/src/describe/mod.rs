//! `describe`: what people want to know of an object, with its events. One function a kind, in one table; kinds without a row are
//! shown field by field (upstream: `kubectl/pkg/describe`).

mod cluster;
mod config;
mod events;
mod generic;
mod node;
mod pod;
mod service;
mod storage;
mod workload;
mod writer;

use crate::connection::{Connection, Url};
use crate::discovery::Resource;
use crate::error::Result;
use serde_json::Value;

/// What a description may ask for beyond the object.
pub struct Asker<'a> {
    /// The server.
    pub connection: &'a Connection,
    /// Whether events are wanted.
    pub events: bool,
    /// Seconds since 1970.
    pub now: i64,
}

impl Asker<'_> {
    /// A list's items; nothing when it cannot be had, since a description says what it can.
    pub fn list(&self, path: &str, labels: &str, fields: &str) -> Vec<Value> {
        let url = Url::new(path).query("fieldSelector", fields).query("labelSelector", labels);
        self.connection.get(&url).ok().and_then(|l| l["items"].as_array().cloned()).unwrap_or_default()
    }
}

/// An event as a line of `kubectl events`, cells apart by tabs.
pub fn event_row(event: &Value, with_namespace: bool, now: i64) -> String {
    let shown = |v: &Value| writer::show(v);
    let object = format!("{}/{}", shown(&event["involvedObject"]["kind"]), shown(&event["involvedObject"]["name"]));
    let namespace = if with_namespace { format!("{}\t", shown(&event["metadata"]["namespace"])) } else { String::new() };
    let message = shown(&event["message"]).trim().to_owned();
    format!("{namespace}{}\t{}\t{}\t{object}\t{message}\n", events::interval(event, now), shown(&event["type"]), shown(&event["reason"]))
}

/// When an event last happened, for sorting.
pub fn event_time(event: &Value) -> String {
    events::when(event)
}

/// Who reported an event.
pub fn event_source(event: &Value) -> String {
    events::source(event)
}

/// A pod template as `rollout history --revision` shows it.
pub fn pod_template(template: &Value) -> String {
    let mut w = writer::Writer::default();
    pod::template(template, &mut w);
    w.unaligned()
}

type Describe = fn(&Asker<'_>, &Value, &mut writer::Writer);

/// Group, kind, and who describes it.
const TABLE: &[(&str, &str, Describe)] = &[
    ("", "Pod", pod::pod),
    ("", "Node", node::node),
    ("", "Namespace", cluster::namespace),
    ("", "Service", service::service),
    ("", "ConfigMap", config::config_map),
    ("", "Secret", config::secret),
    ("", "ServiceAccount", config::service_account),
    ("", "PersistentVolumeClaim", storage::claim),
    ("", "PersistentVolume", storage::volume),
    ("storage.k8s.io", "StorageClass", storage::class),
    ("scheduling.k8s.io", "PriorityClass", cluster::priority_class),
    ("apps", "Deployment", workload::deployment),
    ("apps", "ReplicaSet", workload::replica_set),
    ("apps", "StatefulSet", workload::stateful_set),
    ("apps", "DaemonSet", workload::daemon_set),
    ("batch", "Job", workload::job),
    ("batch", "CronJob", workload::cron_job),
    ("", "ReplicationController", workload::replica_set),
    ("rbac.authorization.k8s.io", "Role", cluster::role),
    ("rbac.authorization.k8s.io", "ClusterRole", cluster::role),
    ("rbac.authorization.k8s.io", "RoleBinding", cluster::binding),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", cluster::binding),
];

/// The whole description of an object.
pub fn describe(asker: &Asker<'_>, resource: &Resource, object: &Value) -> Result<String> {
    let mut w = writer::Writer::default();
    match TABLE.iter().find(|(group, kind, _)| *group == resource.group && *kind == resource.kind) {
        Some((_, _, describe)) => describe(asker, object, &mut w),
        None => generic::any(object, &mut w),
    }
    // These show no events upstream.
    let silent = ["Secret", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"].contains(&resource.kind.as_str());
    if asker.events && !silent {
        events::table(asker, object, resource.kind == "Namespace", &mut w);
    }
    Ok(w.finish())
}
