//! Policy on writes, after authorisation. Each plugin is a file and a row of [`plugins`]; all get to change the object first, in upstream's order
//! (`pkg/kubeapiserver/options/plugins.go`), and after validation all get to refuse it.
//!
//! Policies and webhooks of the user's own come last, the validating ones before the quota is charged, as upstream.

pub mod certificates;
mod devices;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_security;
pub mod pods;
pub mod policy;
pub mod resource_quota;
pub mod rounds;
pub mod service_account;
pub mod storage;
pub mod webhook;

use crate::{
    authentication::UserInfo,
    authorization::{Authorizer, escalation::Escalation, rbac::Rbac},
    notes::Notes,
    objects::Objects,
    outbound::Caller,
    registry::Registry,
};
use api::{Object, Resource, status::Result};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use rounds::Rounds;
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST.
    Create,
    /// PUT, PATCH.
    Update,
    /// DELETE, one call for each object of a collection.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// The write under admission (upstream: `admission.Attributes`).
pub struct Request<'a> {
    /// The kind's row.
    pub resource: &'a Resource,
    /// `status`, `scale`, ... or empty.
    pub subresource: &'a str,
    /// What is being done.
    pub operation: Operation,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Name; empty with generateName before it is made.
    pub name: &'a str,
    /// The object before (update, delete).
    pub old: Option<&'a dyn Object>,
    /// Who.
    pub user: &'a UserInfo,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// What all plugins of this write share.
    pub context: &'a Context,
}

/// What the plugins of one write share.
#[derive(Default)]
pub struct Context {
    /// Where warnings and audit annotations go.
    pub notes: Arc<Notes>,
    /// The options of the request, an object of `meta.k8s.io/v1`; `Null` for what the server itself does.
    pub options: Value,
    /// The object's managed fields, which the typed object does not carry.
    pub managed: Value,
    /// Those it had before.
    pub old_managed: Value,
    /// What is asked for where that is no object of the resource: the options of a connection, a binding, an eviction; else `Null`.
    pub asked: Value,
    /// Which plugins want to see the object again.
    pub rounds: Rounds,
}

impl Request<'_> {
    /// Whether the request is for this kind (and subresource, empty for none).
    pub fn is(&self, group: &str, plural: &str, subresource: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural && self.subresource == subresource
    }

    /// Whether it creates or updates.
    pub fn writes(&self) -> bool {
        matches!(self.operation, Operation::Create | Operation::Update)
    }

    /// 403 on the object for this reason.
    pub fn forbidden(&self, why: &str) -> api::StatusError {
        api::StatusError::forbidden(&self.resource.group, &self.resource.plural, self.name, why)
    }

    /// The old object as its type.
    pub fn old<K: api::Kind>(&self) -> Option<&K> {
        self.old?.downcast_ref()
    }
}

/// One policy. Both methods default to letting everything through.
pub trait Admission: Send + Sync + 'static {
    /// May change the object or refuse.
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let _ = (request, object);
        Box::pin(async { Ok(()) })
    }

    /// May refuse; runs after validation, on the final object.
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let _ = (request, object);
        Box::pin(async { Ok(()) })
    }
}

/// A future that is there already: what plugins answer that need not wait for anything.
fn ready<'a>(answer: Result<()>) -> BoxFuture<'a, Result<()>> {
    Box::pin(std::future::ready(answer))
}

/// What plugins work with.
pub struct Sources {
    /// The cluster's objects.
    pub objects: Arc<dyn Objects>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Who holds which rules.
    pub rbac: Arc<Rbac>,
    /// Every resource, for those who look at objects of any kind.
    pub registry: Arc<Registry>,
    /// Who calls servers outside.
    pub caller: Arc<Caller>,
}

type Make = fn(&Sources) -> Arc<dyn Admission>;

