//! What the server says it serves: `/api`, `/apis`, a group, a group's version, and the aggregated form of all of it
//! (upstream: `apiserver/pkg/endpoints/discovery`). Everything derives from the rows.

use api::Resource;
use api::resource::{Subresource, Text, Verb};
use serde_json::{Map, Value, json};
use std::ops::Deref;

/// A verb as discovery and RBAC name it.
pub fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "create",
        Verb::Delete => "delete",
        Verb::DeleteCollection => "deletecollection",
        Verb::Get => "get",
        Verb::List => "list",
        Verb::Patch => "patch",
        Verb::Update => "update",
        Verb::Watch => "watch",
    }
}

fn verbs(verbs: &[Verb]) -> Value {
    verbs.iter().map(|v| verb_name(*v)).collect()
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn put_texts(out: &mut Map<String, Value>, key: &str, texts: &[Text]) {
    if !texts.is_empty() {
        out.insert(key.to_owned(), texts.iter().map(|t| t.as_ref()).collect());
    }
}

/// The served groups with their versions, each in the order of its first row. Core is the group with the empty name.
pub fn groups<R: Deref<Target = Resource>>(rows: &[R]) -> Vec<(&str, Vec<&str>)> {
    let mut out: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        let index = out.iter().position(|(g, _)| *g == row.group).unwrap_or_else(|| {
            out.push((&row.group, Vec::new()));
            out.len() - 1
        });
        if !out[index].1.contains(&row.version.as_ref()) {
            out[index].1.push(&row.version);
        }
    }
    out
}

/// `/api`.
pub fn core_versions(rows: &[&Resource], server_address: &str) -> Value {
    let versions = groups(rows).into_iter().find(|(g, _)| g.is_empty()).map(|(_, v)| v).unwrap_or_default();
    json!({"kind": "APIVersions", "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

fn group_document(group: &str, versions: &[&str]) -> Map<String, Value> {
    let entry = |v: &str| json!({"groupVersion": group_version(group, v), "version": v});
    let mut out = Map::new();
    out.insert("name".into(), group.into());
    out.insert("versions".into(), versions.iter().map(|v| entry(v)).collect());
    out.insert("preferredVersion".into(), versions.first().map(|v| entry(v)).unwrap_or_default());
    out
}

/// `/apis`.
pub fn group_list(rows: &[&Resource]) -> Value {
    let named = groups(rows).into_iter().filter(|(g, _)| !g.is_empty());
    let groups: Vec<_> = named.map(|(g, versions)| group_document(g, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, if it is served.
pub fn group(rows: &[&Resource], name: &str) -> Option<Value> {
    let (name, versions) = groups(rows).into_iter().find(|(g, _)| *g == name && !g.is_empty())?;
    let mut out = group_document(name, &versions);
    out.insert("kind".into(), "APIGroup".into());
    out.insert("apiVersion".into(), "v1".into());
    Some(Value::Object(out))
}

/// `/api/v1` and `/apis/GROUP/VERSION`, if it is served.
pub fn resource_list(rows: &[&Resource], group: &str, version: &str) -> Option<Value> {
    let mut rows = rows.iter().filter(|r| r.group == group && r.version == version).peekable();
    rows.peek()?;
    let resources: Vec<Value> =
        rows.flat_map(|r| std::iter::once(resource(r)).chain(r.subresources.iter().map(|s| subresource(r, s)))).collect();
    let mut out = json!({"kind": "APIResourceList", "groupVersion": group_version(group, version), "resources": resources});
    if !group.is_empty() {
        // The core group predates the field and never got it.
        out["apiVersion"] = "v1".into();
    }
    Some(out)
}

fn resource(row: &Resource) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), row.plural.as_ref().into());
    out.insert("singularName".into(), row.singular.as_ref().into());
    out.insert("namespaced".into(), row.namespaced().into());
    out.insert("kind".into(), row.kind.as_ref().into());
    out.insert("verbs".into(), verbs(&row.verbs));
    put_texts(&mut out, "shortNames", &row.short_names);
    put_texts(&mut out, "categories", &row.categories);
    if let Some(hash) = row.storage_version_hash() {
        out.insert("storageVersionHash".into(), hash.into());
    }
    Value::Object(out)
}

fn subresource(row: &Resource, sub: &Subresource) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), format!("{}/{}", row.plural, sub.name).into());
    out.insert("singularName".into(), "".into());
    out.insert("namespaced".into(), row.namespaced().into());
    out.insert("kind".into(), sub.kind.as_ref().into());
    out.insert("verbs".into(), verbs(&sub.verbs));
    let (group, version) = &sub.group_version;
    if !version.is_empty() {
        if !group.is_empty() {
            out.insert("group".into(), group.as_ref().into());
        }
        out.insert("version".into(), version.as_ref().into());
    }
    Value::Object(out)
}

