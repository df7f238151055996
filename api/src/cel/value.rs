//! The values that expressions are evaluated over. JSON is read where it lies: only what an expression looks at is ever turned into values.

use super::types::{ListKind, Type};
use crate::quantity::Quantity;
use base64::Engine as _;
use indexmap::IndexMap;
use k8s_openapi::jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A text, in JSON or made by the expression.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// As it stands in the JSON.
    Borrowed(&'a str),
    /// Made.
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// An address in it.
    pub address: IpAddr,
    /// How many leading bits they share.
    pub bits: u8,
}

/// A URL, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// The whole text.
    pub text: String,
    /// `https`.
    pub scheme: String,
    /// `host:port`.
    pub host: String,
    /// `/a%20b`.
    pub path: String,
    /// The query's pairs.
    pub query: Vec<(String, String)>,
}

/// A semantic version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    /// Major, minor and patch.
    pub numbers: [u64; 3],
    /// What follows `-`.
    pub pre: Vec<String>,
    /// What follows `+`.
    pub build: String,
}

/// A value whose meaning is the caller's: an authorizer, variables that are worked out when asked for.
pub trait Opaque: Send + Sync {
    /// The type's name, as the environment declared it.
    fn type_name(&self) -> &'static str;
    /// `value.name`; `None` if it has no such field.
    fn field(&self, name: &str) -> Option<Result<Val<'static>, EvalError>> {
        let _ = name;
        None
    }
    /// `value.function(arguments)`; `None` if it has no such function.
    fn call(&self, function: &str, arguments: &[Val<'_>]) -> Option<Result<Val<'static>, EvalError>> {
        let _ = (function, arguments);
        None
    }
}

/// Why an evaluation came to no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// It cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// As the text says: `no such key: x`, `division by zero`, ...
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    /// No function takes these arguments.
    pub(crate) fn no_overload() -> Self {
        EvalError::Failed("no such overload".into())
    }

    pub(crate) fn no_key(key: impl fmt::Display) -> Self {
        EvalError::Failed(format!("no such key: {key}"))
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// As it stands in the JSON, with its type.
    Json(&'a [Value], &'a Type),
    /// Made.
    Made(Arc<Vec<Val<'a>>>),
}

/// A map or an object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// As it stands in the JSON, with its type.
    Json(&'a serde_json::Map<String, Value>, &'a Type),
    /// Made; with the name of the type it was made as, if it is an object.
    Made(Arc<IndexMap<Key, Val<'a>>>, Option<Arc<str>>),
}

/// A key of a made map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say it.
pub enum Key {
    Bool(bool),
    Int(i64),
    String(Arc<str>),
}

/// A value.
#[derive(Clone)]
#[allow(missing_docs)] // The names say it.
pub enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    List(List<'a>),
    Map(Map<'a>),
    Type(Arc<str>),
    Optional(Option<Arc<Val<'a>>>),
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(Cidr),
    Url(Arc<Url>),
    Semver(Arc<Semver>),
    /// A named format.
    Format(&'static str),
    Opaque(Arc<dyn Opaque>),
}

impl fmt::Debug for Val<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.type_name(), self.to_json())
    }
}

static DYN: Type = Type::DYN;

impl<'a> Val<'a> {
    /// A made text.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Val::String(Text::Shared(text.into()))
    }

    /// A made list.
    pub fn list(items: Vec<Val<'a>>) -> Self {
        Val::List(List::Made(Arc::new(items)))
    }

    /// A value that is there.
    pub fn some(value: Val<'a>) -> Self {
        Val::Optional(Some(Arc::new(value)))
    }

    /// JSON of which no type is known.
    pub fn json(value: &'a Value) -> Self {
        Self::typed(value, &DYN)
    }

    /// JSON of a declared type: dates, durations and bytes are read as such.
    pub fn typed(value: &'a Value, ty: &'a Type) -> Self {
        match (value, ty) {
            (Value::Null, _) => Val::Null,
            (Value::Bool(b), _) => Val::Bool(*b),
            (Value::Number(n), Type::Double) => Val::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Value::Number(n), _) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Val::Int(n),
                (None, Some(f)) if matches!(ty, Type::Int) && f.fract() == 0.0 => Val::Int(f as i64),
                (None, f) => Val::Double(f.unwrap_or(f64::NAN)),
            },
            (Value::String(s), Type::Bytes(_)) => match base64::engine::general_purpose::STANDARD.decode(s) {
                Ok(bytes) => Val::Bytes(bytes.into()),
                Err(_) => Val::String(Text::Borrowed(s)),
            },
            (Value::String(s), Type::Timestamp(_)) => parse_time(s).map_or(Val::String(Text::Borrowed(s)), Val::Timestamp),
            (Value::String(s), Type::Duration(_)) => {
                super::functions::time::parse_duration(s).map_or(Val::String(Text::Borrowed(s)), Val::Duration)
            }
            (Value::String(s), _) => Val::String(Text::Borrowed(s)),
            (Value::Array(items), Type::List(_)) => Val::List(List::Json(items, ty)),
            (Value::Array(items), _) => Val::List(List::Json(items, &DYN)),
            (Value::Object(fields), Type::Object(_) | Type::Map(_)) => Val::Map(Map::Json(fields, ty)),
            (Value::Object(fields), _) => Val::Map(Map::Json(fields, &DYN)),
        }
    }

    /// As JSON; what JSON has no form for is written as text.
    pub fn to_json(&self) -> Value {
        match self {
            Val::Null | Val::Opaque(_) => Value::Null,
            Val::Bool(b) => (*b).into(),
            Val::Int(n) => (*n).into(),
            Val::Uint(n) => (*n).into(),
            Val::Double(n) if n.fract() == 0.0 && n.abs() < 1e15 => (*n as i64).into(),
            Val::Double(n) => (*n).into(),
            Val::String(s) => (**s).into(),
            Val::Bytes(b) => base64::engine::general_purpose::STANDARD.encode(b).into(),
            Val::Timestamp(t) => t.to_string().into(),
            Val::Duration(d) => super::functions::time::show_duration(*d).into(),
            Val::List(List::Json(items, _)) => Value::Array(items.to_vec()),
            Val::List(List::Made(items)) => items.iter().map(Val::to_json).collect(),
            Val::Map(Map::Json(fields, _)) => Value::Object((*fields).clone()),
            Val::Map(Map::Made(entries, _)) => Value::Object(entries.iter().map(|(k, v)| (k.to_string(), v.to_json())).collect()),
            Val::Type(name) => (**name).into(),
            Val::Optional(value) => value.as_ref().map_or(Value::Null, |v| v.to_json()),
            Val::Quantity(q) => q.to_string().into(),
            Val::Ip(ip) => ip.to_string().into(),
            Val::Cidr(c) => format!("{}/{}", c.address, c.bits).into(),
            Val::Url(url) => url.text.as_str().into(),
            Val::Semver(v) => v.to_string().into(),
            Val::Format(name) => (*name).into(),
        }
    }

    /// The name of its type, as `type(value)` gives it.
    pub fn type_name(&self) -> &str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::String(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::List(_) => "list",
            Val::Map(Map::Made(_, Some(name))) => name,
            Val::Map(_) => "map",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Ip(_) => "net.IP",
            Val::Cidr(_) => "net.CIDR",
            Val::Url(_) => "kubernetes.URL",
            Val::Semver(_) => "kubernetes.Semver",
            Val::Format(_) => "kubernetes.NamedFormat",
            Val::Opaque(value) => value.type_name(),
        }
    }

    /// What `size()` says of it, and 1 of what has none.
    pub(crate) fn size(&self) -> u64 {
        let size = match self {
            Val::String(s) => s.chars().count(),
            Val::Bytes(b) => b.len(),
            Val::List(list) => list.len(),
            Val::Map(map) => map.len(),
            Val::Ip(ip) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Val::Cidr(c) => {
                if c.address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => 1,
        };
        size as u64
    }

    /// Whether two values are equal: numbers by their amount, whatever their types; lists that are sets, whatever their order.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        match (self, other) {
            (Val::List(a), Val::List(b)) => a.equals(b),
            (Val::Map(a), Val::Map(b)) => {
                a.len() == b.len() && a.entries().all(|(key, value)| b.get(&key).is_some_and(|other| value.equals(&other)))
            }
            (Val::Null, Val::Null) => true,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a == b,
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Val::Quantity(a), Val::Quantity(b)) => a == b,
            (Val::Ip(a), Val::Ip(b)) => a == b,
            (Val::Cidr(a), Val::Cidr(b)) => a == b,
            (Val::Url(a), Val::Url(b)) => a.text == b.text,
            (Val::Semver(a), Val::Semver(b)) => a.compare(b).is_eq(),
            (Val::Format(a), Val::Format(b)) => a == b,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values that have one.
    pub fn compare(&self, other: &Val<'_>) -> Option<Ordering> {
        let whole = |v: &Val<'_>| match v {
            Val::Int(n) => Some(i128::from(*n)),
            Val::Uint(n) => Some(i128::from(*n)),
            _ => None,
        };
        match (self, other) {
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::String(a), Val::String(b)) => Some((**a).cmp(&**b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Double(a), b) => a.partial_cmp(&(whole(b)? as f64)),
            (a, Val::Double(b)) => (whole(a)? as f64).partial_cmp(b),
            (a, b) => Some(whole(a)?.cmp(&whole(b)?)),
        }
    }

    /// As a key of a map, if it can be one.
    pub(crate) fn key(&self) -> Option<Key> {
        Some(match self {
            Val::Bool(b) => Key::Bool(*b),
            Val::Int(n) => Key::Int(*n),
            Val::Uint(n) => Key::Int(i64::try_from(*n).ok()?),
            Val::Double(n) if n.fract() == 0.0 => Key::Int(*n as i64),
            Val::String(s) => Key::String((**s).into()),
            _ => return None,
        })
    }
}

