//! SelfSubjectRulesReview: what may I do in a namespace? Answered, not stored.

use crate::kind::Kind;
use crate::resource::{CREATE_ONLY, Resource};
use k8s_openapi::api::authorization::v1::SelfSubjectRulesReview;

impl Kind for SelfSubjectRulesReview {}

/// The row.
pub fn row() -> Resource {
    Resource { verbs: CREATE_ONLY.into(), ..Resource::of::<SelfSubjectRulesReview>() }
}
