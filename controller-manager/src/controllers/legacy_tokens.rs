//! Secrets with tokens that this cluster once made for service accounts by itself, and that nobody has used for a year: they are marked as invalid, and deleted when
//! nobody has missed them for another (upstream: `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`).
//!
//! Only tokens that an account's `secrets` list names were made so; those that a user made stay. When the apiserver began to note uses it says in a ConfigMap;
//! where there is none, nothing is touched.

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{DeleteOptions, Op, PatchKind, Request};
use client::{Cache, ObjectKey};
use futures::future::BoxFuture;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::Api;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a token has to be unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub SignedDuration);

impl Default for Period {
    fn default() -> Self {
        Self(SignedDuration::from_hours(24 * 365))
    }
}

/// How often they are looked at.
const EVERY: Duration = Duration::from_secs(24 * 3600);
const TRACKING: (&str, &str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking", "since");
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Keys are secrets with tokens.
pub struct LegacyTokens {
    context: Context,
    secrets: Arc<Cache<Secret>>,
    accounts: Arc<Cache<ServiceAccount>>,
    pods: Arc<Cache<Pod>>,
}

fn day(text: Option<&String>) -> Option<Timestamp> {
    text?.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn label<'a>(secret: &'a Secret, name: &str) -> Option<&'a String> {
    secret.metadata.labels.as_ref()?.get(name)
}

/// Whether the account lists the secret, so that it was made for it and not by a user.
fn was_generated(secret: &Secret, account: Option<&ServiceAccount>) -> bool {
    let uid = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ACCOUNT_UID));
    account.is_some_and(|account| {
        uid.is_none_or(|uid| account.metadata.uid.as_ref() == Some(uid))
            && account.secrets.iter().flatten().any(|listed| listed.name == secret.metadata.name)
    })
}

/// The secrets that a pod names, in its volumes, its environment or to pull its images.
fn named_by(pod: &Pod) -> impl Iterator<Item = &str> {
    let spec = || pod.spec.iter();
    let volumes = spec().flat_map(|spec| spec.volumes.iter().flatten());
    let mounted = volumes.clone().filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref());
    let sources = volumes.flat_map(|volume| volume.projected.iter()).flat_map(|projected| projected.sources.iter().flatten());
    let projected = sources.filter_map(|source| source.secret.as_ref()).map(|secret| secret.name.as_str());
    let containers = || spec().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let values = containers().flat_map(|container| container.env.iter().flatten());
    let variables = values.filter_map(|value| value.value_from.as_ref()?.secret_key_ref.as_ref()).map(|key| key.name.as_str());
    let environments = containers().flat_map(|container| container.env_from.iter().flatten());
    let whole = environments.filter_map(|source| source.secret_ref.as_ref()).map(|secret| secret.name.as_str());
    let pulls = spec().flat_map(|spec| spec.image_pull_secrets.iter().flatten()).map(|secret| secret.name.as_str());
    mounted.chain(projected).chain(variables).chain(whole).chain(pulls)
}

fn is_named(secret: &Secret, pods: &[Arc<Pod>]) -> bool {
    pods.iter().flat_map(|pod| named_by(pod)).any(|name| secret.metadata.name.as_deref() == Some(name))
}

/// What to do about one that was generated and that no pod names. `since`: when uses began to be noted.
fn plan(secret: &Secret, since: Timestamp, Period(period): Period, now: Timestamp) -> Option<Op> {
    let key = ObjectKey::of(secret);
    let made = secret.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let used = day(label(secret, LAST_USED));
    // A day has passed only when it is over.
    let idle_since = used.map_or(made.max(since), |used| used + SignedDuration::from_hours(24)).max(made);
    if now < idle_since + period {
        return None;
    }
    match day(label(secret, INVALID_SINCE)) {
        None => {
            let today = now.strftime("%Y-%m-%d").to_string();
            let patch = json!({"metadata": {"uid": secret.metadata.uid, "labels": {INVALID_SINCE: today}}});
            Some(Op::send(Request::patch::<Secret>(&key, "", PatchKind::Merge, patch).tolerating(&[404, 409])))
        }
        Some(invalid) if now >= invalid + SignedDuration::from_hours(24) + period => {
            let options = DeleteOptions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
                ..DeleteOptions::default()
            };
            Some(Op::send(Request::delete::<Secret>(&key, &options).tolerating(&[404, 409])))
        }
        Some(_) => None,
    }
}

