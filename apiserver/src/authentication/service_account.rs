//! Service account tokens: the signature is [`crate::tokens`]' matter; here it is asked whether the account, and the pod, secret or node that the
//! token is bound to, still exist with the uids it names (upstream: `pkg/serviceaccount/{jwt,claims,legacy}.go`).

use super::{Authenticator, Credentials, Recognised, SERVICE_ACCOUNT_PREFIX, UserInfo, unix};
use crate::{
    objects::{Collection, Objects, decode},
    tokens::{Claims, Issuer, LEEWAY, Named},
};
use futures::future::BoxFuture;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;
use std::{sync::Arc, time::SystemTime};

/// Checks service account tokens.
pub struct ServiceAccountTokens {
    /// Verifies signatures.
    pub issuer: Arc<Issuer>,
    /// Where accounts, pods, secrets and nodes are.
    pub objects: Arc<dyn Objects>,
}

const EXTRA: &str = "authentication.kubernetes.io/";

/// All that is read of an object: a pod's other 3 KB are skipped.
#[derive(Deserialize)]
struct Identity {
    metadata: ObjectMeta,
}

/// The groups of all accounts of a namespace.
pub fn groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// The object's metadata if it exists with that uid and is not past its deletion.
fn alive(
    objects: &dyn Objects,
    kind: &str,
    collection: Collection,
    namespace: &str,
    named: &Named,
    now: i64,
) -> Result<ObjectMeta, String> {
    let found = objects.get(collection, namespace, &named.name).and_then(|bytes| decode::<Identity>(&bytes));
    let metadata = found.ok_or_else(|| format!("the token's {kind} {namespace}/{} does not exist", named.name))?.metadata;
    if !named.uid.is_empty() && metadata.uid.as_deref() != Some(&named.uid) {
        return Err(format!("the token's {kind} {namespace}/{} was deleted and made again", named.name));
    }
    if metadata.deletion_timestamp.as_ref().is_some_and(|t| t.0.as_second() + LEEWAY < now) {
        return Err(format!("the token's {kind} {namespace}/{} is deleted", named.name));
    }
    Ok(metadata)
}

/// Whom the claims speak for, if all that they name exists.
fn user(claims: &Claims, objects: &dyn Objects, token: &str, now: i64) -> Result<UserInfo, String> {
    let legacy;
    let private = match &claims.private {
        Some(private) => private,
        None => {
            legacy = legacy_private(claims, objects, token, now)?;
            &legacy
        }
    };
    let namespace = &private.namespace;
    let name = &private.serviceaccount.name;
    if claims.subject != format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}") {
        return Err("the token's subject is not the service account that it names".to_owned());
    }
    let account = alive(objects, "service account", Collection::core("serviceaccounts"), namespace, &private.serviceaccount, now)?;
    let mut extra = Vec::new();
    if let Some(secret) = &private.secret {
        alive(objects, "secret", Collection::core("secrets"), namespace, secret, now)?;
    }
    if let Some(pod) = &private.pod {
        alive(objects, "pod", Collection::core("pods"), namespace, pod, now)?;
        extra.push(("pod-name", pod.name.clone()));
        extra.push(("pod-uid", pod.uid.clone()));
    }
    if let Some(node) = &private.node {
        // The node of a pod is told but not checked: the pod's end ends the token.
        if private.pod.is_none() {
            alive(objects, "node", Collection::core("nodes"), "", node, now)?;
        }
        extra.push(("node-name", node.name.clone()));
        extra.push(("node-uid", node.uid.clone()));
    }
    if !claims.id.is_empty() {
        extra.push(("credential-id", format!("JTI={}", claims.id)));
    }
    let extra = extra.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(UserInfo {
        name: claims.subject.clone(),
        uid: account.uid.unwrap_or_default(),
        groups: groups(namespace),
        extra: extra.map(|(key, value)| (format!("{EXTRA}{key}"), vec![value])).collect(),
    })
}

