//! Who may administer devices that others have: claims and templates with `adminAccess` are for namespaces whose label says so. Upstream has this in the
//! storage of claims (`pkg/registry/resource`), so it cannot be switched off.

use super::{Admission, Operation, Request, ready};
use crate::objects::{Collection, Objects, decoded};
use api::Object;
use api::field::{ErrorList, Path};
use api::status::{Result, StatusError};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::Namespace,
    resource::v1::{ResourceClaim, ResourceClaimSpec, ResourceClaimTemplate, ResourceSlice},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use std::sync::Arc;

/// The label of a namespace that may.
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// See the module's description.
pub struct AdminAccess {
    /// Where namespaces are.
    pub objects: Arc<dyn Objects>,
}

/// Where a claim asks for administration.
fn asked(path: &Path, spec: &ResourceClaimSpec) -> Option<Path> {
    let requests = spec.devices.as_ref()?.requests.as_ref()?;
    let index = requests.iter().position(|request| request.exactly.as_ref().is_some_and(|exactly| exactly.admin_access == Some(true)))?;
    Some(path.child("devices").child("requests").index(index).child("exactly").child("adminAccess"))
}

/// Where a claim's status newly grants it.
fn granted(claim: &ResourceClaim, old: Option<&ResourceClaim>) -> Option<Path> {
    let allocation = |claim: &ResourceClaim| claim.status.as_ref().and_then(|status| status.allocation.clone());
    let new = allocation(claim).filter(|_| old.is_none_or(|old| allocation(old).is_none()))?;
    let index = new.devices?.results?.iter().position(|result| result.admin_access == Some(true))?;
    Some(Path::new("status").child("allocation").child("devices").child("results").index(index).child("adminAccess"))
}

impl AdminAccess {
    fn check(&self, request: &Request<'_>, object: &dyn Object) -> Result<()> {
        let (kind, wanted) = if let Some(claim) = object.downcast_ref::<ResourceClaim>() {
            let wanted = match request.operation {
                Operation::Create => asked(&Path::new("spec"), &claim.spec),
                _ => granted(claim, request.old()),
            };
            ("ResourceClaim", wanted)
        } else if let Some(template) = object.downcast_ref::<ResourceClaimTemplate>() {
            let created = request.operation == Operation::Create;
            ("ResourceClaimTemplate", asked(&Path::new("spec").child("spec"), &template.spec.spec).filter(|_| created))
        } else {
            return Ok(());
        };
        let Some(path) = wanted else { return Ok(()) };
        let metadata = object.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let namespace = decoded::<Namespace>(&*self.objects, Collection::of("", "namespaces"), "", namespace);
        if namespace.and_then(|n| n.metadata.labels?.remove(LABEL)).is_some_and(|value| value == "true") {
            return Ok(());
        }
        let mut errors = ErrorList::new();
        errors.forbidden(&path, &format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace"));
        Err(StatusError::invalid("resource.k8s.io", kind, metadata.name.as_deref().unwrap_or_default(), errors))
    }
}

impl Admission for AdminAccess {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        ready(object.map_or(Ok(()), |object| self.check(request, object)))
    }
}

/// A taint of a device says since when it is there; who does not say it, adds it now (upstream: `SetDefaults_DeviceTaint`).
pub struct TaintTimes;

impl Admission for TaintTimes {
    fn admit<'a>(&'a self, _: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        if let Some(slice) = object.and_then(|object| object.downcast_mut::<ResourceSlice>()) {
            let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
            for taint in slice.spec.devices.iter_mut().flatten().flat_map(|device| device.taints.iter_mut().flatten()) {
                taint.time_added.get_or_insert(Time(now));
            }
        }
        ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_administration_is_asked_for_and_granted() {
        let claim = |admin: bool, granted: bool| -> ResourceClaim {
            let requests = json!([{"name": "a", "exactly": {"deviceClassName": "k"}}, {"name": "b", "exactly": {"deviceClassName": "k", "adminAccess": admin}}]);
            let results = json!([{"request": "b", "driver": "d", "pool": "p", "device": "x", "adminAccess": granted}]);
            serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}},
                "status": {"allocation": {"devices": {"results": results}}}}))
            .unwrap()
        };
        let text = |path: Option<Path>| path.map(|path| path.to_string());
        let spec = Path::new("spec");
        assert_eq!(text(asked(&spec, &claim(true, false).spec)).as_deref(), Some("spec.devices.requests[1].exactly.adminAccess"));
        assert_eq!(text(asked(&spec, &claim(false, false).spec)), None);
        let path = Some("status.allocation.devices.results[0].adminAccess".to_owned());
        assert_eq!(text(granted(&claim(true, true), Some(&ResourceClaim::default()))), path);
        assert_eq!(text(granted(&claim(true, true), Some(&claim(true, true)))), None, "it was granted before");
        assert_eq!(text(granted(&claim(true, false), None)), None);
    }
}
