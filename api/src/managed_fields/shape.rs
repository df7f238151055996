//! How server-side apply sees a value: as something owned as a whole, or as something whose parts have owners of their own.

use super::set::{Node, Set, field_element, key_element, show_element};
use crate::schema::{Definition, Field, Relation, Schema, Type};
use serde_json::{Map, Value};

/// A place in an object: the type that stands there, and how its items relate.
#[derive(Clone, Copy)]
pub(super) struct Place<'s> {
    pub ty: &'s Type,
    pub relation: &'s Relation,
}

/// What a value at a place is.
pub(super) enum Shape<'s> {
    /// Owned as a whole: scalars and everything atomic.
    Leaf,
    Struct(&'s Definition),
    /// A map, with the place of its values.
    Map(Place<'s>),
    /// A list whose items have identities, with the place of its items and how they are identified.
    List(Place<'s>, &'s Relation),
}

static UNTYPED: Type = Type::Untyped;
static JSON: Type = Type::Json;
static DEFAULT: Relation = Relation::Default;

impl<'s> Place<'s> {
    pub fn of(ty: &'s Type) -> Self {
        Place { ty, relation: &DEFAULT }
    }

    /// The shape here; `value` decides only where the schema says nothing.
    pub fn shape(self, schema: &'s Schema, value: Option<&Value>) -> Shape<'s> {
        match (self.ty, self.relation) {
            (Type::Struct(id), relation) => {
                let definition = schema.get(*id);
                if definition.atomic || *relation == Relation::Atomic { Shape::Leaf } else { Shape::Struct(definition) }
            }
            (Type::Map(_), Relation::Atomic) => Shape::Leaf,
            (Type::Map(item), _) => Shape::Map(Place::of(item)),
            (Type::List(item), relation @ (Relation::Set | Relation::Map(_))) => Shape::List(Place::of(item), relation),
            (Type::Untyped, _) if value.is_some_and(Value::is_object) => Shape::Map(Place::of(&UNTYPED)),
            _ => Shape::Leaf,
        }
    }
}

/// The place of a struct's field.
pub(super) fn member<'s>(definition: &'s Definition, name: &str) -> Place<'s> {
    match definition.field(name) {
        Some(Field { ty, relation, .. }) => Place { ty, relation },
        None => Place::of(if definition.open { &UNTYPED } else { &JSON }),
    }
}

/// The place of a member of a struct or map.
pub(super) fn below<'s>(shape: &Shape<'s>, name: &str) -> Place<'s> {
    match shape {
        Shape::Struct(definition) => member(definition, name),
        Shape::Map(item) | Shape::List(item, _) => *item,
        Shape::Leaf => Place::of(&JSON),
    }
}

/// What identifies a list item. The error is the key that it lacks.
pub(super) fn element<'s>(schema: &'s Schema, item: Place<'s>, relation: &'s Relation, value: &Value) -> Result<Box<str>, &'s str> {
    let Relation::Map(keys) = relation else { return Ok(format!("v:{value}").into()) };
    let mut pairs: Vec<(&str, &Value)> = Vec::with_capacity(keys.len());
    for key in keys {
        let default = || {
            let Type::Struct(id) = item.ty else { return None };
            schema.get(*id).field(key)?.default.as_ref()
        };
        match value.get(key.as_ref()).or_else(default) {
            Some(value) => pairs.push((key, value)),
            None => return Err(key),
        }
    }
    pairs.sort_unstable_by_key(|(k, _)| *k);
    Ok(key_element(pairs.into_iter()))
}

/// The same for objects that are stored already: an item without its key is told apart by the keys it has.
pub(super) fn lenient_element<'s>(schema: &'s Schema, item: Place<'s>, relation: &'s Relation, value: &Value) -> Box<str> {
    element(schema, item, relation, value).unwrap_or_else(|_| format!("v:{value}").into())
}

/// Every field that a value sets: what its applier owns.
pub(super) fn field_set(schema: &Schema, place: Place<'_>, value: &Value) -> Node {
    let shape = place.shape(schema, Some(value));
    let mut node = Node::default();
    match (&shape, value) {
        (Shape::Leaf, _) => node.member = true,
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let mut child = field_set(schema, below(&shape, name), value);
                let declared = matches!(&shape, Shape::Struct(d) if d.field(name).is_some());
                child.member |= !declared || value.is_null() || value.as_object().is_some_and(Map::is_empty);
                node.children.put(field_element(name), child);
            }
        }
        (Shape::List(item, relation), Value::Array(items)) => {
            for value in items {
                let mut child = field_set(schema, *item, value);
                child.member = true;
                node.children.put(lenient_element(schema, *item, relation, value), child);
            }
        }
        _ => {}
    }
    node
}

/// Why a configuration cannot be applied: `.spec.ports: duplicate entries for key [port=80,protocol="TCP"]`.
pub(super) fn check(schema: &Schema, place: Place<'_>, value: &Value, path: &str, wrong: &mut Vec<String>) {
    let shape = place.shape(schema, Some(value));
    match (&shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                match &shape {
                    Shape::Struct(d) if !d.open && d.field(name).is_none() => wrong.push(format!("{path}: field not declared in schema")),
                    _ => check(schema, below(&shape, name), value, &path, wrong),
                }
            }
        }
        (Shape::List(item, relation), Value::Array(items)) => {
            let mut seen = Set::default();
            for (i, value) in items.iter().enumerate() {
                let element = match element(schema, *item, relation, value) {
                    Ok(element) => element,
                    Err(key) => {
                        wrong.push(format!("{path}: element {i}: associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"));
                        continue;
                    }
                };
                if seen.get(&element).is_some() {
                    wrong.push(format!("{path}: duplicate entries for key {}", show_element(&element)));
                }
                check(schema, *item, value, &format!("{path}{}", show_element(&element)), wrong);
                seen.put(element, Node { member: true, children: Set::default() });
            }
        }
        _ => {}
    }
}

/// Adds every named field that something below it is in the set: owning a part of a struct's field, one owns that the field is there.
pub(super) fn with_named_fields(schema: &Schema, place: Place<'_>, set: &Set) -> Set {
    let shape = place.shape(schema, None);
    let mut out = set.clone();
    for (element, node) in out.iter_mut() {
        let inner = match element.split_once(':') {
            Some(("f", name)) => {
                node.member |= matches!(&shape, Shape::Struct(d) if d.field(name).is_some());
                below(&shape, name)
            }
            _ => below(&shape, ""),
        };
        node.children = with_named_fields(schema, inner, &node.children);
    }
    out
}
