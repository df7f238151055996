//! Quantities.

use super::super::value::Val;
use super::{Outcome, failed};
use crate::quantity::{Format, Quantity};

/// `quantity(text)` and `isQuantity(text)`.
pub(super) fn parse<'a>(name: &str, text: &str) -> Outcome<'a> {
    match (name, text.parse::<Quantity>()) {
        ("isQuantity", parsed) => Ok(Val::Bool(parsed.is_ok())),
        (_, Ok(quantity)) => Ok(Val::Quantity(quantity)),
        (_, Err(error)) => failed(error.to_string()),
    }
}

/// A function of a quantity.
pub(super) fn call<'a>(name: &str, values: &[Val<'a>]) -> Option<Outcome<'a>> {
    let [Val::Quantity(q), rest @ ..] = values else { return None };
    let units = |n: &i64| Quantity::new(*n, Format::DecimalSi);
    Some(Ok(match (name, rest) {
        ("isInteger", []) => Val::Bool(whole(*q).is_some()),
        ("asInteger", []) => match whole(*q) {
            Some(n) => Val::Int(n),
            None => return Some(failed("cannot convert value to integer")),
        },
        ("asApproximateFloat", []) => Val::Double(q.to_f64()),
        ("sign", []) => Val::Int(i64::from(q.sign())),
        ("isGreaterThan", [Val::Quantity(other)]) => Val::Bool(q > other),
        ("isLessThan", [Val::Quantity(other)]) => Val::Bool(q < other),
        ("compareTo", [Val::Quantity(other)]) => Val::Int(q.cmp(other) as i64),
        ("add", [Val::Quantity(other)]) => Val::Quantity(*q + *other),
        ("add", [Val::Int(n)]) => Val::Quantity(*q + units(n)),
        ("sub", [Val::Quantity(other)]) => Val::Quantity(*q - *other),
        ("sub", [Val::Int(n)]) => Val::Quantity(*q - units(n)),
        _ => return None,
    }))
}

fn whole(quantity: Quantity) -> Option<i64> {
    const NANOS: i128 = 1_000_000_000;
    (quantity.nanos() % NANOS == 0).then(|| i64::try_from(quantity.nanos() / NANOS).ok()).flatten()
}
