//! What could make each plugin accept a pod that it has refused, as tables. The cases are those of upstream's tests of its queueing hints.

use super::PluginSet;
use crate::fixtures::{node, pod};
use crate::framework::{Changed, ClusterEvent};
use crate::pod_info::PodInfo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// An object by its JSON.
fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// An object that was like this, if it was there, and is like that.
fn changed<K: DeserializeOwned>(old: Option<Value>, new: Value) -> Changed<K> {
    Changed { old: old.map(object), new: object(new) }
}

fn node_event(old: Option<Value>, new: Value) -> ClusterEvent {
    ClusterEvent::Node(Changed { old: old.map(|more| node("n", more)), new: node("n", new) })
}

fn gone(spec: Value) -> ClusterEvent {
    ClusterEvent::PodGone(pod("gone", spec))
}

fn itself(old: Value, new: Value) -> ClusterEvent {
    ClusterEvent::Itself { old: pod("p", old), new: pod("p", new) }
}

fn check(plugin: &str, pod: &PodInfo, cases: &[(ClusterEvent, bool)]) {
    let plugins = PluginSet::default();
    let plugin = plugins.named(plugin).unwrap();
    for (number, (event, expected)) in cases.iter().enumerate() {
        assert_eq!(plugin.cures(pod, event), *expected, "{} case {number}: {event:?}", plugin.name());
    }
}

fn labelled(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}})
}

#[test]
fn node_name_and_ports() {
    let named = pod("p", json!({"nodeName": "n"}));
    check("NodeName", &named, &[(node_event(None, json!({})), true), (node_event(Some(json!({})), json!({})), false)]);
    let port = |port: u16| json!({"containers": [{"ports": [{"containerPort": 1, "hostPort": port}]}]});
    let cases = [
        (gone(port(80)), true),
        (gone(port(81)), false),
        (gone(json!({})), false),
        (node_event(None, json!({})), true),
        (node_event(Some(json!({})), labelled(json!({"a": "b"}))), false),
    ];
    check("NodePorts", &pod("p", port(80)), &cases);
}

#[test]
fn cordoned_nodes() {
    let (open, cordoned) = (json!({}), json!({"spec": {"unschedulable": true}}));
    let tolerating = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"}]});
    let cases = [
        (node_event(None, open.clone()), true),
        (node_event(None, cordoned.clone()), false),
        (node_event(Some(cordoned.clone()), open.clone()), true),
        (node_event(Some(open.clone()), labelled(json!({"a": "b"}))), false),
        (node_event(Some(open), cordoned), false),
        (itself(json!({}), tolerating("node.kubernetes.io/unschedulable")), true),
        (itself(json!({}), tolerating("other")), false),
    ];
    check("NodeUnschedulable", &pod("p", json!({})), &cases);
}

#[test]
fn taints() {
    let tainted = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
    let tolerating = json!({"tolerations": [{"key": "fine", "operator": "Exists"}]});
    let cases = [
        (node_event(None, json!({})), true),
        (node_event(None, tainted("bad")), false),
        (node_event(None, tainted("fine")), true),
        (node_event(Some(tainted("bad")), json!({})), true),
        (node_event(Some(tainted("bad")), tainted("worse")), false),
        (node_event(Some(tainted("fine")), json!({})), false),
        (node_event(Some(json!({})), tainted("bad")), false),
        (itself(json!({}), tolerating.clone()), true),
        (itself(tolerating.clone(), tolerating.clone()), false),
    ];
    check("TaintToleration", &pod("p", tolerating), &cases);
}

#[test]
fn node_affinity() {
    let zone = |zone: &str| labelled(json!({"zone": zone}));
    let cases = [
        (node_event(None, zone("a")), true),
        (node_event(None, zone("b")), false),
        (node_event(Some(zone("b")), zone("a")), true),
        (node_event(Some(zone("a")), labelled(json!({"zone": "a", "other": "x"}))), false),
        (node_event(Some(zone("a")), zone("b")), false),
        (gone(json!({})), false),
    ];
    check("NodeAffinity", &pod("p", json!({"nodeSelector": {"zone": "a"}})), &cases);
}

fn using(claim: &str) -> Value {
    json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]})
}

fn claim(name: &str) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name}, "spec": {}})
}

#[test]
fn volume_limits() {
    let limit = |count: i32| json!({"metadata": {"name": "n"}, "spec": {"drivers": [{"name": "d", "nodeID": "n", "allocatable": {"count": count}}]}});
    let attachment = json!({"metadata": {"name": "a"}, "spec": {"attacher": "d", "nodeName": "n", "source": {}}});
    let cases = [
        (gone(using("other")), true),
        (gone(json!({})), false),
        (ClusterEvent::CsiNode(changed(None, limit(1))), true),
        (ClusterEvent::CsiNode(changed(Some(limit(1)), limit(2))), true),
        (ClusterEvent::CsiNode(changed(Some(limit(1)), limit(1))), false),
        (ClusterEvent::CsiNode(changed(Some(limit(2)), limit(1))), false),
        (ClusterEvent::Claim(changed(None, claim("mine"))), true),
        (ClusterEvent::Claim(changed(None, claim("other"))), false),
        (ClusterEvent::Detached(object(attachment)), true),
        (node_event(None, json!({})), true),
    ];
    check("NodeVolumeLimits", &pod("p", using("mine")), &cases);
}

