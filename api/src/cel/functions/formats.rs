//! Named formats: `format.dns1123Label().validate(text)`.

use super::super::value::Val;
use super::Outcome;
use crate::validation::{formats, names};

/// A named format's check: what is wrong with a text.
type Check = fn(&str) -> Vec<String>;

fn without_dash(check: Check, text: &str) -> Vec<String> {
    check(text.strip_suffix('-').unwrap_or(text))
}

fn of_schema(format: &str, text: &str) -> Vec<String> {
    if formats::matches(format, text).unwrap_or(true) { Vec::new() } else { vec![format!("invalid {format}")] }
}

const FORMATS: [(&str, Check); 13] = [
    ("dns1123Label", names::dns1123_label),
    ("dns1123Subdomain", names::dns1123_subdomain),
    ("dns1035Label", names::dns1035_label),
    ("qualifiedName", names::qualified_name),
    ("dns1123LabelPrefix", |t| without_dash(names::dns1123_label, t)),
    ("dns1123SubdomainPrefix", |t| without_dash(names::dns1123_subdomain, t)),
    ("dns1035LabelPrefix", |t| without_dash(names::dns1035_label, t)),
    ("labelValue", names::label_value),
    ("uri", |t| of_schema("uri", t)),
    ("uuid", |t| if formats::matches("uuid", t).unwrap_or(true) { Vec::new() } else { vec!["does not match the UUID format".into()] }),
    ("byte", |t| if formats::matches("byte", t).unwrap_or(true) { Vec::new() } else { vec!["invalid base64".into()] }),
    ("date", |t| of_schema("date", t)),
    ("datetime", |t| if formats::matches("date-time", t).unwrap_or(true) { Vec::new() } else { vec!["invalid datetime".into()] }),
];

/// `format.NAME()` and `format.named("NAME")`.
pub(super) fn named<'a>(name: &str, values: &[Val<'a>]) -> Option<Outcome<'a>> {
    let find = |wanted: &str| FORMATS.iter().find(|(n, _)| *n == wanted).map(|(n, _)| Val::Format(n));
    match (name, values) {
        ("named", [Val::String(wanted)]) => Some(Ok(Val::Optional(find(wanted).map(std::sync::Arc::new)))),
        (name, []) => find(name).map(Ok),
        _ => None,
    }
}

/// What is wrong with a text; nothing, if all is well.
pub(super) fn validate<'a>(format: &str, arguments: &[Val<'a>]) -> Option<Outcome<'a>> {
    let [Val::String(text)] = arguments else { return None };
    let (_, check) = FORMATS.iter().find(|(name, _)| *name == format)?;
    let wrong = check(text);
    Some(Ok(if wrong.is_empty() { Val::Optional(None) } else { Val::some(Val::list(wrong.into_iter().map(Val::text).collect())) }))
}
