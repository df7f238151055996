//! Answers: bytes, values and errors as HTTP responses in the form that was negotiated.

use crate::negotiation::{Encoding, Format};
use api::StatusError;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};
use serde_json::Value;
use sha2::{Digest, Sha512};

/// What every handler answers.
pub type Response = http::Response<Body>;

/// A response with a body of the given type.
pub fn raw(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A plain text.
pub fn text(code: u16, body: impl Into<Body>) -> Response {
    raw(code, "text/plain; charset=utf-8", body)
}

/// What upstream answers where no API is: not a `Status`.
pub fn page_not_found() -> Response {
    text(404, "404 page not found\n")
}

/// An object that is already JSON, in the form asked for. Compact JSON goes out as it is.
pub fn json(code: u16, bytes: Bytes, format: Format) -> Response {
    if format.encoding == Encoding::Json && !format.pretty {
        return raw(code, "application/json", bytes);
    }
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(parsed) => value(code, &parsed, format),
        Err(error) => {
            tracing::error!(%error, "an answer that should be JSON is not");
            status(&StatusError::internal(error), Format::JSON)
        }
    }
}

/// An object, in the form asked for.
pub fn value(code: u16, value: &Value, format: Format) -> Response {
    let bytes = match format.encoding {
        Encoding::Yaml => api::yaml::to_string(value).into_bytes(),
        Encoding::Json if format.pretty => {
            let mut text = serde_json::to_vec_pretty(value).expect("a JSON value prints into memory");
            text.push(b'\n');
            text
        }
        Encoding::Json => serde_json::to_vec(value).expect("a JSON value prints into memory"),
    };
    raw(code, format.encoding.media_type(), bytes)
}

/// An error as the `Status` that it is.
pub fn status(error: &StatusError, format: Format) -> Response {
    let mut response = value(error.code(), &status_value(&error.0), format);
    let retry = error.0.details.as_ref().and_then(|d| d.retry_after_seconds);
    if let Some(seconds) = retry.filter(|s| *s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A `Status` as JSON.
pub fn status_value(status: &Status) -> Value {
    serde_json::to_value(status).expect("a Status has string keys and no failing serializers")
}

/// What tells one text of a document from another, as an `ETag` without its quotes.
pub fn hash(text: &[u8]) -> String {
    Sha512::digest(text).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Whether the client has the document with this `ETag`.
pub fn known(headers: &HeaderMap, etag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
    known.split(',').any(|t| t.trim().trim_start_matches("W/") == etag)
}

/// `Status` of a request that did what it was asked and has nothing else to say.
pub fn success(code: u16, details: Option<StatusDetails>) -> Value {
    let code_shown = (code != 200).then_some(i32::from(code));
    status_value(&Status { code: code_shown, details, status: Some("Success".into()), ..Default::default() })
}

/// The errors of requests that no handler is for, as upstream words them from nothing but the code.
pub fn generic(code: u16) -> StatusError {
    let (reason, message) = match code {
        404 => ("NotFound", "the server could not find the requested resource"),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
        415 => ("UnsupportedMediaType", "415: Unsupported Media Type"),
        422 => ("Invalid", "the server rejected our request due to an error in our request"),
        _ => ("Unknown", "unknown"),
    };
    let mut error = StatusError::new(code, reason, message);
    error.0.details = Some(StatusDetails::default());
    error
}

/// Adds `Warning: 299 - "text"` headers (upstream: `apimachinery/pkg/util/net.NewWarningHeader`).
pub fn warn(response: &mut Response, warnings: &[String]) {
    for (index, text) in warnings.iter().enumerate() {
        if warnings[..index].contains(text) {
            continue;
        }
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_look_like_upstreams() {
        let shown = |error: &StatusError| status_value(&error.0);
        assert_eq!(
            shown(&generic(404)),
            serde_json::json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404, "details": {},
                "reason": "NotFound", "message": "the server could not find the requested resource"})
        );
        assert_eq!(
            success(201, None),
            serde_json::json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": 201})
        );
    }

    #[test]
    fn warnings_are_quoted_and_told_once() {
        let mut response = text(200, "");
        warn(&mut response, &["unknown field \"spec.x\"".into(), "unknown field \"spec.x\"".into()]);
        let got: Vec<_> = response.headers().get_all(header::WARNING).iter().collect();
        assert_eq!(got, ["299 - \"unknown field \\\"spec.x\\\"\""]);
    }
}
