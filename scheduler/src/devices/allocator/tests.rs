//! What is chosen, case by case.

use super::*;
use crate::fixtures::{merge, node};
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::{Value, json};

/// A slice that is all of its pool, on node `n` if `more` says nothing else.
fn slice(pool: &str, devices: Value, more: Value) -> Arc<ResourceSlice> {
    let spec =
        json!({"driver": "d.io", "nodeName": "n", "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1}, "devices": devices});
    let mut object = json!({"metadata": {"name": pool}, "spec": spec});
    merge(&mut object["spec"], more);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn claim(name: &str, devices: Value) -> Arc<ResourceClaim> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "spec": {"devices": devices}})).unwrap(),
    )
}

fn one(selector: &str) -> Value {
    json!({"name": "r", "exactly": {"deviceClassName": "all", "selectors": [{"cel": {"expression": selector}}]}})
}

fn class(name: &str) -> Option<Arc<DeviceClass>> {
    let spec = match name {
        "all" => json!({}),
        "gpu" => json!({"selectors": [{"cel": {"expression": "device.attributes['d.io'].kind == 'gpu'"}}],
            "config": [{"opaque": {"driver": "d.io", "parameters": {"from": "class"}}}]}),
        _ => return None,
    };
    Some(Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()))
}

fn run(
    slices: Vec<Arc<ResourceSlice>>,
    allocated: &[Arc<ResourceClaim>],
    claims: &[Arc<ResourceClaim>],
) -> Result<Option<Vec<AllocationResult>>, Trouble> {
    let (pools, in_use, programs) = (Pools::gather(slices), InUse::by(allocated.iter().map(Arc::as_ref)), Programs::default());
    let inventory = Inventory { pools: &pools, in_use: &in_use, class_of: &class, programs: &programs, share: &|| "share".to_owned() };
    allocate(&inventory, &node("n", json!({})), claims)
}

/// The chosen devices as `request=device`, claim by claim.
fn chosen(outcome: Result<Option<Vec<AllocationResult>>, Trouble>) -> Result<Option<Vec<String>>, Trouble> {
    let of = |result: AllocationResult| {
        let results = result.devices.and_then(|devices| devices.results).unwrap_or_default();
        results.iter().map(|r| format!("{}={}", r.request, r.device)).collect::<Vec<_>>().join(" ")
    };
    outcome.map(|found| found.map(|results| results.into_iter().map(of).collect()))
}

/// A claim that has these devices of pool `p`.
fn having(devices: &[&str]) -> Arc<ResourceClaim> {
    let results: Vec<_> = devices.iter().map(|d| json!({"request": "r", "driver": "d.io", "pool": "p", "device": d})).collect();
    let status = json!({"allocation": {"devices": {"results": results}}});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": "other"}, "spec": {}, "status": status})).unwrap())
}

fn gpus() -> Vec<Arc<ResourceSlice>> {
    let gpu = |name: &str, numa: i64| json!({"name": name, "attributes": {"kind": {"string": "gpu"}, "numa": {"int": numa}}});
    let nic = |name: &str, numa: i64| json!({"name": name, "attributes": {"kind": {"string": "nic"}, "numa": {"int": numa}}});
    vec![slice("p", json!([gpu("g0", 0), gpu("g1", 1), gpu("g2", 1), nic("n1", 1)]), json!({}))]
}

#[test]
fn requests_get_devices_of_their_classes_that_nobody_has() {
    let exactly = |more: Value| {
        let mut request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
        merge(&mut request["exactly"], more);
        json!({"requests": [request]})
    };
    let yes = |text: &str| Ok(Some(vec![text.to_owned()]));
    for (what, devices, allocated, expected) in [
        ("first", exactly(json!({})), vec![], yes("r=g0")),
        ("next", exactly(json!({})), vec![having(&["g0"])], yes("r=g1")),
        ("none left", exactly(json!({})), vec![having(&["g0", "g1", "g2"])], Ok(None)),
        ("several", exactly(json!({"count": 2})), vec![having(&["g1"])], yes("r=g0 r=g2")),
        ("too many", exactly(json!({"count": 4})), vec![], Ok(None)),
        ("all", exactly(json!({"allocationMode": "All"})), vec![], yes("r=g0 r=g1 r=g2")),
        ("all, one taken", exactly(json!({"allocationMode": "All"})), vec![having(&["g1"])], Ok(None)),
        ("admin", exactly(json!({"allocationMode": "All", "adminAccess": true})), vec![having(&["g1"])], yes("r=g0 r=g1 r=g2")),
        ("selected", json!({"requests": [one("device.attributes['d.io'].numa == 1")]}), vec![], yes("r=g1")),
    ] {
        assert_eq!(chosen(run(gpus(), &allocated, &[claim("c", devices)])), expected, "{what}");
    }
}

