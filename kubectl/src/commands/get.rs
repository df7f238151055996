//! `kubectl get`: one or many resources, as the server's tables or in any other format, once or as they change.

use super::file_flags;
use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, JSON, TABLE, Url};
use crate::context::Context;
use crate::discovery::Resource;
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::printers::table::{self, Options, TablePrinter};
use crate::printers::{self, Offer, Printer, sorting};
use crate::selection::{self, Choice, Rules};
use serde_json::{Value, json};

/// The command.
pub fn cli() -> Command {
    Command::new("get", "Display one or many resources")
        .usage("[(-o|--output=)json|yaml|name|go-template|go-template-file|template|templatefile|jsonpath|jsonpath-as-json|jsonpath-file|custom-columns|custom-columns-file|wide] (TYPE[.VERSION][.GROUP] [NAME | -l label] | TYPE[.VERSION][.GROUP]/NAME ...) [flags]")
        .flags(printers::flags())
        .flags(file_flags("The manifests whose objects to get."))
        .flags([
            Flag::switch("all-namespaces", "From all namespaces.").short('A'),
            Flag::int64("chunk-size", "500", "How many objects to ask for at once; 0 for all."),
            Flag::string("field-selector", "", "Only objects whose fields match."),
            Flag::switch("ignore-not-found", "Succeed when there is nothing."),
            Flag::strings("label-columns", "Labels to show as columns.").short('L'),
            Flag::switch("no-headers", "Without the header line."),
            Flag::switch("output-watch-events", "Show what kind of event each line is (with --watch)."),
            Flag::string("raw", "", "A path to GET from the server as it is."),
            Flag::string("selector", "", "Only objects whose labels match.").short('l'),
            Flag::switch_on("server-print", "Let the server make the table."),
            Flag::switch("show-kind", "Show each object's kind."),
            Flag::switch("show-labels", "Show all labels as the last column."),
            Flag::string("sort-by", "", "A path to sort by."),
            Flag::string("subresource", "", "A subresource to get instead: status, scale."),
            Flag::switch("watch", "Go on with what changes after the list.").short('w'),
            Flag::switch("watch-only", "Only what changes, without the list."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if let Some(path) = args.text("raw") {
        return raw(ctx, args, path);
    }
    if args.bool("output-watch-events") && !(args.bool("watch") || args.bool("watch-only")) {
        return Err(message("--output-watch-events option can only be used with --watch or --watch-only"));
    }
    let printer = printers::from_args(ctx, args, Offer { lists: true, order: Order::Sorted })?;
    let rules =
        Rules { empty_selector: true, selector: !args.str("selector").is_empty(), all: false, all_namespaces: args.bool("all-namespaces") };
    let choices = if !args.list("filename").is_empty() {
        if !args.positional.is_empty() {
            return Err(message("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well"));
        }
        let documents = crate::manifest::read(ctx, args)?;
        let (targets, errors) = selection::resolve(ctx, documents)?;
        if !errors.is_empty() {
            return Err(Error::Many(errors));
        }
        targets.into_iter().map(|t| (t.namespace, Choice { resource: t.resource, name: Some(t.name) })).collect()
    } else {
        if args.positional.is_empty() {
            ctx.complain("You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n\n");
            return Err(args.usage("Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods)."));
        }
        let mapper = ctx.mapper()?;
        let chosen = selection::choose(&mapper, &args.positional, rules)?;
        let namespace = if rules.all_namespaces { String::new() } else { ctx.namespace()? };
        let scoped = |r: &Resource| if r.namespaced { namespace.clone() } else { String::new() };
        chosen.into_iter().map(|c| (scoped(&c.resource), c)).collect::<Vec<_>>()
    };
    if args.bool("watch") || args.bool("watch-only") {
        return watch(ctx, args, printer, choices);
    }
    match printer {
        Some(printer) => objects(ctx, args, printer, choices),
        None => tables(ctx, args, choices),
    }
}

fn raw(ctx: &mut Context, args: &Args, path: &str) -> Result<()> {
    if !args.positional.is_empty() {
        return Err(args.usage("arguments may not be passed when --raw is specified"));
    }
    if !args.list("filename").is_empty() || args.bool("watch") || args.text("selector").is_some() {
        return Err(args.usage("--raw may not be specified with other flags that filter the server request or alter the output"));
    }
    if !args.str("output").is_empty() {
        return Err(args.usage("--raw and --output are mutually exclusive"));
    }
    let bytes = ctx.connection()?.get_bytes(&Url::new(path))?;
    ctx.print_bytes(&bytes);
    Ok(())
}

/// The URL of a choice, with the flags that filter.
fn url(args: &Args, namespace: &str, choice: &Choice, as_list: bool) -> Url {
    let subresource = args.text("subresource").map(|s| format!("/{s}")).unwrap_or_default();
    match &choice.name {
        Some(name) if !as_list => Url::new(format!("{}{subresource}", choice.resource.object_path(namespace, name))),
        Some(name) => Url::new(choice.resource.path(namespace)).query("fieldSelector", format!("metadata.name={name}")),
        None => Url::new(choice.resource.path(namespace))
            .query("fieldSelector", args.str("field-selector"))
            .query("labelSelector", args.str("selector")),
    }
}

/// One object, or all pages of a list as one.
fn fetch(connection: &Connection, args: &Args, namespace: &str, choice: &Choice, accept: &str) -> Result<Value> {
    let base = url(args, namespace, choice, false);
    let table = |u: Url| if accept == TABLE && !args.str("sort-by").is_empty() { u.query("includeObject", "Object") } else { u };
    let limit = args.int("chunk-size");
    let limit = if choice.name.is_none() && limit > 0 { limit.to_string() } else { String::new() };
    let mut whole = connection.get_as(&table(base.clone().query("limit", &limit)), accept).map_err(|e| match choice.name {
        Some(_) => e,
        None => selection::list_error(e, &choice.resource, args.str("selector"), args.str("field-selector")),
    })?;
    let field = if whole["kind"] == "Table" { "rows" } else { "items" };
    while choice.name.is_none() {
        let Some(next) = whole["metadata"]["continue"].as_str().filter(|c| !c.is_empty()).map(str::to_owned) else { break };
        let mut page = connection.get_as(&table(base.clone().query("limit", &limit).query("continue", next)), accept)?;
        if let (Some(Value::Array(all)), Some(Value::Array(more))) = (whole.get_mut(field), page.get_mut(field)) {
            all.append(more);
        }
        whole["metadata"] = page["metadata"].take();
    }
    Ok(whole)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn table_options(args: &Args, kind: &str, namespace_column: bool) -> Options {
    Options {
        no_headers: args.bool("no-headers"),
        with_namespace: namespace_column,
        kind_prefix: kind.to_owned(),
        wide: args.str("output") == "wide",
        show_labels: args.bool("show-labels"),
        label_columns: args.list("label-columns").to_vec(),
    }
}

/// `pod`, `deployment.apps`: what stands before a name when kinds are shown.
fn kind_prefix(resource: &Resource) -> String {
    let kind = resource.kind.to_lowercase();
    if resource.group.is_empty() { kind } else { format!("{kind}.{}", resource.group) }
}

/// Consecutive tables of the same resource go under one header; different ones are set apart by an empty line.
fn tables(ctx: &mut Context, args: &Args, choices: Vec<(String, Choice)>) -> Result<()> {
    let connection = ctx.connection()?;
    let mut groups: Vec<(Resource, Vec<Value>)> = Vec::new();
    let mut errors = Vec::new();
    let single = choices.len() == 1;
    for (namespace, choice) in &choices {
        let accept = if args.bool("server-print") { TABLE } else { JSON };
        match fetch(&connection, args, namespace, choice, accept) {
            Ok(answer) => {
                let table = if answer["kind"] == "Table" { answer } else { from_objects(&answer) };
                match groups.last_mut() {
                    Some((r, tables)) if *r == choice.resource => tables.push(table),
                    _ => groups.push((choice.resource.clone(), vec![table])),
                }
            }
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) if e.is_not_found() && args.bool("ignore-not-found") => {}
            // The server's "cannot list here" ends a lone request and only adds to others.
            Err(e) if single => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    let several = {
        let mut kinds: Vec<String> = choices.iter().map(|(_, c)| c.resource.group_resource()).collect();
        kinds.sort();
        kinds.dedup();
        kinds.len() > 1
    };
    let show_kind = args.bool("show-kind") || several;
    ctx.drain_warnings();
    let mut printed = false;
    for (resource, mut tables) in groups {
        let mut all = tables.remove(0);
        for mut t in tables {
            if let (Some(Value::Array(rows)), Some(Value::Array(more))) = (all.get_mut("rows"), t.get_mut("rows")) {
                rows.append(more);
            }
        }
        if !args.str("sort-by").is_empty()
            && let Some(Value::Array(rows)) = all.get_mut("rows")
        {
            // Upstream shows nothing, and no error, when no row has the field.
            if sorting::sort(rows, args.str("sort-by"), |r| &r["object"]).is_err() {
                rows.clear();
            }
        }
        if all["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let prefix = if show_kind { kind_prefix(&resource) } else { String::new() };
        let options = table_options(args, &prefix, args.bool("all-namespaces") && resource.namespaced);
        let text = TablePrinter::new(options).print(&all);
        if printed {
            ctx.print("\n");
        }
        ctx.print(&text);
        printed = true;
    }
    if !printed && !args.bool("ignore-not-found") && errors.is_empty() {
        let namespaced = choices.iter().all(|(_, c)| c.resource.namespaced);
        let text = match choices.first() {
            Some((namespace, _)) if namespaced && !namespace.is_empty() => format!("No resources found in {namespace} namespace.\n"),
            None if !args.bool("all-namespaces") => format!("No resources found in {} namespace.\n", ctx.namespace()?),
            _ => "No resources found\n".to_owned(),
        };
        ctx.complain(&text);
    }
    Error::collect(errors)
}

fn from_objects(answer: &Value) -> Value {
    match answer.get("items").and_then(Value::as_array) {
        Some(items) => table::of_objects(items, now()),
        None => table::of_objects(std::slice::from_ref(answer), now()),
    }
}

/// Objects in a format of their own: one alone, or all in a `List`.
fn objects(ctx: &mut Context, args: &Args, mut printer: Box<dyn Printer>, choices: Vec<(String, Choice)>) -> Result<()> {
    let connection = ctx.connection()?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let alone = choices.len() == 1 && choices[0].1.name.is_some();
    for (namespace, choice) in &choices {
        match fetch(&connection, args, namespace, choice, JSON) {
            Ok(answer) => match answer.get("items").and_then(Value::as_array) {
                Some(items) if choice.name.is_none() => {
                    let kind = answer["kind"].as_str().unwrap_or("").trim_end_matches("List");
                    found.extend(items.iter().map(|i| {
                        let mut item = i.clone();
                        if item["kind"].is_null() {
                            item["kind"] = json!(kind);
                            item["apiVersion"] = answer["apiVersion"].clone();
                        }
                        item
                    }));
                }
                _ => found.push(answer),
            },
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) if e.is_not_found() && args.bool("ignore-not-found") => {}
            Err(e) => errors.push(e),
        }
    }
    if !args.str("sort-by").is_empty() {
        sorting::sort(&mut found, args.str("sort-by"), |o| o)?;
    }
    ctx.drain_warnings();
    if found.is_empty() && (alone || args.bool("ignore-not-found") || !errors.is_empty()) {
        return Error::collect(errors);
    }
    let columns = args.str("output").starts_with("custom-columns");
    let text = if alone {
        printer.print(&found[0])?
    } else if columns && found.is_empty() {
        printer.print(&json!({"kind": "List", "items": []}))?
    } else {
        printer.print(&json!({"apiVersion": "v1", "items": found, "kind": "List", "metadata": {"resourceVersion": ""}}))?
    };
    ctx.print(&text);
    Error::collect(errors)
}

/// The list, then every change, until interrupted or the server ends the watch.
fn watch(ctx: &mut Context, args: &Args, mut printer: Option<Box<dyn Printer>>, choices: Vec<(String, Choice)>) -> Result<()> {
    let [(namespace, choice)] = choices.as_slice() else {
        return Err(message("you may only specify a single resource type"));
    };
    let connection = ctx.connection()?;
    let accept = if printer.is_some() { JSON } else { TABLE };
    let prefix = if args.bool("show-kind") { kind_prefix(&choice.resource) } else { String::new() };
    let mut tables = TablePrinter::new(table_options(args, &prefix, args.bool("all-namespaces") && choice.resource.namespaced));
    let mut show = |ctx: &mut Context, event: &str, object: &Value| -> Result<()> {
        let object = if args.bool("output-watch-events") { with_event(object, event, printer.is_some()) } else { object.clone() };
        let text = match &mut printer {
            Some(p) => p.print(&object)?,
            None if object["kind"] == "Table" => tables.print(&object),
            None => tables.print(&from_objects(&object)),
        };
        ctx.print(&text);
        ctx.flush();
        Ok(())
    };
    let list = connection.get_as(&url(args, namespace, choice, true), accept)?;
    if choice.name.is_some() && rows(&list) == 0 && !args.bool("watch-only") {
        // Asking for the object itself gives the error that a missing one deserves.
        connection.get(&url(args, namespace, choice, false))?;
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    if !args.bool("watch-only") {
        match list.get("items").and_then(Value::as_array).filter(|_| accept == JSON) {
            Some(items) => {
                let kind = list["kind"].as_str().unwrap_or("").trim_end_matches("List").to_owned();
                for mut item in items.clone() {
                    if item["kind"].is_null() {
                        item["kind"] = json!(kind);
                        item["apiVersion"] = list["apiVersion"].clone();
                    }
                    show(ctx, "ADDED", &item)?;
                }
            }
            None if rows(&list) > 0 => show(ctx, "ADDED", &list)?,
            None => {}
        }
    }
    let url = url(args, namespace, choice, true).query("resourceVersion", version).query("watch", "true");
    let mut stream = connection.block_on(connection.stream(&url, accept))?;
    while let Some(event) = connection.block_on(Connection::next_line(&mut stream))? {
        let kind = event["type"].as_str().unwrap_or("");
        match kind {
            "BOOKMARK" => {}
            "ERROR" => {
                let status = serde_json::from_value(event["object"].clone()).map_err(|e| message(e.to_string()))?;
                return Err(Error::Status(Box::new(status)));
            }
            _ => show(ctx, kind, &event["object"])?,
        }
    }
    Ok(())
}

fn rows(list: &Value) -> usize {
    let field = if list["kind"] == "Table" { "rows" } else { "items" };
    list[field].as_array().map_or(0, Vec::len)
}

/// The object with the event before it: as a column of a table, or as a watch event around it.
fn with_event(object: &Value, event: &str, whole: bool) -> Value {
    if whole {
        return json!({"type": event, "object": object});
    }
    let mut table = if object["kind"] == "Table" { object.clone() } else { from_objects(object) };
    if let Some(Value::Array(columns)) = table.get_mut("columnDefinitions")
        && !columns.is_empty()
    {
        columns.insert(0, json!({"name": "Event", "type": "string"}));
    }
    for row in table.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::Array(cells)) = row.get_mut("cells") {
            // Wide enough for every kind of event, so that lines stay under each other.
            cells.insert(0, json!(format!("{event:<8}")));
        }
    }
    table
}
