//! The grammar. It is upstream's to the letter where that shows: `[]` is the first element, an action may name the object as `@`, `$` or
//! nothing, a backslash takes the next character into a field name.

/// One step of a path, or a piece of the template around the paths.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// Text outside braces, or a quoted text inside.
    Text(String),
    /// `{...}`: steps applied one after another.
    List(Vec<Node>),
    /// `{range ...}` body `{end}`.
    Range(Vec<Node>, Vec<Node>),
    /// `.name`; an empty name is the object itself.
    Field(String),
    /// `[start:end:step]`; `derived` marks an end that was not written.
    Array {
        /// First index.
        start: Option<i64>,
        /// Index after the last.
        end: Option<i64>,
        /// `end` follows from `start`: a single index.
        derived: bool,
        /// Step.
        step: Option<i64>,
    },
    /// `[a,b]`.
    Union(Vec<Vec<Node>>),
    /// `[?(left op right)]`; the operator `exists` has no right side.
    Filter(Vec<Node>, String, Vec<Node>),
    /// `*`.
    Wildcard,
    /// `..`.
    Recursive,
    /// A whole number.
    Int(i64),
    /// A number with a point.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// Any other bare word.
    Identifier(String),
}

struct Parser<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
}

/// Parses a whole template.
pub fn parse(source: &str) -> Result<Vec<Node>, String> {
    let mut flat = Vec::new();
    let mut rest = source;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            flat.push(Node::Text(rest[..open].to_owned()));
        }
        let mut p = Parser { chars: rest[open + 1..].chars().peekable() };
        flat.push(Node::List(p.action(true)?));
        let left: String = p.chars.collect();
        rest = &rest[rest.len() - left.len()..];
    }
    if !rest.is_empty() {
        flat.push(Node::Text(rest.to_owned()));
    }
    let mut nodes = flat.into_iter();
    let (tree, ended) = nest(&mut nodes);
    if ended { Err("not in range, nothing to end".to_owned()) } else { Ok(tree) }
}

/// Gathers what stands between `{range}` and `{end}`. A range without an end goes to the end of the template.
fn nest(nodes: &mut impl Iterator<Item = Node>) -> (Vec<Node>, bool) {
    let mut tree = Vec::new();
    while let Some(node) = nodes.next() {
        match node {
            Node::List(steps) => match steps.first() {
                Some(Node::Identifier(word)) if word == "range" => {
                    let (body, _) = nest(nodes);
                    tree.push(Node::Range(steps[1..].to_vec(), body));
                }
                Some(Node::Identifier(word)) if word == "end" => return (tree, true),
                _ => tree.push(Node::List(steps)),
            },
            text => tree.push(text),
        }
    }
    (tree, false)
}

fn ends_name(c: Option<&char>) -> bool {
    c.is_none_or(|c| matches!(c, '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}' | ' ' | '\t' | '\r' | '\n'))
}

