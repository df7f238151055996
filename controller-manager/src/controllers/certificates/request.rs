//! What a request asks for, and which requests each signer takes (upstream: `pkg/apis/certificates/helpers.go`, `signer.go`).

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::collections::BTreeSet;
use x509_parser::prelude::*;

/// The signers that this cluster's authority stands behind.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// See [`CLIENT`].
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// See [`CLIENT`].
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// See [`CLIENT`].
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// Names in a request, as far as anybody decides by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// `CN`.
    pub common_name: String,
    /// `O`.
    pub organizations: Vec<String>,
    /// Alternative names that are DNS names or addresses.
    hosts: usize,
    /// Alternative names that are mail addresses or URIs.
    others: usize,
}

/// Reads the PEM.
pub fn subject(pem: &[u8]) -> Result<Subject, String> {
    let (_, pem) = parse_x509_pem(pem).map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let name = &request.certification_request_info.subject;
    let text = |attribute: &AttributeTypeAndValue<'_>| attribute.as_str().unwrap_or_default().to_owned();
    let mut subject = Subject {
        common_name: name.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: name.iter_organization().map(text).collect(),
        ..Subject::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension else { continue };
        for name in &alternative.general_names {
            match name {
                GeneralName::DNSName(_) | GeneralName::IPAddress(_) => subject.hosts += 1,
                GeneralName::RFC822Name(_) | GeneralName::URI(_) => subject.others += 1,
                _ => {}
            }
        }
    }
    Ok(subject)
}

fn usages(csr: &CertificateSigningRequest) -> BTreeSet<&str> {
    csr.spec.usages.iter().flatten().map(String::as_str).collect()
}

/// Exactly these and digital signatures, with or without key encipherment.
fn uses_exactly(csr: &CertificateSigningRequest, purpose: &str) -> bool {
    let wanted = usages(csr);
    wanted == BTreeSet::from(["digital signature", purpose]) || wanted == BTreeSet::from(["digital signature", "key encipherment", purpose])
}

fn named_as_node(subject: &Subject) -> Result<(), &'static str> {
    if subject.organizations != ["system:nodes"] {
        return Err("subject organization is not system:nodes");
    }
    if !subject.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:");
    }
    Ok(())
}

fn kubelet_client(csr: &CertificateSigningRequest, subject: &Subject) -> Result<(), &'static str> {
    named_as_node(subject)?;
    if subject.hosts + subject.others > 0 {
        return Err("DNS, IP, email and URI subjectAltNames are not allowed");
    }
    if !uses_exactly(csr, "client auth") {
        return Err("usages did not match [client auth digital signature key encipherment] or [client auth digital signature]");
    }
    Ok(())
}

fn kubelet_serving(csr: &CertificateSigningRequest, subject: &Subject) -> Result<(), &'static str> {
    named_as_node(subject)?;
    if subject.hosts == 0 {
        return Err("DNS or IP subjectAltName is required");
    }
    if subject.others > 0 {
        return Err("email and URI subjectAltNames are not allowed");
    }
    if !uses_exactly(csr, "server auth") {
        return Err("usages did not match [digital signature key encipherment server auth] or [digital signature server auth]");
    }
    Ok(())
}

fn client(csr: &CertificateSigningRequest, _: &Subject) -> Result<(), &'static str> {
    let wanted = usages(csr);
    let allowed = BTreeSet::from(["client auth", "digital signature", "key encipherment"]);
    if wanted.contains("client auth") && wanted.is_subset(&allowed) { Ok(()) } else { Err("usages did not match [client auth]") }
}

fn anything(_: &CertificateSigningRequest, _: &Subject) -> Result<(), &'static str> {
    Ok(())
}

type Rule = fn(&CertificateSigningRequest, &Subject) -> Result<(), &'static str>;

const SIGNERS: [(&str, Rule); 4] =
    [(CLIENT, client), (KUBELET_CLIENT, kubelet_client), (KUBELET_SERVING, kubelet_serving), (LEGACY_UNKNOWN, anything)];

/// The names of the signers.
pub fn signers() -> impl Iterator<Item = &'static str> {
    SIGNERS.iter().map(|(name, _)| *name)
}

/// Whether the signer that the request names takes it. `None`: it is no signer of ours.
pub fn check(csr: &CertificateSigningRequest, subject: &Subject) -> Option<Result<(), &'static str>> {
    SIGNERS.iter().find(|(name, _)| *name == csr.spec.signer_name).map(|(_, rule)| rule(csr, subject))
}

/// Requests for tests.
#[cfg(test)]
pub mod fixtures {
    use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    use serde_json::json;

    /// A request to a signer, for a name of an organization and host names.
    pub fn csr(signer: &str, name: &str, organization: &str, hosts: &[&str], usages: &[&str]) -> CertificateSigningRequest {
        let mut params = CertificateParams::default();
        // The default has a common name already, which would stay in front.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = hosts.iter().map(|host| SanType::DnsName((*host).try_into().unwrap())).collect();
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "csr", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"signerName": signer, "request": "", "usages": usages, "username": "system:bootstrap:abcdef"}}))
        .unwrap();
        csr.spec.request.0 = pem.into_bytes();
        csr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_signer_takes() {
        let (client, server) = (["client auth", "digital signature"], ["server auth", "digital signature", "key encipherment"]);
        let node = "system:node:n1";
        for (signer, name, organization, hosts, usages, expected) in [
            (KUBELET_CLIENT, node, "system:nodes", &[][..], &client[..], Some(true)),
            (KUBELET_CLIENT, node, "system:masters", &[], &client, Some(false)),
            (KUBELET_CLIENT, "n1", "system:nodes", &[], &client, Some(false)),
            (KUBELET_CLIENT, node, "system:nodes", &["n1"], &client, Some(false)),
            (KUBELET_CLIENT, node, "system:nodes", &[], &server, Some(false)),
            (KUBELET_SERVING, node, "system:nodes", &["n1"], &server, Some(true)),
            (KUBELET_SERVING, node, "system:nodes", &[], &server, Some(false)),
            (KUBELET_SERVING, node, "system:nodes", &["n1"], &client, Some(false)),
            (CLIENT, "anne", "devs", &[], &client, Some(true)),
            (CLIENT, "anne", "devs", &[], &server, Some(false)),
            (LEGACY_UNKNOWN, "anne", "devs", &[], &server, Some(true)),
            ("example.com/signer", "anne", "devs", &[], &client, None),
        ] {
            let csr = fixtures::csr(signer, name, organization, hosts, usages);
            let read = subject(&csr.spec.request.0).unwrap();
            assert_eq!(check(&csr, &read).map(|verdict| verdict.is_ok()), expected, "{signer} {name} {organization} {hosts:?} {usages:?}");
        }
        assert!(subject(b"nothing").is_err());
    }
}
