//! `kubectl set`: single settings of workloads, services and bindings, without writing a patch. Each subcommand is a file with what it changes in
//! an object; finding the objects and sending what differs is here.

mod env;
mod image;
mod resources;
mod selector;
mod service_account;
mod subject;

use super::{dry_run_flag, field_manager_flag, file_flags};
use crate::apply::patch;
use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::selection::{self, Fetch, Rules, Target};
use crate::{manifest, printers};
use serde_json::{Value, json};

/// The command and its subcommands.
pub fn cli() -> Command {
    Command::new("set", "Set specific features on objects")
        .usage("SUBCOMMAND")
        .exec(|_, args| Err(args.usage(format!("unknown command {:?}", args.positional.join(" ")))))
        .command(env::cli())
        .command(image::cli())
        .command(resources::cli())
        .command(selector::cli())
        .command(service_account::cli())
        .command(subject::cli())
}

/// The flags that all of them have.
fn flags() -> Vec<Flag> {
    let mut flags = printers::flags();
    flags.extend(file_flags("The manifests whose objects to change."));
    flags.extend([
        Flag::switch("all", "All objects of the given types."),
        dry_run_flag(),
        field_manager_flag("kubectl-set"),
        Flag::switch("local", "Change the manifests without asking the server."),
        Flag::string("selector", "", "Only objects whose labels match.").short('l'),
    ]);
    flags
}

/// A line's words as resources and what comes after them: the first word with `=` in it, or with `-` at its end, and all that follow.
fn split(words: &[String], what: &str) -> Result<(Vec<String>, Vec<String>)> {
    let is_pair = |w: &&String| w.contains('=') && !w.starts_with('=') || w.ends_with('-') && w.len() > 1;
    let first = words.iter().position(|w| is_pair(&w)).unwrap_or(words.len());
    let (resources, pairs) = words.split_at(first);
    match pairs.iter().find(|w| !is_pair(w)) {
        Some(word) => Err(message(format!("all resources must be specified before {what} changes: {word}"))),
        None => Ok((resources.to_vec(), pairs.to_vec())),
    }
}

/// The objects that words, files and selectors mean.
fn targets(ctx: &mut Context, args: &Args, words: &[String]) -> Result<(Vec<Target>, Vec<Error>)> {
    if !args.list("filename").is_empty() || args.text("kustomize").is_some() {
        let documents = manifest::read(ctx, args)?;
        let (mut targets, mut errors) = selection::resolve(ctx, documents)?;
        if !args.bool("local") {
            let connection = ctx.connection()?;
            targets.retain_mut(|t| match t.require_name().and_then(|()| connection.get(&Url::new(t.path()))) {
                Ok(live) => {
                    t.object = live;
                    true
                }
                Err(e) => {
                    errors.push(e);
                    false
                }
            });
        }
        return Ok((targets, errors));
    }
    if args.bool("local") {
        return Err(message("can only use local files by -f pod.yaml or --filename=pod.json when --local=true is set"));
    }
    let rules = Rules { selector: args.text("selector").is_some(), all: args.bool("all"), ..Rules::default() };
    let choices = selection::choose(&*ctx.mapper()?, words, rules)?;
    selection::fetch(ctx, &choices, &Fetch { selector: args.str("selector").to_owned(), ..Fetch::default() })
}

/// How a subcommand reports and what it does about objects that stay as they are.
struct Report {
    /// `image updated`.
    done: &'static str,
    /// Says nothing of an object that was right already.
    silent_when_same: bool,
}

