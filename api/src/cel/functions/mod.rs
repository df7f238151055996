//! What functions do. Arguments come with the target first; the checker has seen to types, except where a value's was not known.

pub mod formats;
mod lists;
mod network;
mod quantities;
mod semver;
mod strings;
pub mod time;

use super::value::{EvalError, Key, Map, Text, Val};
use regex::Regex;
use std::sync::Arc;

type Outcome<'a> = Result<Val<'a>, EvalError>;

pub(super) fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(message.into()))
}

/// Calls a function.
pub(super) fn call<'a>(name: &str, method: bool, values: &[Val<'a>], regex: Option<&Regex>) -> Outcome<'a> {
    if let Some(outcome) = operator(name, values) {
        return outcome;
    }
    if let Some(outcome) = library(name, values) {
        return outcome;
    }
    let outcome = match values.first() {
        Some(Val::String(text)) => strings::call(name, text, values, regex),
        Some(Val::List(list)) => lists::call(name, list, &values[1..]),
        Some(Val::Timestamp(_) | Val::Duration(_)) if method => time::call(name, &values[0], &values[1..]),
        Some(Val::Quantity(_)) => quantities::call(name, values),
        Some(Val::Ip(_) | Val::Cidr(_) | Val::Url(_)) => network::call(name, values),
        Some(Val::Semver(_)) => semver::call(name, values),
        Some(Val::Format(format)) if name == "validate" => formats::validate(format, &values[1..]),
        Some(Val::Optional(value)) if name == "hasValue" => Some(Ok(Val::Bool(value.is_some()))),
        Some(Val::Optional(value)) if name == "value" => Some(match value {
            Some(value) => Ok((**value).clone()),
            None => failed("optional.none() dereference"),
        }),
        _ => None,
    };
    outcome.or_else(|| conversion(name, values)).unwrap_or_else(|| Err(EvalError::no_overload()))
}

fn operator<'a>(name: &str, values: &[Val<'a>]) -> Option<Outcome<'a>> {
    let order = |wanted: fn(std::cmp::Ordering) -> bool| match values[0].compare(&values[1]) {
        Some(order) => Ok(Val::Bool(wanted(order))),
        None if matches!((&values[0], &values[1]), (Val::Double(_), _) | (_, Val::Double(_))) => Ok(Val::Bool(false)),
        None => Err(EvalError::no_overload()),
    };
    Some(match (name, values) {
        ("_==_", [a, b]) => Ok(Val::Bool(a.equals(b))),
        ("_!=_", [a, b]) => Ok(Val::Bool(!a.equals(b))),
        ("_<_", [_, _]) => order(std::cmp::Ordering::is_lt),
        ("_<=_", [_, _]) => order(std::cmp::Ordering::is_le),
        ("_>_", [_, _]) => order(std::cmp::Ordering::is_gt),
        ("_>=_", [_, _]) => order(std::cmp::Ordering::is_ge),
        ("!_", [Val::Bool(b)]) => Ok(Val::Bool(!b)),
        ("-_", [Val::Int(n)]) => whole(n.checked_neg()),
        ("-_", [Val::Double(n)]) => Ok(Val::Double(-n)),
        ("_+_", [a, b]) => add(a, b),
        ("_-_" | "_*_" | "_/_" | "_%_", [a, b]) => arithmetic(name, a, b),
        ("@in", [item, Val::List(list)]) => Ok(Val::Bool(list.iter().any(|i| i.equals(item)))),
        ("@in", [key, Val::Map(map)]) => Ok(Val::Bool(key.key().is_some_and(|k| map.get(&k).is_some()))),
        ("@map_insert", [Val::Map(map), key, value]) => insert(map, key.key(), value),
        ("@map_insert", [Val::Map(map), Val::Map(more)]) => {
            let mut entries: indexmap::IndexMap<Key, Val<'a>> = map.entries().collect();
            entries.extend(more.entries());
            Ok(Val::Map(Map::Made(Arc::new(entries), None)))
        }
        _ => return None,
    })
}

fn insert<'a>(map: &Map<'a>, key: Option<Key>, value: &Val<'a>) -> Outcome<'a> {
    let Some(key) = key else { return failed("unsupported key type") };
    let mut entries: indexmap::IndexMap<Key, Val<'a>> = map.entries().collect();
    if entries.insert(key.clone(), value.clone()).is_some() {
        return failed(format!("insert failed: key {key} already exists"));
    }
    Ok(Val::Map(Map::Made(Arc::new(entries), None)))
}

fn whole<'a>(n: Option<i64>) -> Outcome<'a> {
    n.map_or_else(|| failed("return error for overflow"), |n| Ok(Val::Int(n)))
}

fn natural<'a>(n: Option<u64>) -> Outcome<'a> {
    n.map_or_else(|| failed("return error for overflow"), |n| Ok(Val::Uint(n)))
}

