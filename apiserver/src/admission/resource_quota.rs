//! ResourceQuota: what a namespace may hold in all, counted before it is stored (upstream: `apiserver/pkg/admission/plugin/resourcequota`,
//! `pkg/quota/v1/evaluator/core`).
//!
//! The count is kept in the quota's status, written with compare-and-swap, so that two servers together stay within it. Deletions and writes that fail
//! after this are settled by the quota controller, as upstream.

use super::{Admission, Operation, Request, ready};
use crate::objects::{Collection, Objects, decoded_list};
use api::{
    Object,
    quantity::Quantity,
    quota::{self, Counted, Usage},
    status::Result,
};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{Pod, ResourceQuota},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

const QUOTAS: Collection = Collection::core("resourcequotas");
/// How often a quota that changed meanwhile is tried again (upstream's).
const ATTEMPTS: usize = 3;
/// Writes of one namespace take turns, so that they do not race for its quotas; two namespaces rarely share a lock.
const LOCKS: usize = 64;

/// The plugin.
pub struct ResourceQuotas {
    objects: Arc<dyn Objects>,
    locks: Vec<tokio::sync::Mutex<()>>,
}

impl ResourceQuotas {
    /// Counts against the quotas among these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        ResourceQuotas { objects, locks: std::iter::repeat_with(Default::default).take(LOCKS).collect() }
    }

    fn lock(&self, namespace: &str) -> &tokio::sync::Mutex<()> {
        let mut hash = DefaultHasher::new();
        namespace.hash(&mut hash);
        &self.locks[usize::try_from(hash.finish() % LOCKS as u64).unwrap_or(0)]
    }

    async fn charge(&self, request: &Request<'_>, object: &dyn Object) -> Result<()> {
        let usage = delta(request, object);
        if usage.is_empty() || self.objects.list(QUOTAS, request.namespace).is_empty() {
            return Ok(());
        }
        let _turn = self.lock(request.namespace).lock().await;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.charge_once(request, object, &usage).await {
                Err(error) if error.reason() == "Conflict" && attempt < ATTEMPTS => {}
                answer => return answer,
            }
        }
    }

    async fn charge_once(&self, request: &Request<'_>, object: &dyn Object, usage: &Usage) -> Result<()> {
        let quotas: Vec<ResourceQuota> = decoded_list(&*self.objects, QUOTAS, request.namespace);
        let mut charged = Vec::new();
        for quota in quotas.into_iter().filter(|q| quota::in_scope(q, counted(object))) {
            match judge(&quota, object, usage) {
                Ok(None) => {}
                Ok(Some(used)) => charged.push((quota, used)),
                Err(why) => return Err(request.forbidden(&why)),
            }
        }
        if request.dry_run {
            return Ok(());
        }
        for (mut quota, used) in charged {
            quota.status.get_or_insert_default().used = Some(used);
            let value = serde_json::to_value(&quota).map_err(api::StatusError::internal)?;
            self.objects.update(QUOTAS, request.namespace, "status", value).await?;
        }
        Ok(())
    }
}

/// The object as quotas see it.
fn counted(object: &dyn Object) -> Counted<'_> {
    let pod = object.downcast_ref().map(Counted::Pod);
    pod.or_else(|| object.downcast_ref().map(Counted::Claim)).unwrap_or(Counted::Other)
}

/// What an object counts for.
fn usage_of(request: &Request<'_>, object: &dyn Object) -> Usage {
    if let Some(pod) = object.downcast_ref() {
        return quota::pod_usage(pod);
    }
    if let Some(claim) = object.downcast_ref() {
        return quota::claim_usage(claim);
    }
    if let Some(service) = object.downcast_ref() {
        return quota::service_usage(service);
    }
    quota::object_usage(&request.resource.group, &request.resource.plural)
}

/// What the write adds: all of a new object, the growth of one that changes. Only pods, claims and services count for more than one.
fn delta(request: &Request<'_>, object: &dyn Object) -> Usage {
    let new = usage_of(request, object);
    if request.operation == Operation::Create {
        return new;
    }
    let Some(old) = request.old else { return Usage::new() };
    let old = usage_of(request, old);
    let grown = new.into_iter().filter_map(|(name, quantity)| {
        let more = old.get(&name).map_or(quantity, |before| quantity - *before);
        (more.sign() > 0).then_some((name, more))
    });
    grown.collect()
}

/// Resources that every container has to declare where a quota bounds them.
const DECLARED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// The containers that leave out what the quota counts: `must specify limits.cpu for: a,b; requests.memory for: a`.
fn undeclared(hard: &BTreeMap<String, ApiQuantity>, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let mut missing = Vec::new();
    for name in hard.keys().filter(|n| DECLARED.contains(&n.as_str())) {
        let (limit, bare) = match name.split_once('.') {
            Some((kind, bare)) => (kind == "limits", bare),
            None => (false, name.as_str()),
        };
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let without = containers.filter(|c| {
            let resources = c.resources.as_ref();
            let declared = resources.and_then(|r| if limit { r.limits.as_ref() } else { r.requests.as_ref() });
            !declared.is_some_and(|d| d.contains_key(bare))
        });
        let mut names: Vec<&str> = without.map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        if !names.is_empty() {
            missing.push(format!("{name} for: {}", names.join(",")));
        }
    }
    (!missing.is_empty()).then(|| format!("must specify {}", missing.join("; ")))
}

