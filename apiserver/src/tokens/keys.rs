//! Keys that sign and verify service account tokens: P-256 and RSA, from any of the PEM forms that `openssl`, kubeadm and we write.
//! A key's id is upstream's: the SHA-256 of its public half, so that two servers with the same keys agree on it.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as B64};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use p256::{
    elliptic_curve::sec1::ToEncodedPoint,
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding},
};
use rsa::{
    pkcs1::{DecodeRsaPrivateKey, DecodeRsaPublicKey, EncodeRsaPrivateKey},
    traits::PublicKeyParts,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The PEM text holds no key of a kind that tokens are signed with.
    #[error("no P-256 or RSA key found")]
    NoKey,
    /// The key does not encode, or the token library refuses it.
    #[error("unusable key: {0}")]
    Unusable(String),
}

fn unusable(error: impl std::fmt::Display) -> KeyError {
    KeyError::Unusable(error.to_string())
}

/// A public key whose signatures are accepted.
#[derive(Clone)]
pub struct VerificationKey {
    /// `kid`.
    pub id: String,
    /// ES256 or RS256.
    pub algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    pub(super) jwk: Value,
}

/// The private key that tokens are signed with.
pub struct SigningKey {
    /// `kid`.
    pub id: String,
    /// ES256 or RS256.
    pub algorithm: Algorithm,
    pub(super) encoding: EncodingKey,
    public: VerificationKey,
}

fn key_id(public_der: &[u8]) -> String {
    B64.encode(Sha256::digest(public_der))
}

fn elliptic(key: &p256::PublicKey) -> Result<VerificationKey, KeyError> {
    let id = key_id(key.to_public_key_der().map_err(unusable)?.as_bytes());
    let point = key.to_encoded_point(false);
    let (Some(x), Some(y)) = (point.x(), point.y()) else { return Err(KeyError::NoKey) };
    let (x, y) = (B64.encode(x), B64.encode(y));
    let decoding = DecodingKey::from_ec_components(&x, &y).map_err(unusable)?;
    let jwk = json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256", "x": x, "y": y});
    Ok(VerificationKey { id, algorithm: Algorithm::ES256, decoding, jwk })
}

fn rsa_key(key: &rsa::RsaPublicKey) -> Result<VerificationKey, KeyError> {
    let id = key_id(key.to_public_key_der().map_err(unusable)?.as_bytes());
    let (n, e) = (key.n().to_bytes_be(), key.e().to_bytes_be());
    let decoding = DecodingKey::from_rsa_raw_components(&n, &e);
    let jwk = json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": B64.encode(n), "e": B64.encode(e)});
    Ok(VerificationKey { id, algorithm: Algorithm::RS256, decoding, jwk })
}

impl VerificationKey {
    /// All keys of a PEM text, public halves of private ones included.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, KeyError> {
        let mut keys = Vec::new();
        for block in &blocks(text) {
            if let Ok(key) = p256::PublicKey::from_public_key_pem(block) {
                keys.push(elliptic(&key)?);
            } else if let Ok(key) = rsa::RsaPublicKey::from_public_key_pem(block).or_else(|_| rsa::RsaPublicKey::from_pkcs1_pem(block)) {
                keys.push(rsa_key(&key)?);
            } else if let Ok(key) = SigningKey::from_pem(block) {
                keys.push(key.public);
            }
        }
        if keys.is_empty() { Err(KeyError::NoKey) } else { Ok(keys) }
    }
}

/// The PEM blocks of a text, each from its BEGIN line to its END line.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block = None::<String>;
    for line in text.lines() {
        if line.starts_with("-----BEGIN ") {
            block = Some(String::new());
        }
        if let Some(block) = &mut block {
            block.push_str(line);
            block.push('\n');
        }
        if line.starts_with("-----END ") {
            blocks.extend(block.take());
        }
    }
    blocks
}

impl SigningKey {
    /// The private key of a PEM text: PKCS#8, SEC 1 or PKCS#1.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if let Ok(key) = p256::SecretKey::from_pkcs8_pem(text).or_else(|_| p256::SecretKey::from_sec1_pem(text)) {
            let public = elliptic(&key.public_key())?;
            let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(unusable)?;
            let encoding = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(unusable)?;
            return Ok(SigningKey { id: public.id.clone(), algorithm: public.algorithm, encoding, public });
        }
        if let Ok(key) = rsa::RsaPrivateKey::from_pkcs8_pem(text).or_else(|_| rsa::RsaPrivateKey::from_pkcs1_pem(text)) {
            let public = rsa_key(&key.to_public_key())?;
            let pem = key.to_pkcs1_pem(LineEnding::LF).map_err(unusable)?;
            let encoding = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(unusable)?;
            return Ok(SigningKey { id: public.id.clone(), algorithm: public.algorithm, encoding, public });
        }
        Err(KeyError::NoKey)
    }

    /// Its public half.
    pub fn verification(&self) -> VerificationKey {
        self.public.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tests::PRIVATE;

    #[test]
    fn a_private_key_and_its_public_half_are_the_same_key() {
        let private = SigningKey::from_pem(PRIVATE).unwrap();
        let public = rcgen::KeyPair::from_pem(PRIVATE).unwrap().public_key_pem();
        let both = VerificationKey::all_from_pem(&format!("# a comment\n{public}\n{PRIVATE}")).unwrap();
        assert_eq!(both.len(), 2);
        assert!(both.iter().all(|key| key.id == private.id && key.algorithm == Algorithm::ES256));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----END PRIVATE KEY-----"] {
            assert!(matches!(VerificationKey::all_from_pem(text), Err(KeyError::NoKey)), "{text}");
        }
    }
}
