//! What a server's OpenAPI document says of a kind or of one of its fields, as `kubectl explain` lays it out
//! (upstream: `kubectl/pkg/explain/v2`). Pure: a document in, text out.
//!
//! Left out: the older layout that upstream calls `plaintext-openapiv2`.

mod wrap;

use crate::discovery::Resource;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::fmt::Write;
use wrap::{indent, wrap};

/// How wide a description is.
const WIDTH: usize = 76;
/// How many values of an enumeration a list of fields shows.
const SHOWN: usize = 4;

/// The explanation of the field that `path` leads to, or of the whole kind. What was written before a failure is printed, too.
pub fn explain(document: &Value, resource: &Resource, path: &[&str], recursive: bool) -> (String, Result<()>) {
    let mut out = String::new();
    if !resource.group.is_empty() {
        writeln!(out, "GROUP:      {}", resource.group).expect("a string takes everything");
    }
    write!(out, "KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version).expect("a string takes everything");
    let document = Document { schemas: &document["components"]["schemas"], recursive };
    let Some(schema) = document.of_kind(resource) else {
        let kind = format!("map[group:{} kind:{} version:{}]", resource.group, resource.kind, resource.version);
        return (out, Err(Error::Verbatim(format!("error: GVK {kind} not found in OpenAPI schema"))));
    };
    match document.output(schema, path, &mut Vec::new()) {
        Some(text) => (out + &text + "\n", Ok(())),
        None => {
            let field = path.last().copied().unwrap_or("");
            (out, Err(Error::Verbatim(format!("error: field \"{field}\" does not exist"))))
        }
    }
}

struct Document<'a> {
    schemas: &'a Value,
    recursive: bool,
}

type Refs<'a> = Vec<&'a str>;

fn text<'a>(schema: &'a Value, field: &str) -> &'a str {
    schema[field].as_str().unwrap_or("")
}

/// What a map's values are like, where the schema says more than that there may be any.
fn values(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|v| v.is_object())
}

