//! The functions templates may call. `None` among arguments is a value that is not there, which prints as `<no value>`.

use crate::encoding::govalue;
use serde_json::Value;
use std::cmp::Ordering;

type Outcome = Result<Option<Value>, String>;
type Function = fn(&[Option<Value>]) -> Outcome;

/// Name and body. `and` and `or` are here for their names; their short circuit is the evaluator's.
const FUNCTIONS: [(&str, Function); 20] = [
    ("and", |a| pick(a, false)),
    ("or", |a| pick(a, true)),
    ("not", |a| Ok(Some(Value::Bool(!truth(a.first().and_then(Option::as_ref)))))),
    ("len", len),
    ("index", index),
    ("slice", slice),
    ("print", |a| text(print(a))),
    ("println", |a| text(format!("{}\n", a.iter().map(show).collect::<Vec<_>>().join(" ")))),
    ("printf", printf),
    ("html", |a| text(escape(&print(a), html))),
    ("js", |a| text(escape(&print(a), js))),
    ("urlquery", |a| text(escape(&print(a), url))),
    ("eq", eq),
    ("ne", |a| two(a).and_then(|(x, y)| bool(!equal(x, y)?))),
    ("lt", |a| two(a).and_then(|(x, y)| bool(order(x, y)?.is_lt()))),
    ("le", |a| two(a).and_then(|(x, y)| bool(order(x, y)?.is_le()))),
    ("gt", |a| two(a).and_then(|(x, y)| bool(order(x, y)?.is_gt()))),
    ("ge", |a| two(a).and_then(|(x, y)| bool(order(x, y)?.is_ge()))),
    ("exists", exists_path),
    ("base64decode", base64decode),
];

/// Whether there is such a function.
pub fn exists(name: &str) -> bool {
    FUNCTIONS.iter().any(|(n, _)| *n == name)
}

/// Calls one.
pub fn call(name: &str, arguments: &[Option<Value>]) -> Outcome {
    match FUNCTIONS.iter().find(|(n, _)| *n == name) {
        Some((_, f)) if arguments.is_empty() && !name.starts_with("print") => {
            let _ = f;
            Err(format!("wrong number of args for {name}: want at least 1 got 0"))
        }
        Some((_, f)) => f(arguments),
        None => Err(format!("{name:?} is not a defined function")),
    }
}

/// Go's truth: not zero, not empty, there.
pub fn truth(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(Value::Number(n)) => n.as_f64() != Some(0.0),
        Some(Value::String(s)) => !s.is_empty(),
        Some(Value::Array(a)) => !a.is_empty(),
        Some(Value::Object(o)) => !o.is_empty(),
    }
}

/// How an action prints a value.
pub fn show(value: &Option<Value>) -> String {
    match value {
        None | Some(Value::Null) => "<no value>".into(),
        Some(v) => govalue::sprint(v),
    }
}

fn text(s: String) -> Outcome {
    Ok(Some(Value::String(s)))
}

fn bool(b: bool) -> Outcome {
    Ok(Some(Value::Bool(b)))
}

/// The first argument whose truth is `wanted`, else the last.
fn pick(arguments: &[Option<Value>], wanted: bool) -> Outcome {
    Ok(arguments.iter().find(|a| truth(a.as_ref()) == wanted).or(arguments.last()).cloned().flatten())
}

fn two(arguments: &[Option<Value>]) -> Result<(&Value, &Value), String> {
    match arguments {
        [a, b] => Ok((a.as_ref().unwrap_or(&Value::Null), b.as_ref().unwrap_or(&Value::Null))),
        _ => Err(format!("wrong number of args: want 2 got {}", arguments.len())),
    }
}

fn eq(arguments: &[Option<Value>]) -> Outcome {
    let [first, rest @ ..] = arguments else { return Err("missing argument for comparison".into()) };
    if rest.is_empty() {
        return Err("missing argument for comparison".into());
    }
    let first = first.as_ref().unwrap_or(&Value::Null);
    for other in rest {
        if equal(first, other.as_ref().unwrap_or(&Value::Null))? {
            return bool(true);
        }
    }
    bool(false)
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => Ok(a == b),
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            Err(format!("error calling eq: non-comparable type {}: {}", govalue::sprint(a), govalue::type_name(a)))
        }
        (Value::Number(x), Value::Number(y)) if x.is_f64() == y.is_f64() => Ok(x.as_f64() == y.as_f64()),
        _ if std::mem::discriminant(a) == std::mem::discriminant(b) && !a.is_number() => Ok(a == b),
        _ => Err("error calling eq: incompatible types for comparison".into()),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::String(x), Value::String(y)) => Ok(x.cmp(y)),
        (Value::Number(x), Value::Number(y)) if x.is_f64() == y.is_f64() => {
            Ok(x.as_f64().partial_cmp(&y.as_f64()).unwrap_or(Ordering::Equal))
        }
        (Value::String(_) | Value::Number(_), Value::String(_) | Value::Number(_)) => {
            Err("error calling lt: incompatible types for comparison".into())
        }
        _ => Err("error calling lt: invalid type for comparison".into()),
    }
}

