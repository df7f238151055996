//! Label selectors: `env in (prod, test), !legacy, tier=web`.

use super::ParseError;
use crate::field::{ErrorList, Path};
use crate::validation::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A conjunction of requirements. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// What an absent selector of the API means.
    nothing: bool,
}

/// What is asked of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is asked.
    pub operator: Operator,
    /// Its operands.
    pub values: BTreeSet<String>,
}

/// The operators. `=` and `==` are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum Operator {
    In,
    NotIn,
    Equals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        LabelSelector { nothing: true, requirements: Vec::new() }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Ok(LabelSelector { requirements: Parser { rest: text }.selector().map_err(ParseError)?, nothing: false })
    }

    /// What a `LabelSelector` of the API selects: an absent one nothing, an empty one everything.
    pub fn of(selector: Option<&meta::LabelSelector>) -> Result<Self, ParseError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::In, [value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(ParseError(format!("{other:?} is not a valid label selector operator"))),
            };
            requirements.push(Requirement::new(&expression.key, operator, expression.values.iter().flatten().cloned())?);
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Selects what has all these labels: the selector of a Service or a ReplicationController.
    pub fn of_map<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: BTreeSet::from([value.clone()]),
        };
        LabelSelector { requirements: labels.into_iter().map(requirement).collect(), nothing: false }
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Its requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects what has these labels.
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }

    /// The same for labels that are kept some other way.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
}

impl Requirement {
    /// A requirement, if it makes sense.
    pub fn new(key: &str, operator: Operator, values: impl IntoIterator<Item = String>) -> Result<Self, ParseError> {
        use Operator::{DoesNotExist, Equals, Exists, GreaterThan, In, LessThan, NotEquals, NotIn};
        let values: BTreeSet<String> = values.into_iter().collect();
        let list = || serde_json::Value::from(values.iter().cloned().collect::<Vec<_>>());
        let mut errors = ErrorList::new();
        key_errors(&Path::new("key"), key, &mut errors);
        let path = Path::new("values");
        match operator {
            In | NotIn if values.is_empty() => errors.invalid(&path, list(), "for 'in', 'notin' operators, values set can't be empty"),
            Equals | NotEquals if values.len() != 1 => errors.invalid(&path, list(), "exact-match compatibility requires one single value"),
            Exists | DoesNotExist if !values.is_empty() => {
                errors.invalid(&path, list(), "values set must be empty for exists and does not exist")
            }
            GreaterThan | LessThan if values.len() != 1 => {
                errors.invalid(&path, list(), "for 'Gt', 'Lt' operators, exactly one value is required")
            }
            GreaterThan | LessThan => {
                for (i, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    errors.invalid(&path.index(i), value.as_str(), "for 'Gt', 'Lt' operators, the value must be an integer");
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.invalid(&path.index(i).key(key), value.as_str(), &wrong.join("; "));
            }
        }
        refuse(errors)?;
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    fn matches(&self, label: Option<&str>) -> bool {
        let compare = |test: fn(i64, i64) -> bool| {
            let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
            label.and_then(|l| l.parse::<i64>().ok()).zip(bound).is_some_and(|(l, b)| test(l, b))
        };
        match self.operator {
            Operator::In | Operator::Equals => label.is_some_and(|l| self.values.contains(l)),
            Operator::NotIn | Operator::NotEquals => !label.is_some_and(|l| self.values.contains(l)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => compare(|l, b| l > b),
            Operator::LessThan => compare(|l, b| l < b),
        }
    }
}

fn key_errors(path: &Path, key: &str, errors: &mut ErrorList) {
    let wrong = names::qualified_name(key);
    if !wrong.is_empty() {
        errors.invalid(path, key, &wrong.join("; "));
    }
}

fn refuse(errors: ErrorList) -> Result<(), ParseError> {
    let texts: Vec<String> = errors.0.iter().map(|e| format!("{}: {}", e.path, e.message)).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(ParseError(one.clone())),
        many => Err(ParseError(format!("[{}]", many.join(", ")))),
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let key = &self.key;
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// A token: what kind it is, and its text for error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Identifier,
    In,
    NotIn,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    Wrong,
}

const SYMBOLS: [(&str, Token); 9] = [
    ("==", Token::Equals),
    ("!=", Token::NotEquals),
    ("=", Token::Equals),
    ("!", Token::Not),
    ("(", Token::Open),
    (")", Token::Close),
    (",", Token::Comma),
    (">", Token::Greater),
    ("<", Token::Less),
];

/// Reads from left to right; a token is looked at by scanning it again, which is cheap.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn scan(&self) -> (Token, &'a str, &'a str) {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return (Token::End, "", text);
        }
        if let Some((symbol, token)) = SYMBOLS.iter().find(|(s, _)| text.starts_with(s)) {
            return (*token, symbol, &text[symbol.len()..]);
        }
        let end = text.find(|c: char| " \t\r\n=!(),><".contains(c)).unwrap_or(text.len());
        let token = match &text[..end] {
            "" => Token::Wrong,
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ => Token::Identifier,
        };
        (token, &text[..end], &text[end..])
    }

