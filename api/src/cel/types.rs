//! The types of CEL as Kubernetes declares them: the language's own, those of its libraries, and objects whose fields come from a schema.
//!
//! A declared type also says how large its values may be (upstream: `apiserver/pkg/cel/types.go`, `MaxElements`); the worst case of an expression's cost
//! is estimated from that. Sizes never take part in whether two types are the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The largest number of elements of a value whose size nothing bounds.
pub const UNBOUNDED: u64 = u64::MAX;

/// A type.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names say it; the number is the largest size.
pub enum Type {
    Dyn(u64),
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String(u64),
    Bytes(u64),
    Timestamp(u64),
    Duration(u64),
    List(Arc<ListType>),
    Map(Arc<MapType>),
    Object(Arc<ObjectType>),
    Optional(Arc<Type>),
    /// The type of types.
    Type,
    /// A type of a library: `kubernetes.Quantity`, ...
    Opaque(&'static str),
    /// A type that the checker has yet to find, or a parameter of a declared function.
    Var(u32),
}

/// How the items of a list relate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// By their place.
    #[default]
    Atomic,
    /// They are a set: their order does not count.
    Set,
    /// They have these keys: their order does not count.
    Map(Vec<String>),
}

/// A list.
#[derive(Clone, Debug)]
pub struct ListType {
    /// Of what.
    pub item: Type,
    /// How its items relate.
    pub kind: ListKind,
    /// Of how many at most.
    pub max: u64,
}

/// A map.
#[derive(Clone, Debug)]
pub struct MapType {
    /// From what.
    pub key: Type,
    /// To what.
    pub value: Type,
    /// Of how many at most.
    pub max: u64,
}

/// An object with declared fields.
#[derive(Clone, Debug, Default)]
pub struct ObjectType {
    /// What error messages call it.
    pub name: String,
    /// Its fields by the name that expressions use.
    pub fields: BTreeMap<String, Field>,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON, where that is no identifier.
    pub json: String,
    /// Its type.
    pub ty: Type,
}

impl Type {
    /// Any value.
    pub const DYN: Type = Type::Dyn(UNBOUNDED);
    /// A string of any length.
    pub const STRING: Type = Type::String(UNBOUNDED);
    /// Bytes of any length.
    pub const BYTES: Type = Type::Bytes(UNBOUNDED);
    /// A point in time.
    pub const TIMESTAMP: Type = Type::Timestamp(UNBOUNDED);
    /// A span of time.
    pub const DURATION: Type = Type::Duration(UNBOUNDED);

    /// A list of any length.
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(ListType { item, kind: ListKind::Atomic, max: UNBOUNDED }))
    }

    /// A map of any size.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(MapType { key, value, max: UNBOUNDED }))
    }

    /// A value that may be missing.
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    /// An object with these fields, named as in JSON; names that are no identifiers are escaped.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Type {
        let fields = fields.into_iter().filter_map(|(json, ty)| Some((super::escape(&json)?, Field { json, ty })));
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: fields.collect() }))
    }

    /// Whether it is known only when the expression is evaluated.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn(_))
    }

    /// How large a declared value of it may be; scalars have no size.
    pub(crate) fn max_elements(&self) -> u64 {
        match self {
            Type::Dyn(max) | Type::String(max) | Type::Bytes(max) | Type::Timestamp(max) | Type::Duration(max) => *max,
            Type::List(list) => list.max,
            Type::Map(map) => map.max,
            _ => 0,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn(_) => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String(_) => f.write_str("string"),
            Type::Bytes(_) => f.write_str("bytes"),
            Type::Timestamp(_) => f.write_str("timestamp"),
            Type::Duration(_) => f.write_str("duration"),
            Type::List(list) => write!(f, "list({})", list.item),
            Type::Map(map) => write!(f, "map({}, {})", map.key, map.value),
            Type::Object(object) => f.write_str(&object.name),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::Type => f.write_str("type"),
            Type::Opaque(name) => f.write_str(name),
            Type::Var(_) => f.write_str("dyn"),
        }
    }
}
