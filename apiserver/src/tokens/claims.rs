//! What a service account token says (upstream: `pkg/serviceaccount/claims.go`), and whether it may be believed at a given time.

use serde::{Deserialize, Serialize};

/// An object that the token is bound to: when it is gone, so is the token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// The account's namespace.
    #[serde(default)]
    pub namespace: String,
    /// The node that the pod is on, or that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// The secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
    /// The account.
    #[serde(default)]
    pub serviceaccount: Named,
    /// When use of the token is worth a warning, because a client has not noticed that tokens are renewed; unix time.
    #[serde(default, rename = "warnafter", skip_serializing_if = "Option::is_none")]
    pub warn_after: Option<i64>,
}

/// All claims. Tokens that older clusters kept in secrets have the `kubernetes.io/serviceaccount/...` ones instead of `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom the token is.
    #[serde(default, rename = "aud", deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// Until when, unix time; 0 for ever (old tokens only).
    #[serde(default, rename = "exp", skip_serializing_if = "zero")]
    pub expires: i64,
    /// When it was made.
    #[serde(default, rename = "iat", skip_serializing_if = "zero")]
    pub issued: i64,
    /// By whom.
    #[serde(default, rename = "iss")]
    pub issuer: String,
    /// Its own id.
    #[serde(default, rename = "jti", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What it is bound to.
    #[serde(default, rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    pub private: Option<Private>,
    /// From when on.
    #[serde(default, rename = "nbf", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// The user name.
    #[serde(default, rename = "sub")]
    pub subject: String,
    /// Old tokens: the account's namespace.
    #[serde(default, rename = "kubernetes.io/serviceaccount/namespace", skip_serializing_if = "String::is_empty")]
    pub legacy_namespace: String,
    /// Old tokens: the secret that holds the token.
    #[serde(default, rename = "kubernetes.io/serviceaccount/secret.name", skip_serializing_if = "String::is_empty")]
    pub legacy_secret: String,
    /// Old tokens: the account.
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.name", skip_serializing_if = "String::is_empty")]
    pub legacy_account: String,
    /// Old tokens: the account's uid.
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.uid", skip_serializing_if = "String::is_empty")]
    pub legacy_uid: String,
}

fn zero(n: &i64) -> bool {
    *n == 0
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(from)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

impl Claims {
    /// Which of the `wanted` audiences the token is for, at `now` (unix time); why not, if for none or at another time.
    /// Old tokens have no audience and are for all.
    pub fn check(&self, wanted: &[String], now: i64) -> Result<Vec<String>, String> {
        if self.expires != 0 && now - super::LEEWAY > self.expires {
            return Err("service account token has expired".to_owned());
        }
        if self.not_before.is_some_and(|from| now + super::LEEWAY < from) {
            return Err("service account token is not valid yet".to_owned());
        }
        if self.audience.is_empty() && self.private.is_none() {
            return Ok(wanted.to_vec());
        }
        let common: Vec<String> = wanted.iter().filter(|a| self.audience.contains(a)).cloned().collect();
        if common.is_empty() {
            return Err(format!("token audiences {:?} is invalid for the target audiences {wanted:?}", self.audience));
        }
        Ok(common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_audiences() {
        let list = |text: &str| text.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        for (audience, wanted, now, answer) in [
            ("a,b", "b,c", 1500, Some("b")),
            ("a", "b", 1500, None),
            ("", "b", 1500, None),
            ("a", "a", 2060, Some("a")),
            ("a", "a", 2061, None),
            ("a", "a", 940, Some("a")),
            ("a", "a", 939, None),
        ] {
            let private = Some(Private::default());
            let claims = Claims { audience: list(audience), expires: 2000, not_before: Some(1000), private, ..Claims::default() };
            assert_eq!(claims.check(&list(wanted), now).ok(), answer.map(list), "{audience} for {wanted} at {now}");
        }
        assert_eq!(Claims::default().check(&list("x"), 5).unwrap(), ["x"], "an old token is for everybody, for ever");
    }

    #[test]
    fn the_document_has_upstreams_names() {
        let account = Named { name: "a".into(), uid: "u".into() };
        let private = Private { namespace: "default".into(), serviceaccount: account, warn_after: Some(7), ..Private::default() };
        let claims = Claims { audience: vec!["x".into()], expires: 3, private: Some(private), subject: "s".into(), ..Claims::default() };
        let want = serde_json::json!({"aud": ["x"], "exp": 3, "iss": "", "sub": "s",
            "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "a", "uid": "u"}, "warnafter": 7}});
        assert_eq!(serde_json::to_value(&claims).unwrap(), want);
        assert_eq!(serde_json::from_value::<Claims>(serde_json::json!({"aud": "one"})).unwrap().audience, ["one"]);
    }
}
