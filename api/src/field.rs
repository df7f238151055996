//! Field paths and the errors found at them, as validation reports them
//! (upstream: `apimachinery/pkg/util/validation/field`).
//!
//! An [`ErrorList`] is what validation functions push into; [`crate::status::StatusError::invalid`] turns it into the 422 answer.

use std::fmt;

/// A path to a field, written as upstream writes it: `spec.containers[0].ports[1].name`, `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path to a top-level field. `Path::new("spec")`.
    pub fn new(root: &str) -> Self {
        Path(root.to_owned())
    }

    /// The path to the field `name` below this one; below the empty path it is `name` itself.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    /// The path to the field `name` beside this one.
    pub fn sibling(&self, name: &str) -> Self {
        match self.0.rsplit_once('.') {
            Some((parent, _)) => Path(format!("{parent}.{name}")),
            None => Path(name.to_owned()),
        }
    }

    /// The path to the list item at `index`.
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }

    /// The path to the map entry under `key`.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of mistake a field error reports. The names in the API are those of [`ErrorType::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// A value that must be given is not.
    Required,
    /// A value that must be unique stands twice.
    Duplicate,
    /// A value is malformed.
    Invalid,
    /// A value is none of the supported ones.
    NotSupported,
    /// A value may not be used here.
    Forbidden,
    /// A string is too long.
    TooLong,
    /// A list or map has too many items.
    TooMany,
    /// A referenced thing does not exist.
    NotFound,
    /// The server failed while validating.
    Internal,
    /// A value has the wrong type.
    TypeInvalid,
}

impl ErrorType {
    /// The machine-readable `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One mistake at one field. `message` is the whole text behind the path, e.g. `Invalid value: "A": must be ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where.
    pub path: Path,
    /// What kind of mistake.
    pub kind: ErrorType,
    /// The text of the cause, without the path.
    pub message: String,
}

/// The errors of one validation, in the order in which upstream finds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorList(pub Vec<FieldError>);

/// How a bad value is shown in a message: strings quoted as Go's `%q`, everything else as compact JSON.
pub fn show(value: &serde_json::Value) -> String {
    value.to_string()
}

impl ErrorList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, path: &Path, kind: ErrorType, message: String) {
        self.0.push(FieldError { path: path.clone(), kind, message });
    }

    /// `Required value` with `detail` behind a colon unless it is empty.
    pub fn required(&mut self, path: &Path, detail: &str) {
        let message = if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        self.push(path, ErrorType::Required, message);
    }

    /// `Duplicate value: VALUE`.
    pub fn duplicate(&mut self, path: &Path, value: impl Into<serde_json::Value>) {
        self.push(path, ErrorType::Duplicate, format!("Duplicate value: {}", show(&value.into())));
    }

    /// `Invalid value: VALUE: detail`.
    pub fn invalid(&mut self, path: &Path, value: impl Into<serde_json::Value>, detail: &str) {
        self.push(path, ErrorType::Invalid, format!("Invalid value: {}: {detail}", show(&value.into())));
    }

    /// The same for a value that is shown as `shown`: a structure in the order and by the names that upstream shows it.
    pub fn invalid_as(&mut self, path: &Path, shown: &str, detail: &str) {
        self.push(path, ErrorType::Invalid, format!("Invalid value: {shown}: {detail}"));
    }

    /// [`ErrorList::duplicate`] for a value that is shown as `shown`.
    pub fn duplicate_as(&mut self, path: &Path, shown: &str) {
        self.push(path, ErrorType::Duplicate, format!("Duplicate value: {shown}"));
    }

    /// [`ErrorList::not_supported`] for a value that is shown as `shown`.
    pub fn not_supported_as(&mut self, path: &Path, shown: &str, supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        self.push(path, ErrorType::NotSupported, format!("Unsupported value: {shown}: supported values: {list}"));
    }

    /// `Unsupported value: VALUE: supported values: "A", "B"`.
    pub fn not_supported(&mut self, path: &Path, value: impl Into<serde_json::Value>, supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        let tail = if supported.is_empty() { String::new() } else { format!(": supported values: {list}") };
        self.push(path, ErrorType::NotSupported, format!("Unsupported value: {}{tail}", show(&value.into())));
    }

    /// `Forbidden: detail`.
    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        let message = if detail.is_empty() { "Forbidden".into() } else { format!("Forbidden: {detail}") };
        self.push(path, ErrorType::Forbidden, message);
    }

    /// `Too long: may not be more than MAX bytes`.
    pub fn too_long(&mut self, path: &Path, max: usize) {
        self.push(path, ErrorType::TooLong, format!("Too long: may not be more than {max} bytes"));
    }

    /// `Too many: N: must have at most MAX items`.
    pub fn too_many(&mut self, path: &Path, actual: usize, max: usize) {
        self.push(path, ErrorType::TooMany, format!("Too many: {actual}: must have at most {max} items"));
    }

    /// `Not found: VALUE`.
    pub fn not_found(&mut self, path: &Path, value: impl Into<serde_json::Value>) {
        self.push(path, ErrorType::NotFound, format!("Not found: {}", show(&value.into())));
    }

    /// `Internal error: detail`.
    pub fn internal(&mut self, path: &Path, detail: &str) {
        self.push(path, ErrorType::Internal, format!("Internal error: {detail}"));
    }
}
