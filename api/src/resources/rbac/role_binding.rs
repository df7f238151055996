//! RoleBinding: gives subjects a role in one namespace.

use super::subjects::{self, RBAC, names, subject_defaults};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown, wide};
use crate::resource::{Cells, Column, NameRule, PrintContext, Resource};
use crate::resources::defaulting::{items, text};
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::json;

const COLUMNS: &[Column] =
    &[NAME, shown("Role", "string"), AGE, wide("Users", "string"), wide("Groups", "string"), wide("ServiceAccounts", "string")];

impl Kind for RoleBinding {
    fn set_defaults(&mut self) {
        text(&mut self.role_ref.api_group, RBAC);
        self.subjects.iter_mut().flatten().for_each(subject_defaults);
    }

    fn validate(&self, errors: &mut ErrorList) {
        subjects::validate(&self.role_ref, items(&self.subjects), true, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        Kind::validate(self, errors);
        subjects::validate_role_change(&self.role_ref, &old.role_ref, errors);
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let subjects = items(&self.subjects);
        vec![
            printer::name(&self.metadata),
            json!(format!("{}/{}", self.role_ref.kind, self.role_ref.name)),
            printer::age(&self.metadata, context),
            json!(names(subjects, "User")),
            json!(names(subjects, "Group")),
            json!(names(subjects, "ServiceAccount")),
        ]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { name_rule: NameRule::PathSegment, columns: COLUMNS.into(), ..Resource::of::<RoleBinding>() }
}
