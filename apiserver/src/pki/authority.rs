//! A certificate authority in memory: makes itself, and signs leaves. P-256 throughout: keys in microseconds, and every client knows it.
//! Lifetimes are kubeadm's: ten years for authorities, one for what they sign.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3650);
const LEAF_LIFETIME: Duration = DAY.saturating_mul(365);
/// Certificates are valid from a little before they are made, for peers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// What a leaf is for.
pub enum Usage {
    /// Proves a server under these names and addresses.
    Server(Vec<String>),
    /// Proves a client.
    Client,
}

/// A certificate to be signed.
pub struct Leaf {
    /// CN: a client's user name.
    pub common_name: String,
    /// O: a client's group, unless empty. One is all that any certificate here needs.
    pub organization: String,
    /// What it is for.
    pub usage: Usage,
}

impl Leaf {
    /// A client's certificate.
    pub fn client(common_name: impl Into<String>, organization: &str) -> Self {
        Leaf { common_name: common_name.into(), organization: organization.to_owned(), usage: Usage::Client }
    }
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// PKCS#8.
    pub key: String,
}

/// An authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issued: Issued,
}

fn name(common_name: &str, organization: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !organization.is_empty() {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn valid(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + lifetime).into();
}

impl Authority {
    /// A new authority under this name.
    pub fn new(common_name: &str, now: SystemTime) -> Result<Self, rcgen::Error> {
        // The name also as a DNS SAN, as kubeadm does.
        let mut params = CertificateParams::new([common_name.to_owned()])?;
        params.distinguished_name = name(common_name, "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        valid(&mut params, now, AUTHORITY_LIFETIME);
        let key = KeyPair::generate()?;
        let issued = Issued { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() };
        Ok(Authority { issuer: Issuer::new(params, key), issued })
    }

    /// The authority that was kept as PEM.
    pub fn load(issued: Issued) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&issued.certificate, KeyPair::from_pem(&issued.key)?)?;
        Ok(Authority { issuer, issued })
    }

    /// Its own certificate and key.
    pub fn pem(&self) -> &Issued {
        &self.issued
    }

    /// Makes a key and signs a certificate for it.
    pub fn issue(&self, leaf: &Leaf, now: SystemTime) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&leaf.common_name, &leaf.organization);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        match &leaf.usage {
            Usage::Client => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server(names) => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                for name in names {
                    params.subject_alt_names.push(match name.parse::<IpAddr>() {
                        Ok(address) => SanType::IpAddress(address),
                        Err(_) => SanType::DnsName(name.as_str().try_into()?),
                    });
                }
            }
        }
        valid(&mut params, now, LEAF_LIFETIME);
        let key = KeyPair::generate()?;
        Ok(Issued { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::*;

    #[test]
    fn a_leaf_is_signed_by_its_authority_and_by_no_other() {
        let now = SystemTime::now();
        let ours = Authority::new("kubernetes", now).unwrap();
        let reloaded = Authority::load(ours.pem().clone()).unwrap();
        let leaf = reloaded.issue(&Leaf::client("bob", "devs"), now).unwrap();
        let (_, pem) = parse_x509_pem(leaf.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.subject().to_string(), "O=devs, CN=bob");
        for (authority, good) in [(&ours, true), (&Authority::new("kubernetes", now).unwrap(), false)] {
            let (_, pem) = parse_x509_pem(authority.pem().certificate.as_bytes()).unwrap();
            assert_eq!(certificate.verify_signature(Some(pem.parse_x509().unwrap().public_key())).is_ok(), good);
        }
    }

    #[test]
    fn a_server_certificate_has_its_names_and_addresses() {
        let now = SystemTime::now();
        let usage = Usage::Server(vec!["localhost".into(), "10.96.0.1".into(), "::1".into()]);
        let leaf = Leaf { common_name: "kube-apiserver".into(), organization: String::new(), usage };
        let issued = Authority::new("kubernetes", now).unwrap().issue(&leaf, now).unwrap();
        let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names[0], GeneralName::DNSName("localhost"));
        assert_eq!(names[1], GeneralName::IPAddress(&[10, 96, 0, 1]));
        assert_eq!(names.len(), 3);
    }
}
