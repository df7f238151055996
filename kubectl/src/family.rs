//! An object with what it owns, directly or not, and the events about all of them: what `timeline` tells of and `why` follows down to the cause.

use crate::connection::{Connection, Url};
use crate::discovery::Mapper;
use crate::error::Result;
use serde_json::{Value, json};

/// What the objects of a kind own, by resource. Kinds that are not here, custom ones among them, are looked for in all of [`OWNED`].
const OWNS: &[(&str, &[&str])] = &[
    ("Pod", &[]),
    ("Node", &[]),
    ("Namespace", &[]),
    ("ConfigMap", &[]),
    ("Secret", &[]),
    ("Service", &["endpointslices.discovery.k8s.io"]),
    ("Deployment", &["replicasets.apps"]),
    ("ReplicaSet", &["pods"]),
    ("ReplicationController", &["pods"]),
    ("StatefulSet", &["pods"]),
    ("DaemonSet", &["pods"]),
    ("Job", &["pods"]),
    ("CronJob", &["jobs.batch"]),
];
/// What custom resources own, as a rule.
const OWNED: &[&str] = &[
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "replicasets.apps",
    "jobs.batch",
    "cronjobs.batch",
    "pods",
    "services",
    "persistentvolumeclaims",
];
/// How deep ownership is followed: CronJob, Job, Pod, and one level of custom resources above.
const DEPTH: usize = 4;

/// An object, what it owns, and the events about them.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// The object itself, then what it owns, owners before what they own.
    pub objects: Vec<Value>,
    /// The events about any of them, in no order.
    pub events: Vec<Value>,
}

/// Asks the server for the family of an object. What may not be listed is left out.
pub fn gather(connection: &Connection, mapper: &Mapper, root: Value) -> Result<Family> {
    let namespace = root["metadata"]["namespace"].as_str().unwrap_or("").to_owned();
    let mut objects = vec![root];
    let (mut from, mut depth) = (0, 0);
    while from < objects.len() && depth < DEPTH && !namespace.is_empty() {
        let generation: Vec<Value> = objects[from..].to_vec();
        from = objects.len();
        depth += 1;
        let mut resources: Vec<&str> = generation.iter().flat_map(owns).copied().collect();
        resources.sort_unstable();
        resources.dedup();
        for word in resources {
            let Ok(resource) = mapper.resource(word) else { continue };
            let Ok(list) = connection.get(&Url::new(resource.path(&namespace))) else { continue };
            for item in list["items"].as_array().into_iter().flatten() {
                let is_new = !objects.iter().any(|o| o["metadata"]["uid"] == item["metadata"]["uid"]);
                if is_new && generation.iter().any(|owner| is_owned_by(item, owner)) {
                    let mut item = item.clone();
                    item["apiVersion"] = json!(resource.api_version());
                    item["kind"] = json!(resource.kind);
                    objects.push(item);
                }
            }
        }
    }
    let events = events(connection, &objects, &namespace)?;
    Ok(Family { objects, events })
}

fn owns(object: &Value) -> &'static [&'static str] {
    OWNS.iter().find(|(kind, _)| object["kind"] == *kind).map_or(OWNED, |(_, resources)| resources)
}

/// Whether an owner reference of one names the other.
pub fn is_owned_by(object: &Value, owner: &Value) -> bool {
    let references = object["metadata"]["ownerReferences"].as_array();
    references.into_iter().flatten().any(|r| !r["uid"].is_null() && r["uid"] == owner["metadata"]["uid"])
}

/// The events about the objects: of one object by selector, of several out of the namespace's.
fn events(connection: &Connection, objects: &[Value], namespace: &str) -> Result<Vec<Value>> {
    let path = if namespace.is_empty() { "/api/v1/events".to_owned() } else { format!("/api/v1/namespaces/{namespace}/events") };
    let mut url = Url::new(path);
    if let [only] = objects {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        url = url.query(
            "fieldSelector",
            format!("involvedObject.kind={},involvedObject.name={}", text(&only["kind"]), text(&only["metadata"]["name"])),
        );
    }
    let list = connection.get(&url)?;
    let about = |event: &Value| objects.iter().any(|object| concerns(event, object));
    Ok(list["items"].as_array().into_iter().flatten().filter(|e| about(e)).cloned().collect())
}

/// Whether an event is about this very object: not about an earlier one of its name. Events about a node carry its name in place of a UID.
pub fn concerns(event: &Value, object: &Value) -> bool {
    let involved = &event["involvedObject"];
    involved["kind"] == object["kind"]
        && involved["name"] == object["metadata"]["name"]
        && (involved["uid"].is_null() || involved["uid"] == object["metadata"]["uid"] || object["kind"] == "Node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_one_object_and_not_its_namesake() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "a", "uid": "1"}});
        let event = |kind: &str, uid: Value| json!({"involvedObject": {"kind": kind, "name": "a", "uid": uid}});
        for (event, expected) in [
            (event("Pod", json!("1")), true),
            (event("Pod", Value::Null), true),
            (event("Pod", json!("2")), false),
            (event("Service", json!("1")), false),
        ] {
            assert_eq!(concerns(&event, &pod), expected, "{event}");
        }
        assert!(concerns(&event("Node", json!("a")), &json!({"kind": "Node", "metadata": {"name": "a", "uid": "3"}})));
    }

    #[test]
    fn kinds_that_nobody_knows_own_what_custom_resources_own() {
        assert_eq!(owns(&json!({"kind": "Deployment"})), ["replicasets.apps"]);
        assert_eq!(owns(&json!({"kind": "Database"})), OWNED);
    }
}