fn shown<'a>(amounts: impl Iterator<Item = (&'a String, String)>) -> String {
    amounts.map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

/// The quota's new usage; `None` if it does not count what is added; why the write is refused, if it is.
fn judge(quota: &ResourceQuota, object: &dyn Object, usage: &Usage) -> Result<Option<BTreeMap<String, ApiQuantity>>, String> {
    let name = quota.metadata.name.clone().unwrap_or_default();
    let wanted = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let counted: Usage = usage.iter().filter(|(n, q)| wanted.contains_key(*n) && !q.is_zero()).map(|(n, q)| (n.clone(), *q)).collect();
    if let Some(pod) = object.downcast_ref::<Pod>()
        && let Some(missing) = undeclared(&wanted, pod)
    {
        return Err(format!("failed quota: {name}: {missing}"));
    }
    if counted.is_empty() {
        return Ok(None);
    }
    let status = quota.status.clone().unwrap_or_default();
    let (hard, mut used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
    let unknown: Vec<&str> = counted.keys().filter(|n| !used.contains_key(*n)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let mut exceeded = Vec::new();
    for (resource, more) in &counted {
        let before = Quantity::of(&used[resource]).map_err(|e| format!("quota {name}: {e}"))?;
        let after = before + *more;
        if hard.get(resource).and_then(|h| Quantity::of(h).ok()).is_some_and(|most| after > most) {
            exceeded.push((resource, *more, before));
        }
        used.insert(resource.clone(), after.into());
    }
    if exceeded.is_empty() {
        return Ok(Some(used));
    }
    let requested = shown(exceeded.iter().map(|(n, more, _)| (*n, more.to_string())));
    let so_far = shown(exceeded.iter().map(|(n, _, before)| (*n, before.to_string())));
    let limited = shown(exceeded.iter().map(|(n, ..)| (*n, hard[*n].0.clone())));
    Err(format!("exceeded quota: {name}, requested: {requested}, used: {so_far}, limited: {limited}"))
}

impl Admission for ResourceQuotas {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let subresource = request.subresource.is_empty() || request.is("", "pods", "resize");
        match object {
            Some(object) if request.writes() && subresource && !request.namespace.is_empty() && request.resource.namespaced() => {
                Box::pin(self.charge(request, object))
            }
            _ => ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::pods::status_of, authentication::UserInfo, objects::Fixed};
    use serde_json::{Value, json};

    async fn create(quotas: &ResourceQuotas, plural: &str, mut object: Value) -> String {
        let resource = api::resources::find("", "v1", plural).unwrap();
        let user = UserInfo::anonymous();
        object["metadata"] = json!({"name": "x", "namespace": "ns"});
        let object = (resource.decode)(&object).unwrap();
        let operation = Operation::Create;
        let request = Request {
            resource,
            subresource: "",
            operation,
            namespace: "ns",
            name: "x",
            old: None,
            user: &user,
            dry_run: false,
            context: &crate::admission::Context::default(),
        };
        status_of(quotas.validate(&request, Some(&*object)).await)
    }

    fn with_quota(hard: Value, scopes: Value) -> (Fixed, ResourceQuotas) {
        let objects = Fixed::default();
        let used: BTreeMap<String, String> = hard.as_object().unwrap().keys().map(|k| (k.clone(), "0".to_owned())).collect();
        let quota = json!({"metadata": {"namespace": "ns", "name": "q"}, "spec": {"hard": hard, "scopes": scopes}, "status": {"hard": hard, "used": used}});
        objects.put(QUOTAS, quota);
        (objects.clone(), ResourceQuotas::new(Arc::new(objects)))
    }

    #[tokio::test]
    async fn counts_are_kept_and_bounded() {
        let (objects, quotas) = with_quota(json!({"configmaps": "2"}), json!(null));
        assert_eq!(create(&quotas, "configmaps", json!({})).await, "ok");
        assert_eq!(create(&quotas, "configmaps", json!({})).await, "ok");
        let refused =
            "configmaps \"x\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2";
        assert_eq!(create(&quotas, "configmaps", json!({})).await, refused);
        let quota: Value = serde_json::from_slice(&objects.get(QUOTAS, "ns", "q").unwrap()).unwrap();
        assert_eq!(quota["status"]["used"], json!({"configmaps": "2"}));
        assert_eq!(create(&quotas, "secrets", json!({})).await, "ok");
    }

    #[tokio::test]
    async fn sums_are_bounded_and_must_be_declared() {
        let (_, quotas) = with_quota(json!({"requests.cpu": "1", "limits.memory": "1Gi"}), json!(null));
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let missing = "pods \"x\" is forbidden: failed quota: q: must specify limits.memory for: c; requests.cpu for: c";
        assert_eq!(create(&quotas, "pods", pod(json!({}))).await, missing);
        let half = pod(json!({"requests": {"cpu": "600m"}, "limits": {"memory": "256Mi"}}));
        assert_eq!(create(&quotas, "pods", half.clone()).await, "ok");
        let refused =
            "pods \"x\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1";
        assert_eq!(create(&quotas, "pods", half).await, refused);
    }

    #[tokio::test]
    async fn scopes_choose_pods() {
        let (_, quotas) = with_quota(json!({"pods": "0"}), json!(["BestEffort"]));
        let refused = create(&quotas, "pods", json!({"spec": {"containers": [{"name": "c"}]}})).await;
        assert!(refused.contains("exceeded quota: q"), "{refused}");
        let burstable = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(create(&quotas, "pods", burstable).await, "ok");
    }
}
