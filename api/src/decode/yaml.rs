//! YAML to JSON values as upstream reads it (`sigs.k8s.io/yaml`): scalars by the rules of YAML 1.1 (`0644` is a number, `on` is true), keys become strings,
//! duplicate keys are remembered with their lines, documents of a stream are told apart.
//!
//! The events come from a parser that tells plain scalars from quoted ones; of serde_yaml only the errors are used, since it is a port of the same
//! library as upstream's parser and says what that says. Anchors are expanded, with a bound on what comes of it.

use base64::Engine;
use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// A document as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The value.
    pub value: Value,
    /// `line 2: key "a" already set in map` for each key that stands twice in one mapping; the last one counts.
    pub duplicates: Vec<String>,
}

/// How many values the expansion of aliases may make; upstream allows about twice as many.
const MAX_ALIASED: usize = 200_000;
/// How deep values may be nested: as deep as JSON may be (see [`super::json`]).
const MAX_DEPTH: usize = 128;

/// Reads the first document. The error is upstream's: `yaml: line 1: did not find expected ',' or ']'`.
pub fn parse(text: &str) -> Result<Document, String> {
    check_nesting(text)?;
    let mut reader = Reader::new(text);
    Ok(reader.document()?.unwrap_or(Document { value: Value::Null, duplicates: Vec::new() }))
}

/// Reads all documents of a stream; empty ones are left out.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    check_nesting(text)?;
    let mut reader = Reader::new(text);
    let mut all = Vec::new();
    while let Some(document) = reader.document()? {
        if !document.value.is_null() {
            all.push(document.value);
        }
    }
    Ok(all)
}

/// A mapping or list that is being read.
enum Open {
    List(usize, Vec<Value>),
    Map { anchor: usize, map: Map<String, Value>, key: Option<String>, merged: Vec<Value> },
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    aliased: usize,
    duplicates: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Reader { text, parser: Parser::new_from_str(text), anchors: HashMap::new(), aliased: 0, duplicates: Vec::new() }
    }

    /// The next document, if there is one.
    fn document(&mut self) -> Result<Option<Document>, String> {
        let mut stack: Vec<Open> = Vec::new();
        while let Some(event) = self.parser.next() {
            let (event, span) = event.map_err(|e| scan_error(self.text, &e))?;
            let line = span.start.line();
            if stack.len() > MAX_DEPTH {
                return Err(format!("yaml: exceeded max depth of {MAX_DEPTH}"));
            }
            let (value, anchor) = match event {
                Event::Scalar(text, style, anchor, tag) => (scalar(&text, style, tag.as_deref())?, anchor),
                Event::Alias(anchor) => (self.alias(anchor)?, 0),
                Event::SequenceStart(anchor, _) => {
                    stack.push(Open::List(anchor, Vec::new()));
                    continue;
                }
                Event::MappingStart(anchor, _) => {
                    stack.push(Open::Map { anchor, map: Map::new(), key: None, merged: Vec::new() });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                    Some(Open::List(anchor, items)) => (Value::Array(items), anchor),
                    Some(Open::Map { anchor, map, merged, .. }) => (merge(map, merged)?, anchor),
                    None => continue,
                },
                Event::DocumentStart(_) | Event::StreamStart | Event::DocumentEnd | Event::Nothing => continue,
                Event::StreamEnd => return Ok(None),
            };
            if anchor != 0 {
                self.anchors.insert(anchor, value.clone());
            }
            match stack.last_mut() {
                None => return Ok(Some(Document { value, duplicates: std::mem::take(&mut self.duplicates) })),
                Some(Open::List(_, items)) => items.push(value),
                Some(Open::Map { map, key: pending, merged, .. }) => match pending.take() {
                    None => *pending = Some(key(value)?),
                    Some(name) if name == "<<" && (value.is_object() || value.is_array()) => merged.push(value),
                    Some(name) => {
                        if map.contains_key(&name) {
                            self.duplicates.push(format!("line {line}: key {name:?} already set in map"));
                        }
                        map.insert(name, value);
                    }
                },
            }
        }
        Ok(None)
    }

    fn alias(&mut self, anchor: usize) -> Result<Value, String> {
        let value = self.anchors.get(&anchor).ok_or("yaml: unknown anchor referenced")?;
        self.aliased += count(value);
        if self.aliased > MAX_ALIASED {
            return Err("yaml: document contains excessive aliasing".into());
        }
        Ok(value.clone())
    }
}

