//! Services.

use super::Asker;
use super::writer::{Writer, list, or_none, show};
use serde_json::Value;

/// `a=b,c=d`, or `<none>`.
pub(super) fn pairs(value: &Value) -> String {
    crate::printers::table::labels(value)
}

pub(super) fn service(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    w.field(0, "Selector", pairs(&spec["selector"]));
    w.field(0, "Type", show(&spec["type"]));
    w.some(0, "IP Family Policy", &spec["ipFamilyPolicy"]);
    let joined = |v: &Value| or_none(list(v).iter().map(show).collect::<Vec<_>>().join(","));
    w.field(0, "IP Families", joined(&spec["ipFamilies"]));
    w.field(0, "IP", show(&spec["clusterIP"]));
    w.field(0, "IPs", joined(&spec["clusterIPs"]));
    if !list(&spec["externalIPs"]).is_empty() {
        w.field(0, "External IPs", joined(&spec["externalIPs"]));
    }
    w.some(0, "Desired LoadBalancer IP", &spec["loadBalancerIP"]);
    w.some(0, "External Name", &spec["externalName"]);
    let ingress: Vec<String> = list(&object["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|i| match show(&i["ip"]) {
            ip if ip.is_empty() => show(&i["hostname"]),
            ip => format!("{ip} ({})", Some(show(&i["ipMode"])).filter(|m| !m.is_empty()).unwrap_or_else(|| "VIP".into())),
        })
        .collect();
    if !ingress.is_empty() {
        w.field(0, "LoadBalancer Ingress", ingress.join(", "));
    }
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", show(&meta["namespace"]));
    let slices = asker.list(&path, &format!("kubernetes.io/service-name={}", show(&meta["name"])), "");
    for p in list(&spec["ports"]) {
        let name = Some(show(&p["name"])).filter(|n| !n.is_empty()).unwrap_or_else(|| "<unset>".into());
        w.field(0, "Port", format!("{name}\t{}/{}", show(&p["port"]), show(&p["protocol"])));
        w.field(0, "TargetPort", format!("{}/{}", show(&p["targetPort"]), show(&p["protocol"])));
        if p["nodePort"].as_i64().is_some_and(|n| n != 0) {
            w.field(0, "NodePort", format!("{name}\t{}/{}", show(&p["nodePort"]), show(&p["protocol"])));
        }
        w.field(0, "Endpoints", endpoints(&slices, &show(&p["name"])));
    }
    w.field(0, "Session Affinity", show(&spec["sessionAffinity"]));
    w.some(0, "External Traffic Policy", &spec["externalTrafficPolicy"]);
    w.some(0, "Internal Traffic Policy", &spec["internalTrafficPolicy"]);
    if spec["healthCheckNodePort"].as_i64().is_some_and(|n| n != 0) {
        w.field(0, "HealthCheck NodePort", show(&spec["healthCheckNodePort"]));
    }
}

/// The first three ready addresses behind a port, and how many more.
fn endpoints(slices: &[Value], port: &str) -> String {
    let mut all = Vec::new();
    for slice in slices {
        for p in list(&slice["ports"]).iter().filter(|p| show(&p["name"]) == port) {
            for e in list(&slice["endpoints"]).iter().filter(|e| e["conditions"]["ready"] != false) {
                all.extend(list(&e["addresses"]).iter().map(|a| format!("{}:{}", show(a), show(&p["port"]))));
            }
        }
    }
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    if all.is_empty() {
        return "<none>".to_owned();
    }
    let text = all.join(",");
    if more > 0 { format!("{text} + {more} more...") } else { text }
}
