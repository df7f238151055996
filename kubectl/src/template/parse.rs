//! The tree of a template.

use super::functions;
use super::lex::{Error, Piece, Token, lex};
use serde_json::Value;
use std::collections::HashMap;

/// An operand with the fields taken from it, and where it stands.
#[derive(Clone, Debug)]
pub struct Operand {
    /// What it is.
    pub kind: OperandKind,
    /// Fields taken from it in turn.
    pub fields: Vec<String>,
    /// Its text, for errors.
    pub text: String,
    /// Where it, or the last field, begins.
    pub offset: usize,
}

/// What an operand is.
#[derive(Clone, Debug)]
pub enum OperandKind {
    /// The current value.
    Dot,
    /// A variable.
    Variable(String),
    /// A constant.
    Constant(Value),
    /// `nil`.
    Nil,
    /// A function.
    Function(String),
    /// `( ... )`.
    Pipeline(Pipeline),
}

/// Commands joined by `|`, and the variables its result goes to.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// `$a, $b := ...`.
    pub variables: Vec<String>,
    /// `:=` and not `=`.
    pub declares: bool,
    /// Each an operand and its arguments.
    pub commands: Vec<Vec<Operand>>,
}

/// What a template is made of.
#[derive(Clone, Debug)]
pub enum Node {
    /// Copied out.
    Text(String),
    /// Printed, unless it sets variables.
    Action(Pipeline),
    /// `if`.
    If(Pipeline, Vec<Node>, Vec<Node>),
    /// `with`.
    With(Pipeline, Vec<Node>, Vec<Node>),
    /// `range`.
    Range(Pipeline, Vec<Node>, Vec<Node>),
    /// `template`.
    Template(String, Option<Pipeline>, usize),
    /// `break`.
    Break,
    /// `continue`.
    Continue,
}

/// The main template and those it defines.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The main one.
    pub root: Vec<Node>,
    /// By name.
    pub defined: HashMap<String, Vec<Node>>,
}

/// How deeply actions and parentheses may nest; beyond it a template is an attack on the stack, not a format.
const MAX_DEPTH: usize = 100;

struct Parser<'a> {
    source: &'a str,
    pieces: std::vec::IntoIter<Piece>,
    variables: Vec<String>,
    defined: HashMap<String, Vec<Node>>,
    line: usize,
    depth: usize,
    ranges: usize,
}

enum Stop {
    Eof,
    End,
    /// `else`, with the words after it.
    Else(Vec<(Token, usize)>),
}

/// Parses a template.
pub fn parse(source: &str) -> Result<Tree, Error> {
    let pieces = lex(source)?.into_iter();
    let mut p = Parser { source, pieces, variables: vec!["$".into()], defined: HashMap::new(), line: 1, depth: 0, ranges: 0 };
    let (root, end) = p.list()?;
    match end {
        Stop::Eof => Ok(Tree { root, defined: p.defined }),
        Stop::End => p.fail("unexpected {{end}}"),
        Stop::Else(_) => p.fail("unexpected {{else}}"),
    }
}

