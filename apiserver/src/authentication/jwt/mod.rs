//! Tokens of issuers outside the cluster, as OpenID Connect has them (upstream: `apiserver/plugin/pkg/authenticator/token/oidc`). Issuers come from the flags
//! `--oidc-...` or from the file of `--authentication-config` ([`configuration`]); what a token's claims say of its user is [`claims`]' matter, which keys
//! sign for an issuer [`keys`]'.
//!
//! Left out: claims that have to be fetched from elsewhere (distributed claims), and reading the file again when it changes.

mod claims;
pub mod configuration;
mod keys;

use super::{Authenticator, Credentials, Recognised, for_own_audiences, unix};
use crate::outbound::Caller;
use claims::Mapping;
use configuration::{Issuer, JwtAuthenticator};
use futures::future::BoxFuture;
use jsonwebtoken::{Algorithm, Validation};
use keys::Keys;
use serde_json::Value;
use std::sync::Arc;
use std::time::SystemTime;

/// How long before the time it names a token may be used, in seconds, since clocks differ (upstream's).
const EARLY: i64 = 5 * 60;

/// Knows the users of one issuer.
pub struct Jwt {
    issuer: Issuer,
    algorithms: Vec<Algorithm>,
    mapping: Mapping,
    keys: Keys,
    /// What this server answers to: tokens of this kind are for it, whatever audience they name.
    audiences: Vec<String>,
}

impl Jwt {
    /// By what was configured; fails where an expression does not compile.
    pub fn new(
        configured: JwtAuthenticator,
        algorithms: Vec<Algorithm>,
        audiences: Vec<String>,
        caller: Arc<Caller>,
    ) -> Result<Self, String> {
        let mapping = Mapping::new(&configured)?;
        let keys = Keys::new(&configured.issuer, caller);
        Ok(Jwt { issuer: configured.issuer, algorithms, mapping, keys, audiences })
    }

    async fn verified(&self, token: &str, now: SystemTime) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|e| format!("oidc: malformed jwt: {e}"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(format!("oidc: id token signed with unsupported algorithm, expected {:?} got {:?}", self.algorithms, header.alg));
        }
        let mut signature_only = Validation::new(header.alg);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        let candidates = self.keys.candidates(header.kid.as_deref(), now).await?;
        let verified = candidates.iter().find_map(|key| jsonwebtoken::decode::<Value>(token, key, &signature_only).ok());
        verified.map(|token| token.claims).ok_or_else(|| "failed to verify signature: failed to verify id token signature".to_owned())
    }
}

/// What is wrong with the claims that every token has.
fn check(issuer: &Issuer, claims: &Value, now: i64) -> Result<(), String> {
    let audiences: Vec<&str> = match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !issuer.audiences.iter().any(|wanted| audiences.contains(&wanted.as_str())) {
        return Err(format!("oidc: expected audience in {:?} got {audiences:?}", issuer.audiences));
    }
    let time = |name: &str| claims[name].as_f64().map(|seconds| seconds as i64);
    if time("exp").is_none_or(|expiry| expiry < now) {
        return Err("oidc: token is expired".to_owned());
    }
    if time("nbf").is_some_and(|since| now + EARLY < since) {
        return Err("oidc: current time before the nbf (not before) time".to_owned());
    }
    Ok(())
}

impl Authenticator for Jwt {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        audiences: &'a [String],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Recognised>, String>> {
        Box::pin(async move {
            let Some(token) = credentials.bearer.as_deref().filter(|token| token.matches('.').count() == 2) else { return Ok(None) };
            let Ok(unverified) = jsonwebtoken::dangerous::insecure_decode::<Value>(token) else { return Ok(None) };
            if unverified.claims["iss"] != self.issuer.url.as_str() {
                return Ok(None);
            }
            let claims = self.verified(token, now).await?;
            check(&self.issuer, &claims, unix(now))?;
            for_own_audiences(self.mapping.user(&claims)?, &self.audiences, audiences)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::assembly::tests::servers::{Answer, Outside};
    use crate::objects::Fixed;
    use crate::tokens::tests as tokens;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    pub(crate) fn signed(key_id: &str, claims: Value) -> String {
        let header = Header { kid: Some(key_id.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_pem(tokens::PRIVATE.as_bytes()).unwrap()).unwrap()
    }

    /// An issuer whose key has the id `known`, and how often its keys were asked for.
    pub(crate) async fn issuer() -> (String, Outside, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut jwk = tokens::issuer().key_set()["keys"][0].clone();
        jwk["kid"] = "known".into();
        let count = asked.clone();
        let answer: Answer = Arc::new(move |head, _| {
            let url = format!("https://{}/realm", head.uri.authority().expect("HTTP/2 names the host there"));
            match head.uri.path() {
                "/realm/.well-known/openid-configuration" => (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
                "/realm/keys" => {
                    count.fetch_add(1, Ordering::Relaxed);
                    (200, json!({"keys": [{"kty": "strange"}, jwk]}))
                }
                _ => (404, Value::Null),
            }
        });
        let outside = Outside::start(&["127.0.0.1"], answer).await;
        (format!("https://127.0.0.1:{}/realm", outside.port), outside, asked)
    }

    #[tokio::test]
    async fn tokens_of_the_issuer_name_users_and_its_keys_are_asked_for_once() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (url, outside, asked) = issuer().await;
        let authority = String::from_utf8(base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &outside.ca_bundle).unwrap()).unwrap();
        let configured = serde_json::from_value(json!({
            "issuer": {"url": url, "audiences": ["me"], "certificateAuthority": authority},
            "claimMappings": {"username": {"claim": "sub", "prefix": "x:"}, "groups": {"claim": "groups", "prefix": ""}}}))
        .unwrap();
        let caller = Arc::new(Caller::new(Arc::new(Fixed::default())));
        let jwt = Jwt::new(configured, configuration::ALGORITHMS.to_vec(), vec!["api".into()], caller).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ask = async |token: String| {
            let credentials = Credentials { bearer: Some(token), ..Credentials::default() };
            jwt.authenticate(&credentials, &["api".to_owned()], now).await
        };
        let claims = |changed: Value| {
            let mut claims = json!({"iss": url, "aud": ["me", "other"], "exp": 1_000_001, "sub": "a", "groups": ["g"]});
            json_patch::merge(&mut claims, &changed);
            claims
        };
        let user = ask(signed("known", claims(json!({})))).await.unwrap().unwrap();
        assert_eq!((user.user.name.as_str(), user.user.groups, user.audiences), ("x:a", vec!["g".to_owned()], vec!["api".to_owned()]));
        for (key, changed, why) in [
            ("known", json!({"aud": "other"}), "oidc: expected audience"),
            ("known", json!({"exp": 999_999}), "oidc: token is expired"),
            ("known", json!({"nbf": 1_000_301}), "oidc: current time before"),
            ("known", json!({"sub": null}), "oidc: parse username claims"),
            ("another", json!({}), "failed to verify signature"),
        ] {
            let refused = ask(signed(key, claims(changed.clone()))).await.unwrap_err();
            assert!(refused.starts_with(why), "{changed}: {refused}");
        }
        assert_eq!(ask(signed("known", claims(json!({"iss": "https://elsewhere"})))).await, Ok(None));
        assert_eq!(ask("a.b.c".into()).await, Ok(None));
        let mut forged = signed("known", claims(json!({})));
        forged.replace_range(forged.len() - 6.., "AAAAAA");
        assert!(ask(forged).await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 1, "a key that nobody knows does not make the server ask at once again");
    }
}
