//! Requests that are answered rather than stored: token and access reviews, and tokens for service accounts.
//! Each is a file and a row; the registry looks the row up by group, plural and subresource before it would store anything.

pub mod access;
pub mod identity;
pub mod rules;
pub mod token_request;

use crate::{
    authentication::{Chain, UserInfo},
    authorization::{Authorizer, rbac::Rbac},
    objects::Objects,
    tokens::Issuer,
};
use api::{StatusError, status::Result};
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Tells the time.
pub type Clock = fn() -> SystemTime;

/// What is asked, and by whom.
pub struct Asked<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// The namespace in the path, or empty.
    pub namespace: &'a str,
    /// The name in the path (`serviceaccounts/NAME/token`), or empty.
    pub name: &'a str,
    /// The posted object, decoded against its schema, with defaults.
    pub object: Value,
    /// `dryRun=All`: reviews answer as always; a token request answers without a token.
    pub dry_run: bool,
}

/// One kind of question.
pub trait Review: Send + Sync + 'static {
    /// The object with its `status` filled in: what the client gets, with code 201.
    fn answer<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Result<Value>>;
}

/// A row: what path the question is posted to, and what answers it.
pub struct Row {
    /// API group.
    pub group: &'static str,
    /// Plural name of the resource posted to.
    pub plural: &'static str,
    /// Subresource, or empty.
    pub subresource: &'static str,
    /// What answers.
    pub review: Box<dyn Review>,
}

/// All questions that this server answers.
#[derive(Default)]
pub struct Reviews(pub Vec<Row>);

/// What answers are made of.
pub struct Sources {
    /// Who a token is of.
    pub authentication: Arc<Chain>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Which rules somebody has.
    pub rbac: Arc<Rbac>,
    /// Signs tokens.
    pub issuer: Arc<Issuer>,
    /// Service accounts, pods, secrets and nodes.
    pub objects: Arc<dyn Objects>,
    /// The longest that a token may live (`--service-account-max-token-expiration`).
    pub longest_token: Option<Duration>,
    /// Whether tokens of pods outlive what was asked for, with a warning when used late (`--service-account-extend-token-expiration`).
    pub extend_tokens: bool,
    /// The time.
    pub clock: Clock,
}

impl Reviews {
    /// The table.
    pub fn new(sources: Sources) -> Self {
        const AUTHENTICATION: &str = "authentication.k8s.io";
        const AUTHORIZATION: &str = "authorization.k8s.io";
        fn row(group: &'static str, plural: &'static str, subresource: &'static str, review: impl Review) -> Row {
            Row { group, plural, subresource, review: Box::new(review) }
        }
        let access = |question| access::AccessReview { question, authorizer: sources.authorizer.clone() };
        Reviews(vec![
            row(AUTHENTICATION, "selfsubjectreviews", "", identity::SelfSubjectReview { clock: sources.clock }),
            row(AUTHENTICATION, "tokenreviews", "", identity::TokenReview { authentication: sources.authentication, clock: sources.clock }),
            row(AUTHORIZATION, "localsubjectaccessreviews", "", access(access::Question::Local)),
            row(AUTHORIZATION, "selfsubjectaccessreviews", "", access(access::Question::Own)),
            row(AUTHORIZATION, "subjectaccessreviews", "", access(access::Question::Any)),
            row(AUTHORIZATION, "selfsubjectrulesreviews", "", rules::RulesReview { rbac: sources.rbac }),
            row(
                "",
                "serviceaccounts",
                "token",
                token_request::TokenRequests {
                    issuer: sources.issuer,
                    objects: sources.objects,
                    longest: sources.longest_token,
                    extend: sources.extend_tokens,
                    clock: sources.clock,
                },
            ),
        ])
    }

    /// What answers a post to this resource, if it is not stored.
    pub fn find(&self, group: &str, plural: &str, subresource: &str) -> Option<&dyn Review> {
        self.0.iter().find(|r| r.group == group && r.plural == plural && r.subresource == subresource).map(|r| &*r.review)
    }
}

/// A part of the posted object, as its type. It passed the schema, so this fails only if type and schema disagree.
fn part<T: DeserializeOwned + Default>(object: &Value, field: &str) -> Result<T> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => serde_json::from_value(value.clone()).map_err(StatusError::internal),
    }
}