impl LegacyTokens {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let secrets = super::service_account_token::token_secrets(&context.caches);
        Self { secrets, accounts: context.caches.of(), pods: context.caches.of(), context }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(secret) = self.secrets.get(key) else { return Ok(None) };
        let name = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ACCOUNT)).cloned().unwrap_or_default();
        let account = self.accounts.get(&ObjectKey::new(&key.namespace, name));
        let now = Timestamp::now();
        let period = self.context.settings.unused_tokens;
        let young = secret.metadata.creation_timestamp.as_ref().is_none_or(|made| now < made.0 + period.0);
        if young || !was_generated(&secret, account.as_deref()) || is_named(&secret, &self.pods.in_namespace(&key.namespace)) {
            return Ok(Some(EVERY));
        }
        let (namespace, name, field) = TRACKING;
        let tracking: Api<ConfigMap> = Api::namespaced(self.context.executor.client().clone(), namespace);
        let since = tracking.get_opt(name).await?.and_then(|map| day(map.data?.get(field)));
        let ops = since.and_then(|since| plan(&secret, since, period, now)).into_iter().collect();
        self.context.executor.apply(ops).await?;
        Ok(Some(EVERY))
    }
}

impl Controller for LegacyTokens {
    fn workers(&self) -> usize {
        1
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.secrets, keys);
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::Value;

    #[test]
    fn unused_tokens_are_marked_and_then_deleted() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let since: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        let secret = |made: &str, labels: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s", "creationTimestamp": made, "labels": labels}}))
                .unwrap()
        };
        let old = "2023-01-01T00:00:00Z";
        let cases = [
            (secret("2026-01-01T00:00:00Z", json!({})), since, None),
            (secret(old, json!({})), since, Some("PATCH")),
            (secret(old, json!({})), now - SignedDuration::from_hours(24), None),
            (secret(old, json!({LAST_USED: "2026-05-01"})), since, None),
            (secret(old, json!({LAST_USED: "2025-05-30"})), since, Some("PATCH")),
            (secret(old, json!({LAST_USED: "2025-06-01"})), since, None),
            (secret(old, json!({INVALID_SINCE: "2026-01-01"})), since, None),
            (secret(old, json!({INVALID_SINCE: "2025-05-30"})), since, Some("DELETE")),
        ];
        for (secret, since, expected) in cases {
            let method = plan(&secret, since, Period::default(), now).map(|op| match op {
                Op::Send(request) => request.method,
                other => panic!("a request, not {other:?}"),
            });
            assert_eq!(method, expected, "{:?}", secret.metadata);
        }
    }

    #[test]
    fn what_a_user_made_or_a_pod_names_stays() {
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "s", "annotations": {ACCOUNT_UID: "u"}}})).unwrap();
        let account = |uid: &str, listed: &str| -> ServiceAccount {
            serde_json::from_value(json!({"metadata": {"name": "a", "uid": uid}, "secrets": [{"name": listed}]})).unwrap()
        };
        for (account, expected) in [(account("u", "s"), true), (account("u", "other"), false), (account("v", "s"), false)] {
            assert_eq!(was_generated(&secret, Some(&account)), expected);
        }
        assert!(!was_generated(&secret, None));
        let container = |more: Value| json!({"containers": [], "initContainers": [more]});
        for (spec, expected) in [
            (json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), true),
            (json!({"containers": [], "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]}), true),
            (json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "other"}}]}), false),
            (json!({"containers": [], "imagePullSecrets": [{"name": "s"}]}), true),
            (container(json!({"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}]})), true),
            (container(json!({"name": "c", "env": [{"name": "E", "value": "s"}]})), false),
            (container(json!({"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]})), true),
            (container(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "s"}}]})), false),
        ] {
            let pod = held(json!({"metadata": {"name": "p"}, "spec": spec}));
            assert_eq!(is_named(&secret, &[Arc::new(pod)]), expected, "{spec}");
        }
    }
}
