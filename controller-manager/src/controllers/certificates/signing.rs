//! Signs requests that are approved, with the cluster's authority (upstream: `signer/signer.go`, `authority/policies.go`).

use super::{condition, is_issued, request};
use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, Request};
use anyhow::Context as _;
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::parse_x509_pem;

/// The shortest time a certificate can be asked for.
const SHORTEST: i64 = 600;
/// Certificates are valid from a little earlier, for clocks that are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// But not those that last no longer than this.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// The usages that a certificate can have: as key usage or as extended key usage.
const KEY_USAGES: [(&str, KeyUsagePurpose); 10] = [
    ("signing", KeyUsagePurpose::DigitalSignature),
    ("digital signature", KeyUsagePurpose::DigitalSignature),
    ("content commitment", KeyUsagePurpose::ContentCommitment),
    ("key encipherment", KeyUsagePurpose::KeyEncipherment),
    ("key agreement", KeyUsagePurpose::KeyAgreement),
    ("data encipherment", KeyUsagePurpose::DataEncipherment),
    ("cert sign", KeyUsagePurpose::KeyCertSign),
    ("crl sign", KeyUsagePurpose::CrlSign),
    ("encipher only", KeyUsagePurpose::EncipherOnly),
    ("decipher only", KeyUsagePurpose::DecipherOnly),
];
const EXTENDED_USAGES: [(&str, ExtendedKeyUsagePurpose); 8] = [
    ("any", ExtendedKeyUsagePurpose::Any),
    ("server auth", ExtendedKeyUsagePurpose::ServerAuth),
    ("client auth", ExtendedKeyUsagePurpose::ClientAuth),
    ("code signing", ExtendedKeyUsagePurpose::CodeSigning),
    ("email protection", ExtendedKeyUsagePurpose::EmailProtection),
    ("s/mime", ExtendedKeyUsagePurpose::EmailProtection),
    ("timestamping", ExtendedKeyUsagePurpose::TimeStamping),
    ("ocsp signing", ExtendedKeyUsagePurpose::OcspSigning),
];

/// The cluster's authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    expires: Timestamp,
    /// `--cluster-signing-duration`.
    longest: SignedDuration,
}

impl Authority {
    fn new(certificate: &str, key: &str, longest: Duration) -> anyhow::Result<Self> {
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).context("reading the signing certificate")?;
        let expires = pem.parse_x509().context("reading the signing certificate")?.validity().not_after.timestamp();
        let key = KeyPair::from_pem(key).context("reading the signing key")?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(certificate, key).context("reading the signing certificate")?,
            expires: Timestamp::from_second(expires).context("reading the signing certificate")?,
            longest: SignedDuration::try_from(longest).context("the signing duration")?,
        })
    }

    /// The certificate, in PEM.
    fn sign(&self, csr: &CertificateSigningRequest, now: Timestamp) -> anyhow::Result<String> {
        let pem = std::str::from_utf8(&csr.spec.request.0).context("unable to parse csr")?;
        let mut wanted = CertificateSigningRequestParams::from_pem(pem).context("unable to parse csr")?;
        let asked = csr.spec.expiration_seconds.map(|seconds| SignedDuration::from_secs(i64::from(seconds).max(SHORTEST)));
        let lifetime = asked.map_or(self.longest, |asked| asked.min(self.longest));
        let from = if lifetime > SHORT { now - BACKDATE } else { now };
        let until = (from + lifetime).min(self.expires);
        anyhow::ensure!(until > now, "refusing to sign a certificate that expired in the past: the signer has expired");
        let params = &mut wanted.params;
        params.not_before = SystemTime::from(from).into();
        params.not_after = SystemTime::from(until).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = Vec::new();
        params.extended_key_usages = Vec::new();
        for usage in csr.spec.usages.iter().flatten() {
            let (plain, extended) = (KEY_USAGES.iter().find(|row| row.0 == usage), EXTENDED_USAGES.iter().find(|row| row.0 == usage));
            anyhow::ensure!(plain.is_some() || extended.is_some(), "unrecognized key usage: {usage}");
            params.key_usages.extend(plain.map(|row| row.1).filter(|usage| !params.key_usages.contains(usage)));
            params.extended_key_usages.extend(extended.map(|row| row.1.clone()));
        }
        Ok(wanted.signed_by(&self.issuer).context("signing")?.pem())
    }
}

/// Keys are requests.
pub struct Signer {
    context: Context,
    /// By the names of signers.
    authorities: BTreeMap<&'static str, Authority>,
    requests: Arc<Cache<CertificateSigningRequest>>,
}

