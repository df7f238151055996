//! Any kind, field by field: names in words, lists and maps indented.

use super::writer::{Writer, show};
use crate::encoding::govalue::sprint;
use serde_json::Value;

/// Name, labels, then every other field.
pub fn any(object: &Value, w: &mut Writer) {
    let meta = &object["metadata"];
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    let hidden = ["metadata.managedFields", "metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations"];
    fields(object, 0, "", &hidden, w);
}

fn fields(value: &Value, level: usize, path: &str, hidden: &[&str], w: &mut Writer) {
    let Some(map) = value.as_object() else { return };
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    for key in keys {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if hidden.contains(&at.as_str()) {
            continue;
        }
        let title = title(key);
        match &map[key] {
            Value::Object(_) => {
                w.line(level, format!("{title}:"));
                fields(&map[key], level + 1, &at, hidden, w);
            }
            Value::Array(items) => {
                w.line(level, format!("{title}:"));
                for item in items {
                    match item {
                        Value::Object(_) => fields(item, level + 1, &at, hidden, w),
                        other => w.line(level + 1, sprint(other)),
                    }
                }
            }
            other => w.field(level, &title, sprint(other)),
        }
    }
}

/// `creationTimestamp` as `Creation Timestamp`, `apiVersion` as `API Version`.
fn title(key: &str) -> String {
    if key == "apiVersion" {
        return "API Version".to_owned();
    }
    let mut words = String::new();
    let chars: Vec<char> = key.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let starts_word = i > 0 && c.is_uppercase() && (chars[i - 1].is_lowercase() || chars.get(i + 1).is_some_and(|n| n.is_lowercase()));
        if starts_word {
            words.push(' ');
        }
        if i == 0 { words.extend(c.to_uppercase()) } else { words.push(*c) }
    }
    let acronyms = [("Uid", "UID"), ("Id", "ID"), ("Api", "API"), ("Ip", "IP"), ("Url", "URL"), ("Osb", "OSB")];
    let fixed = |w: &str| acronyms.iter().find(|(a, _)| *a == w).map_or(w.to_owned(), |(_, b)| (*b).to_owned());
    words.split(' ').map(fixed).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_words() {
        for (key, words) in [
            ("creationTimestamp", "Creation Timestamp"),
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("podIP", "Pod IP"),
            ("spec", "Spec"),
        ] {
            assert_eq!(title(key), words);
        }
    }
}
