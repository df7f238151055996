//! `kubectl create`: from manifests, and by the generators, each a subcommand. Left out: `--edit`.

use super::{dry_run_flag, field_manager_flag, field_validation, file_flags, validate_flag};
use crate::cli::{Args, Command, Flag};
use crate::connection::{JSON, Url};
use crate::context::{Context, DryRun};
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::generate::{self, Generator};
use crate::{apply, manifest, printers, selection};
use serde_json::{Value, json};

/// Groups of subcommands that do nothing themselves.
const GROUPS: [(&str, &[&str], &str); 2] = [
    ("secret", &[], "Create a secret using a specified subcommand"),
    ("service", &["svc"], "Create a service using a specified subcommand"),
];

/// The command and its subcommands.
pub fn cli() -> Command {
    let mut create = Command::new("create", "Create a resource from a file or from stdin")
        .usage("-f FILENAME")
        .flags(printers::flags())
        .flags(file_flags("The manifests to create."))
        .flags([
            dry_run_flag(),
            field_manager_flag("kubectl-create"),
            Flag::string("raw", "", "A path to POST the file to as it is."),
            Flag::switch("save-config", "Keep the manifest in an annotation, for a later apply."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            validate_flag(),
        ])
        .exec(exec);
    let mut groups: Vec<Command> = GROUPS
        .iter()
        .map(|(name, aliases, about)| {
            Command::new(name, about).aliases(aliases).exec(|_, args| match args.positional.is_empty() {
                true => Err(Error::Exit(0)),
                false => Err(args.usage(format!("unknown command {:?}", args.positional.join(" ")))),
            })
        })
        .collect();
    for g in generate::table() {
        match g.words.split_once(' ') {
            Some((group, word)) => {
                let parent = groups.iter_mut().find(|c| c.name == group).expect("every first word of two is in GROUPS");
                parent.commands.push(subcommand(&g, word));
            }
            None => create.commands.push(subcommand(&g, g.words)),
        }
    }
    create.commands.extend(groups);
    create.commands.push(token_cli());
    create.commands.sort_by_key(|c| c.name);
    create
}

fn subcommand(g: &Generator, word: &'static str) -> Command {
    Command::new(word, g.about)
        .aliases(g.aliases)
        .usage(g.usage)
        .flags((g.flags)())
        .flags(printers::flags())
        .flags([
            dry_run_flag(),
            field_manager_flag("kubectl-create"),
            Flag::switch("save-config", "Keep the object in an annotation, for a later apply."),
            validate_flag(),
        ])
        .exec(generated)
}

/// The URL that creates an object in `path`.
pub fn create_url(args: &Args, path: String, dry_run: DryRun) -> Result<Url> {
    Ok(Url::new(path)
        .query("dryRun", if dry_run == DryRun::Server { "All" } else { "" })
        .query("fieldManager", args.str("field-manager"))
        .query("fieldValidation", field_validation(args)?))
}

fn generated(ctx: &mut Context, args: &Args) -> Result<()> {
    let words = args.path.trim_start_matches("kubectl create ");
    let table = generate::table();
    let Some(g) = table.iter().find(|g| g.words == words) else { return Err(args.usage(format!("unknown command {words:?}"))) };
    let mut object = (g.build)(ctx, args)?;
    let dry_run = ctx.dry_run(args)?;
    if ctx.namespace_given() && !generate::CLUSTER_WIDE.contains(&g.words) {
        object["metadata"]["namespace"] = json!(ctx.namespace()?);
    }
    let mut printer = printers::for_change(ctx, args, &format!("created{}", dry_run.suffix()), Order::Typed)?;
    if args.bool("save-config") {
        apply::annotate(&mut object);
    }
    if dry_run != DryRun::Client {
        object = post(ctx, args, &object, dry_run).map_err(|e| match (g.noun, e) {
            (_, e @ Error::Unreachable { .. }) | ("", e) => e,
            (noun, e) if noun.starts_with("secret") => message(format!("failed to create {noun} {e}")),
            (noun, e) => message(format!("failed to create {noun}: {e}")),
        })?;
    }
    ctx.drain_warnings();
    let text = printer.print(&object)?;
    ctx.print(&text);
    Ok(())
}

/// Creates one object that kubectl made itself.
pub fn post(ctx: &mut Context, args: &Args, object: &Value, dry_run: DryRun) -> Result<Value> {
    let (version, kind) = (object["apiVersion"].as_str().unwrap_or(""), object["kind"].as_str().unwrap_or(""));
    let resource =
        ctx.mapper()?.kind(version, kind)?.ok_or_else(|| message(format!("no matches for kind {kind:?} in version {version:?}")))?;
    let namespace = if resource.namespaced { ctx.namespace()? } else { String::new() };
    ctx.connection()?.post(&create_url(args, resource.path(&namespace), dry_run)?, object)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if args.list("filename").is_empty() && args.text("kustomize").is_none() {
        if !args.positional.is_empty() {
            return Err(args.usage(format!("Unexpected args: [{}]", args.positional.join(" "))));
        }
        return Err(message("must specify one of -f and -k"));
    }
    if !args.positional.is_empty() {
        return Err(args.usage(format!("Unexpected args: [{}]", args.positional.join(" "))));
    }
    let dry_run = ctx.dry_run(args)?;
    if let Some(path) = args.text("raw") {
        return raw(ctx, args, path);
    }
    let mut printer = printers::for_change(ctx, args, &format!("created{}", dry_run.suffix()), Order::Sorted)?;
    let documents = manifest::read(ctx, args)?;
    let (targets, mut errors) = selection::resolve(ctx, documents)?;
    let (mut created, connection) = (0, ctx.connection()?);
    for mut target in targets {
        if args.bool("save-config") {
            apply::annotate(&mut target.object);
        }
        let outcome = if dry_run == DryRun::Client {
            Ok(target.object.clone())
        } else {
            connection.post(&create_url(args, target.resource.path(&target.namespace), dry_run)?, &target.object)
        };
        ctx.drain_warnings();
        match outcome {
            Ok(object) => {
                created += 1;
                let text = printer.print(&object)?;
                ctx.print(&text);
            }
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e.during("error when creating", &target.source)),
        }
    }
    Error::collect(errors)?;
    if created == 0 { Err(message("no objects passed to create")) } else { Ok(()) }
}

