//! What a command can fail with, and the one place that turns a failure into upstream's text on stderr
//! (upstream: `kubectl/pkg/cmd/util/helpers.go`, `checkErr`).
//!
//! Scripts match on these texts, so the variants are upstream's shapes and not a taxonomy of causes. Left out: the hints
//! upstream prints for credential plugins of single cloud vendors.

pub use api::go_error::go_io_error;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

/// What every command returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed command.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The flags or the command name could not be understood; `path` is the command whose help would tell.
    #[error("{message}")]
    Flags {
        /// The command so far, `kubectl get`.
        path: String,
        /// What was wrong.
        message: String,
    },
    /// An unknown command word, with the commands it may have meant.
    #[error("{0}")]
    UnknownCommand(String),
    /// The arguments do not make a request; `path` is the command whose help would tell.
    #[error("{message}\nSee '{path} -h' for help and examples")]
    Usage {
        /// The command, `kubectl create configmap`.
        path: String,
        /// What was wrong.
        message: String,
    },
    /// The server refused.
    #[error("{}", .0.message.as_deref().unwrap_or("unknown"))]
    Status(Box<Status>),
    /// Anything else; printed after `error: `.
    #[error("{0}")]
    Message(String),
    /// Printed exactly as it is.
    #[error("{0}")]
    Verbatim(String),
    /// The server could not be reached.
    #[error("{text}")]
    Unreachable {
        /// The whole line for stderr.
        text: String,
    },
    /// Nothing to print; the exit code says it all.
    #[error("exit code {0}")]
    Exit(i32),
    /// Printed after `error: `, with an exit code other than 1.
    #[error("{message}")]
    ExitWith {
        /// The exit code.
        code: i32,
        /// What to say.
        message: String,
    },
    /// Printed exactly as it is, with an exit code other than 1.
    #[error("{text}")]
    ExitWithText {
        /// The exit code.
        code: i32,
        /// What to print.
        text: String,
    },
    /// Several independent failures, one line each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Many(Vec<Error>),
}

/// A plain message, printed after `error: `.
pub fn message(text: impl Into<String>) -> Error {
    Error::Message(text.into())
}

impl Error {
    /// The failures of a loop over objects as one result: none, the one, or all.
    pub fn collect(mut errors: Vec<Error>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Many(errors)),
        }
    }

    /// The reason of a refused request, empty for other failures.
    pub fn reason(&self) -> &str {
        match self {
            Error::Status(s) => s.reason.as_deref().unwrap_or(""),
            _ => "",
        }
    }

    /// Whether the server said that the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound"
    }

    /// The same failure, saying during which step it happened: `error when creating "x.yaml": ...`.
    /// A refusal stays a refusal (only its message changes), so that its reason still shows.
    pub fn during(self, step: &str, source: &str) -> Error {
        let prefix = if source.is_empty() { step.to_owned() } else { format!("{step} {source:?}") };
        match self {
            Error::Status(mut s) => {
                s.message = Some(format!("{prefix}: {}", s.message.unwrap_or_default()));
                Error::Status(s)
            }
            Error::Unreachable { .. } | Error::Exit(_) => self,
            other => Error::Message(format!("{prefix}: {other}")),
        }
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Exit(code) | Error::ExitWith { code, .. } | Error::ExitWithText { code, .. } => *code,
            _ => 1,
        }
    }

    /// The text for stderr, with its last newline; empty when there is nothing to say.
    pub fn text(&self) -> String {
        let text = match self {
            Error::Exit(_) => return String::new(),
            Error::Flags { path, message } => format!("Error: {message}\nSee '{path} --help' for usage."),
            Error::Status(s) if s.reason.as_deref() == Some("Invalid") => invalid(s),
            Error::Many(errors) => errors.iter().map(|e| format!("{}\n", e.standard().unwrap_or_else(|| e.to_string()))).collect(),
            other => other.standard().unwrap_or_else(|| {
                let text = other.to_string();
                if text.starts_with("error: ") { text } else { format!("error: {text}") }
            }),
        };
        if text.is_empty() || text.ends_with('\n') { text } else { format!("{text}\n") }
    }

    /// The texts that are the same alone and among others.
    fn standard(&self) -> Option<String> {
        Some(match self {
            Error::UnknownCommand(text) | Error::Verbatim(text) | Error::Unreachable { text } | Error::ExitWithText { text, .. } => {
                text.clone()
            }
            Error::Status(s) => {
                let message = s.message.as_deref().unwrap_or("");
                match s.reason.as_deref().unwrap_or("") {
                    "Unauthorized" => format!("error: You must be logged in to the server ({message})"),
                    "" => format!("Error from server: {message}"),
                    reason => format!("Error from server ({reason}): {message}"),
                }
            }
            _ => return None,
        })
    }
}

/// An object that failed validation: what it is, then each cause once.
fn invalid(status: &Status) -> String {
    let message = status.message.as_deref().unwrap_or("");
    let with_message = |s: &str| if message.is_empty() { s.to_owned() } else { format!("{s}: {message}") };
    let Some(details) = &status.details else { return with_message("The request is invalid") };
    let (kind, name) = (details.kind.as_deref().unwrap_or(""), details.name.as_deref().unwrap_or(""));
    let mut causes: Vec<String> = Vec::new();
    for cause in details.causes.iter().flatten() {
        let text = format!("{}: {}", cause.field.as_deref().unwrap_or(""), cause.message.as_deref().unwrap_or(""));
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    let head = match (kind, name) {
        ("", "") if causes.is_empty() => with_message("The request is invalid"),
        ("", "") => "The request is invalid".to_owned(),
        _ => format!("The {kind} {name:?} is invalid"),
    };
    match causes.as_slice() {
        [] => head,
        [one] => format!("{head}: {one}\n"),
        many => format!("{head}: \n{}", many.iter().map(|c| format!("* {c}\n")).collect::<String>()),
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::Message(go_io_error(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};

    fn status(reason: &str, message: &str, causes: &[(&str, &str)]) -> Error {
        let causes = causes.iter().map(|(f, m)| StatusCause { field: Some((*f).into()), message: Some((*m).into()), reason: None });
        Error::Status(Box::new(Status {
            reason: Some(reason.into()),
            message: Some(message.into()),
            details: Some(StatusDetails {
                kind: Some("Pod".into()),
                name: Some("x".into()),
                causes: Some(causes.collect()),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    #[test]
    fn texts_are_upstreams() {
        let cases = [
            (status("NotFound", "pods \"x\" not found", &[]), "Error from server (NotFound): pods \"x\" not found\n"),
            (status("Unauthorized", "Unauthorized", &[]), "error: You must be logged in to the server (Unauthorized)\n"),
            (status("Invalid", "m", &[("spec.a", "bad")]), "The Pod \"x\" is invalid: spec.a: bad\n"),
            (status("Invalid", "m", &[("a", "b"), ("a", "b"), ("c", "d")]), "The Pod \"x\" is invalid: \n* a: b\n* c: d\n"),
            (message("no"), "error: no\n"),
            (message("error: no"), "error: no\n"),
            (
                status("AlreadyExists", "pods \"x\" already exists", &[]).during("error when creating", "f.yml"),
                "Error from server (AlreadyExists): error when creating \"f.yml\": pods \"x\" already exists\n",
            ),
            (Error::Many(vec![message("a"), status("NotFound", "b", &[])]), "a\nError from server (NotFound): b\n"),
        ];
        for (error, expected) in cases {
            assert_eq!(error.text(), expected);
        }
    }
}
