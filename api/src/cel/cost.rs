//! What an expression costs at worst, by the largest sizes that its types allow, in the units that evaluation counts
//! (upstream: `cel-go/checker/cost.go`, `apiserver/pkg/cel/library/cost.go`). A rule that may cost too much is refused when it is written.

use super::check::Types;
use super::syntax::{Call, Fold, Kind, Node};
use super::types::Type;
use super::value::Val;

/// What a call costs for each character that it looks at.
pub(super) const STRING_FACTOR: f64 = 0.1;
/// The same for a pattern.
pub(super) const REGEX_FACTOR: f64 = 0.25;
pub(super) const LIST_COST: u64 = 10;
pub(super) const MAP_COST: u64 = 30;
pub(super) const STRUCT_COST: u64 = 40;
/// What asking an authorizer costs: two such questions fit into one expression.
pub(super) const CHECK_COST: u64 = 350_000;

/// The least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    const ZERO: Range = Range::of(0);
    const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

    const fn of(n: u64) -> Self {
        Range { min: n, max: n }
    }

    fn plus(self, other: Range) -> Self {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Range) -> Self {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scaled(self, factor: f64) -> Self {
        Range { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    fn union(self, other: Range) -> Self {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// `n` times a factor, rounded up; floats beyond the largest number count as that.
pub(super) fn scale(n: u64, factor: f64) -> u64 {
    (n as f64 * factor).ceil() as u64
}

/// What is known of a node: what it costs to evaluate, and how large the value is.
#[derive(Clone, Copy)]
struct Estimate {
    cost: Range,
    size: Range,
}

struct Estimator<'a> {
    types: &'a Types,
    /// The sizes of what loops and bindings name.
    locals: Vec<(&'a str, Range)>,
}

/// The cost of an expression.
pub(super) fn estimate(node: &Node, types: &Types, variables: &[(String, Type)]) -> Range {
    let mut estimator = Estimator { types, locals: variables.iter().map(|(name, ty)| (name.as_str(), size_of(ty))).collect() };
    estimator.node(node).cost
}

/// How large a value of a declared type may be.
fn size_of(ty: &Type) -> Range {
    match ty {
        Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Null => Range::of(1),
        Type::Optional(of) => size_of(of),
        Type::Object(_) | Type::Opaque(_) | Type::Type | Type::Var(_) => Range::UNKNOWN,
        sized => Range { min: 0, max: sized.max_elements() },
    }
}

/// How large one item of a value may be.
fn item_size(ty: &Type) -> Range {
    match ty {
        Type::List(list) => size_of(&list.item),
        Type::Map(map) => size_of(&map.key),
        _ => Range::UNKNOWN,
    }
}

impl<'a> Estimator<'a> {
    fn ty(&self, node: &Node) -> &'a Type {
        static DYN: Type = Type::DYN;
        self.types.get(&std::ptr::from_ref(node)).unwrap_or(&DYN)
    }

    fn node(&mut self, node: &'a Node) -> Estimate {
        let of_type = size_of(self.ty(node));
        match &node.kind {
            Kind::Const(value) => Estimate { cost: Range::ZERO, size: Range::of(value.size()) },
            Kind::Ident(name) => {
                let size = self.locals.iter().rev().find(|(n, _)| n == name).map_or(of_type, |(_, size)| *size);
                Estimate { cost: Range::of(1), size }
            }
            Kind::Select { operand, test, .. } => {
                let inner = self.node(operand);
                let counts = *test || matches!(self.ty(operand), Type::Map(_) | Type::Object(_) | Type::Var(_));
                let cost = if counts { inner.cost.plus(Range::of(1)) } else { inner.cost };
                Estimate { cost, size: if *test { Range::of(1) } else { of_type } }
            }
            Kind::List(items) => {
                let cost = items.iter().fold(Range::of(LIST_COST), |sum, (item, _)| sum.plus(self.node(item).cost));
                let optional = items.iter().filter(|(_, optional)| *optional).count() as u64;
                let all = items.len() as u64;
                Estimate { cost, size: Range { min: all - optional, max: all } }
            }
            Kind::Map(entries) => {
                let cost = entries
                    .iter()
                    .fold(Range::of(MAP_COST), |sum, (key, value, _)| sum.plus(self.node(key).cost).plus(self.node(value).cost));
                Estimate { cost, size: Range::of(entries.len() as u64) }
            }
            Kind::Struct { fields, .. } => {
                let cost = fields.iter().fold(Range::of(STRUCT_COST), |sum, (_, value, _)| sum.plus(self.node(value).cost));
                Estimate { cost, size: Range::UNKNOWN }
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Call(call) => self.call(call, of_type),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Estimate {
        let range = self.node(&fold.range);
        let start = self.node(&fold.start);
        let binds = matches!(&fold.condition.kind, Kind::Const(Val::Bool(false)));
        let depth = self.locals.len();
        self.locals.push((&fold.accumulator, start.size));
        let mut cost = range.cost.plus(start.cost);
        if !binds {
            let of_range = self.ty(&fold.range);
            match (&fold.second, of_range) {
                (None, _) => self.locals.push((&fold.variable, item_size(of_range))),
                (Some(second), Type::Map(map)) => {
                    self.locals.push((&fold.variable, size_of(&map.key)));
                    self.locals.push((second, size_of(&map.value)));
                }
                (Some(second), _) => {
                    self.locals.push((&fold.variable, Range::of(1)));
                    self.locals.push((second, item_size(of_range)));
                }
            }
            let round = self.node(&fold.condition).cost.plus(self.node(&fold.step).cost);
            cost = cost.plus(range.size.times(round));
            self.locals.truncate(depth + 1);
        }
        let result = self.node(&fold.result);
        self.locals.truncate(depth);
        let size = match (&fold.start.kind, binds) {
            (_, true) => result.size,
            (Kind::List(_) | Kind::Map(_), _) => range.size,
            _ => start.size,
        };
        Estimate { cost: cost.plus(result.cost), size }
    }

    fn call(&mut self, call: &'a Call, of_type: Range) -> Estimate {
        let each: Vec<Estimate> = call.arguments.iter().map(|a| self.node(a)).collect();
        let sum = each.iter().fold(Range::ZERO, |sum, e| sum.plus(e.cost));
        let size = |n: usize| each.get(n).map_or(Range::UNKNOWN, |e| e.size);
        let first = call.arguments.first().map(|a| self.ty(a));
        let text = |n: usize| matches!(call.arguments.get(n).map(|a| self.ty(a)), Some(Type::String(_) | Type::Bytes(_)));
        let one = Range::of(1);
        let walk = size(0).scaled(STRING_FACTOR);
        let (own, size) = match call.function.as_str() {
            "_&&_" | "_||_" => {
                // The right side need not be looked at.
                let cost = Range { min: each[0].cost.min, max: each[0].cost.plus(each[1].cost).max };
                return Estimate { cost, size: one };
            }
            "_?_:_" => {
                let cost = each[0].cost.plus(each[1].cost.union(each[2].cost));
                return Estimate { cost, size: size(1).union(size(2)) };
            }
            "dyn" => (one, size(0)),
            "check" => (Range::of(CHECK_COST), of_type),
            "startsWith" | "endsWith" => (size(1).scaled(STRING_FACTOR), one),
            "contains" => (walk.times(size(1).scaled(STRING_FACTOR)), one),
            "matches" => (size(0).plus(one).scaled(STRING_FACTOR).times(size(1).scaled(REGEX_FACTOR)), one),
            "find" | "findAll" => {
                let cost = size(0).plus(one).scaled(STRING_FACTOR).times(size(1).scaled(REGEX_FACTOR));
                (cost, Range { min: 0, max: size(0).max })
            }
            "@in" => (if matches!(self.ty(&call.arguments[1]), Type::Map(_)) { one } else { size(1) }, one),
            "_+_" if matches!(first, Some(Type::List(_))) => (one, size(0).plus(size(1))),
            "_+_" if text(0) => (size(0).plus(size(1)).scaled(STRING_FACTOR), size(0).plus(size(1))),
            "_==_" | "_!=_" => (compared(size(0), size(1)), one),
            "_<_" | "_<=_" | "_>_" | "_>=_" if text(0) => (compared(size(0), size(1)), one),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => match first {
                Some(Type::List(list)) => {
                    let texts = matches!(list.item, Type::String(_) | Type::Bytes(_));
                    let item = if texts { one.plus(size_of(&list.item).scaled(STRING_FACTOR)) } else { one };
                    (size(0).times(item), of_type)
                }
                _ => (walk, one),
            },
            "lowerAscii" | "upperAscii" | "substring" | "trim" => (walk, size(0)),
            "replace" => (size(0).scaled(2.0 * STRING_FACTOR), replaced(size(0), size(1), size(2))),
            "split" => (size(0).scaled(2.0 * STRING_FACTOR), Range { min: 0, max: size(0).max }),
            "join" => {
                let items = size(0).times(first.map_or(Range::UNKNOWN, item_size));
                let gaps = Range { min: size(0).min.saturating_sub(1), max: size(0).max.saturating_sub(1) };
                let separators = if each.len() > 1 { size(1).times(gaps) } else { Range::ZERO };
                let made = items.plus(separators);
                (made.scaled(STRING_FACTOR), made)
            }
            "url" | "isURL" | "quantity" | "isQuantity" | "isIP" | "isCIDR" | "cidr" | "semver" | "isSemver" => (walk, of_type),
            "ip" if text(0) => (walk, of_type),
            "ip.isCanonical" => (size(0).scaled(2.0 * STRING_FACTOR), one),
            "format" => (walk, size(0).plus(size(1))),
            "validate" => (size(1).scaled(STRING_FACTOR), of_type),
            "bytes" => (walk, Range { min: size(0).min, max: size(0).max.saturating_mul(4) }),
            "string" if text(0) => (walk, size(0)),
            "containsIP" | "containsCIDR" => (Range { min: 4, max: 16 }.times(Range::of(2)).scaled(STRING_FACTOR).plus(one), one),
            "sets.contains" | "sets.intersects" => (size(0).times(size(1)), one),
            "sets.equivalent" => (size(0).times(size(1)).times(Range::of(2)), one),
            _ => (one, of_type),
        };
        Estimate { cost: sum.plus(own), size }
    }
}

/// Comparing two values ends with the shorter of them.
fn compared(a: Range, b: Range) -> Range {
    let most = a.max.min(b.max);
    Range { min: u64::from(most > 0), max: most }.scaled(STRING_FACTOR)
}

/// How long a text may become by replacing.
fn replaced(whole: Range, old: Range, new: Range) -> Range {
    let grown = match old.min {
        0 => whole.max.saturating_add(1).saturating_mul(new.max).saturating_add(whole.max),
        _ if new.max <= old.min => whole.max,
        least => whole.max.div_ceil(least).saturating_mul(new.max),
    };
    let shrunk = match old.max {
        0 => whole.min,
        most if most <= new.min => whole.min,
        most => whole.min.div_ceil(most).saturating_mul(new.min),
    };
    Range { min: shrunk, max: grown }
}
