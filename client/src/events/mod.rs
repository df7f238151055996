//! Writing Events, in the two shapes in which upstream's components do it.
//!
//! [`EventRecorder::core`] is the recorder of the controllers and the kubelet (`client-go/tools/record`): `v1` Events with `source`, counted and combined by
//! [`correlator`]. [`EventRecorder::series`] is the scheduler's (`client-go/tools/events`): `events.k8s.io/v1` with `regarding`, `note` and `action`,
//! repeated through [`series`].
//!
//! Recording never blocks and never fails: a report goes into a bounded channel and is dropped, with a log line, if that is full, as upstream drops it.
//! Events are told to people; no component acts on them.

pub mod correlator;
pub mod series;

use correlator::{Correlator, Decision};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as CoreEvent, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use series::SeriesCache;
use std::fmt::Debug;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Reports that may wait to be written: about as many as a scheduler makes in its busiest seconds (upstream's broadcaster holds 1,000).
const WAITING: usize = 10_000;
/// Events of a scheduler that are written at a time when as many wait as may.
const AT_ONCE: usize = 16;
/// How often a write is tried (upstream: 12).
const TRIES: u32 = 12;
/// The time between tries (upstream: 10 s).
const BETWEEN_TRIES: Duration = Duration::from_secs(10);

/// `Normal` or `Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Something happened as it should.
    Normal,
    /// Something did not.
    Warning,
}

impl EventType {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What is to be recorded.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it is about, see [`reference`].
    pub about: ObjectReference,
    /// What else has to do with it: the pod that another made room for. Only events.k8s.io has it.
    pub related: Option<ObjectReference>,
    /// `Normal` or `Warning`.
    pub event_type: EventType,
    /// One CamelCase word, `FailedScheduling`.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
    /// What the component was doing (`Binding`); only events.k8s.io has it.
    pub action: String,
    /// When it happened.
    pub at: Timestamp,
}

/// Who reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `replicaset-controller`, `kubelet`, `default-scheduler`.
    pub component: String,
    /// The node's name for a kubelet, else empty (core) or `<component>-<host name>` (series).
    pub instance: String,
}

/// Hands reports to the task that writes them. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    reports: mpsc::Sender<Report>,
}

impl EventRecorder {
    /// The recorder of controllers and kubelets. `host` is the node's name for a kubelet and empty for a controller.
    pub fn core(client: Client, component: &str, host: &str) -> Self {
        let source = Source { component: component.to_owned(), instance: host.to_owned() };
        Self::start(move |reports| write_core(client, source, reports))
    }

    /// The recorder of the scheduler; its instance is `<component>-<host name>`.
    pub fn series(client: Client, component: &str, host_name: &str) -> Self {
        let source = Source { component: component.to_owned(), instance: format!("{component}-{host_name}") };
        Self::start(move |reports| write_series(client, source, reports))
    }

    /// A recorder whose reports the caller takes itself, for tests.
    pub fn captured() -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { reports: sender }, receiver)
    }

    fn start<F: Future<Output = ()> + Send + 'static>(task: impl FnOnce(mpsc::Receiver<Report>) -> F) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(task(receiver));
        Self { reports: sender }
    }

    /// Something happened as it should.
    pub fn normal(&self, about: ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(about, EventType::Normal, reason, message, "");
    }

    /// Something went wrong.
    pub fn warning(&self, about: ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(about, EventType::Warning, reason, message, "");
    }

    /// The general form.
    pub fn record(&self, about: ObjectReference, event_type: EventType, reason: &str, message: impl Into<String>, action: &str) {
        self.record_related(about, None, event_type, reason, message, action);
    }

    /// The same with another object that has to do with it.
    pub fn record_related(
        &self,
        about: ObjectReference,
        related: Option<ObjectReference>,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
        action: &str,
    ) {
        let report = Report {
            about,
            related,
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            action: action.to_owned(),
            at: Timestamp::now(),
        };
        if let Err(error) = self.reports.try_send(report) {
            tracing::warn!(%error, reason, "event dropped");
        }
    }
}

