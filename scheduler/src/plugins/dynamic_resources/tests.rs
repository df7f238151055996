//! What a pod with claims is told, and where it goes.

use super::*;
use crate::cycle::{Filters, FitError};
use crate::extenders::Extenders;
use crate::fixtures::{Objects, node_info, pod};
use crate::memory::Memory;
use crate::snapshot::Snapshot;
use serde_json::{Value, json};

fn objects(claims: Vec<Value>) -> Objects {
    let slice = |node: &str| {
        let spec = json!({"driver": "d.io", "nodeName": node, "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "x"}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": node}, "spec": spec})).unwrap())
    };
    let class = json!({"metadata": {"name": "c"}, "spec": {}});
    Objects {
        device_claims: claims.into_iter().map(|claim| Arc::new(serde_json::from_value(claim).unwrap())).collect(),
        device_classes: vec![Arc::new(serde_json::from_value(class).unwrap())],
        device_pools: Arc::new(Pools::gather(vec![slice("n1")])),
        ..Objects::default()
    }
}

fn claim(name: &str, class: &str, status: Value) -> Value {
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": class}}]);
    json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "spec": {"devices": {"requests": requests}}, "status": status})
}

fn using(name: &str) -> Arc<PodInfo> {
    pod("p", json!({"resourceClaims": [{"name": "c", "resourceClaimName": name}]}))
}

fn allocated(node: &str, reserved: Value) -> Value {
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    let results = json!([{"request": "r", "driver": "d.io", "pool": node, "device": "x"}]);
    json!({"allocation": {"devices": {"results": results}, "nodeSelector": {"nodeSelectorTerms": [term]}}, "reservedFor": reserved})
}

fn others(count: usize) -> Value {
    (0..count).map(|number| json!({"resource": "pods", "name": "o", "uid": format!("o{number}")})).collect()
}

#[test]
fn what_a_pod_waits_for() {
    let leaving = {
        let mut claim = claim("leaving", "c", json!({}));
        claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        claim
    };
    let listers = objects(vec![
        claim("fine", "c", json!({})),
        claim("classless", "unknown", json!({})),
        claim("crowded", "c", allocated("n1", others(256))),
        leaving,
    ]);
    let snapshot = Snapshot::new([node_info("n1", json!({}), &[])]);
    let context = Context { snapshot: &snapshot, listers: &listers };
    let plugin = DynamicResources::new(&DynamicResourcesArgs::default());
    let told = |pod: &PodInfo| plugin.pre_filter(&mut CycleState::default(), pod, &context).map_err(|r| r.reasons.join(", "));
    assert_eq!(told(&using("fine")), Ok(PreFilter::AllNodes));
    assert_eq!(told(&pod("p", json!({}))), Ok(PreFilter::Skip));
    for (name, expected) in [
        ("none", "could not find ResourceClaim \"ns/none\""),
        ("classless", "request r: device class unknown does not exist"),
        ("crowded", "resourceclaim in use"),
        ("leaving", "resourceclaim \"leaving\" is being deleted"),
    ] {
        assert_eq!(told(&using(name)), Err(expected.to_owned()));
    }
    let waiting = pod("p", json!({"resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]}));
    assert_eq!(plugin.pre_enqueue(&waiting).unwrap_err().reasons.as_slice(), ["pod \"ns/p\": ResourceClaim not created yet"]);
}

#[test]
fn a_pod_goes_where_its_devices_are() {
    let nodes = ["n1", "n2"].map(|name| node_info(name, json!({}), &[]));
    let snapshot = Snapshot::new(nodes.clone());
    let ours = json!([{"resource": "pods", "name": "p", "uid": "p"}]);
    for (claims, expected, post) in [
        (vec![claim("c", "c", json!({}))], ["", "cannot allocate all claims"], "still not schedulable"),
        (
            vec![claim("c", "c", allocated("n1", ours))],
            ["", "resourceclaim not available on the node"],
            "deallocation of ResourceClaim completed",
        ),
        (vec![claim("c", "c", allocated("n1", others(1)))], ["", "resourceclaim not available on the node"], "still not schedulable"),
        (
            vec![claim("c", "c", json!({})), claim("d", "c", allocated("n1", others(1)))],
            ["cannot allocate all claims"; 2],
            "still not schedulable",
        ),
    ] {
        let listers = objects(claims);
        let context = Context { snapshot: &snapshot, listers: &listers };
        let (plugin, mut cycle, pod) = (DynamicResources::new(&DynamicResourcesArgs::default()), CycleState::default(), using("c"));
        plugin.pre_filter(&mut cycle, &pod, &context).unwrap();
        let told =
            nodes.each_ref().map(|node| plugin.filter(&cycle, &pod, node, &context).err().map_or(String::new(), |r| r.reasons.join(", ")));
        assert_eq!(told, expected);
        let (filters, error, memory) = (&Filters::none(), &FitError::default(), &mut Memory::default());
        let mut unplaced =
            Unplaced { pod: &pod, context, filters, cycle: &cycle, error, offset: 0, memory, extenders: &Extenders::default() };
        let (PostFilter::Deallocate(_, text) | PostFilter::Nothing(text)) = plugin.post_filter(&mut unplaced) else {
            panic!("no room is made for claims")
        };
        assert_eq!(text, post);
    }
}
