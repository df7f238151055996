//! `kubectl api-resources`.

use crate::cli::{Args, Command, Flag};
use crate::context::Context;
use crate::discovery::Resource;
use crate::encoding::tabwriter::{TABLE, align};
use crate::error::{Result, message};

/// The command.
pub fn cli() -> Command {
    Command::new("api-resources", "Print the supported API resources on the server")
        .flags([
            Flag::string("api-group", "", "Only resources of this group."),
            Flag::switch("cached", "Accepted; discovery is always fresh."),
            Flag::strings("categories", "Only resources in these categories."),
            Flag::switch_on("namespaced", "Only resources that live in namespaces, or with =false, only those that do not."),
            Flag::switch("no-headers", "Without the header line."),
            Flag::string("output", "", "wide or name.").short('o'),
            Flag::string("sort-by", "", "Sort by name or kind."),
            Flag::strings("verbs", "Only resources that support these verbs."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let (output, sort_by) = (args.str("output"), args.str("sort-by"));
    if !["", "wide", "name"].contains(&output) {
        return Err(message(format!("--output {output} is not available")));
    }
    if !["", "name", "kind"].contains(&sort_by) {
        return Err(message("--sort-by accepts only name or kind"));
    }
    if !args.positional.is_empty() {
        return Err(args.usage(format!("unexpected arguments: [{}]", args.positional.join(" "))));
    }
    let mapper = ctx.mapper()?;
    let has_all = |wanted: &[String], have: &[String]| wanted.iter().all(|w| have.contains(w));
    let mut shown: Vec<&Resource> = mapper
        .resources()?
        .iter()
        .filter(|r| r.preferred && !r.verbs.is_empty())
        .filter(|r| !args.changed("api-group") || r.group == args.str("api-group"))
        .filter(|r| !args.changed("namespaced") || r.namespaced == args.bool("namespaced"))
        .filter(|r| has_all(args.list("verbs"), &r.verbs) && has_all(args.list("categories"), &r.categories))
        .collect();
    match sort_by {
        "kind" => shown.sort_by(|a, b| a.kind.cmp(&b.kind)),
        "name" => shown.sort_by(|a, b| a.name.cmp(&b.name)),
        _ => shown.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name))),
    }
    let mut text = String::new();
    match output {
        "name" => {}
        _ if args.bool("no-headers") => {}
        "wide" => text += "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\tVERBS\tCATEGORIES\n",
        _ => text += "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\n",
    }
    for r in shown {
        let common = format!("{}\t{}\t{}\t{}\t{}", r.name, r.short_names.join(","), r.api_version(), r.namespaced, r.kind);
        text += &match output {
            "name" => format!("{}\n", r.group_resource()),
            "wide" => format!("{common}\t{}\t{}\n", r.verbs.join(","), r.categories.join(",")),
            _ => format!("{common}\n"),
        };
    }
    ctx.print(&align(TABLE, &text));
    Ok(())
}
