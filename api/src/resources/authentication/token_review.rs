//! TokenReview: whose token is this? Answered, not stored.

use crate::kind::Kind;
use crate::resource::{CREATE_ONLY, Resource};
use k8s_openapi::api::authentication::v1::TokenReview;

impl Kind for TokenReview {}

/// The row.
pub fn row() -> Resource {
    Resource { verbs: CREATE_ONLY.into(), ..Resource::of::<TokenReview>() }
}
