//! The next step of a Deployment: scale, roll out, recreate, clean up (upstream: `sync.go`, `rolling.go`, `recreate.go`).

use super::replica_sets::{
    DESIRED, MAX, REVISION, Strategy, actual, annotate, annotate_replicas, available, desired, fenceposts, is_observed, max_revision,
    new_replica_set, new_replicas, number, replicas, split, strategy, sum,
};
use super::{rollback, status};
use crate::ops::{DeleteOptions, Op, Request};
use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use std::sync::Arc;

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// A ReplicaSet to create before everything else.
    pub created: Option<Box<ReplicaSet>>,
    /// The rest.
    pub ops: Vec<Op>,
    /// The Deployment as it is now, for the condition that tells of a failed creation.
    pub status_of: Option<Box<Deployment>>,
}

struct Planner<'a> {
    deployment: &'a Deployment,
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
    /// The status with what was noted on the way; conditions only.
    base: DeploymentStatus,
    now: Timestamp,
    ops: Vec<Op>,
}

/// Decides. `pods_left` says whether a ReplicaSet still has pods that run.
pub fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], pods_left: &dyn Fn(&ReplicaSet) -> bool, now: Timestamp) -> Plan {
    let (new, old) = split(deployment, sets);
    let mut planner = Planner { deployment, new, old, base: deployment.status.clone().unwrap_or_default(), now, ops: Vec::new() };
    if deployment.metadata.deletion_timestamp.is_some() {
        planner.tell_counts();
        return planner.done();
    }
    status::pause(deployment, &mut planner.base, now);
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    if let Some(to) = rollback::wanted(deployment).filter(|_| !paused) {
        // The version that is left has to have its number first.
        if planner.new.is_none() {
            return planner.create();
        }
        if !planner.bring_new_up_to_date() {
            planner.ops = rollback::plan(deployment, sets, to);
        }
        return planner.done();
    }
    if paused || planner.was_resized() {
        if planner.bring_new_up_to_date() {
            return planner.done();
        }
        planner.scale_all();
        if paused {
            planner.clean_up();
        }
        planner.tell_counts();
        return planner.done();
    }
    if planner.bring_new_up_to_date() {
        return planner.done();
    }
    match strategy(deployment) {
        Strategy::Recreate => planner.recreate(pods_left),
        Strategy::RollingUpdate => planner.roll(),
    }
}

