//! Service account tokens: signed, verified, and published as keys for others to verify (OIDC discovery).
//!
//! Everything here is about the token as a document. Whether the account and the pod that it names still exist is
//! [`crate::authentication::service_account`]'s question, who may ask for one [`crate::reviews::token_request`]'s.

mod claims;
mod keys;

pub use claims::{Claims, Named, Private};
pub use keys::{KeyError, SigningKey, VerificationKey};

use jsonwebtoken::{Algorithm, Header, Validation};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// How far another machine's clock may be off, in seconds (go-jose's default, which upstream uses).
pub const LEEWAY: i64 = 60;
/// How many verified signatures are remembered. A node's kubelet and its pods use a handful of tokens each.
const REMEMBERED: usize = 4096;
/// The issuer in tokens that older clusters kept in secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Signs and verifies the cluster's service account tokens.
pub struct Issuer {
    issuers: Vec<String>,
    audiences: Vec<String>,
    signing: Option<SigningKey>,
    keys: Vec<VerificationKey>,
    /// Claims of tokens whose signature was verified, by the token's hash: verifying costs a quarter of a millisecond, this a microsecond.
    /// Only the signature is remembered; times and objects are checked on every use.
    verified: Mutex<HashMap<[u8; 32], Claims>>,
}

impl Issuer {
    /// `issuers`: the first is written into tokens, all are accepted. `audiences`: what this server answers to; the first issuer when empty.
    /// `keys`: whose signatures are accepted, besides the signing key's own.
    pub fn new(issuers: Vec<String>, audiences: Vec<String>, signing: Option<SigningKey>, mut keys: Vec<VerificationKey>) -> Self {
        keys.extend(signing.as_ref().map(SigningKey::verification));
        let mut ids = Vec::new();
        keys.retain(|key| !ids.contains(&key.id) && (ids.push(key.id.clone()), true).1);
        let audiences = if audiences.is_empty() { issuers.first().cloned().into_iter().collect() } else { audiences };
        Issuer { issuers, audiences, signing, keys, verified: Mutex::default() }
    }

    /// The issuer that new tokens name.
    pub fn name(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }

    /// The audiences that this server answers to.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The signed token, or why it cannot be made.
    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        let key = self.signing.as_ref().ok_or("no service account signing key is configured")?;
        let mut header = Header::new(key.algorithm);
        header.typ = None;
        header.kid = Some(key.id.clone());
        jsonwebtoken::encode(&header, claims, &key.encoding).map_err(|e| format!("signing a service account token: {e}"))
    }

    /// The claims of a token with a good signature. `None`: it is not one of this issuer's; `Err`: it claims to be, and is not.
    pub fn verify(&self, token: &str) -> Result<Option<Claims>, String> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.verified.lock().get(&hash) {
            return Ok(Some(claims.clone()));
        }
        let Ok(unverified) = jsonwebtoken::dangerous::insecure_decode::<Claims>(token) else { return Ok(None) };
        let issuer = &unverified.claims.issuer;
        if issuer != LEGACY_ISSUER && !self.issuers.contains(issuer) {
            return Ok(None);
        }
        let id = unverified.header.kid.as_deref();
        let named = self.keys.iter().filter(|key| id.is_some_and(|id| key.id == id));
        let candidates: Vec<_> =
            if self.keys.iter().any(|key| Some(key.id.as_str()) == id) { named.collect() } else { self.keys.iter().collect() };
        for key in candidates {
            if let Ok(data) = jsonwebtoken::decode::<Claims>(token, &key.decoding, &signature_only(key.algorithm)) {
                let mut verified = self.verified.lock();
                if verified.len() >= REMEMBERED {
                    verified.clear(); // Rare, and cheaper to relearn than to keep in order of use.
                }
                verified.insert(hash, data.claims.clone());
                return Ok(Some(data.claims));
            }
        }
        Err("the token's signature is by none of the service account keys".to_owned())
    }

    /// `/openid/v1/jwks`.
    pub fn key_set(&self) -> Value {
        json!({"keys": self.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
    }

    /// `/.well-known/openid-configuration`. `jwks_uri` is where [`Issuer::key_set`] is served to others.
    pub fn discovery(&self, jwks_uri: &str) -> Value {
        let mut algorithms: Vec<String> = self.keys.iter().map(|key| format!("{:?}", key.algorithm)).collect();
        algorithms.sort();
        algorithms.dedup();
        json!({
            "issuer": self.name(),
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

/// Times and audiences are checked against the server's own clock and configuration by [`Claims::check`].
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2\nOF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r\n1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G\n-----END PRIVATE KEY-----\n";

    pub(crate) fn issuer() -> Issuer {
        Issuer::new(vec!["https://issuer".into()], vec![], Some(SigningKey::from_pem(PRIVATE).unwrap()), vec![])
    }

    fn claims() -> Claims {
        Claims {
            issuer: "https://issuer".into(),
            subject: "system:serviceaccount:default:a".into(),
            audience: vec!["https://issuer".into()],
            expires: 2000,
            not_before: Some(1000),
            ..Claims::default()
        }
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        let issuer = issuer();
        let token = issuer.sign(&claims()).unwrap();
        assert_eq!(issuer.verify(&token), Ok(Some(claims())));
        assert_eq!(issuer.verify(&token), Ok(Some(claims())), "from memory");
        let (head, signature) = token.rsplit_once('.').unwrap();
        let other = SigningKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let forged = Issuer::new(vec!["https://issuer".into()], vec![], Some(other), vec![]).sign(&claims()).unwrap();
        let (forged_head, _) = forged.rsplit_once('.').unwrap();
        for bad in [forged.clone(), format!("{forged_head}.{signature}"), format!("{head}."), format!("{head}.AAAA")] {
            assert!(issuer.verify(&bad).is_err(), "{bad}");
        }
        for foreign in ["", "a", "a.b.c", "wrong"] {
            assert_eq!(issuer.verify(foreign), Ok(None), "{foreign}");
        }
        let elsewhere = Claims { issuer: "https://elsewhere".into(), ..claims() };
        assert_eq!(issuer.verify(&issuer.sign(&elsewhere).unwrap()), Ok(None));
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as B64};
        let body = B64.encode(serde_json::to_vec(&claims()).unwrap());
        let token = format!("{}.{body}.", B64.encode(r#"{"alg":"none"}"#));
        assert!(!matches!(issuer().verify(&token), Ok(Some(_))));
    }

    #[test]
    fn published_keys_name_what_signed() {
        let issuer = issuer();
        let token = issuer.sign(&claims()).unwrap();
        let id = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
        let key = &issuer.key_set()["keys"][0];
        assert_eq!((key["kid"].as_str(), key["kty"].as_str(), key["alg"].as_str()), (Some(id.as_str()), Some("EC"), Some("ES256")));
        let document = issuer.discovery("https://127.0.0.1:6443/openid/v1/jwks");
        assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    }
}
