//! What controllers do, as values: requests to the apiserver, events, a later look. [`Executor`] carries them out in order and stops at the first failure,
//! so an event that follows a request is only recorded if the request succeeded.

use client::EventRecorder;
use client::ObjectKey;
use client::events::{EventType, reference};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, ReplicationController, ResourceQuota,
    Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::{Client, Resource};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How a patch is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// JSON merge patch.
    Merge,
    /// Strategic merge patch: lists are merged by their keys.
    Strategic,
}

/// What happens to an object's dependents when it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    #[default]
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// How and under which condition to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only the object with this UID.
    pub uid: Option<String>,
    /// Only this version of the object.
    pub resource_version: Option<String>,
    /// `None` leaves it to the kind.
    pub propagation: Option<Propagation>,
    /// `None` leaves it to the object.
    pub grace_seconds: Option<i64>,
}

/// One request to the apiserver.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: &'static str,
    /// The path.
    pub path: String,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Value,
    /// The object, if the path does not end in its name: for logs and events.
    pub name: String,
    /// Answers with these codes count as success: what was to be done is done already.
    pub tolerated: &'static [u16],
}

const JSON: &str = "application/json";

fn collection<K: Resource<DynamicType = ()>>(namespace: &str) -> String {
    K::url_path(&(), (!namespace.is_empty()).then_some(namespace))
}

fn path<K: Resource<DynamicType = ()>>(key: &ObjectKey, subresource: &str) -> String {
    let slash = if subresource.is_empty() { "" } else { "/" };
    format!("{}/{}{slash}{subresource}", collection::<K>(&key.namespace), key.name)
}

fn body<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("API types have string keys and no failing serializers")
}

/// A kind that the caches hold as it is, so that what is read from them may be written back; what [`crate::trim`] cuts down can only be patched.
pub trait Whole: Resource<DynamicType = ()> + Serialize {}

/// The kinds of which controllers write whole objects.
macro_rules! whole {
    ($($kind:ty),* $(,)?) => { $(impl Whole for $kind {})* };
}

whole!(
    CertificateSigningRequest,
    ConfigMap,
    ControllerRevision,
    CronJob,
    DaemonSet,
    Deployment,
    EndpointSlice,
    Endpoints,
    HorizontalPodAutoscaler,
    Job,
    Namespace,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    PodDisruptionBudget,
    ReplicaSet,
    ReplicationController,
    ResourceClaim,
    ResourceQuota,
    Secret,
    Service,
    ServiceCIDR,
    StatefulSet,
    VolumeAttributesClass,
);

impl Request {
    /// Creates an object; its name may be left to the server by `generateName`.
    pub fn create<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        let key = ObjectKey::of(object);
        Self {
            method: "POST",
            path: collection::<K>(&key.namespace),
            content_type: JSON,
            body: body(object),
            name: key.name,
            tolerated: &[],
        }
    }

    /// Replaces an object; its `resourceVersion` makes sure that it has not changed.
    pub fn replace<K: Whole>(object: &K) -> Self {
        Self::replace_part(object, "")
    }

    /// Replaces an object's status.
    pub fn replace_status<K: Whole>(object: &K) -> Self {
        Self::replace_part(object, "status")
    }

    /// Replaces through another subresource.
    pub fn replace_part<K: Whole>(object: &K, subresource: &str) -> Self {
        let key = ObjectKey::of(object);
        let path = path::<K>(&key, subresource);
        Self { method: "PUT", path, content_type: JSON, body: body(object), name: key.name, tolerated: &[] }
    }

    /// Patches an object, or a subresource of it.
    pub fn patch<K: Resource<DynamicType = ()>>(key: &ObjectKey, subresource: &str, kind: PatchKind, patch: Value) -> Self {
        let content_type = match kind {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
        };
        Self { method: "PATCH", path: path::<K>(key, subresource), content_type, body: patch, name: key.name.clone(), tolerated: &[] }
    }

    /// Merge-patches an object of any kind by its path.
    pub fn merge_patch_at(path: String, name: String, patch: Value) -> Self {
        Self { method: "PATCH", path, content_type: "application/merge-patch+json", body: patch, name, tolerated: &[] }
    }

    /// Deletes an object. That it is gone already is fine.
    pub fn delete<K: Resource<DynamicType = ()>>(key: &ObjectKey, options: &DeleteOptions) -> Self {
        Self::delete_at(path::<K>(key, ""), key.name.clone(), options)
    }

    /// The same by its path.
    pub fn delete_at(path: String, name: String, options: &DeleteOptions) -> Self {
        let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if options.uid.is_some() || options.resource_version.is_some() {
            body["preconditions"] = json!({});
        }
        for (field, value) in [("uid", &options.uid), ("resourceVersion", &options.resource_version)] {
            if let Some(value) = value {
                body["preconditions"][field] = json!(value);
            }
        }
        if let Some(propagation) = options.propagation {
            body["propagationPolicy"] = json!(format!("{propagation:?}"));
        }
        if let Some(seconds) = options.grace_seconds {
            body["gracePeriodSeconds"] = json!(seconds);
        }
        Self { method: "DELETE", path, content_type: JSON, body, name, tolerated: &[404] }
    }

    /// Takes answers with these codes for success.
    pub fn tolerating(mut self, codes: &'static [u16]) -> Self {
        self.tolerated = codes;
        self
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A request.
    Send(Box<Request>),
    /// An event.
    Event {
        /// What it is about.
        about: Box<ObjectReference>,
        /// Whether it tells of a problem.
        warning: bool,
        /// Its reason.
        reason: &'static str,
        /// Its text.
        message: String,
    },
    /// Look again after this time.
    After(Duration),
}

