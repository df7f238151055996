//! The audit log: who asked for what, and what became of it, as far as the policy wants it recorded
//! (upstream: `apiserver/pkg/audit`, `endpoints/filters/audit.go`).
//!
//! Events are handed to one writer task; a request waits when that is behind, so that nothing is answered that could not be recorded. Left out: sending
//! events to a webhook.

pub mod log;
pub mod policy;

use crate::authentication::UserInfo;
use crate::authorization::Attributes;
use crate::notes::Notes;
use api::StatusError;
use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use log::Log;
use policy::{Decision, Level, Policy};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// How many events may wait to be written, and how many are written at once.
const WAITING: usize = 10_000;
const AT_ONCE: usize = 256;

/// Records requests.
pub struct Audit {
    policy: Policy,
    lines: mpsc::Sender<String>,
}

/// A request that is recorded.
pub struct Record {
    decision: Decision,
    event: Value,
    lines: mpsc::Sender<String>,
}

/// What is known of a request besides what it asks for.
pub struct Origin<'a> {
    /// The id in the answer's header.
    pub id: &'a str,
    /// Path and query as they came.
    pub uri: &'a str,
    /// The client's address.
    pub peer: std::net::IpAddr,
    /// The client's program.
    pub agent: &'a str,
    /// Who the credentials were of, where that is somebody else than the request counts for.
    pub impersonator: Option<&'a UserInfo>,
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn user(user: &UserInfo) -> Value {
    let mut out = json!({"username": user.name});
    for (key, filled, value) in [
        ("uid", !user.uid.is_empty(), json!(user.uid)),
        ("groups", !user.groups.is_empty(), json!(user.groups)),
        ("extra", !user.extra.is_empty(), json!(user.extra)),
    ] {
        if filled {
            out[key] = value;
        }
    }
    out
}

fn object_ref(request: &Attributes) -> Value {
    let mut out = json!({});
    for (key, value) in [
        ("resource", &request.resource),
        ("namespace", &request.namespace),
        ("name", &request.name),
        ("apiGroup", &request.group),
        ("apiVersion", &request.version),
        ("subresource", &request.subresource),
    ] {
        if !value.is_empty() {
            out[key] = value.as_str().into();
        }
    }
    out
}

impl Audit {
    /// Starts the writer. It ends, with everything written, when the last of those that record is gone.
    pub fn start(policy: Policy, mut log: Log) -> Self {
        let (lines, mut waiting) = mpsc::channel::<String>(WAITING);
        tokio::task::spawn_blocking(move || {
            let mut batch = Vec::with_capacity(AT_ONCE);
            while waiting.blocking_recv_many(&mut batch, AT_ONCE) > 0 {
                let text = batch.concat();
                batch.clear();
                if let Err(error) = log.write(text.as_bytes()) {
                    tracing::error!(%error, "cannot write the audit log");
                }
            }
        });
        Audit { policy, lines }
    }

    /// A record of the request, if the policy wants one.
    pub fn record(&self, request: &Attributes, origin: &Origin<'_>) -> Option<Record> {
        let decision = self.policy.decide(request);
        if decision.level == Level::None {
            return None;
        }
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": decision.level.name(), "auditID": origin.id,
            "requestURI": origin.uri, "verb": request.verb, "user": user(origin.impersonator.unwrap_or(&request.user)),
            "sourceIPs": [origin.peer], "userAgent": origin.agent, "requestReceivedTimestamp": now(),
        });
        if origin.impersonator.is_some() {
            event["impersonatedUser"] = user(&request.user);
        }
        if request.resource_request {
            event["objectRef"] = object_ref(request);
        }
        Some(Record { decision, event, lines: self.lines.clone() })
    }
}

impl Record {
    /// Whether the bodies of request and answer are recorded.
    pub fn wants_bodies(&self) -> (bool, bool) {
        (self.decision.level >= Level::Request, self.decision.level >= Level::RequestResponse)
    }

