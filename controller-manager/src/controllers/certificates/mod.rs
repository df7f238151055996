//! Certificates for those who ask (upstream: `pkg/controller/certificates`): approving what nodes may have anyway ([`approving`]), signing what is approved
//! ([`signing`]), and removing requests that are done with ([`cleaning`]). What a request asks for is read in one place, [`request`].

pub mod approving;
pub mod cleaning;
pub mod request;
pub mod signing;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

/// A condition that holds.
fn condition<'a>(csr: &'a CertificateSigningRequest, condition_type: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = csr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|condition| condition.type_ == condition_type && condition.status == "True")
}

/// Whether a certificate has been issued.
fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|certificate| !certificate.0.is_empty())
}
