//! `serviceaccounts/NAME/token`: a token for an account, bound to a pod, secret or node if asked
//! (upstream: `pkg/registry/core/serviceaccount/storage/token.go`).

use super::{Asked, Clock, Review, identity::shown_time, part};
use crate::{
    authentication::{SERVICE_ACCOUNT_PREFIX, unix},
    objects::{Collection, Objects, decode},
    tokens::{Claims, Issuer, Named, Private},
};
use api::{
    field::{ErrorList, Path},
    status::{Result, StatusError},
};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequestSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// The lifetime when none is asked for.
const DEFAULT_SECONDS: i64 = 3600;
/// The shortest lifetime.
const SHORTEST_SECONDS: i64 = 600;
/// The longest that can be asked for.
const LONGEST_SECONDS: i64 = 1 << 32;
/// What pods ask for whose clients may not know that tokens are renewed: an hour and a little, told apart by being odd.
const EXTENDED_REQUEST_SECONDS: i64 = 3607;
/// What they get.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Answers token requests.
pub struct TokenRequests {
    /// Signs.
    pub issuer: Arc<Issuer>,
    /// Accounts and what tokens are bound to.
    pub objects: Arc<dyn Objects>,
    /// The longest lifetime given, whatever is asked for.
    pub longest: Option<Duration>,
    /// Whether pods' tokens are extended.
    pub extend: bool,
    /// The time.
    pub clock: Clock,
}

#[derive(Deserialize)]
struct Identity {
    metadata: ObjectMeta,
}

/// The kinds that a token can be bound to.
const BINDABLE: [(&str, &str, &str); 3] = [("Pod", "pods", "pod"), ("Secret", "secrets", "secret"), ("Node", "nodes", "node")];

fn validate(spec: &TokenRequestSpec) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("expirationSeconds");
    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    if seconds < SHORTEST_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    errors
}

/// A kubelet gets tokens for the pods on its node only (upstream: the NodeRestriction plugin).
fn for_own_pod(node: &str, spec: &TokenRequestSpec, private: &Private) -> Result<(), &'static str> {
    let bound = spec.bound_object_ref.as_ref().filter(|b| b.kind.as_deref() == Some("Pod"));
    match bound {
        None => Err("node requested token not bound to a pod"),
        Some(pod) if pod.uid.as_deref().unwrap_or_default().is_empty() => Err("node requested token with a pod binding without a uid"),
        Some(_) if private.node.as_ref().is_none_or(|n| n.name != node) => {
            Err("node requested token bound to a pod scheduled on a different node")
        }
        Some(_) => Ok(()),
    }
}

impl TokenRequests {
    async fn find(&self, plural: &'static str, namespace: &str, name: &str) -> Result<bytes::Bytes> {
        let collection = Collection::core(plural);
        // The store is asked where the cache knows nothing: another server may have made the object just now.
        let found = match self.objects.get(collection, namespace, name) {
            Some(found) => Some(found),
            None => self.objects.read(collection, namespace, name).await?,
        };
        found.ok_or_else(|| StatusError::not_found("", plural, name))
    }

    /// What the token is bound to.
    async fn bound(&self, account: &str, namespace: &str, to: &BoundObjectReference, private: &mut Private) -> Result<()> {
        let (kind, name) = (to.kind.as_deref().unwrap_or_default(), to.name.as_deref().unwrap_or_default());
        let version = to.api_version.as_deref().unwrap_or_default();
        let row = BINDABLE.iter().find(|(k, ..)| *k == kind && version == "v1");
        let Some((_, plural, _)) = row else {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let shown = format!("{group}/{version}, Kind={kind}");
            return Err(StatusError::bad_request(format!("cannot bind token to object of type {shown}")));
        };
        let namespace = if *plural == "nodes" { "" } else { namespace };
        let bytes = self.find(plural, namespace, name).await?;
        let metadata = decode::<Identity>(&bytes).map(|i| i.metadata).unwrap_or_default();
        let uid = metadata.uid.unwrap_or_default();
        if let Some(wanted) = to.uid.as_deref().filter(|u| !u.is_empty() && *u != uid) {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(StatusError::conflict("", plural, name, &why));
        }
        let named = Named { name: name.to_owned(), uid };
        match *plural {
            "secrets" => private.secret = Some(named),
            "nodes" => private.node = Some(named),
            _ => {
                let spec = decode::<Pod>(&bytes).and_then(|p| p.spec).unwrap_or_default();
                if spec.service_account_name.as_deref() != Some(account) {
                    let why =
                        format!("cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name.");
                    return Err(StatusError::bad_request(why));
                }
                if let Some(node) = spec.node_name.filter(|n| !n.is_empty()) {
                    let found = self.objects.get(Collection::core("nodes"), "", &node).and_then(|b| decode::<Identity>(&b));
                    let uid = found.and_then(|n| n.metadata.uid).unwrap_or_default();
                    private.node = Some(Named { name: node, uid });
                }
                private.pod = Some(named);
            }
        }
        Ok(())
    }

