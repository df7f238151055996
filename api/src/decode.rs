//! JSON and YAML to objects, driven by the schema: what Go's decoder would keep, in canonical form (quantities, times), with Go's words for what is wrong.
//!
//! One pass over the text does all of it: unknown fields are pruned and remembered, duplicate fields are remembered, a value of the wrong type is
//! remembered and decoding goes on, as Go does it; a malformed quantity or time ends it. [`body`] turns the outcome into what a request is answered with.
//! Not here: defaults, validation, and normal form (see [`crate::normalize`]), which decoded objects reach when their typed form is written.

pub mod body;
mod leaf;
mod syntax;
mod walk;
pub mod yaml;

use crate::schema::Root;
use serde::Deserializer;
use serde_json::Value;

/// A decoded object and what a strict reader would object to.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object, pruned to its schema.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "metadata.name"`, in the order of the text; at most 100.
    pub strict: Vec<String>,
}

/// Why a text is no object of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is no JSON or no YAML.
    #[error("{0}")]
    Syntax(String),
    /// A value does not fit its field.
    #[error("{0}")]
    Type(String),
}

/// Decodes JSON text.
pub fn json(root: Root<'_>, text: &[u8]) -> Result<Decoded, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    match walk::run(root, &mut deserializer) {
        Ok(decoded) => match deserializer.end() {
            Ok(()) => Ok(decoded),
            Err(e) => Err(syntax_error(text, &e)),
        },
        Err(walk::Failure::Reader(e)) => Err(syntax_error(text, &e)),
        // Go looks at the whole text before it decodes any of it.
        Err(walk::Failure::Type(message)) => Err(syntax::error(text).map_or(DecodeError::Type(message), DecodeError::Syntax)),
    }
}

/// JSON of any shape, with Go's message if it is none.
pub fn any_json(text: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(text).map_err(|e| syntax_error(text, &e))
}

fn syntax_error(text: &[u8], error: &serde_json::Error) -> DecodeError {
    DecodeError::Syntax(syntax::error(text).unwrap_or_else(|| error.to_string()))
}

/// Decodes what was parsed before, e.g. a patched object.
pub fn value(root: Root<'_>, value: &Value) -> Result<Decoded, DecodeError> {
    reader(root, value)
}

fn reader<'de, D: Deserializer<'de>>(root: Root<'_>, deserializer: D) -> Result<Decoded, DecodeError> {
    walk::run(root, deserializer).map_err(|e| match e {
        walk::Failure::Reader(e) => DecodeError::Syntax(e.to_string()),
        walk::Failure::Type(message) => DecodeError::Type(message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    fn decode(kind: &str, text: &str) -> Result<Decoded, String> {
        let api_version = if kind == "Deployment" {
            "apps/v1"
        } else if kind == "Lease" {
            "coordination.k8s.io/v1"
        } else {
            "v1"
        };
        json(schema::of_kind(api_version, kind).expect(kind), text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn errors() {
        for (kind, text, message) in [
            (
                "Pod",
                r#"{"spec":{"containers":"x"}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            ("ConfigMap", r#"{"data":{"k":1}}"#, "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
            (
                "Pod",
                r#"{"spec":{"containers":[{"name":{}}]}}"#,
                "json: cannot unmarshal object into Go struct field Container.spec.containers.name of type string",
            ),
            (
                "Pod",
                r#"{"spec":{"restartPolicy":true}}"#,
                "json: cannot unmarshal bool into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (
                "Pod",
                r#"{"spec":{"priority":"1"}}"#,
                "json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                "Pod",
                r#"{"spec":{"priority":3000000000}}"#,
                "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                "Pod",
                r#"{"spec":{"priority":1.5}}"#,
                "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
            ),
            ("Pod", r#"{"metadata":[]}"#, "json: cannot unmarshal array into Go struct field Pod.metadata of type v1.ObjectMeta"),
            (
                "Pod",
                r#"{"metadata":{"creationTimestamp":1}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
            ),
            (
                "Pod",
                r#"{"metadata":{"creationTimestamp":"x"}}"#,
                "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
            ),
            (
                "Pod",
                r#"{"metadata":{"labels":{"a":[]}}}"#,
                "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                "Pod",
                r#"{"spec":{"overhead":[]}}"#,
                "json: cannot unmarshal array into Go struct field PodSpec.spec.overhead of type v1.ResourceList",
            ),
            (
                "Pod",
                r#"{"spec":{"overhead":{"cpu":"x"}}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                "Service",
                r#"{"spec":{"ports":[{"targetPort":true}]}}"#,
                "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
            ),
            ("Secret", r#"{"data":{"a":"not base64!"}}"#, "illegal base64 data at input byte 3"),
            ("Pod", r#"{"spec":{"priority":"1"}}x"#, "invalid character 'x' after top-level value"),
            ("Pod", r#"{"spec":{"overhead":{"cpu":"x"}}}x"#, "invalid character 'x' after top-level value"),
            (
                "Lease",
                r#"{"spec":{"renewTime":"2020-01-01T00:00:00Z"}}"#,
                "parsing time \"2020-01-01T00:00:00Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\"",
            ),
        ] {
            assert_eq!(decode(kind, text).expect_err(text), message, "{text}");
        }
    }

    #[test]
    fn kept_and_pruned() {
        let text = r#"{"kind":"Pod","nope":1,"metadata":{"name":"a","name":"b","creationTimestamp":null,"labels":{"x":"1","x":"2"}},
            "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"0.5","memory":1073741824}},"extra":{"deep":[1]}}],"priority":null,"terminationGracePeriodSeconds":5},
            "status":{"startTime":"2020-01-01T01:00:00+01:00"}}"#;
        let decoded = decode("Pod", text).expect("it is a pod");
        assert_eq!(
            decoded.value,
            json!({"kind":"Pod","metadata":{"name":"b","labels":{"x":"2"}},"status":{"startTime":"2020-01-01T00:00:00Z"},
                "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"500m","memory":"1073741824"}}}],"terminationGracePeriodSeconds":5}})
        );
        let strict = [
            "unknown field \"nope\"",
            "duplicate field \"metadata.name\"",
            "duplicate field \"metadata.labels.x\"",
            "unknown field \"spec.containers[0].extra\"",
        ];
        assert_eq!(decoded.strict, strict);
    }

    #[test]
    fn nothing_is_an_empty_object() {
        assert_eq!(decode("Pod", "null").expect("null").value, json!({}));
        assert_eq!(
            decode("Pod", r#"{"spec":{"containers":[null]}}"#).expect("null item").value["spec"]["containers"],
            json!([{"name":"","resources":{}}])
        );
    }
}
