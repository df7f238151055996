//! A pod with what the plugins ask of it again and again, worked out once.

use crate::affinity::PodTerms;
use crate::resources::{self, Resources};
use api::scheduling::{HostPort, host_ports};
use client::ObjectKey;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, Volume};
use std::sync::{Arc, LazyLock};

/// A claim that one of a pod's volumes uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUse {
    /// Its name, in the pod's namespace.
    pub name: String,
    /// It is made for the pod, and has to be the pod's own.
    pub ephemeral: bool,
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod, as the cache has it.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: Resources,
    /// What it counts as when nodes are scored.
    pub scored: Resources,
    /// The node's ports it takes.
    pub host_ports: Vec<HostPort>,
    /// Its affinity to other pods.
    pub terms: PodTerms,
    /// The claims it uses.
    pub claims: Vec<ClaimUse>,
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
static NO_STATUS: LazyLock<PodStatus> = LazyLock::new(PodStatus::default);

impl PodInfo {
    /// Works it out.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self {
            requests: resources::pod_requests(&pod),
            scored: resources::scored_requests(&pod),
            host_ports: pod.spec.as_ref().map(host_ports).unwrap_or_default(),
            terms: PodTerms::of(&pod),
            claims: claims(&pod),
            pod,
        }
    }

    /// `spec`; an empty one if it has none, which the apiserver does not allow.
    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    /// `status`.
    pub fn status(&self) -> &PodStatus {
        self.pod.status.as_ref().unwrap_or(&NO_STATUS)
    }

    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.pod.as_ref())
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// A label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// `spec.priority`, 0 by default.
    pub fn priority(&self) -> i32 {
        self.spec().priority.unwrap_or(0)
    }

    /// The node it is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.spec().node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether it has ended and takes nothing of a node any more.
    pub fn is_finished(&self) -> bool {
        matches!(self.status().phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether it counts the same as `other` wherever pods are counted by what they are, not by what they ask for.
    pub fn counts_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.pod.metadata, &other.pod.metadata);
        a.labels == b.labels
            && a.namespace == b.namespace
            && a.deletion_timestamp.is_some() == b.deletion_timestamp.is_some()
            && self.terms == other.terms
            && self.claims == other.claims
    }

    /// Whether it is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

fn claims(pod: &Pod) -> Vec<ClaimUse> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let claim = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(ClaimUse { name: claim.claim_name.clone(), ephemeral: false }),
        (None, Some(_)) => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Some(ClaimUse { name: format!("{pod}-{}", volume.name), ephemeral: true })
        }
        (None, None) => None,
    };
    volumes.iter().filter_map(claim).collect()
}
