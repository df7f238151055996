//! Why an object is not running, ready or progressing: pure functions from the object and what is asked of the cluster to an answer, which follows
//! the chain down to the cause. One file for each sort of object, one row a kind.
//!
//! An answer says only what the API tells. What it cannot know (what a container does, whether a scheduler runs) is named as the next place to look.

mod claim;
mod node;
mod nodes;
mod pod;
mod service;
mod text;
mod workload;

pub use text::render;

use serde::Serialize;
use serde_json::Value;

/// What an answer may ask the cluster for. What may not be read is as if it were not there.
pub trait World {
    /// The items of a list, with label and field selectors that may be empty.
    fn list(&self, path: &str, labels: &str, fields: &str) -> Vec<Value>;
    /// One object.
    fn get(&self, path: &str) -> Option<Value>;
    /// Seconds since 1970.
    fn now(&self) -> i64;
}

/// One check that refuses a pod on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The node.
    pub node: String,
    /// The scheduler's plugin.
    pub check: String,
    /// Why, and by how much.
    pub why: String,
}

/// Why an object is as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `pod/web`.
    pub object: String,
    /// Whether all is well with it.
    pub fine: bool,
    /// What is the matter, as what follows the object's name in a sentence.
    pub state: String,
    /// What is known about it, a sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// For a pod that no node takes: each check that refuses it on each node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Refusal>,
    /// What would change it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<String>,
    /// The objects it waits for, each with its own reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<Answer>,
    /// How many other objects are in the same state for the same reason.
    #[serde(skip_serializing_if = "is_zero")]
    pub alike: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The signature that serde asks for.
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Answer {
    fn new(object: &Value, state: impl Into<String>) -> Answer {
        Answer { object: reference(object), state: state.into(), ..Answer::default() }
    }

    fn fine(object: &Value, state: impl Into<String>) -> Answer {
        Answer { fine: true, ..Answer::new(object, state) }
    }

    fn detail(mut self, text: impl Into<String>) -> Answer {
        let text = text.into();
        if !text.is_empty() {
            self.details.push(text);
        }
        self
    }

    fn remedy(mut self, text: impl Into<String>) -> Answer {
        self.remedies.push(text.into());
        self
    }

    fn because(mut self, answers: impl IntoIterator<Item = Answer>) -> Answer {
        self.because.extend(answers);
        self
    }
}

type Why = fn(&dyn World, &Value) -> Answer;

/// Group, kind, and who answers for it.
const TABLE: &[(&str, &str, Why)] = &[
    ("", "Pod", pod::why),
    ("", "Node", node::why),
    ("", "Namespace", node::namespace),
    ("", "Service", service::why),
    ("", "PersistentVolumeClaim", claim::why),
    ("", "ReplicationController", workload::replica_set),
    ("apps", "Deployment", workload::deployment),
    ("apps", "ReplicaSet", workload::replica_set),
    ("apps", "StatefulSet", workload::stateful_set),
    ("apps", "DaemonSet", workload::daemon_set),
    ("batch", "Job", workload::job),
    ("batch", "CronJob", workload::cron_job),
];

/// Why an object of a group and kind is as it is.
pub fn why(world: &dyn World, group: &str, kind: &str, object: &Value) -> Answer {
    match TABLE.iter().find(|(g, k, _)| *g == group && *k == kind) {
        Some((_, _, why)) => why(world, object),
        None => by_conditions(object),
    }
}

/// What any object's conditions say, in the sense that most have: `Ready`, `Available` and the like ought to be true.
fn by_conditions(object: &Value) -> Answer {
    let bad: Vec<String> = conditions(object)
        .filter(|c| ["Ready", "Available", "Established", "Accepted", "Programmed"].contains(&text(&c["type"])) && c["status"] != "True")
        .map(told)
        .collect();
    let waits = finalizers(object);
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Answer::new(object, "is being deleted").detail(waits);
    }
    if bad.is_empty() {
        let known = conditions(object).next().is_some();
        return Answer::fine(object, if known { "has no condition that says otherwise than well" } else { "reports no conditions" });
    }
    bad.into_iter().fold(Answer::new(object, "is not ready"), Answer::detail)
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    items(&object["status"]["conditions"])
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    conditions(object).find(|c| c["type"] == kind)
}

/// `Ready is False: KubeletNotReady: the network is not there`.
fn told(condition: &Value) -> String {
    let parts = [text(&condition["reason"]), text(&condition["message"])];
    let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    let why = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(": ")) };
    format!("{} is {}{why}", text(&condition["type"]), text(&condition["status"]))
}

fn finalizers(object: &Value) -> String {
    let waits: Vec<&str> = items(&object["metadata"]["finalizers"]).map(text).collect();
    if waits.is_empty() { String::new() } else { format!("waits for whoever removes the finalizers {}", waits.join(", ")) }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("").trim()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// `pod/web`.
fn reference(object: &Value) -> String {
    format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["metadata"]["name"]))
}

