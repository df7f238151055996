//! Claims stay until no pod uses them (upstream: `pkg/controller/volume/pvcprotection`): a finalizer keeps them, and goes with the last pod.
//!
//! A pod uses a claim from when it has a node: the kubelet refuses to start pods whose claims are being deleted.

use super::{BY_CLAIM, claims_of};
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, Request, Whole};
use crate::pods;
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Resource;
use kube::api::ListParams;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Keys are claims.
pub struct ClaimProtection {
    context: Context,
    claims: Arc<Cache<PersistentVolumeClaim>>,
    pods: Arc<Cache<Pod>>,
}

/// What has to be done about an object's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// It lacks the finalizer.
    Protect,
    /// It is being deleted; once nobody uses it, the finalizer goes.
    Release,
}

/// What has to be done about `finalizer` on an object.
pub fn step<K: Resource>(object: &K, finalizer: &str) -> Step {
    let meta = object.meta();
    let protected = meta.finalizers.iter().flatten().any(|present| present == finalizer);
    match (meta.deletion_timestamp.is_some(), protected) {
        (false, false) => Step::Protect,
        (true, true) => Step::Release,
        _ => Step::Nothing,
    }
}

/// The request that does it.
pub fn change<K: Whole + Clone>(object: &K, finalizer: &str, step: Step) -> Option<Op> {
    let mut changed = object.clone();
    let finalizers = changed.meta_mut().finalizers.get_or_insert_default();
    match step {
        Step::Nothing => return None,
        Step::Protect => finalizers.push(finalizer.to_owned()),
        Step::Release => finalizers.retain(|present| present != finalizer),
    }
    Some(Op::send(Request::replace(&changed).tolerating(&[404])))
}

fn uses(pod: &Pod, claim: &ObjectKey) -> bool {
    pods::node_name(pod).is_some() && claims_of(pod).contains(&claim.to_string())
}

impl ClaimProtection {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let pods: Arc<Cache<Pod>> = context.caches.of();
        pods.add_index(BY_CLAIM, claims_of);
        Self { claims: context.caches.of(), pods, context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(claim) = self.claims.get(key) else { return Ok(None) };
        let step = step(claim.as_ref(), FINALIZER);
        if step == Step::Release && self.is_used(key).await? {
            return Ok(None);
        }
        let ops = change(claim.as_ref(), FINALIZER, step).into_iter().collect();
        Ok(self.context.executor.apply(ops).await?)
    }

    /// The cache may not know of a pod yet, so the apiserver has the last word before data is given up.
    async fn is_used(&self, key: &ObjectKey) -> anyhow::Result<bool> {
        if self.pods.by_index(BY_CLAIM, &key.to_string()).iter().any(|pod| uses(pod, key)) {
            return Ok(true);
        }
        let api: kube::Api<Pod> = kube::Api::namespaced(self.context.executor.client().clone(), &key.namespace);
        Ok(api.list(&ListParams::default()).await?.items.iter().any(|pod| uses(pod, key)))
    }
}

impl Controller for ClaimProtection {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.claims, keys);
        let (keys, claims) = (keys.clone(), self.claims.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            let may_free = matches!(change, Change::Deleted(_)) || pods::is_finished(pod) || pods::node_name(pod).is_none();
            for name in claims_of(pod).into_iter().filter(|_| may_free) {
                let Some((namespace, name)) = name.split_once('/') else { continue };
                let key = ObjectKey::new(namespace, name);
                if claims.get(&key).is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                    keys.add(key);
                }
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::json;

    #[test]
    fn the_finalizer_comes_and_goes() {
        let claim = |leaving: bool, finalizers: &[&str]| -> PersistentVolumeClaim {
            let at = leaving.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "deletionTimestamp": at, "finalizers": finalizers}}))
                .unwrap()
        };
        for (claim, expected, left) in [
            (claim(false, &["a"]), Step::Protect, json!(["a", FINALIZER])),
            (claim(false, &[FINALIZER]), Step::Nothing, json!(null)),
            (claim(true, &["a", FINALIZER]), Step::Release, json!(["a"])),
            (claim(true, &["a"]), Step::Nothing, json!(null)),
        ] {
            let step = step(&claim, FINALIZER);
            assert_eq!(step, expected);
            let sent = change(&claim, FINALIZER, step).map(|op| match op {
                Op::Send(request) => request.body["metadata"]["finalizers"].clone(),
                other => panic!("a request, not {other:?}"),
            });
            assert_eq!(sent.unwrap_or_default(), left);
        }
    }

    #[test]
    fn pods_use_claims_from_when_they_have_a_node() {
        let pod = |node: &str, volumes: serde_json::Value| -> Pod {
            let spec = json!({"nodeName": node, "containers": [], "volumes": volumes});
            held(json!({"metadata": {"namespace": "ns", "name": "pod"}, "spec": spec}))
        };
        let by_name = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "pod-v"}}]);
        for (pod, expected) in [
            (pod("n", by_name.clone()), true),
            (pod("", by_name), false),
            (pod("n", json!([{"name": "v", "ephemeral": {}}])), true),
            (pod("n", json!([{"name": "v", "emptyDir": {}}])), false),
        ] {
            assert_eq!(uses(&pod, &ObjectKey::new("ns", "pod-v")), expected, "{:?}", pod.spec);
        }
    }
}
