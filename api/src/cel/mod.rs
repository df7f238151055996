//! CEL, the expression language of validation rules, admission policies and match conditions, with Kubernetes' libraries, costs and error texts
//! (upstream: `apiserver/pkg/cel`).
//!
//! The `cel` crate parses. Checking, costs and evaluation are here, because what Kubernetes promises about expressions is in them: types come from
//! schemas, a rule that could cost too much is refused when it is written, and one that does is ended when it runs. Values are read from JSON in place.
//!
//! Deliberately absent: protocol buffer messages, and functions that Kubernetes does not offer (`math`, `base64`, `strings.quote` and its kind apart).

mod check;
mod cost;
pub mod declarations;
pub mod devices;
mod eval;
mod functions;
mod syntax;
pub mod types;
pub mod value;

pub use cost::Range;
pub use eval::Activation;
pub use functions::time::parse_duration;
pub use types::Type;
pub use value::{EvalError, Val};

use syntax::{Kind, Node};

/// What one evaluation may cost (upstream: `celconfig.PerCallLimit`).
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all evaluations for one object may cost (upstream: `celconfig.RuntimeCELCostBudget`).
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// What the match conditions of one webhook or policy may cost (upstream: `celconfig.RuntimeCELCostBudgetMatchConditions`).
pub const MATCH_CONDITIONS_BUDGET: u64 = RUNTIME_BUDGET / 4;

/// What an expression may name, and what it must come to.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables and their types.
    pub variables: Vec<(String, Type)>,
    /// Objects that can be made (`Object{...}`), by their names. Under a dynamic one, names that continue it can be made too.
    pub structs: Vec<(String, Type)>,
}

impl Environment {
    /// One with these variables.
    pub fn new(variables: &[(&str, Type)]) -> Self {
        Environment { variables: variables.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect(), structs: Vec::new() }
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    node: Box<Node>,
    result: Type,
    cost: Range,
}

/// Compiles an expression. The error is upstream's text without its `compilation failed: `: one problem after the other, each with the line it is in.
pub fn compile(expression: &str, environment: &Environment) -> Result<Program, String> {
    let mut node = Box::new(syntax::parse(expression)?);
    prepare(&mut node)?;
    let (result, cost) = {
        let (result, types) =
            check::check(&node, &environment.variables, &environment.structs).map_err(|problems| syntax::show(expression, &problems))?;
        let cost = cost::estimate(&node, &types, &environment.variables);
        (result, cost)
    };
    Ok(Program { node, result, cost })
}

impl Program {
    /// The type of what it comes to.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// What an evaluation costs at least and at most, as far as the types tell.
    pub fn cost(&self) -> Range {
        self.cost
    }

    /// Whether the expression names this variable.
    pub fn names(&self, variable: &str) -> bool {
        names(&self.node, variable)
    }

    /// The texts that stand in the expression.
    pub fn texts(&self) -> Vec<&str> {
        let mut found = Vec::new();
        texts(&self.node, &mut found);
        found
    }

    /// Evaluates it within `limit`. Comes with what it cost, also where it fails.
    pub fn evaluate<'a>(&'a self, variables: &dyn Activation<'a>, limit: u64) -> (Result<Val<'a>, EvalError>, u64) {
        eval::evaluate(&self.node, variables, limit)
    }
}

fn names(node: &Node, variable: &str) -> bool {
    let mut found = matches!(&node.kind, Kind::Ident(name) if name == variable);
    children(node, &mut |child| found = found || names(child, variable));
    found
}

fn texts<'n>(node: &'n Node, found: &mut Vec<&'n str>) {
    if let Kind::Const(Val::String(text)) = &node.kind {
        found.push(text);
    }
    children(node, &mut |child| texts(child, found));
}

/// Calls `see` with each node directly below.
fn children<'n>(node: &'n Node, see: &mut dyn FnMut(&'n Node)) {
    match &node.kind {
        Kind::Const(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => see(operand),
        Kind::Call(call) => call.arguments.iter().for_each(see),
        Kind::List(items) => items.iter().for_each(|(item, _)| see(item)),
        Kind::Map(entries) => entries.iter().for_each(|(key, value, _)| {
            see(key);
            see(value);
        }),
        Kind::Struct { fields, .. } => fields.iter().for_each(|(_, value, _)| see(value)),
        Kind::Fold(fold) => {
            [&fold.range, &fold.start, &fold.condition, &fold.step, &fold.result].into_iter().for_each(see);
        }
    }
}

/// Compiles the patterns that are constants.
fn prepare(node: &mut Node) -> Result<(), String> {
    match &mut node.kind {
        Kind::Const(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => prepare(operand)?,
        Kind::Call(call) => {
            call.arguments.iter_mut().try_for_each(prepare)?;
            if matches!(call.function.as_str(), "matches" | "find" | "findAll")
                && let Some(Node { kind: Kind::Const(Val::String(pattern)), .. }) = call.arguments.get(1)
            {
                call.regex = Some(crate::go_regex::compile(pattern).map_err(|e| format!("program instantiation failed: {e}"))?);
            }
        }
        Kind::List(items) => items.iter_mut().try_for_each(|(item, _)| prepare(item))?,
        Kind::Map(entries) => entries.iter_mut().try_for_each(|(key, value, _)| prepare(key).and_then(|()| prepare(value)))?,
        Kind::Struct { fields, .. } => fields.iter_mut().try_for_each(|(_, value, _)| prepare(value))?,
        Kind::Fold(fold) => {
            [&mut fold.range, &mut fold.start, &mut fold.condition, &mut fold.step, &mut fold.result].into_iter().try_for_each(prepare)?;
        }
    }
    Ok(())
}

/// Words that an expression cannot use as a name.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const ESCAPES: [(&str, &str); 4] = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];

/// A property's name as expressions say it; `None` if they cannot (upstream: `cel.Escape`).
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some((escaped, plain)) = ESCAPES.iter().find(|(_, plain)| rest.starts_with(plain)) {
            out.push_str(escaped);
            rest = &rest[plain.len()..];
            continue;
        }
        if !(c == '_' || c.is_ascii_alphabetic() || (c.is_ascii_digit() && !out.is_empty())) {
            return None;
        }
        out.push(c);
        rest = &rest[1..];
    }
    (!out.is_empty()).then_some(out)
}

/// The property that an escaped name means; `None` if the name is not escaped.
pub fn unescape(name: &str) -> Option<String> {
    if !name.contains("__") {
        return None;
    }
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return Some(word.to_owned());
    }
    let mut out = String::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        match ESCAPES.iter().find(|(escaped, _)| rest.starts_with(escaped)) {
            Some((escaped, plain)) => {
                out.push_str(plain);
                rest = &rest[escaped.len()..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
