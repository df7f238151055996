//! How one value is sealed and opened: upstream's formats, a prefix that says how and with which key, then what the cipher makes
//! (upstream: `apiserver/pkg/storage/value/encrypt`).

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, Nonce};
use bytes::Bytes;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit, block_padding::Pkcs7, consts::U12};
use crypto_secretbox::XSalsa20Poly1305;

/// What every sealed value begins with.
const SEALED: &[u8] = b"k8s:enc:";
const GCM_NONCE: usize = 12;
const CBC_IV: usize = 16;
const BOX_NONCE: usize = 24;

type Aes192Gcm = AesGcm<aes::Aes192, U12>;

/// A cipher with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// None: values stand as they are.
    Identity,
    /// AES in CBC mode with PKCS#7 padding; 16, 24 or 32 bytes.
    AesCbc(Vec<u8>),
    /// AES-GCM, which also binds the value to its key in the store; 16, 24 or 32 bytes.
    AesGcm(Vec<u8>),
    /// XSalsa20 and Poly1305; 32 bytes.
    Secretbox(Vec<u8>),
}

/// Seals and opens values.
#[derive(Clone, Debug)]
pub struct Transformer {
    /// `k8s:enc:aesgcm:v1:key1:`; nothing for values that stand as they are.
    prefix: Vec<u8>,
    cipher: Cipher,
}

fn random<const N: usize>() -> [u8; N] {
    rand::random()
}

impl Transformer {
    /// With a key of this name.
    pub fn new(name: &str, cipher: Cipher) -> Self {
        let kind = match &cipher {
            Cipher::Identity => return Transformer { prefix: Vec::new(), cipher },
            Cipher::AesCbc(_) => "aescbc",
            Cipher::AesGcm(_) => "aesgcm",
            Cipher::Secretbox(_) => "secretbox",
        };
        Transformer { prefix: format!("k8s:enc:{kind}:v1:{name}:").into_bytes(), cipher }
    }

    /// Whether a stored value is its own work.
    pub fn made(&self, stored: &[u8]) -> bool {
        match self.cipher {
            Cipher::Identity => !stored.starts_with(SEALED),
            _ => stored.starts_with(&self.prefix),
        }
    }

    /// The value as it is stored under `key`.
    pub fn seal(&self, key: &str, value: Bytes) -> Bytes {
        let (start, body) = match &self.cipher {
            Cipher::Identity => return value,
            Cipher::AesCbc(secret) => {
                let iv = random::<CBC_IV>();
                (iv.to_vec(), cbc_seal(secret, &iv, &value))
            }
            Cipher::AesGcm(secret) => {
                let nonce = random::<GCM_NONCE>();
                (nonce.to_vec(), gcm(secret, &nonce, Payload { msg: &value, aad: key.as_bytes() }, true))
            }
            Cipher::Secretbox(secret) => {
                let nonce = random::<BOX_NONCE>();
                let made = XSalsa20Poly1305::new_from_slice(secret).ok().and_then(|c| c.encrypt((&nonce).into(), &*value).ok());
                (nonce.to_vec(), made)
            }
        };
        let body = body.expect("keys have their length since the configuration was read, and no value is too long for a cipher");
        [self.prefix.as_slice(), &start, &body].concat().into()
    }

    /// The value of what is stored under `key`; `None` if it does not open.
    pub fn open(&self, key: &str, stored: &Bytes) -> Option<Bytes> {
        let sealed = stored.strip_prefix(self.prefix.as_slice())?;
        let opened = match &self.cipher {
            Cipher::Identity => return Some(stored.clone()),
            Cipher::AesCbc(secret) => {
                let (iv, body) = sealed.split_at_checked(CBC_IV)?;
                cbc_open(secret, iv, body)
            }
            Cipher::AesGcm(secret) => {
                let (nonce, body) = sealed.split_at_checked(GCM_NONCE)?;
                gcm(secret, nonce, Payload { msg: body, aad: key.as_bytes() }, false)
            }
            Cipher::Secretbox(secret) => {
                let (nonce, body) = sealed.split_at_checked(BOX_NONCE)?;
                XSalsa20Poly1305::new_from_slice(secret).ok()?.decrypt(nonce.into(), body).ok()
            }
        };
        opened.map(Bytes::from)
    }
}

