//! The APIServices of the groups and versions that this server answers itself (upstream: the aggregator's autoregistration). They are made at the start, so
//! that whoever lists APIServices sees the whole API, and are always available.

use serde_json::{Value, json};

/// How far up the built-in groups stand in discovery (upstream: `controlplane/apiserver/aggregator.go`).
const PRIORITIES: &[(&str, i32)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("resource.k8s.io", 16150),
    ("flowcontrol.apiserver.k8s.io", 16100),
];

/// The group that stands first whatever there is: that of the APIServices themselves.
const FIRST: &str = "apiregistration.k8s.io";
/// What custom resources' groups have (upstream: `crdregistration`).
const CUSTOM: i32 = 1000;

/// How far up a group of this server's stands.
pub fn group_priority(group: &str) -> i32 {
    match PRIORITIES.iter().find(|(name, _)| *name == group) {
        Some((_, priority)) => *priority,
        None if group == FIRST => i32::MAX,
        None => CUSTOM,
    }
}

/// The APIService of each built-in group and version.
pub fn api_services<'a>(groups: impl Iterator<Item = (&'a str, Vec<&'a str>)>) -> Vec<Value> {
    let mut out = Vec::new();
    for (group, versions) in groups.filter(|(group, _)| *group != FIRST && PRIORITIES.iter().any(|(name, _)| name == group)) {
        // Versions come in discovery's order, the preferred one first.
        for (index, version) in versions.iter().rev().enumerate() {
            let priority = if group.is_empty() { 1 } else { 15 * (i32::try_from(index).unwrap_or(0) + 1) };
            out.push(json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": format!("{version}.{group}"), "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
                "spec": {"group": group, "version": version, "groupPriorityMinimum": group_priority(group), "versionPriority": priority},
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_version_has_one() {
        let groups = crate::discovery::groups(api::resources::all());
        let made = api_services(groups.into_iter());
        let of = |name: &str| made.iter().find(|s| s["metadata"]["name"] == name).map(|s| &s["spec"]);
        assert_eq!(of("v1.").unwrap()["groupPriorityMinimum"], 18000);
        assert!(of("v2.autoscaling").unwrap()["versionPriority"].as_i64() > of("v1.autoscaling").unwrap()["versionPriority"].as_i64());
        assert!(of("v1.apiregistration.k8s.io").is_none());
    }
}
