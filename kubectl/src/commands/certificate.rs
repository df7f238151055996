//! `kubectl certificate`: approving and denying certificate signing requests.

use super::file_flags;
use crate::cli::{Args, Command, Flag};
use crate::connection::Url;
use crate::context::Context;
use crate::encoding::json::Order;
use crate::error::{Error, Result, message};
use crate::{manifest, printers, selection};
use serde_json::{Value, json};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// How often a conflicting write is tried again, as upstream does.
const TRIES: usize = 5;

/// The command and its subcommands.
pub fn cli() -> Command {
    let deciding = |name: &'static str, about: &'static str| {
        Command::new(name, about)
            .usage("(-f FILENAME | NAME)")
            .flags(printers::flags())
            .flags(file_flags("The requests."))
            .flags([Flag::switch("force", "Decide again what is decided.")])
    };
    Command::new("certificate", "Modify certificate resources")
        .usage("SUBCOMMAND")
        .command(deciding("approve", "Approve a certificate signing request").exec(|c, a| decide(c, a, "Approved", "Denied", "approved")))
        .command(deciding("deny", "Deny a certificate signing request").exec(|c, a| decide(c, a, "Denied", "Approved", "denied")))
}

fn decide(ctx: &mut Context, args: &Args, verdict: &str, opposite: &str, done: &str) -> Result<()> {
    let mut names = args.positional.clone();
    let documents = manifest::read(ctx, args)?;
    if names.is_empty() && documents.is_empty() {
        return Err(message("one or more CSRs must be specified as <name> or -f <filename>"));
    }
    let (targets, mut errors) = selection::resolve(ctx, documents)?;
    names.extend(targets.into_iter().map(|t| t.name));
    for name in names {
        match one(ctx, args, &name, verdict, opposite) {
            Ok(object) => {
                let text = printers::for_change(ctx, args, done, Order::Typed)?.print(&object)?;
                ctx.print(&text);
            }
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)
}

fn one(ctx: &mut Context, args: &Args, name: &str, verdict: &str, opposite: &str) -> Result<Value> {
    let connection = ctx.connection()?;
    for attempt in 1.. {
        let mut request = connection.get(&Url::new(format!("{REQUESTS}/{name}")))?;
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if !conclude(&mut request, verdict, opposite, &now)? && !args.bool("force") {
            return Ok(request);
        }
        match connection.put(&Url::new(format!("{REQUESTS}/{name}/approval")), &request) {
            Err(e) if e.reason() == "Conflict" && attempt < TRIES => {}
            other => return other,
        }
    }
    unreachable!("the last attempt returns")
}

/// Writes the verdict into a request; answers whether it was not there yet.
fn conclude(request: &mut Value, verdict: &str, opposite: &str, now: &str) -> Result<bool> {
    let mut conditions = request["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if conditions.iter().any(|c| c["type"] == opposite) {
        let name = request["metadata"]["name"].as_str().unwrap_or("");
        return Err(message(format!("certificate signing request {name:?} is already {opposite}")));
    }
    if conditions.iter().any(|c| c["type"] == verdict) {
        return Ok(false);
    }
    let word = if verdict == "Denied" { "deny" } else { "approve" };
    conditions.push(json!({
        "type": verdict, "status": "True", "reason": format!("Kubectl{}", if verdict == "Denied" { "Deny" } else { "Approve" }),
        "message": format!("This CSR was {} by kubectl certificate {word}.", verdict.to_lowercase()), "lastUpdateTime": now,
    }));
    request["status"]["conditions"] = json!(conditions);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_given_once_and_never_turned() {
        let mut request = json!({"metadata": {"name": "r"}});
        assert!(conclude(&mut request, "Approved", "Denied", "now").unwrap());
        assert_eq!(request["status"]["conditions"][0]["message"], "This CSR was approved by kubectl certificate approve.");
        assert!(!conclude(&mut request, "Approved", "Denied", "now").unwrap());
        assert!(conclude(&mut request, "Denied", "Approved", "now").is_err());
    }
}
