//! `kubectl config`: looking at and changing the kubeconfig.

use crate::cli::{Args, Command, Flag};
use crate::context::Context;
use crate::encoding::json::Order;
use crate::encoding::tabwriter::{TABLE, align};
use crate::error::{Error, Result, go_io_error, message};
use crate::kubeconfig::{self, CLUSTERS, CONTEXTS, Kubeconfig, USERS};
use crate::printers::{self, Offer, Printer, Yaml};
use serde_json::{Map, Value, json};

/// The command and its subcommands.
pub fn cli() -> Command {
    let view_flags = printers::flags().into_iter().map(|mut f| {
        if f.name == "output" {
            f.default = "yaml";
        }
        f
    });
    Command::new("config", "Modify kubeconfig files")
        .usage("SUBCOMMAND")
        .exec(|_, args| match args.positional.first() {
            None => Err(Error::Exit(0)),
            Some(_) => Err(args.usage(format!("unknown command {:?}", args.positional.join(" ")))),
        })
        .command(Command::new("current-context", "Display the current-context").exec(current_context))
        .command(
            Command::new("delete-cluster", "Delete the specified cluster from the kubeconfig")
                .usage("NAME")
                .exec(|c, a| delete(c, a, CLUSTERS.0, "cluster")),
        )
        .command(
            Command::new("delete-context", "Delete the specified context from the kubeconfig")
                .usage("NAME")
                .exec(|c, a| delete(c, a, CONTEXTS.0, "context")),
        )
        .command(
            Command::new("delete-user", "Delete the specified user from the kubeconfig")
                .usage("NAME")
                .exec(|c, a| delete(c, a, USERS.0, "user")),
        )
        .command(Command::new("get-clusters", "Display clusters defined in the kubeconfig").exec(|c, _| names(c, CLUSTERS.0)))
        .command(
            Command::new("get-contexts", "Describe one or many contexts")
                .usage("[(-o|--output=)name)]")
                .flags([
                    Flag::switch("no-headers", "Without the header line."),
                    Flag::string("output", "", "Output format: name.").short('o'),
                ])
                .exec(get_contexts),
        )
        .command(Command::new("get-users", "Display users defined in the kubeconfig").exec(|c, _| names(c, USERS.0)))
        .command(
            Command::new("rename-context", "Rename a context from the kubeconfig file").usage("CONTEXT_NAME NEW_NAME").exec(rename_context),
        )
        .command(
            Command::new("set", "Set an individual value in a kubeconfig file")
                .usage("PROPERTY_NAME PROPERTY_VALUE")
                .flags([Flag::switch("set-raw-bytes", "Encode a value for a binary field instead of expecting base64.")])
                .exec(set),
        )
        .command(
            Command::new("set-cluster", "Set a cluster entry in kubeconfig")
                .usage("NAME [--server=server]")
                .flags([
                    Flag::switch("embed-certs", "Put the certificate itself into the kubeconfig."),
                    Flag::string("proxy-url", "", "Proxy to reach the server through."),
                ])
                .exec(set_cluster),
        )
        .command(
            Command::new("set-context", "Set a context entry in kubeconfig")
                .usage("[NAME | --current] [--cluster=cluster_nickname] [--user=user_nickname] [--namespace=namespace]")
                .flags([Flag::switch("current", "Modify the current context.")])
                .exec(set_context),
        )
        .command(
            Command::new("set-credentials", "Set a user entry in kubeconfig")
                .usage("NAME")
                .flags([
                    Flag::string("auth-provider", "", "Authentication provider of the user."),
                    Flag::array("auth-provider-arg", "key=value for the provider; key- removes."),
                    Flag::switch("embed-certs", "Put certificate and key themselves into the kubeconfig."),
                    Flag::string("exec-api-version", "", "API version of the credential program."),
                    Flag::array("exec-arg", "Argument for the credential program."),
                    Flag::string("exec-command", "", "Credential program."),
                    Flag::array("exec-env", "key=value for its environment; key- removes."),
                    Flag::string("exec-interactive-mode", "", "Whether it may ask the user."),
                    Flag::switch("exec-provide-cluster-info", "Whether it is told of the cluster."),
                ])
                .exec(set_credentials),
        )
        .command(Command::new("unset", "Unset an individual value in a kubeconfig file").usage("PROPERTY_NAME").exec(unset))
        .command(
            Command::new("use-context", "Set the current-context in a kubeconfig file")
                .aliases(&["use"])
                .usage("CONTEXT_NAME")
                .exec(use_context),
        )
        .command(
            Command::new("view", "Display merged kubeconfig settings or a specified kubeconfig file")
                .flags(view_flags)
                .flags([
                    Flag::switch("flatten", "Put the files it names inside."),
                    Flag::switch_on("merge", "Merge all kubeconfig files."),
                    Flag::switch("minify", "Only what the current context uses."),
                    Flag::switch("raw", "Show keys, tokens and passwords."),
                ])
                .exec(view),
        )
}

