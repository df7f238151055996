//! LocalSubjectAccessReview: may somebody do something in this namespace? Answered, not stored.

use crate::kind::Kind;
use crate::resource::{CREATE_ONLY, Resource};
use k8s_openapi::api::authorization::v1::LocalSubjectAccessReview;

impl Kind for LocalSubjectAccessReview {}

/// The row.
pub fn row() -> Resource {
    Resource { verbs: CREATE_ONLY.into(), ..Resource::of::<LocalSubjectAccessReview>() }
}
