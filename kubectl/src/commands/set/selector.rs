//! `kubectl set selector`: which pods a service sends to.

use super::{Report, each, flags};
use crate::cli::{Args, Command, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::{Map, json};

pub(super) fn cli() -> Command {
    Command::new("selector", "Set the selector on a resource")
        .usage("(-f FILENAME | TYPE NAME) EXPRESSIONS [--resource-version=version]")
        .flags(flags().into_iter().filter(|f| !["selector"].contains(&f.name)))
        .flags([Flag::string("resource-version", "", "Only if the object has this version.")])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let Some((expression, resources)) = args.positional.split_last() else {
        return Err(message("one or more resources must be specified as <resource> <name> or <resource>/<name>"));
    };
    let mut labels = Map::new();
    for pair in expression.split(',').filter(|p| !p.is_empty()) {
        if let Some((key, value)) = pair.split_once('=') {
            labels.insert(key.trim().to_owned(), json!(value.trim_start_matches('=').trim()));
        }
    }
    each(ctx, args, resources, &Report { done: "selector updated", silent_when_same: false }, |_, target, object| {
        if target.resource.group_resource() != "services" {
            return Err(message("setting a selector is only supported for Services"));
        }
        object["spec"]["selector"] = json!(labels);
        if let Some(version) = args.text("resource-version") {
            object["metadata"]["resourceVersion"] = json!(version);
        }
        Ok(())
    })
}
