//! Quotas, priority classes, disruption budgets.

use super::{Generator, label_selector, metadata, name};
use crate::cli::{Args, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::{Map, Value, json};

pub(super) fn generators() -> Vec<Generator> {
    vec![
        Generator {
            words: "quota",
            aliases: &["resourcequota"],
            about: "Create a quota with the specified name",
            usage: "NAME [--hard=key1=value1,key2=value2] [--scopes=Scope1,Scope2]",
            noun: "quota",
            flags: || {
                vec![Flag::string("hard", "", "Limits, as resource=quantity pairs."), Flag::string("scopes", "", "Which objects count.")]
            },
            build: quota,
        },
        Generator {
            words: "priorityclass",
            aliases: &["pc"],
            about: "Create a priority class with the specified name",
            usage: "NAME --value=VALUE --global-default=BOOL",
            noun: "priorityclass",
            flags: || {
                vec![
                    Flag::string("description", "", "When to use it."),
                    Flag::switch("global-default", "Pods without a class get this one."),
                    Flag::string("preemption-policy", "PreemptLowerPriority", "Whether its pods displace others."),
                    Flag::int("value", "0", "The priority."),
                ]
            },
            build: priority_class,
        },
        Generator {
            words: "poddisruptionbudget",
            aliases: &["pdb"],
            about: "Create a pod disruption budget with the specified name",
            usage: "NAME --selector=SELECTOR --min-available=N",
            noun: "poddisruptionbudgets",
            flags: || {
                vec![
                    Flag::string("max-unavailable", "", "How many pods may be down."),
                    Flag::string("min-available", "", "How many pods must be up."),
                    Flag::string("selector", "", "The pods it protects."),
                ]
            },
            build: disruption_budget,
        },
    ]
}

fn quota(_: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let mut spec = Map::new();
    if let Some(text) = args.text("hard") {
        let mut hard = Map::new();
        for pair in text.split(',') {
            match pair.split_once('=') {
                Some((k, v)) if !v.contains('=') => drop(hard.insert(k.to_owned(), json!(v))),
                _ => {
                    return Err(message(format!("Invalid argument syntax {pair}, expected <resource>=<value>")));
                }
            }
        }
        spec.insert("hard".into(), Value::Object(hard));
    }
    if let Some(scopes) = args.text("scopes") {
        spec.insert("scopes".into(), json!(scopes.split(',').collect::<Vec<_>>()));
    }
    Ok(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata(&name), "spec": spec, "status": {}}))
}

fn priority_class(_: &mut Context, args: &Args) -> Result<Value> {
    let mut object = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": metadata(&name(args)?),
        "preemptionPolicy": args.str("preemption-policy"), "value": args.int("value"),
    });
    if let Some(text) = args.text("description") {
        object["description"] = json!(text);
    }
    if args.bool("global-default") {
        object["globalDefault"] = json!(true);
    }
    Ok(object)
}

fn disruption_budget(_: &mut Context, args: &Args) -> Result<Value> {
    let name = name(args)?;
    let Some(selector) = args.text("selector") else { return Err(message("a selector must be specified")) };
    let (least, most) = (args.text("min-available"), args.text("max-unavailable"));
    let (field, value) = match (least, most) {
        (Some(_), Some(_)) => return Err(message("min-available and max-unavailable cannot be both specified")),
        (Some(v), None) => ("minAvailable", v),
        (None, Some(v)) => ("maxUnavailable", v),
        (None, None) => return Err(message("one of min-available or max-unavailable must be specified")),
    };
    let value = value.parse::<i64>().map_or_else(|_| json!(value), |n| json!(n));
    Ok(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(&name),
        "spec": {field: value, "selector": label_selector(selector)?},
        "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0},
    }))
}
