//! SubjectAccessReview: may somebody do something? Answered, not stored.

use crate::kind::Kind;
use crate::resource::{CREATE_ONLY, Resource};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;

impl Kind for SubjectAccessReview {}

/// The row.
pub fn row() -> Resource {
    Resource { verbs: CREATE_ONLY.into(), ..Resource::of::<SubjectAccessReview>() }
}
