//! What a kubelet may do: read the pods of its node and what they refer to, and little else
//! (upstream: `plugin/pkg/auth/authorizer/node/node_authorizer.go`).
//!
//! Kinds that are not divided among nodes are allowed by the static rules of the role `system:node`.

use super::{Attributes, Authorizer, Decision, node_graph::Graph, rule};
use crate::{bootstrap::policy, objects::Objects};
use k8s_openapi::api::rbac::v1::PolicyRule;
use parking_lot::Mutex;

/// The node authorizer.
pub struct NodeAuthorizer {
    graph: Mutex<Graph>,
    rules: Vec<PolicyRule>,
}

impl NodeAuthorizer {
    /// Learns from these objects who needs what.
    pub fn new(objects: &dyn Objects) -> Self {
        NodeAuthorizer { graph: Mutex::new(Graph::new(objects)), rules: policy::node_rules() }
    }

    fn decide(&self, node: &str, a: &Attributes) -> Result<(), String> {
        let verb = a.verb.as_str();
        let related = || self.related(node, a);
        let no = |why: &str| Err(why.to_owned());
        match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
            ("", "secrets" | "configmaps", sub) => match (verb, sub) {
                ("get" | "list" | "watch", "") if a.namespace.is_empty() => no("can only read namespaced object of this type"),
                ("get" | "list" | "watch", "") => related(),
                ("get" | "list" | "watch", _) => no("cannot read subresource"),
                _ => no("can only read resources of this type"),
            },
            ("", "persistentvolumeclaims", "status") => match verb {
                "update" | "patch" => related(),
                _ => no("can only update PVC status"),
            },
            ("", "persistentvolumeclaims" | "persistentvolumes", sub)
            | ("resource.k8s.io", "resourceclaims", sub)
            | ("storage.k8s.io", "volumeattachments", sub) => match (verb, sub) {
                ("get", "") => related(),
                ("get", _) => no("cannot get subresource"),
                _ => no("can only get individual resources of this type"),
            },
            ("", "serviceaccounts", "token") => match verb {
                "create" if !a.name.is_empty() => related(),
                _ => no("can only create tokens for individual service accounts"),
            },
            ("", "serviceaccounts", "") => match verb {
                "get" => related(),
                _ => no("can only get individual resources of this type"),
            },
            ("coordination.k8s.io", "leases", _) => lease(node, a),
            ("storage.k8s.io", "csinodes", sub) => match verb {
                "get" | "create" | "update" | "patch" | "delete" if !sub.is_empty() => no("cannot authorize CSINode subresources"),
                "get" | "create" | "update" | "patch" | "delete" if verb != "create" && a.name != node => {
                    no("can only access CSINode with the same name as the requesting node")
                }
                "get" | "create" | "update" | "patch" | "delete" => Ok(()),
                _ => no("can only get, create, update, patch, or delete a CSINode"),
            },
            ("resource.k8s.io", "resourceslices", _) => match verb {
                "list" | "watch" | "deletecollection" if selects(&a.field_selector, "spec.nodeName", node) => Ok(()),
                "list" | "watch" | "deletecollection" => {
                    no("can only list/watch/deletecollection resourceslices with nodeName field selector")
                }
                "create" => Ok(()),
                _ => related(),
            },
            ("", "nodes", sub) => match (verb, sub) {
                ("create" | "update" | "patch", "") | ("update" | "patch", "status") => Ok(()),
                ("get" | "list" | "watch", "") if a.name == node => Ok(()),
                ("get" | "list" | "watch", "") => Err(format!("node '{node}' cannot read '{}', only its own Node object", a.name)),
                _ => no(""),
            },
            ("", "pods", sub) => match (verb, sub) {
                ("get", "") => related(),
                ("list" | "watch", "") if selects(&a.field_selector, "spec.nodeName", node) => Ok(()),
                ("list" | "watch", "") if !a.name.is_empty() => related(),
                ("list" | "watch", "") => no("can only list/watch pods with spec.nodeName field selector"),
                ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => Ok(()),
                _ => no(""),
            },
            _ if self.rules.iter().any(|r| rule::allows(r, a)) => Ok(()),
            _ => no(""),
        }
    }

    fn related(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if a.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        if self.graph.lock().refers(node, &a.resource, &a.namespace, &a.name) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }
}

