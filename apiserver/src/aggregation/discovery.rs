//! This server's discovery documents with what other servers serve in them (upstream: `kube-aggregator/pkg/apiserver/{apis_handler,handler_discovery}.go`).
//! Pure: what the others serve was asked before.

use super::local::group_priority;
use serde_json::{Map, Value, json};

/// What another server serves under one group and version.
#[derive(Clone, Debug)]
pub struct Served {
    /// The API group.
    pub group: String,
    /// The version.
    pub version: String,
    /// As [`super::Backend::priority`].
    pub priority: (i32, i32),
    /// Whether it can be reached now.
    pub available: bool,
    /// Its `APIResourceList`, as it was last seen.
    pub resources: Value,
}

fn entry(served: &Served) -> Value {
    json!({"groupVersion": format!("{}/{}", served.group, served.version), "version": served.version})
}

/// Groups of `others` in the order in which they are put in, with their versions in order.
fn grouped(others: &[Served]) -> Vec<(&str, Vec<&Served>)> {
    let mut sorted: Vec<&Served> = others.iter().collect();
    sorted.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| b.version.cmp(&a.version)));
    let mut groups: Vec<(&str, Vec<&Served>)> = Vec::new();
    for served in sorted {
        match groups.iter_mut().find(|(group, _)| *group == served.group) {
            Some((_, versions)) => versions.push(served),
            None => groups.push((&served.group, vec![served])),
        }
    }
    groups
}

/// Puts `new` where its priority has it, by name among equals.
fn insert(groups: &mut Vec<Value>, new: Value, priority: i32, name_of: impl Fn(&Value) -> &str) {
    let name = name_of(&new).to_owned();
    let at = groups.iter().position(|g| {
        let other = name_of(g);
        let theirs = group_priority(other);
        theirs < priority || (theirs == priority && other > name.as_str())
    });
    groups.insert(at.unwrap_or(groups.len()), new);
}

/// `/apis` with the groups of others that can be reached.
pub fn group_list(mut own: Value, others: &[Served]) -> Value {
    let Some(groups) = own["groups"].as_array_mut() else { return own };
    let reachable: Vec<Served> = others.iter().filter(|s| s.available).cloned().collect();
    for (group, versions) in grouped(&reachable) {
        match groups.iter_mut().find(|g| g["name"] == group) {
            Some(known) => add_versions(known, &versions),
            None => insert(groups, group_document(group, &versions), versions[0].priority.0, |g| g["name"].as_str().unwrap_or("")),
        }
    }
    own
}

fn group_document(group: &str, versions: &[&Served]) -> Value {
    json!({"name": group, "versions": versions.iter().map(|v| entry(v)).collect::<Vec<_>>(), "preferredVersion": entry(versions[0])})
}

fn add_versions(group: &mut Value, versions: &[&Served]) {
    if let Some(list) = group["versions"].as_array_mut() {
        list.extend(versions.iter().map(|v| entry(v)));
    }
}

/// `/apis/GROUP`: this server's own document, if it has one, with the versions of others.
pub fn group(own: Option<Value>, name: &str, others: &[Served]) -> Option<Value> {
    let of_group: Vec<Served> = others.iter().filter(|s| s.group == name && s.available).cloned().collect();
    let groups = grouped(&of_group);
    let Some((_, versions)) = groups.first() else { return own };
    Some(match own {
        Some(mut own) => {
            add_versions(&mut own, versions);
            own
        }
        None => {
            let mut made = group_document(name, versions);
            made["kind"] = "APIGroup".into();
            made["apiVersion"] = "v1".into();
            made
        }
    })
}

/// The aggregated form of `/apis`: also of servers that cannot be reached, marked as stale.
pub fn aggregated(mut own: Value, others: &[Served]) -> Value {
    let Some(items) = own["items"].as_array_mut() else { return own };
    for (group, versions) in grouped(others) {
        let shown: Vec<Value> = versions.iter().map(|v| version(v)).collect();
        match items.iter_mut().find(|i| i["metadata"]["name"] == group) {
            Some(known) => known["versions"].as_array_mut().into_iter().for_each(|list| list.extend(shown.iter().cloned())),
            None => {
                let item = json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": shown});
                insert(items, item, versions[0].priority.0, |i| i["metadata"]["name"].as_str().unwrap_or(""));
            }
        }
    }
    own
}

