//! Which claims of devices a pod has, and who may use a claim (upstream: `dynamic-resource-allocation/resourceclaim`).

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceToleration, ResourceClaim, ResourceClaimConsumerReference};

/// On a claim: for which of the pod's `spec.resourceClaims` it was made.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// On a claim: it was made for the extended resources of a pod.
pub const EXTENDED_RESOURCE_CLAIM: &str = "resource.kubernetes.io/extended-resource-claim";
/// While a claim is allocated it has this finalizer.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How many pods may use a claim (upstream: `ResourceClaimReservedForMaxSize`).
pub const MAX_CONSUMERS: usize = 256;

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used<'a> {
    /// The claim's name, in the pod's namespace.
    pub name: &'a str,
    /// It was made for the pod, and has to be the pod's own.
    pub own: bool,
}

fn described(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("\"{}/{}\"", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// The claim behind an entry of `spec.resourceClaims`; `None` where none was needed. An error where there is none yet, in upstream's words.
pub fn used<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> Result<Option<Used<'a>>, String> {
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some(Used { name, own: false }));
    }
    if claim.resource_claim_template_name.is_none() {
        return Err(format!("pod {}, spec.resourceClaim {:?}: none of the supported fields are set", described(pod), claim.name));
    }
    let mut statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let status = statuses.find(|status| status.name == claim.name);
    let status = status.ok_or_else(|| format!("pod {}: ResourceClaim not created yet", described(pod)))?;
    Ok(status.resource_claim_name.as_deref().map(|name| Used { name, own: true }))
}

/// The claim that was made for the pod's extended resources.
pub fn extended(pod: &Pod) -> Option<&str> {
    Some(&pod.status.as_ref()?.extended_resource_claim_status.as_ref()?.resource_claim_name)
}

/// Whether a claim was made for the extended resources of a pod.
pub fn is_for_extended_resources(claim: &ResourceClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(EXTENDED_RESOURCE_CLAIM)).is_some_and(|value| value == "true")
}

/// What a claim's `status.reservedFor` says of a pod that uses it.
pub fn consumer(pod: &Pod) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// Whether a claim was made for the pod; else what to say.
pub fn is_for_pod(pod: &Pod, claim: &ResourceClaim) -> Result<(), String> {
    let owner = claim.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    if owner.is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref()) {
        return Ok(());
    }
    let (claim, pod) = (&claim.metadata, &pod.metadata);
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Err(format!(
        "ResourceClaim {}/{} was not created for pod {}/{} (pod is not owner)",
        text(&claim.namespace),
        text(&claim.name),
        text(&pod.namespace),
        text(&pod.name)
    ))
}

/// Whether the pod is among those that a claim is reserved for.
pub fn is_reserved_for(pod: &Pod, claim: &ResourceClaim) -> bool {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()).any(|consumer| consumer.uid == uid)
}

/// Whether one more pod may use a claim.
pub fn can_be_reserved(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_ref()).map_or(0, Vec::len) < MAX_CONSUMERS
}

/// Whether a toleration covers a taint of a device.
pub fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let given = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (given(&toleration.key), given(&toleration.effect));
    if (!key.is_empty() && key != taint.key) || (!effect.is_empty() && effect != taint.effect) {
        return false;
    }
    match given(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => given(&toleration.value) == given(&taint.value),
        _ => false,
    }
}

/// Whether a claim has devices.
pub fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pods_claims_are_named_or_made_for_it() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": [
                {"name": "named", "resourceClaimName": "c"},
                {"name": "made", "resourceClaimTemplateName": "t"},
                {"name": "none", "resourceClaimTemplateName": "t"},
                {"name": "late", "resourceClaimTemplateName": "t"},
                {"name": "odd"},
            ]},
            "status": {"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "p-made-x"}, {"name": "none"}]},
        }))
        .unwrap();
        let claims = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
        let found: Vec<_> = claims.map(|claim| used(&pod, claim)).collect();
        assert_eq!(
            found,
            [
                Ok(Some(Used { name: "c", own: false })),
                Ok(Some(Used { name: "p-made-x", own: true })),
                Ok(None),
                Err("pod \"ns/p\": ResourceClaim not created yet".to_owned()),
                Err("pod \"ns/p\", spec.resourceClaim \"odd\": none of the supported fields are set".to_owned()),
            ]
        );
    }

    #[test]
    fn a_claim_is_for_its_owner_and_reserved_for_its_consumers() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}})).unwrap();
        let claim = |owner: &str, consumer: &str| -> ResourceClaim {
            serde_json::from_value(json!({
                "metadata": {"namespace": "ns", "name": "c", "ownerReferences":
                    [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]},
                "spec": {}, "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": consumer}]},
            }))
            .unwrap()
        };
        assert_eq!(is_for_pod(&pod, &claim("u", "x")), Ok(()));
        let why = "ResourceClaim ns/c was not created for pod ns/p (pod is not owner)";
        assert_eq!(is_for_pod(&pod, &claim("v", "x")), Err(why.to_owned()));
        assert_eq!((is_reserved_for(&pod, &claim("u", "u")), is_reserved_for(&pod, &claim("u", "x"))), (true, false));
    }
}
