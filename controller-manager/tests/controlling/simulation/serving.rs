//! What the world's apiserver only tells: which kinds there are, lists, metrics, and watches over HTTP, for controllers that live off all kinds and have no
//! cache of ours. Watches are as late as the caches' are; one that breaks is taken up again from where it was.

use super::process::{Trouble, lateness};
use super::world::{CLUSTERED, KINDS, NAMESPACE, World, named, text};
use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The body of an answer.
pub type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// An answer that is there at once.
pub fn whole(answer: &Value) -> Answer {
    Full::from(serde_json::to_vec(answer).expect("a value is written")).boxed_unsync()
}

/// What there is at a path that is not an object's, if that is anything.
pub fn read(world: &World, path: &str) -> Option<Value> {
    if let "/api" | "/apis" = path {
        return Some(discovery(path == "/api"));
    }
    if path.starts_with("/apis/metrics.k8s.io/") {
        return Some(metrics(world));
    }
    let (plural, name, _) = named(path);
    let (plural, version, kind) = KINDS.iter().find(|(known, ..)| *known == plural && name.is_empty())?;
    let (objects, at) = world.list(plural);
    let items: Vec<&Value> = objects.iter().map(AsRef::as_ref).collect();
    Some(json!({"kind": format!("{kind}List"), "apiVersion": version, "metadata": {"resourceVersion": at.to_string()}, "items": items}))
}

fn discovery(core: bool) -> Value {
    let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (plural, version, kind) in KINDS {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        if group.is_empty() != core {
            continue;
        }
        let scope = if CLUSTERED.contains(plural) { "Cluster" } else { "Namespaced" };
        let resource = json!({
            "resource": plural, "responseKind": {"group": group, "version": version, "kind": kind}, "scope": scope, "singularResource": "",
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]});
        let versions = groups.entry(group).or_default();
        match versions.iter_mut().find(|known| known["version"] == version) {
            Some(known) => known["resources"].as_array_mut().expect("made below").push(resource),
            None => versions.push(json!({"version": version, "resources": [resource]})),
        }
    }
    let items: Vec<Value> =
        groups.into_iter().map(|(group, versions)| json!({"metadata": {"name": group}, "versions": versions})).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// What the pods of the autoscaler's target use: the load in equal parts.
fn metrics(world: &World) -> Value {
    let Some(autoscaler) = world.list("horizontalpodautoscalers").0.into_iter().next() else { return json!({"items": []}) };
    let load: usize = text(&autoscaler, "/metadata/annotations/load").parse().unwrap_or(0);
    let pods = world.list("pods").0;
    let target = text(&autoscaler, "/spec/scaleTargetRef/name");
    let running: Vec<&str> = pods
        .iter()
        .filter(|pod| text(pod, "/metadata/labels/app") == target && text(pod, "/status/phase") == "Running")
        .map(|pod| text(pod, "/metadata/name"))
        .collect();
    let usage = format!("{}m", load / running.len().max(1));
    let of = |name: &&str| {
        let container = json!({"name": "c", "usage": {"cpu": usage}});
        json!({"metadata": {"name": name, "namespace": NAMESPACE}, "timestamp": world.now().to_string(), "window": "30s", "containers": [container]})
    };
    json!({"items": running.iter().map(of).collect::<Vec<_>>()})
}

/// Tells what happens to the objects of a kind from a revision on, line by line.
pub fn watch(world: Arc<World>, trouble: Trouble, rng: SmallRng, path: &str, from: usize) -> Answer {
    let plural = named(path).0.to_owned();
    let lines = stream::unfold((world.watch(), from, rng), move |(mut length, mut at, mut rng)| {
        let (world, trouble, plural) = (world.clone(), trouble.clone(), plural.clone());
        async move {
            loop {
                length.wait_for(|length| *length > at).await.ok()?;
                let bad = trouble.load(Ordering::Relaxed);
                tokio::time::sleep(lateness(&mut rng, bad)).await;
                if bad && rng.random_range(0..200) == 0 {
                    return None;
                }
                let mut lines = String::new();
                while let Some(entry) = world.entry(at) {
                    at += 1;
                    if entry.plural == plural {
                        let what = if entry.gone { "DELETED" } else { "MODIFIED" };
                        lines += &format!("{}\n", json!({"type": what, "object": entry.object.as_ref()}));
                    }
                }
                if !lines.is_empty() {
                    return Some((Ok::<_, Infallible>(Frame::data(Bytes::from(lines))), (length, at, rng)));
                }
            }
        }
    });
    StreamBody::new(lines).boxed_unsync()
}
