//! JSON as Go's `encoding/json` writes it: `<`, `>`, `&` escaped, keys in a given order, floats in Go's notation.

use super::typed_order;
pub use api::yaml::number;
use serde_json::Value;

/// In which order an object's keys are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As Go writes maps: what came from the server.
    Sorted,
    /// As Go writes its structs: what kubectl itself made.
    Typed,
}

/// Indented by `indent` a level, without a last newline.
pub fn to_string_indented(value: &Value, indent: &str, order: Order) -> String {
    let mut out = String::new();
    write(&mut out, value, Some(indent), 0, order, "");
    out
}

/// On one line.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, None, 0, Order::Sorted, "");
    out
}

fn write(out: &mut String, value: &Value, indent: Option<&str>, depth: usize, order: Order, parent: &str) {
    let newline = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&number(n)),
        Value::String(s) => quote(out, s),
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                newline(out, depth + 1);
                write(out, item, indent, depth + 1, order, parent);
            }
            newline(out, depth);
            out.push(']');
        }
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Object(map) => {
            out.push('{');
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            if order == Order::Typed {
                keys.sort_by_key(|k| typed_order::rank(parent, k));
            }
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                newline(out, depth + 1);
                quote(out, key);
                out.push(':');
                if indent.is_some() {
                    out.push(' ');
                }
                write(out, &map[key], indent, depth + 1, order, key);
            }
            newline(out, depth);
            out.push('}');
        }
    }
}

fn quote(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn escapes_and_orders_as_go() {
        assert_eq!(
            to_string(&json!({"b": "<&>\u{1}", "a": [1, 1.5, null, {}]})),
            r#"{"a":[1,1.5,null,{}],"b":"\u003c\u0026\u003e\u0001"}"#
        );
        let typed = to_string_indented(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"kind": "b", "a": "c"}, "name": "x"}}),
            "  ",
            Order::Typed,
        );
        assert_eq!(
            typed,
            "{\n  \"kind\": \"Pod\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"name\": \"x\",\n    \"labels\": {\n      \"a\": \"c\",\n      \"kind\": \"b\"\n    }\n  }\n}"
        );
    }

    #[test]
    fn floats_are_gos() {
        for (f, text) in [(1.0, "1"), (0.1, "0.1"), (1e21, "1e+21"), (1e-7, "1e-07"), (1e20, "100000000000000000000")] {
            assert_eq!(number(&serde_json::Number::from_f64(f).unwrap()), text);
        }
    }
}
