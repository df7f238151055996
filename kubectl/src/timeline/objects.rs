//! What an object itself tells of its past: its metadata, who manages its fields, its conditions and its containers' states.

use super::{Moment, Step, reference, time};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How far apart two tellings of the same thing may be: both are rounded down to the second, by clocks of two machines.
const SAME: SignedDuration = SignedDuration::from_secs(2);

/// Conditions that say by being true that something is ready.
const READY: &[&str] = &["Ready", "Available", "Complete", "Established", "Bound"];
/// Conditions of pods that only say in other words what their events and container states say.
const IMPLIED: &[&str] = &["PodReadyToStartContainers", "Initialized", "ContainersReady"];

/// The moments of one object.
pub fn moments(object: &Value) -> Vec<Moment> {
    let teller = Teller { object: reference(&object["kind"], &object["metadata"]["name"]) };
    let mut all = teller.metadata(&object["metadata"]);
    all.extend(items(&object["status"]["conditions"]).filter_map(|c| teller.condition(c)));
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        all.extend(items(&object["status"][list]).flat_map(|status| teller.container(status)));
    }
    all
}

/// Whether an event tells the same, as a rule more exactly.
pub fn told_better(moment: &Moment, told: &[Moment]) -> bool {
    // Several containers start within a second: then the name decides.
    let container = (moment.step == Step::Started).then(|| moment.what.split(' ').nth(1).unwrap_or("").to_owned());
    matches!(moment.step, Step::Scheduled | Step::Started)
        && told.iter().any(|t| {
            t.object == moment.object
                && t.step == moment.step
                && t.at.duration_since(moment.at).abs() <= SAME
                && container.as_ref().is_none_or(|name| t.what.contains(name.as_str()) || t.what.contains("Container started"))
        })
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

struct Teller {
    object: String,
}

impl Teller {
    fn moment(&self, at: Timestamp, step: Step, what: String, who: String, warning: bool) -> Moment {
        Moment { at, exact: at.subsec_nanosecond() != 0, object: self.object.clone(), step, what, who, warning }
    }

    fn metadata(&self, meta: &Value) -> Vec<Moment> {
        let mut all = Vec::new();
        let mut fields: Vec<&Value> =
            items(&meta["managedFields"]).filter(|f| f["subresource"].as_str().unwrap_or("").is_empty()).collect();
        fields.sort_by_key(|f| f["time"].as_str().unwrap_or(""));
        let created = time(&meta["creationTimestamp"]);
        if let Some(at) = created {
            let owner = items(&meta["ownerReferences"]).find(|o| o["controller"] == true);
            let what = owner.map_or("created".to_owned(), |o| format!("created for {}", reference(&o["kind"], &o["name"])));
            let first = fields.first().filter(|f| time(&f["time"]).is_none_or(|t| t.duration_since(at).abs() <= SAME));
            all.push(self.moment(at, Step::Created, what, first.map_or("", |f| f["manager"].as_str().unwrap_or("")).to_owned(), false));
        }
        for entry in fields {
            let Some(at) = time(&entry["time"]) else { continue };
            if created.is_some_and(|created| at.duration_since(created).abs() <= SAME) {
                continue;
            }
            let what = format!("changed {}", changed(&entry["fieldsV1"]).join(", "));
            all.push(self.moment(at, Step::Changed, what, entry["manager"].as_str().unwrap_or("").to_owned(), false));
        }
        if let Some(due) = time(&meta["deletionTimestamp"]) {
            let grace = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            let asked = due - SignedDuration::from_secs(grace);
            let waits: Vec<_> = items(&meta["finalizers"]).filter_map(Value::as_str).collect();
            let mut what = format!("deletion asked for, with {grace} s of grace");
            if !waits.is_empty() {
                what += &format!("; waits for {}", waits.join(", "));
            }
            all.push(self.moment(asked, Step::Ending, what, String::new(), false));
        }
        all
    }

    fn condition(&self, condition: &Value) -> Option<Moment> {
        let text = |field: &str| condition[field].as_str().unwrap_or("").trim().to_owned();
        let (kind, status) = (text("type"), text("status"));
        if IMPLIED.contains(&kind.as_str()) {
            return None;
        }
        let at = time(&condition["lastTransitionTime"])?;
        let holds = status == "True";
        let step = match kind.as_str() {
            "PodScheduled" if holds => Step::Scheduled,
            "PodScheduled" => Step::Waiting,
            "DisruptionTarget" => Step::Ending,
            known if READY.contains(&known) && holds => Step::Ready,
            known if READY.contains(&known) => Step::NotReady,
            _ => Step::Other,
        };
        let mut what = format!("{kind} is {status}");
        for part in [text("reason"), text("message")] {
            if !part.is_empty() {
                what += &format!(": {part}");
            }
        }
        let warning = matches!(step, Step::NotReady | Step::Ending) || kind == "Failed" && holds;
        Some(self.moment(at, step, what, String::new(), warning))
    }

    fn container(&self, status: &Value) -> Vec<Moment> {
        let name = status["name"].as_str().unwrap_or("");
        let mut all = Vec::new();
        for state in [&status["lastState"], &status["state"]] {
            if let Some(at) = time(&state["running"]["startedAt"]) {
                all.push(self.moment(at, Step::Started, format!("container {name} started"), String::new(), false));
            }
            let ended = &state["terminated"];
            if let Some(at) = time(&ended["startedAt"]) {
                all.push(self.moment(at, Step::Started, format!("container {name} started"), String::new(), false));
            }
            if let Some(at) = time(&ended["finishedAt"]) {
                let code = ended["exitCode"].as_i64().unwrap_or(0);
                let reason = ended["reason"].as_str().unwrap_or("");
                let signal = ended["signal"].as_i64().map_or(String::new(), |signal| format!(", signal {signal}"));
                let what = format!("container {name} ended: {reason}, exit code {code}{signal}");
                all.push(self.moment(at, Step::Exited, what, String::new(), code != 0));
            }
        }
        all
    }
}

/// The fields an entry of the managed fields owns, two levels deep: `spec.replicas`, `metadata.labels`.
fn changed(fields: &Value) -> Vec<String> {
    let names = |v: &Value| -> Vec<(String, Value)> {
        v.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.strip_prefix("f:")?.to_owned(), v.clone()))).collect()
    };
    names(fields)
        .into_iter()
        .flat_map(|(outer, inner)| {
            let inner = names(&inner);
            if inner.is_empty() { vec![outer] } else { inner.into_iter().map(|(name, _)| format!("{outer}.{name}")).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::moments;
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"kind": "Pod", "metadata": {
            "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [{"kind": "ReplicaSet", "name": "w", "controller": true}],
            "managedFields": [
                {"manager": "controller-manager", "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:containers": {}}}},
                {"manager": "kubelet", "operation": "Update", "time": "2026-01-01T00:00:02Z", "subresource": "status", "fieldsV1": {"f:status": {}}},
                {"manager": "kubectl-label", "operation": "Update", "time": "2026-01-01T00:01:00Z", "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}}}],
            "deletionTimestamp": "2026-01-01T00:02:30Z", "deletionGracePeriodSeconds": 30},
            "status": {
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                    {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:20Z"}],
                "containerStatuses": [{"name": "c", "state": {"running": {"startedAt": "2026-01-01T00:00:18Z"}},
                    "lastState": {"terminated": {"startedAt": "2026-01-01T00:00:02Z", "finishedAt": "2026-01-01T00:00:07Z", "exitCode": 3, "reason": "Error"}}}]}})
    }

    #[test]
    fn an_object_tells_its_past() {
        let told: Vec<_> = moments(&[pod()], &[]).into_iter().map(|m| format!("{} {} [{}]", m.at, m.what, m.who)).collect();
        assert_eq!(
            told,
            [
                "2026-01-01T00:00:00Z created for replicaset/w [controller-manager]",
                "2026-01-01T00:00:00Z PodScheduled is True []",
                "2026-01-01T00:00:02Z container c started []",
                "2026-01-01T00:00:07Z container c ended: Error, exit code 3 []",
                "2026-01-01T00:00:18Z container c started []",
                "2026-01-01T00:00:20Z Ready is True []",
                "2026-01-01T00:01:00Z changed metadata.labels [kubectl-label]",
                "2026-01-01T00:02:00Z deletion asked for, with 30 s of grace []",
            ]
        );
    }

    #[test]
    fn what_an_event_tells_better_is_told_once() {
        let event = |reason: &str, message: &str, at: &str| {
            json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "web"}, "type": "Normal", "reason": reason, "message": message,
                "source": {"component": "kubelet"}, "eventTime": at})
        };
        let events =
            [event("Scheduled", "assigned", "2026-01-01T00:00:00.2Z"), event("Started", "Started container c", "2026-01-01T00:00:18.7Z")];
        let told: Vec<_> =
            moments(&[pod()], &events).into_iter().filter(|m| matches!(m.step, Step::Scheduled | Step::Started)).map(|m| m.what).collect();
        assert_eq!(told, ["Scheduled: assigned", "container c started", "Started: Started container c"]);
    }
}
