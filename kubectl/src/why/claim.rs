//! Why a PersistentVolumeClaim is not bound.

use super::{Answer, World, count, items, latest_event, namespace, text};
use serde_json::Value;

/// The annotation of a class that claims without one get.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// The answer for one claim.
pub fn why(world: &dyn World, claim: &Value) -> Answer {
    match text(&claim["status"]["phase"]) {
        "Bound" => return Answer::fine(claim, format!("is bound to volume {}", text(&claim["spec"]["volumeName"]))),
        "Lost" => {
            return Answer::new(
                claim,
                format!("has lost its volume {}, which does not exist any more", text(&claim["spec"]["volumeName"])),
            );
        }
        _ => {}
    }
    let said = latest_event(
        world,
        claim,
        &["ProvisioningFailed", "FailedBinding", "WaitForFirstConsumer", "ExternalProvisioning", "WaitForPodScheduled"],
    );
    let said = said.map_or(String::new(), |e| text(&e["message"]).to_owned());
    let classes = world.list("/apis/storage.k8s.io/v1/storageclasses", "", "");
    let Some(name) = claim["spec"]["storageClassName"].as_str() else {
        let default = classes.iter().any(|c| c["metadata"]["annotations"][DEFAULT_CLASS] == "true");
        let answer = Answer::new(claim, "is not bound: it names no class, and no default class was there when it was made").detail(said);
        return if default { answer } else { answer.remedy("make a StorageClass the default one, or name one in the claim") };
    };
    if name.is_empty() {
        return Answer::new(claim, format!("is not bound: it wants a volume without class, and {}", volumes(world, ""))).detail(said);
    }
    let Some(class) = classes.iter().find(|c| c["metadata"]["name"] == name) else {
        return Answer::new(claim, format!("is not bound: there is no StorageClass {name}, and {}", volumes(world, name)))
            .detail(said)
            .remedy(format!("make the StorageClass {name}"));
    };
    if class["volumeBindingMode"] == "WaitForFirstConsumer" {
        let ns = namespace(claim);
        let uses =
            |pod: &Value| items(&pod["spec"]["volumes"]).any(|v| v["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]);
        let users: Vec<String> =
            world.list(&format!("/api/v1/namespaces/{ns}/pods"), "", "").iter().filter(|p| uses(p)).map(super::reference).collect();
        let state = if users.is_empty() {
            "is not bound: its class waits for the first pod that uses it, and none does".to_owned()
        } else {
            format!("is not bound: its class waits until {} is scheduled", users.join(", "))
        };
        return Answer::new(claim, state).detail(said);
    }
    Answer::new(claim, format!("is not bound: it waits for the provisioner {}", text(&class["provisioner"]))).detail(said)
}

/// What volumes of a class there are.
fn volumes(world: &dyn World, class: &str) -> String {
    let all = world.list("/api/v1/persistentvolumes", "", "");
    let of_class: Vec<&Value> = all.iter().filter(|v| v["spec"]["storageClassName"].as_str().unwrap_or("") == class).collect();
    let free = of_class.iter().filter(|v| v["status"]["phase"] == "Available").count();
    format!("of {} of that class {free} available", count(of_class.len(), "volume"))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_cause_of_each_state() {
        let claim = |class: Value, phase: &str| {
            let mut claim = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "d"}, "spec": {}, "status": {"phase": phase}});
            claim["spec"]["storageClassName"] = class;
            claim
        };
        let world = || {
            let class = json!({"metadata": {"name": "local"}, "volumeBindingMode": "WaitForFirstConsumer", "provisioner": "p"});
            Cluster::default().with("/apis/storage.k8s.io/v1/storageclasses", class)
        };
        for (claim, state) in [
            (claim(Value::Null, "Pending"), "is not bound: it names no class, and no default class was there when it was made"),
            (claim(json!("gone"), "Pending"), "is not bound: there is no StorageClass gone, and of 0 volumes of that class 0 available"),
            (claim(json!("local"), "Pending"), "is not bound: its class waits for the first pod that uses it, and none does"),
        ] {
            assert_eq!(why(&world(), &claim).state, state);
        }
        assert!(why(&world(), &claim(json!("local"), "Bound")).fine);
    }
}
