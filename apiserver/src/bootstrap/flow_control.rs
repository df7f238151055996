//! Flow control's first objects: which requests belong together, and how much of the server each sort may have
//! (upstream: `apiserver/pkg/apis/flowcontrol/bootstrap/default.go`). This server bounds requests in a simpler way; the objects are here because clients
//! and other apiservers on the same store expect them.

use super::{Wanted, reconcile};
use crate::objects::Collection;
use serde_json::{Value, json};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Name, shares, percent that may be lent, and queues, hand size and queue length; without queues the surplus is rejected.
type Level = (&'static str, u32, u32, Option<(u32, u32, u32)>);

const LEVELS: &[Level] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

/// What of the API a schema is about.
enum About {
    Everything,
    Health,
    /// Verbs, then `group/resource`s, then the namespaces (`*` with cluster scope as well).
    Resources(&'static [&'static str], &'static [(&'static str, &'static [&'static str])], &'static str, bool),
}

/// Name, level, precedence, what tells flows apart, whose requests (`user:`, `group:`, `account:`), and about what.
type Schema = (&'static str, &'static str, u32, &'static str, &'static [&'static str], About);

const EVERYBODY: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];
const LEASES: &[(&str, &[&str])] = &[("coordination.k8s.io", &["leases"])];
const LOCK: &[&str] = &["get", "create", "update"];

const SCHEMAS: &[Schema] = &[
    ("exempt", "exempt", 1, "", &["group:system:masters"], About::Everything),
    ("probes", "exempt", 2, "", EVERYBODY, About::Health),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &["user:system:kube-controller-manager", "user:system:kube-scheduler", "account:kube-system/*"],
        About::Resources(LOCK, LEASES, "kube-system", false),
    ),
    (
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        &[
            "user:system:kube-controller-manager",
            "account:kube-system/endpoint-controller",
            "account:kube-system/endpointslicemirroring-controller",
        ],
        About::Resources(LOCK, &[("", &["endpoints"])], "*", false),
    ),
    ("workload-leader-election", "leader-election", 200, "ByUser", &["account:kube-system/*"], About::Resources(LOCK, LEASES, "*", false)),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["group:system:nodes"],
        About::Resources(&["*"], &[("", &["nodes", "nodes/status"]), ("coordination.k8s.io", &["leases"])], "*", true),
    ),
    ("system-nodes", "system", 500, "ByUser", &["group:system:nodes"], About::Everything),
    ("kube-controller-manager", "workload-high", 800, "ByNamespace", &["user:system:kube-controller-manager"], About::Everything),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", &["user:system:kube-scheduler"], About::Everything),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &["account:kube-system/*"], About::Everything),
    ("service-accounts", "workload-low", 9000, "ByUser", &["group:system:serviceaccounts"], About::Everything),
    ("global-default", "global-default", 9900, "ByUser", EVERYBODY, About::Everything),
    ("catch-all", "catch-all", 10000, "ByUser", EVERYBODY, About::Everything),
];

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "spec": spec,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}})
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(':').unwrap_or(("user", text));
    match (kind, name.split_once('/')) {
        ("account", Some((namespace, name))) => json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}}),
        ("group", _) => json!({"kind": "Group", "group": {"name": name}}),
        _ => json!({"kind": "User", "user": {"name": name}}),
    }
}

fn rules(subjects: &[&str], about: &About) -> Value {
    let subjects: Vec<Value> = subjects.iter().map(|s| subject(s)).collect();
    let rule = match about {
        About::Everything => json!({
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }),
        About::Health => json!({
            "subjects": subjects,
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
        }),
        About::Resources(verbs, resources, namespace, cluster) => {
            let rule = |(group, resources): &(&str, &[&str])| {
                let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": [namespace]});
                if *cluster {
                    rule["clusterScope"] = true.into();
                }
                rule
            };
            json!({"subjects": subjects, "resourceRules": resources.iter().map(rule).collect::<Vec<_>>()})
        }
    };
    json!([rule])
}

/// All of them.
pub fn all() -> Vec<Wanted> {
    let levels = Collection::of(GROUP, "prioritylevelconfigurations");
    let schemas = Collection::of(GROUP, "flowschemas");
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut wanted = vec![Wanted::new(levels, "", object("PriorityLevelConfiguration", "exempt", exempt))];
    for (name, shares, lendable, queuing) in LEVELS {
        let response = match queuing {
            None => json!({"type": "Reject"}),
            Some((queues, hand, length)) => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
            }
        };
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        let spec = json!({"type": "Limited", "limited": limited});
        wanted.push(Wanted::new(levels, "", object("PriorityLevelConfiguration", name, spec)));
    }
    for (name, level, precedence, distinguisher, subjects, about) in SCHEMAS {
        let mut spec =
            json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules(subjects, about)});
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        wanted.push(Wanted::new(schemas, "", object("FlowSchema", name, spec)));
    }
    wanted.into_iter().map(|w| w.merged(reconcile::flow_control)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_has_its_level() {
        let all = all();
        let names = |plural: &str| all.iter().filter(|w| w.collection.plural == plural).map(|w| w.name().to_owned()).collect::<Vec<_>>();
        let levels = names("prioritylevelconfigurations");
        assert_eq!((levels.len(), names("flowschemas").len()), (8, 13));
        assert!(SCHEMAS.iter().all(|(_, level, ..)| levels.iter().any(|l| l == level)));
    }
}
