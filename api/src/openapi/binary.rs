//! The protobuf form of an OpenAPI v2 document, which is the only one that Go clients ask for
//! (`application/com.github.proto-openapi.spec.v2@v1.0+protobuf`; the message types are gnostic's `openapiv2/OpenAPIv2.proto`).
//!
//! One table says which field of a message has which number; what the document says beyond it are extensions, kept as YAML, of which JSON is a part.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

/// How a field is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Bool,
    Number,
    /// A message of the type at this place in the table.
    Message(&'static Message),
    /// A message that holds a list of name and value: an object.
    Named(u32, &'static Message),
    /// The same without a message around it: the entries are fields of the message itself.
    Entries(&'static Message),
    /// A message around one field, because the specification allows several things there.
    Choice(u32, &'static Message),
    /// A value of any shape, as YAML.
    Any,
    AnyList,
    /// `type`: one text or several, in a message.
    Type,
    /// A parameter in the messages around it, by where it stands.
    Parameters,
    /// A list of objects whose values are lists of texts.
    Security,
}

/// A message type: its fields by name, and the number of its extensions.
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("multipleOf", 6, Form::Number),
        ("maximum", 7, Form::Number),
        ("exclusiveMaximum", 8, Form::Bool),
        ("minimum", 9, Form::Number),
        ("exclusiveMinimum", 10, Form::Bool),
        ("maxLength", 11, Form::Number),
        ("minLength", 12, Form::Number),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Number),
        ("minItems", 15, Form::Number),
        ("uniqueItems", 16, Form::Bool),
        ("maxProperties", 17, Form::Number),
        ("minProperties", 18, Form::Number),
        ("required", 19, Form::Texts),
        ("enum", 20, Form::AnyList),
        ("additionalProperties", 21, Form::Choice(1, &SCHEMA)),
        ("type", 22, Form::Type),
        ("items", 23, Form::Choice(1, &SCHEMA)),
        ("properties", 25, Form::Named(1, &SCHEMA)),
        ("example", 30, Form::Any),
    ],
    extensions: 31,
};

static RESPONSE: Message = Message { fields: &[("description", 1, Form::Text), ("schema", 2, Form::Choice(1, &SCHEMA))], extensions: 5 };
static RESPONSE_VALUE: Message = Message { fields: &[("", 1, Form::Message(&RESPONSE))], extensions: 0 };

static BODY: Message = Message {
    fields: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Bool),
        ("schema", 5, Form::Message(&SCHEMA)),
    ],
    extensions: 6,
};
static QUERY: Message = Message {
    fields: &[
        ("required", 1, Form::Bool),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("format", 7, Form::Text),
        ("uniqueItems", 20, Form::Bool),
    ],
    extensions: 23,
};
static PATH: Message = Message {
    fields: &[
        ("required", 1, Form::Bool),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("format", 6, Form::Text),
        ("uniqueItems", 19, Form::Bool),
    ],
    extensions: 22,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Form::Texts),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::Texts),
        ("consumes", 7, Form::Texts),
        ("parameters", 8, Form::Parameters),
        ("responses", 9, Form::Named(1, &RESPONSE_VALUE)),
        ("schemes", 10, Form::Texts),
    ],
    extensions: 13,
};
static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("options", 6, Form::Message(&OPERATION)),
        ("head", 7, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
        ("parameters", 9, Form::Parameters),
    ],
    extensions: 10,
};
static INFO: Message = Message { fields: &[("title", 1, Form::Text), ("version", 2, Form::Text)], extensions: 7 };
static API_KEY: Message = Message {
    fields: &[("type", 1, Form::Text), ("name", 2, Form::Text), ("in", 3, Form::Text), ("description", 4, Form::Text)],
    extensions: 5,
};
static SECURITY: Message = Message { fields: &[("", 2, Form::Message(&API_KEY))], extensions: 0 };
static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, Form::Named(2, &PATH_ITEM)),
        ("definitions", 9, Form::Named(1, &SCHEMA)),
        ("security", 12, Form::Security),
        ("securityDefinitions", 13, Form::Entries(&SECURITY)),
    ],
    extensions: 16,
};

/// The document's bytes.
pub fn encode(document: &Value) -> Vec<u8> {
    message(&DOCUMENT, document)
}

fn bytes(number: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn named(number: u32, name: &str, content: &[u8], out: &mut Vec<u8>) {
    let mut entry = Vec::with_capacity(content.len() + name.len() + 16);
    bytes(1, name.as_bytes(), &mut entry);
    bytes(2, content, &mut entry);
    bytes(number, &entry, out);
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(2, value.to_string().as_bytes(), &mut out);
    out
}

fn message(kind: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    // A message that only stands around another one.
    if let [("", number, form)] = kind.fields {
        field(*number, *form, value, &mut out);
        return out;
    }
    let Some(object) = value.as_object() else { return out };
    for (name, number, form) in kind.fields {
        if let Some(value) = object.get(*name) {
            field(*number, *form, value, &mut out);
        }
    }
    for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
        named(kind.extensions, name, &any(value), &mut out);
    }
    out
}