/// A row: upstream's name, whether it is on by default, and how it is made.
type Row = (&'static str, bool, Make);

/// What is no plugin upstream but part of the storage of its kinds: it cannot be switched off.
const OF_STORAGE: [&str; 3] = ["RBACEscalation", "DeviceAdminAccess", "DeviceTaintTimes"];

/// All plugins, in order.
const ROWS: &[Row] = &[
    ("DeviceTaintTimes", true, |_| Arc::new(devices::TaintTimes)),
    ("NamespaceLifecycle", true, |s| Arc::new(namespace_lifecycle::NamespaceLifecycle { objects: s.objects.clone() })),
    ("LimitRanger", true, |s| Arc::new(limit_ranger::LimitRanger { objects: s.objects.clone() })),
    ("ServiceAccount", true, |s| Arc::new(service_account::ServiceAccounts { objects: s.objects.clone() })),
    ("NodeRestriction", true, |_| Arc::new(node_restriction::NodeRestriction)),
    ("TaintNodesByCondition", true, |_| Arc::new(pods::TaintNodes)),
    ("PodSecurity", true, |s| Arc::new(pod_security::PodSecurity { objects: s.objects.clone() })),
    ("Priority", true, |s| Arc::new(pods::Priority { objects: s.objects.clone() })),
    ("DefaultTolerationSeconds", true, |_| Arc::new(pods::DefaultTolerations)),
    ("DefaultStorageClass", true, |s| Arc::new(storage::DefaultStorageClass { objects: s.objects.clone() })),
    ("StorageObjectInUseProtection", true, |_| Arc::new(storage::InUseProtection)),
    ("PersistentVolumeClaimResize", true, |s| Arc::new(storage::ClaimResize { objects: s.objects.clone() })),
    ("RuntimeClass", true, |s| Arc::new(pods::RuntimeClasses { objects: s.objects.clone() })),
    ("CertificateApproval", true, |s| Arc::new(certificates::Approval { authorizer: s.authorizer.clone() })),
    ("CertificateSigning", true, |s| Arc::new(certificates::Signing { authorizer: s.authorizer.clone() })),
    ("CertificateSubjectRestriction", true, |_| Arc::new(certificates::SubjectRestriction)),
    ("DefaultIngressClass", true, |s| Arc::new(storage::DefaultIngressClass { objects: s.objects.clone() })),
    ("MutatingAdmissionPolicy", true, |s| Arc::new(policy::Mutating::new(s))),
    ("MutatingAdmissionWebhook", true, |s| Arc::new(webhook::Mutating::new(s))),
    ("ValidatingAdmissionPolicy", true, |s| Arc::new(policy::Validating::new(s))),
    ("ValidatingAdmissionWebhook", true, |s| Arc::new(webhook::Validating::new(s))),
    ("RBACEscalation", true, |s| Arc::new(Escalation { rbac: s.rbac.clone(), authorizer: s.authorizer.clone() })),
    ("DeviceAdminAccess", true, |s| Arc::new(devices::AdminAccess { objects: s.objects.clone() })),
    ("ResourceQuota", true, |s| Arc::new(resource_quota::ResourceQuotas::new(s.objects.clone()))),
];

/// Upstream's plugins that come with later issues, or that do nothing worth refusing their name for.
const KNOWN: &[&str] = &[
    "AlwaysPullImages",
    "ClusterTrustBundleAttest",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "OwnerReferencesPermissionEnforcement",
    "PodNodeSelector",
    "PodTolerationRestriction",
    "PodTopologyLabels",
];

/// The plugins that are on, in order: the default ones, with those of `--enable-admission-plugins` and without those of `--disable-admission-plugins`.
pub fn plugins(sources: &Sources, enable: &[String], disable: &[String]) -> Result<Vec<Arc<dyn Admission>>, String> {
    let known: BTreeSet<&str> = ROWS.iter().map(|(name, ..)| *name).chain(KNOWN.iter().copied()).collect();
    if let Some(unknown) = enable.iter().chain(disable).find(|name| !known.contains(name.as_str())) {
        return Err(format!("unknown admission plugin {unknown:?}"));
    }
    if let Some(later) = enable.iter().find(|name| KNOWN.contains(&name.as_str())) {
        tracing::warn!(plugin = later, "this admission plugin is not built yet");
    }
    let on = |name: &str, default: bool| {
        OF_STORAGE.contains(&name) || ((default || enable.iter().any(|n| n == name)) && !disable.iter().any(|n| n == name))
    };
    Ok(ROWS.iter().filter(|(name, default, _)| on(name, *default)).map(|(_, _, make)| make(sources)).collect())
}

/// A pod under creation, to change.
fn new_pod<'a>(request: &Request<'_>, object: Option<&'a mut dyn Object>) -> Option<&'a mut Pod> {
    if request.operation != Operation::Create || !request.is("", "pods", "") {
        return None;
    }
    object?.downcast_mut()
}

/// A pod's specification, made if there is none.
fn spec_mut(pod: &mut Pod) -> &mut PodSpec {
    pod.spec.get_or_insert_default()
}
