//! Binding and eviction: writes on pods that are asked for in their own words
//! (upstream: `pkg/registry/core/pod/storage/{storage.go,eviction.go}`).

use super::subresource::View;
use super::update::{Current, Wanted};
use super::{Endpoint, Registry, Write, metadata};
use crate::admission::Operation;
use crate::handlers::parameters::{DeleteParameters, Preconditions};
use crate::respond;
use api::field::{ErrorList, Path};
use api::{StatusError, status::Result};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails, Time};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `DeleteOptions` inside an eviction.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EvictionOptions {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    dry_run: Option<Vec<String>>,
}

impl Registry {
    /// Asks admission whether a connection may be made; what it asks for is in `write.asked`.
    pub async fn admit_connection(&self, write: &Write<'_>) -> Result<()> {
        self.mutate(write, Operation::Connect, None, None, [&Value::Null; 2]).await?;
        self.validate(write, Operation::Connect, write.name, None, None, [&Value::Null; 2]).await
    }

    fn pods(&self) -> Result<Arc<Endpoint>> {
        self.endpoint("", "v1", "pods").ok_or_else(|| StatusError::internal("pods are not served"))
    }

    /// Assigns a pod to a node.
    pub async fn bind(&self, write: &Write<'_>, binding: Value) -> Result<Value> {
        let pods = self.pods()?;
        let own_name = metadata::text(&binding, "name").to_owned();
        let name = if write.name.is_empty() { own_name.as_str() } else { write.name };
        if !own_name.is_empty() && own_name != name {
            let why = format!("the name of the object ({own_name}) does not match the name on the URL ({name})");
            return Err(StatusError::bad_request(why));
        }
        check_target(&binding["target"])?;
        let node = binding["target"]["name"].as_str().unwrap_or("");
        let write = Write { endpoint: &pods, subresource: "binding", name, asked: &binding, ..*write };
        let make = |current: &Current| {
            let value = bound(current, &binding, node).map_err(|why| StatusError::conflict("", "pods/binding", name, &why))?;
            let uid = Some(metadata::text(&binding, "uid").to_owned());
            // Whoever binds a pod does not come to own its node.
            Ok(Wanted { value, managed: current.managed.clone(), applied: true, uid })
        };
        self.update(&write, View::Whole, &make).await?;
        Ok(respond::success(201, None))
    }

    /// Deletes a pod if its disruption budgets allow that.
    pub async fn evict(&self, write: &Write<'_>, eviction: Value) -> Result<Value> {
        let own_name = metadata::text(&eviction, "name");
        if !own_name.is_empty() && own_name != write.name {
            return Err(StatusError::bad_request("name in URL does not match name in Eviction object"));
        }
        let pods = self.pods()?;
        // The eviction is admitted as what it is; the deletion that it comes to is not asked about once more.
        let asked = Write { endpoint: &pods, subresource: "eviction", asked: &eviction, ..*write };
        self.mutate(&asked, Operation::Create, None, None, [&Value::Null; 2]).await?;
        self.validate(&asked, Operation::Create, asked.name, None, None, [&Value::Null; 2]).await?;
        let write = Write { endpoint: &pods, subresource: "", admit: false, ..*write };
        let options: EvictionOptions = match &eviction["deleteOptions"] {
            Value::Null => EvictionOptions::default(),
            sent => serde_json::from_value(sent.clone()).map_err(|e| StatusError::bad_request(e.to_string()))?,
        };
        let dry_run = write.dry_run || options.dry_run.is_some_and(|d| !d.is_empty());
        let write = Write { dry_run, ..write };
        let Some(current) = self.current(&write, false).await? else { return Err(pods.not_found(write.name)) };
        if counts_as_running(&current.value) {
            self.spend_budget(&write, &current.value).await?;
        }
        let mut preconditions = options.preconditions.unwrap_or_default();
        if !dry_run {
            let version = self.mark_evicted(&write, &preconditions).await?;
            // The client's version was the one before the mark.
            preconditions.resource_version = preconditions.resource_version.map(|_| version);
        }
        let delete = DeleteParameters { grace_period_seconds: options.grace_period_seconds, preconditions, dry_run, ..Default::default() };
        self.delete(&write, &delete).await?;
        Ok(respond::success(201, None))
    }