/// A token of the old kind is good as long as the secret holds it.
fn legacy_private(claims: &Claims, objects: &dyn Objects, token: &str, now: i64) -> Result<crate::tokens::Private, String> {
    let namespace = &claims.legacy_namespace;
    let named = Named { name: claims.legacy_secret.clone(), uid: String::new() };
    alive(objects, "secret", Collection::core("secrets"), namespace, &named, now)?;
    let secret: Option<Secret> = objects.get(Collection::core("secrets"), namespace, &named.name).as_ref().and_then(decode);
    let held = secret.and_then(|s| s.data).and_then(|mut data| data.remove("token"));
    if held.is_none_or(|held| held.0 != token.as_bytes()) {
        return Err("the token is not the one in its secret".to_owned());
    }
    let serviceaccount = Named { name: claims.legacy_account.clone(), uid: claims.legacy_uid.clone() };
    Ok(crate::tokens::Private { namespace: namespace.clone(), serviceaccount, ..Default::default() })
}

impl Authenticator for ServiceAccountTokens {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        audiences: &'a [String],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Recognised>, String>> {
        Box::pin(async move {
            let Some(token) = credentials.bearer.as_deref().filter(|token| token.matches('.').count() == 2) else { return Ok(None) };
            let Some(claims) = self.issuer.verify(token)? else { return Ok(None) };
            let audiences = claims.check(audiences, unix(now))?;
            Ok(Some(Recognised { user: user(&claims, &*self.objects, token, unix(now))?, audiences }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{objects::Fixed, tokens::Private};
    use serde_json::json;

    const ACCOUNTS: Collection = Collection::core("serviceaccounts");
    const PODS: Collection = Collection::core("pods");

    fn claims() -> Claims {
        Claims {
            subject: "system:serviceaccount:default:a".into(),
            id: "j".into(),
            private: Some(Private {
                namespace: "default".into(),
                serviceaccount: Named { name: "a".into(), uid: "ua".into() },
                pod: Some(Named { name: "p".into(), uid: "up".into() }),
                node: Some(Named { name: "n".into(), uid: "un".into() }),
                ..Private::default()
            }),
            ..Claims::default()
        }
    }

    fn cluster() -> Fixed {
        let objects = Fixed::default();
        objects.put(ACCOUNTS, json!({"metadata": {"namespace": "default", "name": "a", "uid": "ua"}}));
        objects.put(PODS, json!({"metadata": {"namespace": "default", "name": "p", "uid": "up"}}));
        objects
    }

    #[test]
    fn a_token_lives_as_long_as_what_it_names() {
        let objects = cluster();
        let got = user(&claims(), &objects, "", 0).unwrap();
        assert_eq!((got.name.as_str(), got.uid.as_str()), ("system:serviceaccount:default:a", "ua"));
        assert_eq!(got.groups, ["system:serviceaccounts", "system:serviceaccounts:default"]);
        assert_eq!(got.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(got.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
        objects.put(PODS, json!({"metadata": {"namespace": "default", "name": "p", "uid": "another"}}));
        user(&claims(), &objects, "", 0).unwrap_err();
        let dying = json!({"metadata": {"namespace": "default", "name": "p", "uid": "up", "deletionTimestamp": "1970-01-01T00:01:00Z"}});
        objects.put(PODS, dying);
        user(&claims(), &objects, "", 120).unwrap();
        user(&claims(), &objects, "", 121).unwrap_err();
        let objects = cluster();
        objects.remove(ACCOUNTS, "default", "a");
        user(&claims(), &objects, "", 0).unwrap_err();
    }

    #[test]
    fn an_old_token_lives_as_long_as_its_secret_holds_it() {
        let objects = cluster();
        let old = Claims {
            subject: "system:serviceaccount:default:a".into(),
            legacy_namespace: "default".into(),
            legacy_account: "a".into(),
            legacy_uid: "ua".into(),
            legacy_secret: "s".into(),
            ..Claims::default()
        };
        user(&old, &objects, "token", 0).unwrap_err();
        objects.put(Collection::core("secrets"), json!({"metadata": {"namespace": "default", "name": "s"}, "data": {"token": "dG9rZW4="}}));
        user(&old, &objects, "token", 0).unwrap();
        user(&old, &objects, "another", 0).unwrap_err();
    }
}