/// `a + b`.
pub(super) fn add<'a>(a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => whole(a.checked_add(*b)),
        (Val::Uint(a), Val::Uint(b)) => natural(a.checked_add(*b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::String(a), Val::String(b)) => Ok(Val::text(format!("{}{}", &**a, &**b))),
        (Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([&a[..], &b[..]].concat().into())),
        (Val::List(a), Val::List(b)) => Ok(Val::List(a.concatenate(b))),
        (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => {
            t.checked_add(*d).map(Val::Timestamp).or_else(|_| failed("timestamp overflow"))
        }
        (Val::Duration(a), Val::Duration(b)) => a.checked_add(*b).map_or_else(|| failed("duration overflow"), |d| Ok(Val::Duration(d))),
        _ => Err(EvalError::no_overload()),
    }
}

fn arithmetic<'a>(operator: &str, a: &Val<'a>, b: &Val<'a>) -> Outcome<'a> {
    match (operator, a, b) {
        ("_/_", Val::Int(_), Val::Int(0)) | ("_/_", Val::Uint(_), Val::Uint(0)) => failed("division by zero"),
        ("_%_", Val::Int(_), Val::Int(0)) | ("_%_", Val::Uint(_), Val::Uint(0)) => failed("modulus by zero"),
        ("_-_", Val::Int(a), Val::Int(b)) => whole(a.checked_sub(*b)),
        ("_*_", Val::Int(a), Val::Int(b)) => whole(a.checked_mul(*b)),
        ("_/_", Val::Int(a), Val::Int(b)) => whole(a.checked_div(*b)),
        ("_%_", Val::Int(a), Val::Int(b)) => whole(a.checked_rem(*b)),
        ("_-_", Val::Uint(a), Val::Uint(b)) => natural(a.checked_sub(*b)),
        ("_*_", Val::Uint(a), Val::Uint(b)) => natural(a.checked_mul(*b)),
        ("_/_", Val::Uint(a), Val::Uint(b)) => natural(a.checked_div(*b)),
        ("_%_", Val::Uint(a), Val::Uint(b)) => natural(a.checked_rem(*b)),
        ("_-_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        ("_*_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        ("_/_", Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        ("_-_", Val::Timestamp(a), Val::Timestamp(b)) => Ok(Val::Duration(a.duration_since(*b))),
        ("_-_", Val::Timestamp(t), Val::Duration(d)) => t.checked_sub(*d).map(Val::Timestamp).or_else(|_| failed("timestamp overflow")),
        ("_-_", Val::Duration(a), Val::Duration(b)) => {
            a.checked_sub(*b).map_or_else(|| failed("duration overflow"), |d| Ok(Val::Duration(d)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// Functions whose name says which library they are of.
fn library<'a>(name: &str, values: &[Val<'a>]) -> Option<Outcome<'a>> {
    Some(match (name, values) {
        ("optional.of", [value]) => Ok(Val::some(value.clone())),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.ofNonZeroValue", [value]) => Ok(if is_zero(value) { Val::Optional(None) } else { Val::some(value.clone()) }),
        ("sets.contains", [Val::List(a), Val::List(b)]) => Ok(Val::Bool(b.iter().all(|x| a.iter().any(|y| y.equals(&x))))),
        ("sets.intersects", [Val::List(a), Val::List(b)]) => Ok(Val::Bool(b.iter().any(|x| a.iter().any(|y| y.equals(&x))))),
        ("sets.equivalent", [Val::List(a), Val::List(b)]) => {
            let within = |a: &super::value::List<'_>, b: &super::value::List<'_>| a.iter().all(|x| b.iter().any(|y| y.equals(&x)));
            Ok(Val::Bool(within(a, b) && within(b, a)))
        }
        ("lists.range", [Val::Int(n)]) if (0..=1_000_000).contains(n) => Ok(Val::list((0..*n).map(Val::Int).collect())),
        ("jsonpatch.escapeKey", [Val::String(key)]) => Ok(Val::text(key.replace('~', "~0").replace('/', "~1"))),
        ("strings.quote", [Val::String(text)]) => Ok(Val::text(format!("{:?}", &**text))),
        ("quantity" | "isQuantity", [Val::String(text)]) => quantities::parse(name, text),
        ("semver" | "isSemver", [Val::String(text), rest @ ..]) => semver::parse(name, text, matches!(rest, [Val::Bool(true)])),
        ("url" | "isURL", [Val::String(text)]) => network::parse_url(name, text),
        ("ip" | "isIP" | "ip.isCanonical", [Val::String(text)]) => network::parse_ip(name, text),
        ("cidr" | "isCIDR", [Val::String(text)]) => network::parse_cidr(name, text),
        (name, values) if name.starts_with("format.") => return formats::named(&name["format.".len()..], values),
        _ => return None,
    })
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Optional(None) => true,
        Val::Bool(b) => !b,
        Val::Int(n) => *n == 0,
        Val::Uint(n) => *n == 0,
        Val::Double(n) => *n == 0.0,
        Val::Duration(d) => d.is_zero(),
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) => value.size() == 0,
        _ => false,
    }
}

/// Functions named like the type they make.
fn conversion<'a>(name: &str, values: &[Val<'a>]) -> Option<Outcome<'a>> {
    let [value] = values else { return None };
    let out_of_range = || failed("range error");
    Some(match (name, value) {
        ("dyn", value) => Ok(value.clone()),
        ("type", value) => Ok(Val::Type(value.type_name().into())),
        ("size", Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_)) => {
            Ok(Val::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        ("bool", Val::Bool(b)) => Ok(Val::Bool(*b)),
        ("bool", Val::String(s)) => match &**s {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
            _ => failed("type conversion error from 'string' to 'bool'"),
        },
        ("int", Val::Int(n)) => Ok(Val::Int(*n)),
        ("int", Val::Uint(n)) => i64::try_from(*n).map_or_else(|_| out_of_range(), |n| Ok(Val::Int(n))),
        ("int", Val::Double(n)) if n.abs() < 9.3e18 => Ok(Val::Int(*n as i64)),
        ("int", Val::Double(_)) => out_of_range(),
        ("int", Val::String(s)) => s.parse().map_or_else(|_| failed(syntax("ParseInt", s)), |n| Ok(Val::Int(n))),
        ("int", Val::Timestamp(t)) => Ok(Val::Int(t.as_second())),
        ("int", Val::Duration(d)) => i64::try_from(d.as_nanos()).map_or_else(|_| out_of_range(), |n| Ok(Val::Int(n))),
        ("uint", Val::Uint(n)) => Ok(Val::Uint(*n)),
        ("uint", Val::Int(n)) => u64::try_from(*n).map_or_else(|_| out_of_range(), |n| Ok(Val::Uint(n))),
        ("uint", Val::Double(n)) if (0.0..1.85e19).contains(n) => Ok(Val::Uint(*n as u64)),
        ("uint", Val::Double(_)) => out_of_range(),
        ("uint", Val::String(s)) => s.parse().map_or_else(|_| failed(syntax("ParseUint", s)), |n| Ok(Val::Uint(n))),
        ("double", Val::Double(n)) => Ok(Val::Double(*n)),
        ("double", Val::Int(n)) => Ok(Val::Double(*n as f64)),
        ("double", Val::Uint(n)) => Ok(Val::Double(*n as f64)),
        ("double", Val::String(s)) => s.parse().map_or_else(|_| failed(syntax("ParseFloat", s)), |n| Ok(Val::Double(n))),
        ("bytes", Val::Bytes(b)) => Ok(Val::Bytes(b.clone())),
        ("bytes", Val::String(s)) => Ok(Val::Bytes(s.as_bytes().into())),
        ("string", Val::String(s)) => Ok(Val::String(s.clone())),
        ("string", Val::Bytes(b)) => match std::str::from_utf8(b) {
            Ok(text) => Ok(Val::text(text)),
            Err(_) => failed("invalid UTF-8 in bytes, cannot convert to string"),
        },
        ("string", Val::Double(n)) => Ok(Val::text(number(*n))),
        ("string", Val::Bool(_) | Val::Int(_) | Val::Uint(_)) => Ok(Val::text(value.to_json().to_string())),
        ("string", Val::Timestamp(_) | Val::Duration(_) | Val::Ip(_) | Val::Cidr(_)) => {
            Ok(Val::text(value.to_json().as_str().unwrap_or_default()))
        }
        ("timestamp", Val::Timestamp(t)) => Ok(Val::Timestamp(*t)),
        ("timestamp", Val::String(s)) => s.parse().map_or_else(|_| failed(format!("parsing time {:?}", &**s)), |t| Ok(Val::Timestamp(t))),
        ("timestamp", Val::Int(n)) => {
            k8s_openapi::jiff::Timestamp::from_second(*n).map_or_else(|_| failed("timestamp overflow"), |t| Ok(Val::Timestamp(t)))
        }
        ("duration", Val::Duration(d)) => Ok(Val::Duration(*d)),
        ("duration", Val::String(s)) => match time::parse_duration(s) {
            Some(d) => Ok(Val::Duration(d)),
            None => failed(format!("time: invalid duration {:?}", &**s)),
        },
        ("duration", Val::Int(n)) => Ok(Val::Duration(k8s_openapi::jiff::SignedDuration::from_nanos(*n))),
        _ => return None,
    })
}

fn syntax(function: &str, text: &Text<'_>) -> String {
    format!("strconv.{function}: parsing {:?}: invalid syntax", &**text)
}

/// A floating-point number as Go prints it.
fn number(n: f64) -> String {
    if n.is_infinite() { if n > 0.0 { "+Inf".into() } else { "-Inf".into() } } else { n.to_string() }
}
