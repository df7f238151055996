//! SelfSubjectReview: who am I? Answered, not stored.

use crate::kind::Kind;
use crate::resource::{CREATE_ONLY, Resource};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;

impl Kind for SelfSubjectReview {}

/// The row.
pub fn row() -> Resource {
    Resource { verbs: CREATE_ONLY.into(), ..Resource::of::<SelfSubjectReview>() }
}
