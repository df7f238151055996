//! Whether the servers behind APIServices can be reached: the condition `Available`, and on the way what they serve
//! (upstream: `kube-aggregator/pkg/controllers/status/remote`).
//!
//! A pass runs when an APIService, a Service or an EndpointSlice changes. While there is a server that fails, it is asked again at growing intervals;
//! one that works is asked again now and then, for nobody tells when it stops.

use super::{API_SERVICES, Aggregator, Backend, discovery::Served};
use crate::authentication::{MASTERS, UserInfo};
use crate::cache::{Filter, Start, WatchOptions, Watcher};
use crate::objects::{Collection, Objects, decoded, decoded_list};
use crate::outbound::service::endpoints;
use crate::registry::Registry;
use axum::body::Body;
use futures::future::{join_all, select_all};
use http::Request;
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a server may take to say what it serves (upstream's).
const PROBE: Duration = Duration::from_secs(5);
/// The largest list of resources that is read.
const MAX_LIST: usize = 4 * 1024 * 1024;
/// When failing servers are asked again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// When working servers are asked again.
const RECHECK: Duration = Duration::from_secs(30);
/// Changes that come together are dealt with together.
const TOGETHER: Duration = Duration::from_millis(20);

const SERVICES: Collection = Collection::core("services");
const SLICES: Collection = Collection::of("discovery.k8s.io", "endpointslices");

/// A condition: status, reason, message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `True` or `False`.
    pub status: &'static str,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict { status: "False", reason, message }
}

/// What keeps the server from being asked at all, as far as the objects tell.
fn missing(backend: &Backend, service: Option<&Service>, slices: &[EndpointSlice]) -> Option<Verdict> {
    let (name, namespace, port) = (&backend.service.name, &backend.service.namespace, backend.service.port);
    let Some(service) = service else {
        return Some(no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let ports = spec.ports.unwrap_or_default();
    let Some(wanted) = ports.iter().find(|p| p.port == i32::from(port)) else {
        return Some(no("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}")));
    };
    let port_name = wanted.name.clone().unwrap_or_default();
    let owned = |s: &&EndpointSlice| s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name")) == Some(name);
    if !slices.iter().any(|s| owned(&s)) {
        return Some(no("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}")));
    }
    if endpoints(slices, name, &port_name).is_empty() {
        let why = format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
        return Some(no("MissingEndpoints", why));
    }
    None
}

impl Aggregator {
    /// What others serve, for discovery.
    pub fn served(&self) -> Vec<Served> {
        let backends = self.backends();
        let discovered = self.discovered.lock();
        let one = |b: &Arc<Backend>| Served {
            group: b.group.clone(),
            version: b.version.clone(),
            priority: b.priority,
            available: b.available,
            resources: discovered.get(&b.name).cloned().unwrap_or_default(),
        };
        backends.iter().map(one).collect()
    }

    /// Asks the server what it serves.
    async fn probe(&self, backend: &Backend) -> Verdict {
        let path = format!("/apis/{}/{}", backend.group, backend.version);
        let service = &backend.service;
        let url = format!("https://{}.{}.svc:{}{path}", service.name, service.namespace, service.port);
        let failed = |why: String| no("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"));
        let request = match Request::get(&path).header("accept", "application/json").body(Body::empty()) {
            Ok(request) => request,
            Err(error) => return failed(error.to_string()),
        };
        let user = UserInfo { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..Default::default() };
        let asked = async {
            let response = self.send(backend, &path, request, &user).await.map_err(|e| failed(format!("Get {url:?}: {e}")))?;
            let code = response.status();
            let body = Limited::new(response.into_body(), MAX_LIST).collect().await;
            if !code.is_success() {
                return Err(no("FailedDiscoveryCheck", format!("bad status from {url}: {}", code.as_u16())));
            }
            Ok(body.map_err(|e| failed(e.to_string()))?.to_bytes())
        };
        match tokio::time::timeout(PROBE, asked).await {
            Err(_) => failed(format!("Get {url:?}: context deadline exceeded")),
            Ok(Err(verdict)) => verdict,
            Ok(Ok(list)) => {
                if let Ok(list) = serde_json::from_slice(&list) {
                    self.discovered.lock().insert(backend.name.clone(), list);
                }
                Verdict { status: "True", reason: "Passed", message: "all checks passed".into() }
            }
        }
    }

    /// Judges every server, and writes down what has changed. Returns whether all can be reached.
    async fn pass(&self, registry: &Registry) -> bool {
        let backends = self.backends();
        let judged = backends.iter().map(|backend| async move {
            let target = &backend.service;
            let service = decoded::<Service>(&*self.objects, SERVICES, &target.namespace, &target.name);
            let slices: Vec<EndpointSlice> = decoded_list(&*self.objects, SLICES, &target.namespace);
            let verdict = match missing(backend, service.as_ref(), &slices) {
                Some(verdict) => verdict,
                None => self.probe(backend).await,
            };
            write(registry, &backend.name, &verdict).await;
            verdict.status == "True"
        });
        join_all(judged).await.into_iter().all(|available| available)
    }
}