fn field(number: u32, form: Form, value: &Value, out: &mut Vec<u8>) {
    let items = || value.as_array().into_iter().flatten();
    let entries = || value.as_object().into_iter().flatten();
    match form {
        Form::Text => bytes(number, value.as_str().unwrap_or_default().as_bytes(), out),
        Form::Texts => items().filter_map(Value::as_str).for_each(|text| bytes(number, text.as_bytes(), out)),
        Form::Bool => {
            encode_key(number, WireType::Varint, out);
            encode_varint(u64::from(value.as_bool().unwrap_or(false)), out);
        }
        Form::Number => match value.as_i64() {
            // Lengths and counts are integers, bounds are floating: which one follows from the field.
            Some(whole) if !matches!(number, 6 | 7 | 9) => {
                encode_key(number, WireType::Varint, out);
                encode_varint(whole as u64, out);
            }
            _ => {
                encode_key(number, WireType::SixtyFourBit, out);
                out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            }
        },
        Form::Message(kind) => bytes(number, &message(kind, value), out),
        Form::Named(inner, kind) => {
            let mut content = Vec::new();
            entries().for_each(|(name, value)| named(inner, name, &message(kind, value), &mut content));
            bytes(number, &content, out);
        }
        Form::Entries(kind) => {
            let mut content = Vec::new();
            entries().for_each(|(name, value)| named(1, name, &message(kind, value), &mut content));
            bytes(number, &content, out);
        }
        Form::Choice(inner, kind) => {
            let mut content = Vec::new();
            match value {
                // `additionalProperties: true`.
                Value::Bool(allowed) => {
                    encode_key(2, WireType::Varint, &mut content);
                    encode_varint(u64::from(*allowed), &mut content);
                }
                value => bytes(inner, &message(kind, value), &mut content),
            }
            bytes(number, &content, out);
        }
        Form::Any => bytes(number, &any(value), out),
        Form::AnyList => items().for_each(|item| bytes(number, &any(item), out)),
        Form::Type => {
            let mut content = Vec::new();
            let texts = value.as_str().into_iter().chain(items().filter_map(Value::as_str));
            texts.for_each(|text| bytes(1, text.as_bytes(), &mut content));
            bytes(number, &content, out);
        }
        Form::Parameters => items().for_each(|item| bytes(number, &parameter(item), out)),
        Form::Security => {
            for requirement in items() {
                let mut content = Vec::new();
                for (name, scopes) in requirement.as_object().into_iter().flatten() {
                    let mut list = Vec::new();
                    scopes.as_array().into_iter().flatten().filter_map(Value::as_str).for_each(|s| bytes(1, s.as_bytes(), &mut list));
                    named(1, name, &list, &mut content);
                }
                bytes(number, &content, out);
            }
        }
    }
}

/// `ParametersItem{parameter: Parameter{body_parameter | non_body_parameter{query | path}}}`.
fn parameter(value: &Value) -> Vec<u8> {
    let mut inner = Vec::new();
    if value["in"] == "body" {
        bytes(1, &message(&BODY, value), &mut inner);
    } else {
        let mut place = Vec::new();
        match value["in"].as_str() {
            Some("path") => bytes(4, &message(&PATH, value), &mut place),
            _ => bytes(3, &message(&QUERY, value), &mut place),
        }
        bytes(2, &place, &mut inner);
    }
    let mut out = Vec::new();
    bytes(1, &inner, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The text form that `protoc --decode_raw` would give, as far as the tests need it: fields by number, nested where asked.
    fn find<'a>(mut bytes: &'a [u8], path: &[u32]) -> Option<&'a [u8]> {
        let [number, rest @ ..] = path else { return Some(bytes) };
        while !bytes.is_empty() {
            let (key, wire) = prost::encoding::decode_key(&mut bytes).ok()?;
            match wire {
                WireType::LengthDelimited => {
                    let length = usize::try_from(prost::encoding::decode_varint(&mut bytes).ok()?).ok()?;
                    let (content, after) = bytes.split_at(length);
                    bytes = after;
                    if key == *number {
                        return find(content, rest);
                    }
                }
                WireType::Varint => {
                    prost::encoding::decode_varint(&mut bytes).ok()?;
                }
                _ => bytes = &bytes[8..],
            }
        }
        None
    }

    #[test]
    fn messages_have_gnostics_numbers() {
        let encoded = encode(&json!({
            "swagger": "2.0",
            "paths": {"/a": {"post": {"operationId": "x", "parameters": [{"in": "body", "name": "body", "schema": {"$ref": "#/r"}}],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/s"}}}}}},
            "definitions": {"T": {"type": "object", "maximum": 1.5, "properties": {"f": {"type": "string"}}, "x-kubernetes-map-type": "atomic"}},
        }));
        let text = |path: &[u32]| find(&encoded, path).map(|b| String::from_utf8_lossy(b).into_owned());
        assert_eq!(text(&[1]).as_deref(), Some("2.0"));
        assert_eq!(text(&[8, 2, 1]).as_deref(), Some("/a"));
        assert_eq!(text(&[8, 2, 2, 4, 5]).as_deref(), Some("x"));
        assert_eq!(text(&[8, 2, 2, 4, 8, 1, 1, 5, 1]).as_deref(), Some("#/r"));
        assert_eq!(text(&[8, 2, 2, 4, 9, 1, 1]).as_deref(), Some("200"));
        assert_eq!(text(&[8, 2, 2, 4, 9, 1, 2, 1, 2, 1, 1]).as_deref(), Some("#/s"));
        assert_eq!(text(&[9, 1, 1]).as_deref(), Some("T"));
        assert_eq!(text(&[9, 1, 2, 22, 1]).as_deref(), Some("object"));
        assert_eq!(text(&[9, 1, 2, 25, 1, 2, 22, 1]).as_deref(), Some("string"));
        assert_eq!(text(&[9, 1, 2, 31, 1]).as_deref(), Some("x-kubernetes-map-type"));
        assert_eq!(text(&[9, 1, 2, 31, 2, 2]).as_deref(), Some("\"atomic\""));
    }
}
