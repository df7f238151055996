//! A request's body to an object of the kind that its path names, with upstream's answer when it is none.

use super::walk::MAX_STRICT;
use super::{DecodeError, Decoded, json, value, yaml};
use crate::custom::Version;
use crate::field::{ErrorList, Path};
use crate::schema::{self, Root};
use crate::status::{Result, StatusError};
use serde_json::{Map, Value};
use std::fmt::Write;

/// What the path says the body is.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// API group; empty for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Its schema.
    pub root: Root<'a>,
    /// The version of a custom resource, whose schema says what is kept.
    pub custom: Option<&'a Version>,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum Media {
    Json,
    Yaml,
}

/// What becomes of unknown and duplicate fields: the `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped, and each is a warning: the default.
    #[default]
    Warn,
    /// They are refused.
    Strict,
}

impl Target<'_> {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// 400 `Pod in version "v1" cannot be handled as a Pod: why`.
    fn cannot_handle(&self, kind: &str, version: &str, why: &str) -> StatusError {
        StatusError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", self.kind))
    }

    fn unrecognized(&self, why: &str, body: &[u8]) -> StatusError {
        StatusError::bad_request(format!("the object provided is unrecognized (must be of type {}): {why} ({})", self.kind, summary(body)))
    }
}

/// The beginning of a body, to recognise it by: as text if it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30; // Upstream's choice.
    let (shown, tail) = if body.len() > SHOWN { (&body[..SHOWN], " ...") } else { (body, "") };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{tail}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let mut text = String::with_capacity(2 * SHOWN);
            for b in shown {
                write!(text, "{b:02x}").expect("writing to a String cannot fail");
            }
            text + tail
        }
    }
}

/// Decodes a body. Comes with the warnings to send along.
pub fn decode(target: &Target<'_>, body: &[u8], media: Media, validation: FieldValidation) -> Result<(Value, Vec<String>)> {
    let (decoded, duplicates) = match media {
        Media::Json => (json(target.root, body), Vec::new()),
        Media::Yaml => {
            let text = std::str::from_utf8(body).map_err(|_| target.unrecognized("yaml: invalid leading UTF-8 octet", body))?;
            let document = yaml::parse(text).map_err(|e| target.unrecognized(&e, body))?;
            (value(target.root, &document.value), document.duplicates)
        }
    };
    let mut decoded = match decoded {
        Err(DecodeError::Syntax(why)) => {
            return Err(target.unrecognized(&format!("couldn't get version/kind; json parse error: {why}"), body));
        }
        Err(DecodeError::Type(why)) => {
            let header = header(body, media);
            if !header.is_object() && !header.is_null() {
                let what = match header {
                    Value::Array(_) => "array",
                    Value::String(_) => "string",
                    Value::Bool(_) => "bool",
                    _ => "number",
                };
                const HEADER: &str =
                    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
                let why =
                    format!("couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type {HEADER}");
                return Err(target.unrecognized(&why, body));
            }
            for (name, given) in [("apiVersion", &header["apiVersion"]), ("kind", &header["kind"])] {
                let what = match given {
                    Value::Null | Value::String(_) => continue,
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                    Value::Bool(_) => "bool",
                    Value::Number(_) => "number",
                };
                let why = format!(
                    "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go struct field .{name} of type string"
                );
                return Err(target.unrecognized(&why, body));
            }
            check_kind(target, &header)?;
            return Err(target.cannot_handle(target.kind, target.version, &why));
        }
        Ok(decoded) => decoded,
    };
    if !duplicates.is_empty() {
        decoded.strict.insert(0, format!("yaml: unmarshal errors:\n  {}", duplicates.join("\n  ")));
    }
    accept(target, decoded, validation)
}

/// The same for an object that was parsed before.
pub fn decode_value(target: &Target<'_>, object: &Value, validation: FieldValidation) -> Result<(Value, Vec<String>)> {
    match value(target.root, object) {
        Ok(decoded) => accept(target, decoded, validation),
        Err(why) => {
            check_kind(target, object)?;
            Err(target.cannot_handle(target.kind, target.version, &why.to_string()))
        }
    }
}

