//! Label and field selectors: the text forms that clients send, with upstream's errors, and the `LabelSelector` of the API
//! (upstream: `apimachinery/pkg/labels`, `apimachinery/pkg/fields`).

mod fields;
mod labels;

pub use fields::FieldSelector;
pub use labels::{LabelSelector, Operator, Requirement};

/// A selector that cannot be understood. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);
