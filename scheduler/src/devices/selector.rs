//! Expressions that choose devices (upstream: `dynamic-resource-allocation/cel`): `device` has a `driver`, `attributes` and `capacity` by domain and name, and
//! says with `allowMultipleAllocations` whether several claims may share it.

use super::by_domain;
use api::cel::value::{Key, Map, Semver, Val};
use api::cel::{self, Program};
use api::quantity::Quantity;
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// How many compiled expressions are kept: classes have few, and claims made of templates share theirs.
const CACHED: usize = 256;

type Compiled = Result<Arc<Program>, String>;

/// Compiled expressions, by their text.
#[derive(Default)]
pub struct Programs(Mutex<HashMap<String, Compiled>>);

impl Programs {
    /// An expression, compiled.
    pub fn get(&self, expression: &str) -> Compiled {
        let mut cached = self.0.lock();
        if let Some(program) = cached.get(expression) {
            return program.clone();
        }
        let compiled = cel::devices::compile(expression).map(Arc::new);
        if cached.len() >= CACHED {
            cached.clear();
        }
        cached.insert(expression.to_owned(), compiled.clone());
        compiled
    }
}

fn attribute(value: &DeviceAttribute) -> Option<Val<'static>> {
    if let Some(text) = &value.string {
        return Some(Val::text(text.as_str()));
    }
    if let Some(text) = &value.version {
        return Semver::parse(text, false).map(|version| Val::Semver(Arc::new(version)));
    }
    value.int.map(Val::Int).or(value.bool.map(Val::Bool))
}

fn object(entries: impl IntoIterator<Item = (Key, Val<'static>)>) -> Val<'static> {
    Val::Map(Map::Made(Arc::new(entries.into_iter().collect()), None))
}

fn key(name: &str) -> Key {
    Key::String(name.into())
}

/// Values by domain and name. A domain that the expression names and the device has nothing of is there, and empty.
fn domains<'v>(program: &Program, values: impl Iterator<Item = (&'v str, &'v str, Val<'static>)>) -> Val<'static> {
    let mut found: HashMap<&str, Vec<(Key, Val<'static>)>> = HashMap::new();
    let texts = program.texts();
    for text in &texts {
        found.entry(text).or_default();
    }
    for (domain, name, value) in values {
        found.entry(domain).or_default().push((key(name), value));
    }
    object(found.into_iter().map(|(domain, values)| (key(domain), object(values))))
}

/// Whether an expression chooses a device.
pub fn matches(program: &Program, driver: &str, device: &Device) -> Result<bool, String> {
    let attributes =
        by_domain(device.attributes.as_ref(), driver).filter_map(|(domain, name, value)| Some((domain, name, attribute(value)?)));
    let capacity = by_domain(device.capacity.as_ref(), driver)
        .filter_map(|(domain, name, capacity)| Some((domain, name, Val::Quantity(Quantity::of(&capacity.value).ok()?))));
    let described = object([
        (key("driver"), Val::text(driver)),
        (key("attributes"), domains(program, attributes)),
        (key("capacity"), domains(program, capacity)),
        (key("allowMultipleAllocations"), Val::Bool(device.allow_multiple_allocations == Some(true))),
    ]);
    let (outcome, _) = program.evaluate(&[("device", described)], cel::devices::COST_LIMIT);
    match outcome {
        Ok(Val::Bool(matches)) => Ok(matches),
        Ok(other) => Err(format!("CEL result of type {} could not be converted to bool", other.type_name())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_expression_sees_of_a_device() {
        let device: Device = serde_json::from_value(json!({
            "name": "d", "attributes": {
                "model": {"string": "a100"}, "driver.example.com/memory": {"int": 80}, "other.example.com/ok": {"bool": true},
                "firmware": {"version": "1.10.0"}},
            "capacity": {"memory": {"value": "80Gi"}},
        }))
        .unwrap();
        let programs = Programs::default();
        for (expression, expected) in [
            ("device.driver == 'driver.example.com'", Ok(true)),
            ("device.attributes['driver.example.com'].model == 'a100'", Ok(true)),
            ("device.attributes['driver.example.com'].memory > 100", Ok(false)),
            ("device.attributes['other.example.com'].ok", Ok(true)),
            ("device.attributes['driver.example.com'].firmware.isGreaterThan(semver('1.9.0'))", Ok(true)),
            ("device.capacity['driver.example.com'].memory.compareTo(quantity('40Gi')) >= 0", Ok(true)),
            ("has(device.attributes['nowhere.example.com'].model)", Ok(false)),
            ("'x' in device.attributes['nowhere.example.com']", Ok(false)),
            ("device.allowMultipleAllocations", Ok(false)),
            ("device.attributes['nowhere.example.com'].model == 'x'", Err("no such key: model".to_owned())),
            ("cel.bind(d, device.attributes['driver.example.com'], d.model == 'a100' && d.memory == 80)", Ok(true)),
        ] {
            let program = programs.get(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
            assert_eq!(matches(&program, "driver.example.com", &device), expected, "{expression}");
        }
        assert!(programs.get("device.nothing").is_err() && programs.get("1 + 1").is_err());
    }
}
