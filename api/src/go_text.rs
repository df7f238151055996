//! JSON with the fields in the order of upstream's structs, as it stands in messages that show a whole value. What clients parse needs none of this:
//! objects are sent with their fields sorted.

use crate::schema::{Root, Schema, Type};
use serde_json::{Map, Value};

/// A value of the type `ty` as Go's encoder prints it.
pub fn go_text(schema: &Schema, ty: &Type, value: &Value) -> String {
    let mut out = String::new();
    print(schema, ty, value, &mut out);
    out
}

/// A patched object as upstream shows it when it does not decode: its patch library sorts the fields of the object itself and leaves those below in
/// the order they came in.
pub fn patched_text(root: Root<'_>, object: &Value) -> String {
    let Value::Object(map) = object else { return object.to_string() };
    let mut out = String::new();
    let definition = root.definition();
    members(map.iter().map(|(k, v)| (k, v, definition.field(k).map_or(&Type::Json, |f| &f.ty))), root.schema, &mut out);
    out
}

fn print(schema: &Schema, ty: &Type, value: &Value, out: &mut String) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => {
            let definition = schema.get(*id);
            let declared = definition.fields.iter().filter_map(|f| map.get_key_value(f.name.as_ref()).map(|(k, v)| (k, v, &f.ty)));
            let others = map.iter().filter(|(k, _)| definition.field(k).is_none()).map(|(k, v)| (k, v, &Type::Json));
            members(declared.chain(others), schema, out);
        }
        (Type::Map(item), Value::Object(map)) => members(map.iter().map(|(k, v)| (k, v, item.as_ref())), schema, out),
        (_, Value::Object(map)) => sorted(map, schema, out),
        (_, Value::Array(items)) => {
            let item = if let Type::List(item) = ty { item } else { &Type::Json };
            out.push('[');
            for (i, value) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                print(schema, item, value, out);
            }
            out.push(']');
        }
        (_, scalar) => escaped(&scalar.to_string(), out),
    }
}

fn sorted(map: &Map<String, Value>, schema: &Schema, out: &mut String) {
    members(map.iter().map(|(k, v)| (k, v, &Type::Json)), schema, out);
}

fn members<'a>(members: impl Iterator<Item = (&'a String, &'a Value, &'a Type)>, schema: &Schema, out: &mut String) {
    out.push('{');
    for (i, (name, value, ty)) in members.enumerate() {
        out.push_str(if i > 0 { "," } else { "" });
        escaped(&Value::from(name.as_str()).to_string(), out);
        out.push(':');
        print(schema, ty, value, out);
    }
    out.push('}');
}

/// Go escapes what could end a script element or break a line of JavaScript.
fn escaped(json: &str, out: &mut String) {
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use serde_json::json;

    #[test]
    fn order() {
        let root = schema::of_kind("v1", "ConfigMap").expect("ConfigMap");
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"b": "<", "a": 1}, "metadata": {"uid": "u", "namespace": "n", "name": "a", "labels": {"y": "1", "x": "2"}}});
        let metadata = r#""metadata":{"name":"a","namespace":"n","uid":"u","labels":{"x":"2","y":"1"}}"#;
        let data = r#""data":{"a":1,"b":"\u003c"}"#;
        assert_eq!(go_text(root.schema, &root.ty(), &object), format!(r#"{{"kind":"ConfigMap","apiVersion":"v1",{metadata},{data}}}"#));
        assert_eq!(patched_text(root, &object), format!(r#"{{"apiVersion":"v1",{data},"kind":"ConfigMap",{metadata}}}"#));
    }
}
