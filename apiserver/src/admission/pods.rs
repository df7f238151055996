//! What pods get from the cluster's own settings: priority, tolerations, runtime class; and the taint of a new node
//! (upstream: `plugin/pkg/admission/{priority,defaulttolerationseconds,runtimeclass,nodetaint}`).

use super::{Admission, Operation, Request, new_pod, ready, spec_mut};
use crate::objects::{Collection, Objects, decoded, decoded_list};
use api::{Object, status::Result};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Taint, Toleration},
    node::v1::RuntimeClass,
    scheduling::v1::PriorityClass,
};
use std::sync::Arc;

/// Priority: the class's number, or the default class's, or 0.
pub struct Priority {
    /// Where classes are.
    pub objects: Arc<dyn Objects>,
}

const CLASSES: Collection = Collection::of("scheduling.k8s.io", "priorityclasses");

/// Classes that exist from the start, in case a pod comes before they do.
fn system_class(name: &str) -> Option<i32> {
    match name {
        "system-node-critical" => Some(2_000_001_000),
        "system-cluster-critical" => Some(2_000_000_000),
        _ => None,
    }
}

impl Priority {
    /// Of several default classes the lowest counts.
    fn default_class(&self) -> Option<PriorityClass> {
        let classes: Vec<PriorityClass> = decoded_list(&*self.objects, CLASSES, "");
        classes.into_iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value)
    }

    fn assign(&self, request: &Request<'_>, pod: &mut Pod) -> Result<()> {
        let spec = spec_mut(pod);
        let name = spec.priority_class_name.clone().unwrap_or_default();
        let (value, policy) = if name.is_empty() {
            match self.default_class() {
                Some(class) => {
                    spec.priority_class_name = class.metadata.name;
                    (class.value.unwrap_or_default(), class.preemption_policy)
                }
                None => (0, None),
            }
        } else {
            match decoded::<PriorityClass>(&*self.objects, CLASSES, "", &name) {
                Some(class) => (class.value.unwrap_or_default(), class.preemption_policy),
                None => match system_class(&name) {
                    Some(value) => (value, None),
                    None => return Err(request.forbidden(&format!("no PriorityClass with name {name} was found"))),
                },
            }
        };
        if spec.priority.is_some_and(|given| given != value) {
            let given = spec.priority.unwrap_or_default();
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(request.forbidden(&why));
        }
        spec.priority = Some(value);
        let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".into());
        if spec.preemption_policy.as_ref().is_some_and(|given| *given != policy) {
            let given = spec.preemption_policy.clone().unwrap_or_default();
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(request.forbidden(&why));
        }
        spec.preemption_policy = Some(policy);
        Ok(())
    }

    /// A second default class would make the priority of pods a matter of luck.
    fn check_class(&self, request: &Request<'_>, class: &PriorityClass) -> Result<()> {
        if class.global_default != Some(true) {
            return Ok(());
        }
        let other = self.default_class().and_then(|c| c.metadata.name).filter(|other| Some(other) != class.metadata.name.as_ref());
        match other {
            Some(other) => {
                Err(request.forbidden(&format!("PriorityClass {other} is already marked as default. Only one default can exist")))
            }
            None => Ok(()),
        }
    }
}

impl Admission for Priority {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let Some(object) = object else { return ready(Ok(())) };
        if let (Operation::Update, Some(old), Some(pod)) = (request.operation, request.old::<Pod>(), object.downcast_mut::<Pod>()) {
            // Clients that do not know the fields leave them out.
            let old = old.spec.as_ref();
            let spec = spec_mut(pod);
            spec.priority = spec.priority.or_else(|| old.and_then(|s| s.priority));
            spec.preemption_policy = spec.preemption_policy.take().or_else(|| old.and_then(|s| s.preemption_policy.clone()));
            return ready(Ok(()));
        }
        ready(new_pod(request, Some(object)).map_or(Ok(()), |pod| self.assign(request, pod)))
    }

    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let class = object.filter(|_| request.writes()).and_then(|o| o.downcast_ref::<PriorityClass>());
        ready(class.map_or(Ok(()), |class| self.check_class(request, class)))
    }
}

/// DefaultTolerationSeconds: pods stay for five minutes on a node that stopped answering, unless they say otherwise.
pub struct DefaultTolerations;

const TOLERATED_SECONDS: i64 = 300;

fn add_tolerations(tolerations: &mut Vec<Toleration>) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Toleration| {
            let wanted =
                |field: &Option<String>, value: &str| field.as_deref().unwrap_or_default().is_empty() || field.as_deref() == Some(value);
            wanted(&t.key, key) && wanted(&t.effect, "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(TOLERATED_SECONDS),
                value: None,
            });
        }
    }
}

impl Admission for DefaultTolerations {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let applies = request.writes() && request.is("", "pods", "");
        if let Some(pod) = object.filter(|_| applies).and_then(|o| o.downcast_mut::<Pod>()) {
            add_tolerations(spec_mut(pod).tolerations.get_or_insert_default());
        }
        ready(Ok(()))
    }
}

/// RuntimeClass: what the class costs and where it runs becomes the pod's.
pub struct RuntimeClasses {
    /// Where classes are.
    pub objects: Arc<dyn Objects>,
}

