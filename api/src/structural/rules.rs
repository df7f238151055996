//! `x-kubernetes-validations`: rules in CEL on any node of a schema (upstream: `schema/cel`).

use super::{Structural, validation};
use crate::cel::types::{Field, ListKind, ListType, MapType, ObjectType};
use crate::cel::{self, Activation, Environment, EvalError, Program, RUNTIME_BUDGET, Type, Val};
use crate::field::{ErrorList, ErrorType, FieldError, Path};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The largest request, which bounds what no schema bounds.
const MAX_REQUEST: u64 = 3 * 1024 * 1024;
/// The longest message that an expression may make (upstream: `MaxEvaluatedMessageExpressionSizeBytes`).
const MAX_MESSAGE: usize = 5 * 1024;

/// The CEL type of a schema; `None` where expressions cannot see it.
pub fn cel_type(schema: &Structural, root: bool) -> Option<Type> {
    sized(schema, root).map(|(ty, _)| ty)
}

/// The type and the least that a value of it takes in JSON.
fn sized(schema: &Structural, root: bool) -> Option<(Type, u64)> {
    let most = |n: Option<i64>, otherwise: u64| n.map_or(otherwise, |n| u64::try_from(n).unwrap_or(0));
    let text = || match (schema.max_length, schema.enumeration.is_empty()) {
        (Some(max), _) => u64::try_from(max).unwrap_or(0).saturating_mul(4),
        (None, false) => schema.enumeration.iter().filter_map(Value::as_str).map(|s| s.len() as u64).max().unwrap_or(0),
        (None, true) => MAX_REQUEST - 2,
    };
    if schema.int_or_string {
        let max = if schema.max_length.is_some() { text() } else { MAX_REQUEST - 2 };
        return Some((Type::Dyn(max), 1));
    }
    let whole = root || schema.embedded;
    match schema.ty.as_str() {
        "array" => {
            let items = schema.items.as_deref()?;
            let (item, least) = sized(items, false)?;
            let kind = match schema.list_type.as_str() {
                "set" => ListKind::Set,
                "map" => ListKind::Map(schema.list_map_keys.clone()),
                _ => ListKind::Atomic,
            };
            let max = most(schema.max_items, (MAX_REQUEST - 2) / (least + 1));
            Some((Type::List(Arc::new(ListType { item, kind, max })), 2))
        }
        "object" => {
            if let Some(values) = schema.values() {
                let (value, least) = sized(values, false)?;
                let max = most(schema.max_properties, (MAX_REQUEST - 2) / (least + 6));
                return Some((Type::Map(Arc::new(MapType { key: Type::STRING, value, max })), 2));
            }
            let mut fields = BTreeMap::new();
            let mut least = 2;
            for (name, property) in &schema.properties {
                let Some((ty, size)) = sized(property, false) else { continue };
                if schema.required.contains(name) && property.default.is_none() {
                    least += name.len() as u64 + size + 4;
                }
                if let Some(escaped) = cel::escape(name) {
                    fields.insert(escaped, Field { json: name.clone(), ty });
                }
            }
            if whole {
                for name in ["apiVersion", "kind"] {
                    fields.insert(name.to_owned(), Field { json: name.to_owned(), ty: Type::String(MAX_REQUEST - 2) });
                }
                let names = ["name", "generateName"].map(|n| (n.to_owned(), Type::String(MAX_REQUEST - 2)));
                fields.insert("metadata".to_owned(), Field { json: "metadata".to_owned(), ty: Type::object("metadata", names) });
            }
            Some((Type::Object(Arc::new(ObjectType { name: "object".to_owned(), fields })), least))
        }
        "string" => Some(match schema.format.as_str() {
            "byte" => (Type::Bytes(most(schema.max_length, MAX_REQUEST - 2)), 2),
            "duration" => (Type::Duration(32), 2),
            "date" => (Type::Timestamp(12), 12),
            "date-time" => (Type::Timestamp(37), 21),
            _ => (Type::String(text()), 2),
        }),
        "boolean" => Some((Type::Bool, 4)),
        "number" => Some((Type::Double, 1)),
        "integer" => Some((Type::Int, 1)),
        _ => None,
    }
}

/// A rule, compiled.
#[derive(Debug)]
pub struct CompiledRule {
    rule: ValidationRule,
    /// The expression; an error where it does not compile.
    pub program: Result<Program, String>,
    /// The expression that makes the message, if there is one.
    pub message: Option<Result<Program, String>>,
    transition: bool,
}

/// The rules of a schema's nodes, in the shape of the schema.
#[derive(Debug, Default)]
pub struct Rules {
    own: Vec<CompiledRule>,
    ty: Option<Arc<Type>>,
    /// Rules in `allOf`, which see the node's type.
    all_of: Vec<Rules>,
    items: Option<Box<Rules>>,
    properties: BTreeMap<String, Rules>,
    values: Option<Box<Rules>>,
}

