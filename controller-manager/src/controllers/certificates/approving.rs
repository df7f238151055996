//! Approves what a node may have anyway: its first client certificate, if whoever asks may ask for such (a bootstrap token's group), and
//! the next one, if the node itself asks (upstream: `approver/sarapprove.go`). Whether it may, the apiserver says, by a review of access.

use super::request::{self, KUBELET_CLIENT, Subject};
use super::{condition, is_issued};
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, Request};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::PostParams;
use std::sync::Arc;
use std::time::Duration;

/// Keys are requests.
pub struct Approver {
    context: Context,
    requests: Arc<Cache<CertificateSigningRequest>>,
}

/// What may be approved unasked: the subresource that stands for the right to it, and what is then said.
struct Recognised {
    subresource: &'static str,
    message: &'static str,
}

const SELF: Recognised =
    Recognised { subresource: "selfnodeclient", message: "Auto approving self kubelet client certificate after SubjectAccessReview." };
const NODE: Recognised =
    Recognised { subresource: "nodeclient", message: "Auto approving kubelet client certificate after SubjectAccessReview." };

impl Approver {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        Self { requests: context.caches.of(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(csr) = self.requests.get(key).filter(|csr| is_open(csr)) else { return Ok(None) };
        let subject = match request::subject(&csr.spec.request.0) {
            Ok(subject) => subject,
            Err(error) => {
                tracing::warn!(csr = %key, error, "unreadable");
                return Ok(None);
            }
        };
        for recognised in recognised(&csr, &subject) {
            if self.may(&csr, recognised.subresource).await? {
                return Ok(self.context.executor.apply(vec![approve(&csr, recognised.message, Timestamp::now())]).await?);
            }
        }
        // It is somebody else's to approve.
        Ok(None)
    }

    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> anyhow::Result<bool> {
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some("create".to_owned()),
            version: Some("*".to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.context.executor.client().clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

fn is_open(csr: &CertificateSigningRequest) -> bool {
    !is_issued(csr) && condition(csr, "Approved").is_none() && condition(csr, "Denied").is_none()
}

fn recognised(csr: &CertificateSigningRequest, subject: &Subject) -> Vec<&'static Recognised> {
    if csr.spec.signer_name != KUBELET_CLIENT || request::check(csr, subject) != Some(Ok(())) {
        return Vec::new();
    }
    let itself = csr.spec.username.as_deref() == Some(&subject.common_name);
    itself.then_some(&SELF).into_iter().chain([&NODE]).collect()
}

fn approve(csr: &CertificateSigningRequest, message: &str, now: Timestamp) -> Op {
    let mut approved = csr.clone();
    approved.status.get_or_insert_default().conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        ..CertificateSigningRequestCondition::default()
    });
    Op::send(Request::replace_part(&approved, "approval").tolerating(&[404]))
}

impl Controller for Approver {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.requests, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use request::fixtures::csr;

    #[test]
    fn what_is_recognised() {
        let usages = ["client auth", "digital signature"];
        let shown = |csr: &CertificateSigningRequest| {
            let subject = request::subject(&csr.spec.request.0).unwrap();
            recognised(csr, &subject).iter().map(|recognised| recognised.subresource).collect::<Vec<_>>()
        };
        let mut node = csr(KUBELET_CLIENT, "system:node:n1", "system:nodes", &[], &usages);
        assert_eq!(shown(&node), ["nodeclient"]);
        node.spec.username = Some("system:node:n1".to_owned());
        assert_eq!(shown(&node), ["selfnodeclient", "nodeclient"]);
        assert_eq!(shown(&csr(request::CLIENT, "system:node:n1", "system:nodes", &[], &usages)), [""; 0]);
        assert_eq!(shown(&csr(KUBELET_CLIENT, "anne", "system:nodes", &[], &usages)), [""; 0]);
    }

    #[test]
    fn approving_once() {
        let open = csr(KUBELET_CLIENT, "system:node:n1", "system:nodes", &[], &[]);
        let Op::Send(request) = approve(&open, "why", Timestamp::UNIX_EPOCH) else { panic!("a request") };
        assert!(request.path.ends_with("/certificatesigningrequests/csr/approval"));
        let approved: CertificateSigningRequest = serde_json::from_value(request.body).unwrap();
        assert!(is_open(&open) && !is_open(&approved));
    }
}
