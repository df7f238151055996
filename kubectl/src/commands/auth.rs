//! `kubectl auth`: what one may do, and who one is. Left out: `reconcile`.

use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::encoding::json::Order;
use crate::encoding::tabwriter::{TABLE, align};
use crate::error::{Error, Result, message};
use crate::printers::{self, Offer};
use serde_json::{Value, json};

/// The command and its subcommands.
pub fn cli() -> Command {
    Command::new("auth", "Inspect authorization")
        .command(
            Command::new("can-i", "Check whether an action is allowed")
                .usage("VERB [TYPE | TYPE/NAME | NONRESOURCEURL]")
                .flags([
                    Flag::switch("all-namespaces", "In all namespaces.").short('A'),
                    Flag::switch("list", "Print all that is allowed."),
                    Flag::switch("no-headers", "Without the header line."),
                    Flag::switch("quiet", "Say it by the exit code alone.").short('q'),
                    Flag::string("subresource", "", "A subresource such as pods' log."),
                ])
                .exec(can_i),
        )
        .command(Command::new("whoami", "Experimental: Check self subject attributes").flags(printers::flags()).exec(whoami))
}

fn can_i(ctx: &mut Context, args: &Args) -> Result<()> {
    ctx.connection()?;
    let namespace = if args.bool("all-namespaces") { String::new() } else { ctx.namespace()? };
    if args.bool("list") {
        return list(ctx, args, &namespace);
    }
    let (verb, what, name) = match args.positional.as_slice() {
        [verb, what] => (verb, what.split_once('/').filter(|_| !what.starts_with('/')), what.as_str()),
        [verb, what, _] => (verb, None, what.as_str()),
        _ => {
            return Err(message(
                "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples.",
            ));
        }
    };
    let name_given = args.positional.get(2).cloned().or(what.map(|(_, n)| n.to_owned())).unwrap_or_default();
    let word = what.map_or(name, |(w, _)| w);
    let mut spec = json!({});
    if word.starts_with('/') {
        spec["nonResourceAttributes"] = json!({"verb": verb, "path": word});
    } else {
        let (group, resource, namespaced) = if word == "*" {
            ("*".to_owned(), "*".to_owned(), true)
        } else {
            match ctx.mapper()?.resource(word) {
                Ok(r) => (r.group, r.name, r.namespaced),
                Err(e @ Error::Unreachable { .. }) => return Err(e),
                Err(_) => {
                    ctx.warn(&format!("the server doesn't have a resource type '{word}'\n"));
                    let (resource, group) = word.split_once('.').unwrap_or((word, ""));
                    (group.to_owned(), resource.to_owned(), true)
                }
            }
        };
        if !namespaced && !args.bool("all-namespaces") {
            let scope = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
            ctx.warn(&format!("resource '{resource}' is not namespace scoped{scope}\n"));
        }
        spec["resourceAttributes"] = json!({
            "namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": args.str("subresource"), "name": name_given,
        });
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let answer = ctx.connection()?.post(&Url::new("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"), &review)?;
    let status = &answer["status"];
    let allowed = status["allowed"] == true;
    if !args.bool("quiet") {
        let mut text = if allowed { "yes".to_owned() } else { "no".to_owned() };
        for (field, lead) in [("reason", " - "), ("evaluationError", " - ")] {
            let shown = status[field].as_str().unwrap_or("");
            if !shown.is_empty() && !allowed {
                text += &format!("{lead}{shown}");
            }
        }
        ctx.print(&format!("{text}\n"));
    }
    if allowed { Ok(()) } else { Err(Error::Exit(1)) }
}

fn list(ctx: &mut Context, args: &Args, namespace: &str) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(message("list option must be specified with no arguments"));
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}});
    let answer = ctx.connection()?.post(&Url::new("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"), &review)?;
    let joined = |v: &Value| format!("[{}]", v.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    let mut lines: Vec<String> = Vec::new();
    for rule in answer["status"]["resourceRules"].as_array().into_iter().flatten() {
        for group in rule["apiGroups"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            for resource in rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let full = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
                lines.push(format!("{full}\t[]\t{}\t{}\n", joined(&rule["resourceNames"]), joined(&rule["verbs"])));
            }
        }
    }
    lines.sort();
    for rule in answer["status"]["nonResourceRules"].as_array().into_iter().flatten() {
        for url in rule["nonResourceURLs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            lines.push(format!("\t[{url}]\t[]\t{}\n", joined(&rule["verbs"])));
        }
    }
    let header = if args.bool("no-headers") { "" } else { "Resources\tNon-Resource URLs\tResource Names\tVerbs\n" };
    ctx.print(&align(TABLE, &format!("{header}{}", lines.concat())));
    Ok(())
}

fn whoami(ctx: &mut Context, args: &Args) -> Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {"creationTimestamp": null}, "status": {"userInfo": {}}});
    let answer = ctx.connection()?.post(&Url::new("/apis/authentication.k8s.io/v1/selfsubjectreviews"), &review)?;
    if let Some(mut p) = printers::from_args(ctx, args, Offer { lists: false, order: Order::Typed })? {
        let text = p.print(&answer)?;
        ctx.print(&text);
        return Ok(());
    }
    let user = &answer["status"]["userInfo"];
    let mut text = format!("ATTRIBUTE\tVALUE\nUsername\t{}\n", user["username"].as_str().unwrap_or(""));
    if let Some(uid) = user["uid"].as_str().filter(|u| !u.is_empty()) {
        text += &format!("UID\t{uid}\n");
    }
    let joined = |v: &Value| format!("[{}]", v.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    if user["groups"].is_array() {
        text += &format!("Groups\t{}\n", joined(&user["groups"]));
    }
    let mut extra: Vec<_> = user["extra"].as_object().into_iter().flatten().collect();
    extra.sort_by_key(|(k, _)| *k);
    for (key, value) in extra {
        text += &format!("Extra: {key}\t{}\n", joined(value));
    }
    ctx.print(&align(TABLE, &text));
    Ok(())
}
