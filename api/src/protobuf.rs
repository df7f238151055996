//! Objects in Kubernetes' protobuf encoding to JSON, by the schema and the table of field numbers (`schema/numbers.txt`).
//!
//! Go clients of built-in kinds (kubectl among them) send bodies in it, and read JSON back, which they also accept: so there is a decoder here
//! and no encoder. What a message does not say is absent; fields whose number is unknown are skipped, as protobuf asks for.
//! A text is the magic `k8s\0` and an envelope with the object's kind around its bytes (upstream: `runtime/serializer/protobuf`).

use crate::schema::{self, Definition, Presence, Schema, Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What every text begins with.
pub const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may stand in each other: custom resource schemas are the deepest there are.
const MAX_DEPTH: usize = 64;

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The magic is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The bytes end within a value.
    #[error("unexpected EOF")]
    Truncated,
    /// A tag or number is malformed.
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    /// Messages stand too deep in each other.
    #[error("proto: too many nested messages")]
    TooDeep,
    /// The envelope names a kind of which nothing is known.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// What the envelope says.
        api_version: String,
        /// What the envelope says.
        kind: String,
    },
    /// A text is not UTF-8, or a value is out of its type's range.
    #[error("proto: a value does not fit its field")]
    BadValue,
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// What a field number stands for.
enum Target {
    /// The JSON field of this name.
    Field(&'static str),
    /// A message whose fields JSON writes in the place of this one.
    Inline(String),
}

/// Field numbers by the message's full name.
static NUMBERS: LazyLock<HashMap<String, HashMap<u64, Target>>> = LazyLock::new(|| {
    let mut messages = HashMap::new();
    let mut package = "";
    for line in include_str!("schema/numbers.txt").lines() {
        if let Some(name) = line.strip_prefix("package ") {
            package = name;
            continue;
        }
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let field = |word: &'static str| {
            let (field, number) = word.split_once('=').expect("the table has NAME=NUMBER");
            let target = match field.strip_prefix('+') {
                Some(inline) => Target::Inline(format!("{package}.{inline}")),
                None => Target::Field(field),
            };
            (number.parse().expect("the table has numbers"), target)
        };
        messages.insert(format!("{package}.{name}"), words.map(field).collect());
    }
    messages
});

/// One value as it stands on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::BadValue)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| ProtobufError::Truncated)?)),
            2 => {
                let count = usize::try_from(self.varint()?).map_err(|_| ProtobufError::BadValue)?;
                Wire::Bytes(self.take(count)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| ProtobufError::Truncated)?)),
            other => return Err(ProtobufError::WireType((other & 7) as u8)),
        };
        Ok(Some((tag >> 3, value)))
    }
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> Result<&'a [u8]> {
        if let Wire::Bytes(bytes) = self { Ok(bytes) } else { Err(ProtobufError::BadValue) }
    }

    fn text(&self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| ProtobufError::BadValue)
    }

    /// Signed numbers are sign-extended to 64 bits on the wire.
    fn signed(&self) -> Result<i64> {
        if let Wire::Varint(value) = self { Ok(value.cast_signed()) } else { Err(ProtobufError::BadValue) }
    }

    fn float(&self) -> Result<f64> {
        match self {
            Wire::Fixed64(bits) => Ok(f64::from_bits(*bits)),
            Wire::Fixed32(bits) => Ok(f64::from(f32::from_bits(*bits))),
            _ => Err(ProtobufError::BadValue),
        }
    }
}

/// The one field of a small message that counts.
fn only(bytes: &[u8], number: u64) -> Result<Option<Wire<'_>>> {
    let mut reader = Reader(bytes);
    let mut found = None;
    while let Some((at, wire)) = reader.next()? {
        if at == number {
            found = Some(wire);
        }
    }
    Ok(found)
}

/// The object in the text, as JSON with `apiVersion` and `kind`.
pub fn decode(text: &[u8]) -> Result<Value> {
    let envelope = text.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = ("", "", &[][..]);
    let mut reader = Reader(envelope);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => {
                let mut header = Reader(wire.bytes()?);
                while let Some((number, wire)) = header.next()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            _ => {}
        }
    }
    let unknown = || ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    // Options are of every group's version.
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let root = schema::of_kind(api_version, kind).or_else(|| schema::find(&format!("{meta}.{kind}"))).ok_or_else(unknown)?;
    let definition = root.definition();
    let mut out = Map::new();
    message(root.schema, definition, &definition.full_name(), raw, &mut out, 0)?;
    out.insert("apiVersion".into(), api_version.into());
    out.insert("kind".into(), kind.into());
    Ok(Value::Object(out))
}