fn namespace(object: &Value) -> &str {
    text(&object["metadata"]["namespace"])
}

/// `1 pod`, `2 pods`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A label selector (`matchLabels` and `matchExpressions`, or a plain map) as the query parameter has it.
fn selector(selector: &Value) -> String {
    let plain = selector["matchLabels"].as_object().or_else(|| selector.as_object().filter(|_| selector["matchExpressions"].is_null()));
    let mut parts: Vec<String> = plain.into_iter().flatten().filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?))).collect();
    for expression in items(&selector["matchExpressions"]) {
        let (key, values) = (text(&expression["key"]), items(&expression["values"]).map(text).collect::<Vec<_>>().join(","));
        parts.push(match text(&expression["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

/// The latest event about an object with one of the reasons, if any. An object that is not there any more has none.
fn latest_event(world: &dyn World, object: &Value, reasons: &[&str]) -> Option<Value> {
    let fields = format!("involvedObject.kind={},involvedObject.name={}", text(&object["kind"]), text(&object["metadata"]["name"]));
    let path = match namespace(object) {
        "" => "/api/v1/events".to_owned(),
        ns => format!("/api/v1/namespaces/{ns}/events"),
    };
    let about = |e: &Value| crate::family::concerns(e, object) && reasons.contains(&text(&e["reason"]));
    world.list(&path, "", &fields).into_iter().filter(about).max_by_key(crate::describe::event_time)
}

/// Pods' answers with those that are alike told once, most telling first: at most `most` of them.
fn grouped(answers: Vec<Answer>, most: usize) -> Vec<Answer> {
    let mut groups: Vec<Answer> = Vec::new();
    for answer in answers {
        let same = |g: &&mut Answer| g.state == answer.state && g.nodes.iter().map(|n| &n.why).eq(answer.nodes.iter().map(|n| &n.why));
        match groups.iter_mut().find(same) {
            Some(group) => group.alike += 1,
            None => groups.push(answer),
        }
    }
    groups.sort_by_key(|g| std::cmp::Reverse(g.alike));
    groups.truncate(most);
    groups
}

/// A cluster made of values, for tests.
#[cfg(test)]
pub mod fixtures {
    use super::World;
    use serde_json::{Value, json};

    /// Objects by the path of their list.
    #[derive(Default)]
    pub struct Cluster(Vec<(String, Value)>);

    impl Cluster {
        /// With an object in a list.
        pub fn with(mut self, list: &str, object: Value) -> Cluster {
            self.0.push((list.to_owned(), object));
            self
        }

        /// With an event about an object of the namespace `d`.
        pub fn event(self, object: &Value, reason: &str, message: &str) -> Cluster {
            let involved = json!({"kind": object["kind"], "name": object["metadata"]["name"]});
            let event = json!({"involvedObject": involved, "reason": reason, "message": message, "lastTimestamp": "2026-01-01T00:00:00Z"});
            self.with("/api/v1/namespaces/d/events", event)
        }
    }

    impl World for Cluster {
        fn list(&self, path: &str, labels: &str, fields: &str) -> Vec<Value> {
            let labels = api::selector::LabelSelector::parse(labels).expect("a selector of ours");
            let name = fields.split(',').find_map(|f| f.strip_prefix("involvedObject.name="));
            let fits = |o: &Value| {
                labels.matches_with(|key| o["metadata"]["labels"][key].as_str()) && name.is_none_or(|n| o["involvedObject"]["name"] == n)
            };
            self.0.iter().filter(|(list, o)| list == path && fits(o)).map(|(_, o)| o.clone()).collect()
        }

        fn get(&self, path: &str) -> Option<Value> {
            let (list, name) = path.rsplit_once('/')?;
            self.0.iter().find(|(l, o)| l == list && o["metadata"]["name"] == name).map(|(_, o)| o.clone())
        }

        fn now(&self) -> i64 {
            1_767_225_600
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_become_queries() {
        for (value, expected) in [
            (
                json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d", "e"]}]}),
                "a=b,c notin (d,e)",
            ),
            (json!({"app": "web"}), "app=web"),
            (json!({"matchExpressions": [{"key": "c", "operator": "Exists"}]}), "c"),
            (Value::Null, ""),
        ] {
            assert_eq!(selector(&value), expected);
        }
    }

    #[test]
    fn a_kind_without_a_row_is_judged_by_its_conditions() {
        let object = json!({"kind": "Database", "metadata": {"name": "a"}, "status": {"conditions": [
            {"type": "Ready", "status": "False", "reason": "NoDisk", "message": "the disk is missing"}]}});
        let answer = why(&fixtures::Cluster::default(), "example.com", "Database", &object);
        assert_eq!((answer.fine, answer.details), (false, vec!["Ready is False: NoDisk: the disk is missing".to_owned()]));
    }
}