/// A reference to an object, as Events carry it. `field_path` narrows it down: `spec.containers{nginx}`.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K, field_path: Option<String>) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path,
    }
}

/// The namespace that an event about this object is written to.
fn namespace_of(about: &ObjectReference) -> &str {
    about.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

/// An event's name: the object's, then the time in nanoseconds, in hexadecimal.
fn event_name(about: &ObjectReference, at: Timestamp) -> String {
    format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), at.as_nanosecond())
}

async fn write_core(client: Client, source: Source, mut reports: mpsc::Receiver<Report>) {
    let mut correlator = Correlator::new(source);
    while let Some(report) = reports.recv().await {
        let api: Api<CoreEvent> = Api::namespaced(client.clone(), namespace_of(&report.about));
        let (key, decision) = correlator.correlate(&report);
        let written = match &decision {
            Decision::Drop => continue,
            Decision::Create(event) => write(&api, None, event.as_ref()).await,
            Decision::Patch { patch, event } => write(&api, Some(patch), event.as_ref()).await,
        };
        match written {
            Ok(event) => correlator.written(&key, &event),
            Err(error) => tracing::debug!(%error, reason = report.reason, "event refused"),
        }
    }
}

/// How many events may be written beside each other: one while few wait, so that in a burst the requests that pods wait for go first and
/// what is only told comes after them; more with each that waits, before any is dropped.
fn at_once(waiting: usize) -> usize {
    1 + waiting * (AT_ONCE - 1) / WAITING
}

/// Writes [some](at_once) beside each other; upstream starts a thread for each.
async fn write_series(client: Client, source: Source, mut reports: mpsc::Receiver<Report>) {
    let (mut cache, mut writing) = (SeriesCache::new(source), JoinSet::new());
    loop {
        while writing.len() >= at_once(reports.len()) {
            writing.join_next().await;
        }
        while writing.try_join_next().is_some() {}
        let events = match cache.next_expiry() {
            None => match reports.recv().await {
                Some(report) => cache.observe(&report),
                None => break,
            },
            Some(wait) => match tokio::time::timeout(wait, reports.recv()).await {
                Ok(Some(report)) => cache.observe(&report),
                Ok(None) => break,
                Err(_) => cache.expire(Timestamp::now()),
            },
        };
        for event in events {
            let api: Api<Event> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
            writing.spawn(async move {
                let patch = event.series.as_ref().map(|series| serde_json::json!({ "series": series }));
                if let Err(error) = write(&api, patch.as_ref(), &event).await {
                    tracing::debug!(%error, reason = event.reason, "event refused");
                }
            });
        }
    }
    // What was reported before the end is still written.
    while writing.join_next().await.is_some() {}
}

/// Patches the event, or creates it where there is no patch or nothing to patch any more. Tries again while the server cannot be reached or is
/// overwhelmed; an answer of any other kind is final.
async fn write<E>(api: &Api<E>, patch: Option<&Value>, event: &E) -> kube::Result<E>
where
    E: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let mut patch = patch;
    let mut tries = 1;
    loop {
        let name = event.meta().name.as_deref().unwrap_or_default();
        let result = match patch {
            Some(patch) => api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await,
            None => api.create(&PostParams::default(), event).await,
        };
        match result {
            Ok(event) => return Ok(event),
            Err(kube::Error::Api(status)) if status.code == 404 && patch.is_some() => patch = None,
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => return Err(kube::Error::Api(status)),
            Err(error) if tries >= TRIES => return Err(error),
            Err(_) => {
                tries += 1;
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_are_written_at_once_the_more_wait() {
        let cases = [(0, 1), (100, 1), (700, 2), (WAITING / 2, 8), (WAITING, AT_ONCE)];
        for (waiting, expected) in cases {
            assert_eq!(at_once(waiting), expected, "{waiting}");
        }
    }
}
