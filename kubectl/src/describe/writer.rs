//! Lines of a description: indented by level, aligned at tabs when all are there.

use crate::encoding::tabwriter::{DESCRIBE, align};
use serde_json::Value;

/// Collects lines.
#[derive(Debug, Default)]
pub struct Writer {
    text: String,
}

impl Writer {
    /// A line at a level; two spaces a level.
    pub fn line(&mut self, level: usize, text: impl AsRef<str>) {
        (0..level).for_each(|_| self.text.push_str("  "));
        self.text.push_str(text.as_ref());
        self.text.push('\n');
    }

    /// A name and a value.
    pub fn field(&mut self, level: usize, name: &str, value: impl AsRef<str>) {
        self.line(level, format!("{name}:\t{}", value.as_ref()));
    }

    /// A name and a value, unless that is missing or empty.
    pub fn some(&mut self, level: usize, name: &str, value: &Value) {
        let shown = show(value);
        if !shown.is_empty() {
            self.field(level, name, shown);
        }
    }

    /// A map of texts under a name, one entry a line, all in the value's column.
    pub fn map(&mut self, name: &str, value: &Value) {
        let Some(map) = value.as_object().filter(|m| !m.is_empty()) else {
            self.field(0, name, "<none>");
            return;
        };
        let mut pairs: Vec<_> = map.iter().collect();
        pairs.sort_by_key(|(k, _)| *k);
        for (i, (k, v)) in pairs.into_iter().enumerate() {
            self.line(0, format!("{}\t{k}={}", if i == 0 { format!("{name}:") } else { String::new() }, show(v)));
        }
    }

    /// Annotations: without the one that repeats the whole object, long ones on lines of their own.
    pub fn annotations(&mut self, value: &Value) {
        let skip = crate::apply::LAST_APPLIED;
        let mut pairs: Vec<_> = value.as_object().into_iter().flatten().filter(|(k, _)| *k != skip).collect();
        if pairs.is_empty() {
            self.field(0, "Annotations", "<none>");
            return;
        }
        pairs.sort_by_key(|(k, _)| *k);
        for (i, (key, v)) in pairs.into_iter().enumerate() {
            let lead = if i == 0 { "Annotations:" } else { "" };
            let text = show(v);
            let text = text.trim_end_matches('\n');
            // Upstream's limit for a value beside its key.
            if key.len() + text.len() + 2 > 140 || text.contains('\n') {
                self.line(0, format!("{lead}\t{key}:"));
                for line in text.split('\n') {
                    let cut: String =
                        if line.chars().count() > 138 { line.chars().take(138).chain("...".chars()).collect() } else { line.to_owned() };
                    self.line(0, format!("\t  {cut}"));
                }
            } else {
                self.line(0, format!("{lead}\t{key}: {text}"));
            }
        }
    }

    /// Everything with its tabs, for where upstream aligns nothing.
    pub fn unaligned(self) -> String {
        self.text
    }

    /// Everything, aligned.
    pub fn finish(self) -> String {
        align(DESCRIBE, &self.text)
    }
}

/// A scalar as text; nothing for what is not there.
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        other => crate::encoding::govalue::sprint(other),
    }
}

/// A text or `<none>`.
pub fn or_none(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// A timestamp as Go's RFC1123Z.
pub fn time(value: &Value) -> String {
    match value.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()) {
        Some(t) => t.to_zoned(jiff::tz::TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        None => "<unset>".to_owned(),
    }
}

/// How long ago.
pub fn ago(value: &Value, now: i64) -> String {
    value.as_str().map_or("<unknown>".to_owned(), |t| crate::printers::table::age(t, now))
}

/// A list in a value, or nothing.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `a=b,c in (d)`: a LabelSelector as text.
pub fn selector(value: &Value) -> String {
    let mut parts: Vec<String> = value["matchLabels"].as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", show(v))).collect();
    for e in list(&value["matchExpressions"]) {
        let key = show(&e["key"]);
        let mut values: Vec<String> = list(&e["values"]).iter().map(show).collect();
        values.sort();
        let values = values.join(",");
        parts.push(match e["operator"].as_str().unwrap_or("") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key,
            _ => format!("!{key}"),
        });
    }
    parts.sort();
    if value.is_null() {
        return "<unset>".to_owned();
    }
    or_none(parts.join(","))
}

impl Writer {
    /// The lines before alignment, to be written at another level.
    pub fn into_lines(self) -> Vec<String> {
        self.text.lines().map(str::to_owned).collect()
    }
}
