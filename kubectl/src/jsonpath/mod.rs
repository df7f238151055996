//! kubectl's JSONPath: templates with `{}` actions, `{range}`/`{end}`, filters, unions, slices (upstream: `client-go/util/jsonpath`).
//!
//! It is a dialect of its own, older than RFC 9535 and with other output rules, so no JSONPath crate fits.

mod eval;
mod parse;

pub use eval::Options;
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

    /// The results of each top-level action in order.
    pub fn find(&self, data: &Value, options: Options) -> Result<Vec<Vec<Value>>, String> {
        eval::find(&self.nodes, data, options)
    }

    /// What `-o jsonpath` prints.
    pub fn render(&self, data: &Value, options: Options) -> Result<String, String> {
        match self.find(data, options) {
            Ok(results) => Ok(results.iter().map(|r| eval::print(r, options)).collect()),
            Err(e) => Err(format!(
                "error executing jsonpath {:?}: Error executing template: {e}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{}\n\tobject given to jsonpath engine was:\n\t\t{}\n\n\n",
                self.source,
                self.source,
                crate::encoding::govalue::sprint_syntax(data)
            )),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str) -> Result<String, String> {
        let data = json!({
            "kind": "List", "n": 5, "f": 1.5, "t": true, "none": null, "a.b": "dotted", "empty": [],
            "items": [
                {"name": "x", "labels": {"app": "w"}, "n": 1, "ports": [{"p": 80}, {"p": 81}]},
                {"name": "y", "labels": {"app": "v"}, "n": 2, "ports": []},
                {"name": "z", "n": 3},
            ],
        });
        JsonPath::new(template)?.render(&data, Options { allow_missing_keys: true, json: false })
    }

    #[test]
    fn renders_as_upstream() {
        let cases = [
            ("{.kind}", "List"),
            ("kind is {.kind}!", "kind is List!"),
            ("{$.kind}{@.n}", "List5"),
            ("{.items[*].name}", "x y z"),
            ("{.items[0].name}{.items[-1].name}", "xz"),
            ("{.items[0:2].name}", "x y"),
            ("{.items[::2].name}", "x z"),
            ("{.items[0,2].name}", "x z"),
            ("{.items[*]['name','n']}", "x y z 1 2 3"),
            ("{range .items[*]}{.name}{\"\\t\"}{.n}{\"\\n\"}{end}", "x\t1\ny\t2\nz\t3\n"),
            ("{range .items[*]}[{range .ports[*]}{.p},{end}]{end}.", "[80,81,][][]."),
            ("{.items[?(@.n>1)].name}", "y z"),
            ("{.items[?(@.name==\"y\")].n}", "2"),
            ("{.items[?(@.labels)].name}", "x y"),
            ("{.items[?(@.labels.app=='w')].name}", "x"),
            ("{.a\\.b}", "dotted"),
            ("{['a.b']}", "dotted"),
            ("{.items[0].labels}", "{\"app\":\"w\"}"),
            ("{.missing}", ""),
            ("{.f}{.t}", "1.5true"),
            ("{.none}", "null"),
            ("{..p}", "80 81"),
            ("{range .empty[*]}x{end}y", "y"),
            ("{1}{'q'}{true}", "1qtrue"),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn refuses_as_upstream() {
        let cases = [
            ("{.kind", "error parsing jsonpath {.kind, unclosed action"),
            ("{.items[0", "error parsing jsonpath {.items[0, unterminated array"),
            ("{.items[x]}", "error parsing jsonpath {.items[x]}, invalid array index x"),
            ("{\"a}", "error parsing jsonpath {\"a}, unterminated quoted string"),
            ("{#}", "error parsing jsonpath {#}, unrecognized character in action: U+0023 '#'"),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template).unwrap_err(), expected);
        }
        let text = render("{.items[9]}").unwrap_err();
        assert!(
            text.starts_with(
                "error executing jsonpath \"{.items[9]}\": Error executing template: array index out of bounds: index 9, length 3. "
            ),
            "{text}"
        );
    }

    #[test]
    fn relaxed_paths_get_braces() {
        for path in ["a.b", ".a.b", "{a.b}", "{.a.b}"] {
            assert_eq!(relax(path).unwrap(), "{.a.b}");
        }
        assert!(relax("{a}{b}").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_template_panics(template in "[{}\\[\\].@$?()'\"a-c0-9:,*<=!\\\\ -]{0,24}") {
            let _ = render(&template);
        }
    }
}