/// Help, then the error, as these commands answer a wrong number of arguments.
fn misused(ctx: &mut Context, args: &Args) -> Error {
    let word = args.path.rsplit(' ').next().unwrap_or("");
    if let Some(command) = cli().commands.iter().find(|c| c.name == word) {
        let help = command.help(&args.path);
        ctx.print(&help);
    }
    message(format!("Unexpected args: [{}]", args.positional.join(" ")))
}

fn current_context(ctx: &mut Context, _: &Args) -> Result<()> {
    let config = ctx.kubeconfig()?;
    match config.current_context() {
        "" => Err(message("current-context is not set")),
        name => {
            ctx.print(&format!("{name}\n"));
            Ok(())
        }
    }
}

fn delete(ctx: &mut Context, args: &Args, list: &str, what: &str) -> Result<()> {
    let [name] = args.positional.as_slice() else { return Err(misused(ctx, args)) };
    let paths = ctx.kubeconfig_paths();
    let config = ctx.kubeconfig()?;
    let file = paths.default_file();
    if !config.names(list).contains(name) {
        return Err(message(format!("cannot delete {what} {name}, not in {}", file.display())));
    }
    if list == CONTEXTS.0 && config.current_context() == name {
        ctx.complain("warning: this removed your active context, use \"kubectl config use-context\" to select a different one\n");
    }
    kubeconfig::edit(
        &paths,
        |c| c.names(list).contains(name),
        |c| {
            c.remove_entry(list, name);
        },
    )?;
    ctx.print(&format!("deleted {what} {name} from {}\n", file.display()));
    Ok(())
}

fn names(ctx: &mut Context, list: &str) -> Result<()> {
    let mut names = ctx.kubeconfig()?.names(list);
    names.sort();
    let lines: String = names.iter().map(|n| format!("{n}\n")).collect();
    ctx.print(&format!("NAME\n{lines}"));
    Ok(())
}

fn get_contexts(ctx: &mut Context, args: &Args) -> Result<()> {
    let output = args.str("output");
    if !output.is_empty() && output != "name" {
        return Err(message(format!(
            "--output {output} is not available in kubectl config get-contexts; resetting to default output format"
        )));
    }
    let config = ctx.kubeconfig()?;
    let mut known = config.names(CONTEXTS.0);
    known.sort();
    let mut wanted: Vec<&String> =
        if args.positional.is_empty() { known.iter().collect() } else { args.positional.iter().filter(|n| known.contains(n)).collect() };
    wanted.sort();
    let errors = args.positional.iter().filter(|n| !known.contains(n)).map(|n| message(format!("context {n} not found"))).collect();
    let text = if output == "name" {
        wanted.iter().map(|n| format!("{n}\n")).collect()
    } else {
        let mut text = String::new();
        if !args.bool("no-headers") {
            text += "CURRENT\tNAME\tCLUSTER\tAUTHINFO\tNAMESPACE\n";
        }
        for name in wanted {
            let entry = config.entry(CONTEXTS, name).cloned().unwrap_or_default();
            let field = |f: &str| entry[f].as_str().unwrap_or("").to_owned();
            let current = if config.current_context() == name { "*" } else { "" };
            text += &format!("{current}\t{name}\t{}\t{}\t{}\n", field("cluster"), field("user"), field("namespace"));
        }
        align(TABLE, &text)
    };
    ctx.print(&text);
    Error::collect(errors)
}

