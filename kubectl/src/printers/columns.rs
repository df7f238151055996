//! `-o custom-columns`: a header and a path for each column.

use super::Printer;
use crate::encoding::govalue::sprint;
use crate::encoding::tabwriter::{TABLE, TabWriter};
use crate::error::{Result, message};
use crate::jsonpath::{JsonPath, Options};
use serde_json::Value;

/// Prints one line per object.
pub struct CustomColumns {
    columns: Vec<(String, JsonPath)>,
    headers: bool,
    writer: TabWriter,
}

impl CustomColumns {
    /// From `NAME:.metadata.name,...`.
    pub fn new(spec: &str, headers: bool) -> Result<CustomColumns> {
        let mut columns = Vec::new();
        for part in spec.split(',') {
            let Some((header, path)) = part.split_once(':') else {
                return Err(message(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>")));
            };
            columns.push((header.to_owned(), JsonPath::relaxed(path).map_err(message)?));
        }
        Ok(CustomColumns { columns, headers, writer: TabWriter::remembering(TABLE) })
    }

    /// From a file with a line of headers and a line of paths.
    pub fn from_file(text: &str, headers: bool) -> Result<CustomColumns> {
        let mut lines = text.lines();
        let (Some(names), Some(paths)) = (lines.next(), lines.next()) else {
            return Err(message(
                "invalid template, missing specification line. Expected format is one line of space separated column names, one line of space separated column specs.",
            ));
        };
        let (names, paths): (Vec<&str>, Vec<&str>) = (names.split_whitespace().collect(), paths.split_whitespace().collect());
        if names.len() != paths.len() {
            return Err(message(format!("number of headers ({}) and field specifications ({}) don't match", names.len(), paths.len())));
        }
        let spec: Vec<String> = names.iter().zip(paths).map(|(n, p)| format!("{n}:{p}")).collect();
        CustomColumns::new(&spec.join(","), headers)
    }
}

impl Printer for CustomColumns {
    fn print(&mut self, object: &Value) -> Result<String> {
        let mut text = String::new();
        if std::mem::take(&mut self.headers) {
            text += &self.columns.iter().map(|(h, _)| h.as_str()).collect::<Vec<_>>().join("\t");
            text.push('\n');
        }
        let one = std::slice::from_ref(object);
        let objects = match object.get("items") {
            Some(Value::Array(items)) if object["kind"].as_str().is_some_and(|k| k.ends_with("List")) => items,
            _ => one,
        };
        for object in objects {
            let mut cells = Vec::new();
            for (_, path) in &self.columns {
                let found = path.find(object, Options { allow_missing_keys: true, json: false }).map_err(message)?;
                let empty = found.first().is_none_or(Vec::is_empty);
                let texts: Vec<String> = found.iter().flatten().map(sprint).collect();
                cells.push(if empty { "<none>".to_owned() } else { texts.join(",") });
            }
            text += &cells.join("\t");
            text.push('\n');
        }
        Ok(self.writer.align(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_over_several_objects() {
        let list = json!({"kind": "List", "items": [{"metadata": {"name": "a", "labels": {"x": "y"}}}, {"metadata": {"name": "longer-name"}, "l": [1, 2]}]});
        let mut p = CustomColumns::new("NAME:.metadata.name,L:.metadata.labels,N:.l[*]", true).unwrap();
        assert_eq!(p.print(&list).unwrap(), "NAME          L          N\na             map[x:y]   <none>\nlonger-name   <none>     1,2\n");
    }
}