impl CompiledRule {
    /// Compiles a rule for a node of this type.
    pub fn new(rule: &ValidationRule, ty: &Type) -> Self {
        let old = if rule.optional_old_self == Some(true) { Type::optional(ty.clone()) } else { ty.clone() };
        let environment = Environment::new(&[("self", ty.clone()), ("oldSelf", old)]);
        let program = cel::compile(&rule.rule, &environment).and_then(|p| match p.result() {
            Type::Bool | Type::Dyn(_) => Ok(p),
            _ => Err("cel expression must evaluate to a bool".into()),
        });
        let message = rule.message_expression.as_deref().filter(|m| !m.is_empty()).map(|m| {
            cel::compile(m, &environment).and_then(|p| match p.result() {
                Type::String(_) | Type::Dyn(_) => Ok(p),
                _ => Err("messageExpression must evaluate to a string".into()),
            })
        });
        let transition = program.as_ref().is_ok_and(|p| p.names("oldSelf"));
        CompiledRule { rule: rule.clone(), program, message, transition }
    }

    /// Whether it compares with the old value.
    pub fn is_transition(&self) -> bool {
        self.transition
    }
}

impl Rules {
    /// The rules of a schema; `None` if it has none.
    pub fn new(schema: &Structural, root: bool) -> Option<Self> {
        Self::of(schema, schema, root)
    }

    /// The rules that `validations` has for values that look like `schema`.
    fn of(validations: &Structural, schema: &Structural, root: bool) -> Option<Self> {
        let boxed = |rules: Option<Rules>| rules.map(Box::new);
        let mut rules = Rules::default();
        if !validations.rules.is_empty() {
            let ty = cel_type(schema, root)?;
            rules.own = validations.rules.iter().map(|r| CompiledRule::new(r, &ty)).collect();
            rules.ty = Some(Arc::new(ty));
        }
        rules.all_of = validations.all_of.iter().filter_map(|a| Rules::of(a, schema, root)).collect();
        if let (Some(validations), Some(items)) = (&validations.items, &schema.items) {
            rules.items = boxed(Rules::of(validations, items, false));
        }
        for (name, validations) in &validations.properties {
            let below = schema.properties.get(name).and_then(|s| Rules::of(validations, s, false));
            rules.properties.extend(below.map(|r| (name.clone(), r)));
        }
        if let (Some(validations), Some(values)) = (validations.values(), schema.values()) {
            rules.values = boxed(Rules::of(validations, values, false));
        }
        let any = !rules.own.is_empty()
            || !rules.all_of.is_empty()
            || rules.items.is_some()
            || !rules.properties.is_empty()
            || rules.values.is_some();
        any.then_some(rules)
    }

    /// What the rules find wrong with a value; warnings are of rules that it broke before and does not break anew.
    pub fn check(&self, schema: &Structural, value: &Value, old: Option<&Value>, errors: &mut ErrorList) -> Vec<String> {
        let mut run = Run { budget: RUNTIME_BUDGET, errors, warnings: Vec::new(), over: false };
        run.node(self, schema, value, old, old, &Path::default());
        run.warnings
    }
}

/// `self`, and `oldSelf` where there is an old value.
struct Variables<'a> {
    this: Val<'a>,
    old: Option<Val<'a>>,
}

impl<'a> Activation<'a> for Variables<'a> {
    fn resolve(&self, name: &str) -> Option<Result<Val<'a>, EvalError>> {
        match name {
            "self" => Some(Ok(self.this.clone())),
            "oldSelf" => self.old.clone().map(Ok),
            _ => None,
        }
    }
}

struct Run<'e> {
    budget: u64,
    errors: &'e mut ErrorList,
    warnings: Vec<String>,
    over: bool,
}

fn shown(path: &Path) -> Path {
    if path.as_str().is_empty() { Path::new("<nil>") } else { path.clone() }
}

