//! From text to a tree: the `cel` crate parses (its grammar is the language's own, and so are its error messages); here its tree becomes ours, which knows
//! where each node stands and has the macros of Kubernetes' libraries expanded: `cel.bind`, `optMap`, `optFlatMap` and the ones with two variables.

use super::value::{Text, Val};
use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo};
use cel::parser::Parser;
use regex::Regex;

/// The accumulator of a fold, under a name that no expression can say.
pub(super) const RESULT: &str = "@result";
const UNUSED: &str = "@unused";

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    /// The offset in the text, in characters.
    pub at: u32,
    pub kind: Kind,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind {
    Const(Val<'static>),
    Ident(String),
    Select {
        operand: Box<Node>,
        field: String,
        test: bool,
    },
    Call(Call),
    /// Items, and whether each is left out when it is missing.
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct {
        name: String,
        fields: Vec<(String, Node, bool)>,
    },
    Fold(Box<Fold>),
}

/// A call. The target is the first argument.
#[derive(Debug)]
pub(super) struct Call {
    pub function: String,
    pub method: bool,
    pub arguments: Vec<Node>,
    /// The pattern, where it is constant.
    pub regex: Option<Regex>,
}

/// A loop over a list or a map.
#[derive(Debug)]
pub(super) struct Fold {
    pub range: Node,
    pub variable: String,
    pub second: Option<String>,
    pub accumulator: String,
    pub start: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

/// One thing that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The offset in the text, in characters.
    pub at: u32,
    pub message: String,
}

/// Names before a dot that are no values but the libraries of functions.
const LIBRARIES: [&str; 8] = ["optional", "sets", "ip", "format", "cel", "strings", "math", "jsonpatch"];

/// Problems as upstream prints them: with the line and a mark below it.
pub(super) fn show(text: &str, problems: &[Problem]) -> String {
    let mut out = Vec::new();
    for problem in problems {
        let before: String = text.chars().take(problem.at as usize).collect();
        let line = before.matches('\n').count();
        let column = before.chars().rev().take_while(|c| *c != '\n').count();
        let source = text.lines().nth(line).unwrap_or("");
        let dots: String = ".".repeat(column);
        out.push(format!("ERROR: <input>:{}:{}: {}\n | {source}\n | {dots}^", line + 1, column + 1, problem.message));
    }
    out.join("\n")
}

/// The tree of a text, or upstream's words for why it has none.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    let parser = Parser::new().enable_optional_syntax(true).enable_ident_escape_syntax(true).max_recursion_depth(250);
    match parser.parse_with_source_info(text) {
        Ok((tree, source)) => {
            let mut lowering = Lowering { source, problems: Vec::new() };
            let node = lowering.node(tree);
            if lowering.problems.is_empty() { Ok(node) } else { Err(show(text, &lowering.problems)) }
        }
        Err(errors) => {
            let problems: Vec<Problem> =
                errors.errors.iter().map(|e| Problem { at: offset(text, e.pos), message: e.msg.clone() }).collect();
            Err(show(text, &problems))
        }
    }
}

/// The offset of a line and column, both counted from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> u32 {
    let before: usize = text.split_inclusive('\n').take(usize::try_from(line - 1).unwrap_or(0)).map(|l| l.chars().count()).sum();
    u32::try_from(before + usize::try_from(column - 1).unwrap_or(0)).unwrap_or(0)
}

struct Lowering {
    source: SourceInfo,
    problems: Vec<Problem>,
}

impl Lowering {
    fn at(&self, id: u64) -> u32 {
        self.source.offset_for(id).map_or(0, |(start, _)| start)
    }

    fn nodes(&mut self, list: Vec<IdedExpr>) -> Vec<Node> {
        list.into_iter().map(|e| self.node(e)).collect()
    }

