//! The error every part of the API answers with: upstream's `Status` object, made where the mistake is known and carried unchanged
//! to the client (upstream: `apimachinery/pkg/api/errors`).

use crate::field::ErrorList;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

/// A failed request. Holds the whole `Status` that the client gets; `code` is the HTTP code.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message.as_deref().unwrap_or("unknown"))]
pub struct StatusError(pub Box<Status>);

/// What every fallible API function returns.
pub type Result<T, E = StatusError> = std::result::Result<T, E>;

fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

fn details(group: &str, kind: &str, name: &str) -> StatusDetails {
    let opt = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    StatusDetails { group: opt(group), kind: opt(kind), name: opt(name), ..Default::default() }
}

impl StatusError {
    /// A status with nothing but code, reason and message; `details` stays absent.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        StatusError(Box::new(Status {
            code: Some(i32::from(code)),
            message: Some(message.into()),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            status: Some("Failure".into()),
            ..Default::default()
        }))
    }

    fn with(mut self, details: StatusDetails) -> Self {
        self.0.details = Some(details);
        self
    }

    /// The HTTP code.
    pub fn code(&self) -> u16 {
        self.0.code.and_then(|c| u16::try_from(c).ok()).unwrap_or(500)
    }

    /// The machine-readable reason, e.g. `NotFound`.
    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or("")
    }

    /// 404 `pods "x" not found`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, plural))).with(details(group, plural, name))
    }

    /// 409 `pods "x" already exists`.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(group, plural))).with(details(group, plural, name))
    }

    /// 409 `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, plural));
        Self::new(409, "Conflict", message).with(details(group, plural, name))
    }

    /// 403 `pods "x" is forbidden: why`; without a name `pods is forbidden: why`.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let q = qualified(group, plural);
        let message = match (plural, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{q} is forbidden: {why}"),
            _ => format!("{q} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).with(details(group, plural, name))
    }

    /// 422 with one cause per field error. The message lists them all, in brackets when there are several.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: ErrorList) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for e in &errors.0 {
            let text = if e.path.as_str().is_empty() { e.message.clone() } else { format!("{}: {}", e.path, e.message) };
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let joined = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .0
            .iter()
            .map(|e| StatusCause {
                field: (!e.path.as_str().is_empty()).then(|| e.path.to_string()),
                message: Some(e.message.clone()),
                reason: Some(e.kind.reason().to_owned()),
            })
            .collect();
        let mut d = details(group, kind, name);
        d.causes = Some(causes);
        Self::new(422, "Invalid", format!("{} {name:?} is invalid: {joined}", qualified(group, kind))).with(d)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401 `Unauthorized`.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 410: the version asked for is compacted away, or the watcher was too slow.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 405 for a verb the resource does not have.
    pub fn method_not_supported(group: &str, plural: &str, verb: &str) -> Self {
        Self::new(405, "MethodNotAllowed", format!("{verb} is not supported on resources of kind {:?}", qualified(group, plural)))
            .with(details(group, plural, ""))
    }

    /// 500 `Internal error occurred: why`.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let cause = StatusCause { message: Some(why.to_string()), ..Default::default() };
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
            .with(StatusDetails { causes: Some(vec![cause]), ..Default::default() })
    }
}
