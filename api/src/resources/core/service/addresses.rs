//! What an update of a service does to the addresses and ports it was given: the old and new field for cluster addresses are kept the same,
//! what was given stays unless the client changed it, and what the new type has no use for goes
//! (upstream: `pkg/registry/core/service/{strategy,storage/alloc}.go`).

use super::defaults::externally_accessible;
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

fn is_set(ip: &Option<String>) -> bool {
    ip.as_deref().is_some_and(|ip| !ip.is_empty())
}

fn has_any<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|l| !l.is_empty())
}

/// Whether a service of this type has a cluster address.
pub fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("ClusterIP" | "NodePort" | "LoadBalancer"))
}

/// Whether a service of this type has node ports.
pub fn needs_node_port(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// Whether the service needs a port on which nodes say if they have a pod of it.
pub fn needs_health_check_port(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Makes `clusterIP` and the first of `clusterIPs` the same where the client spoke through only one of them.
pub fn same_cluster_ips(new: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let Some(old) = old else {
        if is_set(&new.cluster_ip) && !has_any(&new.cluster_ips) {
            new.cluster_ips = new.cluster_ip.clone().map(|ip| vec![ip]);
        }
        return;
    };
    let list_unchanged = new.cluster_ips.as_deref().unwrap_or(&[]) == old.cluster_ips.as_deref().unwrap_or(&[]);
    if !is_set(&new.cluster_ip) && is_set(&old.cluster_ip) {
        if list_unchanged {
            new.cluster_ips = None;
        }
    } else if new.cluster_ip != old.cluster_ip && (list_unchanged || !has_any(&new.cluster_ips)) {
        // Only the first can have been meant: a client that knows the list would have changed it.
        new.cluster_ips = new.cluster_ip.clone().map(|ip| vec![ip]);
    } else if new.cluster_ip == old.cluster_ip && is_set(&new.cluster_ip) && !has_any(&new.cluster_ips) {
        new.cluster_ips = new.cluster_ip.clone().map(|ip| vec![ip]);
    }
}

/// Carries over what was given out and the client did not mention.
pub fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) && !is_set(&new.cluster_ip) && !has_any(&new.cluster_ips) {
        new.cluster_ip = old.cluster_ip.clone();
        new.cluster_ips = old.cluster_ips.clone();
    }
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if !has_any(&new.ip_families) {
            new.ip_families = old.ip_families.clone();
        }
        if new.ip_family_policy.is_none() {
            new.ip_family_policy = old.ip_family_policy.clone();
        }
    }
    if needs_node_port(old) && needs_node_port(new) {
        keep_node_ports(new, old);
    }
    if needs_health_check_port(old) && needs_health_check_port(new) && new.health_check_node_port.unwrap_or(0) == 0 {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// A port without a node port takes that of the old port with its number and protocol, unless another port now has it.
fn keep_node_ports(new: &mut ServiceSpec, old: &ServiceSpec) {
    let key = |p: &ServicePort| (p.protocol.clone(), p.port);
    let given = |p: &ServicePort| p.node_port.filter(|n| *n != 0);
    let Some(ports) = &mut new.ports else { return };
    let used: Vec<i32> = ports.iter().filter_map(given).collect();
    for port in ports.iter_mut().filter(|p| p.node_port.unwrap_or(0) == 0) {
        let before = old.ports.iter().flatten().find(|p| key(p) == key(port)).and_then(given);
        port.node_port = before.filter(|n| !used.contains(n)).or(port.node_port);
    }
}

/// Takes away what the old type had and the new one has not, where the client left it as it was.
pub fn drop_what_the_type_has_not(new: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        if new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    let number = |p: &ServicePort| (p.protocol.clone(), p.port, p.node_port);
    if needs_node_port(old) && !needs_node_port(new) {
        let before: Vec<_> = old.ports.iter().flatten().map(number).collect();
        for port in new.ports.iter_mut().flatten().filter(|p| before.contains(&number(p))) {
            port.node_port = None;
        }
    }
    if needs_health_check_port(old) && !needs_health_check_port(new) && new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = None;
    }
    let balanced = |spec: &ServiceSpec| spec.type_.as_deref() == Some("LoadBalancer");
    if balanced(old) && !balanced(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if externally_accessible(old) && !externally_accessible(new) && new.external_traffic_policy == old.external_traffic_policy {
        new.external_traffic_policy = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> ServiceSpec {
        serde_json::from_value(value).unwrap()
    }

    fn updated(old: Value, new: Value) -> Value {
        let (old, mut new) = (spec(old), spec(new));
        same_cluster_ips(&mut new, Some(&old));
        keep_allocated(&mut new, &old);
        drop_what_the_type_has_not(&mut new, &old);
        serde_json::to_value(new).unwrap()
    }

    #[test]
    fn what_was_given_out_stays_when_it_is_not_mentioned() {
        let old = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 443, "protocol": "TCP", "nodePort": 30443}]});
        let new = json!({"type": "NodePort", "ports": [{"port": 443, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]});
        let got = updated(old, new);
        assert_eq!(got["clusterIP"], "10.0.0.1");
        assert_eq!(got["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(got["ports"], json!([{"port": 443, "protocol": "TCP", "nodePort": 30443}, {"port": 81, "protocol": "TCP"}]));
    }

    #[test]
    fn what_the_new_type_has_not_goes() {
        let old = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "externalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]});
        let mut plain = old.clone();
        plain["type"] = json!("ClusterIP");
        let got = updated(old.clone(), plain);
        assert_eq!(got["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        assert_eq!(got["externalTrafficPolicy"], Value::Null);
        let mut name = old.clone();
        name["type"] = json!("ExternalName");
        assert_eq!(updated(old.clone(), name.clone())["clusterIP"], Value::Null);
        // Who says so itself keeps its families no more than who does not.
        name["clusterIP"] = json!("");
        name["clusterIPs"] = Value::Null;
        let got = updated(old, name);
        assert_eq!((&got["ipFamilies"], &got["ipFamilyPolicy"]), (&Value::Null, &Value::Null));
    }
}