    /// Says in the pod's status that it is evicted, which jobs tell from a failure of the pod's own, and answers the pod's version.
    async fn mark_evicted(&self, write: &Write<'_>, preconditions: &Preconditions) -> Result<String> {
        let write = Write { subresource: "status", ..*write };
        let make = |current: &Current| {
            let conflict = |what: &str, wanted: &str, found: &str, since: &str| {
                let why = format!("the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). {since}");
                StatusError::conflict("", "Pod", write.name, &why)
            };
            let uid = metadata::text(&current.value, "uid");
            if let Some(wanted) = preconditions.uid.as_deref().filter(|w| !w.is_empty() && *w != uid) {
                return Err(conflict("UID", wanted, uid, "The object might have been deleted and then recreated"));
            }
            let version = metadata::text(&current.value, "resourceVersion");
            if let Some(wanted) = preconditions.resource_version.as_deref().filter(|w| !w.is_empty() && *w != version) {
                return Err(conflict("ResourceVersion", wanted, version, "The object might have been modified"));
            }
            let value = evicted(&current.value, super::create::now());
            Ok(Wanted { value, managed: current.managed.clone(), applied: true, uid: None })
        };
        let written = self.update(&write, View::Status, &make).await?;
        let object: Value = serde_json::from_slice(&written.object).map_err(|e| StatusError::internal(e.to_string()))?;
        Ok(metadata::text(&object, "resourceVersion").to_owned())
    }

    /// Takes one allowed disruption from the budget that covers the pod, or refuses with 429.
    async fn spend_budget(&self, write: &Write<'_>, pod: &Value) -> Result<()> {
        let Some(budgets) = self.endpoint("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
        let filter = crate::cache::Filter::all().in_namespace(write.namespace);
        let entries = budgets.cache()?.list(&filter, &Default::default()).entries;
        let found: Vec<PodDisruptionBudget> = entries.iter().filter_map(|e| serde_json::from_slice(e.text()).ok()).collect();
        let labels = serde_json::from_value(pod["metadata"]["labels"].clone()).ok();
        let covers = |b: &&PodDisruptionBudget| {
            let selector = b.spec.as_ref().and_then(|s| s.selector.as_ref());
            selector.is_some_and(|s| api::validation::labels::matches(s, labels.as_ref()))
        };
        let covering: Vec<&PodDisruptionBudget> = found.iter().filter(covers).collect();
        let budget = match covering.as_slice() {
            [] => return Ok(()),
            [one] if spares(one, pod) => return Ok(()),
            [one] => one.metadata.name.clone().unwrap_or_default(),
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(StatusError::internal(why));
            }
        };
        let pod_name = metadata::text(pod, "name");
        let write = Write { endpoint: &budgets, subresource: "status", name: &budget, admit: false, ..*write };
        let make = |current: &Current| {
            let value = spent(&current.value, pod_name)?;
            Ok(Wanted { value, managed: current.managed.clone(), applied: true, uid: None })
        };
        self.update(&write, View::Status, &make).await.map(|_| ())
    }
}

/// Upstream answers a bad target without a reason, with 500.
fn check_target(target: &Value) -> Result<()> {
    let mut errors = ErrorList::new();
    let path = Path::new("target");
    let kind = target["kind"].as_str().unwrap_or("");
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
    }
    if target["name"].as_str().unwrap_or("").is_empty() {
        errors.required(&path.child("name"), "");
    }
    match errors.0.as_slice() {
        [] => Ok(()),
        all => {
            let texts: Vec<String> = all.iter().map(|e| format!("{}: {}", e.path, e.message)).collect();
            let text = if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) };
            Err(StatusError::new(500, "", text))
        }
    }
}

/// The pod on the node, or why not.
fn bound(current: &Current, binding: &Value, node: &str) -> std::result::Result<Value, String> {
    let pod = &current.value;
    let name = metadata::text(pod, "name");
    if pod["metadata"].get("deletionTimestamp").is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(present) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return Err(format!("pod {name} is already assigned to node {present:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            new["metadata"][field][key] = value.clone();
        }
    }
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": super::create::now()});
    put_condition(&mut new, scheduled);
    // Where it was to go says nothing any more (upstream: `ClearingNominatedNodeNameAfterBinding`).
    if let Some(status) = new["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    Ok(new)
}

/// The pod, saying that it is evicted.
fn evicted(pod: &Value, now: Time) -> Value {
    let mut new = pod.clone();
    let mark = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": now, "observedGeneration": pod["metadata"]["generation"]});
    put_condition(&mut new, mark);
    new
}

/// Puts a condition into a pod's status, in the place of the one of its type. What was so before is so since then.
fn put_condition(pod: &mut Value, mut condition: Value) {
    let status = match pod["status"].as_object_mut() {
        Some(status) => status,
        None => {
            pod["status"] = json!({"conditions": [condition]});
            return;
        }
    };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|present| present["type"] == condition["type"]) {
        Some(present) => {
            if present["status"] == condition["status"] {
                condition["lastTransitionTime"] = present["lastTransitionTime"].take();
            }
            *present = condition;
        }
        None => list.push(condition),
    }
}

