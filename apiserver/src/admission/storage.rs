//! Default classes of claims and ingresses, protection of storage in use, and whether claims may grow
//! (upstream: `plugin/pkg/admission/{storage,network}`).

use super::{Admission, Operation, Request, ready};
use crate::objects::{Collection, Objects, decoded, decoded_list};
use api::{Object, quantity::Quantity, status::Result};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec},
        networking::v1::{Ingress, IngressClass},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{cmp::Reverse, sync::Arc};

const STORAGE_CLASSES: Collection = Collection::of("storage.k8s.io", "storageclasses");

/// The newest of the classes marked as default; of two made at once, the first by name.
fn default_of<T>(classes: Vec<T>, metadata: fn(&T) -> &ObjectMeta, marks: &[&str]) -> Option<String> {
    let marked = |m: &ObjectMeta| m.annotations.as_ref().is_some_and(|a| marks.iter().any(|k| a.get(*k).is_some_and(|v| v == "true")));
    let candidates = classes.iter().map(metadata).filter(|m| marked(m));
    let newest = candidates.min_by_key(|m| (Reverse(m.creation_timestamp.as_ref().map(|t| t.0)), m.name.clone()))?;
    newest.name.clone()
}

/// DefaultStorageClass.
pub struct DefaultStorageClass {
    /// Where classes are.
    pub objects: Arc<dyn Objects>,
}

impl Admission for DefaultStorageClass {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let creates = request.operation == Operation::Create && request.is("", "persistentvolumeclaims", "");
        let Some(claim) = object.filter(|_| creates).and_then(|o| o.downcast_mut::<PersistentVolumeClaim>()) else { return ready(Ok(())) };
        let old_style = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("volume.beta.kubernetes.io/storage-class"));
        let spec = claim.spec.get_or_insert_default();
        // An empty name is a choice: no class.
        if !old_style && spec.storage_class_name.is_none() {
            let classes: Vec<StorageClass> = decoded_list(&*self.objects, STORAGE_CLASSES, "");
            let marks = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
            spec.storage_class_name = default_of(classes, |c| &c.metadata, &marks);
        }
        ready(Ok(()))
    }
}

/// DefaultIngressClass.
pub struct DefaultIngressClass {
    /// Where classes are.
    pub objects: Arc<dyn Objects>,
}

impl Admission for DefaultIngressClass {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let creates = request.operation == Operation::Create && request.is("networking.k8s.io", "ingresses", "");
        let Some(ingress) = object.filter(|_| creates).and_then(|o| o.downcast_mut::<Ingress>()) else { return ready(Ok(())) };
        let old_style = ingress.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/ingress.class"));
        let spec = ingress.spec.get_or_insert_default();
        if !old_style && spec.ingress_class_name.is_none() {
            let classes: Vec<IngressClass> = decoded_list(&*self.objects, Collection::of("networking.k8s.io", "ingressclasses"), "");
            spec.ingress_class_name = default_of(classes, |c| &c.metadata, &["ingressclass.kubernetes.io/is-default-class"]);
        }
        ready(Ok(()))
    }
}

/// StorageObjectInUseProtection: claims and volumes are not deleted under those who use them.
pub struct InUseProtection;

const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

impl Admission for InUseProtection {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let row = PROTECTED.iter().find(|(group, plural, _)| request.is(group, plural, ""));
        if let (Operation::Create, Some((.., finalizer)), Some(object)) = (request.operation, row, object) {
            let finalizers = object.metadata_mut().finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == finalizer) {
                finalizers.push((*finalizer).to_owned());
            }
        }
        ready(Ok(()))
    }
}

/// PersistentVolumeClaimResize.
pub struct ClaimResize {
    /// Where classes are.
    pub objects: Arc<dyn Objects>,
}

fn storage(spec: Option<&PersistentVolumeClaimSpec>) -> Option<Quantity> {
    Quantity::of(spec?.resources.as_ref()?.requests.as_ref()?.get("storage")?).ok()
}

impl ClaimResize {
    fn check(&self, request: &Request<'_>, claim: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Result<()> {
        let (Some(new_size), Some(old_size)) = (storage(claim.spec.as_ref()), storage(old.spec.as_ref())) else { return Ok(()) };
        if new_size <= old_size {
            return Ok(()); // Shrinking is validation's to judge.
        }
        if old.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
        let class = decoded::<StorageClass>(&*self.objects, STORAGE_CLASSES, "", class);
        if class.and_then(|c| c.allow_volume_expansion) == Some(true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(request.forbidden(why))
    }
}

impl Admission for ClaimResize {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let applies = request.operation == Operation::Update && request.is("", "persistentvolumeclaims", "");
        let claims = (object.filter(|_| applies).and_then(|o| o.downcast_ref()), request.old());
        ready(match claims {
            (Some(claim), Some(old)) => self.check(request, claim, old),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_class_is_taken() {
        let class = |name: &str, made: &str, default: &str| {
            let metadata =
                json!({"name": name, "creationTimestamp": made, "annotations": {"storageclass.kubernetes.io/is-default-class": default}});
            serde_json::from_value::<StorageClass>(json!({"metadata": metadata, "provisioner": "x"})).unwrap()
        };
        let mark = ["storageclass.kubernetes.io/is-default-class"];
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let of = |classes| default_of(classes, |c: &StorageClass| &c.metadata, &mark);
        assert_eq!(of(vec![class("a", old, "true"), class("c", new, "true"), class("b", new, "true")]).as_deref(), Some("b"));
        assert_eq!(of(vec![class("a", old, "true"), class("b", new, "false")]).as_deref(), Some("a"));
        assert_eq!(of(vec![class("b", new, "false")]), None);
    }
}
