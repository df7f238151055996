//! Roles and bindings, and tokens' owners.

use super::{Generator, metadata, name};
use crate::cli::{Args, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";
const VERSION: &str = "rbac.authorization.k8s.io/v1";
/// Verbs that some resource knows; others get a warning.
const VERBS: [&str; 16] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "*",
    "approve",
    "sign",
    "escalate",
    "attest",
];

pub(super) fn generators() -> Vec<Generator> {
    fn rule_flags() -> Vec<Flag> {
        vec![
            Flag::strings("resource", "Resources the rule is about."),
            Flag::array("resource-name", "Objects the rule is about."),
            Flag::strings("verb", "What the rule allows."),
        ]
    }
    fn subject_flags() -> Vec<Flag> {
        vec![
            Flag::string("clusterrole", "", "The ClusterRole to bind."),
            Flag::array("group", "Groups to bind it to."),
            Flag::array("serviceaccount", "Service accounts to bind it to, as namespace:name."),
            Flag::array("user", "Users to bind it to."),
        ]
    }
    vec![
        Generator {
            words: "role",
            aliases: &[],
            about: "Create a role with single rule",
            usage: "NAME --verb=verb --resource=resource.group/subresource [--resource-name=resourcename]",
            noun: "",
            flags: rule_flags,
            build: role,
        },
        Generator {
            words: "clusterrole",
            aliases: &[],
            about: "Create a cluster role",
            usage: "NAME --verb=verb --resource=resource.group [--resource-name=resourcename]",
            noun: "",
            flags: || {
                let more = [
                    Flag::strings("aggregation-rule", "Labels of the roles whose rules it gathers."),
                    Flag::strings("non-resource-url", "URLs outside the API the rule is about."),
                ];
                rule_flags().into_iter().chain(more).collect()
            },
            build: cluster_role,
        },
        Generator {
            words: "rolebinding",
            aliases: &[],
            about: "Create a role binding for a particular role or cluster role",
            usage: "NAME --clusterrole=NAME|--role=NAME [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname]",
            noun: "rolebinding",
            flags: || subject_flags().into_iter().chain([Flag::string("role", "", "The Role to bind.")]).collect(),
            build: |_, args| binding(args, "RoleBinding"),
        },
        Generator {
            words: "clusterrolebinding",
            aliases: &[],
            about: "Create a cluster role binding for a particular cluster role",
            usage: "NAME --clusterrole=NAME [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname]",
            noun: "clusterrolebinding",
            flags: || {
                let require = |f: Flag| if f.name == "clusterrole" { f.required() } else { f };
                subject_flags().into_iter().map(require).collect()
            },
            build: |_, args| binding(args, "ClusterRoleBinding"),
        },
    ]
}

fn unique(list: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for item in list.iter().filter(|i| !i.is_empty()) {
        if !out.contains(item) {
            out.push(item.clone());
        }
    }
    out
}

fn verbs(ctx: &mut Context, args: &Args) -> Result<Vec<String>> {
    let verbs = unique(args.list("verb"));
    if verbs.is_empty() {
        return Err(message("at least one verb must be specified"));
    }
    for v in &verbs {
        if !VERBS.contains(&v.as_str()) {
            ctx.complain(&format!("Warning: '{v}' is not a standard resource verb\n"));
        }
    }
    Ok(if verbs.iter().any(|v| v == "*") { vec!["*".to_owned()] } else { verbs })
}

/// One rule per API group among the resources named.
fn rules(ctx: &mut Context, args: &Args, verbs: &[String]) -> Result<Vec<Value>> {
    let names = unique(args.list("resource-name"));
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for word in args.list("resource") {
        let (resource, sub) = word.split_once('/').map_or((word.as_str(), ""), |(r, s)| (r, s));
        let (group, plural) = if resource == "*" {
            (String::new(), "*".to_owned())
        } else {
            let found = ctx.mapper()?.resource(resource).map_err(|e| crate::error::Error::Verbatim(e.to_string()))?;
            (found.group, found.name)
        };
        let plural = if sub.is_empty() { plural } else { format!("{plural}/{sub}") };
        match groups.iter_mut().find(|(g, _)| *g == group) {
            Some((_, list)) if list.contains(&plural) => {}
            Some((_, list)) => list.push(plural),
            None => groups.push((group, vec![plural])),
        }
    }
    groups.sort_by(|a, b| a.0.cmp(&b.0));
    let rule = |(group, resources): (String, Vec<String>)| {
        let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    Ok(groups.into_iter().map(rule).collect())
}

fn check_resources(args: &Args) -> Result<()> {
    if args.list("resource").is_empty() {
        return Err(message("at least one resource must be specified"));
    }
    if !args.list("resource-name").is_empty() && args.list("resource").len() > 1 {
        return Err(message("invalid resource(s), must be specified only one resource when resourceName is specified"));
    }
    Ok(())
}

fn role(ctx: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let verbs = verbs(ctx, args)?;
    check_resources(args)?;
    let rules = rules(ctx, args, &verbs)?;
    Ok(json!({"apiVersion": VERSION, "kind": "Role", "metadata": metadata(&name), "rules": rules}))
}

fn cluster_role(ctx: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let mut object = json!({"apiVersion": VERSION, "kind": "ClusterRole", "metadata": metadata(&name), "rules": null});
    let aggregation = args.list("aggregation-rule");
    if !aggregation.is_empty() {
        if !args.list("verb").is_empty()
            || !args.list("resource").is_empty()
            || !args.list("non-resource-url").is_empty()
            || !args.list("resource-name").is_empty()
        {
            return Err(message("aggregation rule must be specified without nonResourceURLs, resources, verbs or resource names"));
        }
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": super::pairs(aggregation, "aggregation rule")?}]});
        return Ok(object);
    }
    let verbs = verbs(ctx, args)?;
    let urls = unique(args.list("non-resource-url"));
    if urls.is_empty() {
        check_resources(args)?;
    }
    let mut all = if args.list("resource").is_empty() { Vec::new() } else { rules(ctx, args, &verbs)? };
    if !urls.is_empty() {
        all.push(json!({"nonResourceURLs": urls, "verbs": verbs}));
    }
    object["rules"] = json!(all);
    Ok(object)
}

fn binding(args: &Args, kind: &str) -> Result<Value> {
    let name = name(args)?;
    let (role, cluster_role) = (args.text("role"), args.text("clusterrole"));
    let role_ref = match (role, cluster_role) {
        (None, Some(c)) => json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": c}),
        (Some(r), None) => json!({"apiGroup": GROUP, "kind": "Role", "name": r}),
        _ if kind == "ClusterRoleBinding" => return Err(message("clusterrole must be specified")),
        _ => return Err(message("exactly one of clusterrole or role must be specified")),
    };
    let mut subjects: Vec<Value> = Vec::new();
    for (flag, what) in [("user", "User"), ("group", "Group")] {
        subjects.extend(unique(args.list(flag)).into_iter().map(|n| json!({"apiGroup": GROUP, "kind": what, "name": n})));
    }
    for account in unique(args.list("serviceaccount")) {
        let Some((namespace, account)) = account.split_once(':').filter(|(n, a)| !n.is_empty() && !a.is_empty()) else {
            return Err(message("serviceaccount must be <namespace>:<name>"));
        };
        subjects.push(json!({"kind": "ServiceAccount", "name": account, "namespace": namespace}));
    }
    let mut object = json!({"apiVersion": VERSION, "kind": kind, "metadata": metadata(&name), "roleRef": role_ref});
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    Ok(object)
}