#[test]
fn what_is_wrong_with_a_claim_is_told() {
    let wrong = |text: &str| Err(Trouble::Wrong(text.to_owned()));
    for (devices, expected) in [
        (
            json!({"requests": [one("device.attributes['d.io'].missing == 1")]}),
            wrong("claim ns/c: selector #0 on device d.io/p/g0: CEL runtime error: no such key: missing"),
        ),
        (
            json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "all", "count": 33}}]}),
            wrong("claim ns/c: number of requested devices 33 exceeds the claim limit of 32"),
        ),
        (
            json!({"requests": [one("true")], "constraints": [{}]}),
            wrong("claim ns/c, constraint #0: empty constraint (unsupported constraint type?)"),
        ),
    ] {
        assert_eq!(chosen(run(gpus(), &[], &[claim("c", devices)])), expected);
    }
    let part = slice("p", json!([{"name": "x"}]), json!({"pool": {"resourceSliceCount": 2}}));
    let all = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "all", "allocationMode": "All"}}]});
    let expected = wrong("claim ns/c, request r: asks for all devices, but resource pool d.io/p is currently being updated");
    assert_eq!(chosen(run(vec![part.clone()], &[], &[claim("c", all)])), expected);
    assert_eq!(chosen(run(vec![part], &[], &[claim("c", json!({"requests": [one("true")]}))])), Ok(None));
    let twice = slice("p", json!([{"name": "x"}, {"name": "x"}]), json!({}));
    assert_eq!(chosen(run(vec![twice], &[], &[claim("c", json!({"requests": [one("true")]}))])), Err(Trouble::Invalid));
}

#[test]
fn constraints_hold_among_the_devices_of_a_claim() {
    let request = |name: &str, kind: &str| {
        let selector = format!("device.attributes['d.io'].kind == '{kind}'");
        json!({"name": name, "exactly": {"deviceClassName": "all", "selectors": [{"cel": {"expression": selector}}]}})
    };
    let both = |constraints: Value| json!({"requests": [request("g", "gpu"), request("n", "nic")], "constraints": constraints});
    let two = |constraint: Value| json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "count": 2}}], "constraints": [constraint]});
    for (devices, expected) in [
        (both(json!([])), Some("g=g0 n=n1")),
        (both(json!([{"matchAttribute": "d.io/numa"}])), Some("g=g1 n=n1")),
        (both(json!([{"requests": ["g"], "matchAttribute": "d.io/numa"}])), Some("g=g0 n=n1")),
        (both(json!([{"matchAttribute": "d.io/unknown"}])), None),
        (two(json!({"matchAttribute": "d.io/numa"})), Some("r=g1 r=g2")),
        (two(json!({"distinctAttribute": "d.io/numa"})), Some("r=g0 r=g1")),
    ] {
        let expected = Ok(expected.map(|text| vec![text.to_owned()]));
        assert_eq!(chosen(run(gpus(), &[], &[claim("c", devices.clone())])), expected, "{devices}");
    }
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    let first = json!([
        {"name": "many", "deviceClassName": "gpu", "count": 3},
        {"name": "few", "deviceClassName": "gpu", "count": 1},
    ]);
    let devices = json!({"requests": [{"name": "r", "firstAvailable": first}], "config": [
        {"requests": ["r/few"], "opaque": {"driver": "d.io", "parameters": {"for": "few"}}},
        {"requests": ["r/many"], "opaque": {"driver": "d.io", "parameters": {"for": "many"}}},
    ]});
    let outcome = run(gpus(), &[having(&["g1"])], &[claim("c", devices)]);
    assert_eq!(chosen(outcome.clone()), Ok(Some(vec!["r/few=g0".to_owned()])));
    let config = outcome.unwrap().unwrap().remove(0).devices.unwrap().config.unwrap();
    let seen: Vec<_> = config.iter().map(|c| (c.source.as_str(), c.opaque.as_ref().unwrap().parameters.0.clone())).collect();
    assert_eq!(seen, [("FromClass", json!({"from": "class"})), ("FromClaim", json!({"for": "few"}))]);
}

#[test]
fn claims_of_one_pod_do_not_take_the_same_device_and_an_early_choice_is_given_up_for_a_late_one() {
    let any = claim("a", json!({"requests": [one("true")]}));
    let picky = claim("b", json!({"requests": [one("device.attributes['d.io'].numa == 0")]}));
    let expected = Ok(Some(vec!["r=g1".to_owned(), "r=g0".to_owned()]));
    assert_eq!(chosen(run(gpus(), &[], &[any, picky])), expected);
}