fn len(arguments: &[Option<Value>]) -> Outcome {
    let n = match arguments {
        [Some(Value::String(s))] => s.len(),
        [Some(Value::Array(a))] => a.len(),
        [Some(Value::Object(o))] => o.len(),
        [Some(v)] => return Err(format!("error calling len: len of type {}", govalue::type_name(v))),
        _ => return Err("error calling len: len of nil pointer".into()),
    };
    Ok(Some(Value::from(n)))
}

fn index(arguments: &[Option<Value>]) -> Outcome {
    let Some(mut at) = arguments[0].clone() else { return Err("error calling index: index of untyped nil".into()) };
    for key in &arguments[1..] {
        at = match (&at, key) {
            (Value::Object(o), Some(Value::String(k))) => match o.get(k) {
                Some(v) => v.clone(),
                None => return Ok(None),
            },
            (Value::Array(a), Some(Value::Number(n))) => match n.as_u64().and_then(|n| a.get(usize::try_from(n).ok()?)) {
                Some(v) => v.clone(),
                None => return Err(format!("error calling index: reflect: slice index out of range: {n}")),
            },
            (Value::String(s), Some(Value::Number(n))) => match n.as_u64().and_then(|n| s.as_bytes().get(usize::try_from(n).ok()?)) {
                Some(b) => Value::from(*b),
                None => return Err(format!("error calling index: index out of range: {n}")),
            },
            (Value::Null, _) => return Err("error calling index: index of nil pointer".into()),
            (Value::Object(_) | Value::Array(_) | Value::String(_), k) => {
                return Err(format!(
                    "error calling index: cannot index slice/array with type {}",
                    k.as_ref().map_or("nil", govalue::type_name)
                ));
            }
            (v, _) => return Err(format!("error calling index: can't index item of type {}", govalue::type_name(v))),
        };
    }
    Ok(Some(at))
}

fn slice(arguments: &[Option<Value>]) -> Outcome {
    let bound = |i: usize, default: usize| match arguments.get(i) {
        None => Ok(default),
        Some(Some(Value::Number(n))) => n
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n <= default)
            .ok_or_else(|| format!("error calling slice: index out of range: {n}")),
        Some(_) => Err("error calling slice: cannot index slice/array with that type".to_owned()),
    };
    match &arguments[0] {
        Some(Value::String(s)) => {
            let (from, to) = (bound(1, s.len()).map(|f| if arguments.len() > 1 { f } else { 0 })?, bound(2, s.len())?);
            s.get(from..to)
                .map(|t| Some(Value::String(t.to_owned())))
                .ok_or_else(|| format!("error calling slice: invalid slice index: {from} > {to}"))
        }
        Some(Value::Array(a)) => {
            let (from, to) = (bound(1, a.len()).map(|f| if arguments.len() > 1 { f } else { 0 })?, bound(2, a.len())?);
            a.get(from..to)
                .map(|t| Some(Value::Array(t.to_vec())))
                .ok_or_else(|| format!("error calling slice: invalid slice index: {from} > {to}"))
        }
        Some(v) => Err(format!("error calling slice: can't slice item of type {}", govalue::type_name(v))),
        None => Err("error calling slice: slice of untyped nil".into()),
    }
}

/// `fmt.Sprint`: a space between operands when neither is a text.
fn print(arguments: &[Option<Value>]) -> String {
    let mut out = String::new();
    let is_text = |v: &Option<Value>| matches!(v, Some(Value::String(_)));
    for (i, a) in arguments.iter().enumerate() {
        if i > 0 && !is_text(a) && !is_text(&arguments[i - 1]) {
            out.push(' ');
        }
        out.push_str(&show(a));
    }
    out
}