/// Puts the verdict into the object's status, unless it is there already.
async fn write(registry: &Registry, name: &str, verdict: &Verdict) {
    let objects: &dyn Objects = registry;
    let Some(object) = objects.get(API_SERVICES, "", name) else { return };
    let Ok(mut object) = serde_json::from_slice::<Value>(&object) else { return };
    if !judge(&mut object, verdict, &Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()) {
        return;
    }
    if let Err(error) = objects.update(API_SERVICES, "", "status", object).await
        && !matches!(error.code(), 404 | 409)
    {
        tracing::warn!(service = name, %error, "cannot write whether an API service is available");
    }
}

/// Sets the condition; whether that changed the object. The time is that of the last change of status.
fn judge(object: &mut Value, verdict: &Verdict, now: &str) -> bool {
    let Verdict { status, reason, message } = verdict;
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions.iter().find(|c| c["type"] == "Available");
    if known.is_some_and(|c| c["status"] == *status && c["reason"] == *reason && c["message"] == message.as_str()) {
        return false;
    }
    let since = known.filter(|c| c["status"] == *status).and_then(|c| c["lastTransitionTime"].as_str()).unwrap_or(now).to_owned();
    let new = json!({"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
    let mut conditions: Vec<Value> = conditions.into_iter().filter(|c| c["type"] != "Available").collect();
    conditions.push(new);
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["conditions"] = conditions.into();
    true
}

fn watch(registry: &Registry, collection: Collection) -> Option<Watcher> {
    let endpoint = registry.stored_endpoint(collection.group, collection.plural)?;
    let options = WatchOptions { start: Start::Initial { end_bookmark: false }, bookmarks: false, deadline: None };
    endpoint.cache.as_ref()?.watch(Filter::all(), options).ok()
}

/// Keeps the conditions until `stop`.
pub async fn run(aggregator: Arc<Aggregator>, registry: Arc<Registry>, stop: CancellationToken) {
    let mut watchers: [Option<Watcher>; 3] = [None, None, None];
    let mut retry = RETRY.0;
    loop {
        for (watcher, collection) in watchers.iter_mut().zip([API_SERVICES, SERVICES, SLICES]) {
            if watcher.is_none() {
                *watcher = watch(&registry, collection);
            }
        }
        let none = aggregator.backends().is_empty();
        let all_work = none || aggregator.pass(&registry).await;
        retry = if all_work { RETRY.0 } else { (retry * 2).min(RETRY.1) };
        let again = match (none, all_work) {
            (true, _) => Duration::MAX,
            (false, true) => RECHECK,
            (false, false) => retry,
        };
        let wait = async {
            loop {
                let changes: Vec<_> = watchers.iter_mut().flatten().map(|w| Box::pin(w.next())).collect();
                if changes.is_empty() {
                    return std::future::pending().await;
                }
                let (events, at, _) = select_all(changes).await;
                if events.is_none() {
                    // The watcher fell behind; a new one starts with what is there.
                    return Some(at);
                }
                // Changes of services concern nobody while every group is our own.
                if at == 0 || !aggregator.backends().is_empty() {
                    return None;
                }
            }
        };
        let lost = tokio::select! {
            () = stop.cancelled() => return,
            lost = wait => lost,
            () = sleep(again) => None,
        };
        if let Some(at) = lost {
            watchers[at] = None;
        }
        tokio::time::sleep(TOGETHER).await;
    }
}

async fn sleep(duration: Duration) {
    match duration {
        Duration::MAX => std::future::pending().await,
        duration => tokio::time::sleep(duration).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> Backend {
        Backend {
            name: "v1.g".into(),
            group: "g".into(),
            version: "v1".into(),
            priority: (1, 1),
            available: false,
            service: crate::outbound::ServiceTarget { namespace: "ns".into(), name: "s".into(), port: 443, path: String::new() },
            tls: Err("no TLS in this test".into()),
        }
    }

    #[test]
    fn objects_tell_what_is_missing() {
        let service = |port: i32| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": port}]}})).unwrap()
        };
        let slice = |ready: bool| -> EndpointSlice {
            serde_json::from_value(json!({"metadata": {"labels": {"kubernetes.io/service-name": "s"}}, "addressType": "IPv4",
                "ports": [{"port": 8443}], "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]}))
            .unwrap()
        };
        let reason = |service: Option<&Service>, slices: &[EndpointSlice]| missing(&backend(), service, slices).map(|v| v.reason);
        assert_eq!(missing(&backend(), None, &[]).unwrap().message, "service/s in \"ns\" is not present");
        assert_eq!(reason(Some(&service(80)), &[]), Some("ServicePortError"));
        assert_eq!(reason(Some(&service(443)), &[]), Some("EndpointsNotFound"));
        assert_eq!(reason(Some(&service(443)), &[slice(false)]), Some("MissingEndpoints"));
        assert_eq!(reason(Some(&service(443)), &[slice(true)]), None);
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut object = json!({"metadata": {}});
        let failing = |message: &str| no("FailedDiscoveryCheck", message.into());
        assert!(judge(&mut object, &failing("a"), "1") && !judge(&mut object, &failing("a"), "2"));
        assert!(judge(&mut object, &failing("b"), "3"));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "1");
        assert!(judge(&mut object, &Verdict { status: "True", reason: "Passed", message: String::new() }, "4"));
        assert_eq!(
            object["status"]["conditions"],
            json!([{"type": "Available", "status": "True", "reason": "Passed", "message": "", "lastTransitionTime": "4"}])
        );
    }
}
