//! An apiserver without a network, a disk or a clock of its own: objects, versions, preconditions, finalizers, patches, and a log of everything that
//! happened, from which watches are fed. It serves `kube::Client` directly; [`super::serving`] is what is only read, [`super::policies`] what is refused or
//! filled in when objects are created. What it leaves out is what no controller here depends on: validation, most defaults.

use super::invariants::Invariants;
use super::policies;
use client::clock::Clock;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// Plural, version and kind of what is served.
pub const KINDS: &[(&str, &str, &str)] = &[
    ("pods", "v1", "Pod"),
    ("nodes", "v1", "Node"),
    ("namespaces", "v1", "Namespace"),
    ("resourcequotas", "v1", "ResourceQuota"),
    ("horizontalpodautoscalers", "autoscaling/v2", "HorizontalPodAutoscaler"),
    ("persistentvolumeclaims", "v1", "PersistentVolumeClaim"),
    ("replicationcontrollers", "v1", "ReplicationController"),
    ("replicasets", "apps/v1", "ReplicaSet"),
    ("deployments", "apps/v1", "Deployment"),
    ("statefulsets", "apps/v1", "StatefulSet"),
    ("daemonsets", "apps/v1", "DaemonSet"),
    ("controllerrevisions", "apps/v1", "ControllerRevision"),
    ("jobs", "batch/v1", "Job"),
    ("cronjobs", "batch/v1", "CronJob"),
    ("services", "v1", "Service"),
    ("endpoints", "v1", "Endpoints"),
    ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget"),
];
pub const NAMESPACE: &str = "sim";
/// The kinds of the cluster.
pub const CLUSTERED: [&str; 2] = ["nodes", "namespaces"];

/// Plural and name: there is one namespace, and nodes have none.
pub type Id = (&'static str, String);
pub type Objects = BTreeMap<Id, Arc<Value>>;

/// One change: the object as it is now, or as it was last.
pub struct Entry {
    pub plural: &'static str,
    pub object: Arc<Value>,
    pub gone: bool,
}

pub struct World {
    state: parking_lot::Mutex<State>,
    length: watch::Sender<usize>,
    begun: Instant,
    clock: Clock,
    /// Whether to keep in words what happens: it takes longer than what happens.
    traced: bool,
}

struct State {
    objects: Objects,
    log: Vec<Arc<Entry>>,
    revision: u64,
    uids: u64,
    invariants: Invariants,
    trace: Vec<String>,
    requests: usize,
}

/// A refusal.
pub type Refused = (u16, Value);

pub fn refusal(code: u16, reason: &str, message: &str) -> Refused {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code}))
}

/// A text at a path of fields; empty if there is none.
pub fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The UID of an object's controller.
pub fn controller(object: &Value) -> Option<&str> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

/// Whether something has to be done before it goes; a namespace says so in its spec.
fn has_finalizers(object: &Value) -> bool {
    let some = |path: &str| object.pointer(path).and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty());
    some("/metadata/finalizers") || some("/spec/finalizers")
}

/// What a path names: plural, name and subresource, the latter two empty if it has none.
pub fn named(path: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let mut rest = parts.get(if parts[0] == "api" { 2 } else { 3 }..).unwrap_or_default();
    if let ["namespaces", _, part, ..] = rest
        && !["status", "finalize"].contains(part)
    {
        rest = &rest[2..];
    }
    let part = |at: usize| rest.get(at).copied().unwrap_or_default();
    (part(0), part(1), part(2))
}

