//! Who may ask the kubelet what: certificates and tokens say who, the API server says whether (upstream: `pkg/kubelet/server/auth.go`).

use super::{Shared, tls::CertificateIdentity};
use crate::config::KubeletConfiguration;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How many answers are kept. Callers are few: the API server and monitoring.
const MAX_KEPT: usize = 1024;

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Name.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// Who wants to do what with which subresource of the node.
type Question = (Caller, String, &'static str);

/// Asks the API server and remembers what it said for a while.
pub struct Authorizer {
    client: Option<Client>,
    anonymous: bool,
    tokens: bool,
    always_allow: bool,
    /// How long the API server's word holds: on a token, a yes, a no.
    keep: (Duration, Duration, Duration),
    reviewed: Mutex<HashMap<String, (Instant, Option<Caller>)>>,
    allowed: Mutex<HashMap<Question, (Instant, bool)>>,
}

/// What a request is about: upstream maps paths to subresources of `nodes`. Whoever may do any of them, may.
fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "healthz" => &["healthz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "configz" => &["configz", "proxy"],
        "statusz" => &["statusz", "proxy"],
        "flagz" => &["flagz", "proxy"],
        _ => &["proxy"],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

impl Authorizer {
    /// By the configuration; without a client there is nobody to ask.
    pub fn new(client: Option<Client>, settings: &KubeletConfiguration) -> Self {
        Authorizer {
            client,
            anonymous: settings.authentication.anonymous.enabled,
            tokens: settings.authentication.webhook.enabled,
            always_allow: settings.authorization.mode == "AlwaysAllow",
            keep: (
                settings.authentication.webhook.cache_ttl.get(),
                settings.authorization.webhook.cache_authorized_ttl.get(),
                settings.authorization.webhook.cache_unauthorized_ttl.get(),
            ),
            reviewed: Mutex::default(),
            allowed: Mutex::default(),
        }
    }

    async fn who(&self, certificate: &CertificateIdentity, headers: &HeaderMap) -> Option<Caller> {
        if let Some(user) = &certificate.user {
            let mut groups = certificate.groups.clone();
            groups.push("system:authenticated".into());
            return Some(Caller { user: user.clone(), groups });
        }
        if let Some(token) = bearer(headers).filter(|_| self.tokens) {
            return self.review(token).await;
        }
        self.anonymous.then(|| Caller { user: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] })
    }

    async fn review(&self, token: &str) -> Option<Caller> {
        let kept = self.reviewed.lock().get(token).filter(|(at, _)| at.elapsed() < self.keep.0).map(|(_, caller)| caller.clone());
        if let Some(caller) = kept {
            return caller;
        }
        let reviews: Api<TokenReview> = Api::all(self.client.clone()?);
        let review = TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..Default::default() };
        let status = match reviews.create(&PostParams::default(), &review).await {
            Ok(review) => review.status.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "a token could not be reviewed");
                return None;
            }
        };
        let user = status.user.filter(|_| status.authenticated == Some(true));
        let caller = user.map(|u| Caller { user: u.username.unwrap_or_default(), groups: u.groups.unwrap_or_default() });
        let mut reviewed = self.reviewed.lock();
        if reviewed.len() >= MAX_KEPT {
            reviewed.clear();
        }
        reviewed.insert(token.to_owned(), (Instant::now(), caller.clone()));
        caller
    }

    async fn may(&self, caller: &Caller, node: &str, verb: &str, subresource: &'static str) -> bool {
        // Members of this group may do everything everywhere; asking would only fail while the API server is away.
        if self.always_allow || caller.groups.iter().any(|g| g == "system:masters") {
            return true;
        }
        let key = (caller.clone(), verb.to_owned(), subresource);
        let fresh = |(at, allowed): &&(Instant, bool)| at.elapsed() < if *allowed { self.keep.1 } else { self.keep.2 };
        if let Some((_, allowed)) = self.allowed.lock().get(&key).filter(fresh) {
            return *allowed;
        }
        let Some(client) = self.client.clone() else { return false };
        let reviews: Api<SubjectAccessReview> = Api::all(client);
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.user.clone()),
                groups: Some(caller.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.into()),
                    name: Some(node.to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let allowed = match reviews.create(&PostParams::default(), &review).await {
            Ok(review) => review.status.is_some_and(|s| s.allowed),
            Err(error) => {
                tracing::warn!(%error, "access could not be reviewed");
                return false;
            }
        };
        let mut kept = self.allowed.lock();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, (Instant::now(), allowed));
        allowed
    }
}

/// Lets through whom the API server lets through.
pub async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let certificate = request.extensions().get::<CertificateIdentity>().cloned().unwrap_or_default();
    let Some(caller) = shared.authorizer.who(&certificate, request.headers()).await else {
        return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
    };
    let (verb, subresources) = (verb(request.method()), subresources(request.uri().path()));
    let node = shared.workers.node().facts.name.clone();
    for subresource in subresources {
        if shared.authorizer.may(&caller, &node, verb, subresource).await {
            return next.run(request).await;
        }
    }
    let all = subresources.join(" ");
    let text = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{all}])", caller.user);
    (StatusCode::FORBIDDEN, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_are_what_rbac_knows_them_as() {
        for (path, want) in [
            ("/metrics/resource", "metrics"),
            ("/stats/summary", "stats"),
            ("/logs/syslog", "log"),
            ("/exec/a/b/c", "proxy"),
            ("/pods", "pods proxy"),
            ("/", "proxy"),
        ] {
            assert_eq!(subresources(path).join(" "), want, "{path}");
        }
        assert_eq!((verb(&Method::POST), verb(&Method::GET)), ("create", "get"));
    }

    #[tokio::test]
    async fn certificates_come_first_and_nobody_is_anonymous_by_default() {
        let authorizer = Authorizer::new(None, &KubeletConfiguration::default());
        let admin = CertificateIdentity { user: Some("a".into()), groups: vec!["system:masters".into()] };
        let caller = authorizer.who(&admin, &HeaderMap::new()).await.expect("a caller");
        assert!(authorizer.may(&caller, "n", "get", "proxy").await);
        assert_eq!(authorizer.who(&CertificateIdentity::default(), &HeaderMap::new()).await, None);
        let other = Caller { user: "b".into(), groups: vec![] };
        assert!(!authorizer.may(&other, "n", "get", "proxy").await, "with nobody to ask the answer is no");
    }
}
