//! What expressions that choose devices may say (upstream: `dynamic-resource-allocation/cel`).

use super::{Environment, Program, Type, compile as compile_in};
use std::sync::LazyLock;

/// What one evaluation may cost, and how much the worst case of an expression may be estimated at (upstream: `CELSelectorExpressionMaxCost`).
pub const COST_LIMIT: u64 = 1_000_000;
/// How many attributes or capacities a device has at most (upstream: `ResourceSliceMaxAttributesAndCapacitiesPerDevice`).
const MAX_ENTRIES: u64 = 32;
/// How long the text of an attribute is at most (upstream: `DeviceAttributeMaxValueLength`).
const MAX_TEXT: u64 = 64;
/// How long a domain is at most, and a name in it (upstream: `DeviceMaxDomainLength`, `DeviceMaxIDLength`).
const MAX_DOMAIN: u64 = 63;
const MAX_NAME: u64 = 32;

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let bounded =
        |key: u64, value: Type| Type::Map(std::sync::Arc::new(super::types::MapType { key: Type::String(key), value, max: MAX_ENTRIES }));
    let by_domain = |value: Type| bounded(MAX_DOMAIN, bounded(MAX_NAME, value));
    let fields = [
        ("driver", Type::String(MAX_DOMAIN)),
        ("attributes", by_domain(Type::Dyn(MAX_TEXT))),
        ("capacity", by_domain(Type::Opaque("kubernetes.Quantity"))),
        ("allowMultipleAllocations", Type::Bool),
    ];
    let device = Type::object("DRADevice", fields.map(|(name, ty)| (name.to_owned(), ty)));
    Environment::new(&[("device", device)])
});

/// Compiles an expression over a `device`, which has to come to a boolean.
pub fn compile(expression: &str) -> Result<Program, String> {
    let program = compile_in(expression, &ENVIRONMENT)?;
    match program.result() {
        Type::Bool | Type::Dyn(_) => Ok(program),
        _ => Err("must evaluate to bool or the unknown type".to_owned()),
    }
}