impl World {
    pub fn new(traced: bool) -> Arc<Self> {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().expect("a constant"));
        let state = State {
            objects: Objects::new(),
            log: Vec::new(),
            revision: 0,
            uids: 0,
            invariants: Invariants::default(),
            trace: Vec::new(),
            requests: 0,
        };
        Arc::new(Self { state: parking_lot::Mutex::new(state), length: watch::Sender::new(0), begun: Instant::now(), clock, traced })
    }

    /// The time in this world.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub fn length(&self) -> usize {
        self.state.lock().log.len()
    }

    pub fn watch(&self) -> watch::Receiver<usize> {
        self.length.subscribe()
    }

    pub fn entry(&self, at: usize) -> Option<Arc<Entry>> {
        self.state.lock().log.get(at).cloned()
    }

    /// The objects of a kind, and how much of the log they reflect.
    pub fn list(&self, plural: &str) -> (Vec<Arc<Value>>, usize) {
        let state = self.state.lock();
        (state.objects.iter().filter(|((of, _), _)| *of == plural).map(|(_, object)| object.clone()).collect(), state.log.len())
    }

    pub fn get(&self, plural: &'static str, name: &str) -> Option<Arc<Value>> {
        self.state.lock().objects.get(&(plural, name.to_owned())).cloned()
    }

    /// Looks at everything at once.
    pub fn look<T>(&self, at: impl FnOnce(&Objects) -> T) -> T {
        at(&self.state.lock().objects)
    }

    /// Notes what is done to the world from outside, for the report of a failure.
    pub fn note(&self, what: impl Into<String>) {
        if !self.traced {
            return;
        }
        let line = format!("{:9.3} {}", self.seconds(), what.into());
        self.state.lock().trace.push(line);
    }

    pub fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone()
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.state.lock().requests
    }

    /// The answer to a creation got lost.
    pub fn lost(&self, created: &Value) {
        if created["kind"] == "Pod" {
            self.state.lock().invariants.lost(created);
        }
    }

    /// The owners of pods whose creation got no answer.
    pub fn unanswered(&self) -> Vec<String> {
        self.state.lock().invariants.unanswered()
    }

    /// The garbage collector has deleted an object.
    pub fn collected(&self, object: &Value) {
        let State { invariants, objects, .. } = &mut *self.state.lock();
        invariants.collected(objects, object);
    }

    /// A pod is about to stop serving, by no controller's doing.
    pub fn dies(&self, pod: &Value) {
        self.state.lock().invariants.died(pod);
    }

    pub fn broken(&self) -> Option<String> {
        self.state.lock().invariants.broken()
    }

    /// From now on what is promised while nobody interferes is not checked until it has been reached again.
    pub fn interfered(&self) {
        self.state.lock().invariants.interfered();
    }

    /// Everything that happened, in a few bytes: two runs of one seed have to agree on it.
    pub fn fingerprint(&self) -> (usize, u64) {
        let state = self.state.lock();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for entry in &state.log {
            for byte in entry.object.to_string().bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        (state.log.len(), hash)
    }

    fn commit(&self, state: &mut State, plural: &'static str, mut object: Value, gone: bool) -> Arc<Value> {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let name = text(&object, "/metadata/name").to_owned();
        let object = Arc::new(object);
        let id = (plural, name);
        let before = if gone { state.objects.remove(&id) } else { state.objects.insert(id.clone(), object.clone()) };
        if self.traced {
            let line = format!("{:9.3} {}", self.seconds(), describe(plural, before.as_deref(), &object, gone));
            state.trace.push(line);
        }
        state.log.push(Arc::new(Entry { plural, object: object.clone(), gone }));
        state.invariants.observe(&state.objects, plural, before.as_deref(), &object, gone, self.begun.elapsed());
        self.length.send_replace(state.log.len());
        object
    }

    /// What a client asks for, answered.
    pub fn request(&self, method: &str, path: &str, content_type: &str, body: Value) -> (u16, Value) {
        let (plural, name, part) = named(path);
        let mut state = self.state.lock();
        // What has no watch is asked for again and again.
        state.requests += usize::from(!(method == "GET" && part == "scale"));
        if plural == "events" {
            return (201, body);
        }
        let Some((plural, version, kind)) = KINDS.iter().copied().find(|(known, ..)| *known == plural) else {
            return refusal(404, "NotFound", path);
        };
        let answer = match method {
            "POST" => self.create(&mut state, plural, version, kind, body),
            "DELETE" if name.is_empty() => {
                let all: Vec<_> = state.objects.iter().filter(|((of, _), _)| *of == plural).map(|(_, object)| object.clone()).collect();
                all.iter().for_each(|old| drop(self.delete(&mut state, plural, old, &body)));
                return (200, json!({"kind": "Status", "status": "Success"}));
            }
            _ => match state.objects.get(&(plural, name.to_owned())).cloned() {
                None => Err(refusal(404, "NotFound", &format!("{plural} \"{name}\" not found"))),
                Some(old) => match method {
                    "GET" if part == "scale" => Ok(Arc::new(policies::scale(&old))),
                    "GET" => Ok(old),
                    "PUT" if part == "scale" => {
                        // Whoever scales asks for something else than was reached.
                        state.invariants.interfered();
                        let mut new = old.as_ref().clone();
                        (new["spec"]["replicas"], new["metadata"]["resourceVersion"]) =
                            (body["spec"]["replicas"].clone(), body["metadata"]["resourceVersion"].clone());
                        self.replace(&mut state, plural, &old, new, "").map(|scaled| Arc::new(policies::scale(&scaled)))
                    }
                    "PUT" => self.replace(&mut state, plural, &old, body, part),
                    "PATCH" => self.patch(&mut state, plural, (version, kind), &old, &body, (content_type, part)),
                    _ => self.delete(&mut state, plural, &old, &body),
                },
            },
        };
        match answer {
            Ok(object) => (200, object.as_ref().clone()),
            Err(refused) => refused,
        }
    }

    fn create(&self, state: &mut State, plural: &'static str, version: &str, kind: &str, mut object: Value) -> Result<Arc<Value>, Refused> {
        state.uids += 1;
        let uid = state.uids;
        let meta = &mut object["metadata"];
        if text(meta, "/name").is_empty() {
            meta["name"] = json!(format!("{}{uid}", text(meta, "/generateName")));
        }
        let name = text(meta, "/name").to_owned();
        if state.objects.contains_key(&(plural, name.clone())) {
            return Err(refusal(409, "AlreadyExists", &format!("{plural} \"{name}\" already exists")));
        }
        meta["uid"] = json!(format!("uid-{uid}"));
        meta["generation"] = json!(1);
        meta["creationTimestamp"] = json!(self.now().to_string());
        if !CLUSTERED.contains(&plural) {
            policies::namespace_is_there(&state.objects)?;
            meta["namespace"] = json!(NAMESPACE);
        }
        (object["apiVersion"], object["kind"]) = (json!(version), json!(kind));
        policies::fill_in(plural, &mut object);
        if plural == "pods"
            && let Some(charged) = policies::charged(&state.objects)?
        {
            self.commit(state, "resourcequotas", charged, false);
        }
        Ok(self.commit(state, plural, object, false))
    }

    fn replace(&self, state: &mut State, plural: &'static str, old: &Value, mut new: Value, part: &str) -> Result<Arc<Value>, Refused> {
        let version = text(&new, "/metadata/resourceVersion");
        if !version.is_empty() && version != text(old, "/metadata/resourceVersion") {
            return Err(refusal(409, "Conflict", "the object has been modified"));
        }
        if part == "finalize" {
            let finalizers = new["spec"]["finalizers"].take();
            new = old.clone();
            new["spec"]["finalizers"] = finalizers;
        } else if part == "status" {
            // Annotations are taken along, as the apiserver does it.
            let (status, annotations) = (new["status"].take(), new["metadata"]["annotations"].take());
            new = old.clone();
            (new["status"], new["metadata"]["annotations"]) = (status, annotations);
        } else {
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => drop(new.as_object_mut().and_then(|object| object.remove("status"))),
            }
        }
        self.update(state, plural, old, new)
    }

    fn patch(
        &self,
        state: &mut State,
        plural: &'static str,
        (version, kind): (&str, &str),
        old: &Value,
        patch: &Value,
        (content_type, part): (&str, &str),
    ) -> Result<Arc<Value>, Refused> {
        for field in ["/metadata/uid", "/metadata/resourceVersion"] {
            if !text(patch, field).is_empty() && text(patch, field) != text(old, field) {
                return Err(refusal(409, "Conflict", "the object has been modified"));
            }
        }
        let mut new = old.clone();
        if content_type.starts_with("application/strategic") {
            let root = api::schema::of_kind(version, kind).expect("the kinds are the API's");
            new = api::patch::strategic(root, new, patch).map_err(|error| refusal(422, "Invalid", &error.to_string()))?;
        } else {
            api::patch::merge(&mut new, patch);
        }
        if part != "status" && old.get("status").is_some() {
            new["status"] = old["status"].clone();
        }
        self.update(state, plural, old, new)
    }

    fn update(&self, state: &mut State, plural: &'static str, old: &Value, mut new: Value) -> Result<Arc<Value>, Refused> {
        for field in ["uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp", "name", "namespace"] {
            match old["metadata"].get(field) {
                Some(value) => new["metadata"][field] = value.clone(),
                None => drop(new["metadata"].as_object_mut().and_then(|meta| meta.remove(field))),
            }
        }
        without_nulls(&mut new);
        if new == *old {
            return Ok(Arc::new(new));
        }
        if new.get("spec") != old.get("spec") {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let is_over = !text(&new, "/metadata/deletionTimestamp").is_empty() && new["metadata"]["deletionGracePeriodSeconds"] == 0;
        let gone = is_over && !has_finalizers(&new);
        Ok(self.commit(state, plural, new, gone))
    }

    fn delete(&self, state: &mut State, plural: &'static str, old: &Value, options: &Value) -> Result<Arc<Value>, Refused> {
        for field in ["uid", "resourceVersion"] {
            let wanted = text(options, &format!("/preconditions/{field}"));
            if !wanted.is_empty() && wanted != text(old, &format!("/metadata/{field}")) {
                return Err(refusal(409, "Conflict", "the precondition does not hold"));
            }
        }
        let runs = plural == "pods"
            && !text(old, "/spec/nodeName").is_empty()
            && !matches!(text(old, "/status/phase"), "Succeeded" | "Failed")
            && options["gracePeriodSeconds"] != 0;
        let mut new = old.clone();
        policies::propagate(&mut new["metadata"], text(options, "/propagationPolicy"));
        if !runs && !has_finalizers(&new) {
            return Ok(self.commit(state, plural, new, true));
        }
        let grace = if runs { 30 } else { 0 };
        let meta = &mut new["metadata"];
        if text(meta, "/deletionTimestamp").is_empty() || meta["deletionGracePeriodSeconds"].as_i64() > Some(grace) {
            meta["deletionTimestamp"] = json!(self.now().to_string());
            meta["deletionGracePeriodSeconds"] = json!(grace);
        }
        if new == *old {
            return Ok(Arc::new(new));
        }
        Ok(self.commit(state, plural, new, false))
    }

    /// What somebody other than the controllers does; refusals are theirs to bear.
    pub fn change(&self, plural: &'static str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock();
        let Some(old) = state.objects.get(&(plural, name.to_owned())).cloned() else { return };
        let mut new = old.as_ref().clone();
        change(&mut new);
        drop(self.update(&mut state, plural, &old, new));
    }
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let kept = std::mem::replace(fields, Map::new());
            fields.extend(kept.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, mut value)| {
                without_nulls(&mut value);
                (key, value)
            }));
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn describe(plural: &str, before: Option<&Value>, object: &Value, gone: bool) -> String {
    let name = text(object, "/metadata/name");
    if gone {
        return format!("- {plural} {name}");
    }
    let parts =
        ["/spec/replicas", "/status", "/metadata/deletionTimestamp", "/spec/nodeName", "/metadata/ownerReferences", "/spec/suspend"];
    let changed = |part: &&str| before.is_none_or(|before| before.pointer(part) != object.pointer(part));
    let shown = parts
        .iter()
        .filter(|part| changed(part))
        .filter_map(|part| Some(format!("{}={}", part.rsplit('/').next()?, object.pointer(part)?)));
    let sign = if before.is_some() { "~" } else { "+" };
    format!("{sign} {plural} {name} {}", shown.collect::<Vec<_>>().join(" ").replace('"', ""))
}