/// `/api` (`core`) or `/apis` in the form of `apidiscovery.k8s.io/v2`.
pub fn aggregated(rows: &[&Resource], core: bool) -> Value {
    let wanted = groups(rows).into_iter().filter(|(g, _)| g.is_empty() == core);
    let items: Vec<Value> = wanted.map(|(group, versions)| aggregated_group(rows, group, &versions)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(rows: &[&Resource], group: &str, versions: &[&str]) -> Value {
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    let version = |v: &&str| {
        let of_version = rows.iter().filter(|r| r.group == group && r.version == **v);
        json!({"version": v, "freshness": "Current", "resources": of_version.map(|r| aggregated_resource(r)).collect::<Vec<_>>()})
    };
    json!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<_>>()})
}

fn aggregated_resource(row: &Resource) -> Value {
    let response = |kind: &str, group: &str, version: &str| json!({"group": group, "version": version, "kind": kind});
    let mut out = Map::new();
    out.insert("resource".into(), row.plural.as_ref().into());
    out.insert("responseKind".into(), response(&row.kind, "", ""));
    out.insert("scope".into(), if row.namespaced() { "Namespaced" } else { "Cluster" }.into());
    out.insert("singularResource".into(), row.singular.as_ref().into());
    out.insert("verbs".into(), verbs(&row.verbs));
    put_texts(&mut out, "shortNames", &row.short_names);
    put_texts(&mut out, "categories", &row.categories);
    if !row.subresources.is_empty() {
        let one = |s: &Subresource| {
            let (group, version) = &s.group_version;
            json!({"subresource": s.name, "responseKind": response(&s.kind, group, version), "verbs": verbs(&s.verbs)})
        };
        out.insert("subresources".into(), row.subresources.iter().map(one).collect());
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracle/answers/discovery");

    /// The answers of a real server to a case's steps.
    fn answers(case: &str) -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(format!("{ORACLE}/{case}.json")).unwrap();
        let steps: Vec<Value> = serde_json::from_str(&text).unwrap();
        steps.into_iter().map(|s| (s["step"].as_str().unwrap().to_owned(), s["body"].clone())).collect()
    }

    #[test]
    fn documents_are_upstreams() {
        let rows: Vec<&Resource> = api::resources::all().iter().map(|r| &**r).collect();
        let rows = rows.as_slice();
        for case in ["apis", "core-v1", "apps", "apps-v1", "autoscaling", "policy-storage-scheduling", "auth-groups", "extension-groups"] {
            for (step, want) in answers(case) {
                let path: Vec<&str> = step.trim_start_matches("GET /").split('/').collect();
                let got = match path.as_slice() {
                    ["apis"] => Some(group_list(rows)),
                    ["api", version] => resource_list(rows, "", version),
                    ["apis", name] => group(rows, name),
                    ["apis", name, version] => resource_list(rows, name, version),
                    _ => None,
                };
                assert_eq!(got.unwrap_or_default(), want, "{step}");
            }
        }
        assert_eq!(aggregated(rows, true), answers("aggregated-core")[0].1);
        assert_eq!(aggregated(rows, false), answers("aggregated")[0].1);
    }
}