fn lease(node: &str, a: &Attributes) -> Result<(), String> {
    match a.verb.as_str() {
        "get" | "create" | "update" | "patch" | "delete" => {}
        _ => return Err("can only get, create, update, patch, or delete a node lease".to_owned()),
    }
    if a.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    if a.verb != "create" && a.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

/// Whether the field selector asks for exactly this value of the field.
fn selects(selector: &str, field: &str, value: &str) -> bool {
    selector.split(',').any(|part| {
        let found = part.split_once("==").or_else(|| part.split_once('='));
        found.is_some_and(|(f, v)| f == field && v == value)
    })
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let Some(node) = attributes.user.node() else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", attributes.user.name));
        }
        if !attributes.resource_request {
            let allowed = self.rules.iter().any(|r| rule::allows(r, attributes));
            return if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) };
        }
        match self.decide(node, attributes) {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::user, *};
    use crate::objects::{Collection, Fixed};
    use serde_json::json;

    fn cluster() -> Fixed {
        let objects = Fixed::default();
        let pod = |name: &str, node: &str, secret: &str| {
            json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"nodeName": node, "serviceAccountName": "sa", "containers": [
                {"envFrom": [{"secretRef": {"name": secret}}], "env": [{"valueFrom": {"configMapKeyRef": {"name": "cm"}}}]}],
                "volumes": [{"persistentVolumeClaim": {"claimName": "claim"}}, {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}],
                "resourceClaims": [{"name": "c", "resourceClaimName": "named"}, {"name": "d", "resourceClaimTemplateName": "t"}]},
                "status": {"resourceClaimStatuses": [{"name": "d", "resourceClaimName": "made"}],
                    "extendedResourceClaimStatus": {"resourceClaimName": format!("{name}-extended")}}})
        };
        objects.put(Collection::core("pods"), pod("p1", "n1", "s1"));
        objects.put(Collection::core("pods"), pod("p2", "n2", "s2"));
        let volume = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"namespace": "ns", "name": "claim"},
            "csi": {"nodePublishSecretRef": {"namespace": "csi", "name": "mount"}}}});
        objects.put(Collection::core("persistentvolumes"), volume);
        objects
    }

    fn ask(authorizer: &NodeAuthorizer, line: &str) -> Result<(), String> {
        let parts: Vec<&str> = line.split(' ').collect();
        let (path, selector) = parts[1].split_once('?').unwrap_or((parts[1], ""));
        let path: Vec<&str> = path.split('/').collect();
        let attributes = Attributes {
            user: user("system:node:n1", &["system:nodes"]),
            verb: parts[0].into(),
            resource_request: true,
            group: path[0].into(),
            namespace: path[1].into(),
            resource: path[2].into(),
            name: path.get(3).copied().unwrap_or("").into(),
            subresource: path.get(4).copied().unwrap_or("").into(),
            field_selector: selector.into(),
            ..Attributes::default()
        };
        match authorizer.authorize(&attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(reason),
        }
    }

    #[test]
    fn a_node_reads_what_its_pods_need() {
        let authorizer = NodeAuthorizer::new(&cluster());
        for yes in [
            "get /ns/secrets/s1",
            "watch /ns/secrets/s1",
            "get /ns/configmaps/cm",
            "get /ns/configmaps/kube-root-ca.crt",
            "get /ns/pods/p1",
            "list //pods?spec.nodeName=n1",
            "watch //pods?spec.nodeName=n1",
            "patch /ns/pods/p1/status",
            "create /ns/serviceaccounts/sa/token",
            "get /ns/persistentvolumeclaims/claim",
            "get //persistentvolumes/v",
            "get resource.k8s.io/ns/resourceclaims/named",
            "get resource.k8s.io/ns/resourceclaims/made",
            "get resource.k8s.io/ns/resourceclaims/p1-extended",
            "get /csi/secrets/mount",
            "get //nodes/n1",
            "patch //nodes/n1/status",
            "update coordination.k8s.io/kube-node-lease/leases/n1",
            "create //nodes",
            "list //services",
            "create /default/events",
            "list node.k8s.io//runtimeclasses",
        ] {
            assert_eq!(ask(&authorizer, yes), Ok(()), "{yes}");
        }
        let unrelated = "no relationship found between node 'n1' and this object";
        for (no, why) in [
            ("get /ns/secrets/s2", unrelated),
            ("get /other/secrets/s1", unrelated),
            ("list /ns/secrets", "No Object name found"),
            ("delete /ns/secrets/s1", "can only read resources of this type"),
            ("get /ns/pods/p2", unrelated),
            ("get resource.k8s.io/ns/resourceclaims/p2-extended", unrelated),
            ("list //pods", "can only list/watch pods with spec.nodeName field selector"),
            ("list //pods?spec.nodeName=n2", "can only list/watch pods with spec.nodeName field selector"),
            ("create /ns/serviceaccounts/other/token", unrelated),
            ("get //nodes/n2", "node 'n1' cannot read 'n2', only its own Node object"),
            ("list //nodes", "node 'n1' cannot read '', only its own Node object"),
            ("delete //nodes/n1", ""),
            (
                "update coordination.k8s.io/kube-node-lease/leases/n2",
                "can only access node lease with the same name as the requesting node",
            ),
            ("get coordination.k8s.io/default/leases/n1", "can only access leases in the \"kube-node-lease\" system namespace"),
            ("list apps/ns/deployments", ""),
        ] {
            assert_eq!(ask(&authorizer, no), Err(why.to_owned()), "{no}");
        }
    }

    #[test]
    fn a_pod_that_is_gone_takes_its_rights_along() {
        let objects = cluster();
        let authorizer = NodeAuthorizer::new(&objects);
        assert_eq!(ask(&authorizer, "get /ns/secrets/s1"), Ok(()));
        objects.remove(Collection::core("pods"), "ns", "p1");
        for gone in [
            "get /ns/secrets/s1",
            "get /ns/configmaps/cm",
            "create /ns/serviceaccounts/sa/token",
            "get //persistentvolumes/v",
            "get /ns/pods/p1",
        ] {
            assert!(ask(&authorizer, gone).is_err(), "{gone}");
        }
    }
}
