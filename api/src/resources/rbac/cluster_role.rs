//! ClusterRole: a set of permissions, for the whole cluster or to be bound in a namespace.

use super::rules;
use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::resource::{NameRule, Resource};
use crate::validation::labels;
use k8s_openapi::api::rbac::v1::ClusterRole;

impl Kind for ClusterRole {
    fn validate(&self, errors: &mut ErrorList) {
        rules::validate(self.rules.as_deref().unwrap_or_default(), false, errors);
        let Some(aggregation) = &self.aggregation_rule else { return };
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (i, selector) in selectors.iter().enumerate() {
            labels::selector(errors, &path.index(i), Some(selector));
        }
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { name_rule: NameRule::PathSegment, ..Resource::of::<ClusterRole>() }
}
