//! How objects become output: one trait, one table of formats (upstream: `cli-runtime/pkg/genericclioptions/print_flags.go`).

mod columns;
mod marshalled;
mod name;
mod scripted;
pub mod sorting;
pub mod table;

pub use columns::CustomColumns;
pub use marshalled::{Json, Yaml};
pub use name::{Name, resource_name};
pub use scripted::{GoTemplate, JsonPathPrinter};

use crate::cli::{Args, Flag};
use crate::context::Context;
use crate::encoding::json::Order;
use crate::error::{Result, message};
use serde_json::Value;

/// Turns one object after another into text.
pub trait Printer {
    /// The text for the next object.
    fn print(&mut self, object: &Value) -> Result<String>;
}

/// The formats every command with `-o` has. The sorted list is part of an error text.
const FORMATS: [&str; 10] = [
    "go-template",
    "go-template-file",
    "json",
    "jsonpath",
    "jsonpath-as-json",
    "jsonpath-file",
    "name",
    "template",
    "templatefile",
    "yaml",
];
/// Those that only lists have.
const LIST_FORMATS: [&str; 3] = ["custom-columns", "custom-columns-file", "wide"];

/// Flags of every command that prints objects.
pub fn flags() -> Vec<Flag> {
    vec![
        Flag::switch_on("allow-missing-template-keys", "Treat a missing field in a template as nothing instead of an error."),
        Flag::string(
            "output",
            "",
            "Output format: json, yaml, name, go-template, go-template-file, jsonpath, jsonpath-as-json or jsonpath-file.",
        )
        .short('o'),
        Flag::switch("show-managed-fields", "Keep metadata.managedFields in json and yaml."),
        Flag::string("template", "", "The template, or its file, for go-template formats."),
    ]
}

/// Which printers a command offers, and how they see its objects.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Also `wide` and custom columns.
    pub lists: bool,
    /// The order of keys in JSON.
    pub order: Order,
}

/// The printer that `-o` names; nothing when it is not given (or `wide`, which is the caller's).
pub fn from_args(ctx: &Context, args: &Args, offer: Offer) -> Result<Option<Box<dyn Printer>>> {
    let (output, template) = (args.str("output"), args.str("template"));
    if output.is_empty() && template.is_empty() || offer.lists && output == "wide" {
        return Ok(None);
    }
    let output = if output.is_empty() { "go-template" } else { output };
    let (format, argument) = output.split_once('=').map_or((output, None), |(f, a)| (f, Some(a)));
    // `-o jsonpath` may also take its template from --template.
    let argument = argument.filter(|a| !a.is_empty()).or(Some(template).filter(|t| !t.is_empty()));
    let missing = args.bool("allow-missing-template-keys") || !args.knows("allow-missing-template-keys");
    let managed = args.bool("show-managed-fields");
    let file = |argument: Option<&str>| -> Result<String> {
        let name = argument.unwrap_or("");
        Ok(String::from_utf8_lossy(&ctx.read_file(name).map_err(|e| message(format!("error reading --template {name}, {e}\n")))?)
            .into_owned())
    };
    let printer: Box<dyn Printer> = match format {
        "json" => Box::new(Json::new(offer.order, managed)),
        "yaml" => Box::new(Yaml::new(managed)),
        "name" => Box::new(Name::new("")),
        "go-template" | "template" | "go-template-file" | "templatefile" => {
            let Some(text) = argument else { return Err(message("template format specified but no template given")) };
            let text = if format.ends_with("file") { file(Some(text))? } else { text.to_owned() };
            Box::new(GoTemplate::new(&text, missing)?)
        }
        "jsonpath" | "jsonpath-as-json" | "jsonpath-file" => {
            let Some(text) = argument else { return Err(message("template format specified but no template given")) };
            let text = if format.ends_with("file") { file(Some(text))? } else { text.to_owned() };
            Box::new(JsonPathPrinter::new(&text, missing, format == "jsonpath-as-json")?)
        }
        "custom-columns" | "custom-columns-file" if offer.lists => {
            let Some(text) = argument else { return Err(message("custom-columns format specified but no custom columns given")) };
            let headers = !args.bool("no-headers");
            Box::new(match format {
                "custom-columns" => CustomColumns::new(text, headers)?,
                _ => CustomColumns::from_file(&file(Some(text))?, headers)?,
            })
        }
        _ => {
            let mut allowed: Vec<&str> = FORMATS.to_vec();
            if offer.lists {
                allowed.extend(LIST_FORMATS);
            }
            allowed.sort_unstable();
            return Err(message(format!(
                "unable to match a printer suitable for the output format {output:?}, allowed formats are: {}",
                allowed.join(",")
            )));
        }
    };
    Ok(Some(printer))
}

/// The printer for the result of a change: what `-o` names, else `kind/name operation`.
pub fn for_change(ctx: &Context, args: &Args, operation: &str, order: Order) -> Result<Box<dyn Printer>> {
    match from_args(ctx, args, Offer { lists: false, order })? {
        Some(p) => Ok(p),
        None => Ok(Box::new(Name::new(operation))),
    }
}
