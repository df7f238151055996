//! Claims of devices: makes those that pods describe by templates, keeps them reserved for pods that run, and takes back what nobody uses any more
//! (upstream: `pkg/controller/resourceclaim`).
//!
//! A key is the name of a pod or of a claim, or of both: whatever there is under it is looked at.

use crate::children::text;
use crate::controller::{Context, Controller, Keys, controller_of};
use crate::ops::{DeleteOptions, Op, PatchKind, Request};
use crate::pods;
use api::device_claims::{self, FINALIZER, POD_CLAIM_NAME};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The index of claims by the UID of the pod that they were made for.
const BY_OWNER: &str = "owning pod";
/// The index of pods by the claims that they use.
const BY_CLAIM: &str = "resource claim";
/// The index of pods by the templates that they use.
const BY_TEMPLATE: &str = "resource claim template";
/// How long a name's base may be, so that a dash and five random characters fit behind it.
const MAX_BASE: usize = 57;

/// See the module's description.
pub struct ResourceClaimController {
    context: Context,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<ResourceClaim>>,
    templates: Arc<Cache<ResourceClaimTemplate>>,
}

fn pod_claims(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten())
}

/// The names of the claims that a pod uses, as far as there are any yet.
fn used(pod: &Pod) -> Vec<&str> {
    let named = pod_claims(pod).filter_map(|claim| device_claims::used(pod, claim).ok().flatten()).map(|used| used.name);
    named.chain(device_claims::extended(pod)).collect()
}

fn keys_in(pod: &Pod, names: impl Iterator<Item = impl AsRef<str>>) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    names.map(|name| ObjectKey::new(namespace, name.as_ref()).to_string()).collect()
}

/// Whether none of a pod's containers runs or ever will.
fn is_done(pod: &Pod) -> bool {
    pods::is_finished(pod) || (pods::is_terminating(pod) && pods::node_name(pod).is_none())
}

/// The pod that a claim was made for: its name and UID.
fn owning_pod(claim: &ResourceClaim) -> Option<&OwnerReference> {
    controller_of(claim).filter(|owner| owner.api_version == "v1" && owner.kind == "Pod")
}

/// What the names of claims made for a pod begin with. Of long names both parts are cut, in proportion.
fn name_base(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= MAX_BASE {
        return whole;
    }
    let part = |text: &str| text[..text.len() * MAX_BASE / whole.len()].to_owned();
    format!("{}-{}", part(pod), part(claim))
}

