//! Sets of field paths, as `metadata.managedFields` has them (upstream: `structured-merge-diff/fieldpath`).
//!
//! A set is a tree whose edges are path elements in their serialised form: `f:name` a field or map key, `k:{"name":"c"}` a list item by its keys, `v:"x"` an
//! item of a set by its value, `i:0` an item by its index. That form is canonical here (compact, keys sorted), so that comparing texts is enough.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A set of paths below some place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Box<str>, Node>);

/// What a set says of one place: whether the place itself is in it, and what below is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether the place itself is in the set.
    pub member: bool,
    /// What below it is.
    pub children: Set,
}

impl Node {
    /// Whether neither the place nor anything below it is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

/// The element for a field or map key.
pub fn field_element(name: &str) -> Box<str> {
    format!("f:{name}").into()
}

impl Set {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set of these fields, each a path of names with dots: `metadata.labels`.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Set::default();
        for path in paths {
            let mut children = &mut set;
            let mut parts = path.split('.').peekable();
            while let Some(part) = parts.next() {
                let node = children.0.entry(field_element(part)).or_default();
                node.member |= parts.peek().is_none();
                children = &mut node.children;
            }
        }
        set
    }

    /// What it says of the place behind `element`.
    pub fn get(&self, element: &str) -> Option<&Node> {
        self.0.get(element)
    }

    /// Puts `node` behind `element`, unless it is empty.
    pub fn put(&mut self, element: Box<str>, node: Node) {
        if !node.is_empty() {
            self.0.insert(element, node);
        }
    }

    /// All elements with what is behind them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(e, n)| (e.as_ref(), n))
    }

    /// The same, to change.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Node)> {
        self.0.iter_mut().map(|(e, n)| (e.as_ref(), n))
    }

    /// Adds all of `other`.
    pub fn union(&mut self, other: &Set) {
        for (element, theirs) in &other.0 {
            match self.0.get_mut(element) {
                Some(ours) => {
                    ours.member |= theirs.member;
                    ours.children.union(&theirs.children);
                }
                None => drop(self.0.insert(element.clone(), theirs.clone())),
            }
        }
    }

    /// Takes away what is in `other`; what is below that stays.
    pub fn subtract(&mut self, other: &Set) {
        self.0.retain(|element, ours| {
            if let Some(theirs) = other.0.get(element) {
                ours.member &= !theirs.member;
                ours.children.subtract(&theirs.children);
            }
            !ours.is_empty()
        });
    }

    /// Takes away what is in `other` and all that is below that.
    pub fn subtract_trees(&mut self, other: &Set) {
        self.0.retain(|element, ours| {
            match other.0.get(element) {
                Some(theirs) if theirs.member => return false,
                Some(theirs) => ours.children.subtract_trees(&theirs.children),
                None => {}
            }
            !ours.is_empty()
        });
    }

    /// What is in both.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set::default();
        for (element, ours) in &self.0 {
            if let Some(theirs) = other.0.get(element) {
                let children = ours.children.intersection(&theirs.children);
                out.put(element.clone(), Node { member: ours.member && theirs.member, children });
            }
        }
        out
    }

    /// The paths in it as upstream prints them: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        // Members of a level come before what is below its elements.
        for (element, node) in &self.0 {
            if node.member {
                out.push(format!("{prefix}{}", show_element(element)));
            }
        }
        for (element, node) in self.0.iter().filter(|(_, n)| !n.children.is_empty()) {
            node.children.collect(&format!("{prefix}{}", show_element(element)), out);
        }
    }

    /// The `FieldsV1` of it.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.0 {
            let mut value = node.children.to_value();
            if node.member && !node.children.is_empty() {
                value.as_object_mut().expect("a set prints as an object").insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.to_string(), value);
        }
        Value::Object(map)
    }

    /// The set of a `FieldsV1`. What is no path element is left out, as from a newer version.
    pub fn from_value(value: &Value) -> Self {
        let mut set = Set::default();
        for (element, below) in value.as_object().into_iter().flatten() {
            let Some(element) = canonical(element) else { continue };
            let children = Set::from_value(below);
            let empty = below.as_object().is_none_or(Map::is_empty);
            set.put(element, Node { member: empty || below.get(".").is_some(), children });
        }
        set
    }
}

fn canonical(element: &str) -> Option<Box<str>> {
    let (kind, rest) = element.split_once(':')?;
    match kind {
        "f" | "i" => Some(element.into()),
        "v" => Some(format!("v:{}", serde_json::from_str::<Value>(rest).ok()?).into()),
        "k" => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
            Some(key_element(keys.iter().map(|(k, v)| (k.as_str(), v))))
        }
        _ => None,
    }
}

/// The element for a list item with these keys, which come sorted.
pub(super) fn key_element<'a>(keys: impl Iterator<Item = (&'a str, &'a Value)>) -> Box<str> {
    let mut text = String::from("k:{");
    for (i, (key, value)) in keys.enumerate() {
        write!(text, "{}{}:{value}", if i > 0 { "," } else { "" }, Value::from(key)).expect("writing to a String cannot fail");
    }
    text.push('}');
    text.into()
}

/// An element in a path: `.name`, `[name="c"]`, `[="x"]`, `[0]`.
pub(super) fn show_element(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            format!("[{}]", keys.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn round_trip_and_arithmetic() {
        let value = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}, "f:b": {}}}, "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:x": {"v:\"y\"": {}, "i:0": {}}}});
        let set = Set::from_value(&value);
        assert_eq!(set.to_value(), value);
        assert_eq!(
            Set::from_value(&json!({"k:{ \"protocol\": \"TCP\", \"port\": 80 }": {}})).to_value(),
            json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}})
        );
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".metadata.labels.b",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
                ".spec.x[0]",
                ".spec.x[=\"y\"]"
            ]
        );

        let labels = Set::of_fields(&["metadata.labels"]);
        let mut rest = set.clone();
        rest.subtract(&labels);
        assert_eq!(rest.to_value()["f:metadata"], json!({"f:labels": {"f:a": {}, "f:b": {}}}), "what is below stays");
        let mut rest = set.clone();
        rest.subtract_trees(&labels);
        assert!(rest.get("f:metadata").is_none(), "what is below goes");
        assert_eq!(set.intersection(&labels), labels);
        rest.union(&set);
        assert_eq!(rest, set);
        let mut bare = Set::from_value(&json!({"f:labels": {".": {}, "f:x": {}}}));
        bare.subtract(&Set::of_fields(&["labels.x"]));
        assert_eq!(bare.to_value(), json!({"f:labels": {}}));
    }
}
