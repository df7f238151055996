//! `kubectl set serviceaccount`: whom pods are for the API server.

use super::{Report, each, flags, pod_spec};
use crate::cli::{Args, Command};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::json;

pub(super) fn cli() -> Command {
    Command::new("serviceaccount", "Update the service account of a resource")
        .aliases(&["sa"])
        .usage("(-f FILENAME | TYPE NAME) SERVICE_ACCOUNT")
        .flags(flags())
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let Some((name, resources)) = args.positional.split_last() else { return Err(message("serviceaccount is required")) };
    each(ctx, args, resources, &Report { done: "serviceaccount updated", silent_when_same: false }, |_, target, object| {
        let spec = pod_spec(target, object)?;
        spec["serviceAccountName"] = json!(name);
        // The old name of the field is kept in step by the server's defaults, which do not overrule what is there.
        spec["serviceAccount"] = json!(name);
        Ok(())
    })
}