fn version(served: &Served) -> Value {
    let freshness = if served.available { "Current" } else { "Stale" };
    json!({"version": served.version, "freshness": freshness, "resources": resources(served)})
}

/// A plain list of resources and subresources in the aggregated form, where subresources stand in their resource.
fn resources(served: &Served) -> Vec<Value> {
    let listed = served.resources["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or("").to_owned();
    let kind = |r: &Value| {
        let or = |key: &str, default: &str| r[key].as_str().filter(|t| !t.is_empty()).unwrap_or(default).to_owned();
        json!({"group": or("group", &served.group), "version": or("version", &served.version), "kind": r["kind"]})
    };
    let mut out: Vec<Value> = Vec::new();
    for resource in listed.iter().filter(|r| !text(r, "name").contains('/')) {
        let name = text(resource, "name");
        let mut made = Map::new();
        made.insert("resource".into(), name.as_str().into());
        made.insert("responseKind".into(), kind(resource));
        made.insert("scope".into(), if resource["namespaced"] == true { "Namespaced" } else { "Cluster" }.into());
        made.insert("singularResource".into(), resource["singularName"].clone());
        made.insert("verbs".into(), resource["verbs"].clone());
        for key in ["shortNames", "categories"] {
            if let Some(list) = resource.get(key).filter(|l| l.is_array()) {
                made.insert(key.into(), list.clone());
            }
        }
        let prefix = format!("{name}/");
        let below = listed.iter().filter_map(|r| Some((r, r["name"].as_str()?.strip_prefix(&prefix)?)));
        let below: Vec<Value> = below.map(|(r, name)| json!({"subresource": name, "responseKind": kind(r), "verbs": r["verbs"]})).collect();
        if !below.is_empty() {
            made.insert("subresources".into(), below.into());
        }
        out.push(made.into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(group: &str, version: &str, priority: (i32, i32), available: bool) -> Served {
        let resources = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"]}]});
        Served { group: group.into(), version: version.into(), priority, available, resources }
    }

    #[test]
    fn groups_of_others_stand_where_their_priority_has_them() {
        let own =
            json!({"groups": [{"name": "apps"}, {"name": "flowcontrol.apiserver.k8s.io"}, {"name": "crd.example.com", "versions": []}]});
        let others = [
            served("high.example.com", "v1", (17000, 10), true),
            served("low.example.com", "v1", (100, 10), true),
            served("low.example.com", "v2", (100, 20), true),
            served("gone.example.com", "v1", (100, 10), false),
            served("crd.example.com", "v9", (1000, 10), true),
        ];
        let merged = group_list(own, &others);
        let names: Vec<&str> = merged["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["apps", "high.example.com", "flowcontrol.apiserver.k8s.io", "crd.example.com", "low.example.com"]);
        assert_eq!(merged["groups"][4]["preferredVersion"]["version"], "v2");
        assert_eq!(merged["groups"][3]["versions"][0]["version"], "v9");
        assert_eq!(group(None, "low.example.com", &others).unwrap()["versions"].as_array().unwrap().len(), 2);
        assert_eq!(group(None, "gone.example.com", &others), None);
    }

    #[test]
    fn resources_are_told_in_the_aggregated_form() {
        let merged = aggregated(json!({"items": []}), &[served("g", "v1", (1, 1), false)]);
        let version = &merged["items"][0]["versions"][0];
        assert_eq!(version["freshness"], "Stale");
        assert_eq!(version["resources"][0]["responseKind"], json!({"group": "g", "version": "v1", "kind": "Flunder"}));
        assert_eq!(version["resources"][0]["subresources"][0]["subresource"], "status");
    }
}