/// One way or the other, by the length of the key.
fn gcm(secret: &[u8], nonce: &[u8], payload: Payload<'_, '_>, seal: bool) -> Option<Vec<u8>> {
    fn with<C: KeyInit + Aead<NonceSize = U12>>(secret: &[u8], nonce: &[u8], payload: Payload<'_, '_>, seal: bool) -> Option<Vec<u8>> {
        let cipher = C::new_from_slice(secret).ok()?;
        let nonce: &Nonce<U12> = nonce.into();
        if seal { cipher.encrypt(nonce, payload).ok() } else { cipher.decrypt(nonce, payload).ok() }
    }
    match secret.len() {
        16 => with::<Aes128Gcm>(secret, nonce, payload, seal),
        24 => with::<Aes192Gcm>(secret, nonce, payload, seal),
        _ => with::<Aes256Gcm>(secret, nonce, payload, seal),
    }
}

fn cbc_seal(secret: &[u8], iv: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    match secret.len() {
        16 => Some(cbc::Encryptor::<aes::Aes128>::new_from_slices(secret, iv).ok()?.encrypt_padded_vec_mut::<Pkcs7>(value)),
        24 => Some(cbc::Encryptor::<aes::Aes192>::new_from_slices(secret, iv).ok()?.encrypt_padded_vec_mut::<Pkcs7>(value)),
        _ => Some(cbc::Encryptor::<aes::Aes256>::new_from_slices(secret, iv).ok()?.encrypt_padded_vec_mut::<Pkcs7>(value)),
    }
}

fn cbc_open(secret: &[u8], iv: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    match secret.len() {
        16 => cbc::Decryptor::<aes::Aes128>::new_from_slices(secret, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(body).ok(),
        24 => cbc::Decryptor::<aes::Aes192>::new_from_slices(secret, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(body).ok(),
        _ => cbc::Decryptor::<aes::Aes256>::new_from_slices(secret, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(body).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "/registry/secrets/ns/a";
    const VALUE: &[u8] = br#"{"kind":"Secret"}"#;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn secret(length: u8) -> Vec<u8> {
        (0..length).collect()
    }

    #[test]
    fn what_other_implementations_sealed_is_opened() {
        for (cipher, prefix, sealed) in [
            (
                Cipher::AesGcm(secret(32)),
                "k8s:enc:aesgcm:v1:k:",
                "6465666768696a6b6c6d6e6f3339b50f178d74a41c313a8ba8001edf3fbd06f51b8369b3036ce9f42d64661d9f",
            ),
            (
                Cipher::AesGcm(secret(24)),
                "k8s:enc:aesgcm:v1:k:",
                "6465666768696a6b6c6d6e6f924ad0153ccb2c02f18287628897ef9ca09a4d48cda3e31f5d2f5129fb644d252d",
            ),
            (
                Cipher::AesCbc(secret(32)),
                "k8s:enc:aescbc:v1:k:",
                "32333435363738393a3b3c3d3e3f4041fe278d2125d1dc5fa65eaa846976314baab26d254bf5db43e503ad1a58f266fe",
            ),
            (
                Cipher::Secretbox(secret(32)),
                "k8s:enc:secretbox:v1:k:",
                "000102030405060708090a0b0c0d0e0f101112131415161704ea051d45311f98b1b8fa426fca41d025dd5326a9ae802a996fea5d1aea3eb52f",
            ),
        ] {
            let stored = Bytes::from([prefix.as_bytes(), &bytes(sealed)].concat());
            let transformer = Transformer::new("k", cipher);
            assert!(transformer.made(&stored));
            assert_eq!(transformer.open(KEY, &stored).as_deref(), Some(VALUE), "{prefix}");
            assert!(!Transformer::new("other", Cipher::AesGcm(secret(32))).made(&stored));
        }
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_only() {
        let ciphers: [fn(Vec<u8>) -> Cipher; 2] = [Cipher::AesGcm, Cipher::AesCbc];
        let mut all: Vec<Cipher> = ciphers.iter().flat_map(|cipher| [16, 24, 32].map(|length| cipher(secret(length)))).collect();
        all.push(Cipher::Secretbox(secret(32)));
        for cipher in all {
            let transformer = Transformer::new("k", cipher.clone());
            let sealed = transformer.seal(KEY, Bytes::from_static(VALUE));
            assert!(!sealed.windows(VALUE.len()).any(|part| part == VALUE), "{cipher:?}");
            assert_ne!(sealed, transformer.seal(KEY, Bytes::from_static(VALUE)), "two are never the same");
            assert_eq!(transformer.open(KEY, &sealed).as_deref(), Some(VALUE), "{cipher:?}");
            assert_eq!(transformer.open(KEY, &sealed.slice(..sealed.len() - 1)), None, "{cipher:?}");
            if matches!(cipher, Cipher::AesGcm(_)) {
                assert_eq!(transformer.open("/registry/secrets/ns/b", &sealed), None, "it is bound to its place");
            }
        }
    }
}