/// The parser's time grows with the square of how deep flow collections are nested, so that is looked at before. Brackets in texts count too:
/// the bound is far above what depth allows, and no text has so many of them unbalanced.
fn check_nesting(text: &str) -> Result<(), String> {
    let mut depth = 0_usize;
    for b in text.bytes() {
        match b {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > 8 * MAX_DEPTH {
            return Err(format!("yaml: exceeded max depth of {MAX_DEPTH}"));
        }
    }
    Ok(())
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// What the `<<` keys of a mapping refer to stands behind what the mapping says itself.
fn merge(mut map: Map<String, Value>, merged: Vec<Value>) -> Result<Value, String> {
    for source in merged.into_iter().flat_map(|m| if let Value::Array(all) = m { all } else { vec![m] }) {
        let Value::Object(source) = source else { return Err("yaml: map merge requires map or sequence of maps as the value".into()) };
        for (name, value) in source {
            map.entry(name).or_insert(value);
        }
    }
    Ok(Value::Object(map))
}

fn key(value: Value) -> Result<String, String> {
    match value {
        Value::String(name) => Ok(name),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null => Ok("null".into()),
        Value::Array(_) | Value::Object(_) => Err("yaml: invalid map key: a mapping or a list".into()),
    }
}

/// A scalar's value (upstream: `goyaml.v2/resolve.go`).
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let tag = tag.filter(|t| t.is_yaml_core_schema()).map(|t| t.suffix.as_str());
    match tag {
        Some("str") => Ok(text.into()),
        Some("binary") => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.replace(char::is_whitespace, ""));
            let text = bytes.ok().and_then(|b| String::from_utf8(b).ok()).ok_or("yaml: !!binary value contains invalid base64 data")?;
            Ok(text.into())
        }
        None if style != ScalarStyle::Plain => Ok(text.into()),
        _ => plain(text),
    }
}

fn plain(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => true.into(),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => false.into(),
        ".nan" | ".NaN" | ".NAN" => return Err("json: unsupported value: NaN".into()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Err("json: unsupported value: +Inf".into()),
        "-.inf" | "-.Inf" | "-.INF" => return Err("json: unsupported value: -Inf".into()),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
            let digits: Cow<'_, str> = if text.contains('_') { text.replace('_', "").into() } else { text.into() };
            integer(&digits).or_else(|| float(&digits)).unwrap_or_else(|| text.into())
        }
        _ => text.into(),
    })
}

/// A number as Go reads it when asked to find the base out: `0644` and `0o644` are octal.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    let number = if negative { -number } else { number };
    i64::try_from(number).map(Value::from).or_else(|_| u64::try_from(number).map(Value::from)).ok()
}

/// `^[-+]?[0-9]*\.?[0-9]+([eE][-+][0-9]+)?$`: without a sign in its exponent it is a text, which is what a quantity like `1e3` wants to be.
fn float(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let is_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or(("", mantissa));
    let shaped = is_digits(fraction) && (whole.is_empty() || is_digits(whole));
    if !shaped || !exponent.is_none_or(|e| e.strip_prefix(['-', '+']).is_some_and(is_digits)) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    // A float that is whole is written without a fraction, as Go's encoder does.
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return Some((number as i64).into());
    }
    Number::from_f64(number).map(Value::Number)
}

/// Upstream's message for a text that is no YAML.
fn scan_error(text: &str, error: &saphyr_parser::ScanError) -> String {
    for document in serde_yaml::Deserializer::from_str(text) {
        if let Err(e) = <serde::de::IgnoredAny as serde::Deserialize>::deserialize(document) {
            return message(&e);
        }
    }
    format!("yaml: line {}: {}", error.marker().line(), error.info())
}