#[test]
fn tainted_devices_are_for_those_that_tolerate_them() {
    let tainted = || vec![slice("p", json!([{"name": "x", "taints": [{"key": "k", "effect": "NoSchedule"}]}]), json!({}))];
    let tolerating = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "all", "tolerations": [{"operator": "Exists"}]}}]});
    assert_eq!(chosen(run(tainted(), &[], &[claim("c", json!({"requests": [one("true")]}))])), Ok(None));
    let result = run(tainted(), &[], &[claim("c", tolerating)]).unwrap().unwrap().remove(0);
    let result = result.devices.unwrap().results.unwrap().remove(0);
    assert_eq!(result.tolerations.map(|t| t.len()), Some(1), "what was tolerated is kept with the result");
}

#[test]
fn parts_of_one_thing_share_its_counters() {
    let part = |name: &str, memory: &str| json!({"name": name, "consumesCounters": [{"counterSet": "gpu", "counters": {"memory": {"value": memory}}}]});
    let counters = json!({"sharedCounters": [{"name": "gpu", "counters": {"memory": {"value": "10Gi"}}}]});
    let slices = || vec![slice("p", json!([part("whole", "10Gi"), part("half-0", "5Gi"), part("half-1", "5Gi")]), counters.clone())];
    let two = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "all", "count": 2}}]});
    assert_eq!(chosen(run(slices(), &[], &[claim("c", two.clone())])), Ok(Some(vec!["r=half-0 r=half-1".to_owned()])));
    let any = json!({"requests": [one("true")]});
    assert_eq!(chosen(run(slices(), &[having(&["half-0"])], &[claim("c", any)])), Ok(Some(vec!["r=half-1".to_owned()])));
    assert_eq!(chosen(run(slices(), &[having(&["whole"])], &[claim("c", two)])), Ok(None));
}

#[test]
fn a_shared_device_is_given_out_in_parts() {
    let shared = json!([{"name": "x", "allowMultipleAllocations": true, "capacity": {"memory": {"value": "10Gi"}}}]);
    let slices = || vec![slice("p", shared.clone(), json!({}))];
    let part = |size: &str| {
        let exactly = json!({"deviceClassName": "all", "capacity": {"requests": {"memory": size}}});
        claim("c", json!({"requests": [{"name": "r", "exactly": exactly}]}))
    };
    let outcome = run(slices(), &[], &[part("4Gi"), part("6Gi")]).unwrap().unwrap();
    let results: Vec<_> = outcome.iter().map(|o| o.devices.as_ref().unwrap().results.as_ref().unwrap()[0].clone()).collect();
    let consumed: Vec<_> = results.iter().map(|r| r.consumed_capacity.as_ref().unwrap()["memory"].0.clone()).collect();
    assert_eq!((consumed, results[0].share_id.as_deref()), (vec!["4Gi".to_owned(), "6Gi".to_owned()], Some("share")));
    assert_eq!(run(slices(), &[], &[part("4Gi"), part("7Gi")]), Ok(None));
    let status = json!({"allocation": {"devices": {"results": [results[0]]}}});
    let other: Arc<ResourceClaim> =
        Arc::new(serde_json::from_value(json!({"metadata": {"name": "o"}, "spec": {}, "status": status})).unwrap());
    assert_eq!(run(slices(), std::slice::from_ref(&other), &[part("7Gi")]), Ok(None));
    assert!(run(slices(), &[other], &[part("6Gi")]).unwrap().is_some());
}

#[test]
fn where_the_devices_can_be_used() {
    let any = || claim("c", json!({"requests": [one("true")]}));
    let selector = |slices: Vec<Arc<ResourceSlice>>| {
        let result = run(slices, &[], &[any()]).unwrap().unwrap().remove(0);
        serde_json::to_value(result.node_selector).unwrap()
    };
    let here = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
    assert_eq!(selector(gpus()), here);
    let wide = json!({"nodeName": null, "allNodes": true});
    assert_eq!(selector(vec![slice("p", json!([{"name": "x"}]), wide.clone())]), Value::Null);
    assert_eq!(selector(vec![slice("p", json!([{"name": "x", "bindsToNode": true}]), wide)]), here);
    let zone = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}]});
    assert_eq!(selector(vec![slice("p", json!([{"name": "x"}]), json!({"nodeName": null, "nodeSelector": zone}))]), zone);
}