    async fn token(&self, asked: Asked<'_>) -> Result<Value> {
        let (namespace, name) = (asked.namespace, asked.name);
        let bytes = self.find("serviceaccounts", namespace, name).await?;
        let account = decode::<Identity>(&bytes).map(|i| i.metadata).unwrap_or_default();
        let mut object = asked.object;
        for (field, wanted) in [("name", name), ("namespace", namespace)] {
            let given = object["metadata"][field].as_str().unwrap_or_default();
            if !given.is_empty() && given != wanted {
                let what = if field == "name" { "name of the object" } else { "namespace of the object" };
                return Err(StatusError::bad_request(format!("the {what} ({given}) does not match the {field} on the URL ({wanted})")));
            }
            object["metadata"][field] = wanted.into();
        }
        let mut spec: TokenRequestSpec = part(&object, "spec")?;
        let errors = validate(&spec);
        if !errors.is_empty() {
            return Err(StatusError::invalid("authentication.k8s.io", "TokenRequest", "", errors));
        }
        let mut audiences = spec.audiences.take().unwrap_or_default();
        if audiences.is_empty() {
            audiences = self.issuer.audiences().to_vec();
        }
        spec.audiences = Some(audiences.clone());
        let asked_for = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
        let longest = self.longest.and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(LONGEST_SECONDS);
        let seconds = asked_for.min(longest);
        spec.expiration_seconds = Some(seconds);
        let uid = account.uid.unwrap_or_default();
        let serviceaccount = Named { name: name.to_owned(), uid };
        let mut private = Private { namespace: namespace.to_owned(), serviceaccount, ..Private::default() };
        if let Some(to) = &spec.bound_object_ref {
            self.bound(name, namespace, to, &mut private).await?;
        }
        if let Some(node) = asked.user.node() {
            for_own_pod(node, &spec, &private).map_err(|why| StatusError::forbidden("", "serviceaccounts", name, why))?;
        }
        let now = unix((self.clock)());
        let own = audiences.iter().all(|a| self.issuer.audiences().contains(a));
        let mut lifetime = seconds;
        if self.extend && asked_for == EXTENDED_REQUEST_SECONDS && own {
            private.warn_after = Some(now + seconds);
            lifetime = EXTENDED_SECONDS.min(longest).max(seconds);
        }
        let claims = Claims {
            issuer: self.issuer.name().to_owned(),
            subject: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            audience: audiences,
            issued: now,
            not_before: Some(now),
            expires: now + lifetime,
            id: uuid::Uuid::new_v4().to_string(),
            private: Some(private),
            ..Claims::default()
        };
        let token = if asked.dry_run { String::new() } else { self.issuer.sign(&claims).map_err(StatusError::internal)? };
        let mut shown = serde_json::to_value(&spec).map_err(StatusError::internal)?;
        if spec.bound_object_ref.is_none() {
            shown["boundObjectRef"] = Value::Null; // Upstream writes it always.
        }
        object["spec"] = shown;
        object["metadata"]["creationTimestamp"] = shown_time((self.clock)()).into();
        let until = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(now + seconds).unwrap_or_default());
        object["status"] = json!({"token": token, "expirationTimestamp": shown_time(until)});
        Ok(object)
    }
}

impl Review for TokenRequests {
    fn answer<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Result<Value>> {
        Box::pin(self.token(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authentication::{Chain, UserInfo, service_account::ServiceAccountTokens},
        objects::Fixed,
    };
    use std::time::{SystemTime, UNIX_EPOCH};

    const NOON: u64 = 1_800_000_000;

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOON)
    }

