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
fn extended_resources_are_devices_where_the_node_has_none() {
    let mut listers = objects(vec![]);
    let class = json!({"metadata": {"name": "c"}, "spec": {"extendedResourceName": "example.com/gpu"}});
    listers.device_classes = vec![Arc::new(serde_json::from_value(class).unwrap())];
    let of_its_own = json!({"status": {"allocatable": {"example.com/gpu": "1"}}});
    let nodes = [node_info("n1", json!({}), &[]), node_info("n2", json!({}), &[]), node_info("n3", of_its_own, &[])];
    let snapshot = Snapshot::new(nodes.clone());
    let context = Context { snapshot: &snapshot, listers: &listers };
    let asking = |resource: &str| pod("p", json!({"containers": [{"resources": {"requests": {resource: "1"}}}]}));
    let filter = |resource: &str| {
        let (plugins, pod) = (crate::plugins::PluginSet::default(), asking(resource));
        let mut search = crate::cycle::Search::default();
        let mut rng = rand::SeedableRng::seed_from_u64(1);
        let rng: &mut rand::rngs::StdRng = &mut rng;
        crate::cycle::schedule(&plugins, &mut CycleState::default(), &pod, &context, &mut search, rng)
    };
    assert_eq!(filter("example.com/gpu").unwrap().feasible, 2, "a device of the class, and the node's own");
    let why = filter("example.com/other").unwrap_err().message();
    assert_eq!(why, "0/3 nodes are available: 3 Insufficient example.com/other.");
}

#[test]
fn what_an_earlier_try_has_left_behind_has_to_go_first() {
    let pod = pod("p", json!({"containers": [{"resources": {"requests": {"example.com/gpu": "1"}}}]}));
    let wanted = Classes::from([("example.com/gpu".to_owned(), "c".to_owned())]);
    let (mut left, _) = extended::claim(&pod, &wanted, "left");
    left.metadata.name = Some("p-extended-resources-x".to_owned());
    let mut listers = objects(vec![]);
    let class = json!({"metadata": {"name": "c"}, "spec": {"extendedResourceName": "example.com/gpu"}});
    listers.device_classes = vec![Arc::new(serde_json::from_value(class).unwrap())];
    listers.device_claims = vec![Arc::new(left.clone())];
    let node = node_info("n1", json!({}), &[]);
    let snapshot = Snapshot::new([node.clone()]);
    let context = Context { snapshot: &snapshot, listers: &listers };
    let (plugin, mut cycle) = (DynamicResources::new(&DynamicResourcesArgs::default()), CycleState::default());
    plugin.pre_filter(&mut cycle, &pod, &context).unwrap();
    let told = plugin.filter(&cycle, &pod, &node, &context).unwrap_err();
    assert_eq!(told.reasons.as_slice(), ["cannot schedule extended resource claim"]);
    let (filters, error, memory) = (&Filters::none(), &FitError::default(), &mut Memory::default());
    let mut unplaced = Unplaced { pod: &pod, context, filters, cycle: &cycle, error, offset: 0, memory, extenders: &Extenders::default() };
    let PostFilter::Deallocate(key, _) = plugin.post_filter(&mut unplaced) else { panic!("it stays") };
    assert_eq!(key.name, "p-extended-resources-x");
    let gone = ClusterEvent::DeviceClaim(Changed { old: Some(Arc::new(left.clone())), new: Arc::new(left) });
    assert!(plugin.cures(&pod, &gone));
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
