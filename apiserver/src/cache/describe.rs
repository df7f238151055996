//! What selectors can ask of an object, read out of its text in one pass: its labels and the fields its resource lets clients select by.
//! Everything else in the text is skipped without being built.

use super::entry::Attributes;
use api::resource::Text;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::sync::Arc;

/// Reads the attributes out of an object's stored text.
pub type Describe = Arc<dyn Fn(&[u8]) -> serde_json::Result<Attributes> + Send + Sync>;

/// The description by a row's `selectable_fields`: the values at these paths (`spec.nodeName`), numbers and booleans printed, a missing
/// value as the empty string.
pub fn describe_by_paths(fields: &[Text]) -> Describe {
    let fields: Arc<[Text]> = fields.iter().filter(|f| !matches!(f.as_ref(), "metadata.name" | "metadata.namespace")).cloned().collect();
    let mut root = Node::default();
    root.at("metadata.labels").what = What::Labels;
    for (index, path) in fields.iter().enumerate() {
        root.at(path).what = What::Field(index);
    }
    Arc::new(move |text| {
        let mut found = Found { labels: Vec::new(), fields: vec![Box::default(); fields.len()] };
        let mut json = serde_json::Deserializer::from_slice(text);
        Walk { node: &root, found: &mut found }.deserialize(&mut json)?;
        found.labels.sort_unstable();
        Ok(Attributes { labels: found.labels.into(), fields: fields.iter().cloned().zip(found.fields).collect() })
    })
}

#[derive(Default)]
enum What {
    #[default]
    Nothing,
    Labels,
    Field(usize),
}

/// The paths as a tree: what to take at a place, and which fields below it to look into.
#[derive(Default)]
struct Node {
    what: What,
    children: Vec<(String, Node)>,
}

impl Node {
    fn at(&mut self, path: &str) -> &mut Node {
        path.split('.').fold(self, |node, field| {
            let known = node.children.iter().position(|(name, _)| name == field);
            let index = known.unwrap_or_else(|| {
                node.children.push((field.to_owned(), Node::default()));
                node.children.len() - 1
            });
            &mut node.children[index].1
        })
    }
}

struct Found {
    labels: Vec<(Box<str>, Box<str>)>,
    fields: Vec<Box<str>>,
}

struct Walk<'a> {
    node: &'a Node,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn take(self, text: &str) {
        if let What::Field(index) = self.node.what {
            self.found.fields[index] = text.into();
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        self.take(v);
        Ok(())
    }
    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        self.take(if v { "true" } else { "false" });
        Ok(())
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.take(&v.to_string());
        Ok(())
    }
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.take(&v.to_string());
        Ok(())
    }
    fn visit_f64<E>(self, v: f64) -> Result<(), E> {
        self.take(&v.to_string());
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if matches!(self.node.what, What::Labels) {
            while let Some((key, value)) = map.next_entry::<Box<str>, Box<str>>()? {
                self.found.labels.push((key, value));
            }
            return Ok(());
        }
        while let Some(child) = map.next_key_seed(Child(self.node))? {
            match child {
                Some(node) => map.next_value_seed(Walk { node, found: &mut *self.found })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Finds the child that a map's key names, without copying the key.
struct Child<'a>(&'a Node);

impl<'de, 'a> DeserializeSeed<'de> for Child<'a> {
    type Value = Option<&'a Node>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Child<'a> {
    type Value = Option<&'a Node>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|(name, _)| name == key).map(|(_, node)| node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn takes_labels_and_the_fields_asked_for() {
        let describe =
            describe_by_paths(&["spec.nodeName".into(), "metadata.name".into(), "spec.x.y".into(), "status.n".into(), "a".into()]);
        let object = json!({
            "metadata": {"labels": {"b": "2", "a": "1", "e": "\u{e9}\n"}, "name": "n", "annotations": {"labels": "no"}},
            "spec": {"nodeName": "n1", "containers": [{"nodeName": "no"}], "x": {"y": true, "z": [1, {}]}},
            "status": {"n": -3}
        });
        let attributes = describe(object.to_string().as_bytes()).unwrap();
        let labels: Vec<(&str, &str)> = attributes.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(labels, [("a", "1"), ("b", "2"), ("e", "\u{e9}\n")]);
        let fields: Vec<(&str, &str)> = attributes.fields.iter().map(|(k, v)| (k.as_ref(), &**v)).collect();
        assert_eq!(fields, [("spec.nodeName", "n1"), ("spec.x.y", "true"), ("status.n", "-3"), ("a", "")]);
    }

    #[test]
    fn odd_shapes_are_skipped_and_broken_text_is_an_error() {
        let describe = describe_by_paths(&["spec.a".into()]);
        for text in [r#"{"spec":null,"metadata":{"labels":null}}"#, r#"{"spec":[1],"metadata":"x"}"#, r#"{"spec":{"a":{"b":1}}}"#, "{}"] {
            let attributes = describe(text.as_bytes()).unwrap();
            assert_eq!((attributes.labels.len(), &*attributes.fields[0].1), (0, ""), "{text}");
        }
        assert!(describe(b"{\"spec\":").is_err());
    }
}
