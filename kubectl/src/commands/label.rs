//! `kubectl label`.

use super::{dry_run_flag, field_manager_flag, file_flags};
use crate::apply::metadata_change::{self, Change};
use crate::cli::{Command, Flag};
use crate::error::{Result, message};

/// The command.
pub fn cli() -> Command {
    Command::new("label", "Update the labels on a resource")
        .usage("[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N [--resource-version=version]")
        .flags(crate::printers::flags())
        .flags(file_flags("The manifests whose objects to label."))
        .flags(flags())
        .flags([field_manager_flag("kubectl-label")])
        .exec(|ctx, args| metadata_change::exec(ctx, args, &LABELS))
}

/// Flags that `annotate` has too.
pub(super) fn flags() -> Vec<Flag> {
    vec![
        Flag::switch("all", "All objects of the type in the namespace."),
        Flag::switch("all-namespaces", "In all namespaces.").short('A'),
        dry_run_flag(),
        Flag::string("field-selector", "", "Only objects whose fields match."),
        Flag::switch("list", "Show what is there."),
        Flag::switch("local", "Change the manifest's object without the server."),
        Flag::switch("overwrite", "Replace values that are there."),
        Flag::string("resource-version", "", "Only if the object has this version."),
        Flag::string("selector", "", "Only objects whose labels match.").short('l'),
    ]
}

const LABELS: Change = Change { field: "labels", noun: "label", check: check_value, refuse, report };

fn check_value(key: &str, value: &str) -> Result<()> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    if value.len() > 63 {
        return Err(message(format!("invalid label value: {:?}: must be no more than 63 bytes", format!("{key}={value}"))));
    }
    let legal = value.chars().all(inner) && value.starts_with(edge) && value.ends_with(edge);
    if !value.is_empty() && !legal {
        return Err(message(format!(
            "invalid label value: {:?}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            format!("{key}={value}")
        )));
    }
    Ok(())
}

/// One line per key that has a value already.
fn refuse(taken: &[(String, String)]) -> Vec<String> {
    taken.iter().map(|(k, v)| format!("'{k}' already has a value ({v}), and --overwrite is false")).collect()
}

/// What the last line says: nothing changed, changed, or only taken away.
fn report(changed: bool, shrunk: bool) -> &'static str {
    match (changed, shrunk) {
        (false, _) => "not labeled",
        (true, true) => "unlabeled",
        (true, false) => "labeled",
    }
}
