//! `kubectl wait`: until objects are there, gone, or as wanted.

use super::{file_flags, scale};
use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, JSON, Url};
use crate::context::Context;
use crate::encoding::govalue::sprint;
use crate::error::{Error, Result, message};
use crate::jsonpath::{JsonPath, Options};
use crate::printers;
use crate::selection::Target;
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long the first look for an object that does not exist yet waits between tries.
const PAUSE: Duration = Duration::from_millis(500);
/// What a negative `--timeout` means.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The command.
pub fn cli() -> Command {
    Command::new("wait", "Experimental: Wait for a specific condition on one or many resources")
        .usage("([-f FILENAME] | resource.group/resource.name | resource.group [(-l label | --all)]) [--for=create|--for=delete|--for condition=available|--for=jsonpath='{}'[=value]]")
        .flags(printers::flags())
        .flags(file_flags("The manifests whose objects to wait for."))
        .flags([
            Flag::switch("all", "All objects of the type."),
            Flag::switch("all-namespaces", "In all namespaces.").short('A'),
            Flag::string("field-selector", "", "Only objects whose fields match."),
            Flag::string("for", "", "create, delete, condition=NAME[=value], or jsonpath=EXPRESSION[=value]."),
            Flag::switch("local", "Accepted."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            Flag::duration("timeout", "30s", "How long to wait; 0 for one look, negative for a week."),
        ])
        .exec(exec)
}

/// What is waited for.
enum Goal {
    Deleted,
    Created,
    Condition(String, String),
    Path(JsonPath, Option<String>),
}

fn goal(args: &Args) -> Result<Goal> {
    let text = args.str("for");
    let lower = text.to_lowercase();
    if lower == "delete" {
        return Ok(Goal::Deleted);
    }
    if lower == "create" {
        return Ok(Goal::Created);
    }
    if let Some(rest) = text.strip_prefix("condition=") {
        let (name, value) = rest.split_once('=').unwrap_or((rest, "True"));
        return Ok(Goal::Condition(name.to_owned(), value.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("jsonpath=") {
        // The value follows the last `=` behind the closing brace.
        let (path, value) = match rest.rfind('}') {
            Some(end) => {
                let after = &rest[end + 1..];
                (&rest[..=end], after.strip_prefix('='))
            }
            None => rest.split_once('=').map_or((rest, None), |(p, v)| (p, Some(v))),
        };
        if value == Some("") {
            return Err(message("jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3"));
        }
        let value = value.map(|v| v.trim_matches(['"', '\'']).to_owned());
        return Ok(Goal::Path(JsonPath::relaxed(path).map_err(message)?, value));
    }
    Err(message(format!("unrecognized condition: {text:?}")))
}

impl Goal {
    /// Whether an object is as wanted.
    fn reached(&self, object: &Value) -> bool {
        match self {
            Goal::Deleted => false,
            Goal::Created => true,
            Goal::Condition(name, value) => {
                let generation = object["metadata"]["generation"].as_i64();
                object["status"]["conditions"].as_array().into_iter().flatten().any(|c| {
                    // A condition about an older generation says nothing of this one.
                    let current = c["observedGeneration"]
                        .as_i64()
                        .or(object["status"]["observedGeneration"].as_i64())
                        .is_none_or(|o| generation.is_none_or(|g| o >= g));
                    let matches = |field: &Value, wanted: &str| field.as_str().is_some_and(|t| t.eq_ignore_ascii_case(wanted));
                    matches(&c["type"], name) && matches(&c["status"], value) && current
                })
            }
            Goal::Path(path, value) => {
                let found = path.find(object, Options { allow_missing_keys: true, json: false }).unwrap_or_default();
                match (found.first().map(Vec::as_slice), value) {
                    (Some([one]), Some(wanted)) => sprint(one) == *wanted,
                    (Some([_, ..]), None) => true,
                    _ => false,
                }
            }
        }
    }
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let goal = goal(args)?;
    let limit = match args.nanos("timeout") {
        n if n < 0 => WEEK,
        _ => args.duration("timeout"),
    };
    let deadline = Instant::now() + limit;
    let (mut targets, mut errors) = scale::targets(ctx, args)?;
    while matches!(goal, Goal::Created) && Instant::now() < deadline && (errors.iter().any(Error::is_not_found) || targets.is_empty()) {
        std::thread::sleep(PAUSE);
        (targets, errors) = scale::targets(ctx, args)?;
    }
    if matches!(goal, Goal::Created) && errors.iter().any(Error::is_not_found) {
        return Err(message("timed out waiting for the condition"));
    }
    if matches!(goal, Goal::Deleted) {
        errors.retain(|e| !e.is_not_found());
    }
    Error::collect(errors)?;
    if targets.is_empty() {
        // Nothing is what --for=delete wants.
        return if matches!(goal, Goal::Deleted) { Ok(()) } else { Err(message("no matching resources found")) };
    }
    let connection = ctx.connection()?;
    let mut late = Vec::new();
    for target in targets {
        match until(&connection, &target, &goal, deadline)? {
            Some(object) => {
                let text = printers::for_change(ctx, args, "condition met", crate::encoding::json::Order::Sorted)?.print(&object)?;
                ctx.print(&text);
                ctx.flush();
            }
            None => late.push(message(format!("timed out waiting for the condition on {}/{}", target.resource.name, target.name))),
        }
    }
    Error::collect(late)
}

/// The object once it is as wanted, or nothing when time is up.
fn until(connection: &Connection, target: &Target, goal: &Goal, deadline: Instant) -> Result<Option<Value>> {
    let by_name = Url::new(target.resource.path(&target.namespace)).query("fieldSelector", format!("metadata.name={}", target.name));
    let uid = &target.object["metadata"]["uid"];
    loop {
        let list = connection.get(&by_name)?;
        let live = list["items"].as_array().and_then(|i| i.first());
        match live {
            Some(o) if matches!(goal, Goal::Deleted) && o["metadata"]["uid"] != *uid => return Ok(Some(target.object.clone())),
            Some(o) if goal.reached(o) => return Ok(Some(typed(o, target))),
            Some(_) => {}
            None if matches!(goal, Goal::Deleted) => return Ok(Some(target.object.clone())),
            None => return Err(message(format!("{} {:?} not found", target.resource.group_resource(), target.name))),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
        let url = by_name.clone().query("resourceVersion", version).query("watch", "true");
        let changed = connection.block_on(async {
            let watching = async {
                let mut stream = connection.stream(&url, JSON).await?;
                while let Some(event) = Connection::next_line(&mut stream).await? {
                    let gone = event["type"] == "DELETED";
                    if gone || event["type"] == "ERROR" || goal.reached(&event["object"]) {
                        return Ok(());
                    }
                }
                Ok::<(), Error>(())
            };
            tokio::time::timeout(left, watching).await
        });
        match changed {
            Err(_) => return Ok(None),
            Ok(result) => result?,
        }
    }
}

/// Items of a list come without their type.
fn typed(object: &Value, target: &Target) -> Value {
    let mut object = object.clone();
    object["kind"] = target.resource.kind.clone().into();
    object["apiVersion"] = target.resource.api_version().into();
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn goals_are_recognised() {
        let object = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 1}]}});
        let cases = [
            ("condition=ready", true),
            ("condition=Ready=false", false),
            ("condition=Old", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath={.status.phase}", true),
            ("jsonpath={.status.nope}", false),
        ];
        for (text, expected) in cases {
            let args = Args::parse("kubectl wait", cli().flags, &[format!("--for={text}")], true).unwrap();
            assert_eq!(goal(&args).unwrap().reached(&object), expected, "{text}");
        }
    }
}