/// Reads the message `name` into `out`, whose fields have the types of `definition`.
fn message(schema: &Schema, definition: &Definition, name: &str, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let Some(numbers) = NUMBERS.get(name) else { return Ok(()) };
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        let field = match numbers.get(&number) {
            None => continue,
            Some(Target::Inline(inner)) => {
                message(schema, definition, inner, wire.bytes()?, out, depth + 1)?;
                continue;
            }
            Some(Target::Field(field)) => match definition.field(field) {
                Some(field) => field,
                None => continue,
            },
        };
        match &field.ty {
            Type::List(item) => {
                let list = out.entry(field.name.as_ref()).or_insert_with(|| json!([]));
                let Some(list) = list.as_array_mut() else { continue };
                items(schema, item, &wire, list, depth)?;
            }
            Type::Map(item) => {
                let map = out.entry(field.name.as_ref()).or_insert_with(|| json!({}));
                let Some(map) = map.as_object_mut() else { continue };
                let bytes = wire.bytes()?;
                let key = only(bytes, 1)?.map_or(Ok(""), |w| w.text())?;
                let value = match only(bytes, 2)? {
                    Some(wire) => value(schema, item, &wire, depth)?,
                    None => value(schema, item, &Wire::Bytes(&[]), depth)?,
                };
                map.insert(key.to_owned(), value);
            }
            ty => {
                let value = value(schema, ty, &wire, depth)?;
                // Go's encoder writes every field that is no pointer, set or not; what JSON leaves out when it is empty was not set.
                let unset = !field.pointer && field.presence != Presence::Always && is_zero(&value);
                if !unset && !value.is_null() {
                    out.insert(field.name.to_string(), value);
                }
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// One item of a repeated field, or several numbers packed into one.
fn items(schema: &Schema, item: &Type, wire: &Wire<'_>, list: &mut Vec<Value>, depth: usize) -> Result<()> {
    match (item, wire) {
        (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(packed)) => {
            let mut reader = Reader(packed);
            while !reader.0.is_empty() {
                let wire = Wire::Varint(reader.varint()?);
                list.push(value(schema, item, &wire, depth)?);
            }
        }
        _ => list.push(value(schema, item, wire, depth)?),
    }
    Ok(())
}

fn value(schema: &Schema, ty: &Type, wire: &Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match ty {
        Type::String => wire.text()?.into(),
        Type::Bool => (wire.signed()? != 0).into(),
        Type::Int32 => i32::try_from(wire.signed()?).map_err(|_| ProtobufError::BadValue)?.into(),
        Type::Int64 => wire.signed()?.into(),
        Type::Float64 => wire.float()?.into(),
        Type::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Type::Quantity => only(wire.bytes()?, 1)?.map_or(Ok("0"), |w| w.text())?.into(),
        Type::Time => time(wire.bytes()?, false)?,
        Type::MicroTime => time(wire.bytes()?, true)?,
        Type::IntOrString => int_or_string(wire.bytes()?)?,
        Type::Raw | Type::Json => match only(wire.bytes()?, 1)? {
            Some(raw) => serde_json::from_slice(raw.bytes()?).map_err(|_| ProtobufError::BadValue)?,
            None => Value::Null,
        },
        // A list within a map: a message with the list as its first field.
        Type::List(item) => {
            let mut list = Vec::new();
            let mut reader = Reader(wire.bytes()?);
            while let Some((number, wire)) = reader.next()? {
                if number == 1 {
                    items(schema, item, &wire, &mut list, depth + 1)?;
                }
            }
            list.into()
        }
        Type::Struct(id) => {
            let definition = schema.get(*id);
            let mut out = Map::new();
            message(schema, definition, &definition.full_name(), wire.bytes()?, &mut out, depth + 1)?;
            out.into()
        }
        Type::Map(_) | Type::Untyped => return Err(ProtobufError::BadValue),
    })
}

/// Seconds and nanoseconds since 1970; neither means no time at all.
fn time(bytes: &[u8], micro: bool) -> Result<Value> {
    let seconds = only(bytes, 1)?.map_or(Ok(0), |w| w.signed())?;
    let nanos = only(bytes, 2)?.map_or(Ok(0), |w| w.signed())?;
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let whole = Timestamp::from_second(seconds).map_err(|_| ProtobufError::BadValue)?;
    Ok(if micro {
        let exact = whole.checked_add(SignedDuration::from_nanos(nanos)).map_err(|_| ProtobufError::BadValue)?;
        exact.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string().into()
    } else {
        whole.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
    })
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let is_text = only(bytes, 1)?.map_or(Ok(0), |w| w.signed())? == 1;
    Ok(if is_text { only(bytes, 3)?.map_or(Ok(""), |w| w.text())?.into() } else { only(bytes, 2)?.map_or(Ok(0), |w| w.signed())?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|b| b.is_ascii_hexdigit()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// A field with a length, for building messages.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let header = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &header), field(2, raw)].concat()
    }

    #[test]
    fn what_kubectl_sends_for_a_config_map() {
        // `kubectl create configmap a --from-literal=k=v` of v1.32.
        let sent =
            "6b387300 0a0f0a02 76311209 436f6e66 69674d61 70121b0a 110a0161 12001a00 22002a00 32003800 42001206 0a016b12 01761a00 2200";
        assert_eq!(
            decode(&bytes(sent)).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
    }

    #[test]
    fn special_types_and_inlined_messages() {
        // A pod with a volume (its source is a message of its own), a probe with a port, a limit and a negative priority.
        let volume = [field(1, b"v"), field(2, &field(6, &field(1, b"s")))].concat();
        let port = bytes("0801 1a04 68747470"); // type 1, strVal "http"
        let probe = field(1, &field(3, &field(1, &port)));
        let limit = [field(1, b"cpu"), field(2, &field(1, b"500m"))].concat();
        let container = [field(1, b"c"), field(8, &field(1, &limit)), field(10, &probe)].concat();
        let priority = [bytes("c801"), bytes("ffffffffffffffffff01")].concat(); // field 25, -1
        let spec = [field(1, &volume), field(2, &container), priority].concat();
        let created = field(8, &bytes("08 80a38fca06")); // 1766052224 seconds
        let pod = [field(1, &[field(1, b"p"), created].concat()), field(2, &spec)].concat();
        let got = decode(&envelope("v1", "Pod", &pod)).unwrap();
        assert_eq!(got["spec"]["volumes"], json!([{"name": "v", "secret": {"secretName": "s"}}]));
        assert_eq!(got["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "500m"}));
        assert_eq!(got["spec"]["containers"][0]["livenessProbe"], json!({"tcpSocket": {"port": "http"}}));
        assert_eq!(got["spec"]["priority"], -1);
        assert_eq!(got["metadata"]["creationTimestamp"], "2025-12-18T10:03:44Z");
    }

    #[test]
    fn options_are_known_and_rubbish_is_refused() {
        let options = envelope("v1", "DeleteOptions", &bytes("0805"));
        assert_eq!(decode(&options).unwrap()["gracePeriodSeconds"], 5);
        assert_eq!(decode(b"{}"), Err(ProtobufError::NoMagic));
        assert_eq!(decode(b"k8s\0\x0a\x7f"), Err(ProtobufError::Truncated));
        assert!(matches!(decode(&envelope("x/v1", "Y", b"")), Err(ProtobufError::UnknownKind { .. })));
        assert_eq!(decode(&envelope("v1", "Pod", b"\x0b")), Err(ProtobufError::WireType(3)));
    }

    #[test]
    fn every_number_names_a_field_or_a_message() {
        for (name, numbers) in NUMBERS.iter() {
            for target in numbers.values() {
                match target {
                    Target::Inline(inner) => assert!(NUMBERS.contains_key(inner), "{name}: {inner}"),
                    Target::Field(field) => {
                        if let Some(root) = schema::find(name) {
                            assert!(root.definition().field(field).is_some(), "{name}.{field}");
                        }
                    }
                }
            }
        }
    }
}
