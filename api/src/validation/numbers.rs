//! Checks of single numbers and of what can be a number or a percentage.

use super::{NOT_NEGATIVE, names};
use crate::field::{ErrorList, Path};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

/// What a number outside a range is told.
pub fn in_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A port number.
pub fn port(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) { Vec::new() } else { vec![in_range(1, 65535)] }
}

/// A user or group id.
pub fn user_or_group(value: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&value) { Vec::new() } else { vec![in_range(0, i32::MAX.into())] }
}

/// Pushes an error for a number below zero.
pub fn not_negative(errors: &mut ErrorList, path: &Path, value: impl Into<i64>) {
    let value = value.into();
    if value < 0 {
        errors.invalid(path, value, NOT_NEGATIVE);
    }
}

/// How a number or text is shown in a message.
pub fn show(value: &IntOrString) -> Value {
    match value {
        IntOrString::Int(n) => json!(n),
        IntOrString::String(s) => json!(s),
    }
}

/// A number that is not negative, or a percentage.
pub fn not_negative_or_percent(errors: &mut ErrorList, path: &Path, value: &IntOrString) {
    match value {
        IntOrString::Int(n) => not_negative(errors, path, *n),
        IntOrString::String(s) => super::invalid(errors, path, s, names::percent(s)),
    }
}

/// A port by number or by name.
pub fn port_or_name(errors: &mut ErrorList, path: &Path, value: &IntOrString) {
    match value {
        IntOrString::Int(n) => port((*n).into()).iter().for_each(|m| errors.invalid(path, *n, m)),
        IntOrString::String(s) => super::invalid(errors, path, s, names::port_name(s)),
    }
}

/// The number before the percent sign, if it is a percentage.
pub fn as_percent(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::String(s) if names::percent(s).is_empty() => s.trim_end_matches('%').parse().ok(),
        _ => None,
    }
}

/// Pushes an error for a percentage above a hundred.
pub fn at_most_hundred_percent(errors: &mut ErrorList, path: &Path, value: &IntOrString) {
    if as_percent(value).is_some_and(|p| p > 100) {
        errors.invalid(path, show(value), "must not be greater than 100%");
    }
}
