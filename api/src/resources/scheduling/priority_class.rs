//! PriorityClass: a name for how important a pod is.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, texts};
use crate::resources::defaulting::absent;
use crate::validation::IMMUTABLE;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::json;

const COLUMNS: &[Column] = &[NAME, shown("Value", "integer"), shown("Global-Default", "boolean"), AGE, shown("PreemptionPolicy", "string")];

impl Kind for PriorityClass {
    fn set_defaults(&mut self) {
        absent(&mut self.preemption_policy, "PreemptLowerPriority".into());
    }

    fn validate(&self, errors: &mut ErrorList) {
        let (name, value) = (self.metadata.name.as_deref().unwrap_or_default(), self.value.unwrap_or(0));
        if name.starts_with("system-") {
            if let Some(why) = not_a_system_class(name, value, self.global_default.unwrap_or(false)) {
                let text = format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
                errors.forbidden(&Path::new("metadata").child("name"), &text);
            }
        } else if value > HIGHEST_USER_PRIORITY {
            errors.forbidden(&Path::new("value"), &format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"));
        }
        let policy = self.preemption_policy.as_deref().unwrap_or_default();
        if !PREEMPTION_POLICIES.contains(&policy) {
            errors.not_supported(&Path::new("preemptionPolicy"), policy, &PREEMPTION_POLICIES);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
        if self.value != old.value {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        if self.preemption_policy != old.preemption_policy {
            errors.invalid(&Path::new("preemptionPolicy"), json!(self.preemption_policy), IMMUTABLE);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let preemption = self.preemption_policy.as_deref().unwrap_or("");
        vec![
            printer::name(&self.metadata),
            json!(self.value.unwrap_or(0)),
            json!(self.global_default.unwrap_or(false)),
            printer::age(&self.metadata, context),
            json!(preemption),
        ]
    }
}

/// What users may go up to; above it is the system's.
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
const PREEMPTION_POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];
/// The classes that the system itself makes.
pub const SYSTEM_CLASSES: [(&str, i32); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn not_a_system_class(name: &str, value: i32, global_default: bool) -> Option<String> {
    match SYSTEM_CLASSES.into_iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if wanted != value => Some(format!("value of {name} PriorityClass must be {wanted}")),
        Some(_) if global_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { short_names: texts(&["pc"]), generation: true, columns: COLUMNS.into(), ..Resource::of::<PriorityClass>() }
}