impl Op {
    /// A request.
    pub fn send(request: Request) -> Self {
        Op::Send(Box::new(request))
    }

    /// An event that tells of something that went well.
    pub fn normal<K: Resource<DynamicType = ()>>(about: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Op::Event { about: Box::new(reference(about, None)), warning: false, reason, message: message.into() }
    }

    /// An event that tells of a problem.
    pub fn warning<K: Resource<DynamicType = ()>>(about: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Op::Event { about: Box::new(reference(about, None)), warning: true, reason, message: message.into() }
    }
}

/// Does it. One per controller, because events name their controller.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    recorder: EventRecorder,
}

impl Executor {
    /// Acts with this client and records events as this component.
    pub fn new(client: Client, component: &str) -> Self {
        Self { recorder: EventRecorder::core(client.clone(), component, ""), client }
    }

    /// The client, for what needs an answer.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The recorder.
    pub fn recorder(&self) -> &EventRecorder {
        &self.recorder
    }

    /// Does everything in order up to the first failure. Says when to look again, the earliest of the times.
    pub async fn apply(&self, ops: Vec<Op>) -> Result<Option<Duration>, kube::Error> {
        let mut after: Option<Duration> = None;
        for op in ops {
            match op {
                Op::Send(request) => {
                    self.send(*request).await?;
                }
                Op::Event { about, warning, reason, message } => {
                    let event_type = if warning { EventType::Warning } else { EventType::Normal };
                    self.recorder.record(*about, event_type, reason, message, "");
                }
                Op::After(delay) => after = Some(after.map_or(delay, |earlier| earlier.min(delay))),
            }
        }
        Ok(after)
    }

    /// Sends one request; an answer that is tolerated is `Null`.
    pub async fn send(&self, request: Request) -> Result<Value, kube::Error> {
        let built =
            http::Request::builder().method(request.method).uri(&request.path).header(http::header::CONTENT_TYPE, request.content_type);
        let body = serde_json::to_vec(&request.body).map_err(kube::Error::SerdeError)?;
        let built = built.body(body).map_err(kube::Error::HttpError)?;
        match self.client.request::<Value>(built).await {
            Err(kube::Error::Api(status)) if request.tolerated.contains(&status.code) => Ok(Value::Null),
            other => other,
        }
    }
}

/// Whether an error says that somebody else was faster: worth another try, not worth a word.
pub fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409)
}

/// Whether an error leaves open whether the request was carried out: no answer, or one that the server is not well.
pub fn is_unclear(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code))
}

/// Whether an error says that the namespace is being deleted: nothing can be created there any more.
pub fn namespace_is_terminating(error: &kube::Error) -> bool {
    let cause = |status: &kube::core::Status| {
        status.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == "NamespaceTerminating")
    };
    matches!(error, kube::Error::Api(status) if status.code == 403 && cause(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Namespace, Pod};

    #[test]
    fn only_a_refusal_is_a_clear_answer() {
        let answered = |code| kube::Error::Api(Box::new(kube::core::Status { code, ..Default::default() }));
        for (code, unclear) in [(404, false), (409, false), (422, false), (500, true), (504, true)] {
            assert_eq!(is_unclear(&answered(code)), unclear, "{code}");
        }
        assert!(is_unclear(&kube::Error::LinesCodecMaxLineLengthExceeded));
    }

    #[test]
    fn requests() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "resourceVersion": "7"}})).unwrap();
        let key = ObjectKey::of(&pod);
        let created = Request::create(&pod);
        assert_eq!((created.method, created.path.as_str()), ("POST", "/api/v1/namespaces/ns/pods"));
        assert_eq!(created.body["kind"], "Pod");
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "c"}})).unwrap();
        assert_eq!(Request::replace_status(&claim).path, "/api/v1/namespaces/ns/persistentvolumeclaims/c/status");
        let options = DeleteOptions { uid: Some("u".into()), propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        let deleted = Request::delete::<Pod>(&key, &options);
        let expected =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "u"}, "propagationPolicy": "Foreground"});
        assert_eq!((deleted.path.as_str(), deleted.body), ("/api/v1/namespaces/ns/pods/p", expected));
        let patched = Request::patch::<Namespace>(&ObjectKey::new("", "n"), "", PatchKind::Merge, json!({}));
        assert_eq!((patched.path.as_str(), patched.content_type), ("/api/v1/namespaces/n", "application/merge-patch+json"));
    }
}
