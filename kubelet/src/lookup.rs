//! The API objects pods refer to: config maps, secrets, tokens, claims.
//!
//! Config maps and secrets are watched one by one while a pod uses them, as upstream's kubelet does and as the node authorizer allows: a
//! node may not list them. Whoever uses one is woken when it changes. Without an API server (static pods alone) everything is missing.

use crate::container::identity;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount},
    node::v1::RuntimeClass,
};
use kube::{
    Api, Client, Resource,
    api::PostParams,
    core::NamespaceResourceScope,
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

/// How long a first answer may take before the pod is told that there is none yet.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// What a token lasts where nobody says (upstream: one hour).
const TOKEN_SECONDS: i64 = 3600;
/// Tokens are replaced after a day however long they last (upstream: `maxTTL`).
const TOKEN_MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Why an object is not to be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// It does not exist.
    #[error("{kind} {name:?} not found")]
    Missing {
        /// `configmap`, `secret`.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API could not be asked, or refused.
    #[error("{0}")]
    Failed(String),
}

impl LookupError {
    /// Whether it is known not to exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, LookupError::Missing { .. })
    }
}

type Answer<K> = Option<Result<Arc<K>, LookupError>>;

struct Watched<K> {
    answer: watch::Receiver<Answer<K>>,
    users: Arc<Mutex<HashSet<String>>>,
    task: AbortHandle,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Watches<K> = Mutex<HashMap<(String, String), Watched<K>>>;

struct Token {
    text: String,
    ends: Timestamp,
    refresh_at: Timestamp,
}

/// The lookup of a kubelet, shared by its pods.
pub struct Lookup {
    client: Option<Client>,
    config_maps: Watches<ConfigMap>,
    secrets: Watches<Secret>,
    tokens: Mutex<HashMap<(String, String, i64), Token>>,
    wakers: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
    /// The pods that have volumes which are for one pod.
    occupied: Mutex<HashMap<String, String>>,
}

impl Lookup {
    /// `client` is absent when there is no API server.
    pub fn new(client: Option<Client>) -> Self {
        Lookup {
            client,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
            tokens: Mutex::default(),
            wakers: Arc::default(),
            occupied: Mutex::default(),
        }
    }

    /// Has `waker` notified when something that this pod looked up changes.
    pub fn register(&self, uid: &str, waker: Arc<Notify>) {
        self.wakers.lock().insert(uid.to_owned(), waker);
    }

    /// Who is notified when something happens to a pod.
    pub fn waker(&self, uid: &str) -> Option<Arc<Notify>> {
        self.wakers.lock().get(uid).cloned()
    }

    /// Forgets a pod: what only it used is watched no longer.
    pub fn release(&self, uid: &str) {
        self.wakers.lock().remove(uid);
        release(&self.config_maps, uid);
        release(&self.secrets, uid);
        self.tokens.lock().retain(|(pod, _, _), _| pod != uid);
    }

    /// A pod's volumes are taken down: who else wants one may have it.
    pub fn vacate(&self, uid: &str) {
        self.occupied.lock().retain(|_, pod| pod != uid);
    }

    /// Takes a volume that is for one pod until it is taken down; `false` if another has it.
    pub fn occupy(&self, volume: &str, uid: &str) -> bool {
        *self.occupied.lock().entry(volume.to_owned()).or_insert_with(|| uid.to_owned()) == uid
    }

    /// A config map of the pod's namespace.
    pub async fn config_map(&self, pod: &Pod, name: &str) -> Result<Arc<ConfigMap>, LookupError> {
        self.watched(&self.config_maps, "configmap", pod, name).await
    }

    /// A secret of the pod's namespace.
    pub async fn secret(&self, pod: &Pod, name: &str) -> Result<Arc<Secret>, LookupError> {
        self.watched(&self.secrets, "secret", pod, name).await
    }

    fn client(&self) -> Result<&Client, LookupError> {
        self.client.as_ref().ok_or_else(|| LookupError::Failed("there is no API server".into()))
    }

    async fn watched<K>(&self, watches: &Watches<K>, kind: &str, pod: &Pod, name: &str) -> Result<Arc<K>, LookupError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let client = self.client()?;
        let (namespace, uid) = (identity::namespace(pod), identity::uid(pod));
        let mut answer = {
            let mut watches = watches.lock();
            let watched = watches
                .entry((namespace.to_owned(), name.to_owned()))
                .or_insert_with(|| start(Api::namespaced(client.clone(), namespace), kind, name, self.wakers.clone()));
            watched.users.lock().insert(uid.to_owned());
            watched.answer.clone()
        };
        let first = tokio::time::timeout(FIRST_ANSWER, answer.wait_for(Option::is_some)).await;
        match first {
            Ok(Ok(found)) => found.clone().unwrap_or_else(|| Err(LookupError::Failed(format!("no answer for {kind} {name:?}")))),
            Ok(Err(_)) | Err(_) => Err(LookupError::Failed(format!("failed to sync {kind} cache: timed out waiting for the condition"))),
        }
    }

