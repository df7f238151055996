//! The server's tables (`meta.k8s.io/v1 Table`) as aligned text, with the columns kubectl adds: namespace, labels, a kind before the name
//! (upstream: `cli-runtime/pkg/printers/tableprinter.go`).

use crate::encoding::govalue::sprint;
use crate::encoding::tabwriter::{TABLE, TabWriter};
use serde_json::{Value, json};

/// What is shown beside the server's columns.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// No header line.
    pub no_headers: bool,
    /// A column with the namespace first.
    pub with_namespace: bool,
    /// `kind/` before each name.
    pub kind_prefix: String,
    /// Columns of lower priority too.
    pub wide: bool,
    /// A last column with all labels.
    pub show_labels: bool,
    /// A column for each of these labels.
    pub label_columns: Vec<String>,
}

/// Prints tables of one kind one after another, under one header.
pub struct TablePrinter {
    options: Options,
    writer: TabWriter,
    header: Option<Vec<String>>,
    columns: Vec<Value>,
}

impl TablePrinter {
    /// A printer that has printed nothing yet.
    pub fn new(options: Options) -> TablePrinter {
        TablePrinter { options, writer: TabWriter::remembering(TABLE), header: None, columns: Vec::new() }
    }

    /// The next table as text. A header is printed when the columns are not those of the table before.
    pub fn print(&mut self, table: &Value) -> String {
        let mut text = String::new();
        // The tables of a watch after its first carry no columns: the known ones go on.
        if let Some(columns) = table["columnDefinitions"].as_array().filter(|c| !c.is_empty()) {
            self.columns.clone_from(columns);
        }
        let columns = &self.columns;
        let shown: Vec<usize> =
            (0..columns.len()).filter(|i| self.options.wide || columns[*i]["priority"].as_i64().unwrap_or(0) == 0).collect();
        let mut header: Vec<String> = shown.iter().map(|i| columns[*i]["name"].as_str().unwrap_or("").to_uppercase()).collect();
        if self.options.with_namespace {
            header.insert(0, "NAMESPACE".into());
        }
        header.extend(self.options.label_columns.iter().map(|l| l.rsplit('/').next().unwrap_or(l).to_uppercase()));
        if self.options.show_labels {
            header.push("LABELS".into());
        }
        if !columns.is_empty() && self.header.as_ref() != Some(&header) {
            if !self.options.no_headers {
                text += &header.join("\t");
                text.push('\n');
            }
            self.header = Some(header);
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            let cells: Vec<&Value> = row["cells"].as_array().into_iter().flatten().collect();
            let metadata = &row["object"]["metadata"];
            let mut line = Vec::new();
            if self.options.with_namespace {
                line.push(metadata["namespace"].as_str().unwrap_or("").to_owned());
            }
            for i in &shown {
                let Some(cell) = cells.get(*i) else { continue };
                let is_name = columns[*i]["format"] == "name";
                let prefix =
                    if is_name && !self.options.kind_prefix.is_empty() { format!("{}/", self.options.kind_prefix) } else { String::new() };
                line.push(format!("{prefix}{}", cell_text(cell)));
            }
            let label = |l: &String| metadata["labels"][l.as_str()].as_str().unwrap_or("").to_owned();
            line.extend(self.options.label_columns.iter().map(label));
            if self.options.show_labels {
                line.push(labels(&metadata["labels"]));
            }
            text += &line.join("\t");
            text.push('\n');
        }
        self.writer.align(&text)
    }
}

/// A cell, cut at its first line break.
fn cell_text(cell: &Value) -> String {
    match cell {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => match s.find(['\n', '\r', '\u{c}']) {
            Some(at) => format!("{}...", &s[..at]),
            None => s.clone(),
        },
        other => sprint(other),
    }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(value: &Value) -> String {
    let Some(map) = value.as_object().filter(|m| !m.is_empty()) else { return "<none>".to_owned() };
    let mut pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    pairs.sort();
    pairs.join(",")
}

/// A table for objects that came without one: name and age, as upstream's fallback has.
pub fn of_objects(objects: &[Value], now: i64) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let age = o["metadata"]["creationTimestamp"].as_str().map_or("<unknown>".to_owned(), |t| age(t, now));
            json!({"cells": [o["metadata"]["name"], age], "object": o})
        })
        .collect();
    json!({"columnDefinitions": [{"name": "Name", "format": "name"}, {"name": "Age"}], "rows": rows})
}

/// How long ago a timestamp was.
pub fn age(timestamp: &str, now: i64) -> String {
    match timestamp.parse::<jiff::Timestamp>() {
        Ok(t) => crate::duration::human(now - t.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Value {
        json!({
            "columnDefinitions": [{"name": "Name", "format": "name"}, {"name": "Ready"}, {"name": "Node", "priority": 1}],
            "rows": [
                {"cells": ["x", "1/1", "n1"], "object": {"metadata": {"namespace": "ns", "labels": {"app": "a", "t/b": "c"}}}},
                {"cells": ["yy", "line\nmore", null], "object": {"metadata": {"namespace": "ns"}}},
            ],
        })
    }

    #[test]
    fn columns_follow_the_options() {
        let cases = [
            (Options::default(), "NAME   READY\nx      1/1\nyy     line...\n"),
            (Options { wide: true, ..Options::default() }, "NAME   READY     NODE\nx      1/1       n1\nyy     line...   <nil>\n"),
            (
                Options { with_namespace: true, kind_prefix: "pod".into(), no_headers: true, ..Options::default() },
                "ns    pod/x    1/1\nns    pod/yy   line...\n",
            ),
            (
                Options { show_labels: true, label_columns: vec!["t/b".into()], ..Options::default() },
                "NAME   READY     B     LABELS\nx      1/1       c     app=a,t/b=c\nyy     line...         <none>\n",
            ),
        ];
        for (options, expected) in cases {
            assert_eq!(TablePrinter::new(options.clone()).print(&table()), expected, "{options:?}");
        }
    }

    #[test]
    fn the_header_comes_once() {
        let mut p = TablePrinter::new(Options::default());
        p.print(&table());
        assert!(!p.print(&table()).contains("NAME"));
    }
}