/// Applies `change` to every object and sends what became different. A change may be refused, which does not stop the others.
fn each(
    ctx: &mut Context,
    args: &Args,
    words: &[String],
    report: &Report,
    mut change: impl FnMut(&mut Context, &Target, &mut Value) -> Result<()>,
) -> Result<()> {
    let dry_run = ctx.dry_run(args)?;
    let (targets, mut errors) = targets(ctx, args, words)?;
    for target in &targets {
        let mut modified = target.object.clone();
        if let Err(e) = change(ctx, target, &mut modified) {
            match e {
                Error::Many(more) => errors.extend(more),
                e => errors.push(e),
            }
        }
        match send(ctx, args, target, modified, report, dry_run) {
            Ok(()) => {}
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)
}

fn send(ctx: &mut Context, args: &Args, target: &Target, modified: Value, report: &Report, dry_run: DryRun) -> Result<()> {
    let (patch, media_type) = patch::plan(&target.resource, &target.object, &modified, &target.object)?;
    if patch == json!({}) && report.silent_when_same {
        return Ok(());
    }
    let object = if args.bool("local") || dry_run == DryRun::Client {
        modified
    } else {
        let url = Url::new(target.path())
            .query("dryRun", if dry_run == DryRun::Server { "All" } else { "" })
            .query("fieldManager", args.str("field-manager"));
        ctx.connection()?.patch(&url, media_type, &patch)?
    };
    ctx.drain_warnings();
    let text = printers::for_change(ctx, args, &format!("{}{}", report.done, dry_run.suffix()), Order::Typed)?.print(&object)?;
    ctx.print(&text);
    Ok(())
}

/// The pod spec in an object: a pod's own or that of a template.
fn pod_spec<'a>(target: &Target, object: &'a mut Value) -> Result<&'a mut Value> {
    const PLACES: [&str; 4] = ["/spec/jobTemplate/spec/template/spec", "/spec/template/spec", "/template/spec", "/spec"];
    let place = PLACES.iter().find(|p| object.pointer(p).is_some_and(|spec| spec["containers"].is_array()));
    place.and_then(|p| object.pointer_mut(p)).ok_or_else(|| {
        let (resource, kind) = (&target.resource, &target.resource.kind);
        let version = &resource.version;
        message(format!(
            "{}/{} the object is not a pod or does not have a pod template: *{version}.{kind}",
            resource.group_resource(),
            target.name
        ))
    })
}

/// The containers of a pod spec that a pattern means, init containers first when `init` is set.
fn containers<'a>(spec: &'a mut Value, pattern: &'a str, init: bool) -> impl Iterator<Item = &'a mut Value> {
    let Value::Object(map) = spec else { return Vec::new().into_iter() };
    let fields = ["initContainers", "containers"];
    map.iter_mut()
        .filter(|(field, _)| fields[usize::from(!init)..].contains(&field.as_str()))
        .filter_map(|(_, list)| list.as_array_mut())
        .flatten()
        .filter(|c| manifest::matches(pattern, c["name"].as_str().unwrap_or("")))
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_resources_until_the_first_pair() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(split(&words("deploy d a=b c-"), "env").unwrap(), (words("deploy d"), words("a=b c-")));
        assert_eq!(split(&words("deploy/d"), "env").unwrap(), (words("deploy/d"), Vec::new()));
        assert!(split(&words("deploy a=b d"), "env").is_err());
    }

    #[test]
    fn the_pod_spec_is_found_wherever_the_kind_has_it() {
        let target = Target {
            resource: crate::discovery::Resource {
                version: "v1".into(),
                kind: "ConfigMap".into(),
                name: "configmaps".into(),
                ..Default::default()
            },
            namespace: String::new(),
            name: "c".into(),
            source: String::new(),
            object: Value::Null,
        };
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
        for mut object in [
            json!({"spec": spec}),
            json!({"spec": {"template": {"spec": spec}}}),
            json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
        ] {
            assert_eq!(*pod_spec(&target, &mut object).unwrap(), spec);
        }
        assert_eq!(
            pod_spec(&target, &mut json!({"data": {}})).unwrap_err().to_string(),
            "configmaps/c the object is not a pod or does not have a pod template: *v1.ConfigMap"
        );
        assert_eq!(containers(&mut spec.clone(), "*", true).count(), 2);
        assert_eq!(containers(&mut spec.clone(), "*", false).count(), 1);
    }
}