fn printf(arguments: &[Option<Value>]) -> Outcome {
    let Some(Some(Value::String(format))) = arguments.first() else { return Err("wrong type for value; expected string".into()) };
    let mut rest = arguments[1..].iter();
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        while chars.peek().is_some_and(|c| matches!(c, '-' | '+' | '#' | '0' | ' ')) {
            flags.extend(chars.next());
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut n = String::new();
            while chars.peek().is_some_and(char::is_ascii_digit) {
                n.extend(chars.next());
            }
            // Wider than a terminal is a mistake or an attack.
            n.parse::<usize>().ok().map(|n| n.min(4096))
        };
        let width = digits(&mut chars);
        let precision = if chars.peek() == Some(&'.') {
            chars.next();
            Some(digits(&mut chars).unwrap_or(0))
        } else {
            None
        };
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = rest.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let mut body = verb_text(verb, value, precision, &flags);
        let pad = width.unwrap_or(0).saturating_sub(body.chars().count());
        if flags.contains('-') {
            body.extend(std::iter::repeat_n(' ', pad));
        } else if flags.contains('0') && matches!(value, Some(Value::Number(_))) {
            let sign = usize::from(body.starts_with(['-', '+']));
            body.insert_str(sign, &"0".repeat(pad));
        } else {
            body.insert_str(0, &" ".repeat(pad));
        }
        out.push_str(&body);
    }
    let extra: Vec<String> = rest
        .map(|v| format!("{}={}", v.as_ref().map_or("<nil>", govalue::type_name), v.as_ref().map_or("<nil>".into(), govalue::sprint)))
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    text(out)
}

fn verb_text(verb: char, value: &Option<Value>, precision: Option<usize>, flags: &str) -> String {
    let value = value.as_ref().unwrap_or(&Value::Null);
    let bad = || format!("%!{verb}({}={})", govalue::type_name(value), govalue::sprint(value));
    match (verb, value) {
        ('v', v) if flags.contains('#') => govalue::sprint_syntax(v),
        ('v', v) => govalue::sprint(v),
        ('T', v) => govalue::type_name(v).to_owned(),
        ('s', Value::String(s)) => precision.map_or(s.clone(), |p| s.chars().take(p).collect()),
        ('s', Value::Array(_) | Value::Object(_)) => govalue::sprint(value),
        ('q', Value::String(s)) => govalue::quote(s),
        ('x', Value::String(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        ('d', Value::Number(n)) if !n.is_f64() => match (flags.contains('+'), n.as_i64()) {
            (true, Some(n)) if n >= 0 => format!("+{n}"),
            _ => n.to_string(),
        },
        ('x' | 'X' | 'o' | 'b' | 'c', Value::Number(n)) => match (verb, n.as_i64()) {
            ('x', Some(n)) => format!("{n:x}"),
            ('X', Some(n)) => format!("{n:X}"),
            ('o', Some(n)) => format!("{n:o}"),
            ('b', Some(n)) => format!("{n:b}"),
            ('c', Some(n)) => u32::try_from(n).ok().and_then(char::from_u32).map_or("\u{fffd}".into(), String::from),
            _ => bad(),
        },
        ('f' | 'F', Value::Number(n)) if n.is_f64() => format!("{:.*}", precision.unwrap_or(6), n.as_f64().unwrap_or_default()),
        ('g', Value::Number(n)) if n.is_f64() => govalue::number(n),
        ('t', Value::Bool(b)) => b.to_string(),
        _ => bad(),
    }
}

fn escape(s: &str, one: fn(char, &mut String)) -> String {
    let mut out = String::new();
    s.chars().for_each(|c| one(c, &mut out));
    out
}

fn html(c: char, out: &mut String) {
    match c {
        '\0' => out.push('\u{fffd}'),
        '"' => out.push_str("&#34;"),
        '\'' => out.push_str("&#39;"),
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        c => out.push(c),
    }
}

fn js(c: char, out: &mut String) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\'' => out.push_str("\\'"),
        '"' => out.push_str("\\\""),
        '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", c as u32)),
        c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04X}", c as u32)),
        c => out.push(c),
    }
}

fn url(c: char, out: &mut String) {
    match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~') => out.push(c),
        ' ' => out.push('+'),
        c => c.to_string().bytes().for_each(|b| out.push_str(&format!("%{b:02X}"))),
    }
}

fn exists_path(arguments: &[Option<Value>]) -> Outcome {
    let mut at = arguments[0].as_ref();
    for key in &arguments[1..] {
        at = match (at, key) {
            (Some(Value::Object(o)), Some(Value::String(k))) => o.get(k),
            (Some(Value::Array(a)), Some(Value::Number(n))) => n.as_u64().and_then(|n| a.get(usize::try_from(n).ok()?)),
            _ => None,
        };
    }
    bool(at.is_some())
}

fn base64decode(arguments: &[Option<Value>]) -> Outcome {
    let Some(Value::String(s)) = &arguments[0] else { return Err("wrong type for value; expected string".into()) };
    match crate::encoding::unbase64(s) {
        Some(bytes) => text(String::from_utf8_lossy(&bytes).into_owned()),
        None => Err("error calling base64decode: base64 decode failed: illegal base64 data".into()),
    }
}
