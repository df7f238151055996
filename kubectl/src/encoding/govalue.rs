//! Values in the words of Go's `fmt`: `map[a:b]`, `[x y]`, `<nil>`. Templates and custom columns print composite values so.

use serde_json::{Number, Value};

/// What `%v` prints.
pub fn sprint(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => number(n),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(sprint).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(k, _)| *k);
            format!("map[{}]", pairs.into_iter().map(|(k, v)| format!("{k}:{}", sprint(v))).collect::<Vec<_>>().join(" "))
        }
    }
}

/// What `%#v` prints.
pub fn sprint_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => number(n),
        Value::String(s) => quote(s),
        Value::Array(items) => format!("[]interface {{}}{{{}}}", items.iter().map(sprint_syntax).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(k, _)| *k);
            let pairs: Vec<_> = pairs.into_iter().map(|(k, v)| format!("{}:{}", quote(k), sprint_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", pairs.join(", "))
        }
    }
}

pub use api::go_value::type_name;

/// `%v` of a number: Go switches floats to exponents at 21 digits.
pub fn number(n: &Number) -> String {
    let Some(f) = n.as_f64().filter(|_| n.is_f64()) else { return n.to_string() };
    let magnitude = f.abs();
    if magnitude == 0.0 || (1e-4..1e21).contains(&magnitude) {
        return format!("{f}");
    }
    super::json::number(n)
}

/// `%q`: Go's quoting of a text.
pub fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_print_as_fmt_does() {
        let v = json!({"b": [1, "x", null], "a": {"t": true}});
        assert_eq!(sprint(&v), "map[a:map[t:true] b:[1 x <nil>]]");
        assert_eq!(
            sprint_syntax(&v),
            "map[string]interface {}{\"a\":map[string]interface {}{\"t\":true}, \"b\":[]interface {}{1, \"x\", interface {}(nil)}}"
        );
    }
}