/// Pods that have ended, or never began, are no loss to their budget.
fn counts_as_running(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or("");
    !matches!(phase, "Succeeded" | "Failed" | "Pending") && pod["metadata"].get("deletionTimestamp").is_none()
}

/// Whether a pod that is not ready may go without counting: where its budget always allows that, and else where enough others are ready
/// (upstream: `UnhealthyPodEvictionPolicy`).
fn spares(budget: &PodDisruptionBudget, pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    if ready {
        return false;
    }
    let policy = budget.spec.as_ref().and_then(|s| s.unhealthy_pod_eviction_policy.as_deref());
    let enough = budget.status.as_ref().is_some_and(|s| s.current_healthy >= s.desired_healthy && s.desired_healthy > Some(0));
    policy == Some("AlwaysAllow") || enough
}

/// The budget with one disruption less, and the pod noted as disrupted; else 429.
fn spent(budget: &Value, pod: &str) -> Result<Value> {
    let name = metadata::text(budget, "name");
    let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
    let refuse = |message: &str, cause: Option<String>, retry: Option<i32>| {
        let mut error = StatusError::new(429, "TooManyRequests", message);
        let cause = cause.map(|text| vec![StatusCause { reason: Some("DisruptionBudget".into()), message: Some(text), field: None }]);
        error.0.details = Some(StatusDetails { causes: cause, retry_after_seconds: retry, ..Default::default() });
        Err(error)
    };
    const MESSAGE: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
    if observed < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return refuse(MESSAGE, Some(cause), Some(10));
    }
    let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        let (desired, healthy) = (&budget["status"]["desiredHealthy"], &budget["status"]["currentHealthy"]);
        let number = |v: &Value| v.as_i64().unwrap_or(0);
        let cause = format!("The disruption budget {name} needs {} healthy pods and has {} currently", number(desired), number(healthy));
        return refuse(MESSAGE, Some(cause), None);
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = serde_json::to_value(super::create::now()).unwrap_or_default();
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_nodes() {
        assert!(check_target(&json!({"kind": "Node", "name": "n"})).is_ok());
        assert!(check_target(&json!({"name": "n"})).is_ok());
        assert_eq!(
            check_target(&json!({"kind": "Pod", "name": "n"})).unwrap_err().to_string(),
            "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\""
        );
    }

    #[test]
    fn a_mark_takes_the_place_of_the_one_before_and_keeps_its_time() {
        let now = super::super::create::now();
        let time = serde_json::to_value(&now).unwrap();
        for (before, since) in [(json!(null), &time), (json!("False"), &time), (json!("True"), &json!("2026-01-01T00:00:00Z"))] {
            let mark = json!({"type": "DisruptionTarget", "status": before, "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let conditions = if before.is_null() { json!([{"type": "Ready"}]) } else { json!([mark, {"type": "Ready"}]) };
            let new = evicted(&json!({"metadata": {"generation": 2}, "status": {"conditions": conditions}}), now.clone());
            let all = new["status"]["conditions"].as_array().unwrap();
            let marks: Vec<&Value> = all.iter().filter(|c| c["type"] == "DisruptionTarget").collect();
            assert_eq!((all.len(), marks.len()), (2, 1), "{before}");
            assert_eq!((&marks[0]["status"], &marks[0]["lastTransitionTime"]), (&json!("True"), since), "{before}");
        }
        assert_eq!(evicted(&json!({"metadata": {}}), now)["status"]["conditions"][0]["reason"], "EvictionByEvictionAPI");
    }

    #[test]
    fn pods_that_are_not_ready_are_spared_where_their_budget_allows() {
        let budget = |policy: Value, healthy: i32| -> PodDisruptionBudget {
            serde_json::from_value(json!({"metadata": {}, "spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"currentHealthy": healthy, "desiredHealthy": 2, "disruptionsAllowed": 0, "expectedPods": 3}}))
            .unwrap()
        };
        let pod = |ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        for (policy, healthy, ready, want) in [
            (json!("AlwaysAllow"), 0, "False", true),
            (json!("AlwaysAllow"), 0, "True", false),
            (Value::Null, 2, "False", true),
            (Value::Null, 1, "False", false),
            (json!("IfHealthyBudget"), 2, "True", false),
        ] {
            assert_eq!(spares(&budget(policy.clone(), healthy), &pod(ready)), want, "{policy} {healthy} {ready}");
        }
    }

    #[test]
    fn a_budget_is_spent_one_pod_at_a_time() {
        let budget = json!({"metadata": {"name": "b", "generation": 1}, "status": {"observedGeneration": 1, "disruptionsAllowed": 1}});
        let after = spent(&budget, "p").unwrap();
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert!(after["status"]["disruptedPods"]["p"].is_string());
        assert_eq!(spent(&after, "q").unwrap_err().code(), 429);
    }
}
