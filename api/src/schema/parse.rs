//! Reads the schema table. The table is part of this crate, so a line that cannot be read is a bug and panics in the first test that touches it.

use super::{Definition, Field, Presence, Relation, Schema, Strategy, Type};
use serde_json::Value;

/// The whole table.
pub(super) fn parse(table: &'static str) -> Schema {
    let mut schema = Schema::default();
    let (mut package, mut open) = ("", None::<(&'static str, bool, Vec<Field>)>);
    for line in table.lines() {
        if let Some(field) = line.strip_prefix(' ') {
            let field = read_field(&mut schema, package, field);
            open.as_mut().expect("a field stands below a type").2.push(field);
            continue;
        }
        close(&mut schema, package, open.take());
        match line.strip_prefix("package ") {
            Some(name) => package = name,
            None => {
                let (name, flags) = line.split_once(' ').unwrap_or((line, ""));
                open = Some((name, flags == "atomic", Vec::new()));
            }
        }
    }
    close(&mut schema, package, open);
    schema
}

fn close(schema: &mut Schema, package: &'static str, open: Option<(&'static str, bool, Vec<Field>)>) {
    if let Some((name, atomic, fields)) = open {
        schema.insert(Definition::new(package.into(), name.into(), atomic, fields));
    }
}

fn read_field(schema: &mut Schema, package: &str, line: &'static str) -> Field {
    let mut words = line.split(' ');
    let (name, ty) = (words.next().unwrap_or_default(), words.next().expect("a field has a type"));
    let pointer = ty.starts_with('*');
    let mut field = Field {
        name: name.into(),
        ty: read_type(schema, package, ty.trim_start_matches('*')),
        pointer,
        presence: Presence::OmitEmpty,
        required: false,
        relation: Relation::Default,
        strategy: Strategy::default(),
        default: None,
        go: None,
    };
    for flag in words {
        match flag.split_once('=').map_or((flag, None), |(k, v)| (k, Some(v))) {
            ("always", _) => field.presence = Presence::Always,
            ("omitzero", _) => field.presence = Presence::OmitZero,
            ("required", _) => field.required = true,
            ("atomic", _) => field.relation = Relation::Atomic,
            ("set", _) => field.relation = Relation::Set,
            ("map", Some(keys)) => field.relation = Relation::Map(keys.split(',').map(Into::into).collect()),
            ("merge", key) => {
                field.strategy.merge = true;
                field.strategy.key = key.map(Into::into);
            }
            ("replace", _) => field.strategy.replace = true,
            ("retainKeys", _) => field.strategy.retain_keys = true,
            ("default", Some(value)) => field.default = Some(Value::String(value.trim_matches('"').into())),
            ("go", name) => field.go = name.map(Into::into),
            _ => panic!("schema table: unknown flag {flag} of {name}"),
        }
    }
    field
}

fn read_type(schema: &mut Schema, package: &str, text: &str) -> Type {
    if let Some(item) = text.strip_prefix("[]") {
        return Type::List(Box::new(read_type(schema, package, item)));
    }
    if let Some(item) = text.strip_prefix("{}") {
        return Type::Map(Box::new(read_type(schema, package, item)));
    }
    match text {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "float64" => Type::Float64,
        "bytes" => Type::Bytes,
        "quantity" => Type::Quantity,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "intorstring" => Type::IntOrString,
        "raw" => Type::Raw,
        "json" => Type::Json,
        name if name.contains('.') => Type::Struct(schema.reserve(name.to_owned())),
        name => Type::Struct(schema.reserve(format!("{package}.{name}"))),
    }
}
