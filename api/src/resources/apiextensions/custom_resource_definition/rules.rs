//! Whether a definition's rules compile, and whether they could cost too much (upstream: `validateCustomResourceDefinitionOpenAPISchema`,
//! `CELSchemaContext`).

use crate::cel::Type;
use crate::field::{ErrorList, ErrorType, FieldError, Path};
use crate::structural::{CompiledRule, Structural, cel_type};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, ValidationRule};
use serde_json::json;

/// What one expression may cost at worst, times how often it may run (upstream: `StaticEstimatedCostLimit`).
const RULE_LIMIT: u64 = 10_000_000;
/// What all expressions of a schema may cost together (upstream: `StaticEstimatedCRDCostLimit`).
const TOTAL_LIMIT: u64 = 100_000_000;
const REASONS: [&str; 4] = ["FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate"];
/// The longest message (upstream's).
const MAX_MESSAGE: usize = 2048;
/// How many of the dearest expressions are named where all together cost too much.
const NAMED: usize = 4;

struct Walk<'e> {
    errors: &'e mut ErrorList,
    total: u64,
    dearest: Vec<(Path, u64)>,
}

/// Everything that is wrong with the rules of a schema.
pub(super) fn validate(props: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    let schema = Structural::new(props);
    let mut walk = Walk { errors, total: 0, dearest: Vec::new() };
    walk.node(&schema, &schema, path, true, 1, None);
    let Walk { total, mut dearest, errors } = walk;
    if total > TOTAL_LIMIT {
        dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in dearest.iter().take(NAMED) {
            errors.forbidden(path, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema");
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, &over(name, total, TOTAL_LIMIT));
    }
}

fn over(name: &str, cost: u64, limit: u64) -> String {
    const HINT: &str =
        "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    let factor = cost as f64 / limit as f64;
    let shown = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!("{name} exceeds budget by factor of {shown} {HINT}")
}

/// The rule as upstream shows it.
fn shown(rule: &ValidationRule) -> String {
    let text = |t: &Option<String>| json!(t.clone().unwrap_or_default());
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        json!(rule.rule),
        text(&rule.message),
        text(&rule.message_expression),
        json!(rule.reason),
        text(&rule.field_path),
        json!(rule.optional_old_self),
    )
}

