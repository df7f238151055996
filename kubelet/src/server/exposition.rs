//! Metrics as Prometheus reads them: families of samples in its text format, version 0.0.4.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use std::fmt::Write;

/// A text that grows family by family.
#[derive(Default)]
pub struct Exposition(String);

/// What kind of figure a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One sample: labels by name, the figure, and when it was taken in milliseconds, where it was not now.
pub type Sample<'a> = (Vec<(&'static str, &'a str)>, f64, Option<i64>);

impl Exposition {
    /// Adds a family; one without samples is left out.
    pub fn family<'a>(&mut self, name: &str, kind: Kind, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value, at) in samples {
            self.0.push_str(name);
            for (index, (label, text)) in labels.iter().enumerate() {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
            }
            if !labels.is_empty() {
                self.0.push('}');
            }
            let _ = write!(self.0, " {value}");
            if let Some(at) = at {
                let _ = write!(self.0, " {at}");
            }
            self.0.push('\n');
        }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help, [(Vec::new(), value, None)]);
    }

    /// Adds what `write` writes.
    pub fn append(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.0);
    }

    /// The text.
    pub fn text(self) -> String {
        self.0
    }
}

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], self.0).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut out = Exposition::default();
        out.family("a_total", Kind::Counter, "[STABLE] Some.", [(vec![("x", "1\"2"), ("y", "")], 1.5, Some(7))]);
        out.family("none", Kind::Gauge, "None.", []);
        out.single("b", Kind::Gauge, "One.", 3.0);
        let want = "# HELP a_total [STABLE] Some.\n# TYPE a_total counter\na_total{x=\"1\\\"2\",y=\"\"} 1.5 7\n# HELP b One.\n# TYPE b gauge\nb 3\n";
        assert_eq!(out.text(), want);
    }
}
