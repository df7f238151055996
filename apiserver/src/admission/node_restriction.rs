//! NodeRestriction: a kubelet writes its own node and the pods on it, and nothing that would let it become another node
//! (upstream: `plugin/pkg/admission/noderestriction`). What it may read is the node authorizer's matter.

use super::{Admission, Operation, Request, ready};
use api::{Object, status::Result};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::ResourceSlice;
use std::collections::{BTreeMap, BTreeSet};

/// The plugin.
pub struct NodeRestriction;

type Labels = BTreeMap<String, String>;

/// Labels under the project's own domains that a kubelet may set on its node.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];
/// And domains under which it may set any.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn within(domain: &str, root: &str) -> bool {
    domain == root || domain.strip_suffix(root).is_some_and(|rest| rest.ends_with('.'))
}

fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    if within(domain, "node-restriction.kubernetes.io") {
        return false;
    }
    let reserved = within(domain, "kubernetes.io") || within(domain, "k8s.io");
    !reserved || OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|own| within(domain, own))
}

/// Labels that differ and that a kubelet may not touch.
fn forbidden_labels(new: &Labels, old: &Labels) -> Vec<String> {
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    keys.into_iter().filter(|key| new.get(*key) != old.get(*key) && !may_set(key)).cloned().collect()
}

fn labels(object: &dyn Object) -> Labels {
    object.metadata().labels.clone().unwrap_or_default()
}

fn pod_node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// What a mirror pod may not refer to; the first that it does.
fn refers_to(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if spec.service_account_name.as_deref().is_some_and(|s| !s.is_empty()) {
        return Some("a service account");
    }
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let volumes = || spec.volumes.iter().flatten();
    let projected = || volumes().flat_map(|v| v.projected.iter().flat_map(|p| p.sources.iter().flatten()));
    let env = || containers().flat_map(|c| c.env.iter().flatten()).filter_map(|e| e.value_from.as_ref());
    let from = || containers().flat_map(|c| c.env_from.iter().flatten());
    if spec.image_pull_secrets.as_ref().is_some_and(|s| !s.is_empty())
        || volumes().any(|v| v.secret.is_some())
        || projected().any(|s| s.secret.is_some())
        || env().any(|e| e.secret_key_ref.is_some())
        || from().any(|e| e.secret_ref.is_some())
    {
        return Some("secrets");
    }
    if volumes().any(|v| v.config_map.is_some())
        || projected().any(|s| s.config_map.is_some())
        || env().any(|e| e.config_map_key_ref.is_some())
        || from().any(|e| e.config_map_ref.is_some())
    {
        return Some("configmaps");
    }
    if volumes().any(|v| v.persistent_volume_claim.is_some()) {
        return Some("persistentvolumeclaims");
    }
    spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()).then_some("resourceclaims")
}

fn pod_created(node: &str, pod: &Pod) -> Result<(), String> {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    if !pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if pod_node(pod) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    match owners {
        [] => {}
        [one] if one.api_version == "v1" && one.kind == "Node" && one.name == node => {}
        [_] => return Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    }
    refers_to(pod).map_or(Ok(()), |what| Err(format!("node {node:?} can not create pods that reference {what}")))
}

