//! Secrets of type `kubernetes.io/service-account-token`: fills in the token, the certificate authority and the namespace for the service account that
//! the secret names, and deletes the secret when that account is gone (upstream: `pkg/controller/serviceaccount/tokens_controller.go`).
//!
//! Such tokens never expire; pods get bound ones from the apiserver instead.

use crate::controller::{Context, Controller, Keys};
use crate::ops::{DeleteOptions, Op, Request};
use anyhow::Context as _;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Cache, Change, ObjectKey, SharedCaches};
use futures::future::BoxFuture;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The secrets that hold tokens of service accounts: no others are watched.
pub fn token_secrets(caches: &SharedCaches) -> Arc<Cache<Secret>> {
    caches.selected(kube::runtime::watcher::Config::default().any_semantic().fields(&format!("type={TYPE}")))
}

/// Signs tokens.
struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    id: String,
}

impl Signer {
    /// From a private key in PEM, RSA or ECDSA P-256.
    fn new(pem: &str) -> anyhow::Result<Self> {
        let rsa = EncodingKey::from_rsa_pem(pem.as_bytes()).map(|key| (key, Algorithm::RS256));
        let (key, algorithm) = rsa
            .or_else(|_| EncodingKey::from_ec_pem(pem.as_bytes()).map(|key| (key, Algorithm::ES256)))
            .context("reading the service account key")?;
        let pair = rcgen::KeyPair::from_pem(pem).context("reading the service account key")?;
        // Upstream's key ID: the hash of the public key as it stands in certificates.
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&pair)));
        Ok(Self { key, algorithm, id })
    }

    fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let header = Header { typ: None, kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).context("signing a token")
    }
}

/// Keys are secrets.
pub struct TokenController {
    context: Context,
    signer: Signer,
    authority: Option<String>,
    accounts: Arc<Cache<ServiceAccount>>,
    secrets: Arc<Cache<Secret>>,
}

impl TokenController {
    /// With the shared caches; `None` without a key to sign with.
    pub fn new(context: Context) -> Option<Self> {
        let pem = context.settings.service_account_key.clone()?;
        let signer = match Signer::new(&pem) {
            Ok(signer) => signer,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "no tokens for service accounts");
                return None;
            }
        };
        let authority = context.settings.root_ca.clone();
        Some(Self { signer, authority, accounts: context.caches.of(), secrets: token_secrets(&context.caches), context })
    }

    fn plan(&self, secret: &Secret, account: Option<&ServiceAccount>) -> anyhow::Result<Vec<Op>> {
        let annotation =
            |name: &str| secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name)).map(String::as_str);
        let key = ObjectKey::of(secret);
        let Some(account) =
            account.filter(|account| annotation(ACCOUNT_UID).is_none_or(|uid| account.metadata.uid.as_deref() == Some(uid)))
        else {
            let options = DeleteOptions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
                ..DeleteOptions::default()
            };
            return Ok(vec![Op::send(Request::delete::<Secret>(&key, &options))]);
        };
        let data = secret.data.clone().unwrap_or_default();
        let mut updated = secret.clone();
        let filled = updated.data.get_or_insert_default();
        if let Some(authority) = &self.authority {
            filled.insert("ca.crt".to_owned(), ByteString(authority.clone().into_bytes()));
        }
        filled.entry("namespace".to_owned()).or_insert_with(|| ByteString(key.namespace.clone().into_bytes()));
        if !data.contains_key("token") {
            filled.insert("token".to_owned(), ByteString(self.signer.sign(&claims(&key, account))?.into_bytes()));
        }
        let uid = account.metadata.uid.clone().unwrap_or_default();
        updated.metadata.annotations.get_or_insert_default().insert(ACCOUNT_UID.to_owned(), uid);
        Ok(if updated == *secret { Vec::new() } else { vec![Op::send(Request::replace(&updated).tolerating(&[404]))] })
    }
}

fn claims(secret: &ObjectKey, account: &ServiceAccount) -> Value {
    let name = account.metadata.name.as_deref().unwrap_or_default();
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": secret.namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
        "sub": format!("system:serviceaccount:{}:{name}", secret.namespace),
    })
}

fn account_of(secret: &Secret) -> Option<ObjectKey> {
    let name = secret.metadata.annotations.as_ref()?.get(ACCOUNT_NAME)?;
    Some(ObjectKey::new(secret.metadata.namespace.as_deref().unwrap_or_default(), name))
}

impl Controller for TokenController {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let queue = keys.clone();
        self.secrets.subscribe(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        let (queue, secrets) = (keys.clone(), self.secrets.clone());
        self.accounts.subscribe(move |change| {
            let account = ObjectKey::of(change.object().as_ref());
            for secret in secrets.in_namespace(&account.namespace) {
                if account_of(&secret).as_ref() == Some(&account) {
                    queue.add(ObjectKey::of(secret.as_ref()));
                }
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(secret) = self.secrets.get(key).filter(|secret| secret.type_.as_deref() == Some(TYPE)) else { return Ok(None) };
            let Some(account) = account_of(&secret) else { return Ok(None) };
            let account = self.accounts.get(&account);
            Ok(self.context.executor.apply(self.plan(&secret, account.as_deref())?).await?)
        })
    }
}