fn rename_context(ctx: &mut Context, args: &Args) -> Result<()> {
    let [old, new] = args.positional.as_slice() else { return Err(misused(ctx, args)) };
    let paths = ctx.kubeconfig_paths();
    let config = ctx.kubeconfig()?;
    let file = paths.default_file();
    let Some(entry) = config.entry(CONTEXTS, old).cloned() else {
        return Err(message(format!("cannot rename the context {old:?}, it's not in {}", file.display())));
    };
    if config.entry(CONTEXTS, new).is_some() {
        return Err(message(format!("cannot rename the context {old:?}, the context {new:?} already exists in {}", file.display())));
    }
    kubeconfig::edit(
        &paths,
        |c| c.entry(CONTEXTS, old).is_some(),
        |c| {
            c.remove_entry(CONTEXTS.0, old);
            c.set_entry(CONTEXTS, new, entry);
            if c.current_context() == old {
                c.0.insert("current-context".into(), json!(new));
            }
        },
    )?;
    ctx.print(&format!("Context {old:?} renamed to {new:?}.\n"));
    Ok(())
}

fn use_context(ctx: &mut Context, args: &Args) -> Result<()> {
    let [name] = args.positional.as_slice() else { return Err(misused(ctx, args)) };
    if ctx.kubeconfig()?.entry(CONTEXTS, name).is_none() {
        return Err(message(format!("no context exists with the name: {name:?}")));
    }
    kubeconfig::edit(
        &ctx.kubeconfig_paths(),
        |c| !c.current_context().is_empty(),
        |c| {
            c.0.insert("current-context".into(), json!(name));
        },
    )?;
    ctx.print(&format!("Switched to context {name:?}.\n"));
    Ok(())
}

fn set_context(ctx: &mut Context, args: &Args) -> Result<()> {
    let config = ctx.kubeconfig()?;
    let name = match (args.bool("current"), args.positional.as_slice()) {
        (true, []) if config.current_context().is_empty() => return Err(message("no current context is set")),
        (true, []) => config.current_context().to_owned(),
        (true, _) => return Err(message("you cannot specify both a context name and --current")),
        (false, [name]) if !name.is_empty() => name.clone(),
        (false, []) => return Err(message("you must specify a non-empty context name or --current")),
        (false, _) => return Err(misused(ctx, args)),
    };
    let known = config.entry(CONTEXTS, &name).is_some();
    kubeconfig::edit(
        &ctx.kubeconfig_paths(),
        |c| c.entry(CONTEXTS, &name).is_some(),
        |c| {
            let mut entry = object(c.entry(CONTEXTS, &name));
            for field in ["cluster", "user", "namespace"] {
                assign(&mut entry, field, args, field);
            }
            c.set_entry(CONTEXTS, &name, Value::Object(entry));
        },
    )?;
    ctx.print(&format!("Context {name:?} {}.\n", if known { "modified" } else { "created" }));
    Ok(())
}