/// The claim that a template describes for a pod.
fn from_template(pod: &Pod, claim: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let described = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = described.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.to_owned(), claim.to_owned());
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod_name.clone(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let metadata = ObjectMeta {
        namespace: pod.metadata.namespace.clone(),
        generate_name: Some(name_base(&pod_name, claim)),
        labels: described.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    ResourceClaim { metadata, spec: template.spec.spec.clone(), status: None }
}

/// What is to be done about a claim, given which of its consumers are still there and whether the pod that it was made for will never run.
#[derive(Clone, Debug, Default, PartialEq)]
struct ClaimPlan {
    /// Its status is to become this.
    status: Option<ResourceClaimStatus>,
    /// Its finalizer is to go.
    release: bool,
    /// It is to be deleted.
    delete: bool,
}

fn plan_claim(claim: &ResourceClaim, valid: &[ResourceClaimConsumerReference], owner_is_done: bool) -> ClaimPlan {
    let mut plan = ClaimPlan::default();
    let status = claim.status.clone().unwrap_or_default();
    let protected = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let fewer = valid.len() < status.reserved_for.as_ref().map_or(0, Vec::len);
    let deallocates = valid.is_empty() && protected && (fewer || claim.metadata.deletion_timestamp.is_some());
    if fewer || (deallocates && status.allocation.is_some()) {
        let mut next = status.clone();
        next.reserved_for = (!valid.is_empty()).then(|| valid.to_vec());
        if deallocates {
            next.allocation = None;
            // What drivers said of devices that it no longer has.
            next.devices = None;
        }
        plan.status = Some(next);
    }
    plan.release = deallocates;
    plan.delete = valid.is_empty() && owner_is_done && claim.metadata.deletion_timestamp.is_none();
    plan
}

impl ResourceClaimController {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let (pods, claims): (Arc<Cache<Pod>>, Arc<Cache<ResourceClaim>>) = (context.caches.of(), context.caches.of());
        pods.add_index(BY_CLAIM, |pod| keys_in(pod, used(pod).into_iter()));
        pods.add_index(BY_TEMPLATE, |pod| keys_in(pod, pod_claims(pod).filter_map(|claim| claim.resource_claim_template_name.as_ref())));
        claims.add_index(BY_OWNER, |claim| owning_pod(claim).map(|owner| owner.uid.clone()).into_iter().collect());
        Self { pods, claims, templates: context.caches.of(), context }
    }

    async fn sync_pod(&self, pod: &Pod) -> anyhow::Result<()> {
        let mut made = Vec::new();
        for claim in pod_claims(pod) {
            match self.claim_for(pod, claim).await {
                Ok(Some(name)) => made.push(json!({"name": claim.name, "resourceClaimName": name})),
                Ok(None) => {}
                Err(error) => {
                    let event = Op::warning(pod, "FailedResourceClaimCreation", format!("PodResourceClaim {}: {error}", claim.name));
                    self.context.executor.apply(vec![event]).await?;
                    anyhow::bail!("PodResourceClaim {}: {error}", claim.name);
                }
            }
        }
        if !made.is_empty() {
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"resourceClaimStatuses": made}});
            let request = Request::patch::<Pod>(&ObjectKey::of(pod), "status", PatchKind::Strategic, patch).tolerating(&[404]);
            self.context.executor.send(request).await?;
        }
        if pods::node_name(pod).is_none() || pods::is_finished(pod) {
            // Before that, reserving is the scheduler's.
            return Ok(());
        }
        self.reserve(pod).await
    }

    /// The name of the claim that a pod lacks for one of its `spec.resourceClaims`: there already under no name that the pod knows, or made now.
    async fn claim_for(&self, pod: &Pod, claim: &PodResourceClaim) -> Result<Option<String>, String> {
        let Some(template) = &claim.resource_claim_template_name else { return Ok(None) };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match device_claims::used(pod, claim) {
            Ok(None) => return Ok(None),
            Ok(Some(used)) => {
                let there = self.claims.get(&ObjectKey::new(namespace, used.name));
                if there.is_some_and(|there| device_claims::is_for_pod(pod, &there).is_ok()) {
                    return Ok(None);
                }
            }
            Err(_) => {}
        }
        let annotated =
            |there: &ResourceClaim| there.metadata.annotations.as_ref().and_then(|a| a.get(POD_CLAIM_NAME)) == Some(&claim.name);
        let owned = self.claims.by_index(BY_OWNER, pod.metadata.uid.as_deref().unwrap_or_default());
        if let Some(there) = owned.iter().find(|there| annotated(there)) {
            return Ok(there.metadata.name.clone());
        }
        let found = self
            .templates
            .get(&ObjectKey::new(namespace, template))
            .ok_or_else(|| format!("resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"))?;
        let made = self.context.executor.send(Request::create(&from_template(pod, &claim.name, &found))).await;
        let made = made.map_err(|error| format!("create ResourceClaim : {}", text(&error)))?;
        let made: ResourceClaim = serde_json::from_value(made).map_err(|error| error.to_string())?;
        let name = made.metadata.name.clone();
        if self.claims.get(&ObjectKey::of(&made)).is_none() {
            // The next look must not make another.
            self.claims.apply(made);
        }
        Ok(name)
    }

    /// Reserves for a pod with a node what is allocated: nobody did, if the pod came to its node by no scheduler.
    async fn reserve(&self, pod: &Pod) -> anyhow::Result<()> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for claim in pod_claims(pod) {
            let Some(used) = device_claims::used(pod, claim).map_err(anyhow::Error::msg)? else { continue };
            let Some(found) = self.claims.get(&ObjectKey::new(namespace, used.name)) else { return Ok(()) };
            if used.own {
                device_claims::is_for_pod(pod, &found).map_err(anyhow::Error::msg)?;
            }
            if device_claims::is_allocated(&found) && !device_claims::is_reserved_for(pod, &found) && device_claims::can_be_reserved(&found)
            {
                let mut reserved = found.as_ref().clone();
                let status = reserved.status.get_or_insert_default();
                status.reserved_for.get_or_insert_default().push(device_claims::consumer(pod));
                self.context.executor.send(Request::replace_status(&reserved)).await?;
            }
        }
        Ok(())
    }

    async fn sync_claim(&self, claim: &ResourceClaim) -> anyhow::Result<()> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let mut valid = Vec::new();
        for consumer in claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()) {
            if consumer.api_group.as_deref().is_some_and(|group| !group.is_empty()) || consumer.resource != "pods" {
                anyhow::bail!("unsupported ReservedFor entry: {consumer:?}");
            }
            if self.still_uses(namespace, consumer).await? {
                valid.push(consumer.clone());
            }
        }
        let owner_is_done = owning_pod(claim).is_some_and(|owner| {
            // A pod that is not known may yet become known; the garbage collector knows whether it is gone.
            let pod = self.pods.get(&ObjectKey::new(namespace, &owner.name));
            pod.is_some_and(|pod| pod.metadata.uid.as_ref() != Some(&owner.uid) || is_done(&pod))
        });
        let plan = plan_claim(claim, &valid, owner_is_done);
        let mut current = claim.clone();
        if plan.status.is_some() {
            current.status = plan.status;
            // Replaced rather than patched: it has to fail if anything has changed meanwhile.
            let answer = self.context.executor.send(Request::replace_status(&current)).await?;
            current = serde_json::from_value(answer)?;
        }
        if plan.release {
            current.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
            self.context.executor.send(Request::replace(&current).tolerating(&[404])).await?;
        }
        if plan.delete {
            let options = DeleteOptions { uid: claim.metadata.uid.clone(), ..DeleteOptions::default() };
            self.context.executor.send(Request::delete::<ResourceClaim>(&ObjectKey::of(claim), &options)).await?;
        }
        Ok(())
    }

    /// Whether a pod that a claim is reserved for is still there and not done. The cache may not know it yet, so the apiserver has the last word.
    async fn still_uses(&self, namespace: &str, consumer: &ResourceClaimConsumerReference) -> anyhow::Result<bool> {
        if let Some(pod) = self.pods.get(&ObjectKey::new(namespace, &consumer.name)) {
            return Ok(pod.metadata.uid.as_ref() == Some(&consumer.uid) && !is_done(&pod));
        }
        let api: kube::Api<Pod> = kube::Api::namespaced(self.context.executor.client().clone(), namespace);
        Ok(api.get_opt(&consumer.name).await?.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(&consumer.uid)))
    }
}