#[test]
fn volume_restrictions() {
    let disk = |name: &str| json!({"volumes": [{"name": "v", "gcePersistentDisk": {"pdName": name}}]});
    let cases = [
        (gone(using("mine")), true),
        (gone(using("other")), false),
        (gone(disk("d")), false),
        (ClusterEvent::Claim(changed(None, claim("mine"))), true),
        (ClusterEvent::Claim(changed(None, claim("other"))), false),
        (node_event(None, json!({})), true),
        (node_event(Some(json!({})), labelled(json!({"a": "b"}))), false),
    ];
    check("VolumeRestrictions", &pod("p", using("mine")), &cases);
    check("VolumeRestrictions", &pod("p", disk("d")), &[(gone(disk("d")), true), (gone(disk("e")), false)]);
}

fn class(mode: &str, zones: &[&str]) -> Value {
    let topologies = json!([{"matchLabelExpressions": [{"key": "zone", "values": zones}]}]);
    json!({"metadata": {"name": "c"}, "provisioner": "p", "volumeBindingMode": mode, "allowedTopologies": topologies})
}

#[test]
fn volume_zones() {
    let volume = |zone: &str| json!({"metadata": {"name": "v", "labels": {"topology.kubernetes.io/zone": zone}}, "spec": {}});
    let cases = [
        (ClusterEvent::Claim(changed(None, claim("mine"))), true),
        (ClusterEvent::Claim(changed(None, claim("other"))), false),
        (ClusterEvent::Class(changed(None, class("WaitForFirstConsumer", &["a"]))), true),
        (ClusterEvent::Class(changed(None, class("Immediate", &["a"]))), false),
        (ClusterEvent::Volume(changed(None, volume("a"))), true),
        (ClusterEvent::Volume(changed(Some(volume("a")), volume("b"))), true),
        (ClusterEvent::Volume(changed(Some(volume("a")), volume("a"))), false),
        (node_event(None, json!({})), true),
        (node_event(Some(json!({})), labelled(json!({"topology.kubernetes.io/zone": "a"}))), true),
        (node_event(Some(json!({})), json!({"spec": {"unschedulable": true}})), false),
    ];
    check("VolumeZone", &pod("p", using("mine")), &cases);
}

#[test]
fn volume_binding() {
    let capacity = |size: &str| json!({"metadata": {"name": "s"}, "storageClassName": "c", "capacity": size});
    let driver = |tracks: bool| json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": tracks}});
    let migrated = |plugins: &str| {
        let annotations = json!({"storage.alpha.kubernetes.io/migrated-plugins": plugins});
        json!({"metadata": {"name": "n", "annotations": annotations}, "spec": {"drivers": []}})
    };
    let volume = json!({"metadata": {"name": "v"}, "spec": {}});
    let late = |zones: &[&str]| class("WaitForFirstConsumer", zones);
    let cases = [
        (ClusterEvent::Claim(changed(None, claim("mine"))), true),
        (ClusterEvent::Claim(changed(Some(claim("mine")), claim("mine"))), true),
        (ClusterEvent::Claim(changed(None, claim("other"))), false),
        (ClusterEvent::Volume(changed(None, volume)), true),
        (ClusterEvent::Class(changed(None, late(&["a"]))), true),
        (ClusterEvent::Class(changed(Some(late(&["a"])), late(&["a", "b"]))), true),
        (ClusterEvent::Class(changed(Some(late(&["a"])), late(&["a"]))), false),
        (ClusterEvent::CsiNode(changed(None, migrated("a"))), true),
        (ClusterEvent::CsiNode(changed(Some(migrated("a")), migrated("a,b"))), true),
        (ClusterEvent::CsiNode(changed(Some(migrated("a")), migrated("a"))), false),
        (ClusterEvent::CsiDriver(changed(Some(driver(true)), driver(false))), true),
        (ClusterEvent::CsiDriver(changed(Some(driver(false)), driver(true))), false),
        (ClusterEvent::Capacity(changed(None, capacity("1Gi"))), true),
        (ClusterEvent::Capacity(changed(Some(capacity("1Gi")), capacity("2Gi"))), true),
        (ClusterEvent::Capacity(changed(Some(capacity("2Gi")), capacity("1Gi"))), false),
        (node_event(Some(json!({})), labelled(json!({"zone": "a"}))), true),
        (gone(using("mine")), false),
    ];
    check("VolumeBinding", &pod("p", using("mine")), &cases);
}
