//! Role: a set of permissions in one namespace.

use super::rules;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::resource::{NameRule, Resource};
use k8s_openapi::api::rbac::v1::Role;

impl Kind for Role {
    fn validate(&self, errors: &mut ErrorList) {
        rules::validate(self.rules.as_deref().unwrap_or_default(), true, errors);
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { name_rule: NameRule::PathSegment, ..Resource::of::<Role>() }
}
