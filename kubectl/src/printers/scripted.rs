//! Output that a template of the user's shapes.

use super::Printer;
use crate::error::{Result, message};
use crate::jsonpath::{self, JsonPath, Options};
use crate::template::Template;
use serde_json::Value;

/// `-o jsonpath`.
pub struct JsonPathPrinter {
    path: JsonPath,
    options: Options,
}

impl JsonPathPrinter {
    /// Parses the template.
    pub fn new(text: &str, allow_missing_keys: bool, json: bool) -> Result<JsonPathPrinter> {
        let path = JsonPath::new(text).map_err(message)?;
        Ok(JsonPathPrinter { path, options: Options { allow_missing_keys, json } })
    }
}

impl Printer for JsonPathPrinter {
    fn print(&mut self, object: &Value) -> Result<String> {
        jsonpath::render(&self.path, object, self.options).map_err(message)
    }
}

/// `-o go-template`.
pub struct GoTemplate {
    source: String,
    template: Template,
    allow_missing_keys: bool,
}

impl GoTemplate {
    /// Parses the template.
    pub fn new(text: &str, allow_missing_keys: bool) -> Result<GoTemplate> {
        let template = Template::new(text).map_err(|e| message(format!("error parsing template {text}, {e}\n")))?;
        Ok(GoTemplate { source: text.to_owned(), template, allow_missing_keys })
    }
}

impl Printer for GoTemplate {
    fn print(&mut self, object: &Value) -> Result<String> {
        self.template
            .render(object, self.allow_missing_keys)
            .map_err(|e| message(format!("error executing template {:?}: {e}", self.source)))
    }
}
