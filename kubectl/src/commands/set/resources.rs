//! `kubectl set resources`: what containers ask for and may use.

use super::{Report, containers, each, flags, pod_spec};
use crate::cli::{Args, Command, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::json;

pub(super) fn cli() -> Command {
    Command::new("resources", "Update resource requests/limits on objects with pod templates")
        .usage("(-f FILENAME | TYPE NAME)  ([--limits=LIMITS & --requests=REQUESTS]")
        .flags(flags())
        .flags([
            Flag::string("containers", "*", "The containers to change; wildcards are allowed.").short('c'),
            Flag::string("limits", "", "What they may use: cpu=100m,memory=256Mi."),
            Flag::string("requests", "", "What they ask for: cpu=100m,memory=256Mi."),
        ])
        .exec(exec)
}

/// `cpu=1,memory=1Gi` as pairs.
pub(crate) fn quantities(text: &str) -> Result<Vec<(String, String)>> {
    let pair = |word: &str| match word.split('=').collect::<Vec<_>>().as_slice() {
        [name, quantity] => {
            quantity.parse::<api::quantity::Quantity>().map_err(|e| message(e.to_string()))?;
            Ok(((*name).to_owned(), (*quantity).to_owned()))
        }
        _ => Err(message(format!("Invalid argument syntax {word}, expected <resource>=<value>"))),
    };
    text.split(',').filter(|w| !w.is_empty()).map(pair).collect()
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    if args.str("limits").is_empty() && args.str("requests").is_empty() {
        return Err(message("you must specify an update to requests or limits (in the form of --requests/--limits)"));
    }
    let wanted = [("limits", quantities(args.str("limits"))?), ("requests", quantities(args.str("requests"))?)];
    let pattern = args.str("containers");
    each(ctx, args, &args.positional, &Report { done: "resource requirements updated", silent_when_same: true }, |_, target, object| {
        let mut found = false;
        for container in containers(pod_spec(target, object)?, pattern, true) {
            found = true;
            for (field, quantities) in &wanted {
                for (name, quantity) in quantities {
                    container["resources"][*field][name] = json!(quantity);
                }
            }
        }
        if found { Ok(()) } else { Err(message(format!("error: unable to find container named {pattern}"))) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_checked_before_anything_is_sent() {
        let pairs = |text| quantities(text).map_err(|e| e.to_string());
        assert_eq!(pairs("cpu=1,memory=2Gi"), Ok(vec![("cpu".into(), "1".into()), ("memory".into(), "2Gi".into())]));
        assert_eq!(pairs("cpu"), Err("Invalid argument syntax cpu, expected <resource>=<value>".into()));
        assert!(pairs("cpu=zz").unwrap_err().starts_with("quantities must match the regular expression"));
    }
}
