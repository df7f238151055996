//! What a parsed path finds in a value.

use super::parse::Node;
use crate::go_value;
use serde_json::Value;
use std::cmp::Ordering;

/// How a template is evaluated and printed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A missing field is nothing, not an error.
    pub allow_missing_keys: bool,
    /// Print every result as a JSON list (`-o jsonpath-as-json`).
    pub json: bool,
}

type Found = Result<Vec<Value>, String>;

/// The results of each node at top level; a range gives one entry per node and round.
pub fn find(nodes: &[Node], data: &Value, options: Options) -> Result<Vec<Vec<Value>>, String> {
    let mut all = Vec::new();
    for node in nodes {
        match node {
            Node::Range(over, body) => {
                for value in walk(over, vec![data.clone()], options)? {
                    all.extend(find(body, &value, options)?);
                }
            }
            Node::List(steps) => all.push(walk(steps, vec![data.clone()], options)?),
            other => all.push(step(other, vec![data.clone()], options)?),
        }
    }
    Ok(all)
}

fn walk(steps: &[Node], mut current: Vec<Value>, options: Options) -> Found {
    for s in steps {
        current = step(s, current, options)?;
    }
    Ok(current)
}

fn step(node: &Node, input: Vec<Value>, options: Options) -> Found {
    match node {
        Node::Text(t) => Ok(vec![Value::String(t.clone())]),
        Node::Int(n) => Ok(vec![Value::from(*n)]),
        Node::Float(f) => Ok(vec![Value::from(*f)]),
        Node::Bool(b) => Ok(vec![Value::Bool(*b)]),
        Node::Identifier(word) => Err(format!("unrecognized identifier {word}")),
        Node::List(steps) => walk(steps, input, options),
        Node::Range(over, _) => walk(over, input, options),
        Node::Field(name) => field(name, input, options),
        Node::Array { start, end, derived, step } => array(&input, *start, *end, *derived, *step),
        Node::Union(parts) => {
            let mut out = Vec::new();
            for part in parts {
                out.extend(walk(part, input.clone(), options)?);
            }
            Ok(out)
        }
        Node::Filter(left, operator, right) => filter(&input, left, operator, right, options),
        Node::Wildcard => Ok(input.iter().flat_map(children).collect()),
        Node::Recursive => {
            let mut out = Vec::new();
            input.into_iter().for_each(|v| descend(v, &mut out));
            Ok(out)
        }
    }
}

fn children(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        Value::Object(map) => map.values().cloned().collect(),
        _ => Vec::new(),
    }
}

fn descend(value: Value, out: &mut Vec<Value>) {
    let below = children(&value);
    out.push(value);
    below.into_iter().for_each(|v| descend(v, out));
}

fn field(name: &str, input: Vec<Value>, options: Options) -> Found {
    if input.is_empty() {
        return Ok(input);
    }
    // `{.}` is the object itself.
    if name.is_empty() {
        return Ok(input);
    }
    let out: Vec<Value> = input.iter().filter_map(|v| v.as_object()?.get(name).cloned()).collect();
    if out.is_empty() && !options.allow_missing_keys {
        return Err(format!("{name} is not found"));
    }
    Ok(out)
}

fn array(input: &[Value], start: Option<i64>, end: Option<i64>, derived: bool, step: Option<i64>) -> Found {
    let mut out = Vec::new();
    for value in input.iter().filter(|v| !v.is_null()) {
        let Value::Array(items) = value else {
            return Err(format!("{} is not array or slice", go_value::type_name(value)));
        };
        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let mut from = start.unwrap_or(0);
        if from < 0 {
            from += length;
        }
        let mut to = end.unwrap_or(length);
        if to < 0 || (to == 0 && derived) {
            to += length;
        }
        if from == to {
            continue;
        }
        for (at, bad) in [(from, from >= length || from < 0), (to - 1, to > length || to < 0)] {
            if bad {
                return Err(format!("array index out of bounds: index {at}, length {length}"));
            }
        }
        if from > to {
            return Err(format!("starting index {from} is greater than ending index {to}"));
        }
        let step = step.unwrap_or(1);
        if step <= 0 {
            return Err("step must be > 0".to_owned());
        }
        // Both ends lie within the list, as just checked.
        let (from, to, step) = (from as usize, to as usize, step as usize);
        out.extend(items[from..to].iter().step_by(step).cloned());
    }
    Ok(out)
}

fn filter(input: &[Value], left: &[Node], operator: &str, right: &[Node], options: Options) -> Found {
    let mut out = Vec::new();
    for value in input {
        let Value::Array(items) = value else {
            return Err(format!("{} is not array or slice and cannot be filtered", go_value::sprint(value)));
        };
        for item in items {
            let lefts = walk(left, vec![item.clone()], options);
            if operator == "exists" {
                if lefts.is_ok_and(|l| !l.is_empty()) {
                    out.push(item.clone());
                }
                continue;
            }
            let one = |found: Vec<Value>| match found.len() {
                0 => Ok(None),
                1 => Ok(found.into_iter().next()),
                _ => Err("can only compare one element at a time".to_owned()),
            };
            let Some(l) = one(lefts?)? else { continue };
            let Some(r) = one(walk(right, vec![item.clone()], options)?)? else { continue };
            if compare(&l, operator, &r)? {
                out.push(item.clone());
            }
        }
    }
    Ok(out)
}

fn compare(left: &Value, operator: &str, right: &Value) -> Result<bool, String> {
    let order = match (left, right) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) if matches!(operator, "==" | "!=") => a.cmp(b),
        (Value::Bool(_), Value::Bool(_)) => return Err("invalid type for comparison".to_owned()),
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => match (a.as_i64(), b.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        },
        (Value::Array(_) | Value::Object(_) | Value::Null, _) | (_, Value::Array(_) | Value::Object(_) | Value::Null) => {
            return Err("invalid type for comparison".to_owned());
        }
        _ => return Err("incompatible types for comparison".to_owned()),
    };
    Ok(match operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}
