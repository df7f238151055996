//! `kubectl annotate`.

use super::{field_manager_flag, file_flags, label};
use crate::apply::metadata_change::{self, Change};
use crate::cli::Command;

/// The command.
pub fn cli() -> Command {
    Command::new("annotate", "Update the annotations on a resource")
        .usage("[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N [--resource-version=version]")
        .flags(crate::printers::flags())
        .flags(file_flags("The manifests whose objects to annotate."))
        .flags(label::flags())
        .flags([field_manager_flag("kubectl-annotate")])
        .exec(|ctx, args| metadata_change::exec(ctx, args, &ANNOTATIONS))
}

const ANNOTATIONS: Change = Change { field: "annotations", noun: "annotation", check: |_, _| Ok(()), refuse, report: |_, _| "annotated" };

/// One line for all keys that have a value already.
fn refuse(taken: &[(String, String)]) -> Vec<String> {
    let texts: Vec<String> = taken.iter().map(|(k, v)| format!("'{k}' already has a value ({v})")).collect();
    vec![format!("--overwrite is false but found the following declared annotation(s): {}", texts.join("; "))]
}
