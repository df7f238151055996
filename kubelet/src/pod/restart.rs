//! Whether a container that ended is started again (upstream: `kubecontainer.ShouldContainerBeRestarted`, KEP-5307 for the container's own
//! policy and rules).

use super::observed::Observed;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

/// Whether an init container is a sidecar: it stays for the pod's life.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The policy of the pod as a whole.
pub fn pod_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// The policy a container follows: its own, or the pod's.
pub fn policy<'a>(pod: &'a Pod, container: &'a Container) -> &'a str {
    container.restart_policy.as_deref().unwrap_or_else(|| pod_policy(pod))
}

/// A rule's action that starts the whole pod anew, in its sandbox.
const ALL: &str = "RestartAllContainers";

/// The rule that decides about this exit code, if any does.
fn rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| applies(rule, exit_code))
}

/// Whether a container that ended with `exit_code` is to run again, deletion of the pod aside.
pub fn after_exit(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if let Some(rule) = rule(container, exit_code) {
        return matches!(rule.action.as_str(), "Restart" | ALL);
    }
    match policy(pod, container) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// The containers of a pod that are started by themselves: all but the ephemeral ones.
fn own_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

/// Whether the pod has a rule that starts all of it anew.
pub fn may_restart_all(pod: &Pod) -> bool {
    own_containers(pod).flat_map(|c| c.restart_policy_rules.iter().flatten()).any(|rule| rule.action == ALL)
}

/// Whether a container has ended in a way after which all of the pod is started anew.
pub fn all_due(pod: &Pod, observed: &Observed) -> bool {
    own_containers(pod).any(|container| wants_all(container, observed))
}

/// Whether the runtime has anything of what would be started anew.
pub fn any_left(pod: &Pod, observed: &Observed) -> bool {
    own_containers(pod).any(|container| observed.latest(&container.name).is_some())
}

/// Whether it was this container that did.
pub fn wants_all(container: &Container, observed: &Observed) -> bool {
    let ended = observed.latest(&container.name).filter(|instance| instance.exited());
    ended.and_then(|instance| rule(container, instance.status.exit_code)).is_some_and(|rule| rule.action == ALL)
}

fn applies(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// The same for an init container that is no sidecar: it runs until it succeeded once, which `Always` does not change.
pub fn init_after_exit(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    exit_code != 0 && (after_exit(pod, container, exit_code) || policy(pod, container) == "Always")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policy_and_rules_decide_on_the_exit_code() {
        let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        let cases = [
            ("Always", json!({"name": "c"}), 0, true),
            ("OnFailure", json!({"name": "c"}), 0, false),
            ("OnFailure", json!({"name": "c"}), 1, true),
            ("Never", json!({"name": "c"}), 1, false),
            ("Never", json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rule.clone()}), 42, true),
            ("Always", json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rule}), 1, false),
        ];
        for (policy, container, code, want) in cases {
            let pod: Pod = serde_json::from_value(json!({"spec": {"restartPolicy": policy, "containers": []}})).expect("a pod");
            let container: Container = serde_json::from_value(container).expect("a container");
            assert_eq!(after_exit(&pod, &container, code), want, "{policy} {container:?} {code}");
        }
    }
}