impl Run<'_> {
    fn invalid(&mut self, path: &Path, detail: &str) {
        self.errors.0.push(FieldError { path: shown(path), kind: ErrorType::Invalid, message: format!("Invalid value: {detail}") });
    }

    /// `old` is the old value where the two can be compared, `nearest` the old value of the nearest place above for which that is so.
    fn node<'a>(
        &mut self,
        rules: &'a Rules,
        schema: &Structural,
        value: &'a Value,
        old: Option<&'a Value>,
        unchanged_from: Option<&'a Value>,
        path: &Path,
    ) {
        if value.is_null() || self.over {
            return;
        }
        let unchanged = unchanged_from == Some(value);
        self.own(rules, value, old, unchanged, path);
        for all in &rules.all_of {
            self.node(all, schema, value, old, None, path);
        }
        match value {
            Value::Array(items) => {
                let (Some(rules), Some(item)) = (&rules.items, schema.items.as_deref()) else { return };
                let before = old.and_then(Value::as_array);
                for (i, value) in items.iter().enumerate() {
                    let old = validation::counterpart(schema, value, before);
                    // In a list that is no map, an item is unchanged if the list is.
                    let same = if unchanged { Some(value) } else { old };
                    self.node(rules, item, value, old, same, &path.index(i));
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    let old = old.filter(|_| schema.map_type != "atomic").and_then(|o| o.get(name));
                    let same = if unchanged { Some(value) } else { old };
                    if let (Some(rules), Some(schema)) = (rules.properties.get(name), schema.properties.get(name)) {
                        self.node(rules, schema, value, old, same, &path.child(name));
                    } else if let (Some(rules), Some(schema)) = (&rules.values, schema.values()) {
                        self.node(rules, schema, value, old, same, &path.key(name));
                    }
                }
            }
            _ => {}
        }
    }

    fn own<'a>(&mut self, rules: &'a Rules, value: &'a Value, old: Option<&'a Value>, unchanged: bool, path: &Path) {
        let Some(ty) = rules.ty.as_deref() else { return };
        let old = old.filter(|o| !o.is_null());
        for compiled in &rules.own {
            if self.over {
                return;
            }
            let rule = &compiled.rule;
            let program = match &compiled.program {
                Ok(program) => program,
                Err(error) => {
                    self.invalid(path, &format!("rule compile error: {error}"));
                    continue;
                }
            };
            let optional = rule.optional_old_self == Some(true);
            if compiled.transition && old.is_none() && !optional {
                continue;
            }
            let before = old.map(|o| Val::typed(o, ty));
            let before = if optional { Some(Val::Optional(before.map(Arc::new))) } else { before };
            let variables = Variables { this: Val::typed(value, ty), old: before };
            let (outcome, cost) = program.evaluate(&variables, cel::PER_CALL_LIMIT);
            if cost > self.budget {
                self.invalid(path, "validation failed due to running out of cost budget, no further validation rules will be run");
                self.over = true;
                return;
            }
            self.budget -= cost;
            match outcome {
                Ok(Val::Bool(true)) => {}
                Ok(_) => self.failed(compiled, &variables, unchanged, path),
                Err(error) => self.error(rule, &error, path),
            }
        }
    }

    fn error(&mut self, rule: &ValidationRule, error: &EvalError, path: &Path) {
        let named = name_of(rule);
        match error {
            EvalError::CostLimit => {
                let why = format!("'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {named}");
                self.invalid(path, &why);
                self.over = true;
            }
            EvalError::Failed(text) if text.starts_with("no such overload") => {
                let why =
                    format!("'{text}': call arguments did not match a supported operator, function or macro signature for rule: {named}");
                self.invalid(path, &why);
            }
            EvalError::Failed(text) => self.invalid(path, &format!("{text} evaluating rule: {named}")),
        }
    }

    fn failed<'a>(&mut self, compiled: &'a CompiledRule, variables: &Variables<'a>, unchanged: bool, path: &Path) {
        let rule = &compiled.rule;
        let detail = self.message(compiled, variables).unwrap_or_else(|| match rule.message.as_deref().unwrap_or("").trim() {
            "" => format!("failed rule: {}", rule.rule.trim()),
            message => message.to_owned(),
        });
        let path = match rule.field_path.as_deref().filter(|p| !p.is_empty()) {
            Some(below) => Path::new(format!("{path}{}", field_path(below)).trim_start_matches('.')),
            None => path.clone(),
        };
        let (kind, head) = match rule.reason.as_deref() {
            Some("FieldValueForbidden") => (ErrorType::Forbidden, "Forbidden"),
            Some("FieldValueRequired") => (ErrorType::Required, "Required value"),
            Some("FieldValueDuplicate") => (ErrorType::Duplicate, "Duplicate value"),
            _ => (ErrorType::Invalid, "Invalid value"),
        };
        let message = if kind == ErrorType::Duplicate { head.to_owned() } else { format!("{head}: {detail}") };
        if unchanged && !compiled.transition {
            self.warnings.push(format!("{}: {message}", shown(&path)));
        } else {
            self.errors.0.push(FieldError { path: shown(&path), kind, message });
        }
    }

    /// What the rule's own expression says, if it says something that can be shown.
    fn message<'a>(&mut self, compiled: &'a CompiledRule, variables: &Variables<'a>) -> Option<String> {
        let program = compiled.message.as_ref()?.as_ref().ok()?;
        let (outcome, cost) = program.evaluate(variables, cel::PER_CALL_LIMIT.min(self.budget));
        self.budget = self.budget.saturating_sub(cost);
        let Ok(Val::String(text)) = outcome else { return None };
        let text = text.trim();
        (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')).then(|| text.to_owned())
    }
}

fn name_of(rule: &ValidationRule) -> &str {
    match rule.message.as_deref().unwrap_or("").trim() {
        "" => rule.rule.trim(),
        message => message,
    }
}

/// A path in a rule as one of errors: `.a['b c']` is `.a.b c`, and quotes inside are unescaped.
fn field_path(path: &str) -> String {
    path.replace("['", ".").replace("']", "").replace("\\'", "'")
}