/// Upstream counts lines from zero when its parser fails and from one when its scanner does, prefers the line where the construct began,
/// and names no line when that is the first by its count.
fn message(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let (problem, context) = text.split_once(", while ").unwrap_or((&text, ""));
    let what = problem.split(" at line ").next().unwrap_or(problem);
    let scanner = context.starts_with("scanning") || what.ends_with("not allowed in this context");
    let line = [line_of(context), line_of(problem)].into_iter().find(|l| *l > 0).map_or(0, |l| l + usize::from(scanner));
    if line == 0 { format!("yaml: {what}") } else { format!("yaml: line {line}: {what}") }
}

/// The line in `... at line 2 column 1`, counted from zero.
fn line_of(text: &str) -> usize {
    let rest = text.split_once(" at line ").and_then(|(_, rest)| rest.split(' ').next());
    rest.and_then(|n| n.trim_end_matches(',').parse::<usize>().ok()).map_or(0, |n| n.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars() {
        for (text, value) in [
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("\"0644\"", json!("0644")),
            ("08", json!(8)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("-5", json!(-5)),
            ("+5", json!(5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("1.5", json!(1.5)),
            ("2.0", json!(2)),
            ("1e3", json!("1e3")),
            ("1e+3", json!(1000)),
            ("yes", json!(true)),
            ("'yes'", json!("yes")),
            ("Off", json!(false)),
            ("~", json!(null)),
            ("", json!(null)),
            ("2020-01-01", json!("2020-01-01")),
            ("12:30:45", json!("12:30:45")),
            ("1.2.3", json!("1.2.3")),
            ("100m", json!("100m")),
            ("!!str 5", json!("5")),
            ("!!binary aGk=", json!("hi")),
            ("-", json!([null])),
            ("|\n  a\n  b\n", json!("a\nb\n")),
        ] {
            assert_eq!(parse(text).map(|d| d.value), Ok(value), "{text:?}");
        }
    }

    #[test]
    fn documents_and_keys() {
        let text = "a: 1\n1: b\ntrue: c\nlist: [x, {w: z}]\n";
        assert_eq!(parse(text).expect("YAML").value, json!({"a": 1, "1": "b", "true": "c", "list": ["x", {"w": "z"}]}));
        assert_eq!(documents("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n"), Ok(vec![json!({"a": 1}), json!({"b": 2})]));
        assert_eq!(
            parse("a: &x {k: v}\nb: *x\nc: {<<: *x, l: m}\n").expect("anchors").value,
            json!({"a": {"k": "v"}, "b": {"k": "v"}, "c": {"k": "v", "l": "m"}})
        );
        assert_eq!(parse("a: 1\nb: 2\na: 3\n").expect("duplicate").duplicates, ["line 3: key \"a\" already set in map"]);
        assert_eq!(parse("{\"a\": [1]}").expect("JSON is YAML").value, json!({"a": [1]}));
    }

    #[test]
    fn errors() {
        for (text, error) in [
            ("a: [b", "yaml: line 1: did not find expected ',' or ']'"),
            ("a: b\nc: d: e\n", "yaml: line 2: mapping values are not allowed in this context"),
            ("a: 5\n\tb: 1", "yaml: line 2: found a tab character that violates indentation"),
            ("x: @y", "yaml: found character that cannot start any token"),
            ("a: .inf", "json: unsupported value: +Inf"),
        ] {
            assert_eq!(parse(text), Err(error.into()), "{text:?}");
        }
    }

    #[test]
    fn aliases_are_bounded() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let item = format!("*a{}", i - 1);
            text += &format!("a{i}: &a{i} [{}]\n", vec![item; 10].join(", "));
        }
        assert_eq!(parse(&text), Err("yaml: document contains excessive aliasing".into()));
        for nested in ["[", "{a: "] {
            assert_eq!(parse(&nested.repeat(100_000)), Err("yaml: exceeded max depth of 128".into()));
        }
    }

    proptest::proptest! {
        /// What is written as JSON is read as the same, whatever the text.
        #[test]
        fn quoted_texts_stay(text in "\\PC*") {
            let json = serde_json::json!({"k": text});
            proptest::prop_assert_eq!(parse(&json.to_string()).map(|d| d.value), Ok(json));
        }

        #[test]
        fn never_panics(text in "[-a-z0-9:{}\\[\\],&*!|>'\"# \n]{0,40}") {
            drop(parse(&text));
        }
    }
}