    fn cluster() -> (Arc<Fixed>, TokenRequests) {
        let objects = Arc::new(Fixed::default());
        let put = |plural, object| objects.put(Collection::core(plural), object);
        put("serviceaccounts", json!({"metadata": {"namespace": "ns", "name": "a", "uid": "ua"}}));
        put("nodes", json!({"metadata": {"name": "n1", "uid": "un"}}));
        let pod = json!({"metadata": {"namespace": "ns", "name": "p", "uid": "up"}, "spec": {"serviceAccountName": "a", "nodeName": "n1", "containers": []}});
        put("pods", pod);
        let issuer = Arc::new(crate::tokens::tests::issuer());
        (objects.clone(), TokenRequests { issuer, objects, longest: None, extend: true, clock: noon })
    }

    async fn ask(requests: &TokenRequests, name: &str, spec: Value) -> Result<Value> {
        let object = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": spec});
        requests.answer(Asked { user: &UserInfo::anonymous(), namespace: "ns", name, object, dry_run: false }).await
    }

    #[tokio::test]
    async fn a_token_lets_its_account_in_while_its_pod_exists() {
        let (objects, requests) = cluster();
        let made =
            ask(&requests, "a", json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "up"}})).await.unwrap();
        assert_eq!(made["spec"]["expirationSeconds"], 3600);
        assert_eq!(made["status"]["expirationTimestamp"], "2027-01-15T09:00:00Z");
        let authenticator = ServiceAccountTokens { issuer: requests.issuer.clone(), objects: objects.clone() };
        let chain = Chain::new(vec![Box::new(authenticator)], requests.issuer.audiences().to_vec(), true);
        let token = made["status"]["token"].as_str().unwrap();
        let user = chain.review(token, &[], noon()).await.unwrap().unwrap().user;
        assert_eq!(user.name, "system:serviceaccount:ns:a");
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
        chain.review(token, &[], noon() + Duration::from_secs(3661)).await.unwrap_err();
        chain.review(token, &["other".to_owned()], noon()).await.unwrap_err();
        objects.remove(Collection::core("pods"), "ns", "p");
        chain.review(token, &[], noon()).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_kubelet_gets_tokens_for_its_own_pods_only() {
        let (_, requests) = cluster();
        for (node, spec, want) in [
            ("n1", json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "up"}}), None),
            ("n2", json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "up"}}), Some("on a different node")),
            ("n1", json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}), Some("without a uid")),
            ("n1", json!({}), Some("not bound to a pod")),
        ] {
            let user = UserInfo { name: format!("system:node:{node}"), groups: vec!["system:nodes".into()], ..UserInfo::default() };
            let object = json!({"metadata": {}, "spec": spec});
            let answer = requests.answer(Asked { user: &user, namespace: "ns", name: "a", object, dry_run: false }).await;
            match want {
                None => assert!(answer.is_ok()),
                Some(why) => assert!(answer.unwrap_err().to_string().ends_with(why)),
            }
        }
    }

    #[tokio::test]
    async fn a_pods_usual_token_lives_longer_than_it_says_and_warns() {
        let (_, requests) = cluster();
        let made = ask(&requests, "a", json!({"expirationSeconds": 3607})).await.unwrap();
        assert_eq!(made["status"]["expirationTimestamp"], "2027-01-15T09:00:07Z");
        let claims = requests.issuer.verify(made["status"]["token"].as_str().unwrap()).unwrap().unwrap();
        assert_eq!(claims.expires, NOON as i64 + EXTENDED_SECONDS);
        assert_eq!(claims.private.unwrap().warn_after, Some(NOON as i64 + 3607));
    }

    #[tokio::test]
    async fn what_cannot_be_given_is_refused() {
        let (_, requests) = cluster();
        let bound =
            |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
        for (name, spec, code, message) in [
            ("nosuch", json!({}), 404, "serviceaccounts \"nosuch\" not found"),
            (
                "a",
                json!({"expirationSeconds": 5}),
                422,
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            ),
            ("a", bound("Pod", "q", ""), 404, "pods \"q\" not found"),
            (
                "a",
                bound("Pod", "p", "x"),
                409,
                "Operation cannot be fulfilled on pods \"p\": the UID in the bound object reference (x) does not match the UID in record. The object might have been deleted and then recreated",
            ),
            ("a", bound("ConfigMap", "c", ""), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"),
        ] {
            let refusal = ask(&requests, name, spec).await.unwrap_err();
            assert_eq!((refusal.code(), refusal.to_string().as_str()), (code, message));
        }
    }
}