impl Planner<'_> {
    fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new).cloned().collect()
    }

    fn done(self) -> Plan {
        Plan { ops: self.ops, ..Plan::default() }
    }

    /// Whether the Deployment's size is another than the one its ReplicaSets were scaled for.
    fn was_resized(&self) -> bool {
        let desired = i64::from(desired(self.deployment));
        self.all().iter().filter(|set| replicas(set) > 0).any(|set| number(set, DESIRED).is_some_and(|noted| noted != desired))
    }

    /// Annotations and revision of the new ReplicaSet, and of the Deployment after it. If there was anything to change, that is enough for now.
    fn bring_new_up_to_date(&mut self) -> bool {
        let Some(new) = self.new.clone() else { return false };
        let revision = max_revision(&self.old) + 1;
        let mut updated = (*new).clone();
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let annotated = annotate(self.deployment, &mut updated, revision);
        let spec = updated.spec.get_or_insert_default();
        if annotated || spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
            spec.min_ready_seconds = min_ready;
            self.ops.push(Op::send(Request::replace(&updated)));
            return true;
        }
        let of_new = number(&new, REVISION).unwrap_or(revision).to_string();
        if status::deadline(self.deployment).is_some() && status::condition(&self.base, "Progressing").is_none() {
            let message = format!("Found new replica set \"{}\"", new.metadata.name.as_deref().unwrap_or_default());
            status::note_new(&mut self.base, "FoundNewReplicaSet", message, self.now);
        }
        self.note_revision(&of_new)
    }

    /// Notes the revision on the Deployment. Whether it was another.
    fn note_revision(&mut self, revision: &str) -> bool {
        if self
            .deployment
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(REVISION))
            .is_some_and(|noted| noted == revision)
        {
            return false;
        }
        let mut noted = self.deployment.clone();
        noted.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision.to_owned());
        // By way of the status, which leaves the generation alone: a note of ours is no wish of the user's.
        self.ops.push(Op::send(Request::replace_status(&noted).tolerating(&[404])));
        true
    }

    /// Creates the new ReplicaSet.
    fn create(mut self) -> Plan {
        let revision = max_revision(&self.old) + 1;
        let count = new_replicas(self.deployment, &self.old, 0);
        let set = new_replica_set(self.deployment, revision, count);
        let name = set.metadata.name.clone().unwrap_or_default();
        if count > 0 {
            self.ops.push(Op::normal(self.deployment, "ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {count}")));
        }
        if status::deadline(self.deployment).is_some() {
            status::note_new(&mut self.base, "NewReplicaSetCreated", format!("Created new replica set \"{name}\""), self.now);
        }
        let mut told = self.deployment.clone();
        told.status = Some(self.base.clone());
        self.ops.push(Op::send(Request::replace_status(&told)));
        // The revision is noted when the ReplicaSet comes back through the watch.
        Plan { created: Some(Box::new(set)), ops: self.ops, status_of: Some(Box::new(self.deployment.clone())) }
    }

    /// Gives a ReplicaSet another size. Whether it had another.
    fn scale(&mut self, set: &ReplicaSet, to: i32) -> bool {
        let from = replicas(set);
        let mut updated = set.clone();
        let annotated = annotate_replicas(self.deployment, &mut updated);
        if from == to && !annotated {
            return false;
        }
        updated.spec.get_or_insert_default().replicas = Some(to);
        self.ops.push(Op::send(Request::replace(&updated)));
        if from != to {
            let direction = if from < to { "up" } else { "down" };
            let message =
                format!("Scaled {direction} replica set {} from {from} to {to}", set.metadata.name.as_deref().unwrap_or_default());
            self.ops.push(Op::normal(self.deployment, "ScalingReplicaSet", message));
        }
        from != to
    }

    fn roll(mut self) -> Plan {
        let Some(new) = self.new.clone() else { return self.create() };
        let desired = desired(self.deployment);
        let count = if replicas(&new) >= desired { desired } else { new_replicas(self.deployment, &self.all(), replicas(&new)) };
        if replicas(&new) != count {
            self.scale(&new, count);
        } else if !self.scale_down_old(&new) && status::is_complete(self.deployment, &self.base) {
            self.clean_up();
        }
        self.tell_progress();
        self.done()
    }

    /// Takes replicas from the old ReplicaSets as far as availability allows. Whether it took any.
    fn scale_down_old(&mut self, new: &ReplicaSet) -> bool {
        let all = self.all();
        let total = |of: fn(&ReplicaSet) -> i32| sum(all.iter().map(AsRef::as_ref), of);
        let (_, unavailable) = fenceposts(self.deployment);
        let least = desired(self.deployment) - unavailable;
        let new_unavailable = replicas(new) - available(new);
        let removable = total(replicas) - least - new_unavailable;
        if removable <= 0 || sum(self.old.iter().map(AsRef::as_ref), replicas) == 0 {
            return false;
        }
        // One that was made smaller and then larger again may count pods that the smaller one gave up: which of them serve, its next status says.
        if !all.iter().all(|set| is_observed(set)) {
            return false;
        }
        let mut sizes: Vec<i32> = self.old.iter().map(|set| replicas(set)).collect();
        // Replicas that are not available can go without anybody noticing.
        let mut left = removable;
        for (set, size) in self.old.iter().zip(&mut sizes) {
            let ill = (*size - available(set)).clamp(0, left);
            *size -= ill;
            left -= ill;
        }
        let mut spare = total(available) - least;
        for size in &mut sizes {
            let gone = (*size).min(spare.max(0));
            *size -= gone;
            spare -= gone;
        }
        let mut scaled = false;
        for (set, size) in self.old.clone().iter().zip(sizes) {
            if replicas(set) > 0 && size != replicas(set) {
                scaled |= self.scale(set, size);
            }
        }
        scaled
    }

    fn recreate(mut self, pods_left: &dyn Fn(&ReplicaSet) -> bool) -> Plan {
        let mut scaled = false;
        for set in self.old.clone().iter().filter(|set| replicas(set) > 0) {
            scaled |= self.scale(set, 0);
        }
        if scaled || self.old.iter().any(|set| actual(set) > 0 || pods_left(set)) {
            self.tell_progress();
            return self.done();
        }
        let Some(new) = self.new.clone() else { return self.create() };
        self.scale(&new, desired(self.deployment));
        if status::is_complete(self.deployment, &self.base) {
            self.clean_up();
        }
        self.tell_progress();
        self.done()
    }

    /// Follows a change of the Deployment's size, in the middle of a rollout in proportion.
    fn scale_all(&mut self) {
        let desired = desired(self.deployment);
        let active: Vec<Arc<ReplicaSet>> = self.all().into_iter().filter(|set| replicas(set) > 0).collect();
        let latest = self.new.clone().or_else(|| self.old.last().cloned());
        match (active.as_slice(), latest) {
            ([], None) => {}
            ([], Some(only)) => {
                self.scale(&only, desired);
            }
            ([only], _) => {
                self.scale(only, desired);
            }
            _ => {
                let saturated = self.new.as_ref().is_some_and(|new| {
                    replicas(new) == desired && available(new) == desired && number(new, DESIRED) == Some(i64::from(desired))
                });
                if saturated {
                    for set in self.old.clone().iter().filter(|set| replicas(set) > 0) {
                        self.scale(set, 0);
                    }
                } else if strategy(self.deployment) == Strategy::RollingUpdate {
                    for (set, size) in self.in_proportion(active) {
                        self.scale(&set, size);
                    }
                }
            }
        }
    }

    fn in_proportion(&self, mut active: Vec<Arc<ReplicaSet>>) -> Vec<(Arc<ReplicaSet>, i32)> {
        let (surge, _) = fenceposts(self.deployment);
        let desired = desired(self.deployment);
        let allowed = if desired > 0 { desired + surge } else { 0 };
        let to_add = allowed - sum(active.iter().map(AsRef::as_ref), replicas);
        // The largest first; of equals the newer when growing, the older when shrinking.
        let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        active.sort_by_key(|set| (std::cmp::Reverse(replicas(set)), if to_add > 0 { -created(set) } else { created(set) }));
        let mut added = 0;
        let mut sizes: Vec<(Arc<ReplicaSet>, i32)> = Vec::with_capacity(active.len());
        for set in active {
            let share = if to_add == 0 || replicas(&set) == 0 { 0 } else { self.share(&set, allowed) };
            let rest = to_add - added;
            let share = if to_add > 0 { share.min(rest) } else { share.max(rest) };
            added += share;
            let size = replicas(&set) + share;
            sizes.push((set, size));
        }
        if let Some((_, size)) = sizes.first_mut() {
            *size = (*size + to_add - added).max(0);
        }
        sizes
    }

    /// By how much a ReplicaSet would grow if all grew alike.
    fn share(&self, set: &ReplicaSet, allowed: i32) -> i32 {
        if desired(self.deployment) == 0 {
            return -replicas(set);
        }
        let before = number(set, MAX).filter(|max| *max > 0).unwrap_or_else(|| i64::from(self.base.replicas.unwrap_or(0)).max(1));
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // Counts of pods; rounding is what is wanted.
        let size = (f64::from(replicas(set)) * f64::from(allowed) / before as f64).round() as i32;
        size - replicas(set)
    }

    /// Deletes the oldest of the ReplicaSets that are not used any more, but for as many as users want to be able to go back to.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit) else { return };
        let mut unused: Vec<Arc<ReplicaSet>> = self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).cloned().collect();
        unused.sort_by_key(|set| number(set, REVISION).unwrap_or(0));
        let surplus = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for set in unused.into_iter().take(surplus) {
            if actual(&set) == 0 && replicas(&set) == 0 && is_observed(&set) {
                let options = DeleteOptions { uid: set.metadata.uid.clone(), ..DeleteOptions::default() };
                self.ops.push(Op::send(Request::delete::<ReplicaSet>(&ObjectKey::of(set.as_ref()), &options).tolerating(&[404, 409])));
            }
        }
    }

    /// The counts, without judging progress: while the Deployment is scaled, paused or deleted.
    fn tell_counts(&mut self) {
        let counted = status::count(self.deployment, &self.base, self.new.as_ref(), &self.all(), self.now);
        self.tell(counted);
    }

    fn tell_progress(&mut self) {
        let all = self.all();
        let counted = status::count(self.deployment, &self.base, self.new.as_ref(), &all, self.now);
        let (judged, again) = status::progress(self.deployment, &self.base, counted, self.new.as_ref(), &all, self.now);
        self.tell(judged);
        self.ops.extend(again.map(Op::After));
    }

    fn tell(&mut self, status: DeploymentStatus) {
        if self.deployment.status.as_ref() != Some(&without_zeros(&status)) && self.deployment.status.as_ref() != Some(&status) {
            let mut told = self.deployment.clone();
            told.status = Some(status);
            self.ops.push(Op::send(Request::replace_status(&told).tolerating(&[404])));
        }
    }
}