fn object(entry: Option<&Value>) -> Map<String, Value> {
    entry.and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Sets a field to a flag's text when the flag was given; an empty text removes it.
fn assign(entry: &mut Map<String, Value>, field: &str, args: &Args, flag: &str) {
    if args.changed(flag) {
        match args.str(flag) {
            "" => entry.remove(field),
            text => entry.insert(field.to_owned(), json!(text)),
        };
    }
}

/// Sets a file field, or its contents when they are to be embedded.
fn assign_file(ctx: &Context, entry: &mut Map<String, Value>, field: &str, args: &Args) -> Result<()> {
    let Some(path) = args.text(field) else {
        assign(entry, field, args, field);
        return Ok(());
    };
    let data = format!("{field}-data");
    if args.bool("embed-certs") {
        let bytes = std::fs::read(ctx.path(path))
            .map_err(|e| message(format!("could not read {data} data from {path}: open {path}: {}", go_io_error(&e))))?;
        entry.insert(data, json!(crate::encoding::base64(&bytes)));
        entry.remove(field);
    } else {
        entry.insert(field.to_owned(), json!(ctx.path(path).display().to_string()));
        entry.remove(&data);
    }
    Ok(())
}

fn set_cluster(ctx: &mut Context, args: &Args) -> Result<()> {
    let [name] = args.positional.as_slice() else { return Err(misused(ctx, args)) };
    if args.bool("insecure-skip-tls-verify") && args.text("certificate-authority").is_some() {
        return Err(message("you cannot specify a certificate authority and insecure mode at the same time"));
    }
    if args.bool("embed-certs") && args.text("certificate-authority").is_none() {
        return Err(message("you must specify a --certificate-authority to embed"));
    }
    let mut entry = object(ctx.kubeconfig()?.entry(CLUSTERS, name));
    for field in ["server", "tls-server-name", "proxy-url"] {
        assign(&mut entry, field, args, field);
    }
    if args.changed("insecure-skip-tls-verify") {
        if args.bool("insecure-skip-tls-verify") {
            entry.insert("insecure-skip-tls-verify".into(), json!(true));
            entry.remove("certificate-authority");
            entry.remove("certificate-authority-data");
        } else {
            entry.remove("insecure-skip-tls-verify");
        }
    }
    if args.text("certificate-authority").is_some() {
        entry.remove("insecure-skip-tls-verify");
    }
    assign_file(ctx, &mut entry, "certificate-authority", args)?;
    kubeconfig::edit(
        &ctx.kubeconfig_paths(),
        |c| c.entry(CLUSTERS, name).is_some(),
        |c| c.set_entry(CLUSTERS, name, Value::Object(entry)),
    )?;
    ctx.print(&format!("Cluster {name:?} set.\n"));
    Ok(())
}

fn set_credentials(ctx: &mut Context, args: &Args) -> Result<()> {
    let [name] = args.positional.as_slice() else {
        misused(ctx, args);
        return Err(message(format!("unexpected args: [{}]", args.positional.join(" "))));
    };
    let mut methods = Vec::new();
    if args.text("token").is_some() {
        methods.push("--token");
    }
    if args.text("username").is_some() || args.text("password").is_some() {
        methods.push("--username/--password");
    }
    if methods.len() > 1 {
        return Err(message(format!("you cannot specify more than one authentication method at the same time: {}", methods.join(", "))));
    }
    if args.bool("embed-certs") && args.text("client-certificate").is_none() && args.text("client-key").is_none() {
        return Err(message("you must specify a --client-certificate or --client-key to embed"));
    }
    let mut entry = object(ctx.kubeconfig()?.entry(USERS, name));
    assign_file(ctx, &mut entry, "client-certificate", args)?;
    assign_file(ctx, &mut entry, "client-key", args)?;
    for field in ["token", "username", "password"] {
        assign(&mut entry, field, args, field);
    }
    if args.text("token").is_some() {
        for other in ["username", "password", "tokenFile"] {
            entry.remove(other);
        }
    } else if args.text("username").is_some() || args.text("password").is_some() {
        for other in ["token", "tokenFile"] {
            entry.remove(other);
        }
    }
    if args.text("exec-command").is_some() || args.changed("exec-arg") || args.changed("exec-env") || args.changed("exec-api-version") {
        let mut exec = object(entry.get("exec"));
        exec.entry("args").or_insert(Value::Null);
        exec.entry("env").or_insert(Value::Null);
        for (field, flag) in [("command", "exec-command"), ("apiVersion", "exec-api-version"), ("interactiveMode", "exec-interactive-mode")]
        {
            assign(&mut exec, field, args, flag);
        }
        if args.changed("exec-arg") {
            exec.insert("args".into(), json!(args.list("exec-arg")));
        }
        if args.changed("exec-provide-cluster-info") || !exec.contains_key("provideClusterInfo") {
            exec.insert("provideClusterInfo".into(), json!(args.bool("exec-provide-cluster-info")));
        }
        let mut env: Vec<Value> = exec["env"].as_array().cloned().unwrap_or_default();
        for pair in args.list("exec-env") {
            let (key, value) = match (pair.split_once('='), pair.strip_suffix('-')) {
                (Some((k, v)), _) => (k, Some(v)),
                (None, Some(k)) => (k, None),
                (None, None) => return Err(message(format!("error parsing environment: {pair}"))),
            };
            env.retain(|e| e["name"] != key);
            env.extend(value.map(|v| json!({"name": key, "value": v})));
        }
        exec.insert("env".into(), if env.is_empty() { Value::Null } else { json!(env) });
        entry.insert("exec".into(), Value::Object(exec));
    }
    if let Some(provider) = args.text("auth-provider") {
        let mut settings = object(entry.get("auth-provider").map(|p| &p["config"]));
        for pair in args.list("auth-provider-arg") {
            match (pair.split_once('='), pair.strip_suffix('-')) {
                (Some((k, v)), _) => drop(settings.insert(k.to_owned(), json!(v))),
                (None, Some(k)) => drop(settings.remove(k)),
                (None, None) => return Err(message(format!("error: unrecognised auth provider argument {pair}"))),
            }
        }
        entry.insert("auth-provider".into(), json!({"config": settings, "name": provider}));
    }
    kubeconfig::edit(&ctx.kubeconfig_paths(), |c| c.entry(USERS, name).is_some(), |c| c.set_entry(USERS, name, Value::Object(entry)))?;
    ctx.print(&format!("User {name:?} set.\n"));
    Ok(())
}

/// A property such as `users.me.token`, taken apart: a list and entry with a field, or a field of the file itself.
enum Property<'a> {
    Entry((&'static str, &'static str), &'a str, Vec<&'a str>),
    Top(&'a str),
}

fn property(name: &str) -> Result<Property<'_>> {
    let parts: Vec<&str> = name.split('.').collect();
    let unknown = || message(format!("unable to parse {name} after [] at api.Config"));
    let Some(list) = [CLUSTERS, CONTEXTS, USERS].into_iter().find(|(l, _)| *l == parts[0]) else {
        return match parts.as_slice() {
            [top @ ("current-context" | "kind" | "apiVersion")] => Ok(Property::Top(top)),
            _ => Err(unknown()),
        };
    };
    match parts.as_slice() {
        [_, entry, fields @ ..] => Ok(Property::Entry(list, entry, fields.to_vec())),
        _ => Err(message(format!("unable to parse {name}"))),
    }
}

