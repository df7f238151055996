//! A schema as the arena of definitions that field ownership works with (upstream: `managedfields.NewTypeConverter`). Everything that no schema
//! declares is kept; metadata is that of every object.

use super::{Additional, Structural};
use crate::openapi::OBJECT_META;
use crate::schema::{Definition, Field, Id, Presence, Relation, Root, Schema, Strategy, Text, Type};
use std::sync::LazyLock;

const PACKAGE: &str = "custom";

/// The arena, and the definition of the whole object in it. Without a schema, every field has an owner of its own.
pub fn arena(schema: Option<&Structural>) -> (Schema, Id) {
    let mut arena = Schema::default();
    let mut count = 0;
    let fields = whole(&mut arena, schema, &mut count);
    let mut root = Definition::new(PACKAGE.into(), "Root".into(), false, fields);
    root.open = schema.is_none_or(keeps);
    let id = arena.insert(root);
    (arena, id)
}

/// The fields of a whole object, the root or one that is embedded: type and metadata are those of every object, whatever the schema says of them.
fn whole(arena: &mut Schema, schema: Option<&Structural>, count: &mut usize) -> Vec<Field> {
    let metadata = import(arena, OBJECT_META);
    let mut fields = vec![
        plain("apiVersion", Type::String),
        plain("kind", Type::String),
        Field { ty: metadata, pointer: false, ..plain("metadata", Type::Untyped) },
    ];
    for (name, property) in schema.into_iter().flat_map(|s| &s.properties) {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            fields.push(field(arena, name, property, count));
        }
    }
    fields
}

/// Whether fields that the schema does not declare are kept.
fn keeps(schema: &Structural) -> bool {
    schema.preserve_unknown || matches!(schema.additional, Additional::Bool(true))
}

fn plain(name: &str, ty: Type) -> Field {
    Field {
        name: name.to_owned().into(),
        ty,
        pointer: true,
        presence: Presence::OmitEmpty,
        required: false,
        relation: Relation::Default,
        strategy: Strategy::default(),
        default: None,
        go: None,
    }
}

/// Takes over a built-in type, and what it refers to.
fn import(arena: &mut Schema, name: &str) -> Type {
    let Some(root) = crate::schema::find(name) else { return Type::Untyped };
    if let Some(id) = arena.id(name) {
        return Type::Struct(id);
    }
    let definition = root.definition();
    let fields: Vec<Field> = definition.fields.iter().map(|f| Field { ty: imported(arena, &f.ty), ..f.clone() }).collect();
    let mut copy = Definition::new(definition.package.clone(), definition.name.clone(), definition.atomic, fields);
    copy.open = definition.open;
    Type::Struct(arena.insert(copy))
}

fn imported(arena: &mut Schema, ty: &Type) -> Type {
    match ty {
        Type::List(item) => Type::List(Box::new(imported(arena, item))),
        Type::Map(item) => Type::Map(Box::new(imported(arena, item))),
        Type::Struct(id) => {
            let name = crate::schema::builtin().get(*id).full_name();
            import(arena, &name)
        }
        other => other.clone(),
    }
}

fn field(arena: &mut Schema, name: &str, schema: &Structural, count: &mut usize) -> Field {
    let relation = match (schema.ty.as_str(), schema.list_type.as_str(), schema.map_type.as_str()) {
        ("array", "set", _) => Relation::Set,
        ("array", "map", _) => Relation::Map(schema.list_map_keys.iter().map(|k| Text::Owned(k.clone())).collect()),
        ("array", ..) | ("object", _, "atomic") => Relation::Atomic,
        _ => Relation::Default,
    };
    Field { ty: ty(arena, schema, count), relation, default: schema.default.clone(), ..plain(name, Type::Untyped) }
}

fn ty(arena: &mut Schema, schema: &Structural, count: &mut usize) -> Type {
    match schema.ty.as_str() {
        "array" => match schema.items.as_deref() {
            Some(items) => Type::List(Box::new(ty(arena, items, count))),
            None => Type::Untyped,
        },
        "object" => match &schema.additional {
            Additional::Schema(values) => Type::Map(Box::new(ty(arena, values, count))),
            _ if schema.properties.is_empty() && !schema.embedded => Type::Untyped,
            _ => {
                *count += 1;
                let name = format!("T{count}");
                let fields = match schema.embedded {
                    true => whole(arena, Some(schema), count),
                    false => schema.properties.iter().map(|(name, p)| field(arena, name, p, count)).collect(),
                };
                let mut definition = Definition::new(PACKAGE.into(), name.into(), schema.map_type == "atomic", fields);
                definition.open = keeps(schema);
                Type::Struct(arena.insert(definition))
            }
        },
        // Scalars are leaves whatever they are; what has no type may be anything.
        "" if !schema.int_or_string => Type::Untyped,
        _ => Type::Json,
    }
}

/// The root along which every custom resource is decoded: type and metadata as all objects have them, anything besides.
pub fn decoding_root() -> Root<'static> {
    static GENERIC: LazyLock<(Schema, Id)> = LazyLock::new(|| arena(None));
    Root { schema: &GENERIC.0, id: GENERIC.1 }
}