/// As the apiserver gives it back: counts of zero are left out.
fn without_zeros(status: &DeploymentStatus) -> DeploymentStatus {
    let some = |count: Option<i32>| count.filter(|count| *count != 0);
    DeploymentStatus {
        replicas: some(status.replicas),
        updated_replicas: some(status.updated_replicas),
        ready_replicas: some(status.ready_replicas),
        available_replicas: some(status.available_replicas),
        unavailable_replicas: some(status.unavailable_replicas),
        ..status.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn template(image: &str) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
    }

    fn deployment(more: Value) -> Deployment {
        let mut spec = json!({
            "replicas": 3, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "web"}}, "template": template("v2"),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let meta = json!({"namespace": "ns", "name": "web", "uid": "d", "generation": 1, "annotations": {REVISION: "2"}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    /// A ReplicaSet of version `v<revision>` with so many replicas wanted and available.
    fn set(revision: i64, wanted: i32, available: i32, noted: (i32, i32)) -> Arc<ReplicaSet> {
        let mut template = template(&format!("v{revision}"));
        template["metadata"]["labels"]["pod-template-hash"] = json!(format!("h{revision}"));
        let annotations = json!({REVISION: revision.to_string(), DESIRED: noted.0.to_string(), MAX: noted.1.to_string()});
        let object = json!({
            "metadata": {"namespace": "ns", "name": format!("web-h{revision}"), "uid": format!("rs{revision}"), "annotations": annotations,
                         "creationTimestamp": format!("2026-01-0{revision}T00:00:00Z")},
            "spec": {"replicas": wanted, "selector": {"matchLabels": {"app": "web"}}, "template": template},
            "status": {"replicas": wanted, "readyReplicas": available, "availableReplicas": available},
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    /// What is planned: a creation, or else events and deletions.
    fn steps(deployment: &Deployment, sets: &[Arc<ReplicaSet>], pods_left: bool) -> Vec<String> {
        let planned = plan(deployment, sets, &|set| pods_left && replicas(set) == 0, Timestamp::from_second(0).unwrap());
        if let Some(created) = planned.created {
            return vec![format!("create {}", replicas(&created))];
        }
        let step = |op| match op {
            Op::Event { message, .. } => Some(message.replace("Scaled ", "").replace("replica set ", "")),
            Op::Send(request) if request.method == "DELETE" => Some(format!("delete {}", request.name)),
            _ => None,
        };
        planned.ops.into_iter().filter_map(step).collect()
    }

    #[test]
    fn rolling_step_by_step() {
        let d = deployment(json!({}));
        // Three replicas, one more for the surge, none unavailable.
        let cases: Vec<(Vec<Arc<ReplicaSet>>, Vec<&str>)> = vec![
            (vec![], vec!["create 3"]),
            (vec![set(1, 3, 3, (3, 4))], vec!["create 1"]),
            (vec![set(1, 3, 3, (3, 4)), set(2, 1, 0, (3, 4))], vec![]),
            (vec![set(1, 3, 3, (3, 4)), set(2, 1, 1, (3, 4))], vec!["down web-h1 from 3 to 2"]),
            (vec![set(1, 2, 2, (3, 4)), set(2, 1, 1, (3, 4))], vec!["up web-h2 from 1 to 2"]),
            (vec![set(1, 1, 1, (3, 4)), set(2, 3, 3, (3, 4))], vec!["down web-h1 from 1 to 0"]),
            (vec![set(1, 3, 1, (3, 4)), set(2, 1, 0, (3, 4))], vec![]),
        ];
        for (sets, expected) in cases {
            let shown: Vec<_> = sets.iter().map(|set| (replicas(set), available(set))).collect();
            assert_eq!(steps(&d, &sets, false), expected, "{shown:?}");
        }
    }

    #[test]
    fn replicas_that_are_not_available_go_first() {
        let d = deployment(
            json!({"replicas": 10, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}),
        );
        let sets = [set(1, 8, 8, (10, 13)), set(2, 5, 0, (10, 13))];
        assert!(steps(&d, &sets, false).is_empty(), "13 - 8 - 5 leaves nothing to remove");
        let sets = [set(1, 9, 6, (10, 13)), set(2, 2, 2, (10, 13))];
        assert_eq!(steps(&d, &sets, false), ["up web-h2 from 2 to 4"]);
        let sets = [set(1, 10, 7, (10, 13)), set(2, 3, 3, (10, 13))];
        assert_eq!(steps(&d, &sets, false), ["down web-h1 from 10 to 5"]);
    }

    #[test]
    fn nothing_old_goes_by_a_status_of_another_size() {
        let d = deployment(json!({}));
        let (old, new) = (set(1, 3, 3, (3, 4)), set(2, 1, 1, (3, 4)));
        let mut resized = old.as_ref().clone();
        resized.metadata.generation = Some(2);
        assert!(steps(&d, &[Arc::new(resized.clone()), new.clone()], false).is_empty());
        resized.status.get_or_insert_default().observed_generation = Some(2);
        assert_eq!(steps(&d, &[Arc::new(resized), new], false), ["down web-h1 from 3 to 2"]);
    }

    #[test]
    fn recreating_waits_for_the_last_pod() {
        let d = deployment(json!({"strategy": {"type": "Recreate"}}));
        assert_eq!(steps(&d, &[set(1, 3, 3, (3, 3))], false), ["down web-h1 from 3 to 0"]);
        assert!(steps(&d, &[set(1, 0, 0, (3, 3))], true).is_empty());
        assert_eq!(steps(&d, &[set(1, 0, 0, (3, 3))], false), ["create 3"]);
    }

    #[test]
    fn another_size() {
        let d = deployment(json!({"replicas": 1}));
        assert_eq!(steps(&d, &[set(1, 0, 0, (3, 4)), set(2, 3, 3, (3, 4))], false), ["down web-h2 from 3 to 1"]);
        // In the middle of a rollout, in proportion: 10 + 3 become 20 + 5.
        let rolling = json!({"replicas": 20, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 5, "maxUnavailable": 2}}});
        let sets = [set(1, 8, 8, (10, 13)), set(2, 5, 0, (10, 13))];
        assert_eq!(steps(&deployment(rolling), &sets, false), ["up web-h1 from 8 to 15", "up web-h2 from 5 to 10"]);
        let paused = deployment(json!({"replicas": 5, "paused": true}));
        assert_eq!(steps(&paused, &[set(2, 3, 3, (3, 4))], false), ["up web-h2 from 3 to 5"]);
        assert!(steps(&paused, &[], false).is_empty(), "a paused one rolls nothing out");
    }

    #[test]
    fn going_back_makes_an_old_one_new() {
        let d = deployment(json!({"template": template("v1")}));
        let sets = [set(1, 0, 0, (3, 4)), set(2, 3, 3, (3, 4))];
        let planned = plan(&d, &sets, &|_| false, Timestamp::from_second(0).unwrap());
        let [Op::Send(request)] = planned.ops.as_slice() else { panic!("{:?}", planned.ops) };
        assert_eq!((request.method, request.name.as_str()), ("PUT", "web-h1"));
        assert_eq!(request.body["metadata"]["annotations"][REVISION], "3");
        assert_eq!(request.body["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");
    }

    #[test]
    fn history_is_limited() {
        let mut d = deployment(json!({"revisionHistoryLimit": 1, "template": template("v4")}));
        d.metadata.annotations = Some([(REVISION.to_owned(), "4".to_owned())].into());
        d.status =
            serde_json::from_value(json!({"replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, "observedGeneration": 1})).unwrap();
        let sets = [set(1, 0, 0, (3, 4)), set(2, 0, 0, (3, 4)), set(3, 0, 0, (3, 4)), set(4, 3, 3, (3, 4))];
        assert_eq!(steps(&d, &sets, false), ["delete web-h1", "delete web-h2"]);
    }
}