const BYTE_FIELDS: [&str; 3] = ["certificate-authority-data", "client-certificate-data", "client-key-data"];
const BOOL_FIELDS: [&str; 2] = ["insecure-skip-tls-verify", "disable-compression"];

fn set(ctx: &mut Context, args: &Args) -> Result<()> {
    let [name, value] = args.positional.as_slice() else { return Err(misused(ctx, args)) };
    let property = property(name)?;
    let paths = ctx.kubeconfig_paths();
    match property {
        Property::Top(field) => {
            kubeconfig::edit(
                &paths,
                |c| c.0.contains_key(field),
                |c| {
                    c.0.insert(field.to_owned(), json!(value));
                },
            )?;
        }
        Property::Entry(_, _, fields) if fields.is_empty() => return Err(message("unable to parse a property without a field")),
        Property::Entry(list, entry, fields) => {
            let field = *fields.last().unwrap_or(&"");
            let content = if BOOL_FIELDS.contains(&field) {
                json!(match value.as_str() {
                    "true" | "1" | "t" | "T" | "TRUE" | "True" => true,
                    "false" | "0" | "f" | "F" | "FALSE" | "False" => false,
                    other => return Err(message(format!("strconv.ParseBool: parsing {other:?}: invalid syntax"))),
                })
            } else if BYTE_FIELDS.contains(&field) && args.bool("set-raw-bytes") {
                json!(crate::encoding::base64(value.as_bytes()))
            } else if BYTE_FIELDS.contains(&field) {
                crate::encoding::unbase64(value)
                    .ok_or_else(|| message("error decoding input value: illegal base64 data at input byte 0"))?;
                json!(value)
            } else {
                json!(value)
            };
            kubeconfig::edit(
                &paths,
                |c| c.entry(list, entry).is_some(),
                |c| {
                    let mut whole = c.entry(list, entry).cloned().unwrap_or_else(|| json!({}));
                    let mut at = &mut whole;
                    for f in &fields {
                        if !at.is_object() {
                            *at = json!({});
                        }
                        at = &mut at[*f];
                    }
                    *at = content;
                    c.set_entry(list, entry, whole);
                },
            )?;
        }
    }
    ctx.print(&format!("Property {name:?} set.\n"));
    Ok(())
}

