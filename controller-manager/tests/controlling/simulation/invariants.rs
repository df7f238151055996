//! What must hold after every single change, whatever has gone wrong: no more pods than asked for, and while nobody but the controllers touches
//! anything, never fewer that serve than an update may take away.
//!
//! What a controller may rely on is what its cache tells, and that may be some seconds old: a limit is the highest that was asked for within
//! [`WINDOW`]. A pod whose creation got no answer may be created once more. A pod that died is missing until the workload has served as it should again.

use super::nodes::node_of;
use super::world::{Objects, controller, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How old the state may be that a controller acts on: the longest gap of a watch, and the time that a round of slow requests takes.
pub const WINDOW: Duration = Duration::from_secs(40);

/// A number that changes, with its past.
#[derive(Default)]
struct Past(Vec<(Duration, i64)>);

impl Past {
    fn note(&mut self, now: Duration, value: i64) {
        if self.0.last().map(|(_, last)| *last) != Some(value) {
            self.0.push((now, value));
        }
    }

    /// The highest value that was in force at any time within the window.
    fn highest(&self, now: Duration) -> i64 {
        let since = now.saturating_sub(WINDOW);
        let first = self.0.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        self.0[first.min(self.0.len())..].iter().map(|(_, value)| *value).max().unwrap_or(0)
    }
}

#[derive(Default)]
pub struct Invariants {
    /// By the UID of an owner of pods: how many it wants. Of a Deployment: how many its ReplicaSets may want together.
    wanted: BTreeMap<String, Past>,
    /// By the UID of a DaemonSet: how many pods there may be on a node.
    on_a_node: BTreeMap<String, Past>,
    /// By name of a workload: whether it has served as it should since somebody interfered.
    reached: BTreeMap<String, bool>,
    interfered: Duration,
    /// Whose pod's creation got no answer, and when.
    lost: Vec<(String, Duration)>,
    /// Pods that died without a controller's doing, by their controller: when.
    died: BTreeMap<String, Vec<Duration>>,
    /// By UID: since when an object has had the owners that it has.
    owned_since: BTreeMap<String, Duration>,
    /// The names of the Jobs that CronJobs have made: there is one for each time.
    scheduled: BTreeSet<String>,
    now: Duration,
    broken: Option<String>,
}

fn is_active(pod: &Value) -> bool {
    text(pod, "/metadata/deletionTimestamp").is_empty() && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// The references of an object to its owners.
pub fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten()
}

fn waits_for_dependents(object: &Value) -> bool {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    let waits = finalizers.into_iter().flatten().any(|finalizer| finalizer == "foregroundDeletion");
    waits && !text(object, "/metadata/deletionTimestamp").is_empty()
}

fn has_condition(job: &Value, of: &str) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| text(c, "/type") == of && text(c, "/status") == "True")
}

fn serves(pod: &Value) -> bool {
    is_active(pod) && text(pod, "/status/conditions/0/status") == "True"
}

