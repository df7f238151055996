//! Going back to an earlier version when the annotation `deprecated.deployment.rollback.to` asks for it: what clients of the API from before apps/v1 do, where
//! today's bring the old template themselves (upstream: `rollback.go`).

use super::replica_sets::{NOT_COPIED, REVISION, number, same_template, without_hash};
use crate::ops::{Op, Request};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The revision to go back to; 0 is the one before.
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// The revision that the annotation asks for.
pub fn wanted(deployment: &Deployment) -> Option<i64> {
    deployment.metadata.annotations.as_ref()?.get(ROLLBACK_TO)?.parse().ok()
}

/// The Deployment without the annotation, of the version asked for if there is one, and what to tell.
pub fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], to: i64) -> Vec<Op> {
    let mut updated = deployment.clone();
    updated.metadata.annotations.get_or_insert_default().remove(ROLLBACK_TO);
    let revisions: BTreeSet<i64> = sets.iter().filter_map(|set| number(set, REVISION)).collect();
    let to = if to == 0 { revisions.into_iter().rev().nth(1) } else { Some(to) };
    let found = to.and_then(|to| sets.iter().find(|set| number(set, REVISION) == Some(to)));
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let event = match (to, found) {
        (None, _) => Op::warning(deployment, "DeploymentRollbackRevisionNotFound", "Unable to find last revision."),
        (Some(_), None) => Op::warning(deployment, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to."),
        (Some(_), Some(set)) if same_template(set, deployment) => {
            let message = format!("The rollback revision contains the same template as current deployment \"{name}\"");
            Op::warning(deployment, "DeploymentRollbackTemplateUnchanged", message)
        }
        (Some(to), Some(set)) => {
            bring_back(&mut updated, set);
            Op::normal(deployment, "DeploymentRollback", format!("Rolled back deployment \"{name}\" to revision {to}"))
        }
    };
    vec![Op::send(Request::replace(&updated)), event]
}

/// Template and annotations are the old version's; annotations that say something about the Deployment itself stay.
fn bring_back(deployment: &mut Deployment, set: &ReplicaSet) {
    if let Some(template) = without_hash(set.spec.as_ref().and_then(|spec| spec.template.as_ref())) {
        deployment.spec.get_or_insert_default().template = template;
    }
    let stays = |key: &String| NOT_COPIED.contains(&key.as_str());
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| stays(key));
    let old = set.metadata.annotations.iter().flatten().filter(|(key, _)| !stays(key));
    annotations.extend(old.map(|(key, value)| (key.clone(), value.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn back_to_what_is_there() {
        let template = |image: &str| json!({"metadata": {"labels": {}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        let set = |revision: i64| -> Arc<ReplicaSet> {
            let annotations = json!({REVISION: revision.to_string(), "cause": format!("of {revision}")});
            let spec = json!({"selector": {}, "template": template(&format!("v{revision}"))});
            Arc::new(serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap())
        };
        let sets = [set(3), set(1), set(2)];
        for (to, sets, expected) in [
            ("0", &sets[..], json!(["DeploymentRollback", "v2", "of 2"])),
            ("1", &sets[..], json!(["DeploymentRollback", "v1", "of 1"])),
            ("3", &sets[..], json!(["DeploymentRollbackTemplateUnchanged", "v3", "now"])),
            ("7", &sets[..], json!(["DeploymentRollbackRevisionNotFound", "v3", "now"])),
            ("0", &sets[..1], json!(["DeploymentRollbackRevisionNotFound", "v3", "now"])),
        ] {
            let annotations = json!({ROLLBACK_TO: to, "cause": "now", REVISION: "3"});
            let object =
                json!({"metadata": {"name": "d", "annotations": annotations}, "spec": {"selector": {}, "template": template("v3")}});
            let deployment: Deployment = serde_json::from_value(object).unwrap();
            let ops = plan(&deployment, sets, wanted(&deployment).unwrap());
            let [Op::Send(request), Op::Event { reason, .. }] = &ops[..] else { panic!("{ops:?}") };
            let annotations = &request.body["metadata"]["annotations"];
            let image = &request.body["spec"]["template"]["spec"]["containers"][0]["image"];
            assert_eq!(json!([reason, image, annotations["cause"]]), expected, "{to}");
            assert_eq!((&annotations[ROLLBACK_TO], &annotations[REVISION]), (&Value::Null, &json!("3")), "{to}");
        }
        assert_eq!(wanted(&Deployment::default()), None);
    }
}