fn unset(ctx: &mut Context, args: &Args) -> Result<()> {
    let [name] = args.positional.as_slice() else { return Err(misused(ctx, args)) };
    let paths = ctx.kubeconfig_paths();
    // A whole list may go, too.
    if let Some((list, _)) = [CLUSTERS, CONTEXTS, USERS].into_iter().find(|(l, _)| l == name) {
        kubeconfig::edit(
            &paths,
            |c| !c.names(list).is_empty(),
            |c| {
                c.0.remove(list);
            },
        )?;
        ctx.print(&format!("Property {name:?} unset.\n"));
        return Ok(());
    }
    match property(name)? {
        Property::Top(field) => {
            kubeconfig::edit(
                &paths,
                |c| c.0.contains_key(field),
                |c| {
                    c.0.remove(field);
                },
            )?;
        }
        Property::Entry(list, entry, fields) => {
            kubeconfig::edit(
                &paths,
                |c| c.entry(list, entry).is_some(),
                |c| match fields.split_last() {
                    None => drop(c.remove_entry(list.0, entry)),
                    Some((last, parents)) => {
                        let mut whole = c.entry(list, entry).cloned().unwrap_or_default();
                        let parent = parents.iter().try_fold(&mut whole, |v, f| v.get_mut(*f));
                        if let Some(Value::Object(map)) = parent {
                            map.remove(*last);
                        }
                        c.set_entry(list, entry, whole);
                    }
                },
            )?;
        }
    }
    ctx.print(&format!("Property {name:?} unset.\n"));
    Ok(())
}

fn view(ctx: &mut Context, args: &Args) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(args.usage(format!("unexpected arguments: [{}]", args.positional.join(" "))));
    }
    let mut config: Kubeconfig = ctx.kubeconfig()?;
    if args.bool("minify") {
        config = config.minified(args.text("context"))?;
    }
    if args.bool("flatten") {
        config = config.flattened()?;
    }
    if !args.bool("raw") && !args.bool("flatten") {
        config = config.redacted();
    }
    let mut printer = match printers::from_args(ctx, args, Offer { lists: false, order: Order::Typed })? {
        Some(p) => p,
        None => Box::new(Yaml::new(false)) as Box<dyn Printer>,
    };
    let text = printer.print(&config.document())?;
    ctx.print(&text);
    Ok(())
}
