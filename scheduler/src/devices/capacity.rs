//! How much of a device that several claims may share a request takes (upstream: `consumable_capacity.go`).
//!
//! A device's policy rounds what is asked for up to what it gives out; a device that nobody shares has to have what is asked for, and is taken whole.

use super::{Consumed, qualified};
use api::quantity::Quantity;
use k8s_openapi::api::resource::v1::{CapacityRequestPolicy, CapacityRequirements, Device, DeviceCapacity};
use std::collections::BTreeMap;

fn amount(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Option<Quantity> {
    Quantity::of(quantity).ok()
}

/// What is taken when this much is asked for; `None` if the policy forbids it.
fn rounded(asked: Option<Quantity>, whole: Quantity, policy: Option<&CapacityRequestPolicy>) -> Option<Quantity> {
    let Some(asked) = asked else { return Some(policy.and_then(|p| p.default.as_ref()).and_then(amount).unwrap_or(whole)) };
    let Some(policy) = policy else { return Some(asked) };
    if let Some(range) = &policy.valid_range {
        let min = amount(&range.min)?;
        let mut taken = asked.max(min);
        if let Some(step) = range.step.as_ref().and_then(amount).filter(|step| step.sign() > 0) {
            let steps = ceiling(taken.nanos() - min.nanos(), step.nanos());
            taken = min + step.times(i64::try_from(steps).ok()?);
        }
        let most = range.max.as_ref().and_then(amount);
        return most.is_none_or(|most| taken <= most).then_some(taken);
    }
    if let Some(values) = policy.valid_values.as_ref().filter(|values| !values.is_empty()) {
        return values.iter().filter_map(amount).filter(|value| *value >= asked).min();
    }
    Some(asked)
}

/// How many times `by` fits into `of`, rounded up; neither is negative.
fn ceiling(of: i128, by: i128) -> i128 {
    of / by + i128::from(of % by > 0)
}

/// What is asked for of a capacity, by its name with or without the driver's domain.
fn asked(
    requests: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    name: &str,
    driver: &str,
) -> Option<Quantity> {
    let wanted = qualified(name, driver);
    requests.iter().find(|(asked, _)| qualified(asked, driver) == wanted).and_then(|(_, value)| amount(value))
}

/// What a request takes of a device, whose capacities others have taken `already`; `None` if there is not enough, or no such capacity at all.
pub fn take(device: &Device, driver: &str, request: Option<&CapacityRequirements>, already: &[&Consumed]) -> Option<Consumed> {
    let empty = BTreeMap::new();
    let requests = request.and_then(|r| r.requests.as_ref()).unwrap_or(&empty);
    let none: BTreeMap<String, DeviceCapacity> = BTreeMap::new();
    let capacities = device.capacity.as_ref().unwrap_or(&none);
    let known = |name: &String| capacities.keys().any(|capacity| qualified(capacity, driver) == qualified(name, driver));
    if !requests.keys().all(known) {
        return None;
    }
    let shared = device.allow_multiple_allocations == Some(true);
    let mut taken = Consumed::new();
    for (name, capacity) in capacities {
        let whole = amount(&capacity.value)?;
        let asked = asked(requests, name, driver);
        if !shared {
            if asked.is_some_and(|asked| asked > whole) {
                return None;
            }
            continue;
        }
        let own = rounded(asked, whole, capacity.request_policy.as_ref())?;
        let others: Quantity = already.iter().filter_map(|consumed| consumed.get(name).copied()).sum();
        if own.sign() < 0 || own + others > whole {
            return None;
        }
        taken.insert(name.clone(), own);
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_asked_for_is_rounded_up_to_what_is_given_out() {
        let range = json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}});
        let values = json!({"default": "1Gi", "validValues": ["1Gi", "2Gi", "8Gi"]});
        for (policy, asked, expected) in [
            (json!(null), None, Some("10Gi")),
            (json!(null), Some("3Gi"), Some("3Gi")),
            (json!(null), Some("11Gi"), None),
            (range.clone(), None, Some("1Gi")),
            (range.clone(), Some("1536Mi"), Some("2Gi")),
            (range.clone(), Some("1Mi"), Some("1Gi")),
            (range, Some("5Gi"), None),
            (values.clone(), Some("3Gi"), Some("8Gi")),
            (values, Some("9Gi"), None),
        ] {
            let capacity = json!({"memory": {"value": "10Gi", "requestPolicy": policy}});
            let device: Device =
                serde_json::from_value(json!({"name": "d", "allowMultipleAllocations": true, "capacity": capacity})).unwrap();
            let request: Option<CapacityRequirements> =
                asked.map(|asked| serde_json::from_value(json!({"requests": {"memory": asked}})).unwrap());
            let taken = take(&device, "drv", request.as_ref(), &[]).map(|taken| taken["memory"]);
            assert_eq!(taken, expected.map(of), "{policy} {asked:?}");
        }
    }

    #[test]
    fn others_leave_less() {
        let device = |shared: Value| -> Device {
            serde_json::from_value(json!({"name": "d", "allowMultipleAllocations": shared, "capacity": {"memory": {"value": "10Gi"}}}))
                .unwrap()
        };
        let request =
            |name: &str, asked: &str| -> CapacityRequirements { serde_json::from_value(json!({"requests": {name: asked}})).unwrap() };
        let others = Consumed::from([("memory".to_owned(), of("8Gi"))]);
        let fits = |device: &Device, request: &CapacityRequirements| take(device, "drv", Some(request), &[&others]).is_some();
        assert!(fits(&device(json!(true)), &request("drv/memory", "2Gi")));
        assert!(!fits(&device(json!(true)), &request("memory", "3Gi")));
        assert!(!fits(&device(json!(true)), &request("bandwidth", "1")), "no such capacity");
        assert!(fits(&device(json!(null)), &request("memory", "10Gi")), "nobody shares it");
        assert!(!fits(&device(json!(null)), &request("memory", "11Gi")));
    }
}