    fn node(&mut self, expr: IdedExpr) -> Node {
        let at = self.at(expr.id);
        let kind = match expr.expr {
            Expr::Unspecified => Kind::Const(Val::Null),
            Expr::Literal(literal) => Kind::Const(constant(literal)),
            Expr::Ident(name) => Kind::Ident(name),
            Expr::Select(select) => Kind::Select { operand: Box::new(self.node(*select.operand)), field: select.field, test: select.test },
            Expr::List(list) => {
                let optional = list.optional_indices;
                let items = list.elements.into_iter().enumerate();
                Kind::List(items.map(|(i, e)| (self.node(e), optional.contains(&i))).collect())
            }
            Expr::Map(map) => {
                let entries = map.entries.into_iter().filter_map(|entry| match entry.expr {
                    EntryExpr::MapEntry(e) => Some((self.node(e.key), self.node(e.value), e.optional)),
                    EntryExpr::StructField(_) => None,
                });
                Kind::Map(entries.collect())
            }
            Expr::Struct(made) => {
                let fields = made.entries.into_iter().filter_map(|entry| match entry.expr {
                    EntryExpr::StructField(f) => Some((f.field, self.node(f.value), f.optional)),
                    EntryExpr::MapEntry(_) => None,
                });
                Kind::Struct { fields: fields.collect(), name: made.type_name }
            }
            Expr::Comprehension(fold) => Kind::Fold(Box::new(Fold {
                range: self.node(fold.iter_range),
                variable: fold.iter_var,
                second: fold.iter_var2,
                accumulator: fold.accu_var,
                start: self.node(fold.accu_init),
                condition: self.node(fold.loop_cond),
                step: self.node(fold.loop_step),
                result: self.node(fold.result),
            })),
            Expr::Call(call) => return self.call(at, call.func_name, call.target.map(|t| *t), call.args),
        };
        Node { at, kind }
    }

    fn call(&mut self, at: u32, function: String, target: Option<IdedExpr>, arguments: Vec<IdedExpr>) -> Node {
        let Some(target) = target else {
            let arguments = self.nodes(arguments);
            return call(at, &function, false, arguments);
        };
        if let Expr::Ident(library) = &target.expr
            && LIBRARIES.contains(&library.as_str())
        {
            if library == "cel" && function == "bind" && arguments.len() == 3 {
                return self.bind(at, arguments);
            }
            let name = format!("{library}.{function}");
            if super::declarations::is_function(&name) {
                let arguments = self.nodes(arguments);
                return call(at, &name, false, arguments);
            }
        }
        match (function.as_str(), arguments.len()) {
            ("optMap" | "optFlatMap", 2) => self.map_optional(at, target, arguments, function == "optFlatMap"),
            ("all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
                self.two_variables(at, &function, target, arguments)
            }
            _ => {
                let mut all = vec![self.node(target)];
                all.extend(self.nodes(arguments));
                call(at, &function, true, all)
            }
        }
    }

    /// The name that an argument of a macro must be.
    fn name(&mut self, argument: &IdedExpr) -> String {
        match &argument.expr {
            Expr::Ident(name) => name.clone(),
            _ => {
                let message = "argument must be a simple name".to_owned();
                self.problems.push(Problem { at: self.at(argument.id), message });
                String::new()
            }
        }
    }

    fn bind(&mut self, at: u32, arguments: Vec<IdedExpr>) -> Node {
        let mut rest = arguments.into_iter();
        let (Some(name), Some(value), Some(body)) = (rest.next(), rest.next(), rest.next()) else { return constant_node(at, Val::Null) };
        let accumulator = self.name(&name);
        let (start, result) = (self.node(value), self.node(body));
        let_in(at, accumulator, start, result)
    }

    /// `x.optMap(v, e)`: `x.hasValue() ? optional.of(e with v = x.value()) : optional.none()`.
    fn map_optional(&mut self, at: u32, target: IdedExpr, arguments: Vec<IdedExpr>, flat: bool) -> Node {
        let mut rest = arguments.into_iter();
        let (Some(name), Some(body)) = (rest.next(), rest.next()) else { return constant_node(at, Val::Null) };
        let variable = self.name(&name);
        let has = call(at, "hasValue", true, vec![self.node(target.clone())]);
        let value = call(at, "value", true, vec![self.node(target)]);
        let made = let_in(at, variable, value, self.node(body));
        let made = if flat { made } else { call(at, "optional.of", false, vec![made]) };
        call(at, "_?_:_", false, vec![has, made, call(at, "optional.none", false, Vec::new())])
    }

