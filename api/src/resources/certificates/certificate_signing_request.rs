//! CertificateSigningRequest: a request for a certificate, and the answer to it.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, NameRule, PrintContext, READ_AND_CHANGE, Resource, SelectableField, Subresource, texts};
use crate::validation::{invalid, names};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::json;

const SUBRESOURCES: &[Subresource] =
    &[Subresource::new("approval", "CertificateSigningRequest", READ_AND_CHANGE), Subresource::status("CertificateSigningRequest")];

const COLUMNS: &[Column] = &[
    NAME,
    AGE,
    shown("SignerName", "string"),
    shown("Requestor", "string"),
    shown("RequestedDuration", "string"),
    shown("Condition", "string"),
];

impl Kind for CertificateSigningRequest {
    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let path = Path::new("spec");
        let request = &self.spec.request;
        if !request.0.windows(REQUEST.len()).any(|w| w == REQUEST) {
            let shown = serde_json::json!(request);
            errors.invalid(&path.child("request"), shown, "PEM block type must be CERTIFICATE REQUEST");
        }
        if self.spec.usages.as_ref().is_none_or(|u| u.is_empty()) {
            errors.required(&path.child("usages"), "usages must not be empty");
        }
        signer_name(errors, &path.child("signerName"), &self.spec.signer_name);
        if let Some(seconds) = self.spec.expiration_seconds.filter(|s| *s < SECONDS_MIN) {
            let why = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&path.child("expirationSeconds"), seconds, why);
        }
    }

    fn validate_update(&self, _old: &Self, errors: &mut ErrorList) {
        // What was asked for was looked at when it was new, and cannot change any more.
        let _ = errors;
    }

    fn prepare_for_update(&mut self, old: &Self) {
        self.spec = old.spec.clone();
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        let duration = self.spec.expiration_seconds.map_or(printer::NONE.into(), |s| crate::duration::human(s.into()));
        let requestor = self.spec.username.as_deref().unwrap_or("");
        vec![
            printer::name(&self.metadata),
            printer::age(&self.metadata, context),
            json!(self.spec.signer_name),
            json!(requestor),
            json!(duration),
            json!(condition(self)),
        ]
    }
}

/// `Pending`, or what was decided and whether the certificate is there.
fn condition(csr: &CertificateSigningRequest) -> String {
    let status = csr.status.clone().unwrap_or_default();
    let has = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind);
    let mut text = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if status.certificate.is_some_and(|c| !c.0.is_empty()) {
        text.push_str(",Issued");
    }
    text
}

/// How the PEM block of a request begins.
const REQUEST: &[u8] = b"-----BEGIN CERTIFICATE REQUEST-----";
/// The shortest time a certificate can be asked for.
const SECONDS_MIN: i32 = 600;

/// A domain and a path: `kubernetes.io/kube-apiserver-client`.
fn signer_name(errors: &mut ErrorList, path: &Path, name: &str) {
    match name.split_once('/') {
        _ if name.is_empty() => errors.required(path, ""),
        Some((domain, signer)) if !domain.is_empty() && !signer.is_empty() && !signer.contains('/') => {
            if !domain.contains('.') {
                errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
            }
            invalid(errors, path, domain, names::dns1123_subdomain(domain));
            invalid(errors, path, signer, names::dns1123_subdomain(signer));
        }
        _ => errors.invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
    }
}

/// The row.
pub fn row() -> Resource {
    Resource {
        short_names: texts(&["csr"]),
        subresources: SUBRESOURCES.into(),
        name_rule: NameRule::PathSegment,
        selectable_fields: [SelectableField::at("spec.signerName")].to_vec().into(),
        columns: COLUMNS.into(),
        ..Resource::of::<CertificateSigningRequest>()
    }
}