impl Signer {
    /// With the shared caches; `None` without any authority.
    pub fn new(context: Context) -> Option<Self> {
        let mut authorities = BTreeMap::new();
        for (name, signing) in &context.settings.signing {
            match Authority::new(&signing.certificate, &signing.key, signing.duration) {
                Ok(authority) => drop(authorities.insert(*name, authority)),
                Err(error) => tracing::error!(signer = name, error = format!("{error:#}"), "no certificates will be signed"),
            }
        }
        (!authorities.is_empty()).then(|| Self { authorities, requests: context.caches.of(), context })
    }
}

fn plan(authority: &Authority, csr: &CertificateSigningRequest, now: Timestamp) -> anyhow::Result<Vec<Op>> {
    if is_issued(csr) || condition(csr, "Approved").is_none() || condition(csr, "Failed").is_some() {
        return Ok(Vec::new());
    }
    let subject = request::subject(&csr.spec.request.0).map_err(anyhow::Error::msg)?;
    let Some(verdict) = request::check(csr, &subject) else { return Ok(Vec::new()) };
    let mut answered = csr.clone();
    let status = answered.status.get_or_insert_default();
    match verdict {
        Ok(()) => status.certificate = Some(ByteString(authority.sign(csr, now)?.into_bytes())),
        Err(why) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Failed".to_owned(),
            status: "True".to_owned(),
            reason: Some("SignerValidationFailure".to_owned()),
            message: Some(why.to_owned()),
            last_update_time: Some(Time(now)),
            ..CertificateSigningRequestCondition::default()
        }),
    }
    Ok(vec![Op::send(Request::replace_status(&answered).tolerating(&[404]))])
}

impl Controller for Signer {
    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.requests, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(csr) = self.requests.get(key) else { return Ok(None) };
            let Some(authority) = self.authorities.get(csr.spec.signer_name.as_str()) else { return Ok(None) };
            Ok(self.context.executor.apply(plan(authority, &csr, Timestamp::now())?).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType};
    use request::fixtures::csr;

    fn authority(now: Timestamp) -> (Authority, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = SystemTime::from(now + SignedDuration::from_hours(24 * 365)).into();
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        (Authority::new(&pem, &key.serialize_pem(), Duration::from_secs(24 * 3600)).unwrap(), pem)
    }

    fn approved(mut csr: CertificateSigningRequest) -> CertificateSigningRequest {
        let condition = CertificateSigningRequestCondition { type_: "Approved".into(), status: "True".into(), ..Default::default() };
        csr.status.get_or_insert_default().conditions = Some(vec![condition]);
        csr
    }

    #[test]
    fn what_is_approved_is_signed_as_asked() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (authority, pem) = authority(now);
        let usages = ["digital signature", "key encipherment", "server auth"];
        let open = csr(request::KUBELET_SERVING, "system:node:n1", "system:nodes", &["n1"], &usages);
        assert!(plan(&authority, &open, now).unwrap().is_empty(), "not approved");
        let mut asked = approved(open);
        asked.spec.expiration_seconds = Some(3600);
        let [Op::Send(request)] = &plan(&authority, &asked, now).unwrap()[..] else { panic!("one request") };
        let signed: CertificateSigningRequest = serde_json::from_value(request.body.clone()).unwrap();
        assert!(plan(&authority, &signed, now).unwrap().is_empty(), "signed once");
        let certificate = signed.status.unwrap().certificate.unwrap().0;
        let (_, block) = parse_x509_pem(&certificate).unwrap();
        let certificate = block.parse_x509().unwrap();
        let (_, issuer) = parse_x509_pem(pem.as_bytes()).unwrap();
        certificate.verify_signature(Some(issuer.parse_x509().unwrap().public_key())).unwrap();
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:n1");
        let validity = certificate.validity();
        assert_eq!((validity.not_before.timestamp(), validity.not_after.timestamp()), (now.as_second(), now.as_second() + 3600));
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert_eq!((extended.server_auth, extended.client_auth), (true, false));
        assert!(!certificate.is_ca());
    }

    #[test]
    fn what_the_signer_does_not_take_fails() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let wrong = approved(csr(request::KUBELET_CLIENT, "anne", "system:nodes", &[], &["client auth", "digital signature"]));
        let [Op::Send(request)] = &plan(&authority(now).0, &wrong, now).unwrap()[..] else { panic!("one request") };
        let failed = &request.body["status"]["conditions"][1];
        assert_eq!((&failed["type"], &failed["reason"]), (&"Failed".into(), &"SignerValidationFailure".into()));
    }
}
