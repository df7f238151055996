//! Asking the cluster for a certificate: a CertificateSigningRequest, and the wait until somebody approved and somebody signed it.

use anyhow::{Context, bail};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::wait::{Condition, await_condition},
};
use rcgen::{CertificateParams, DnType, KeyPair};
use sha2::{Digest, Sha256};
use std::{net::IpAddr, time::Duration};

/// How long a request is waited for before it is made anew (upstream: `certificateWaitTimeout`).
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Being the node towards the API server.
    Client,
    /// Serving.
    Serving,
}

impl Purpose {
    /// Who signs it.
    pub fn signer(self) -> &'static str {
        match self {
            Purpose::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Purpose::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(self) -> Vec<String> {
        let own = match self {
            Purpose::Client => "client auth",
            Purpose::Serving => "server auth",
        };
        // A key on a curve enciphers no other key.
        vec!["digital signature".into(), own.into()]
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// For what.
    pub purpose: Purpose,
    /// Whose: the node's name.
    pub node: String,
    /// The names and addresses it serves under; none for a client.
    pub names: Vec<String>,
}

/// A key as upstream makes them: on P-256.
pub fn new_key() -> anyhow::Result<KeyPair> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("making a key")
}

/// The request in PEM.
pub fn signing_request(wanted: &Wanted, key: &KeyPair) -> anyhow::Result<String> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", wanted.node));
    for name in &wanted.names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => rcgen::SanType::IpAddress(address),
            Err(_) => rcgen::SanType::DnsName(name.as_str().try_into().with_context(|| format!("the name {name:?}"))?),
        });
    }
    Ok(params.serialize_request(key)?.pem()?)
}

/// The name of a node's first request: the same for the same key, so that a restart finds it again.
fn bootstrap_name(key: &KeyPair, node: &str) -> String {
    use base64::Engine;
    let mut hash = Sha256::new();
    hash.update(key.public_key_raw());
    hash.update(node.as_bytes());
    format!("node-csr-{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.finalize()))
}

/// How a request is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// After the key.
    ByKey,
    /// By the server.
    Generated,
}

/// Asks, waits, and answers with the certificate in PEM.
pub async fn certificate(client: Client, wanted: &Wanted, key: &KeyPair, naming: Naming) -> anyhow::Result<String> {
    let requests: Api<CertificateSigningRequest> = Api::all(client);
    let mut request = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(signing_request(wanted, key)?.into_bytes()),
            signer_name: wanted.purpose.signer().into(),
            usages: Some(wanted.purpose.usages()),
            ..Default::default()
        },
        ..Default::default()
    };
    match naming {
        Naming::ByKey => request.metadata.name = Some(bootstrap_name(key, &wanted.node)),
        Naming::Generated => request.metadata.generate_name = Some("csr-".into()),
    }
    let name = match requests.create(&PostParams::default(), &request).await {
        Ok(made) => made.metadata.name.unwrap_or_default(),
        // The same request was made before a restart.
        Err(kube::Error::Api(status)) if status.code == 409 && naming == Naming::ByKey => request.metadata.name.unwrap_or_default(),
        Err(error) => return Err(error).context("cannot create certificate signing request"),
    };
    tracing::info!(request = %name, signer = wanted.purpose.signer(), "waiting for the certificate to be approved and signed");
    let answered = tokio::time::timeout(PATIENCE, await_condition(requests, &name, Answered)).await;
    let answer =
        answered.with_context(|| format!("timed out waiting for the certificate of {name}"))?.context("waiting for the certificate")?;
    let answer = answer.with_context(|| format!("the request {name} is gone"))?;
    outcome(&answer)?.with_context(|| format!("the request {name} was answered with nothing"))
}

struct Answered;

impl Condition<CertificateSigningRequest> for Answered {
    fn matches_object(&self, request: Option<&CertificateSigningRequest>) -> bool {
        request.is_none_or(|request| !matches!(outcome(request), Ok(None)))
    }
}

/// The certificate, if there is one; an error if there will be none.
fn outcome(request: &CertificateSigningRequest) -> anyhow::Result<Option<String>> {
    let status = request.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    for (kind, word) in [("Denied", "denied"), ("Failed", "failed")] {
        if let Some(condition) = conditions.iter().find(|c| c.type_ == kind) {
            let (reason, message) = (condition.reason.as_deref().unwrap_or_default(), condition.message.as_deref().unwrap_or_default());
            bail!("certificate signing request is {word}, reason: {reason}, message: {message}");
        }
    }
    let approved = conditions.iter().any(|c| c.type_ == "Approved");
    let certificate = status.certificate.filter(|c| approved && !c.0.is_empty());
    certificate.map(|c| String::from_utf8(c.0).context("a certificate that is no text")).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use x509_parser::prelude::FromDer;

    #[test]
    fn a_request_says_whose_and_for_what() {
        let key = new_key().expect("a key");
        let wanted = Wanted { purpose: Purpose::Serving, node: "n1".into(), names: vec!["n1".into(), "192.0.2.1".into()] };
        let pem = signing_request(&wanted, &key).expect("a request");
        let der = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).next().expect("a block").expect("PEM").contents;
        let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).expect("a request");
        let subject = request.certification_request_info.subject.to_string();
        assert_eq!(subject, "O=system:nodes, CN=system:node:n1");
        let names = request.requested_extensions().expect("names").find_map(|e| match e {
            x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.len()),
            _ => None,
        });
        assert_eq!(names, Some(2));
        assert_eq!(bootstrap_name(&key, "n1"), bootstrap_name(&key, "n1"));
        assert_ne!(bootstrap_name(&key, "n1"), bootstrap_name(&key, "n2"));
    }

    #[test]
    fn a_request_is_answered_by_a_certificate_or_a_refusal() {
        let with = |status: serde_json::Value| -> CertificateSigningRequest {
            serde_json::from_value(json!({"metadata": {}, "spec": {"request": "", "signerName": "s"}, "status": status}))
                .expect("a request")
        };
        let approved = json!({"type": "Approved", "status": "True"});
        for (status, want) in [
            (json!({}), Ok(None)),
            (json!({"certificate": "Yw=="}), Ok(None)),
            (json!({"conditions": [approved]}), Ok(None)),
            (json!({"conditions": [approved], "certificate": "Yw=="}), Ok(Some("c".to_owned()))),
            (
                json!({"conditions": [{"type": "Denied", "status": "True", "reason": "r", "message": "m"}]}),
                Err("certificate signing request is denied, reason: r, message: m".to_owned()),
            ),
        ] {
            assert_eq!(outcome(&with(status)).map_err(|e| e.to_string()), want);
        }
    }
}
