//! The printer columns of custom resources: cells found by JSONPath (upstream: `pkg/registry/customresource/tableconvertor`).

use crate::jsonpath::{JsonPath, Options};
use crate::printer;
use crate::resource::{Cells, Column, PrintContext};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// The columns behind the name's.
#[derive(Debug)]
pub(super) struct Columns(Vec<(Column, Option<JsonPath>)>);

impl Columns {
    pub fn new(definitions: &[CustomResourceColumnDefinition]) -> Self {
        let age = CustomResourceColumnDefinition {
            name: "Age".into(),
            type_: "date".into(),
            json_path: ".metadata.creationTimestamp".into(),
            ..Default::default()
        };
        let definitions = if definitions.is_empty() { std::slice::from_ref(&age) } else { definitions };
        let column = |d: &CustomResourceColumnDefinition| Column {
            name: d.name.clone().into(),
            kind: d.type_.clone().into(),
            format: d.format.clone().unwrap_or_default().into(),
            description: d
                .description
                .clone()
                .unwrap_or_else(|| format!("Custom resource definition column (in JSONPath format): {}", d.json_path))
                .into(),
            priority: d.priority.unwrap_or(0),
        };
        Columns(definitions.iter().map(|d| (column(d), JsonPath::new(&format!("{{{}}}", d.json_path)).ok())).collect())
    }

    pub fn headers(&self) -> Vec<Column> {
        std::iter::once(printer::NAME).chain(self.0.iter().map(|(c, _)| c.clone())).collect()
    }

    pub fn cells(&self, object: &Value, context: &PrintContext) -> Cells {
        let name = object["metadata"]["name"].clone();
        let options = Options { allow_missing_keys: true, json: false };
        let cell = |(column, path): &(Column, Option<JsonPath>)| {
            let found = path.as_ref().and_then(|p| p.find(object, options).ok());
            let first = found.and_then(|f| f.into_iter().next()).and_then(|f| f.into_iter().next());
            first.map_or(Value::Null, |value| shown(&column.kind, value, context))
        };
        std::iter::once(name).chain(self.0.iter().map(cell)).collect()
    }
}

/// A value in a column of a type; what is of another is left out.
fn shown(kind: &str, value: Value, context: &PrintContext) -> Value {
    match (kind, &value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => value,
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => printer::since_timestamp(time, context).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
