//! `kubectl why`: why an object is not running, ready or progressing (no upstream counterpart).

use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, Url};
use crate::context::Context;
use crate::encoding::json::{self as encoding, Order};
use crate::error::{Result, message};
use crate::selection::{self, Choice, Rules};
use crate::why::{World, render, why};
use serde_json::{Value, json};

/// The command.
pub fn cli() -> Command {
    Command::new("why", "Explain why an object is not running, ready or progressing")
        .usage("(TYPE NAME | TYPE/NAME) [-o json]")
        .flags([Flag::string("output", "", "json, for tools.").short('o')])
        .exec(exec)
}

struct Server<'a>(&'a Connection);

impl World for Server<'_> {
    fn list(&self, path: &str, labels: &str, fields: &str) -> Vec<Value> {
        let url = Url::new(path).query("labelSelector", labels).query("fieldSelector", fields);
        self.0.get(&url).ok().and_then(|list| list["items"].as_array().cloned()).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.0.get(&Url::new(path)).ok()
    }

    fn now(&self) -> i64 {
        jiff::Timestamp::now().as_second()
    }
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let as_json = match args.str("output") {
        "" => false,
        "json" => true,
        other => {
            return Err(message(format!("unable to match a printer suitable for the output format {other:?}, allowed formats are: json")));
        }
    };
    let mapper = ctx.mapper()?;
    let choices = selection::choose(&mapper, &args.positional, Rules::default())?;
    let [Choice { resource, name: Some(name) }] = choices.as_slice() else {
        return Err(args.usage("one object must be named, as TYPE NAME or TYPE/NAME"));
    };
    let connection = ctx.connection()?;
    let namespace = if resource.namespaced { ctx.namespace()? } else { String::new() };
    let object = connection.get(&Url::new(resource.object_path(&namespace, name)))?;
    let answer = why(&Server(&connection), &resource.group, &resource.kind, &object);
    if as_json {
        let text = encoding::to_string_indented(&json!(answer), "    ", Order::Sorted);
        ctx.print(&format!("{text}\n"));
    } else {
        ctx.print(&render(&answer));
    }
    Ok(())
}
