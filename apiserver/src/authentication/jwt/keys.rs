//! The keys that sign for an issuer: found by its discovery document, kept, and asked for again when a token names one that is not among them.

use super::configuration::Issuer;
use crate::outbound::{Caller, Place, Server};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;

/// How long an issuer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How soon an issuer is asked again at the earliest: tokens that name keys which do not exist cost no more than this.
const AGAIN: Duration = Duration::from_secs(10);
/// How many keys of an issuer are kept.
const MOST: usize = 256;

/// The keys of one issuer.
pub struct Keys {
    issuer: String,
    discovery: String,
    authority: Vec<u8>,
    caller: Arc<Caller>,
    /// Whoever needs keys while they are asked for waits for that answer.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Vec<(Option<String>, DecodingKey)>,
    asked: Option<SystemTime>,
}

/// What is read of a discovery document.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    /// None yet.
    pub fn new(issuer: &Issuer, caller: Arc<Caller>) -> Self {
        let discovery = match &issuer.discovery_url {
            Some(url) => url.clone(),
            None => format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/')),
        };
        let authority = issuer.certificate_authority.clone().into_bytes();
        Keys { issuer: issuer.url.clone(), discovery, authority, caller, known: Mutex::default() }
    }

    /// The keys that may have signed a token which names this one; all of them where it names none.
    pub async fn candidates(&self, id: Option<&str>, now: SystemTime) -> Result<Vec<DecodingKey>, String> {
        let mut known = self.known.lock().await;
        let named = |known: &Known| -> Vec<DecodingKey> {
            known.keys.iter().filter(|(key, _)| id.is_none() || key.as_deref() == id).map(|(_, key)| key.clone()).collect()
        };
        let found = named(&known);
        let recent = known.asked.is_some_and(|asked| now.duration_since(asked).unwrap_or_default() < AGAIN);
        if !found.is_empty() || recent {
            return Ok(found);
        }
        known.asked = Some(now);
        known.keys = self.fetch().await?;
        Ok(named(&known))
    }

    async fn fetch(&self) -> Result<Vec<(Option<String>, DecodingKey)>, String> {
        let document: Discovery = self.get(&self.discovery).await?;
        if document.issuer != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.issuer, document.issuer
            ));
        }
        let set: Value = self.get(&document.jwks_uri).await?;
        // Keys of kinds that are not known may stand among the others.
        let keys = set["keys"].as_array().into_iter().flatten().filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
        let usable = keys.filter_map(|key| Some((key.common.key_id.clone(), DecodingKey::from_jwk(&key).ok()?)));
        Ok(usable.take(MOST).collect())
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let server = Server { place: Place::Url(url.to_owned()), authorities: self.authority.clone() };
        let body = self.caller.get(&server, TIMEOUT).await.map_err(|e| format!("oidc: {e}"))?;
        serde_json::from_slice(&body).map_err(|e| format!("oidc: {url}: {e}"))
    }
}