fn add_all(keys: &Keys, pods: Vec<Arc<Pod>>) {
    pods.iter().for_each(|pod| keys.add(ObjectKey::of(pod.as_ref())));
}

impl Controller for ResourceClaimController {
    fn workers(&self) -> usize {
        50
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        let (queue, claims) = (keys.clone(), self.claims.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            if matches!(change, Change::Deleted(_)) || is_done(pod) {
                used(pod).into_iter().for_each(|name| queue.add(ObjectKey::new(namespace, name)));
                let owned = claims.by_index(BY_OWNER, pod.metadata.uid.as_deref().unwrap_or_default());
                owned.iter().for_each(|claim| queue.add(ObjectKey::of(claim.as_ref())));
            } else if pod_claims(pod).next().is_some() {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        });
        let (queue, pods) = (keys.clone(), self.pods.clone());
        self.claims.subscribe(move |change| {
            let key = ObjectKey::of(change.object().as_ref());
            add_all(&queue, pods.by_index(BY_CLAIM, &key.to_string()));
            queue.add(key);
        });
        let (queue, pods) = (keys.clone(), self.pods.clone());
        self.templates.subscribe(move |change| {
            if let Change::Added(template) = change {
                add_all(&queue, pods.by_index(BY_TEMPLATE, &ObjectKey::of(template.as_ref()).to_string()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            if let Some(pod) = self.pods.get(key).filter(|pod| !pods::is_terminating(pod) && pod_claims(pod).next().is_some()) {
                self.sync_pod(&pod).await?;
            }
            if let Some(claim) = self.claims.get(key) {
                self.sync_claim(&claim).await?;
            }
            Ok(None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_in_proportion() {
        for (pod, claim, expected) in [
            ("pod", "claim", "pod-claim-".to_owned()),
            (&"p".repeat(55), "c", format!("{}-", "p".repeat(54))),
            (&"p".repeat(40), &"c".repeat(40), format!("{}-{}", "p".repeat(27), "c".repeat(27))),
        ] {
            let base = name_base(pod, claim);
            assert_eq!(base, expected);
            assert!(base.len() <= MAX_BASE);
        }
    }

    #[test]
    fn a_claim_from_a_template_is_the_pods_own() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}})).unwrap();
        let template = json!({"metadata": {"namespace": "ns", "name": "t"}, "spec": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "k"}}]}}}});
        let claim = from_template(&pod, "dev", &serde_json::from_value(template).unwrap());
        let expected = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "ns", "generateName": "p-dev-", "labels": {"a": "b"},
                "annotations": {"c": "d", "resource.kubernetes.io/pod-claim-name": "dev"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true, "blockOwnerDeletion": true}]},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "k"}}]}},
        });
        assert_eq!(serde_json::to_value(claim).unwrap(), expected);
    }

    #[test]
    fn what_becomes_of_a_claim() {
        let consumer = |uid: &str| json!({"resource": "pods", "name": uid, "uid": uid});
        let claim = |consumers: &[&str], finalizers: &[&str], leaving: bool| -> ResourceClaim {
            let reserved: Vec<_> = consumers.iter().map(|uid| consumer(uid)).collect();
            let at = leaving.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({
                "metadata": {"namespace": "ns", "name": "c", "finalizers": finalizers, "deletionTimestamp": at},
                "spec": {}, "status": {"reservedFor": reserved, "allocation": {"devices": {"results": []}}},
            }))
            .unwrap()
        };
        let valid = |uids: &[&str]| uids.iter().map(|uid| serde_json::from_value(consumer(uid)).unwrap()).collect::<Vec<_>>();
        let nothing = ClaimPlan::default;
        let fewer = serde_json::from_value(json!({"allocation": {"devices": {"results": []}}, "reservedFor": [consumer("b")]})).unwrap();
        let emptied = || Some(ResourceClaimStatus::default());
        for (what, claim, left, done, expected) in [
            ("used", claim(&["a"], &[FINALIZER], false), valid(&["a"]), false, nothing()),
            ("fewer", claim(&["a", "b"], &[FINALIZER], false), valid(&["b"]), false, ClaimPlan { status: Some(fewer), ..nothing() }),
            ("last", claim(&["a"], &[FINALIZER], false), valid(&[]), false, ClaimPlan { status: emptied(), release: true, delete: false }),
            ("own", claim(&["a"], &[FINALIZER], false), valid(&[]), true, ClaimPlan { status: emptied(), release: true, delete: true }),
            ("never reserved", claim(&[], &[FINALIZER], false), valid(&[]), false, nothing()),
            ("leaving", claim(&[], &[FINALIZER], true), valid(&[]), false, ClaimPlan { status: emptied(), release: true, delete: false }),
            ("leaving in use", claim(&["a"], &[FINALIZER], true), valid(&["a"]), false, nothing()),
            ("unprotected", claim(&[], &[], true), valid(&[]), false, nothing()),
        ] {
            assert_eq!(plan_claim(&claim, &left, done), expected, "{what}");
        }
    }
}
