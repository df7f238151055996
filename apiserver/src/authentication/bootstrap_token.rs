//! Bootstrap tokens: `abcdef.0123456789abcdef`, kept in secrets of kube-system, with which a new node may ask for its certificate
//! (upstream: `plugin/pkg/auth/authenticator/token/bootstrap`).

use super::{Authenticator, Credentials, Recognised, UserInfo, for_own_audiences, unix};
use crate::objects::{Collection, Objects, decoded};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use std::{sync::Arc, time::SystemTime};

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// Looks bootstrap tokens up.
pub struct BootstrapTokens {
    /// Where the secrets are.
    pub objects: Arc<dyn Objects>,
    /// This server's own audiences.
    pub audiences: Vec<String>,
}

fn alphanumeric(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Id and secret of a token of this form.
fn split(token: &str) -> Option<(&str, &str)> {
    token.split_once('.').filter(|(id, secret)| alphanumeric(id, 6) && alphanumeric(secret, 16))
}

/// Compares without telling by its duration where the texts differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

/// A group that a token may give: `system:bootstrappers:` and lower-case letters, digits, colons and dashes, not ending in one of the last two.
fn allowed_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=256).contains(&rest.len()) && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-') && rest.bytes().last().is_some_and(plain)
}

/// Whom the secret lets in with this token.
fn user(secret: &Secret, id: &str, token: &str, now: i64) -> Result<UserInfo, String> {
    let data = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|d| d.get(key));
        bytes.and_then(|b| std::str::from_utf8(&b.0).ok()).unwrap_or_default().to_owned()
    };
    if secret.metadata.deletion_timestamp.is_some() {
        return Err("the bootstrap token is being deleted".to_owned());
    }
    if secret.type_.as_deref() != Some(SECRET_TYPE) || !same(&data("token-id"), id) || !same(&data("token-secret"), token) {
        return Err("the bootstrap token is not that of its secret".to_owned());
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        let until: jiff::Timestamp = expiration.parse().map_err(|e| format!("the bootstrap token's expiration: {e}"))?;
        if until.as_second() <= now {
            return Err("the bootstrap token has expired".to_owned());
        }
    }
    if data("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication".to_owned());
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data("auth-extra-groups");
    for group in extra.split(',').filter(|g| !g.is_empty()) {
        if !allowed_group(group) {
            return Err(format!("the bootstrap token may not give the group {group:?}"));
        }
        groups.push(group.to_owned());
    }
    Ok(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

impl Authenticator for BootstrapTokens {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        audiences: &'a [String],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Recognised>, String>> {
        Box::pin(async move {
            let Some((id, token)) = credentials.bearer.as_deref().and_then(split) else { return Ok(None) };
            let name = format!("bootstrap-token-{id}");
            let Some(secret) = decoded::<Secret>(&*self.objects, Collection::core("secrets"), NAMESPACE, &name) else { return Ok(None) };
            for_own_audiences(user(&secret, id, token, unix(now))?, &self.audiences, audiences)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(change: &[(&str, &str)]) -> Secret {
        let mut data: std::collections::BTreeMap<String, ByteString> = Default::default();
        let usual = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-authentication", "true")];
        for (key, value) in usual.iter().chain(change) {
            data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        }
        Secret { data: Some(data), type_: Some(SECRET_TYPE.into()), ..Secret::default() }
    }

    #[test]
    fn a_token_is_good_only_as_its_secret_says() {
        let now = 1_700_000_000;
        for (change, want) in [
            (vec![], Some("system:bootstrappers")),
            (vec![("expiration", "2030-01-01T00:00:00Z")], Some("system:bootstrappers")),
            (vec![("expiration", "2020-01-01T00:00:00Z")], None),
            (vec![("expiration", "tomorrow")], None),
            (vec![("token-secret", "0123456789abcdee")], None),
            (vec![("usage-bootstrap-authentication", "false")], None),
            (vec![("auth-extra-groups", "system:bootstrappers:a:b")], Some("system:bootstrappers,system:bootstrappers:a:b")),
            (vec![("auth-extra-groups", "system:masters")], None),
        ] {
            let got = user(&secret(&change), "abcdef", "0123456789abcdef", now);
            assert_eq!(got.ok().map(|u| u.groups.join(",")).as_deref(), want, "{change:?}");
        }
    }

    #[test]
    fn only_tokens_of_the_form_are_looked_up() {
        assert_eq!(split("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for other in ["", "abcdef", "abcdef.0123", "ABCDEF.0123456789abcdef", "a/../f.0123456789abcdef"] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
