//! Whole objects as JSON or YAML.

use super::Printer;
use crate::encoding::json::{self, Order};
use crate::encoding::yaml;
use crate::error::Result;
use serde_json::Value;

/// Without the bookkeeping of who set which field, in the object and in a list's items.
fn trimmed(object: &Value, managed: bool) -> Value {
    let mut object = object.clone();
    if managed {
        return object;
    }
    let strip = |o: &mut Value| {
        if let Some(metadata) = o.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut object);
    object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
    object
}

/// `-o json`.
pub struct Json {
    order: Order,
    managed: bool,
}

impl Json {
    /// `managed` keeps managedFields.
    pub fn new(order: Order, managed: bool) -> Json {
        Json { order, managed }
    }
}

impl Printer for Json {
    fn print(&mut self, object: &Value) -> Result<String> {
        Ok(format!("{}\n", json::to_string_indented(&trimmed(object, self.managed), "    ", self.order)))
    }
}

/// `-o yaml`.
pub struct Yaml {
    managed: bool,
    count: usize,
}

impl Yaml {
    /// `managed` keeps managedFields.
    pub fn new(managed: bool) -> Yaml {
        Yaml { managed, count: 0 }
    }
}

impl Printer for Yaml {
    fn print(&mut self, object: &Value) -> Result<String> {
        self.count += 1;
        let separator = if self.count > 1 { "---\n" } else { "" };
        Ok(format!("{separator}{}", yaml::to_string(&trimmed(object, self.managed))))
    }
}
