//! Who may ask for which certificate, approve it and sign it (upstream: `plugin/pkg/admission/certificates`).

use super::{Admission, Operation, Request, ready};
use crate::{
    authentication::MASTERS,
    authorization::{Attributes, Authorizer, Decision},
};
use api::{Object, status::Result};
use futures::future::BoxFuture;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::sync::Arc;
use x509_parser::prelude::*;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";

/// Whether the user holds the verb on the signer, or on all signers of its domain.
fn holds(authorizer: &dyn Authorizer, request: &Request<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let attributes = Attributes {
            user: request.user.clone(),
            verb: verb.into(),
            resource_request: true,
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        };
        matches!(authorizer.authorize(&attributes), Decision::Allow(_))
    })
}

/// CertificateApproval.
pub struct Approval {
    /// Who may approve.
    pub authorizer: Arc<dyn Authorizer>,
}

/// CertificateSigning.
pub struct Signing {
    /// Who may sign.
    pub authorizer: Arc<dyn Authorizer>,
}

impl Admission for Approval {
    fn validate<'a>(&'a self, request: &'a Request<'a>, _object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let applies = request.operation == Operation::Update && request.is(GROUP, PLURAL, "approval");
        let Some(old) = request.old::<CertificateSigningRequest>().filter(|_| applies) else { return ready(Ok(())) };
        let signer = &old.spec.signer_name;
        let allowed = holds(&*self.authorizer, request, "approve", signer);
        let refused = || request.forbidden(&format!("user not permitted to approve requests with signerName {signer:?}"));
        ready(if allowed { Ok(()) } else { Err(refused()) })
    }
}

impl Admission for Signing {
    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let applies = request.operation == Operation::Update && request.is(GROUP, PLURAL, "status");
        let new = object.filter(|_| applies).and_then(|o| o.downcast_ref::<CertificateSigningRequest>());
        let (Some(new), Some(old)) = (new, request.old::<CertificateSigningRequest>()) else { return ready(Ok(())) };
        let certificate = |r: &CertificateSigningRequest| r.status.as_ref().and_then(|s| s.certificate.clone());
        let failed =
            |r: &CertificateSigningRequest| r.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Failed");
        let signer = &old.spec.signer_name;
        let touches = certificate(new) != certificate(old) || failed(new) != failed(old);
        if !touches || holds(&*self.authorizer, request, "sign", signer) {
            return ready(Ok(()));
        }
        ready(Err(request.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}"))))
    }
}

/// CertificateSubjectRestriction: nobody becomes a superuser by asking. It also writes into a request who made it.
pub struct SubjectRestriction;

/// The organizations in a PEM certificate request.
fn organizations(pem: &[u8]) -> Option<Vec<String>> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    Some(subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect())
}

impl Admission for SubjectRestriction {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        let creates = request.operation == Operation::Create && request.is(GROUP, PLURAL, "");
        if let Some(csr) = object.filter(|_| creates).and_then(|o| o.downcast_mut::<CertificateSigningRequest>()) {
            let user = request.user;
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            csr.spec.username = some(&user.name);
            csr.spec.uid = some(&user.uid);
            csr.spec.groups = (!user.groups.is_empty()).then(|| user.groups.clone());
            csr.spec.extra = (!user.extra.is_empty()).then(|| user.extra.clone());
        }
        ready(Ok(()))
    }

    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        let creates = request.operation == Operation::Create && request.is(GROUP, PLURAL, "");
        let csr = object.filter(|_| creates).and_then(|o| o.downcast_ref::<CertificateSigningRequest>());
        let Some(csr) = csr.filter(|c| c.spec.signer_name == "kubernetes.io/kube-apiserver-client") else { return ready(Ok(())) };
        let masters = organizations(&csr.spec.request.0).is_some_and(|o| o.iter().any(|o| o == MASTERS));
        let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        ready(if masters { Err(request.forbidden(why)) } else { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_organizations_are_read() {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        assert_eq!(organizations(pem.as_bytes()), Some(vec!["system:masters".to_owned()]));
        assert_eq!(organizations(b"no request"), None);
    }
}
