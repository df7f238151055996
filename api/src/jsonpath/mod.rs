//! Kubernetes' JSONPath, as kubectl and printer columns have it: templates with `{}` actions, `{range}`/`{end}`, filters, unions, slices (upstream: `client-go/util/jsonpath`).
//!
//! It is a dialect of its own, older than RFC 9535 and with other output rules, so no JSONPath crate fits.

mod find;
mod parse;

pub use find::Options;
pub use parse::{Node, parse};

use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    source: String,
    nodes: Vec<Node>,
}

impl JsonPath {
    /// Parses a template; the error is upstream's text.
    pub fn new(source: &str) -> Result<JsonPath, String> {
        let nodes = parse(source).map_err(|e| format!("error parsing jsonpath {source}, {e}"))?;
        Ok(JsonPath { source: source.to_owned(), nodes })
    }

    /// Parses what `--sort-by`, `--custom-columns` and `wait --for=jsonpath` take: with or without braces and the first dot.
    pub fn relaxed(text: &str) -> Result<JsonPath, String> {
        JsonPath::new(&relax(text)?)
    }

    /// The text that it was parsed from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The results of each top-level action in order.
    pub fn find(&self, data: &Value, options: Options) -> Result<Vec<Vec<Value>>, String> {
        find::find(&self.nodes, data, options)
    }
}

/// Puts braces and a leading dot where they are missing.
pub fn relax(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let inner = match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        Some(inner) => inner,
        None => text,
    };
    let inner = inner.strip_prefix('.').unwrap_or(inner);
    if inner.is_empty() || inner.contains(['{', '}']) {
        return Err("unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'".to_owned());
    }
    Ok(format!("{{.{inner}}}"))
}