impl Walk<'_> {
    /// `times` is how many values of the node one object may hold; `uncorrelated` names the list above in which values have no counterpart.
    fn node(&mut self, validations: &Structural, schema: &Structural, path: &Path, root: bool, times: u64, uncorrelated: Option<&Path>) {
        if !validations.rules.is_empty() {
            let at = path.child("x-kubernetes-validations");
            match cel_type(schema, root) {
                Some(ty) => self.rules(&validations.rules, schema, &ty, &at, times, uncorrelated),
                None => {
                    let why = format!(
                        "rule declared on schema that does not support validation rules type: '{}' x-kubernetes-preserve-unknown-fields: '{}'",
                        schema.ty, schema.preserve_unknown
                    );
                    self.errors.internal(&at, &why);
                }
            }
        }
        for (i, all) in validations.all_of.iter().enumerate() {
            self.node(all, schema, &path.child("allOf").index(i), root, times, uncorrelated);
        }
        if let (Some(below), Some(items)) = (validations.items.as_deref(), schema.items.as_deref()) {
            let times = times.saturating_mul(most(schema));
            let lost = uncorrelated.or(if schema.list_type == "map" { None } else { Some(path) });
            self.node(below, items, &path.child("items"), false, times, lost);
        }
        for (name, below) in &validations.properties {
            if let Some(property) = schema.properties.get(name) {
                let lost = uncorrelated.or(if schema.map_type == "atomic" { Some(path) } else { None });
                self.node(below, property, &path.child("properties").key(name), false, times, lost);
            }
        }
        if let (Some(below), Some(values)) = (validations.values(), schema.values()) {
            let times = times.saturating_mul(most(schema));
            self.node(below, values, &path.child("additionalProperties"), false, times, uncorrelated);
        }
    }

    fn rules(&mut self, rules: &[ValidationRule], schema: &Structural, ty: &Type, at: &Path, times: u64, uncorrelated: Option<&Path>) {
        for (i, rule) in rules.iter().enumerate() {
            let path = at.index(i);
            self.texts(rule, &path);
            if rule.rule.trim().is_empty() {
                self.errors.required(&path.child("rule"), "rule is not specified");
                continue;
            }
            if let Some(field) = rule.field_path.as_deref().filter(|f| !f.is_empty())
                && let Err(why) = refers(schema, field)
            {
                self.errors.invalid(&path.child("fieldPath"), field, &format!("fieldPath must be a valid path: {why}"));
            }
            let compiled = CompiledRule::new(rule, ty);
            self.expression(&compiled.program, rule, &path.child("rule"), "estimated rule cost", times);
            if let Some(message) = &compiled.message {
                self.expression(message, rule, &path.child("messageExpression"), "estimated messageExpression cost", times);
            }
            if let (true, Some(within)) = (compiled.is_transition(), uncorrelated) {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
                self.errors.invalid_as(&path.child("rule"), &shown(rule), &why);
            }
        }
    }

    fn texts(&mut self, rule: &ValidationRule, path: &Path) {
        let message = path.child("message");
        match rule.message.as_deref() {
            Some(text) if !text.is_empty() && text.trim().is_empty() => {
                self.errors.invalid(&message, text, "message must be non-empty if specified");
            }
            Some(text) if text.trim().contains('\n') => self.errors.invalid(&message, text, "message must not contain line breaks"),
            None | Some("") if rule.rule.trim().contains('\n') => {
                self.errors.required(&message, "message must be specified if rule contains line breaks");
            }
            Some(text) if text.len() > MAX_MESSAGE => self.errors.too_long(&message, MAX_MESSAGE),
            _ => {}
        }
        if let Some(expression) = rule.message_expression.as_deref().filter(|m| !m.is_empty() && m.trim().is_empty()) {
            self.errors
                .required(&path.child("messageExpression"), &format!("messageExpression must be non-empty if specified: {expression:?}"));
        }
        if let Some(reason) = rule.reason.as_deref().filter(|r| !REASONS.contains(r)) {
            self.errors.not_supported(&path.child("reason"), reason, &REASONS);
        }
    }

    fn expression(&mut self, program: &Result<crate::cel::Program, String>, rule: &ValidationRule, path: &Path, name: &str, times: u64) {
        match program {
            Err(why) => {
                let detail = match why.as_str() {
                    text if text.starts_with("ERROR") => format!("compilation failed: {text}"),
                    text => text.to_owned(),
                };
                let message = format!("Invalid value: {}: {detail}", shown(rule));
                self.errors.0.push(FieldError { path: path.clone(), kind: ErrorType::Invalid, message });
            }
            Ok(program) => {
                let cost = program.cost().max.saturating_mul(times);
                if cost > RULE_LIMIT {
                    self.errors.forbidden(path, &over(name, cost, RULE_LIMIT));
                }
                self.total = self.total.saturating_add(cost);
                self.dearest.push((path.clone(), cost));
            }
        }
    }
}

/// How many values a list or a map may hold.
fn most(schema: &Structural) -> u64 {
    match cel_type(schema, false) {
        Some(Type::List(list)) => list.max,
        Some(Type::Map(map)) => map.max,
        _ => match (schema.max_items, schema.max_properties) {
            (Some(n), _) | (None, Some(n)) => u64::try_from(n).unwrap_or(0),
            (None, None) => 3 * 1024 * 1024,
        },
    }
}

/// Whether a path (`.a['b'].c`) leads to something in the schema.
fn refers(schema: &Structural, path: &str) -> Result<(), String> {
    let mut at = schema;
    let mut rest = path;
    while !rest.is_empty() {
        let name = if let Some(after) = rest.strip_prefix("['") {
            let (name, tail) = after.split_once("']").ok_or("unexpected end of JSON path")?;
            rest = tail;
            name
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            rest = &after[end..];
            if end == 0 {
                return Err("unexpected end of JSON path".into());
            }
            &after[..end]
        } else {
            return Err(format!("expected [ or . but got: {}", rest.split(['.', '[']).next().unwrap_or(rest)));
        };
        at = at.member(name).ok_or("does not refer to a valid field")?;
    }
    Ok(())
}