    /// The next token where a key or a value is expected: there `in` and `notin` are ordinary words.
    fn value(&mut self) -> (Token, &'a str) {
        let (token, text, rest) = self.scan();
        self.rest = rest;
        (if matches!(token, Token::In | Token::NotIn) { Token::Identifier } else { token }, text)
    }

    fn peek(&self) -> (Token, &'a str) {
        Parser { rest: self.rest }.value()
    }

    fn selector(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::Not, _) => {
                    requirements.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.value() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.peek() {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, text) => return Err(format!("found '{text}', expected: identifier after ','")),
                        },
                        (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.value();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.value();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let mut errors = ErrorList::new();
        key_errors(&Path::new("<nil>"), key, &mut errors);
        refuse(errors).map_err(|e| e.0)?;
        let make = |operator, values: BTreeSet<String>| Requirement::new(key, operator, values).map_err(|e| e.0);
        if negated {
            return make(Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return make(Operator::Exists, BTreeSet::new());
        }
        let (token, text, rest) = self.scan();
        self.rest = rest;
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values =
            if matches!(operator, Operator::In | Operator::NotIn) { self.values()? } else { BTreeSet::from([self.exact_value()?]) };
        make(operator, values)
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.value() {
            (Token::Identifier, text) => Ok(text.to_owned()),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (token, text) = self.value();
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let mut values = BTreeSet::new();
        match self.peek() {
            (Token::Close, _) => {
                self.value();
                return Ok(values);
            }
            (Token::Identifier | Token::Comma, _) => {}
            (_, text) => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        loop {
            match self.value() {
                (Token::Identifier, text) => {
                    values.insert(text.to_owned());
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => break,
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            values.insert(String::new());
                            break;
                        }
                        Token::Comma => {
                            self.value();
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
        self.value();
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_and_matched() {
        let labels =
            BTreeMap::from([("env".to_owned(), "prod".to_owned()), ("n".to_owned(), "5".to_owned()), ("in".to_owned(), "x".to_owned())]);
        for (text, selected) in [
            ("", true),
            ("env", true),
            ("!env", false),
            ("!nope", true),
            ("env=prod", true),
            ("env == prod", true),
            ("env!=prod", false),
            ("nope!=prod", true),
            ("env in (prod,test)", true),
            ("env notin (prod)", false),
            ("nope notin (prod)", true),
            ("env in (), n", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("in in (x)", true),
            ("nope=", false),
            ("env in (prod), n", true),
        ] {
            match LabelSelector::parse(text) {
                Ok(selector) => {
                    assert_eq!(selector.matches(Some(&labels)), selected, "{text}");
                    assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector), "{text} is written as it is read");
                }
                Err(e) => assert!(text.contains("()"), "{text}: {e}"),
            }
        }
    }

    /// The recorded answers of an upstream apiserver (tests/oracle, `label-selectors`), and others in their words.
    #[test]
    fn refused() {
        for (text, message) in [
            ("env in (prod", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("!!x", "unable to parse requirement: found '!', expected: identifier"),
            ("bad key=x", "unable to parse requirement: found 'key', expected: in, notin, =, ==, !=, gt, lt"),
            ("n>x", "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"),
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ] {
            assert_eq!(LabelSelector::parse(text), Err(ParseError(message.into())), "{text}");
        }
    }

    #[test]
    fn of_the_api() {
        assert!(!LabelSelector::of(None).expect("nothing").matches(None));
        assert!(LabelSelector::of(Some(&Default::default())).expect("everything").matches(None));
        let expression =
            |operator: &str| meta::LabelSelectorRequirement { key: "a".into(), operator: operator.into(), values: Some(vec!["b".into()]) };
        let of = |operator| {
            LabelSelector::of(Some(&meta::LabelSelector { match_expressions: Some(vec![expression(operator)]), ..Default::default() }))
        };
        assert!(of("NotIn").expect("NotIn").matches(None));
        assert_eq!(of("Nope"), Err(ParseError("\"Nope\" is not a valid label selector operator".into())));
    }
}
