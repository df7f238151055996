//! Where objects stand in the store: upstream's keys, so that an upstream apiserver works on the same store
//! (upstream: `pkg/kubeapiserver/default_storage_factory_builder.go`).

use api::Resource;

/// Resources whose directory is not just their plural name. The groups of the first three rows store under their own name,
/// because upstream serves them from servers of their own.
const DIRECTORIES: &[(&str, &str, &str)] = &[
    ("apiextensions.k8s.io", "customresourcedefinitions", "apiextensions.k8s.io/customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices", "apiregistration.k8s.io/apiservices"),
    ("", "replicationcontrollers", "controllers"),
    ("", "endpoints", "services/endpoints"),
    ("", "services", "services/specs"),
    ("", "nodes", "minions"),
    ("networking.k8s.io", "ingresses", "ingress"),
];

/// What the keys of a resource start with: `/registry/pods/`.
pub fn prefix(root: &str, row: &Resource) -> String {
    if row.custom.is_some() {
        return format!("{root}/{}/{}/", row.group, row.plural);
    }
    let known = DIRECTORIES.iter().find(|(group, plural, _)| *group == row.group && *plural == row.plural);
    format!("{root}/{}/", known.map_or(row.plural.as_ref(), |(_, _, directory)| directory))
}

/// The part of an object's key below the prefix.
pub fn relative(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_are_upstreams_and_apart() {
        let rows = api::resources::all();
        let of = |group: &str, plural: &str| prefix("/registry", rows.iter().find(|r| r.group == group && r.plural == plural).unwrap());
        assert_eq!(of("", "pods"), "/registry/pods/");
        assert_eq!(of("apps", "deployments"), "/registry/deployments/");
        assert_eq!(of("", "nodes"), "/registry/minions/");
        assert_eq!(of("", "services"), "/registry/services/specs/");
        let stored = rows.iter().filter(|r| r.storage_version_hash().is_some());
        let kinds: BTreeSet<(String, &str)> = stored.map(|r| (prefix("/registry", r), r.kind.as_ref())).collect();
        let prefixes: BTreeSet<&String> = kinds.iter().map(|(p, _)| p).collect();
        assert_eq!(kinds.len(), prefixes.len(), "two kinds share a directory");
    }
}
