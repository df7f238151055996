//! `kubectl explain`.

use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::discovery::Resource;
use crate::error::{Error, Result, message};
use crate::explain;

/// The command.
pub fn cli() -> Command {
    Command::new("explain", "Get documentation for a resource")
        .usage("TYPE [--recursive=FALSE|TRUE] [--api-version=api-version-group] [--output=plaintext]")
        .flags([
            Flag::string("api-version", "", "The version (group/version) of the resource."),
            Flag::string("output", "plaintext", "plaintext.").short('o'),
            Flag::switch("recursive", "The names of all fields below it, without their descriptions."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let connection = ctx.connection()?;
    let mapper = ctx.mapper()?;
    let [request] = args.positional.as_slice() else {
        return Err(message(match args.positional.len() {
            0 => {
                "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources."
            }
            _ => "We accept only this format: explain RESOURCE",
        }));
    };
    let words: Vec<&str> = request.split('.').filter(|word| !word.is_empty()).collect();
    // The longest beginning that is a resource, with or without its group; the rest is a path of fields.
    let found = (1..=words.len()).rev().find_map(|n| Some((mapper.resource(&words[..n].join(".")).ok()?, &words[n..])));
    let Some((mut resource, path)) = found else {
        return Err(Error::Verbatim(format!("the server doesn't have a resource type {:?}", words.first().unwrap_or(&""))));
    };
    if args.str("output") != "plaintext" {
        return Err(message(format!("unrecognized format: {}", args.str("output"))));
    }
    if let Some(version) = args.text("api-version") {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        (resource.group, resource.version) = (group.to_owned(), version.to_owned());
    }
    let document = match connection.get(&Url::new(openapi_path(&resource))) {
        Err(error) if error.is_not_found() => {
            let version = format!("{}/{}", resource.group, resource.version);
            return Err(message(format!("couldn't find resource for {:?}", format!("{version}, Resource={}", resource.name))));
        }
        other => other?,
    };
    let (text, done) = explain::explain(&document, &resource, path, args.bool("recursive"));
    ctx.print(&text);
    done
}

fn openapi_path(resource: &Resource) -> String {
    match resource.group.as_str() {
        "" => format!("/openapi/v3/api/{}", resource.version),
        group => format!("/openapi/v3/apis/{group}/{}", resource.version),
    }
}
