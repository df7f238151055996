//! What `-o jsonpath` prints of what a path finds; paths themselves are [`api::jsonpath`]'s.

pub use api::jsonpath::{JsonPath, Options, relax};

use crate::encoding::{govalue, json};
use serde_json::Value;

/// What a template prints of a value.
pub fn render(path: &JsonPath, data: &Value, options: Options) -> Result<String, String> {
    match path.find(data, options) {
        Ok(results) => Ok(results.iter().map(|r| print(r, options)).collect()),
        Err(e) => Err(format!(
            "error executing jsonpath {:?}: Error executing template: {e}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{}\n\tobject given to jsonpath engine was:\n\t\t{}\n\n\n",
            path.source(),
            path.source(),
            govalue::sprint_syntax(data)
        )),
    }
}

/// One action's results as text: joined by spaces, composite ones as JSON.
fn print(results: &[Value], options: Options) -> String {
    if options.json {
        return format!("{}\n", json::to_string_indented(&Value::Array(results.to_vec()), "    ", json::Order::Sorted));
    }
    let text = |v: &Value| match v {
        Value::Array(_) | Value::Object(_) => json::to_string(v),
        Value::Null => "null".to_owned(),
        other => govalue::sprint(other),
    };
    results.iter().map(text).collect::<Vec<_>>().join(" ")
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
        super::render(&JsonPath::new(template)?, &data, Options { allow_missing_keys: true, json: false })
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