    fn object(&self, bytes: &Bytes) -> Option<Value> {
        let mut value: Value = serde_json::from_slice(bytes).ok()?;
        if self.decision.omit_managed_fields {
            crate::registry::metadata::take_managed_fields(&mut value);
            for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                crate::registry::metadata::take_managed_fields(item);
            }
        }
        Some(value)
    }

    /// Keeps the object that was sent.
    pub fn request(&mut self, body: &Bytes) {
        if let Some(object) = self.object(body) {
            self.event["requestObject"] = object;
        }
    }

    /// Keeps the answer.
    pub fn response(&mut self, body: &Bytes) {
        if let Some(object) = self.object(body) {
            self.event["responseObject"] = object;
        }
    }

    /// Why the request was let through, or not.
    pub fn decided(&mut self, notes: &Notes, refusal: Option<&StatusError>) {
        let (decision, reason) = match refusal {
            None => ("allow", String::new()),
            Some(error) => ("forbid", error.to_string()),
        };
        notes.annotate("authorization.k8s.io/decision", decision);
        notes.annotate("authorization.k8s.io/reason", reason);
    }

    fn line(&self, stage: &str, code: Option<u16>, notes: &Notes) -> Option<String> {
        if self.decision.omit_stages.iter().any(|omitted| omitted == stage) {
            return None;
        }
        let mut event = self.event.clone();
        event["stage"] = stage.into();
        event["stageTimestamp"] = now().into();
        if let Some(code) = code {
            event["responseStatus"] = json!({"metadata": {}, "code": code});
            let status = event["responseObject"].as_object().filter(|o| o.get("kind").is_some_and(|k| k == "Status")).cloned();
            for (key, value) in status.into_iter().flatten().filter(|(k, _)| matches!(k.as_str(), "status" | "reason" | "message")) {
                event["responseStatus"][key] = value;
            }
        }
        let annotations = notes.annotations();
        if !annotations.is_empty() {
            event["annotations"] = json!(annotations);
        }
        Some(format!("{event}\n"))
    }

    /// Writes an event, waiting for the writer if it is behind.
    pub async fn stage(&self, stage: &str, code: Option<u16>, notes: &Notes) {
        if let Some(line) = self.line(stage, code, notes)
            && self.lines.send(line).await.is_err()
        {
            tracing::error!("the audit log's writer has ended");
        }
    }

    /// Writes the event of the end when what this returns is dropped: a stream ends when its client or its server lets go of it.
    pub fn at_end(self, code: u16, notes: Arc<Notes>) -> AtEnd {
        AtEnd { record: self, code, notes }
    }
}

/// See [`Record::at_end`].
pub struct AtEnd {
    record: Record,
    code: u16,
    notes: Arc<Notes>,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(line) = self.record.line("ResponseComplete", Some(self.code), &self.notes)
            && self.record.lines.try_send(line).is_err()
        {
            tracing::error!("the end of a stream is not in the audit log: its writer is behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_says_who_did_what_and_how_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse, omitStages: [RequestReceived], omitManagedFields: true}]";
        let audit = Audit::start(Policy::parse(policy).unwrap(), Log::open(&path, log::Rotation { size: 1 << 20, backups: 0 }).unwrap());
        let amy = UserInfo { name: "amy".into(), groups: vec!["a".into()], ..Default::default() };
        let admin = UserInfo { name: "admin".into(), ..Default::default() };
        let request = Attributes {
            user: amy,
            verb: "create".into(),
            resource_request: true,
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "ns".into(),
            ..Default::default()
        };
        let origin = Origin { id: "7", uri: "/api/v1/x", peer: [127, 0, 0, 1].into(), agent: "kubectl", impersonator: Some(&admin) };
        let mut record = audit.record(&request, &origin).unwrap();
        let notes = Arc::new(Notes::default());
        record.decided(&notes, None);
        record.stage("RequestReceived", None, &notes).await;
        record.request(&Bytes::from_static(br#"{"metadata":{"name":"a","managedFields":[{}]}}"#));
        record.response(&Bytes::from_static(br#"{"kind":"Status","status":"Failure","reason":"Invalid"}"#));
        drop(record.at_end(422, notes));
        drop(audit);
        let text = loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.ends_with('\n') {
                break text;
            }
            tokio::task::yield_now().await;
        };
        let event: Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(
            (&event["stage"], &event["user"]["username"], &event["impersonatedUser"]["username"]),
            (&json!("ResponseComplete"), &json!("admin"), &json!("amy"))
        );
        assert_eq!(event["objectRef"], json!({"resource": "pods", "namespace": "ns", "apiVersion": "v1"}));
        assert_eq!(event["requestObject"], json!({"metadata": {"name": "a"}}));
        assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 422, "status": "Failure", "reason": "Invalid"}));
        assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    }
}