fn raw(ctx: &mut Context, args: &Args, path: &str) -> Result<()> {
    let [file] = args.list("filename") else {
        return Err(args.usage("--raw can only use a single local file or stdin"));
    };
    let body = if file == "-" { ctx.read_stdin()? } else { ctx.read_file(file)? };
    let answer = ctx.connection()?.bytes(http::Method::POST, &Url::new(path), JSON, Some((JSON, body)))?;
    ctx.print_bytes(&answer);
    Ok(())
}

fn token_cli() -> Command {
    Command::new("token", "Request a service account token")
        .usage("SERVICE_ACCOUNT_NAME")
        .flags(printers::flags())
        .flags([
            Flag::array("audience", "Who the token is for."),
            Flag::string("bound-object-kind", "", "Kind of the object the token dies with: Pod, Secret or Node."),
            Flag::string("bound-object-name", "", "Its name."),
            Flag::string("bound-object-uid", "", "Its UID."),
            Flag::duration("duration", "0s", "How long the token is to be good."),
        ])
        .exec(token)
}

fn token(ctx: &mut Context, args: &Args) -> Result<()> {
    let name = match args.positional.as_slice() {
        [] => return Err(args.usage("exactly one NAME is required, got 0")),
        [name] if name.is_empty() => return Err(message("service account name cannot be empty")),
        [name] => name.clone(),
        more => return Err(args.usage(format!("exactly one NAME is required, got {}", more.len()))),
    };
    let mut spec = json!({"audiences": if args.changed("audience") { json!(args.list("audience")) } else { Value::Null }});
    if args.changed("duration") {
        let seconds = args.duration("duration");
        if args.nanos("duration") <= 0 {
            return Err(message("--duration must be greater than 0"));
        }
        if seconds.subsec_nanos() > 0 {
            return Err(message("--duration cannot be expressed in units less than seconds"));
        }
        spec["expirationSeconds"] = json!(seconds.as_secs());
    }
    match (args.text("bound-object-kind"), args.text("bound-object-name"), args.text("bound-object-uid")) {
        (None, None, None) => {}
        (None, Some(_), _) => return Err(message("--bound-object-name can only be set if --bound-object-kind is provided")),
        (None, None, Some(_)) => return Err(message("--bound-object-uid can only be set if --bound-object-kind is provided")),
        (Some(_), None, _) => return Err(message("--bound-object-name is required if --bound-object-kind is provided")),
        (Some(kind), Some(object), uid) => {
            if !["Pod", "Secret", "Node"].contains(&kind) {
                return Err(message("supported --bound-object-kind values are Node, Pod, Secret"));
            }
            spec["boundObjectRef"] = json!({"kind": kind, "apiVersion": "v1", "name": object, "uid": uid.unwrap_or("")});
        }
    }
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {"creationTimestamp": null}, "spec": spec});
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", ctx.namespace()?);
    let answer = ctx
        .connection()?
        .post(&Url::new(path), &request)
        .map_err(|e| if matches!(e, Error::Unreachable { .. }) { e } else { message(format!("failed to create token: {e}")) })?;
    let Some(token) = answer["status"]["token"].as_str().filter(|t| !t.is_empty()) else {
        return Err(message("failed to create token: no token in server response"));
    };
    let text = match printers::from_args(ctx, args, printers::Offer { lists: false, order: Order::Typed })? {
        Some(mut printer) => printer.print(&answer)?,
        None => format!("{token}\n"),
    };
    ctx.print(&text);
    Ok(())
}
