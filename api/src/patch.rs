//! Patches: what they make of an object, and how they are made from two or three versions of one (upstream: `apimachinery/pkg/util/strategicpatch`,
//! `jsonmergepatch`, and the patch handlers of the apiserver).
//!
//! JSON patch itself is the `json-patch` crate's. Server-side apply is [`crate::managed_fields`].

mod diff;
mod order;
mod strategic;
mod three_way;

pub use diff::create_two_way_merge_patch;
pub use strategic::strategic;
pub use three_way::{create_three_way_json_merge_patch, create_three_way_strategic_merge_patch};

use crate::go_value::sprint as go_show;
use crate::status::StatusError;
use serde_json::Value;

/// Directives and the prefixes of directives that stand in a strategic merge patch.
pub(crate) const DIRECTIVE: &str = "$patch";
pub(crate) const RETAIN_KEYS: &str = "$retainKeys";
pub(crate) const SET_ORDER: &str = "$setElementOrder/";
pub(crate) const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// What upstream has no name for: 500 without a reason.
    #[error("{0}")]
    Other(String),
}

impl From<PatchError> for StatusError {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Malformed(why) => StatusError::bad_request(why),
            PatchError::Unprocessable(why) => StatusError::new(422, "", why),
            PatchError::Other(why) => StatusError::new(500, "", why),
        }
    }
}

/// A JSON merge patch (RFC 7386).
pub fn merge(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    PatchError::Other(format!("map: {} does not contain declared merge key: {key}", go_show(item)))
}
