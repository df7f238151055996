//! The walk of a text along a schema. Each value meets the type that stands at its place: [`Node`] is that type, waiting for the value.

use super::Decoded;
use super::leaf;
use crate::normalize::zero_of;
use crate::schema::{Definition, Field, Root, Schema, Type};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// How many strict errors are told, as upstream bounds them.
pub(super) const MAX_STRICT: usize = 100;

/// Why a walk ended early.
pub(super) enum Failure<E> {
    /// The text cannot be read.
    Reader(E),
    /// A value does not fit; Go's message.
    Type(String),
}

pub(super) fn run<'de, D: Deserializer<'de>>(root: Root<'_>, deserializer: D) -> Result<Decoded, Failure<D::Error>> {
    let mut walk = Walk { schema: root.schema, path: Vec::with_capacity(16), strict: Vec::new(), mismatch: None, fatal: None };
    let ty = root.ty();
    let outcome = Node { walk: &mut walk, ty: &ty, go: None }.deserialize(deserializer);
    if let Some(message) = walk.fatal.or(walk.mismatch) {
        return Err(Failure::Type(message));
    }
    let value = match outcome.map_err(Failure::Reader)? {
        Value::Null => Value::Object(Map::new()),
        value => value,
    };
    Ok(Decoded { value, strict: walk.strict })
}

struct Walk<'s> {
    schema: &'s Schema,
    path: Vec<Step<'s>>,
    strict: Vec<String>,
    /// The first value of a wrong type: decoding goes on behind it.
    mismatch: Option<String>,
    /// What a quantity or time was refused for: decoding ends there, and it outranks a mismatch.
    fatal: Option<String>,
}

enum Step<'s> {
    Field(&'s Definition, &'s Field),
    /// A map's key, or a field that no schema declares.
    Key(String),
    Index(usize),
}

impl Walk<'_> {
    /// Notes `unknown field "spec.containers[0].extra"`.
    fn object(&mut self, what: &str, name: &str) {
        if self.strict.len() >= MAX_STRICT {
            return;
        }
        let mut text = format!("{what} field \"");
        for step in &self.path {
            match step {
                Step::Index(i) => text = format!("{}[{i}].", text.trim_end_matches('.')),
                Step::Field(_, f) => text.extend([f.name.as_ref(), "."]),
                Step::Key(k) => text.extend([k.as_str(), "."]),
            }
        }
        text.extend([name, "\""]);
        if !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    fn mismatch(&mut self, what: &str, ty: &Type, go: Option<&str>) {
        if self.mismatch.is_some() {
            return;
        }
        let fields: Vec<&str> =
            self.path.iter().filter_map(|s| if let Step::Field(_, f) = s { Some(f.name.as_ref()) } else { None }).collect();
        let holder = self.path.iter().rev().find_map(|s| if let Step::Field(d, _) = s { Some(d.name.as_ref()) } else { None });
        let ty = self.go_type(ty, go);
        self.mismatch = Some(match holder {
            Some(holder) => format!("json: cannot unmarshal {what} into Go struct field {holder}.{} of type {ty}", fields.join(".")),
            None => format!("json: cannot unmarshal {what} into Go value of type {ty}"),
        });
    }

    /// A type as Go prints it. `go` names it where the schema knows a name; for a list or map that is, as a rule, the name of the items' type.
    fn go_type(&self, ty: &Type, go: Option<&str>) -> String {
        let plain = match ty {
            Type::Struct(id) => return self.schema.get(*id).go_name(),
            Type::List(item) => return format!("[]{}", self.go_type(item, go)),
            Type::Map(item) => match go {
                Some(name) if **item == Type::Quantity => return name.to_owned(),
                _ => return format!("map[string]{}", self.go_type(item, go)),
            },
            // These decode themselves, by way of these types.
            Type::Time | Type::MicroTime => return "string".into(),
            Type::IntOrString => return "int32".into(),
            Type::String => "string",
            Type::Bool => "bool",
            Type::Int32 => "int32",
            Type::Int64 => "int64",
            Type::Float64 => "float64",
            Type::Bytes => "[]uint8",
            Type::Quantity => "resource.Quantity",
            Type::Raw => "runtime.RawExtension",
            Type::Json | Type::Untyped => "interface {}",
        };
        go.unwrap_or(plain).to_owned()
    }
}

/// A type at its place, waiting for a value. The outcome of a value that does not count (`null`, or one of a wrong type) is `Value::Null`.
struct Node<'w, 's> {
    walk: &'w mut Walk<'s>,
    ty: &'w Type,
    go: Option<&'s str>,
}

impl Node<'_, '_> {
    fn wrong<E>(self, what: &str) -> Result<Value, E> {
        self.walk.mismatch(what, self.ty, self.go);
        Ok(Value::Null)
    }

    /// What a type that decodes itself made of the text: its canonical form, or a reason to stop.
    fn own<E: Error>(self, outcome: Result<Value, String>) -> Result<Value, E> {
        outcome.map_err(|message| {
            self.walk.fatal.get_or_insert(message);
            E::custom("stopped")
        })
    }

