//! Generic ephemeral volumes: makes the claim that a pod's volume describes, owned by the pod, so that it goes with it
//! (upstream: `pkg/controller/volume/ephemeral`).

use crate::children::text;
use crate::controller::{Context, Controller, Keys, controller_key};
use crate::ops::{Op, Request};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::sync::Arc;
use std::time::Duration;

/// Keys are pods.
pub struct EphemeralVolumes {
    context: Context,
    pods: Arc<Cache<Pod>>,
    claims: Arc<Cache<PersistentVolumeClaim>>,
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|volume| volume.ephemeral.is_some())
}

/// The claim that a volume of the pod describes.
fn claim(pod: &Pod, volume: &Volume) -> PersistentVolumeClaim {
    let template = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.clone()).unwrap_or_default();
    let described = template.metadata.unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let metadata = ObjectMeta {
        namespace: pod.metadata.namespace.clone(),
        name: super::claim_of(pod, volume),
        labels: described.labels,
        annotations: described.annotations,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    PersistentVolumeClaim { metadata, spec: Some(template.spec), status: None }
}

/// Whether a claim under the name is the pod's own.
fn is_owned(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owner = crate::controller::controller_of(claim);
    owner.is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

impl EphemeralVolumes {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { pods: context.caches.of(), claims: context.caches.of(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(pod) = self.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return Ok(None) };
        for volume in ephemeral(&pod) {
            let wanted = claim(&pod, volume);
            let refused = match self.claims.get(&ObjectKey::of(&wanted)) {
                Some(present) if is_owned(&present, &pod) => continue,
                Some(_) => {
                    let name = wanted.metadata.name.as_deref().unwrap_or_default();
                    format!("PVC {}/{name} was not created for pod {key} (pod is not owner)", key.namespace)
                }
                None => match self.context.executor.send(Request::create(&wanted)).await {
                    Ok(_) => continue,
                    Err(error) => format!("create PVC {}: {}", wanted.metadata.name.as_deref().unwrap_or_default(), text(&error)),
                },
            };
            let event = Op::warning(pod.as_ref(), "FailedBinding", format!("ephemeral volume {}: {refused}", volume.name));
            self.context.executor.apply(vec![event]).await?;
            anyhow::bail!("{refused}");
        }
        Ok(None)
    }
}

impl Controller for EphemeralVolumes {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let queue = keys.clone();
        self.pods.subscribe(move |change| {
            // Volumes of a pod never change.
            if matches!(change, Change::Added(pod) if ephemeral(pod).next().is_some()) {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        let keys = keys.clone();
        self.claims.subscribe(move |change| {
            if let Change::Deleted(claim) = change {
                controller_key::<Pod, _>(claim.as_ref()).into_iter().for_each(|key| keys.add(key));
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
    fn the_claim_is_the_pods_own() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c"}});
        let volumes = json!([{"name": "plain", "emptyDir": {}}, {"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]);
        let meta = json!({"namespace": "ns", "name": "p", "uid": "u"});
        let pod = held(json!({"metadata": meta, "spec": {"containers": [], "volumes": volumes}}));
        let made: Vec<_> = ephemeral(&pod).map(|volume| serde_json::to_value(claim(&pod, volume)).unwrap()).collect();
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true, "blockOwnerDeletion": true});
        let metadata = json!({"namespace": "ns", "name": "p-v", "labels": {"a": "b"}, "ownerReferences": [owner]});
        let expected = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c"}});
        assert_eq!(made, [expected]);
        let mut other: PersistentVolumeClaim = serde_json::from_value(made[0].clone()).unwrap();
        assert!(is_owned(&other, &pod));
        other.metadata.owner_references = None;
        assert!(!is_owned(&other, &pod));
    }
}
