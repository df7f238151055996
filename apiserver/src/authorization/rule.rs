//! What a policy rule allows, and whether rules allow all that others do (upstream: `pkg/apis/rbac/v1/evaluation_helpers.go`,
//! `component-helpers/auth/rbac/validation`). Pure functions over the API type.

use super::Attributes;
use k8s_openapi::api::rbac::v1::PolicyRule;
use std::collections::BTreeMap;

const ALL: &str = "*";

/// An optional list of a rule, as a slice.
pub fn list(field: &Option<Vec<String>>) -> &[String] {
    field.as_deref().unwrap_or_default()
}

fn any(set: &[String], wanted: &str) -> bool {
    set.iter().any(|s| s == ALL || s == wanted)
}

fn resource_matches(rules: &[String], resource: &str, subresource: &str) -> bool {
    rules.iter().any(|rule| {
        if rule == ALL {
            return true;
        }
        match rule.split_once('/') {
            None => subresource.is_empty() && rule == resource,
            Some((r, s)) => !subresource.is_empty() && s == subresource && (r == ALL || r == resource),
        }
    })
}

fn path_matches(rule: &str, path: &str) -> bool {
    rule == ALL || rule == path || rule.strip_suffix(ALL).is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

/// Whether the rule allows the request.
pub fn allows(rule: &PolicyRule, a: &Attributes) -> bool {
    if !any(&rule.verbs, &a.verb) {
        return false;
    }
    if !a.resource_request {
        return list(&rule.non_resource_urls).iter().any(|r| path_matches(r, &a.path));
    }
    let names = list(&rule.resource_names);
    any(list(&rule.api_groups), &a.group)
        && resource_matches(list(&rule.resources), &a.resource, &a.subresource)
        && (names.is_empty() || names.contains(&a.name))
}

/// The rule taken apart into rules with one verb and one group, resource and name, or one path.
fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |s: &str| Some(vec![s.to_owned()]);
    let mut atoms = Vec::new();
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for group in list(&rule.api_groups) {
            for resource in list(&rule.resources) {
                let atom = PolicyRule { verbs: verbs.clone(), api_groups: one(group), resources: one(resource), ..PolicyRule::default() };
                match list(&rule.resource_names) {
                    [] => atoms.push(atom),
                    names => atoms.extend(names.iter().map(|n| PolicyRule { resource_names: one(n), ..atom.clone() })),
                }
            }
        }
        for url in list(&rule.non_resource_urls) {
            atoms.push(PolicyRule { verbs: verbs.clone(), non_resource_urls: one(url), ..PolicyRule::default() });
        }
    }
    atoms
}

/// Whether a held rule allows all that an atom does.
fn covers(held: &PolicyRule, atom: &PolicyRule) -> bool {
    let all = |held: &[String], wanted: &[String]| held.iter().any(|h| h == ALL) || wanted.iter().all(|w| held.contains(w));
    if !all(&held.verbs, &atom.verbs) {
        return false;
    }
    if let [url] = list(&atom.non_resource_urls) {
        let under = |h: &String| h == url || h.strip_suffix(ALL).is_some_and(|prefix| url.starts_with(prefix));
        return list(&held.non_resource_urls).iter().any(under);
    }
    let resources = list(&held.resources);
    let resource = |wanted: &String| {
        let everywhere = wanted.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        resources.iter().any(|r| r == ALL || r == wanted || Some(r) == everywhere.as_ref())
    };
    let (names, wanted) = (list(&held.resource_names), list(&atom.resource_names));
    all(list(&held.api_groups), list(&atom.api_groups))
        && list(&atom.resources).iter().all(resource)
        && (names.is_empty() || (!wanted.is_empty() && wanted.iter().all(|n| names.contains(n))))
}

/// What of `wanted` is not allowed by `held`, as compact rules.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let missing = wanted.iter().flat_map(atoms).filter(|atom| !held.iter().any(|h| covers(h, atom)));
    compact(missing)
}