impl RuntimeClasses {
    fn class(&self, request: &Request<'_>, pod: &Pod) -> Result<Option<RuntimeClass>> {
        let Some(name) = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|n| !n.is_empty()) else { return Ok(None) };
        let found = decoded(&*self.objects, Collection::of("node.k8s.io", "runtimeclasses"), "", name);
        found.map(Some).ok_or_else(|| request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))
    }

    fn complete(&self, request: &Request<'_>, pod: &mut Pod) -> Result<()> {
        let Some(class) = self.class(request, pod)? else { return Ok(()) };
        let spec = spec_mut(pod);
        if let Some(overhead) = class.overhead.and_then(|o| o.pod_fixed) {
            if spec.overhead.as_ref().is_some_and(|given| *given != overhead) {
                return Err(request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
            }
            spec.overhead = Some(overhead);
        }
        let Some(scheduling) = class.scheduling else { return Ok(()) };
        for (key, value) in scheduling.node_selector.unwrap_or_default() {
            let selector = spec.node_selector.get_or_insert_default();
            if selector.get(&key).is_some_and(|given| *given != value) {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {}",
                    selector[&key]
                );
                return Err(request.forbidden(&why));
            }
            selector.insert(key, value);
        }
        for toleration in scheduling.tolerations.unwrap_or_default() {
            let tolerations = spec.tolerations.get_or_insert_default();
            if !tolerations.contains(&toleration) {
                tolerations.push(toleration);
            }
        }
        Ok(())
    }
}

impl Admission for RuntimeClasses {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        ready(new_pod(request, object).map_or(Ok(()), |pod| self.complete(request, pod)))
    }

    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let creates = request.operation == Operation::Create && request.is("", "pods", "");
        let Some(pod) = object.filter(|_| creates).and_then(|o| o.downcast_ref::<Pod>()) else { return ready(Ok(())) };
        let check = || -> Result<()> {
            let class = self.class(request, pod)?;
            let overhead = class.and_then(|c| c.overhead).and_then(|o| o.pod_fixed).unwrap_or_default();
            let given = pod.spec.as_ref().and_then(|s| s.overhead.clone()).unwrap_or_default();
            if !given.is_empty() && overhead.is_empty() {
                return Err(request.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
            }
            Ok(())
        };
        ready(check())
    }
}

/// TaintNodesByCondition: a node that just registered takes no pods until somebody has seen it ready.
pub struct TaintNodes;

impl Admission for TaintNodes {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let registers = request.operation == Operation::Create && request.is("", "nodes", "");
        if let Some(node) = object.filter(|_| registers).and_then(|o| o.downcast_mut::<Node>()) {
            let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
            let taint = Taint { key: "node.kubernetes.io/not-ready".into(), effect: "NoSchedule".into(), value: None, time_added: None };
            if !taints.iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
                taints.push(taint);
            }
        }
        ready(Ok(()))
    }
}

#[cfg(test)]
pub(super) fn status_of(answer: Result<()>) -> String {
    answer.map_or_else(|e| e.to_string(), |()| "ok".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authentication::UserInfo, objects::Fixed};
    use serde_json::{Value, json};

    fn pods() -> &'static api::Resource {
        api::resources::find("", "v1", "pods").unwrap()
    }

    async fn admit(plugin: &dyn Admission, spec: Value) -> Result<Value, String> {
        let user = UserInfo::anonymous();
        let request = Request {
            resource: pods(),
            subresource: "",
            operation: Operation::Create,
            namespace: "ns",
            name: "p",
            old: None,
            user: &user,
            dry_run: false,
            context: &crate::admission::Context::default(),
        };
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let answer = plugin.admit(&request, Some(&mut pod)).await;
        match status_of(answer).as_str() {
            "ok" => Ok(serde_json::to_value(pod.spec).unwrap()),
            error => Err(error.to_owned()),
        }
    }

    #[tokio::test]
    async fn priorities_come_from_classes() {
        let objects = Fixed::default();
        let priority = Priority { objects: Arc::new(objects.clone()) };
        assert_eq!(admit(&priority, json!({"containers": []})).await.unwrap()["priority"], 0);
        objects.put(CLASSES, json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}));
        let high = admit(&priority, json!({"containers": [], "priorityClassName": "high"})).await.unwrap();
        assert_eq!((&high["priority"], &high["preemptionPolicy"]), (&json!(1000), &json!("Never")));
        let critical = admit(&priority, json!({"containers": [], "priorityClassName": "system-node-critical"})).await.unwrap();
        assert_eq!(critical["priority"], 2_000_001_000);
        let missing = admit(&priority, json!({"containers": [], "priorityClassName": "x"})).await.unwrap_err();
        assert_eq!(missing, "pods \"p\" is forbidden: no PriorityClass with name x was found");
        let wrong = admit(&priority, json!({"containers": [], "priorityClassName": "high", "priority": 5})).await.unwrap_err();
        assert!(wrong.contains("the integer value of priority (5) must not be provided"), "{wrong}");
        objects.put(CLASSES, json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true}));
        let usual = admit(&priority, json!({"containers": []})).await.unwrap();
        assert_eq!((&usual["priority"], &usual["priorityClassName"]), (&json!(7), &json!("usual")));
    }

    #[test]
    fn tolerations_are_added_where_none_covers_them() {
        let count = |given: Value| {
            let mut tolerations: Vec<Toleration> = serde_json::from_value(given).unwrap();
            add_tolerations(&mut tolerations);
            tolerations.len()
        };
        assert_eq!(count(json!([])), 2);
        assert_eq!(count(json!([{"operator": "Exists"}])), 1);
        assert_eq!(count(json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}])), 2);
        assert_eq!(count(json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}])), 3);
    }
}
