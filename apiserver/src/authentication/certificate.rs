//! Client certificates: signed by the cluster's client CA, CN is the user, each O a group.

use super::{Authenticator, Credentials, Recognised, UserInfo, unix};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};
use x509_parser::prelude::*;

/// How many verified chains are remembered; a cluster's components and nodes each have one.
const REMEMBERED: usize = 4096;

/// Verifies client certificates against one or more authorities.
pub struct ClientCertificates {
    verifier: Arc<dyn ClientCertVerifier>,
    /// The user of each chain that was verified, by its hash, until its leaf expires: a client sends the same one with every request.
    verified: Mutex<HashMap<[u8; 32], (i64, UserInfo)>>,
}

impl ClientCertificates {
    /// Trusts the authorities of a PEM file (`--client-ca-file`).
    pub fn new(authorities_pem: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut &*authorities_pem) {
            let certificate = certificate.map_err(|e| format!("client CA file: {e}"))?;
            roots.add(certificate).map_err(|e| format!("client CA file: {e}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(ClientCertificates { verifier: verifier.map_err(|e| format!("client CA file: {e}"))?, verified: Mutex::default() })
    }

    /// The user that the chain names, once it is verified.
    pub fn user(&self, chain: &[Vec<u8>], now: SystemTime) -> Result<UserInfo, String> {
        let mut hash = Sha256::new();
        chain.iter().for_each(|certificate| hash.update(certificate));
        let hash: [u8; 32] = hash.finalize().into();
        if let Some((until, user)) = self.verified.lock().get(&hash)
            && unix(now) <= *until
        {
            return Ok(user.clone());
        }
        let (until, user) = self.verify(chain, now)?;
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.clear(); // Rare, and cheaper to relearn than to keep in order of use.
        }
        verified.insert(hash, (until, user.clone()));
        Ok(user)
    }

    fn verify(&self, chain: &[Vec<u8>], now: SystemTime) -> Result<(i64, UserInfo), String> {
        let (leaf, rest) = chain.split_first().ok_or("no certificate")?;
        let rest: Vec<CertificateDer> = rest.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.verifier
            .verify_client_cert(&CertificateDer::from(leaf.as_slice()), &rest, UnixTime::since_unix_epoch(since))
            .map_err(|e| format!("client certificate: {e}"))?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| format!("client certificate: {e}"))?;
        // Any certificate of the chain may be the first to expire.
        let mut until = certificate.validity().not_after.timestamp();
        for der in &rest {
            if let Ok((_, certificate)) = X509Certificate::from_der(der) {
                until = until.min(certificate.validity().not_after.timestamp());
            }
        }
        let mut user = subject(certificate.subject())?;
        // Tells which certificate it was, for audit.
        let fingerprint: String = Sha256::digest(leaf).iter().map(|b| format!("{b:02x}")).collect();
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={fingerprint}")]);
        Ok((until, user))
    }
}

/// CN and O of a certificate's subject.
fn subject(name: &X509Name) -> Result<UserInfo, String> {
    let text = |attribute: &AttributeTypeAndValue| attribute.as_str().map(str::to_owned).map_err(|e| format!("client certificate: {e}"));
    let user = name.iter_common_name().last().map(text).transpose()?.unwrap_or_default();
    if user.is_empty() {
        return Err("client certificate: the common name is empty".to_owned());
    }
    let groups = name.iter_organization().map(text).collect::<Result<_, _>>()?;
    Ok(UserInfo { name: user, groups, ..UserInfo::default() })
}

impl Authenticator for ClientCertificates {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        audiences: &'a [String],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Recognised>, String>> {
        Box::pin(async move {
            if credentials.certificates.is_empty() {
                return Ok(None);
            }
            let user = self.user(&credentials.certificates, now)?;
            Ok(Some(Recognised { user, audiences: audiences.to_vec() }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Leaf, Usage};

    fn der(pem: &str) -> Vec<u8> {
        rustls_pemfile::certs(&mut pem.as_bytes()).next().unwrap().unwrap().to_vec()
    }

    #[test]
    fn a_certificate_counts_if_our_authority_signed_it_for_a_client_and_it_is_valid_now() {
        let now = SystemTime::now();
        let year = Duration::from_secs(366 * 24 * 3600);
        let (ours, other) = (Authority::new("kubernetes", now).unwrap(), Authority::new("kubernetes", now).unwrap());
        let authenticator = ClientCertificates::new(ours.pem().certificate.as_bytes()).unwrap();
        let bob = Leaf::client("bob", "devs");
        let server = Leaf { common_name: "bob".into(), organization: String::new(), usage: Usage::Server(vec!["localhost".into()]) };
        let nameless = Leaf::client("", "devs");
        let check = |authority: &Authority, leaf: &Leaf, at: SystemTime| {
            let chain = [der(&authority.issue(leaf, now).unwrap().certificate)];
            let answer = authenticator.user(&chain, at);
            assert_eq!(authenticator.user(&chain, at).is_ok(), answer.is_ok(), "the same again, from memory");
            answer
        };
        let user = check(&ours, &bob, now).unwrap();
        assert_eq!((user.name.as_str(), user.groups), ("bob", vec!["devs".to_owned()]));
        check(&other, &bob, now).unwrap_err();
        check(&ours, &bob, now + year).unwrap_err();
        check(&ours, &server, now).unwrap_err();
        check(&ours, &nameless, now).unwrap_err();
        authenticator.user(&[b"no certificate".to_vec()], now).unwrap_err();
    }

    #[test]
    fn a_remembered_chain_still_expires() {
        let now = SystemTime::now();
        let ours = Authority::new("kubernetes", now).unwrap();
        let authenticator = ClientCertificates::new(ours.pem().certificate.as_bytes()).unwrap();
        let chain = [der(&ours.issue(&Leaf::client("bob", ""), now).unwrap().certificate)];
        authenticator.user(&chain, now).unwrap();
        authenticator.user(&chain, now + Duration::from_secs(366 * 24 * 3600)).unwrap_err();
    }
}
