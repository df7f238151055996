//! Who somebody is: SelfSubjectReview, and TokenReview, with which a server asks whose token it was given
//! (upstream: `pkg/registry/authentication`).

use super::{Asked, Clock, Review, part};
use crate::authentication::{Chain, UserInfo};
use api::status::{Result, StatusError};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenReviewSpec;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The user as `UserInfo` of the API; what is empty is left out.
fn shown(user: &UserInfo) -> Value {
    let mut shown = Map::new();
    if !user.name.is_empty() {
        shown.insert("username".into(), user.name.clone().into());
    }
    if !user.uid.is_empty() {
        shown.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        shown.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        shown.insert("extra".into(), json!(user.extra));
    }
    shown.into()
}

/// A time as objects show it, in whole seconds.
pub(super) fn shown_time(now: std::time::SystemTime) -> String {
    let second = crate::authentication::unix(now);
    Timestamp::from_second(second).map(|t| t.to_string()).unwrap_or_default()
}

/// Answers who asks.
pub struct SelfSubjectReview {
    /// The time.
    pub clock: Clock,
}

impl Review for SelfSubjectReview {
    fn answer<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Result<Value>> {
        // The answer is a new object: nothing of the posted one is kept.
        let answer = json!({
            "kind": "SelfSubjectReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": shown_time((self.clock)())},
            "status": {"userInfo": shown(asked.user)},
        });
        Box::pin(async move { Ok(answer) })
    }
}

/// Answers whose token it is.
pub struct TokenReview {
    /// Who recognises tokens.
    pub authentication: Arc<Chain>,
    /// The time.
    pub clock: Clock,
}

impl Review for TokenReview {
    fn answer<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move {
            let mut object = asked.object;
            let spec: TokenReviewSpec = part(&object, "spec")?;
            let token = spec.token;
            if token.is_empty() {
                return Err(StatusError::bad_request("token is required for TokenReview in authentication"));
            }
            let audiences = spec.audiences.unwrap_or_default();
            object["status"] = match self.authentication.review(&token, &audiences, (self.clock)()).await {
                Ok(Some(recognised)) => {
                    let mut status = json!({"authenticated": true, "user": shown(&recognised.user)});
                    // An asker who named audiences must know which of them the token is for.
                    if !recognised.audiences.is_empty() {
                        status["audiences"] = recognised.audiences.into();
                    }
                    status
                }
                Ok(None) => json!({"user": {}}),
                Err(reasons) => json!({"user": {}, "error": format!("[invalid bearer token, {}]", reasons.join(", "))}),
            };
            Ok(object)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::{Authenticator, token_file::TokenFile};
    use std::time::SystemTime;

    fn review(user: &UserInfo, object: Value) -> Asked<'_> {
        Asked { user, namespace: "", name: "", object, dry_run: false }
    }

    #[tokio::test]
    async fn a_token_is_told_to_be_somebodys_or_nobodys() {
        let own = vec!["us".to_owned()];
        let rows: Vec<Box<dyn Authenticator>> = vec![Box::new(TokenFile::parse("t,bob,2,devs", own.clone()).unwrap())];
        let reviews = TokenReview { authentication: Arc::new(Chain::new(rows, own, true)), clock: SystemTime::now };
        let ask = async |spec: Value| reviews.answer(review(&UserInfo::anonymous(), json!({"spec": spec}))).await;
        let bob = json!({"username": "bob", "uid": "2", "groups": ["devs", "system:authenticated"]});
        let good = ask(json!({"token": "t"})).await.unwrap();
        assert_eq!(good["status"], json!({"authenticated": true, "user": bob, "audiences": ["us"]}));
        assert_eq!(ask(json!({"token": "x"})).await.unwrap()["status"], json!({"user": {}}));
        let elsewhere = ask(json!({"token": "t", "audiences": ["them"]})).await.unwrap();
        assert!(elsewhere["status"]["authenticated"].is_null() && elsewhere["status"]["error"].is_string());
        assert_eq!(ask(json!({})).await.unwrap_err().code(), 400);
    }
}
