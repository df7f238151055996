//! Evaluation: walks the tree, counts what it does, and ends when it has done too much (upstream: `cel-go/interpreter`, `runtimecost.go`).

use super::check;
use super::cost::{CHECK_COST, LIST_COST, MAP_COST, REGEX_FACTOR, STRING_FACTOR, STRUCT_COST, scale};
use super::functions;
use super::syntax::{Call, Fold, Kind, Node, RESULT};
use super::value::{EvalError, Key, List, Map, Val};
use indexmap::IndexMap;
use std::sync::Arc;

/// Where the values of variables come from.
pub trait Activation<'a> {
    /// The value of a variable; `None` if there is no such variable.
    fn resolve(&self, name: &str) -> Option<Result<Val<'a>, EvalError>>;
}

impl<'a> Activation<'a> for [(&str, Val<'a>)] {
    fn resolve(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| Ok(value.clone()))
    }
}

impl<'a, const N: usize> Activation<'a> for [(&str, Val<'a>); N] {
    fn resolve(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        self.as_slice().resolve(name)
    }
}

type Outcome<'a> = Result<Val<'a>, EvalError>;

struct Evaluator<'a, 'r> {
    variables: &'r dyn Activation<'a>,
    locals: Vec<(&'a str, Val<'a>)>,
    cost: u64,
    limit: u64,
}

/// The value of an expression, and what it cost.
pub(super) fn evaluate<'a>(node: &'a Node, variables: &dyn Activation<'a>, limit: u64) -> (Outcome<'a>, u64) {
    let mut evaluator = Evaluator { variables, locals: Vec::new(), cost: 0, limit };
    let outcome = evaluator.node(node);
    (outcome, evaluator.cost)
}

fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(message.into()))
}