/// A time as schemas have them: with a date, or a date alone.
fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| text.parse::<civil::Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp()))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Bool(b) => write!(f, "{b}"),
            Key::Int(n) => write!(f, "{n}"),
            Key::String(s) => f.write_str(s),
        }
    }
}

impl Key {
    /// As a value.
    pub fn value(&self) -> Val<'static> {
        match self {
            Key::Bool(b) => Val::Bool(*b),
            Key::Int(n) => Val::Int(*n),
            Key::String(s) => Val::String(Text::Shared(s.clone())),
        }
    }
}

impl<'a> List<'a> {
    /// How many items it has.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Made(items) => items.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at `index`.
    pub fn get(&self, index: usize) -> Option<Val<'a>> {
        match self {
            List::Json(items, ty) => Some(Val::typed(items.get(index)?, item_type(ty))),
            List::Made(items) => items.get(index).cloned(),
        }
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = Val<'a>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    fn kind(&self) -> &ListKind {
        match self {
            List::Json(_, Type::List(list)) => &list.kind,
            _ => &ListKind::Atomic,
        }
    }

    fn equals(&self, other: &List<'_>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match self.kind() {
            ListKind::Atomic => self.iter().zip(other.iter()).all(|(a, b)| a.equals(&b)),
            _ => self.iter().all(|a| other.iter().any(|b| a.equals(&b))),
        }
    }

    /// `self + other`: for sets and keyed lists, what is in either, the later one's items in the places of those they replace.
    pub(crate) fn concatenate(&self, other: &List<'a>) -> List<'a> {
        let mut items: Vec<Val<'a>> = self.iter().collect();
        let same = |a: &Val<'_>, b: &Val<'_>| match self.kind() {
            ListKind::Atomic => false,
            ListKind::Set => a.equals(b),
            ListKind::Map(keys) => keys.iter().all(|key| match (a, b) {
                (Val::Map(a), Val::Map(b)) => match (a.field(key), b.field(key)) {
                    (Some(a), Some(b)) => a.equals(&b),
                    (a, b) => a.is_none() && b.is_none(),
                },
                _ => false,
            }),
        };
        for item in other.iter() {
            match items.iter().position(|present| same(present, &item)) {
                Some(at) => items[at] = item,
                None => items.push(item),
            }
        }
        List::Made(Arc::new(items))
    }
}

