//! What the defaults of many kinds are written with. In Go an absent string and an empty one are the same, so both count as not given here.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Sets a text that is absent or empty.
pub fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(default.to_owned());
    }
}

/// Sets a number that is absent or, being no pointer in Go, zero.
pub fn number<T: Default + PartialEq>(field: &mut Option<T>, default: T) {
    if field.as_ref().is_none_or(|n| *n == T::default()) {
        *field = Some(default);
    }
}

/// Sets whatever is absent.
pub fn absent<T>(field: &mut Option<T>, default: T) {
    field.get_or_insert(default);
}

/// Whether a number or name was left out: zero and the empty string are what Go has for nothing.
pub fn is_unset(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(n) => *n == 0,
        IntOrString::String(s) => s.is_empty(),
    }
}

/// The texts behind an optional field, empty for none.
pub fn str(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or("")
}

/// The items behind an optional list, none for none.
pub fn items<T>(field: &Option<Vec<T>>) -> &[T] {
    field.as_deref().unwrap_or(&[])
}

/// Whether an optional flag is set.
pub fn is_true(field: Option<bool>) -> bool {
    field == Some(true)
}

/// The items behind an optional list, to change; none for none.
pub fn items_mut<T>(field: &mut Option<Vec<T>>) -> &mut [T] {
    field.as_deref_mut().unwrap_or(&mut [])
}