/// Atoms that differ only in their verb become one rule.
fn compact(atoms: impl Iterator<Item = PolicyRule>) -> Vec<PolicyRule> {
    let mut merged = BTreeMap::<_, PolicyRule>::new();
    let mut paths = Vec::new();
    for atom in atoms {
        if atom.non_resource_urls.is_some() {
            paths.push(atom);
            continue;
        }
        let key = (list(&atom.api_groups).to_vec(), list(&atom.resources).to_vec(), list(&atom.resource_names).to_vec());
        match merged.get_mut(&key) {
            Some(rule) => {
                for verb in atom.verbs {
                    if !rule.verbs.contains(&verb) {
                        rule.verbs.push(verb);
                    }
                }
            }
            None => {
                merged.insert(key, atom);
            }
        }
    }
    merged.into_values().chain(paths).collect()
}

/// A list of texts as Go prints it with `%q`: `["a" "b"]`.
pub fn quoted(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" "))
}

/// The rule in one line, as error messages show it.
pub fn line(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ];
    let shown = parts.iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| format!("{name}:{}", quoted(values)));
    format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verbs groups resources [names]`, comma-separated lists, `-` for the core group; or `verbs urls`.
    fn rule(text: &str) -> PolicyRule {
        let list = |s: &str| s.split(',').map(|s| if s == "-" { "" } else { s }.to_owned()).collect::<Vec<_>>();
        let parts: Vec<&str> = text.split(' ').collect();
        let verbs = list(parts[0]);
        match parts[1..] {
            [urls] => PolicyRule { verbs, non_resource_urls: Some(list(urls)), ..PolicyRule::default() },
            [groups, resources] => {
                PolicyRule { verbs, api_groups: Some(list(groups)), resources: Some(list(resources)), ..PolicyRule::default() }
            }
            [groups, resources, names] => PolicyRule {
                verbs,
                api_groups: Some(list(groups)),
                resources: Some(list(resources)),
                resource_names: Some(list(names)),
                ..PolicyRule::default()
            },
            _ => panic!("{text}"),
        }
    }

    fn ask(text: &str) -> Attributes {
        let parts: Vec<&str> = text.split(' ').collect();
        if let [verb, path] = parts[..] {
            return Attributes { verb: verb.into(), path: path.into(), ..Attributes::default() };
        }
        let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
        Attributes {
            verb: parts[0].into(),
            resource_request: true,
            group: parts[1].trim_matches('-').into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: parts.get(3).copied().unwrap_or("").into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_allow_what_they_say() {
        for (text, yes, no) in [
            ("get,list - pods", "get - pods a", "delete - pods a"),
            ("* - pods", "get - pods a", "get - pods/log a"),
            ("get - pods/log", "get - pods/log a", "get - pods a"),
            ("get - */log", "get - pods/log a", "get - pods/exec a"),
            ("get * *", "get apps deployments/scale", "list apps deployments"),
            ("get - secrets s", "get - secrets s", "get - secrets t"),
            ("get - secrets s", "get - secrets s", "get - secrets"),
            ("get apps deployments", "get apps deployments", "get - deployments"),
            ("get /healthz,/api/*", "get /api/v1", "get /api"),
            ("get *", "get /x", "get - pods"),
        ] {
            assert!(allows(&rule(text), &ask(yes)), "{text} allows {yes}");
            assert!(!allows(&rule(text), &ask(no)), "{text} does not allow {no}");
        }
    }

    #[test]
    fn what_is_not_held_is_told() {
        let missing = |held: &[&str], wanted: &[&str]| {
            let rules = |texts: &[&str]| texts.iter().map(|t| rule(t)).collect::<Vec<_>>();
            uncovered(&rules(held), &rules(wanted)).iter().map(line).collect::<Vec<_>>()
        };
        let none: Vec<String> = vec![];
        assert_eq!(missing(&["* * *"], &["get,list - pods", "get apps deployments x"]), none);
        assert_eq!(missing(&["get - pods", "list - pods"], &["get,list - pods"]), none);
        assert_eq!(missing(&["get - pods"], &["get - pods a"]), none);
        assert_eq!(missing(&["get - pods a"], &["get - pods"]), [r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#]);
        assert_eq!(missing(&["get - */log"], &["get - pods/log"]), none);
        assert_eq!(missing(&["get /api/*"], &["get /api/v1"]), none);
        assert_eq!(
            missing(&[], &["get,list - pods,secrets", "* *"]),
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
                r#"{NonResourceURLs:["*"], Verbs:["*"]}"#
            ]
        );
    }
}