impl Parser<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err((self.line, message.into()))
    }

    fn list(&mut self) -> Result<(Vec<Node>, Stop), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("max expression depth exceeded");
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(t) => {
                    nodes.push(Node::Text(t));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            if let Some((_, at)) = tokens.first() {
                self.line = self.source[..*at].matches('\n').count() + 1;
            }
            let start = tokens.iter().position(|(t, _)| *t != Token::Space).unwrap_or(tokens.len());
            let (head, rest) = tokens[start..].split_first().map_or((None, &[][..]), |(h, r)| (Some(h.0.clone()), r));
            let keyword = match &head {
                Some(Token::Word(w)) => w.as_str(),
                _ => "",
            };
            match keyword {
                "end" => {
                    self.depth -= 1;
                    return Ok((nodes, Stop::End));
                }
                "else" => {
                    self.depth -= 1;
                    return Ok((nodes, Stop::Else(rest.to_vec())));
                }
                "if" | "with" | "range" => nodes.push(self.control(keyword, rest)?),
                "break" | "continue" if self.ranges == 0 => return self.fail(format!("{{{{{keyword}}}}} outside {{{{range}}}}")),
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => {
                    let at = rest.iter().position(|(t, _)| *t != Token::Space).unwrap_or(rest.len());
                    let Some((Token::Text(name), offset)) = rest.get(at).cloned() else {
                        return self.fail(format!("unexpected token in {keyword} clause"));
                    };
                    let after = &rest[at + 1..];
                    let has_argument = after.iter().any(|(t, _)| *t != Token::Space);
                    let argument = if has_argument { Some(self.pipeline(after, keyword)?) } else { None };
                    if keyword != "template" {
                        let outer = std::mem::replace(&mut self.variables, vec!["$".into()]);
                        let (body, end) = self.list()?;
                        self.variables = outer;
                        if !matches!(end, Stop::End) {
                            return self.fail(format!("unexpected EOF in {keyword} clause"));
                        }
                        self.defined.insert(name.clone(), body);
                    }
                    if keyword != "define" {
                        nodes.push(Node::Template(name, argument, offset));
                    }
                }
                _ => nodes.push(Node::Action(self.pipeline(&tokens[start..], "command")?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, Stop::Eof))
    }

    fn control(&mut self, keyword: &str, tokens: &[(Token, usize)]) -> Result<Node, Error> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(tokens, keyword)?;
        self.ranges += usize::from(keyword == "range");
        let (body, end) = self.list()?;
        self.ranges -= usize::from(keyword == "range");
        let otherwise = match end {
            Stop::Eof => return self.fail("unexpected EOF"),
            Stop::End => Vec::new(),
            Stop::Else(words) => {
                let words: Vec<_> = words.into_iter().skip_while(|(t, _)| *t == Token::Space).collect();
                match words.first() {
                    // `else if` shares the `end` of its `if`.
                    Some((Token::Word(w), _)) if (w == "if" || w == "with") && w == keyword => {
                        let w = w.clone();
                        vec![self.control(&w, &words[1..])?]
                    }
                    Some(_) => return self.fail("unexpected token in else clause"),
                    None => match self.list()? {
                        (nodes, Stop::End) => nodes,
                        (_, Stop::Else(_)) => return self.fail("expected end; found {{else}}"),
                        (_, Stop::Eof) => return self.fail("unexpected EOF"),
                    },
                }
            }
        };
        self.variables.truncate(scope);
        Ok(match keyword {
            "if" => Node::If(pipeline, body, otherwise),
            "with" => Node::With(pipeline, body, otherwise),
            _ => Node::Range(pipeline, body, otherwise),
        })
    }

    fn pipeline(&mut self, tokens: &[(Token, usize)], context: &str) -> Result<Pipeline, Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("max expression depth exceeded");
        }
        let mut pipeline = Pipeline::default();
        let mut rest = tokens;
        let sign = tokens.iter().position(|(t, _)| matches!(t, Token::Mark(":=" | "=")));
        if let Some(at) = sign {
            pipeline.declares = tokens[at].0 == Token::Mark(":=");
            for (t, _) in &tokens[..at] {
                match t {
                    Token::Variable(v) => pipeline.variables.push(v.clone()),
                    Token::Space | Token::Mark(",") => {}
                    _ => return self.fail(format!("unexpected token in {context}")),
                }
            }
            if pipeline.variables.len() > if context == "range" { 2 } else { 1 } {
                return self.fail(format!("too many declarations in {context}"));
            }
            rest = &tokens[at + 1..];
        }
        let (mut command, mut separated) = (Vec::new(), true);
        let mut i = 0;
        while i < rest.len() {
            let (token, offset) = &rest[i];
            i += 1;
            match token {
                Token::Space => separated = true,
                Token::Mark("|") => {
                    if command.is_empty() {
                        return self.fail(format!("missing value for {context}"));
                    }
                    pipeline.commands.push(std::mem::take(&mut command));
                    separated = true;
                }
                Token::Field(name) if !separated && !name.is_empty() => {
                    let operand: &mut Operand = match command.last_mut() {
                        Some(o) => o,
                        None => return self.fail("unexpected field"),
                    };
                    operand.fields.push(name.clone());
                    // Go places a chain of fields at its second one.
                    if operand.fields.len() == 2 {
                        operand.offset = *offset;
                    }
                    operand.text.push('.');
                    operand.text.push_str(name);
                }
                other => {
                    let kind = match other {
                        Token::Field(_) => OperandKind::Dot,
                        Token::Variable(v) if self.variables.contains(v) => OperandKind::Variable(v.clone()),
                        Token::Variable(v) => return self.fail(format!("undefined variable {v:?}")),
                        Token::Text(t) => OperandKind::Constant(Value::String(t.clone())),
                        Token::Int(n) => OperandKind::Constant(Value::from(*n)),
                        Token::Float(f) => OperandKind::Constant(Value::from(*f)),
                        Token::Word(w) => match w.as_str() {
                            "true" | "false" => OperandKind::Constant(Value::Bool(w == "true")),
                            "nil" => OperandKind::Nil,
                            f if functions::exists(f) => OperandKind::Function(w.clone()),
                            f => return self.fail(format!("function {f:?} not defined")),
                        },
                        Token::Mark("(") => {
                            let mut depth = 1;
                            let close = rest[i..].iter().position(|(t, _)| {
                                depth += match t {
                                    Token::Mark("(") => 1,
                                    Token::Mark(")") => -1,
                                    _ => 0,
                                };
                                depth == 0
                            });
                            let Some(close) = close else { return self.fail("unclosed left paren") };
                            let inner = self.pipeline(&rest[i..i + close], "parenthesized pipeline")?;
                            i += close + 1;
                            OperandKind::Pipeline(inner)
                        }
                        Token::Mark(m) => return self.fail(format!("unexpected {m:?} in operand").replace('"', "")),
                        Token::Space => unreachable!("matched above"),
                    };
                    let end = rest.get(i).map_or(*offset + 1, |(_, o)| *o).max(*offset + 1).min(self.source.len());
                    let fields = match other {
                        Token::Field(f) if !f.is_empty() => vec![f.clone()],
                        _ => Vec::new(),
                    };
                    let text = match other {
                        Token::Field(f) => format!(".{f}"),
                        Token::Variable(w) | Token::Word(w) => w.clone(),
                        _ => self.source.get(*offset..end).unwrap_or("").trim().to_owned(),
                    };
                    command.push(Operand { kind, fields, text, offset: *offset });
                    separated = false;
                }
            }
        }
        if command.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        pipeline.commands.push(command);
        if pipeline.declares {
            self.variables.extend(pipeline.variables.iter().cloned());
        }
        self.depth -= 1;
        Ok(pipeline)
    }
}
