//! What the printer columns of the built-in kinds share: column constants and the texts of ages, selectors, images and the like
//! (upstream: `pkg/printers/internalversion/printers.go`). The columns and cells of a kind stand in the kind's file.
//!
//! Column descriptions are left empty: no client of tables shows them.

use crate::duration;
use crate::resource::{Cells, Column, PrintContext};
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

const fn column(name: &'static str, kind: &'static str, format: &'static str, priority: i32) -> Column {
    Column { name: Cow::Borrowed(name), kind: Cow::Borrowed(kind), format: Cow::Borrowed(format), description: Cow::Borrowed(""), priority }
}

/// A column that is always shown.
pub const fn shown(name: &'static str, kind: &'static str) -> Column {
    column(name, kind, "", 0)
}

/// A column that is shown with `-o wide` only.
pub const fn wide(name: &'static str, kind: &'static str) -> Column {
    column(name, kind, "", 1)
}

/// The name column.
pub const NAME: Column = column("Name", "string", "name", 0);
/// The same for kinds whose names say little.
pub const WIDE_NAME: Column = column("Name", "string", "name", 1);
/// A column that also names an object, under another header.
pub const fn named(name: &'static str) -> Column {
    column(name, "string", "name", 0)
}
/// The age column.
pub const AGE: Column = shown("Age", "string");
/// The columns of kinds that have no printer of their own.
pub const CREATED_AT: &[Column] = &[NAME, shown("Created At", "date")];
/// What stands in a cell for nothing.
pub const NONE: &str = "<none>";
/// What stands in a cell for what is not known.
pub const UNKNOWN: &str = "<unknown>";
/// What stands in a cell for what was not set.
pub const UNSET: &str = "<unset>";

/// The cells for [`CREATED_AT`].
pub fn name_and_creation(metadata: &ObjectMeta) -> Cells {
    let created = metadata.creation_timestamp.as_ref().map(|t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    vec![name(metadata), json!(created)]
}

/// The name cell.
pub fn name(metadata: &ObjectMeta) -> Value {
    json!(metadata.name.as_deref().unwrap_or(""))
}

/// The age cell.
pub fn age(metadata: &ObjectMeta, context: &PrintContext) -> Value {
    json!(since(metadata.creation_timestamp.as_ref(), context))
}

/// How long ago a time was, or `<unknown>` without one.
pub fn since(time: Option<&Time>, context: &PrintContext) -> String {
    time.map_or_else(|| UNKNOWN.into(), |t| since_timestamp(t.0, context))
}

/// How long ago an instant was.
pub fn since_timestamp(time: Timestamp, context: &PrintContext) -> String {
    duration::human(context.now.duration_since(time).as_secs())
}

/// A time as in RFC 1123 with a numeric zone, the form that describing texts use.
pub fn rfc1123(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    match labels {
        Some(map) if !map.is_empty() => map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
        _ => NONE.into(),
    }
}

/// A selector in its string form: `a=b,c in (d,e),!f`; `<none>` when there is no selector or it selects everything.
pub fn selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return NONE.into() };
    let mut terms: Vec<(String, String)> = selector.match_labels.iter().flatten().map(|(k, v)| (k.clone(), format!("{k}={v}"))).collect();
    for e in selector.match_expressions.iter().flatten() {
        let mut values = e.values.clone().unwrap_or_default();
        values.sort();
        let text = match e.operator.as_str() {
            "In" => format!("{} in ({})", e.key, values.join(",")),
            "NotIn" => format!("{} notin ({})", e.key, values.join(",")),
            "Exists" => e.key.clone(),
            "DoesNotExist" => format!("!{}", e.key),
            _ => return "<error>".into(),
        };
        terms.push((e.key.clone(), text));
    }
    if terms.is_empty() {
        return NONE.into();
    }
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// The names and the images of containers, each joined by commas.
pub fn containers(containers: &[Container]) -> (String, String) {
    let names = containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(",");
    let images = containers.iter().map(|c| c.image.as_deref().unwrap_or("")).collect::<Vec<_>>().join(",");
    (names, images)
}

/// `True` or `False`, as some columns write a boolean.
pub fn capital(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}