fn item_type(ty: &Type) -> &Type {
    match ty {
        Type::List(list) => &list.item,
        _ => &DYN,
    }
}

impl<'a> Map<'a> {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(fields, _) => fields.len(),
            Map::Made(entries, _) => entries.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under a key.
    pub fn get(&self, key: &Key) -> Option<Val<'a>> {
        match (self, key) {
            (Map::Json(..), Key::String(name)) => self.field(name),
            (Map::Json(..), _) => None,
            (Map::Made(entries, _), key) => entries.get(key).cloned(),
        }
    }

    /// The value of a field, by the name that expressions use.
    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Map::Json(fields, Type::Object(object)) => {
                let field = object.fields.get(name).or_else(|| object.fields.get(&super::escape(name)?))?;
                Some(Val::typed(fields.get(&field.json)?, &field.ty))
            }
            Map::Json(fields, Type::Map(map)) => Some(Val::typed(fields.get(name)?, &map.value)),
            Map::Json(fields, _) => match fields.get(name) {
                Some(value) => Some(Val::json(value)),
                None => Some(Val::json(fields.get(&super::unescape(name)?)?)),
            },
            Map::Made(entries, _) => entries.get(&Key::String(name.into())).cloned(),
        }
    }

    /// Its keys; of an object, those of its fields that are declared.
    pub fn keys(&self) -> Vec<Key> {
        match self {
            Map::Json(fields, Type::Object(object)) => object
                .fields
                .iter()
                .filter(|(_, f)| fields.contains_key(&f.json))
                .map(|(name, _)| Key::String(name.as_str().into()))
                .collect(),
            Map::Json(fields, _) => fields.keys().map(|k| Key::String(k.as_str().into())).collect(),
            Map::Made(entries, _) => entries.keys().cloned().collect(),
        }
    }

    /// Its entries.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Val<'a>)> + '_ {
        self.keys().into_iter().filter_map(|key| Some((key.clone(), self.get(&key)?)))
    }
}