fn number(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

pub fn of_kind<'a>(objects: &'a Objects, plural: &'static str) -> impl Iterator<Item = &'a Value> {
    objects.range((plural, String::new())..).take_while(move |((of, _), _)| *of == plural).map(|(_, object)| object.as_ref())
}

fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

impl Invariants {
    pub fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    pub fn interfered(&mut self) {
        self.interfered = self.now;
        self.reached.clear();
    }

    /// A pod was created and nobody was told.
    pub fn lost(&mut self, pod: &Value) {
        self.lost.push((controller(pod).unwrap_or_default().to_owned(), self.now));
    }

    /// A pod stops serving by chance.
    pub fn died(&mut self, pod: &Value) {
        self.died.entry(controller(pod).unwrap_or_default().to_owned()).or_default().push(self.now);
    }

    /// The owners of pods whose creation got no answer.
    pub fn unanswered(&self) -> Vec<String> {
        self.lost.iter().map(|(owner, _)| owner.clone()).collect()
    }

    /// The garbage collector may only delete what has no owner left but ones that wait for it to go.
    pub fn collected(&mut self, objects: &Objects, object: &Value) {
        let solid = owners(object).find(|owner| {
            let owner = objects.values().find(|known| uid(known) == text(owner, "/uid"));
            owner.is_some_and(|owner| !waits_for_dependents(owner))
        });
        let solid = solid.map(|owner| text(owner, "/name").to_owned());
        self.check(solid.is_none(), || {
            format!("{} was collected, and its owner {} is there", text(object, "/metadata/name"), solid.unwrap_or_default())
        });
    }

    /// What is deleted with its dependents first goes when nothing is left that holds it up, but for what came too lately to be known.
    fn gone(&mut self, objects: &Objects, object: &Value) {
        let since = self.now.saturating_sub(WINDOW);
        let left = objects.values().find(|other| {
            let holds_up = |owner: &Value| text(owner, "/uid") == uid(object) && owner["blockOwnerDeletion"] == true;
            owners(other).any(holds_up) && self.owned_since.get(uid(other)).is_some_and(|at| *at < since)
        });
        let left = left.map(|other| text(other, "/metadata/name").to_owned());
        self.check(left.is_none(), || format!("{} is gone before {}", text(object, "/metadata/name"), left.unwrap_or_default()));
    }

    /// A CronJob makes one Job for each time, and none beside another that runs unless it may.
    fn job_created(&mut self, objects: &Objects, job: &Value) {
        let Some(of) = controller(job) else { return };
        let name = text(job, "/metadata/name");
        let once = self.scheduled.insert(format!("{of}/{name}"));
        self.check(once, || format!("{name} was made twice"));
        let cron_job = of_kind(objects, "cronjobs").find(|cron_job| uid(cron_job) == of);
        if cron_job.is_none_or(|cron_job| text(cron_job, "/spec/concurrencyPolicy") == "Allow") {
            return;
        }
        let is_over = |job: &Value| ["Complete", "Failed"].into_iter().any(|condition| has_condition(job, condition));
        let running = of_kind(objects, "jobs").filter(|other| controller(other) == Some(of) && !is_over(other) && is_active(other)).count();
        self.check(running <= 1, || format!("{running} jobs side by side, with {name}"));
    }

    fn slack(&self) -> i64 {
        let since = self.now.saturating_sub(WINDOW);
        i64::try_from(self.lost.iter().filter(|(_, at)| *at >= since).count()).unwrap_or(i64::MAX)
    }

    fn check(&mut self, holds: bool, why: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(why());
        }
    }

    pub fn observe(&mut self, objects: &Objects, plural: &str, before: Option<&Value>, object: &Value, gone: bool, now: Duration) {
        self.now = now;
        if gone {
            self.owned_since.remove(uid(object));
            if before.is_some_and(waits_for_dependents) {
                self.gone(objects, object);
            }
        } else if before.map(|before| &before["metadata"]["ownerReferences"]) != Some(&object["metadata"]["ownerReferences"]) {
            self.owned_since.insert(uid(object).to_owned(), now);
        }
        let spec = |field: &str| number(object, &format!("/spec/{field}"));
        match plural {
            "replicasets" | "replicationcontrollers" => {
                self.wanted.entry(uid(object).to_owned()).or_default().note(now, spec("replicas"));
                if !gone && before.is_none_or(|before| number(before, "/spec/replicas") < spec("replicas")) {
                    self.replica_set_grew(objects, object);
                }
            }
            "deployments" => {
                let most = spec("replicas") + spec("strategy/rollingUpdate/maxSurge");
                self.wanted.entry(uid(object).to_owned()).or_default().note(now, most);
            }
            "daemonsets" => {
                let on_a_node = 1 + i64::from(spec("updateStrategy/rollingUpdate/maxSurge") > 0);
                self.on_a_node.entry(uid(object).to_owned()).or_default().note(now, on_a_node);
            }
            "jobs" => {
                self.wanted.entry(uid(object).to_owned()).or_default().note(now, spec("parallelism"));
                self.job_status(object);
                if before.is_none() && !gone {
                    self.job_created(objects, object);
                }
            }
            "pods" if before.is_none() && !gone => self.pod_created(objects, object),
            _ => {}
        }
        if plural == "pods" {
            self.availability(objects);
        }
    }

    fn replica_set_grew(&mut self, objects: &Objects, set: &Value) {
        let Some(of) = controller(set) else { return };
        let Some(most) = self.wanted.get(of).map(|wanted| wanted.highest(self.now)) else { return };
        let sets = of_kind(objects, "replicasets").filter(|other| controller(other) == Some(of));
        let sum: i64 = sets.map(|other| number(other, "/spec/replicas")).sum();
        self.check(sum <= most, || format!("{sum} replicas where {most} are allowed, with {}", text(set, "/metadata/name")));
    }

    fn pod_created(&mut self, objects: &Objects, pod: &Value) {
        let Some(of) = controller(pod) else { return };
        let active = || of_kind(objects, "pods").filter(|other| controller(other) == Some(of) && is_active(other));
        let slack = self.slack();
        if let Some(wanted) = self.wanted.get(of).map(|wanted| wanted.highest(self.now)) {
            let count = i64::try_from(active().count()).unwrap_or(i64::MAX);
            self.check(count <= wanted + slack, || format!("{count} pods where {wanted} are wanted, with {}", text(pod, "/metadata/name")));
        }
        let Some(most) = self.on_a_node.get(of).map(|on_a_node| on_a_node.highest(self.now)) else { return };
        let node = node_of(pod);
        let count = i64::try_from(active().filter(|other| node_of(other) == node).count()).unwrap_or(i64::MAX);
        self.check(count <= most + slack, || format!("{count} pods of one DaemonSet on {node:?}"));
    }

    /// A Job that is suspended has not started, and one that is over has no pods left.
    fn job_status(&mut self, job: &Value) {
        let holds = |of: &str| has_condition(job, of);
        let started = !text(job, "/status/startTime").is_empty();
        self.check(!(holds("Suspended") && started), || format!("a suspended job has a start: {}", job["status"]));
        let left = number(job, "/status/active") + number(job, "/status/terminating");
        let over = holds("Complete") || holds("Failed");
        self.check(!over || left == 0, || format!("a job is over with {left} pods left: {}", job["status"]));
    }

    /// While nobody interferes, what once served goes on serving but for what an update may take away.
    fn availability(&mut self, objects: &Objects) {
        if self.now < self.interfered + WINDOW {
            return;
        }
        let mut serving: BTreeMap<&str, i64> = BTreeMap::new();
        for pod in of_kind(objects, "pods").filter(|pod| serves(pod)) {
            *serving.entry(controller(pod).unwrap_or_default()).or_default() += 1;
        }
        // Name, the UIDs of those whose pods count, how many of these serve, and the least.
        let mut floors: Vec<(String, Vec<&str>, i64, i64)> = Vec::new();
        for deployment in of_kind(objects, "deployments").filter(|d| text(d, "/spec/strategy/type") == "RollingUpdate") {
            let sets = of_kind(objects, "replicasets").filter(|set| controller(set) == Some(uid(deployment)));
            let sets: Vec<&str> = sets.map(uid).collect();
            let count = sets.iter().map(|set| serving.get(set).copied().unwrap_or(0)).sum();
            let floor = number(deployment, "/spec/replicas") - number(deployment, "/spec/strategy/rollingUpdate/maxUnavailable");
            floors.push((text(deployment, "/metadata/name").to_owned(), sets, count, floor));
        }
        for set in of_kind(objects, "statefulsets") {
            let most = number(set, "/spec/updateStrategy/rollingUpdate/maxUnavailable").max(1);
            let count = serving.get(uid(set)).copied().unwrap_or(0);
            floors.push((text(set, "/metadata/name").to_owned(), vec![uid(set)], count, number(set, "/spec/replicas") - most));
        }
        for set in of_kind(objects, "daemonsets") {
            let nodes = of_kind(objects, "nodes").filter(|node| node.pointer("/spec/taints/0").is_none()).count();
            let count = serving.get(uid(set)).copied().unwrap_or(0);
            let most = number(set, "/spec/updateStrategy/rollingUpdate/maxUnavailable");
            floors.push((text(set, "/metadata/name").to_owned(), vec![uid(set)], count, i64::try_from(nodes).unwrap_or(0) - most));
        }
        let since = self.now.saturating_sub(WINDOW);
        for (name, owners, count, floor) in floors {
            let reached = self.reached.entry(name.clone()).or_default();
            *reached |= count >= floor;
            let mut died = 0;
            for owner in owners {
                let Some(deaths) = self.died.get_mut(owner) else { continue };
                if count >= floor {
                    deaths.retain(|at| *at >= since);
                }
                died += i64::try_from(deaths.len()).unwrap_or(i64::MAX);
            }
            let holds = count >= floor - died || !*reached;
            self.check(holds, || format!("{name} has {count} pods that serve, and {floor} is the least ({died} died)"));
        }
    }
}