impl Parser<'_> {
    /// Steps up to the closing brace, or to the end where there are no braces (unions, filters).
    fn action(&mut self, braced: bool) -> Result<Vec<Node>, String> {
        let mut steps = Vec::new();
        loop {
            match self.chars.next() {
                None if !braced => return Ok(steps),
                None | Some('\n' | '\r') => return Err("unclosed action".to_owned()),
                Some('}') if braced => return Ok(steps),
                Some(' ' | '@' | '$') => {}
                Some('[') => steps.push(self.bracket()?),
                Some(q @ ('"' | '\'')) => steps.push(Node::Text(self.quoted(q)?)),
                Some('.') if self.chars.peek() == Some(&'.') => {
                    self.chars.next();
                    if steps.last() == Some(&Node::Recursive) {
                        return Err("invalid multiple recursive descent".to_owned());
                    }
                    steps.push(Node::Recursive);
                    if self.chars.peek().is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                        steps.push(self.field());
                    }
                }
                Some('.') => steps.push(self.field()),
                Some(c) if matches!(c, '+' | '-') || c.is_numeric() => steps.push(self.number(c)?),
                Some(c) if c.is_alphanumeric() || c == '_' => {
                    let mut word = String::from(c);
                    while !ends_name(self.chars.peek()) {
                        word.extend(self.chars.next());
                    }
                    steps.push(match word.as_str() {
                        "true" => Node::Bool(true),
                        "false" => Node::Bool(false),
                        _ => Node::Identifier(word),
                    });
                }
                Some(c) => return Err(format!("unrecognized character in action: U+{:04X} '{c}'", c as u32)),
            }
        }
    }

    fn field(&mut self) -> Node {
        let mut name = String::new();
        while !ends_name(self.chars.peek()) {
            match self.chars.next() {
                Some('\\') => name.extend(self.chars.next().filter(|c| *c != '\\')),
                other => name.extend(other),
            }
        }
        if name == "*" { Node::Wildcard } else { Node::Field(name) }
    }

    fn number(&mut self, first: char) -> Result<Node, String> {
        let mut text = String::from(first);
        while self.chars.peek().is_some_and(|c| *c == '.' || c.is_ascii_digit()) {
            text.extend(self.chars.next());
        }
        if let Ok(n) = text.parse() {
            return Ok(Node::Int(n));
        }
        text.parse().map(Node::Float).map_err(|_| format!("cannot parse number {text}"))
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.chars.next() {
                None | Some('\n') => return Err("unterminated quoted string".to_owned()),
                Some('\\') => text.push(match self.chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some('a') => '\u{7}',
                    Some('b') => '\u{8}',
                    Some('f') => '\u{c}',
                    Some('v') => '\u{b}',
                    Some(c @ ('\\' | '"' | '\'')) => c,
                    Some(_) => return Err("invalid syntax".to_owned()),
                    None => return Err("unterminated quoted string".to_owned()),
                }),
                Some(c) if c == quote => return Ok(text),
                Some(c) => text.push(c),
            }
        }
    }

    fn bracket(&mut self) -> Result<Node, String> {
        if self.chars.peek() == Some(&'?') {
            let mut ahead = self.chars.clone();
            ahead.next();
            if ahead.next() == Some('(') {
                self.chars = ahead;
                return self.filter();
            }
        }
        let mut text = String::new();
        loop {
            match self.chars.next() {
                None | Some('\n') => return Err("unterminated array".to_owned()),
                Some(']') => break,
                Some(c) => text.push(c),
            }
        }
        if text == "*" {
            ":".clone_into(&mut text);
        }
        if text.contains(',') {
            let part = |p: &str| Parser { chars: format!("[{}]", p.trim_matches(' ')).chars().peekable() }.action(false);
            return Ok(Node::Union(text.split(',').map(part).collect::<Result<_, _>>()?));
        }
        if let Some(key) = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).filter(|k| !k.contains('\'')) {
            return Ok(Node::Field(key.to_owned()));
        }
        slice(&text).ok_or_else(|| format!("invalid array index {text}"))
    }

    fn filter(&mut self) -> Result<Node, String> {
        let (mut text, mut depth, mut quote) = (String::new(), 1, None);
        loop {
            let Some(c) = self.chars.next().filter(|c| *c != '\n') else { return Err("unterminated filter".to_owned()) };
            match (quote, c) {
                (Some(q), _) if q == c => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            text.push(c);
        }
        if self.chars.next() != Some(']') {
            return Err("unclosed array expect ]".to_owned());
        }
        let steps = |t: &str| Parser { chars: t.chars().peekable() }.action(false);
        let is_operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
        let comparison = text.find(is_operator).filter(|at| *at > 0).and_then(|at| {
            let length = text[at..].find(|c| !is_operator(c))?;
            Some((&text[..at], &text[at..at + length], &text[at + length..]))
        });
        match comparison {
            None => Ok(Node::Filter(steps(&text)?, "exists".to_owned(), Vec::new())),
            Some((left, operator, right)) => {
                if !["<", ">", "==", "!=", "<=", ">="].contains(&operator) {
                    return Err(format!("unrecognized filter operator {operator}"));
                }
                Ok(Node::Filter(steps(left)?, operator.to_owned(), steps(right)?))
            }
        }
    }
}

fn slice(text: &str) -> Option<Node> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |p: &str| match p {
        "" => Some(None),
        p => p.parse::<i64>().ok().filter(|_| !p.starts_with('+')).map(Some),
    };
    let start = number(parts[0])?;
    let (end, derived) = match parts.get(1) {
        Some(p) => (number(p)?, false),
        None => (Some(start.unwrap_or(0).checked_add(1)?), true),
    };
    let step = number(parts.get(2).unwrap_or(&""))?;
    (parts.len() <= 3).then_some(Node::Array { start, end, derived, step })
}
