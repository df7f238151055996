//! A template's text cut into plain pieces and the tokens of its actions.

/// One token inside `{{ }}`.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// `.a.b`, `.`: the names after the dot.
    Field(String),
    /// `$x`, `$`.
    Variable(String),
    /// A bare word: function or keyword.
    Word(String),
    /// A quoted text, unquoted.
    Text(String),
    /// A number or character constant.
    Int(i64),
    /// A number with a point or exponent.
    Float(f64),
    /// `|`, `(`, `)`, `,`, `=`, `:=`, `.`.
    Mark(&'static str),
    /// White space, which separates operands.
    Space,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Copied out.
    Text(String),
    /// An action: its tokens, each with its offset in the source.
    Action(Vec<(Token, usize)>),
}

/// An error and the line it is on.
pub type Error = (usize, String);

fn line(source: &str, at: usize) -> usize {
    source[..at.min(source.len())].matches('\n').count() + 1
}

/// Cuts the whole source.
pub fn lex(source: &str) -> Result<Vec<Piece>, Error> {
    let (mut pieces, mut at, mut trim_next) = (Vec::new(), 0, false);
    loop {
        let open = source[at..].find("{{").map(|i| at + i);
        let mut text = &source[at..open.unwrap_or(source.len())];
        if trim_next {
            text = text.trim_start();
        }
        let Some(open) = open else {
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
            return Ok(pieces);
        };
        let mut inside = open + 2;
        let rest = &source[inside..];
        if rest.starts_with('-') && rest[1..].starts_with([' ', '\t', '\r', '\n']) {
            text = text.trim_end();
            inside += 1;
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let body = source[inside..].trim_start();
        if body.starts_with("/*") {
            let start = source.len() - body.len();
            let close = source[start..].find("*/").ok_or_else(|| (line(source, start), "unclosed comment".to_owned()))?;
            let after = source[start + close + 2..].trim_start();
            trim_next = after.starts_with("-}}");
            let after = after.strip_prefix('-').unwrap_or(after);
            if !after.starts_with("}}") {
                return Err((line(source, start), "comment ends before closing delimiter".to_owned()));
            }
            at = source.len() - after.len() + 2;
            continue;
        }
        let (tokens, end, trim) = action(source, inside)?;
        pieces.push(Piece::Action(tokens));
        (at, trim_next) = (end, trim);
    }
}

type Tokens = Vec<(Token, usize)>;

/// The tokens from `at` up to `}}`, where that ends, and whether it trims what follows.
fn action(source: &str, mut at: usize) -> Result<(Tokens, usize, bool), Error> {
    let mut tokens: Tokens = Vec::new();
    let fail = |at: usize, message: String| Err((line(source, at), message));
    let mut depth = 0usize;
    loop {
        let rest = &source[at..];
        let Some(c) = rest.chars().next() else { return fail(at, "unclosed action".into()) };
        let word = |skip: usize| rest[skip..].find(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(rest.len(), |i| i + skip);
        let trimmed = rest.trim_start();
        if trimmed.len() < rest.len() && trimmed.starts_with("-}}") {
            return Ok((tokens, source.len() - trimmed.len() + 3, true));
        }
        let (token, length) = match c {
            '}' if rest.starts_with("}}") => {
                if depth > 0 {
                    return fail(at, "unclosed left paren".into());
                }
                return Ok((tokens, at + 2, false));
            }
            c if c.is_whitespace() => (Token::Space, rest.len() - trimmed.len()),
            '"' => {
                let end = closing(rest).ok_or_else(|| (line(source, at), "unterminated quoted string".to_owned()))?;
                (Token::Text(unquote(&rest[1..end]).ok_or_else(|| (line(source, at), "invalid syntax".to_owned()))?), end + 1)
            }
            '`' => {
                let end = rest[1..].find('`').ok_or_else(|| (line(source, at), "unterminated raw quoted string".to_owned()))? + 1;
                (Token::Text(rest[1..end].to_owned()), end + 1)
            }
            '\'' => {
                let end = rest[1..].find('\'').ok_or_else(|| (line(source, at), "unterminated character constant".to_owned()))? + 1;
                let text = unquote(&rest[1..end]).filter(|t| t.chars().count() == 1);
                let c = text.and_then(|t| t.chars().next()).ok_or_else(|| (line(source, at), "malformed character constant".to_owned()))?;
                (Token::Int(i64::from(c as u32)), end + 1)
            }
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                number(rest).ok_or_else(|| (line(source, at), "bad number syntax".to_owned()))?
            }
            '.' => {
                let end = word(1);
                (Token::Field(rest[1..end].to_owned()), end)
            }
            '$' => {
                let end = word(1);
                (Token::Variable(rest[..end].to_owned()), end)
            }
            '|' => (Token::Mark("|"), 1),
            ',' => (Token::Mark(","), 1),
            '(' => {
                depth += 1;
                (Token::Mark("("), 1)
            }
            ')' if depth == 0 => return fail(at, "unexpected right paren".into()),
            ')' => {
                depth -= 1;
                (Token::Mark(")"), 1)
            }
            ':' if rest.starts_with(":=") => (Token::Mark(":="), 2),
            ':' => return fail(at, "expected :=".into()),
            '=' => (Token::Mark("="), 1),
            c if c.is_ascii_digit() || matches!(c, '+' | '-') => number(rest).ok_or_else(|| {
                let end = rest.find(|c: char| c.is_whitespace() || c == '}').unwrap_or(rest.len());
                (line(source, at), format!("bad number syntax: {:?}", &rest[..end]))
            })?,
            c if c.is_alphabetic() || c == '_' => {
                let end = word(0);
                (Token::Word(rest[..end].to_owned()), end)
            }
            c => return fail(at, format!("unexpected {:?} in command", c.to_string()).replace('"', "")),
        };
        tokens.push((token, at));
        at += length;
    }
}

fn number(text: &str) -> Option<(Token, usize)> {
    let end = text
        .char_indices()
        .find(|(i, c)| {
            let sign = matches!(c, '+' | '-') && (*i == 0 || matches!(text.as_bytes()[i - 1], b'e' | b'E'));
            !(c.is_alphanumeric() || *c == '.' || *c == '_' || sign)
        })
        .map_or(text.len(), |(i, _)| i);
    let plain = text[..end].replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(d) => (-1, d),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)].iter().find_map(|(p, r)| digits.strip_prefix(p).map(|d| (d, *r)));
    let int = match radix {
        Some((d, r)) => i64::from_str_radix(d, r).ok().map(|n| n * sign),
        None => plain.parse().ok(),
    };
    match int {
        Some(n) => Some((Token::Int(n), end)),
        None => plain.parse().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')).map(|f| (Token::Float(f), end)),
    }
}

/// Where the double-quoted text that begins `text` ends.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(i),
            _ => {}
        }
    }
    None
}

/// Go's escapes.
fn unquote(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let c = match chars.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => hex(&mut chars, 2)?,
            'u' => hex(&mut chars, 4)?,
            'U' => hex(&mut chars, 8)?,
            c @ ('\\' | '"' | '\'') => c,
            _ => return None,
        };
        out.push(c);
    }
    Some(out)
}

fn hex(chars: &mut std::str::Chars<'_>, n: usize) -> Option<char> {
    u32::from_str_radix(&chars.by_ref().take(n).collect::<String>(), 16).ok().and_then(char::from_u32)
}
