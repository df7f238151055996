//! The checks that validation is made of, with upstream's messages (upstream: `apimachinery/pkg/util/validation`).
//!
//! The functions in [`names`] and [`numbers`] look at one value and return what is wrong with it, nothing when it is right; those in
//! [`labels`] push errors for a whole field. What a kind asks of its own fields stands in the kind's file.

pub mod formats;
pub mod labels;
pub mod metadata;
pub mod names;
pub mod numbers;

pub use metadata::{object_meta, object_meta_update};

use crate::field::{ErrorList, Path};

/// Pushes each message as an invalid value at `path`.
pub fn invalid(errors: &mut ErrorList, path: &Path, value: &str, messages: Vec<String>) {
    for message in messages {
        errors.invalid(path, value, &message);
    }
}

/// What an update says of a field that it may not change.
pub const IMMUTABLE: &str = "field is immutable";
/// What a number below zero is told.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