/// Properties in the order of their names.
fn sorted(properties: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut all: Vec<_> = properties.iter().collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

impl<'a> Document<'a> {
    fn of_kind(&self, resource: &Resource) -> Option<&'a Value> {
        let is = |kind: &Value| kind["group"] == resource.group && kind["kind"] == resource.kind && kind["version"] == resource.version;
        let all = self.schemas.as_object()?;
        sorted(all)
            .into_iter()
            .map(|(_, schema)| schema)
            .find(|s| s["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().any(is))
    }

    /// What a reference leads to; the schema itself if it is none.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        text(schema, "$ref").rsplit_once('/').and_then(|(_, name)| self.schemas.get(name)).unwrap_or(schema)
    }

    /// Follows the path; nothing if it leads nowhere. `seen` are the references since the last field, which would lead round in circles.
    fn output(&self, schema: &'a Value, path: &[&str], seen: &mut Refs<'a>) -> Option<String> {
        let reference = text(schema, "$ref");
        let resolved = self.resolve(schema);
        let Some((first, rest)) = path.split_first() else { return Some(self.described(resolved)) };
        if !reference.is_empty() && seen.contains(&reference) {
            return None;
        }
        seen.push(reference);
        if let Some(field) = resolved["properties"].get(*first) {
            let head = if rest.is_empty() {
                format!("FIELD: {first} <{}>\n{}\n\n", self.guess(field), enumeration_in_full(field))
            } else {
                String::new()
            };
            return Some(head + &self.output(field, rest, &mut Vec::new())?);
        }
        if let Some(items) = resolved.get("items") {
            return self.output(items, path, seen);
        }
        if let Some(values) = values(resolved) {
            return self.output(values, path, seen);
        }
        resolved["allOf"].as_array()?.iter().find_map(|part| self.output(part, path, seen))
    }

    fn described(&self, schema: &'a Value) -> String {
        let mut told = String::new();
        self.description(schema, &mut told);
        let told = if told.is_empty() { "<empty>" } else { &told };
        let mut fields = String::new();
        self.fields(schema, 1, &mut Vec::new(), &mut fields);
        let fields = if fields.is_empty() { fields } else { format!("FIELDS:\n{fields}") };
        format!("DESCRIPTION:\n{}\n{fields}", indent(&wrap(told, WIDTH), 4))
    }

    /// What is said of a schema and of all that it is made of.
    fn description(&self, schema: &'a Value, out: &mut String) {
        let schema = self.resolve(schema);
        let own = text(schema, "description");
        if !own.is_empty() {
            *out += own;
            out.push('\n');
        }
        let parts = schema["allOf"].as_array().into_iter().flatten().chain(schema.get("items")).chain(values(schema));
        parts.for_each(|part| self.description(part, out));
    }

    fn fields(&self, schema: &'a Value, level: usize, seen: &mut Refs<'a>, out: &mut String) {
        let reference = text(schema, "$ref");
        if !reference.is_empty() && seen.contains(&reference) {
            return;
        }
        let resolved = self.resolve(schema);
        seen.push(reference);
        for (name, field) in resolved["properties"].as_object().map(sorted).unwrap_or_default() {
            let required = resolved["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name));
            self.field(name, field, required, level, out);
            if self.recursive {
                self.fields(field, level + 1, seen, out);
            }
        }
        let parts = resolved["allOf"].as_array().into_iter().flatten().chain(resolved.get("items")).chain(values(resolved));
        parts.for_each(|part| self.fields(part, level, seen, out));
        seen.pop();
    }

    fn field(&self, name: &str, field: &'a Value, required: bool, level: usize, out: &mut String) {
        let margin = 2 * level;
        let required = if required { " -required-" } else { "" };
        *out += &format!("{}\t<{}>{required}{}\n", indent(name, margin), self.guess(field), enumeration(field, margin));
        if !self.recursive {
            let told = match text(field, "description") {
                "" => "<no description>",
                told => told,
            };
            *out += &format!("{}\n\n", indent(&wrap(told, WIDTH + 2 - margin), margin + 2));
        }
    }

    /// The type in a word: `string`, `Object`, `[]Container`, `map[string]Quantity`.
    fn guess(&self, schema: &'a Value) -> String {
        if let Some(items) = schema.get("items") {
            return format!("[]{}", self.guess(items));
        }
        if let Some(values) = values(schema) {
            return format!("map[string]{}", self.guess(values));
        }
        if let (Some([only]), true) = (schema["allOf"].as_array().map(Vec::as_slice), schema["properties"].is_null()) {
            return self.guess(only);
        }
        let reference = text(schema, "$ref");
        let kind = |schema: &Value| match text(schema, "type") {
            "" | "object" => "Object".to_owned(),
            other => other.to_owned(),
        };
        if reference.is_empty() {
            return kind(schema);
        }
        match text(self.resolve(schema), "type") {
            "" | "object" => reference.rsplit(['/', '.']).next().filter(|name| !name.is_empty()).unwrap_or("Object").to_owned(),
            other => other.to_owned(),
        }
    }
}

fn value_of_enumeration(value: &Value) -> String {
    match value.as_str() {
        Some("") => "\"\"".to_owned(),
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}

/// The values a field may have, behind its type: the first few.
fn enumeration(schema: &Value, margin: usize) -> String {
    let Some(all) = schema["enum"].as_array() else { return String::new() };
    let shown: Vec<String> = all.iter().take(SHOWN).map(value_of_enumeration).collect();
    let more = if all.len() > SHOWN { ", ...." } else { "" };
    format!("\n{}enum: {}{more}", " ".repeat(margin), shown.join(", "))
}

/// All of them, a line each.
fn enumeration_in_full(schema: &Value) -> String {
    let Some(all) = schema["enum"].as_array() else { return String::new() };
    let lines: String = all.iter().map(|value| format!("\n    {}", value_of_enumeration(value))).collect();
    format!("ENUM:{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({"components": {"schemas": {
            "x.v1.Node": {"description": "A node.", "x-kubernetes-group-version-kind": [{"group": "x", "kind": "Node", "version": "v1"}], "required": ["spec"],
                "properties": {"spec": {"description": "The specification.", "allOf": [{"$ref": "#/components/schemas/x.v1.Spec"}]}}},
            "x.v1.Spec": {"description": "What is wanted.", "type": "object", "properties": {
                "mode": {"type": "string", "enum": ["", "A", "B", "C", "D"]},
                "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
                "children": {"type": "array", "items": {"$ref": "#/components/schemas/x.v1.Spec"}}}}}}})
    }

    fn told(path: &[&str], recursive: bool) -> (String, Result<()>) {
        let resource = Resource { group: "x".into(), version: "v1".into(), kind: "Node".into(), ..Resource::default() };
        explain(&document(), &resource, path, recursive)
    }

    const HEAD: &str = "GROUP:      x\nKIND:       Node\nVERSION:    v1\n\n";

    #[test]
    fn a_kind_is_described_with_its_fields() {
        let (text, done) = told(&[], false);
        done.unwrap();
        assert_eq!(
            text,
            format!("{HEAD}DESCRIPTION:\n    A node.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    The specification.\n\n\n")
        );
    }

    #[test]
    fn a_field_is_found_through_references_lists_and_maps() {
        let (text, _) = told(&["spec", "children", "mode"], false);
        assert_eq!(
            text,
            format!("{HEAD}FIELD: mode <string>\nENUM:\n    \"\"\n    A\n    B\n    C\n    D\n\nDESCRIPTION:\n    <empty>\n\n")
        );
        assert!(told(&["spec", "limits"], false).0.contains("FIELD: limits <map[string]integer>\n"));
        assert!(told(&["spec", "children"], false).0.contains("  mode\t<string>\n  enum: \"\", A, B, C, ....\n    <no description>\n"));
    }

    #[test]
    fn a_field_that_is_not_there_is_told_after_the_head() {
        let (text, failed) = told(&["spec", "nosuch"], false);
        assert_eq!((text.as_str(), failed.unwrap_err().text().trim_end()), (HEAD, "error: field \"nosuch\" does not exist"));
    }

    #[test]
    fn recursion_ends_where_it_began() {
        let (text, _) = told(&[], true);
        let fields = "FIELDS:\n  spec\t<Spec> -required-\n    children\t<[]Spec>\n    limits\t<map[string]integer>\n    mode\t<string>\n    enum: \"\", A, B, C, ....\n\n";
        assert!(text.ends_with(fields), "{text}");
    }
}