    /// The macros that see keys and values, or indices and items.
    fn two_variables(&mut self, at: u32, function: &str, target: IdedExpr, arguments: Vec<IdedExpr>) -> Node {
        let ident = |name: &str| Node { at, kind: Kind::Ident(name.to_owned()) };
        let truth = |b: bool| constant_node(at, Val::Bool(b));
        let strictly = |node: Node| call(at, "@not_strictly_false", false, vec![node]);
        let mut rest = arguments.into_iter();
        let (Some(first), Some(second), Some(third)) = (rest.next(), rest.next(), rest.next()) else { return truth(false) };
        let (variable, second) = (self.name(&first), self.name(&second));
        let fourth = rest.next();
        let filter = fourth.is_some();
        let range = self.node(target);
        let third_node = self.node(third);
        let (condition_of_entry, body) = match fourth {
            Some(body) => (Some(third_node), self.node(body)),
            None => (None, third_node),
        };
        let (start, condition, step, result) = match function {
            "all" => (truth(true), strictly(ident(RESULT)), call(at, "_&&_", false, vec![ident(RESULT), body]), ident(RESULT)),
            "exists" => {
                let none_yet = call(at, "!_", false, vec![ident(RESULT)]);
                (truth(false), strictly(none_yet), call(at, "_||_", false, vec![ident(RESULT), body]), ident(RESULT))
            }
            "existsOne" | "exists_one" => {
                let one = || constant_node(at, Val::Int(1));
                let more = call(at, "_+_", false, vec![ident(RESULT), one()]);
                let step = call(at, "_?_:_", false, vec![body, more, ident(RESULT)]);
                (constant_node(at, Val::Int(0)), truth(true), step, call(at, "_==_", false, vec![ident(RESULT), one()]))
            }
            "transformList" => {
                let more = call(at, "_+_", false, vec![ident(RESULT), Node { at, kind: Kind::List(vec![(body, false)]) }]);
                (Node { at, kind: Kind::List(Vec::new()) }, truth(true), more, ident(RESULT))
            }
            "transformMap" => {
                let more = call(at, "@map_insert", false, vec![ident(RESULT), ident(&variable), body]);
                (Node { at, kind: Kind::Map(Vec::new()) }, truth(true), more, ident(RESULT))
            }
            _ => {
                let more = call(at, "@map_insert", false, vec![ident(RESULT), body]);
                (Node { at, kind: Kind::Map(Vec::new()) }, truth(true), more, ident(RESULT))
            }
        };
        let step = match condition_of_entry {
            Some(condition) if filter => call(at, "_?_:_", false, vec![condition, step, ident(RESULT)]),
            _ => step,
        };
        let fold = Fold { range, variable, second: Some(second), accumulator: RESULT.into(), start, condition, step, result };
        Node { at, kind: Kind::Fold(Box::new(fold)) }
    }
}

/// `result` with a name for `start`: a loop over nothing.
fn let_in(at: u32, accumulator: String, start: Node, result: Node) -> Node {
    let fold = Fold {
        range: Node { at, kind: Kind::List(Vec::new()) },
        variable: UNUSED.into(),
        second: None,
        step: Node { at, kind: Kind::Ident(accumulator.clone()) },
        accumulator,
        start,
        condition: constant_node(at, Val::Bool(false)),
        result,
    };
    Node { at, kind: Kind::Fold(Box::new(fold)) }
}

fn constant_node(at: u32, value: Val<'static>) -> Node {
    Node { at, kind: Kind::Const(value) }
}

fn call(at: u32, function: &str, method: bool, arguments: Vec<Node>) -> Node {
    Node { at, kind: Kind::Call(Call { function: function.to_owned(), method, arguments, regex: None }) }
}

fn constant(literal: LiteralValue) -> Val<'static> {
    match literal {
        LiteralValue::Boolean(b) => Val::Bool(b.into_inner()),
        LiteralValue::Bytes(b) => Val::Bytes(b.into_inner().into()),
        LiteralValue::Double(n) => Val::Double(n.into_inner()),
        LiteralValue::Int(n) => Val::Int(n.into_inner()),
        LiteralValue::Null => Val::Null,
        LiteralValue::String(s) => Val::String(Text::Shared(s.into_inner().into())),
        LiteralValue::UInt(n) => Val::Uint(n.into_inner()),
    }
}
