//! `kubectl timeline`: what happened to an object and to what it owns (no upstream counterpart).

use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, JSON, Url};
use crate::context::Context;
use crate::encoding::json::{self as encoding, Order};
use crate::encoding::tabwriter::TabWriter;
use crate::error::{Result, message};
use crate::family::{self, Family};
use crate::selection::{self, Choice, Rules};
use crate::timeline::{self, Moment};
use futures::{AsyncBufReadExt, StreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The command.
pub fn cli() -> Command {
    Command::new("timeline", "Show everything that happened to an object and to what it owns, in order")
        .usage("(TYPE NAME | TYPE/NAME) [-f] [-o json]")
        .flags([
            Flag::switch("follow", "Go on with what happens next.").short('f'),
            Flag::string("output", "", "json, for tools.").short('o'),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let as_json = match args.str("output") {
        "" => false,
        "json" => true,
        other => {
            return Err(message(format!("unable to match a printer suitable for the output format {other:?}, allowed formats are: json")));
        }
    };
    if as_json && args.bool("follow") {
        return Err(message("--follow prints lines, --output=json one document: choose one"));
    }
    let mapper = ctx.mapper()?;
    let choices = selection::choose(&mapper, &args.positional, Rules::default())?;
    let [Choice { resource, name: Some(name) }] = choices.as_slice() else {
        return Err(args.usage("one object must be named, as TYPE NAME or TYPE/NAME"));
    };
    let connection = ctx.connection()?;
    let namespace = if resource.namespaced { ctx.namespace()? } else { String::new() };
    let url = Url::new(resource.object_path(&namespace, name));
    let gather = || family::gather(&connection, &mapper, connection.get(&url)?);
    let family = gather()?;
    let moments = timeline::moments(&family.objects, &family.events);
    if as_json {
        let text = encoding::to_string_indented(&document(&family, &moments), "    ", Order::Sorted);
        ctx.print(&format!("{text}\n"));
        return Ok(());
    }
    let mut writer = timeline::writer();
    if moments.is_empty() {
        ctx.complain("Nothing is recorded of it.\n");
    } else {
        ctx.print(&timeline::render(&moments, None, true, &mut writer));
    }
    if args.bool("follow") {
        let list = Url::new(resource.path(&namespace)).query("fieldSelector", format!("metadata.name={name}"));
        return follow(ctx, &connection, [&list, &events_url(&namespace)], gather, moments, writer);
    }
    let drawn = ctx.stdout_is_terminal;
    let lines: String = pods(&family, &moments).map(|(pod, phases)| timeline::bar(&pod, &phases, drawn)).collect();
    if !lines.is_empty() {
        ctx.print(&format!("\n{lines}"));
    }
    Ok(())
}

fn events_url(namespace: &str) -> Url {
    Url::new(if namespace.is_empty() { "/api/v1/events".to_owned() } else { format!("/api/v1/namespaces/{namespace}/events") })
}

/// The pods of a family with the phases of their lives.
fn pods<'a>(family: &'a Family, moments: &'a [Moment]) -> impl Iterator<Item = (String, Vec<timeline::Phase>)> + 'a {
    family.objects.iter().filter(|o| o["kind"] == "Pod").map(move |pod| {
        let name = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap_or(""));
        let own: Vec<Moment> = moments.iter().filter(|m| m.object == name).cloned().collect();
        (name, timeline::phases(&own, Timestamp::now()))
    })
}

fn document(family: &Family, moments: &[Moment]) -> Value {
    let pods: serde_json::Map<String, Value> = pods(family, moments).map(|(name, phases)| (name, json!(phases))).collect();
    json!({"moments": moments, "phases": pods})
}

/// Prints what is new whenever the object or an event in its namespace changes, until it is deleted.
fn follow(
    ctx: &mut Context,
    connection: &Connection,
    lists: [&Url; 2],
    gather: impl Fn() -> Result<Family>,
    mut told: Vec<Moment>,
    mut writer: TabWriter,
) -> Result<()> {
    let mut watches = Vec::new();
    for url in lists {
        let version = connection.get(&url.clone().query("limit", "1"))?["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
        let watch = url.clone().query("resourceVersion", version).query("watch", "true");
        watches.push(connection.block_on(connection.stream(&watch, JSON))?.lines());
    }
    // A change only says that there is something new; what it is, is read from the whole family.
    let mut changes = stream::select_all(watches);
    loop {
        ctx.flush();
        // What happened between the list and the watch is told, too: the family is gathered before anything is waited for.
        let family = match gather() {
            Err(error) if error.is_not_found() => {
                ctx.print("It is gone.\n");
                return Ok(());
            }
            other => other?,
        };
        let now = timeline::moments(&family.objects, &family.events);
        let new: Vec<Moment> = now.iter().filter(|m| !told.contains(m)).cloned().collect();
        ctx.print(&timeline::render(&new, told.last(), false, &mut writer));
        told.extend(new);
        ctx.flush();
        let next = connection.block_on(changes.next());
        match next {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(message("the server ended the watch")),
        }
    }
}