fn node_written(node: &str, request: &Request<'_>, new: &Node) -> Result<(), String> {
    let name = new.metadata.name.as_deref().unwrap_or(request.name);
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    match request.old::<Node>() {
        None => {
            let bad = forbidden_labels(&labels(new), &Labels::new());
            if !bad.is_empty() {
                return Err(format!("node {node:?} is not allowed to set the following labels: {}", bad.join(", ")));
            }
        }
        Some(old) => {
            let bad = forbidden_labels(&labels(new), &labels(old));
            if !bad.is_empty() {
                return Err(format!("is not allowed to modify labels: {}", bad.join(", ")));
            }
            if taints(new) != taints(old) {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if new.metadata.owner_references != old.metadata.owner_references {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
        }
    }
    Ok(())
}

fn pod_touched(node: &str, request: &Request<'_>, object: Option<&Pod>) -> Result<(), String> {
    let old = request.old::<Pod>();
    let mine = old.is_some_and(|p| pod_node(p) == node);
    match (request.operation, request.subresource, object) {
        (Operation::Create, "", Some(pod)) => pod_created(node, pod),
        (Operation::Create, "eviction", _) if old.is_none() || mine => Ok(()),
        (Operation::Create, "eviction", _) => Err(format!("node {node} can only evict pods with spec.nodeName set to itself")),
        (Operation::Delete, ..) if old.is_none() || mine => Ok(()),
        (Operation::Delete, ..) => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        (Operation::Update, "status", Some(_)) if !mine => {
            Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
        }
        (Operation::Update, "status", Some(pod)) => match old {
            Some(old) if old.metadata.labels != pod.metadata.labels => {
                Err(format!("node {node:?} cannot update labels through pod status"))
            }
            _ => Ok(()),
        },
        (Operation::Update, "", _) => Err(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods")),
        _ => Ok(()),
    }
}

fn check(request: &Request<'_>, object: Option<&dyn Object>) -> Result<(), String> {
    let Some(node) = request.user.node() else { return Ok(()) };
    let name = object.and_then(|o| o.metadata().name.as_deref()).unwrap_or(request.name);
    match (request.resource.group.as_ref(), request.resource.plural.as_ref()) {
        ("", "pods") => pod_touched(node, request, object.and_then(|o| o.downcast_ref())),
        ("", "nodes") => match (request.operation, object.and_then(|o| o.downcast_ref::<Node>())) {
            (Operation::Create | Operation::Update, Some(new)) => node_written(node, request, new),
            (Operation::Delete, _) if request.name != node => {
                Err(format!("node {node:?} is not allowed to modify node {:?}", request.name))
            }
            _ => Ok(()),
        },
        ("coordination.k8s.io", "leases") if request.namespace != "kube-node-lease" => {
            Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned())
        }
        ("coordination.k8s.io", "leases") if name != node => {
            Err("can only access node lease with the same name as the requesting node".to_owned())
        }
        ("resource.k8s.io", "resourceslices") if request.operation == Operation::Create => {
            let slice = object.and_then(|o| o.downcast_ref::<ResourceSlice>());
            if slice.is_some_and(|slice| slice.spec.node_name.as_deref() == Some(node)) {
                return Ok(());
            }
            Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        ("storage.k8s.io", "csinodes") if name != node => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        _ => Ok(()),
    }
}

impl Admission for NodeRestriction {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        ready(check(request, object.as_deref()).map_err(|why| request.forbidden(&why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::pods::status_of, authentication::UserInfo};
    use serde_json::{Value, json};

    async fn ask(plural: &str, subresource: &str, operation: Operation, new: Value, old: Option<Value>) -> String {
        let resource = api::resources::find("", "v1", plural).unwrap();
        let user = UserInfo { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..UserInfo::default() };
        let decode = |mut value: Value| {
            if value.get("spec").is_none() {
                value["spec"] = json!({});
            }
            if plural == "pods" && value["spec"].get("containers").is_none() {
                value["spec"]["containers"] = json!([]);
            }
            (resource.decode)(&value).unwrap()
        };
        let old = old.map(&decode);
        let mut new = decode(new);
        let name = new.metadata().name.clone().unwrap();
        let request = Request {
            resource,
            subresource,
            operation,
            namespace: "ns",
            name: &name,
            old: old.as_deref(),
            user: &user,
            dry_run: false,
            context: &crate::admission::Context::default(),
        };
        let answer = NodeRestriction.admit(&request, Some(&mut *new)).await;
        let text = status_of(answer);
        text.split_once("is forbidden: ").map_or(text.clone(), |(_, why)| why.to_owned())
    }

    #[tokio::test]
    async fn a_kubelet_keeps_to_itself() {
        use Operation::*;
        let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
        let mirror = |spec: Value| json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": spec});
        let on = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
        let cases = [
            ("nodes", "", Create, node("n1", json!({"kubernetes.io/os": "linux", "mine": "x"})), None, "ok"),
            ("nodes", "", Create, node("n2", json!({})), None, "node \"n1\" is not allowed to modify node \"n2\""),
            (
                "nodes",
                "",
                Create,
                node("n1", json!({"node-role.kubernetes.io/control-plane": ""})),
                None,
                "node \"n1\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane",
            ),
            (
                "nodes",
                "status",
                Update,
                node("n1", json!({"node-restriction.kubernetes.io/x": "1"})),
                Some(node("n1", json!({}))),
                "is not allowed to modify labels: node-restriction.kubernetes.io/x",
            ),
            ("pods", "", Create, mirror(json!({"nodeName": "n1"})), None, "ok"),
            (
                "pods",
                "",
                Create,
                mirror(json!({"nodeName": "n2"})),
                None,
                "node \"n1\" can only create pods with spec.nodeName set to itself",
            ),
            (
                "pods",
                "",
                Create,
                mirror(json!({"nodeName": "n1", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]})),
                None,
                "node \"n1\" can not create pods that reference secrets",
            ),
            (
                "pods",
                "",
                Create,
                on("n1"),
                None,
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
            ),
            ("pods", "status", Update, on("n1"), Some(on("n1")), "ok"),
            (
                "pods",
                "status",
                Update,
                on("n2"),
                Some(on("n2")),
                "node \"n1\" can only update pod status for pods with spec.nodeName set to itself",
            ),
            ("pods", "", Delete, on("n2"), Some(on("n2")), "node \"n1\" can only delete pods with spec.nodeName set to itself"),
        ];
        for (plural, subresource, operation, new, old, want) in cases {
            let told = new.to_string();
            assert_eq!(ask(plural, subresource, operation, new, old).await, want, "{told}");
        }
    }
}
