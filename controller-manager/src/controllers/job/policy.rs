//! What a Job's policies say: about a failed pod, and about the indexes that have succeeded (upstream: `pod_failure_policy.go`, `success_policy.go`).

use super::indexes::Indexes;
use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What follows from a pod's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The whole Job fails, for this reason.
    pub fails_job: Option<String>,
    /// The pod's index fails.
    pub fails_index: bool,
    /// The failure counts towards the limit.
    pub counts: bool,
}

/// The verdict of the first rule that matches; without any the failure counts.
pub fn on_failure(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let verdict = |action: &str, why: String| Verdict {
        fails_job: (action == "FailJob").then_some(why),
        fails_index: action == "FailIndex",
        counts: action != "Ignore",
    };
    let name = client::ObjectKey::of(pod);
    for (position, rule) in policy.iter().flat_map(|policy| &policy.rules).enumerate() {
        let action = rule.action.as_str();
        if let Some(codes) = &rule.on_exit_codes {
            if let Some((container, code)) = failed_with(pod, codes) {
                let why =
                    format!("Container {container} for pod {name} failed with exit code {code} matching {action} rule at index {position}");
                return verdict(action, why);
            }
        } else if let Some(patterns) = &rule.on_pod_conditions {
            let conditions = || pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let matches = |pattern: &&_| {
                let pattern: &k8s_openapi::api::batch::v1::PodFailurePolicyOnPodConditionsPattern = pattern;
                let wanted = pattern.status.as_deref().unwrap_or("True");
                conditions().any(|condition| condition.type_ == pattern.type_ && condition.status == wanted)
            };
            if let Some(pattern) = patterns.iter().find(matches) {
                return verdict(action, format!("Pod {name} has condition {} matching {action} rule at index {position}", pattern.type_));
            }
        }
    }
    Verdict { fails_job: None, fails_index: false, counts: true }
}

fn failed_with<'a>(pod: &'a Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let exit = |container: &ContainerStatus| Some(container.state.as_ref()?.terminated.as_ref()?.exit_code).filter(|code| *code != 0);
    let listed = |code: i32| match codes.operator.as_str() {
        "In" => codes.values.contains(&code),
        "NotIn" => !codes.values.contains(&code),
        _ => false,
    };
    containers
        .filter(|container| codes.container_name.as_ref().is_none_or(|name| *name == container.name))
        .find_map(|container| exit(container).filter(|code| listed(*code)).map(|code| (container.name.as_str(), code)))
}

/// Why the Job has succeeded already, if it has by its policy.
pub fn on_success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    let met = policy?.rules.iter().position(|rule| {
        let required = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, completions));
        match (required, rule.succeeded_count) {
            (Some(required), count) => succeeded.in_common(&required) >= count.unwrap_or(required.total()),
            (None, Some(count)) => succeeded.total() >= count,
            (None, None) => false,
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::held;
    use serde_json::{Value, json};

    fn pod(code: i32, condition: &str) -> Pod {
        let state = json!({"terminated": {"exitCode": code}});
        let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let status = json!({"phase": "Failed", "containerStatuses": [container], "conditions": [{"type": condition, "status": "True"}]});
        held(json!({"metadata": {"namespace": "ns", "name": "p"}, "status": status}))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let exits = |action: &str, operator: &str, values: &[i32]| json!({"action": action, "onExitCodes": {"containerName": "c", "operator": operator, "values": values}});
        let on = |action: &str, condition: &str| json!({"action": action, "onPodConditions": [{"type": condition, "status": "True"}]});
        let rules: Vec<Value> = vec![
            on("Ignore", "DisruptionTarget"),
            exits("FailJob", "In", &[42]),
            exits("FailIndex", "In", &[43]),
            on("FailJob", "Broken"),
            exits("Count", "NotIn", &[5]),
        ];
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
        let of = |code, condition| on_failure(Some(&policy), &pod(code, condition));
        let counted = Verdict { fails_job: None, fails_index: false, counts: true };
        assert_eq!(of(42, "DisruptionTarget"), Verdict { counts: false, ..counted.clone() });
        let why = "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1".to_owned();
        assert_eq!(of(42, "X"), Verdict { fails_job: Some(why), ..counted.clone() });
        assert_eq!(of(43, "X"), Verdict { fails_index: true, ..counted.clone() });
        let why = "Pod ns/p has condition Broken matching FailJob rule at index 3".to_owned();
        assert_eq!(of(1, "Broken"), Verdict { fails_job: Some(why), ..counted.clone() });
        assert_eq!(of(0, "X"), counted);
        assert_eq!(on_failure(None, &pod(42, "X")), counted);
    }

    #[test]
    fn success_by_indexes_and_by_count() {
        let policy: SuccessPolicy = serde_json::from_value(
            json!({"rules": [{"succeededIndexes": "0,2-3"}, {"succeededIndexes": "4-9", "succeededCount": 2}, {"succeededCount": 6}]}),
        )
        .unwrap();
        for (succeeded, expected) in [
            ("0,2", None),
            ("0,2,3", Some("Matched rules at index 0")),
            ("5,8", Some("Matched rules at index 1")),
            ("1,5", None),
            ("0-2,9,1", None),
        ] {
            assert_eq!(on_success(Some(&policy), 10, &Indexes::parse(succeeded, 10)).as_deref(), expected, "{succeeded}");
        }
        assert_eq!(on_success(None, 10, &Indexes::default()), None);
    }
}
