//! What is said about claims, classes and slices, case by case.

use crate::field::ErrorList;
use crate::kind::Kind;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};

fn merge(into: &mut Value, more: Value) {
    json_patch::merge(into, &more);
}

/// What is wrong with a new object, as `field: type` with the detail.
fn told<K: Kind>(object: Value) -> Vec<String> {
    let mut object: K = serde_json::from_value(object).unwrap();
    object.set_defaults();
    let mut errors = ErrorList::new();
    object.validate(&mut errors);
    shown(errors)
}

fn shown(errors: ErrorList) -> Vec<String> {
    errors.0.iter().map(|error| format!("{}: {}", error.path, error.message)).collect()
}

#[test]
fn claims() {
    let claim = |request: Value, more: Value| {
        let mut devices = json!({"requests": [{"name": "r"}]});
        merge(&mut devices["requests"][0], request);
        merge(&mut devices, more);
        json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"devices": devices}})
    };
    let exactly = |more: Value| {
        let mut request = json!({"exactly": {"deviceClassName": "k"}});
        merge(&mut request["exactly"], more);
        request
    };
    let nothing = || json!({});
    for (object, expected) in [
        (claim(exactly(nothing()), nothing()), vec![]),
        (
            claim(nothing(), nothing()),
            vec!["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"],
        ),
        (
            claim(exactly(json!({"deviceClassName": ""})), nothing()),
            vec!["spec.devices.requests[0].exactly.deviceClassName: Required value"],
        ),
        (
            claim(exactly(json!({"count": -1})), nothing()),
            vec!["spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero"],
        ),
        (
            claim(exactly(json!({"allocationMode": "All", "count": 2})), nothing()),
            vec!["spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"],
        ),
        (
            claim(exactly(json!({"allocationMode": "Some"})), nothing()),
            vec!["spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\""],
        ),
        (
            claim(exactly(nothing()), json!({"constraints": [{"requests": ["x"], "matchAttribute": "d.io/a"}]})),
            vec![
                "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ],
        ),
        (
            claim(exactly(nothing()), json!({"constraints": [{"matchAttribute": "a"}]})),
            vec!["spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": must include a domain"],
        ),
        (
            claim(exactly(nothing()), json!({"config": [{"opaque": {"driver": "d.io", "parameters": {"a": 1}}}, {}]})),
            vec!["spec.devices.config[1].opaque: Required value"],
        ),
        (
            claim(exactly(json!({"tolerations": [{"key": "k", "operator": "Exists", "value": "v", "effect": "Evict"}]})), nothing()),
            vec![
                "spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: \"v\": must be empty for operator `Exists`",
                "spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value: \"Evict\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
            ],
        ),
        (
            claim(json!({"firstAvailable": [{"name": "a", "deviceClassName": "k"}, {"name": "a", "deviceClassName": "k"}]}), nothing()),
            vec!["spec.devices.requests[0].firstAvailable[1]: Duplicate value: \"a\""],
        ),
    ] {
        assert_eq!(told::<ResourceClaim>(object.clone()), expected, "{object}");
    }
}

#[test]
fn expressions() {
    let class = |expression: &str| json!({"metadata": {"name": "k"}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    assert!(told::<DeviceClass>(class("device.driver == 'd.io' && device.attributes['d.io'].x > 1")).is_empty());
    for (expression, expected) in [
        ("device.nothing", "compilation failed: ERROR: <input>:1:7: undefined field 'nothing'"),
        ("device.driver", "must evaluate to bool"),
    ] {
        let found = told::<DeviceClass>(class(expression));
        assert!(found.len() == 1 && found[0].contains(expected), "{expression}: {found:?}");
    }
    let long = told::<DeviceClass>(class(&format!("'{}' == ''", "x".repeat(10 * 1024))));
    assert_eq!(long, ["spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"]);
}

#[test]
fn slices() {
    let slice = |more: Value| {
        let mut spec = json!({"driver": "d.io", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "x"}]});
        merge(&mut spec, more);
        json!({"metadata": {"name": "s"}, "spec": spec})
    };
    let device = |more: Value| {
        let mut device = json!({"name": "x"});
        merge(&mut device, more);
        slice(json!({"devices": [device]}))
    };
    for (object, expected) in [
        (slice(json!({})), vec![]),
        (
            slice(json!({"nodeName": null})),
            vec!["spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"],
        ),
        (
            slice(json!({"allNodes": true})),
            vec![
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
            ],
        ),
        (
            slice(json!({"pool": {"resourceSliceCount": 0, "generation": -1}})),
            vec![
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
            ],
        ),
        (slice(json!({"devices": [{"name": "x"}, {"name": "x"}]})), vec!["spec.devices[1]: Duplicate value: \"x\""]),
        (
            device(json!({"attributes": {"a": {}, "d.io/b": {"version": "1.0"}}})),
            vec![
                "spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified",
                "spec.devices[0].attributes[d.io/b].version: Invalid value: \"1.0\": must be a string compatible with semver.org spec 2.0.0",
            ],
        ),
        (device(json!({"taints": [{"key": "k", "effect": ""}]})), vec!["spec.devices[0].taints[0].effect: Required value"]),
        (
            device(json!({"nodeName": "n"})),
            vec![
                "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            ],
        ),
        (
            device(json!({"capacity": {"memory": {"value": "1Gi", "requestPolicy": {"default": "1"}}}})),
            vec!["spec.devices[0].capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
        ),
        (
            device(json!({"bindingConditions": ["a"]})),
            vec![
                "spec.devices[0].bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use bindingConditions",
            ],
        ),
    ] {
        assert_eq!(told::<ResourceSlice>(object.clone()), expected, "{object}");
    }
}

#[test]
fn what_stays_as_it_is() {
    let of = |object: Value| -> ResourceClaim { serde_json::from_value(object).unwrap() };
    let claim = |class: &str, status: Value| {
        of(json!({"metadata": {"name": "c", "namespace": "ns"}, "status": status,
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": class, "allocationMode": "All"}}]}}}))
    };
    let mut errors = ErrorList::new();
    claim("k", json!({})).validate_update(&claim("other", json!({})), &mut errors);
    let found = shown(errors);
    assert!(found.len() == 1 && found[0].starts_with("spec: Invalid value") && found[0].ends_with("field is immutable"), "{found:?}");

    let result = |device: &str| json!({"request": "r", "driver": "d.io", "pool": "p", "device": device});
    let allocation = |device: &str| json!({"devices": {"results": [result(device)]}});
    let pod = || json!([{"resource": "pods", "name": "p", "uid": "u"}]);
    for (new, old, expected) in [
        (json!({"allocation": allocation("x"), "reservedFor": pod()}), json!({}), None),
        (json!({"reservedFor": pod()}), json!({}), Some("status.reservedFor: Forbidden: may not be specified when `allocated` is not set")),
        (json!({"allocation": allocation("y")}), json!({"allocation": allocation("x")}), Some("field is immutable")),
        (json!({}), json!({"allocation": allocation("x")}), None),
        (
            json!({"allocation": allocation("x"), "devices": [{"driver": "d.io", "pool": "p", "device": "y"}]}),
            json!({"allocation": allocation("x")}),
            Some("status.devices[0]: Invalid value: \"d.io/p/y\": must be an allocated device in the claim"),
        ),
        (
            json!({"allocation": {"devices": {"results": [{"request": "q", "driver": "d.io", "pool": "p", "device": "x"}]}}}),
            json!({}),
            Some("status.allocation.devices.results[0].request: Invalid value: \"q\""),
        ),
    ] {
        let mut errors = ErrorList::new();
        claim("k", new.clone()).validate_status_update(&claim("k", old), &mut errors);
        let found = shown(errors);
        match expected {
            None => assert!(found.is_empty(), "{new}: {found:?}"),
            Some(expected) => assert!(found.len() == 1 && found[0].contains(expected), "{new}: {found:?}"),
        }
    }
}
