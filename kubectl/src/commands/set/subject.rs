//! `kubectl set subject`: adds users, groups and service accounts to a binding.

use super::{Report, each, flags};
use crate::cli::{Args, Command, Flag};
use crate::context::Context;
use crate::error::{Result, message};
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn cli() -> Command {
    Command::new("subject", "Update the user, group, or service account in a role binding or cluster role binding")
        .usage("(-f FILENAME | TYPE NAME) [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname] [--dry-run=server|client|none]")
        .flags(flags())
        .flags([
            Flag::array("group", "Groups to bind."),
            Flag::array("serviceaccount", "Service accounts to bind, as namespace:name."),
            Flag::array("user", "Users to bind."),
        ])
        .exec(exec)
}

/// The subjects that the flags name.
fn subjects(args: &Args) -> Result<Vec<Value>> {
    let plain = |flag: &str, kind: &str| {
        args.list(flag).iter().map(|name| json!({"kind": kind, "apiGroup": GROUP, "name": name})).collect::<Vec<_>>()
    };
    let mut all = plain("user", "User");
    all.extend(plain("group", "Group"));
    for text in args.list("serviceaccount") {
        match text.split(':').collect::<Vec<_>>().as_slice() {
            [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                all.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
            }
            _ => return Err(message("serviceaccount must be <namespace>:<name>")),
        }
    }
    if all.is_empty() { Err(message("you must specify at least one value of user, group or serviceaccount")) } else { Ok(all) }
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let wanted = subjects(args)?;
    each(ctx, args, &args.positional, &Report { done: "subjects updated", silent_when_same: true }, |_, target, object| {
        if target.resource.group != GROUP || !target.resource.kind.ends_with("RoleBinding") {
            return Err(message("setting subjects is only supported for RoleBinding/ClusterRoleBinding"));
        }
        let mut now = object["subjects"].as_array().cloned().unwrap_or_default();
        now.extend(wanted.iter().filter(|w| !object["subjects"].as_array().is_some_and(|s| s.contains(w))).cloned());
        object["subjects"] = json!(now);
        Ok(())
    })
}