    /// A token of the pod's service account, for an audience (the API server's own by default), bound to the pod. It is kept until most of
    /// its time is over.
    pub async fn token(&self, pod: &Pod, audience: Option<&str>, seconds: Option<i64>) -> Result<String, LookupError> {
        Ok(self.token_with_end(pod, audience, seconds).await?.0)
    }

    /// The same, with when it ends.
    pub async fn token_with_end(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: Option<i64>,
    ) -> Result<(String, Timestamp), LookupError> {
        let client = self.client()?;
        let seconds = seconds.unwrap_or(TOKEN_SECONDS);
        let key = (identity::uid(pod).to_owned(), audience.unwrap_or_default().to_owned(), seconds);
        let now = Timestamp::now();
        if let Some(token) = self.tokens.lock().get(&key).filter(|t| t.refresh_at > now) {
            return Ok((token.text.clone(), token.ends));
        }
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audience.map(|a| vec![a.to_owned()]).unwrap_or_default()),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..Default::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), identity::namespace(pod));
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let status = made.map_err(|e| LookupError::Failed(message(e)))?.status.unwrap_or_default();
        let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err(LookupError::Failed("the API server answered without a token".into()));
        };
        self.tokens.lock().insert(key, Token { text: text.clone(), ends: expires.0, refresh_at: refresh_time(now, expires.0) });
        Ok((text, expires.0))
    }

    /// When the next of the pod's tokens is due for replacement.
    pub fn next_refresh(&self, uid: &str) -> Option<Timestamp> {
        self.tokens.lock().iter().filter(|((pod, _, _), _)| pod == uid).map(|(_, t)| t.refresh_at).min()
    }

    /// A claim of the pod's namespace, and the volume that is bound to it.
    pub async fn claimed_volume(&self, pod: &Pod, claim: &str) -> Result<(PersistentVolumeClaim, PersistentVolume), LookupError> {
        let client = self.client()?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), identity::namespace(pod));
        let found = claims.get(claim).await.map_err(|e| describe("persistentvolumeclaim", claim, e))?;
        let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let name = found.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| bound && !n.is_empty());
        let name = name.ok_or_else(|| LookupError::Failed(format!("PVC {claim} is not bound")))?;
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let volume = volumes.get(&name).await.map_err(|e| describe("persistentvolume", &name, e))?;
        Ok((found, volume))
    }

    /// What the runtime calls the class that a pod wants to be run by; empty for its default.
    pub async fn runtime_handler(&self, pod: &Pod) -> Result<String, LookupError> {
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|c| !c.is_empty());
        let Some(class) = class else { return Ok(String::new()) };
        let classes: Api<RuntimeClass> = Api::all(self.client()?.clone());
        Ok(classes.get(class).await.map_err(|e| describe("RuntimeClass", class, e))?.handler)
    }
}

fn describe(kind: &str, name: &str, error: kube::Error) -> LookupError {
    match error {
        kube::Error::Api(status) if status.code == 404 => LookupError::Missing { kind: kind.into(), name: name.into() },
        other => LookupError::Failed(message(other)),
    }
}

/// What the API server said, in its words alone: it goes into events.
fn message(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => other.to_string(),
    }
}

/// Four fifths of a token's life, or a day.
fn refresh_time(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(now);
    now + (life * 4 / 5).min(TOKEN_MAX_AGE)
}

fn release<K>(watches: &Watches<K>, uid: &str) {
    watches.lock().retain(|_, watched| {
        let mut users = watched.users.lock();
        users.remove(uid);
        !users.is_empty()
    });
}

/// Starts following one object.
fn start<K>(api: Api<K>, kind: &str, name: &str, wakers: Arc<Mutex<HashMap<String, Arc<Notify>>>>) -> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (sender, answer) = watch::channel(None);
    let users: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (kind, name, interested) = (kind.to_owned(), name.to_owned(), users.clone());
    let task = tokio::spawn(async move {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut stream = watcher(api, config).default_backoff().boxed();
        let missing = || LookupError::Missing { kind: kind.clone(), name: name.clone() };
        let mut listed = None;
        while let Some(event) = stream.next().await {
            let new = match event {
                Ok(watcher::Event::Init) => {
                    listed = None;
                    continue;
                }
                Ok(watcher::Event::InitApply(object)) => {
                    listed = Some(Arc::new(object));
                    continue;
                }
                Ok(watcher::Event::InitDone) => listed.take().ok_or_else(missing),
                Ok(watcher::Event::Apply(object)) => Ok(Arc::new(object)),
                Ok(watcher::Event::Delete(_)) => Err(missing()),
                // What is known stays in use while the API is away.
                Err(_) if sender.borrow().as_ref().is_some_and(Result::is_ok) => continue,
                Err(error) => Err(LookupError::Failed(error.to_string())),
            };
            sender.send_replace(Some(new));
            let wakers = wakers.lock();
            for waker in interested.lock().iter().filter_map(|uid| wakers.get(uid)) {
                waker.notify_one();
            }
        }
    });
    Watched { answer, users, task: task.abort_handle() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_replaced_at_four_fifths_or_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(refresh_time(now, now + SignedDuration::from_secs(3600)), now + SignedDuration::from_secs(2880));
        assert_eq!(refresh_time(now, now + SignedDuration::from_hours(24 * 365)), now + SignedDuration::from_hours(24));
    }
}
