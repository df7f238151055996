//! SelfSubjectAccessReview: may I do something? Answered, not stored.

use crate::kind::Kind;
use crate::resource::{CREATE_ONLY, Resource};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;

impl Kind for SelfSubjectAccessReview {}

/// The row.
pub fn row() -> Resource {
    Resource { verbs: CREATE_ONLY.into(), ..Resource::of::<SelfSubjectAccessReview>() }
}
