//! What OpenAPI says about the built-in types and their fields, from a table that is part of the program but stays untouched, so that it costs no memory,
//! until a document is asked for. Made anew for each document: it is a few milliseconds, and documents are kept by those who serve them.

use std::borrow::Cow;
use std::collections::HashMap;

/// The texts by type, and by field within a type.
pub struct Descriptions {
    types: HashMap<String, Described>,
}

#[derive(Default)]
struct Described {
    text: &'static str,
    fields: HashMap<&'static str, &'static str>,
}

impl Descriptions {
    /// The built-in types' texts.
    pub fn builtin() -> Self {
        let mut types = HashMap::new();
        let (mut package, mut current) = ("", None::<(String, Described)>);
        for line in include_str!("descriptions.txt").lines() {
            if let Some(field) = line.strip_prefix(' ') {
                let (name, text) = field.split_once(' ').unwrap_or((field, ""));
                if let Some((_, described)) = &mut current {
                    described.fields.insert(name, text);
                }
                continue;
            }
            types.extend(current.take());
            match line.strip_prefix("package ") {
                Some(name) => package = name,
                None => {
                    let (name, text) = line.split_once(' ').unwrap_or((line, ""));
                    current = Some((format!("{package}.{name}"), Described { text, fields: HashMap::new() }));
                }
            }
        }
        types.extend(current);
        Descriptions { types }
    }

    /// What is said about the type of that full name.
    pub fn of_type(&self, name: &str) -> Option<Cow<'static, str>> {
        self.types.get(name).map(|d| unescape(d.text)).filter(|t| !t.is_empty())
    }

    /// What is said about a field of it.
    pub fn of_field(&self, name: &str, field: &str) -> Option<Cow<'static, str>> {
        self.types.get(name)?.fields.get(field).map(|t| unescape(t))
    }
}

fn unescape(text: &'static str) -> Cow<'static, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_described() {
        let descriptions = Descriptions::builtin();
        for row in crate::resources::all() {
            assert!(descriptions.of_type(&row.schema).is_some(), "{}", row.schema);
        }
        let pod = "io.k8s.api.core.v1.Pod";
        assert_eq!(descriptions.of_field("io.k8s.api.core.v1.PodSpec", "hostNetwork").map(|t| t.contains("Host networking")), Some(true));
        assert!(descriptions.of_field(pod, "spec").is_some_and(|t| t.starts_with("Specification of the desired behavior of the pod.")));
        assert!(descriptions.of_field("io.k8s.api.core.v1.PodSpec", "os").is_some_and(|t| t.contains("\n\nIf the OS field")));
        assert!(descriptions.of_field(pod, "nosuch").is_none());
    }
}