    fn free(&self) -> bool {
        matches!(self.ty, Type::Json | Type::Untyped | Type::Raw)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, 's> Visitor<'de> for Node<'_, 's> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<Value, E> {
        match self.ty {
            Type::Bool => Ok(Value::Bool(b)),
            Type::Quantity => self.own(leaf::quantity(if b { "true" } else { "false" })),
            _ if self.free() => Ok(Value::Bool(b)),
            _ => self.wrong("bool"),
        }
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Value, E> {
        match self.ty {
            Type::Int32 | Type::IntOrString if i32::try_from(n).is_err() => self.wrong(&format!("number {n}")),
            Type::Int32 | Type::Int64 | Type::IntOrString => Ok(n.into()),
            Type::Float64 => Ok(n.into()),
            Type::Quantity => self.own(leaf::quantity(&n.to_string())),
            _ if self.free() => Ok(n.into()),
            _ => self.wrong("number"),
        }
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Value, E> {
        match i64::try_from(n) {
            Ok(n) => self.visit_i64(n),
            Err(_) if matches!(self.ty, Type::Int32 | Type::Int64 | Type::IntOrString) => self.wrong(&format!("number {n}")),
            Err(_) => self.visit_f64(n as f64),
        }
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<Value, E> {
        match self.ty {
            Type::Float64 => Ok(n.into()),
            Type::Int32 | Type::Int64 | Type::IntOrString => self.wrong(&format!("number {n}")),
            Type::Quantity => self.own(leaf::quantity(&n.to_string())),
            _ if self.free() => Ok(n.into()),
            _ => self.wrong("number"),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        match self.ty {
            Type::String | Type::IntOrString => Ok(text.into()),
            Type::Bytes => match leaf::bytes(text) {
                Ok(value) => Ok(value),
                Err(message) => {
                    self.walk.mismatch.get_or_insert(message);
                    Ok(Value::Null)
                }
            },
            Type::Quantity => self.own(leaf::quantity(text)),
            Type::Time => self.own(leaf::time(text)),
            Type::MicroTime => self.own(leaf::micro_time(text)),
            _ if self.free() => Ok(text.into()),
            _ => self.wrong("string"),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let item = match self.ty {
            Type::List(item) => item.as_ref(),
            Type::Untyped | Type::Json | Type::Raw => self.ty,
            _ => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return if *self.ty == Type::Quantity { self.own(leaf::quantity("[")) } else { self.wrong("array") };
            }
        };
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(64));
        loop {
            self.walk.path.push(Step::Index(items.len()));
            let next = seq.next_element_seed(Node { walk: &mut *self.walk, ty: item, go: self.go })?;
            self.walk.path.pop();
            match next {
                Some(Value::Null) => items.push(zero_of(self.walk.schema, item)),
                Some(value) => items.push(value),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        match self.ty {
            Type::Struct(id) => {
                let definition = self.walk.schema.get(*id);
                structure(self.walk, definition, map)
            }
            Type::Map(item) => entries(self.walk, item, self.go, map),
            Type::Untyped | Type::Json | Type::Raw => entries(self.walk, self.ty, None, map),
            _ => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                if *self.ty == Type::Quantity { self.own(leaf::quantity("{")) } else { self.wrong("object") }
            }
        }
    }
}

fn structure<'de, 's, A: MapAccess<'de>>(walk: &mut Walk<'s>, definition: &'s Definition, mut map: A) -> Result<Value, A::Error> {
    let mut out = Map::new();
    while let Some(key) = map.next_key_seed(FieldName(definition))? {
        match key {
            Key::Declared(field) => {
                walk.path.push(Step::Field(definition, field));
                let value = map.next_value_seed(Node { walk: &mut *walk, ty: &field.ty, go: field.go.as_deref() })?;
                walk.path.pop();
                if !value.is_null() && out.insert(field.name.to_string(), value).is_some() {
                    walk.object("duplicate", &field.name);
                }
            }
            Key::Unknown(name) if definition.open => {
                walk.path.push(Step::Key(name.clone()));
                let value = map.next_value_seed(Node { walk: &mut *walk, ty: &Type::Untyped, go: None })?;
                walk.path.pop();
                out.insert(name, value);
            }
            Key::Unknown(name) => {
                walk.object("unknown", &name);
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    Ok(Value::Object(out))
}

fn entries<'de, 's, A: MapAccess<'de>>(walk: &mut Walk<'s>, item: &Type, go: Option<&'s str>, mut map: A) -> Result<Value, A::Error> {
    let free = matches!(item, Type::Untyped | Type::Json | Type::Raw);
    let mut out = Map::new();
    while let Some(key) = map.next_key::<String>()? {
        walk.path.push(Step::Key(key));
        let value = map.next_value_seed(Node { walk: &mut *walk, ty: item, go })?;
        let Some(Step::Key(key)) = walk.path.pop() else { unreachable!("the key was pushed above, and what is pushed is popped") };
        let value = if value.is_null() && !free { zero_of(walk.schema, item) } else { value };
        if out.contains_key(&key) {
            walk.object("duplicate", &key);
        }
        out.insert(key, value);
    }
    Ok(Value::Object(out))
}

/// Looks a field up without copying its name.
struct FieldName<'s>(&'s Definition);

enum Key<'s> {
    Declared(&'s Field),
    Unknown(String),
}

impl<'de, 's> DeserializeSeed<'de> for FieldName<'s> {
    type Value = Key<'s>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key<'s>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for FieldName<'s> {
    type Value = Key<'s>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Key<'s>, E> {
        Ok(self.0.field(name).map_or_else(|| Key::Unknown(name.to_owned()), Key::Declared))
    }
}
