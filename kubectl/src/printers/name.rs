//! `-o name`, and the line that reports a change: `deployment.apps/x created`.

use super::Printer;
use crate::error::{Result, message};
use serde_json::Value;

/// Names objects, with what happened to them.
pub struct Name {
    operation: String,
}

impl Name {
    /// With an operation such as `created`; without, names alone.
    pub fn new(operation: &str) -> Name {
        Name { operation: operation.to_owned() }
    }
}

/// `kind/name`, or `kind.group/name`, as messages name an object.
pub fn resource_name(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or("").to_lowercase();
    let group = object["apiVersion"].as_str().and_then(|v| v.split_once('/')).map_or("", |(g, _)| g);
    let name = object["metadata"]["name"].as_str().filter(|n| !n.is_empty());
    let name = name.map_or_else(|| "<unknown>".to_owned(), str::to_owned);
    match (kind.as_str(), group) {
        ("", _) => format!("<unknown>/{name}"),
        (_, "") => format!("{kind}/{name}"),
        _ => format!("{kind}.{group}/{name}"),
    }
}

impl Printer for Name {
    fn print(&mut self, object: &Value) -> Result<String> {
        if let Some(items) = object.get("items").and_then(Value::as_array)
            && object["kind"].as_str().is_some_and(|k| k.ends_with("List"))
        {
            return items.iter().map(|i| self.print(i)).collect();
        }
        if object["kind"].as_str().is_none_or(str::is_empty) {
            return Err(message("missing apiVersion or kind; try GetObjectKind().SetGroupVersionKind() if you know the type"));
        }
        let name = resource_name(object);
        Ok(if self.operation.is_empty() { format!("{name}\n") } else { format!("{name} {}\n", self.operation) })
    }
}
