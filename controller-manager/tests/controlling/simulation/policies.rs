//! What the world's apiserver fills in, refuses or adds when objects come and go: the defaults that controllers rely on, a namespace that is going, a quota,
//! what is to become of dependents; and scales, as a view of what is scaled.

use super::invariants::of_kind;
use super::world::{NAMESPACE, Objects, Refused, refusal, text};
use serde_json::{Value, json};

/// Nothing is created where everything goes.
pub fn namespace_is_there(objects: &Objects) -> Result<(), Refused> {
    match objects.get(&("namespaces", NAMESPACE.to_owned())) {
        None => Err(refusal(404, "NotFound", "namespaces \"sim\" not found")),
        Some(namespace) if text(namespace, "/metadata/deletionTimestamp").is_empty() => Ok(()),
        Some(_) => {
            let (code, mut status) =
                refusal(403, "Forbidden", "unable to create new content in namespace sim because it is being terminated");
            status["details"] = json!({"causes": [{"reason": "NamespaceTerminating", "message": "namespace sim is being terminated"}]});
            Err((code, status))
        }
    }
}

/// Defaults.
pub fn fill_in(plural: &str, object: &mut Value) {
    match plural {
        "pods" => object["status"] = json!({"phase": "Pending"}),
        "jobs" if object["spec"]["selector"].is_null() => {
            let (uid, name) = (object["metadata"]["uid"].clone(), object["metadata"]["name"].clone());
            object["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
            let labels = &mut object["spec"]["template"]["metadata"]["labels"];
            (labels["batch.kubernetes.io/controller-uid"], labels["batch.kubernetes.io/job-name"]) = (uid, name);
        }
        _ => {}
    }
}

fn pods_of(quota: &Value, path: &str) -> Option<i64> {
    text(quota, path).parse().ok()
}

/// The quota, if there is one, with one pod more in it; a refusal if it has no room.
pub fn charged(objects: &Objects) -> Result<Option<Value>, Refused> {
    let Some(quota) = of_kind(objects, "resourcequotas").next() else { return Ok(None) };
    let (Some(hard), Some(used)) = (pods_of(quota, "/status/hard/pods"), pods_of(quota, "/status/used/pods")) else {
        return Err(refusal(403, "Forbidden", "status unknown for quota: quota, resources: pods"));
    };
    if used >= hard {
        let message = format!("exceeded quota: quota, requested: pods=1, used: pods={used}, limited: pods={hard}");
        return Err(refusal(403, "Forbidden", &message));
    }
    let mut charged = quota.clone();
    charged["status"]["used"]["pods"] = json!((used + 1).to_string());
    Ok(Some(charged))
}

/// What is to become of the dependents of an object that is deleted is said by its finalizers. Who says nothing changes nothing.
pub fn propagate(meta: &mut Value, policy: &str) {
    let finalizer = match policy {
        "" => return,
        "Foreground" => Some("foregroundDeletion"),
        "Orphan" => Some("orphan"),
        _ => None,
    };
    let mut finalizers = meta["finalizers"].as_array().cloned().unwrap_or_default();
    finalizers.retain(|known| known != "foregroundDeletion" && known != "orphan");
    finalizers.extend(finalizer.map(|finalizer| json!(finalizer)));
    if finalizers.is_empty() {
        meta.as_object_mut().and_then(|meta| meta.remove("finalizers"));
    } else {
        meta["finalizers"] = json!(finalizers);
    }
}

/// The scale of a workload; each selects by its own name.
pub fn scale(object: &Value) -> Value {
    let (meta, replicas) = (&object["metadata"], &object["spec"]["replicas"]);
    let name = text(meta, "/name");
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        "spec": {"replicas": replicas}, "status": {"replicas": object["status"]["replicas"], "selector": format!("app={name}")}})
}