impl<'a> Evaluator<'a, '_> {
    fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn node(&mut self, node: &'a Node) -> Outcome<'a> {
        match &node.kind {
            Kind::Const(value) => Ok(value.clone()),
            Kind::Ident(name) => self.ident(name),
            Kind::Select { operand, field, test } => self.select(node, operand, field, *test),
            Kind::List(items) => {
                let mut made = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    match (self.node(item)?, optional) {
                        (Val::Optional(value), true) => made.extend(value.map(|v| (*v).clone())),
                        (_, true) => return Err(EvalError::no_overload()),
                        (value, false) => made.push(value),
                    }
                }
                self.spend(LIST_COST)?;
                Ok(Val::list(made))
            }
            Kind::Map(entries) => {
                let mut made = IndexMap::with_capacity(entries.len());
                for (key, value, optional) in entries {
                    let Some(key) = self.node(key)?.key() else { return failed("unsupported key type") };
                    match (self.node(value)?, optional) {
                        (Val::Optional(value), true) => drop(value.map(|v| made.insert(key, (*v).clone()))),
                        (value, _) => drop(made.insert(key, value)),
                    }
                }
                self.spend(MAP_COST)?;
                Ok(Val::Map(Map::Made(Arc::new(made), None)))
            }
            Kind::Struct { name, fields } => {
                let mut made = IndexMap::with_capacity(fields.len());
                for (field, value, optional) in fields {
                    let json = super::unescape(field).unwrap_or_else(|| field.clone());
                    match (self.node(value)?, optional) {
                        (Val::Optional(value), true) => drop(value.map(|v| made.insert(Key::String(json.into()), (*v).clone()))),
                        (value, _) => drop(made.insert(Key::String(json.into()), value)),
                    }
                }
                self.spend(STRUCT_COST)?;
                Ok(Val::Map(Map::Made(Arc::new(made), Some(name.as_str().into()))))
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Call(call) => self.call(call),
        }
    }

    fn ident(&mut self, name: &str) -> Outcome<'a> {
        self.spend(1)?;
        if let Some((_, value)) = self.locals.iter().rev().find(|(n, _)| *n == name) {
            return Ok(value.clone());
        }
        match self.variables.resolve(name) {
            Some(value) => value,
            None if check::is_type_name(name) => Ok(Val::Type(name.into())),
            None => failed(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, node: &'a Node, operand: &'a Node, field: &str, test: bool) -> Outcome<'a> {
        if let Some(name) = check::dotted(node).filter(|n| check::is_type_name(n)) {
            return Ok(Val::Type(name.into()));
        }
        let target = self.node(operand)?;
        self.spend(1)?;
        if test {
            let target = match target {
                Val::Optional(None) => return Ok(Val::Bool(false)),
                Val::Optional(Some(inner)) => (*inner).clone(),
                other => other,
            };
            return match find(&target, field) {
                Ok(found) => Ok(Val::Bool(found.is_some_and(|v| !matches!(v, Val::Null)))),
                Err(error) => Err(error),
            };
        }
        match target {
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => Ok(optional(find(&inner, field)?)),
            target => find(&target, field)?.ok_or_else(|| EvalError::no_key(field)),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let binds = matches!(&fold.condition.kind, Kind::Const(Val::Bool(false)));
        let depth = self.locals.len();
        if binds {
            self.spend(LIST_COST)?;
            let start = self.node(&fold.start)?;
            self.locals.push((&fold.accumulator, start));
            let result = self.node(&fold.result);
            self.locals.truncate(depth);
            return result;
        }
        let range = self.node(&fold.range)?;
        let start = self.node(&fold.start);
        let mut accumulator = start?;
        let outcome = match &range {
            Val::List(list) => {
                let pairs = (0..list.len()).filter_map(|i| Some((Val::Int(i64::try_from(i).ok()?), list.get(i)?)));
                self.rounds(fold, pairs, &mut accumulator, true)
            }
            Val::Map(map) => {
                let pairs = map.keys().into_iter().filter_map(|key| Some((key.value(), map.get(&key)?)));
                self.rounds(fold, pairs, &mut accumulator, false)
            }
            _ => return Err(EvalError::no_overload()),
        };
        self.locals.truncate(depth);
        outcome?;
        self.locals.push((&fold.accumulator, accumulator));
        let result = self.node(&fold.result);
        self.locals.truncate(depth);
        result
    }

    /// Goes through keys and values. With one variable, a list's is the value and a map's is the key.
    fn rounds(
        &mut self,
        fold: &'a Fold,
        pairs: impl Iterator<Item = (Val<'a>, Val<'a>)>,
        accumulator: &mut Val<'a>,
        list: bool,
    ) -> Result<(), EvalError> {
        let depth = self.locals.len();
        // A step that fails counts only if no later one decides the outcome.
        let mut pending: Option<EvalError> = None;
        for (key, value) in pairs {
            self.locals.truncate(depth);
            match &fold.second {
                Some(second) => {
                    self.locals.push((&fold.variable, key));
                    self.locals.push((second, value));
                }
                None => self.locals.push((&fold.variable, if list { value } else { key })),
            }
            self.locals.push((&fold.accumulator, std::mem::replace(accumulator, Val::Null)));
            let go_on = match &pending {
                // What is not strictly false goes on.
                Some(_) => true,
                None => matches!(self.node(&fold.condition)?, Val::Bool(true)),
            };
            if !go_on {
                if let Some((_, value)) = self.locals.pop() {
                    *accumulator = value;
                }
                break;
            }
            let stepped = self.step(fold, pending.is_some());
            match stepped {
                Ok(value) => {
                    let decides = matches!((&value, &fold.start.kind), (Val::Bool(v), Kind::Const(Val::Bool(start))) if v != start);
                    if pending.is_none() || decides {
                        *accumulator = value;
                        if decides {
                            self.locals.truncate(depth);
                            return Ok(());
                        }
                    }
                }
                Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                Err(error) => {
                    let absorbs = matches!(&fold.start.kind, Kind::Const(Val::Bool(_)));
                    if !absorbs {
                        return Err(error);
                    }
                    pending.get_or_insert(error);
                    if let Kind::Const(start) = &fold.start.kind {
                        *accumulator = start.clone();
                    }
                }
            }
        }
        self.locals.truncate(depth);
        pending.map_or(Ok(()), Err)
    }

    /// One step. A list that grows by an item is grown in place, so that building one takes as long as it is.
    fn step(&mut self, fold: &'a Fold, failed_before: bool) -> Outcome<'a> {
        if !failed_before
            && let Kind::Call(Call { function, arguments, .. }) = &fold.step.kind
            && function == "_+_"
            && let [Node { kind: Kind::Ident(name), .. }, addition] = arguments.as_slice()
            && name == RESULT
        {
            let added = self.node(addition)?;
            self.spend(1)?;
            let slot = self.locals.iter_mut().rev().find(|(n, _)| *n == RESULT);
            if let (Some((_, slot)), Val::List(added)) = (slot, &added)
                && let Val::List(List::Made(items)) = slot
            {
                self.cost = self.cost.saturating_add(1);
                let mut items = std::mem::take(items);
                Arc::make_mut(&mut items).extend(added.iter());
                return Ok(Val::List(List::Made(items)));
            }
            let accumulator = self.ident(RESULT)?;
            return functions::add(&accumulator, &added);
        }
        self.node(&fold.step)
    }

    fn call(&mut self, call: &'a Call) -> Outcome<'a> {
        let arguments = call.arguments.as_slice();
        match (call.function.as_str(), arguments) {
            ("_&&_", [left, right]) => return self.logic(left, right, false),
            ("_||_", [left, right]) => return self.logic(left, right, true),
            ("_?_:_", [condition, yes, no]) => {
                return match self.node(condition)? {
                    Val::Bool(true) => self.node(yes),
                    Val::Bool(false) => self.node(no),
                    _ => Err(EvalError::no_overload()),
                };
            }
            ("@not_strictly_false", [value]) => {
                let value = self.node(value);
                self.spend(1)?;
                return match value {
                    Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
                    Err(_) => Ok(Val::Bool(true)),
                    Ok(value) => Ok(Val::Bool(!matches!(value, Val::Bool(false)))),
                };
            }
            ("or" | "orValue", [target, other]) if call.method => {
                let target = self.node(target)?;
                self.spend(1)?;
                return match target {
                    Val::Optional(None) => self.node(other),
                    Val::Optional(Some(value)) if call.function == "orValue" => Ok((*value).clone()),
                    Val::Optional(value) => Ok(Val::Optional(value)),
                    _ => Err(EvalError::no_overload()),
                };
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(self.node(argument)?);
        }
        if let (true, Some(Val::Opaque(target))) = (call.method, values.first()) {
            self.spend(if call.function == "check" { CHECK_COST } else { 1 })?;
            return target.call(&call.function, &values[1..]).unwrap_or_else(|| Err(EvalError::no_overload()));
        }
        // Before the work is done for what is known by the arguments alone.
        self.spend(call_cost(&call.function, &values))?;
        let result = match call.function.as_str() {
            "_[_]" => index(&values[0], &values[1]),
            "_[?_]" => optional_index(&values[0], &values[1]),
            "_?._" => match (&values[0], &values[1]) {
                (Val::Optional(None), _) => Ok(Val::Optional(None)),
                (Val::Optional(Some(inner)), Val::String(name)) => Ok(optional(find(inner, name)?)),
                (target, Val::String(name)) => Ok(optional(find(target, name)?)),
                _ => Err(EvalError::no_overload()),
            },
            name => functions::call(name, call.method, &values, call.regex.as_ref()),
        }?;
        if call.function == "join" {
            self.spend(scale(result.size(), 2.0 * STRING_FACTOR))?;
        }
        Ok(result)
    }

    /// `&&` and `||`: either side may decide, whatever becomes of the other.
    fn logic(&mut self, left: &'a Node, right: &'a Node, decisive: bool) -> Outcome<'a> {
        let first = self.node(left);
        match first {
            Ok(Val::Bool(b)) if b == decisive => return Ok(Val::Bool(decisive)),
            Err(EvalError::CostLimit) => return first,
            _ => {}
        }
        let second = self.node(right);
        match (first, second) {
            (_, Err(EvalError::CostLimit)) => Err(EvalError::CostLimit),
            (_, Ok(Val::Bool(b))) if b == decisive => Ok(Val::Bool(decisive)),
            (Ok(Val::Bool(_)), Ok(Val::Bool(_))) => Ok(Val::Bool(!decisive)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(EvalError::no_overload()),
        }
    }
}

fn optional(value: Option<Val<'_>>) -> Val<'_> {
    Val::Optional(value.filter(|v| !matches!(v, Val::Null)).map(Arc::new))
}

/// A field, or the value under a key. What has no fields at all is an error.
fn find<'a>(target: &Val<'a>, field: &str) -> Result<Option<Val<'a>>, EvalError> {
    match target {
        Val::Map(map) => Ok(map.field(field)),
        Val::Opaque(value) => value.field(field).transpose(),
        _ => Err(EvalError::no_overload()),
    }
}

fn index<'a>(target: &Val<'a>, key: &Val<'a>) -> Outcome<'a> {
    match target {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => optional_index(inner, key),
        Val::List(list) => {
            let Some(Key::Int(at)) = key.key() else { return failed(format!("unsupported index type '{}' in list", key.type_name())) };
            let found = usize::try_from(at).ok().and_then(|i| list.get(i));
            found.ok_or_else(|| EvalError::Failed(format!("index out of bounds: {at}")))
        }
        Val::Map(map) => {
            let Some(key) = key.key() else { return failed("unsupported key type") };
            map.get(&key).ok_or_else(|| EvalError::no_key(&key))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn optional_index<'a>(target: &Val<'a>, key: &Val<'a>) -> Outcome<'a> {
    match target {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => optional_index(inner, key),
        target => match index(target, key) {
            Ok(value) => Ok(optional(Some(value))),
            Err(EvalError::Failed(why)) if why.starts_with("no such key") || why.starts_with("index out") => Ok(Val::Optional(None)),
            Err(error) => Err(error),
        },
    }
}

/// What a call costs besides its arguments.
fn call_cost(function: &str, values: &[Val<'_>]) -> u64 {
    let size = |n: usize| values.get(n).map_or(1, Val::size);
    let text = |n: usize| matches!(values.get(n), Some(Val::String(_) | Val::Bytes(_)));
    match function {
        "startsWith" | "endsWith" => scale(size(1), STRING_FACTOR),
        "bytes" => scale(size(0), STRING_FACTOR),
        "string" if matches!(values.first(), Some(Val::Bytes(_))) => scale(size(0), STRING_FACTOR),
        "@in" if matches!(values.get(1), Some(Val::List(_))) => size(1),
        "_==_" | "_!=_" => scale(size(0).min(size(1)), STRING_FACTOR),
        "_<_" | "_<=_" | "_>_" | "_>=_" if text(0) => scale(size(0).min(size(1)), STRING_FACTOR),
        "_+_" if text(0) => scale(size(0) + size(1), STRING_FACTOR),
        "matches" | "find" | "findAll" => scale(size(0) + 1, STRING_FACTOR).saturating_mul(scale(size(1), REGEX_FACTOR)),
        "contains" => scale(size(0), STRING_FACTOR).saturating_mul(scale(size(1), STRING_FACTOR)),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => match values.first() {
            Some(Val::List(list)) => list.iter().map(|item| if item.size() == 1 { 1 } else { scale(item.size(), STRING_FACTOR) }).sum(),
            _ => scale(size(0), STRING_FACTOR),
        },
        "url" | "isURL" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "quantity" | "isQuantity" | "isIP" | "isCIDR" | "cidr"
        | "format" | "semver" | "isSemver" => scale(size(0), STRING_FACTOR),
        "ip" if text(0) => scale(size(0), STRING_FACTOR),
        "replace" | "split" | "ip.isCanonical" => scale(size(0), 2.0 * STRING_FACTOR),
        "containsIP" | "containsCIDR" => scale(2 * size(0), STRING_FACTOR) + if text(1) { scale(size(1), STRING_FACTOR) } else { 1 },
        "validate" => scale(size(1), STRING_FACTOR),
        "sets.contains" | "sets.intersects" => size(0).saturating_mul(size(1)),
        "sets.equivalent" => size(0).saturating_mul(size(1)).saturating_mul(2),
        // What it costs shows in what it makes.
        "join" => 0,
        _ => 1,
    }
}