fn accept(target: &Target<'_>, decoded: Decoded, validation: FieldValidation) -> Result<(Value, Vec<String>)> {
    let Decoded { mut value, mut strict } = decoded;
    check_kind(target, &value)?;
    if let Some(custom) = target.custom {
        strict.extend(custom.family.prune(&custom.name, &mut value).into_iter().map(|path| format!("unknown field {path:?}")));
        strict.truncate(MAX_STRICT);
    }
    if validation == FieldValidation::Strict && !strict.is_empty() {
        let why = format!("strict decoding error: {}", strict.join(", "));
        return Err(target.cannot_handle(target.kind, target.version, &why));
    }
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".into(), target.api_version().into());
        map.insert("kind".into(), target.kind.into());
    }
    Ok((value, if validation == FieldValidation::Warn { strict } else { Vec::new() }))
}

/// The body without its schema; only looked at once it turned out to be wrong.
fn header(body: &[u8], media: Media) -> Value {
    match media {
        Media::Json => serde_json::from_slice(body).unwrap_or(Value::Object(Map::new())),
        Media::Yaml => std::str::from_utf8(body).ok().and_then(|t| yaml::parse(t).ok()).map_or(Value::Null, |d| d.value),
    }
}

/// Whether the object is what the path says; what it does not say itself, the path says for it.
fn check_kind(target: &Target<'_>, object: &Value) -> Result<()> {
    let said = |name: &str| object[name].as_str().filter(|s| !s.is_empty());
    let expected = target.api_version();
    let (api_version, kind) = (said("apiVersion").unwrap_or(&expected), said("kind").unwrap_or(target.kind));
    if api_version == expected && kind == target.kind {
        return Ok(());
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if target.custom.is_some() {
        if api_version != expected {
            return Err(StatusError::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({expected})"
            )));
        }
        let mut errors = ErrorList::new();
        errors.invalid(&Path::new("kind"), kind, &format!("must be {}", target.kind));
        return Err(StatusError::invalid(target.group, target.kind, object["metadata"]["name"].as_str().unwrap_or(""), errors));
    }
    if schema::of_kind(api_version, kind).is_none() {
        let why = format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\"");
        return Err(target.cannot_handle(kind, version, &why));
    }
    if kind == target.kind && group == target.group {
        return Err(StatusError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    let internal = if target.group.is_empty() { "core" } else { target.group.split('.').next().unwrap_or_default() };
    let why = format!("converting ({version}.{kind}) to ({internal}.{}): unknown conversion", target.kind);
    Err(target.cannot_handle(kind, version, &why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target<'static> {
        Target { group: "", version: "v1", kind: "ConfigMap", root: schema::of_kind("v1", "ConfigMap").expect("ConfigMap"), custom: None }
    }

    /// The recorded answers of an upstream apiserver (tests/oracle, `bad-bodies`), and others in their words.
    #[test]
    fn refused() {
        use FieldValidation::{Strict, Warn};
        for (body, media, validation, message) in [
            (
                "{not json",
                Media::Json,
                Warn,
                "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'n' looking for beginning of object key string ({not json)",
            ),
            (
                "",
                Media::Json,
                Warn,
                "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
            ),
            (
                "[]",
                Media::Json,
                Warn,
                "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)",
            ),
            (
                "a: [b",
                Media::Yaml,
                Warn,
                "the object provided is unrecognized (must be of type ConfigMap): yaml: line 1: did not find expected ',' or ']' (613a205b62)",
            ),
            (
                r#"{"metadata":{"name":"a","name":"b"}}"#,
                Media::Json,
                Strict,
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"metadata.name\"",
            ),
            (
                r#"{"data":1}"#,
                Media::Json,
                Warn,
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string",
            ),
            (
                r#"{"kind":"Nope"}"#,
                Media::Json,
                Warn,
                "Nope in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nope\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            ),
            (
                r#"{"kind":"Pod"}"#,
                Media::Json,
                Warn,
                "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion",
            ),
        ] {
            let error = decode(&target(), body.as_bytes(), media, validation).expect_err(body);
            assert_eq!((error.to_string().as_str(), error.code()), (message, 400), "{body}");
        }
    }

    #[test]
    fn taken() {
        let (value, warnings) = decode(&target(), b"metadata: {name: a}\nnope: 1\n", Media::Yaml, FieldValidation::Warn).expect("YAML");
        assert_eq!(value, serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
        assert_eq!(warnings, ["unknown field \"nope\""]);
        assert!(decode(&target(), b"null", Media::Json, FieldValidation::Strict).is_ok());
    }
}
