//! Field selectors: `spec.nodeName=n1,status.phase!=Pending`.

use super::ParseError;
use std::fmt;

/// A conjunction of comparisons of fields with texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    label: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Reads the text form. `\`, `,` and `=` in values are escaped with a backslash.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut terms = Vec::new();
        for part in split(text).into_iter().filter(|p| !p.is_empty()) {
            let (label, equal, value) =
                split_term(part).ok_or_else(|| ParseError(format!("invalid selector: '{text}'; can't understand '{part}'")))?;
            terms.push(Term { label: label.to_owned(), equal, value: unescape(value)? });
        }
        Ok(FieldSelector(terms))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields it looks at; the server refuses those that its kind does not offer.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|t| t.label.as_str())
    }

    /// The value that `label` must equal, if there is one.
    pub fn exact(&self, label: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.label == label).map(|t| t.value.as_str())
    }

    /// Whether an object with these field values is selected; a field it lacks counts as empty.
    pub fn matches(&self, field: impl Fn(&str) -> String) -> bool {
        self.0.iter().all(|t| (field(&t.label) == t.value) == t.equal)
    }

    /// The same without copying the values.
    pub fn matches_with<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|t| (field(&t.label) == t.value) == t.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.0.iter().enumerate() {
            let value = term.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{}{}{}{value}", if i > 0 { "," } else { "" }, term.label, if term.equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = term[i..].strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(e) => return Err(ParseError(format!("invalid field selector: invalid escape sequence: \\{e}"))),
                None => return Err(ParseError("invalid field selector: invalid escape sequence: \\".into())),
            },
            ',' | '=' => return Err(ParseError(format!("invalid field selector: unescaped character in value: {c}"))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_and_matched() {
        for (text, name, node, selected) in [
            ("", "a", "", true),
            ("metadata.name=a", "a", "", true),
            ("metadata.name==b", "a", "", false),
            ("spec.nodeName!=n", "a", "", true),
            ("spec.nodeName=", "a", "", true),
            ("metadata.name=a,spec.nodeName=n", "a", "m", false),
            (r"metadata.name=a\,b\=c", "a,b=c", "", true),
        ] {
            let selector = FieldSelector::parse(text).expect(text);
            let field = |label: &str| if label == "metadata.name" { name } else { node };
            assert_eq!(selector.matches_with(field), selected, "{text}");
            assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector), "{text} is written as it is read");
        }
        assert_eq!(FieldSelector::parse("x!=1,metadata.name=a").expect("two terms").exact("metadata.name"), Some("a"));
    }

    #[test]
    fn refused() {
        for (text, message) in [
            ("garbage", "invalid selector: 'garbage'; can't understand 'garbage'"),
            ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
            ("a=b=c", "invalid field selector: unescaped character in value: ="),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        ] {
            assert_eq!(FieldSelector::parse(text), Err(ParseError(message.into())), "{text}");
        }
    }
}
