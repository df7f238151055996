//! `kubectl events`.

use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, JSON, Url};
use crate::context::Context;
use crate::describe::event_row;
use crate::encoding::json::Order;
use crate::encoding::tabwriter::{TABLE, TabWriter};
use crate::error::{Result, message};
use crate::printers::{self, Offer};
use serde_json::{Value, json};

/// The command.
pub fn cli() -> Command {
    Command::new("events", "List events")
        .usage("[(-o|--output=)json|yaml|name] [--for TYPE/NAME] [--watch] [--types=Normal,Warning]")
        .flags(printers::flags())
        .flags([
            Flag::switch("all-namespaces", "From all namespaces.").short('A'),
            Flag::int64("chunk-size", "500", "How many to ask for at once; 0 for all."),
            Flag::string("for", "", "Only those about this object."),
            Flag::switch("no-headers", "Without the header line."),
            Flag::strings("types", "Only those of these types."),
            Flag::switch("watch", "Go on with what happens after the list.").short('w'),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let types = args.list("types");
    if types.iter().any(|t| !["normal", "warning"].contains(&t.to_lowercase().as_str())) {
        return Err(message("valid --types are Normal or Warning"));
    }
    let all = args.bool("all-namespaces");
    let namespace = ctx.namespace()?;
    let path = if all { "/api/v1/events".to_owned() } else { format!("/api/v1/namespaces/{namespace}/events") };
    let mut url = Url::new(path);
    if let Some(word) = args.text("for") {
        let Some((kind, name)) = word.split_once('/') else { return Err(message("--for must be in resource/name form")) };
        let resource = ctx.mapper()?.resource(kind)?;
        url = url.query("fieldSelector", format!("involvedObject.kind={},involvedObject.name={name}", resource.kind));
    }
    let mut printer = printers::from_args(ctx, args, Offer { lists: false, order: Order::Sorted })?;
    let connection = ctx.connection()?;
    let list = connection.get(&url)?;
    let wanted = |e: &Value| types.is_empty() || types.iter().any(|t| e["type"].as_str().is_some_and(|have| have.eq_ignore_ascii_case(t)));
    let mut items: Vec<Value> = list["items"].as_array().cloned().unwrap_or_default().into_iter().filter(|e| wanted(e)).collect();
    items.sort_by_key(crate::describe::event_time);
    for e in &mut items {
        e["kind"] = json!("Event");
        e["apiVersion"] = json!("v1");
    }
    let watch = args.bool("watch");
    if let Some(p) = printer.as_mut().filter(|_| !watch) {
        let text = p.print(&json!({"apiVersion": "v1", "items": items, "kind": "EventList", "metadata": list["metadata"]}))?;
        ctx.print(&text);
        return Ok(());
    }
    if items.is_empty() && !watch {
        let text = if all { "No events found.\n".to_owned() } else { format!("No events found in {namespace} namespace.\n") };
        ctx.complain(&text);
        return Ok(());
    }
    let mut writer = TabWriter::remembering(TABLE);
    let now = || jiff::Timestamp::now().as_second();
    let mut text = String::new();
    if !args.bool("no-headers") {
        text += if all { "NAMESPACE\t" } else { "" };
        text += "LAST SEEN\tTYPE\tREASON\tOBJECT\tMESSAGE\n";
    }
    items.iter().for_each(|e| text += &event_row(e, all, now()));
    ctx.print(&writer.align(&text));
    ctx.flush();
    if !watch {
        return Ok(());
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    let mut stream = connection.block_on(connection.stream(&url.query("resourceVersion", version).query("watch", "true"), JSON))?;
    while let Some(event) = connection.block_on(Connection::next_line(&mut stream))? {
        let object = &event["object"];
        if !wanted(object) || event["type"] == "DELETED" || event["type"] == "BOOKMARK" {
            continue;
        }
        let line = match &mut printer {
            Some(p) => p.print(object)?,
            None => writer.align(&event_row(object, all, now())),
        };
        ctx.print(&line);
        ctx.flush();
    }
    Ok(())
}
