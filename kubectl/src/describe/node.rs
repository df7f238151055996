//! Nodes, with what their pods have asked for.

use super::Asker;
use super::writer::{Writer, ago, list, show, time};
use api::quantity::Quantity;
use serde_json::Value;

pub(super) fn node(asker: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    w.field(0, "Name", show(&meta["name"]));
    let mut roles: Vec<String> = meta["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role.to_owned()).filter(|r| !r.is_empty()),
            None => (k == "kubernetes.io/role").then(|| show(v)),
        })
        .collect();
    roles.sort();
    w.field(0, "Roles", if roles.is_empty() { "<none>".into() } else { roles.join(",") });
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    w.field(0, "CreationTimestamp", time(&meta["creationTimestamp"]));
    let taints = list(&spec["taints"]);
    if taints.is_empty() {
        w.field(0, "Taints", "<none>");
    }
    for (i, t) in taints.iter().enumerate() {
        let value = show(&t["value"]);
        let value = if value.is_empty() { value } else { format!("={value}") };
        w.line(0, format!("{}\t{}{value}:{}", if i == 0 { "Taints:" } else { "" }, show(&t["key"]), show(&t["effect"])));
    }
    w.field(0, "Unschedulable", (spec["unschedulable"] == true).to_string());
    let lease = asker.connection.get(&crate::connection::Url::new(format!(
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}",
        show(&meta["name"])
    )));
    w.line(0, "Lease:");
    match lease {
        Ok(lease) => {
            w.field(1, "HolderIdentity", show(&lease["spec"]["holderIdentity"]));
            w.field(1, "AcquireTime", time(&lease["spec"]["acquireTime"]));
            w.field(1, "RenewTime", time(&lease["spec"]["renewTime"]));
        }
        Err(_) => w.line(1, "Failed to get lease"),
    }
    let conditions = list(&status["conditions"]);
    if !conditions.is_empty() {
        w.line(0, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
        w.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
        for c in conditions {
            w.line(
                1,
                format!(
                    "{} \t{} \t{} \t{} \t{} \t{}",
                    show(&c["type"]),
                    show(&c["status"]),
                    time(&c["lastHeartbeatTime"]),
                    time(&c["lastTransitionTime"]),
                    show(&c["reason"]),
                    show(&c["message"])
                ),
            );
        }
    }
    w.line(0, "Addresses:");
    list(&status["addresses"]).iter().for_each(|a| w.field(1, &show(&a["type"]), show(&a["address"])));
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        let mut pairs: Vec<_> = status[field].as_object().into_iter().flatten().collect();
        pairs.sort_by_key(|(k, _)| *k);
        if !pairs.is_empty() {
            w.line(0, format!("{title}:"));
            pairs.iter().for_each(|(k, v)| w.field(1, k, show(v)));
        }
    }
    w.line(0, "System Info:");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
        ("Kube-Proxy Version", "kubeProxyVersion"),
    ] {
        w.field(1, title, show(&status["nodeInfo"][field]));
    }
    w.some(0, "PodCIDR", &spec["podCIDR"]);
    let ranges: Vec<String> = list(&spec["podCIDRs"]).iter().map(show).collect();
    if !ranges.is_empty() {
        w.field(0, "PodCIDRs", ranges.join(","));
    }
    w.some(0, "ProviderID", &spec["providerID"]);
    let fields = format!("spec.nodeName={},status.phase!=Succeeded,status.phase!=Failed", show(&meta["name"]));
    usage(asker, &asker.list("/api/v1/pods", "", &fields), &status["allocatable"], w);
}

fn amount(value: &Value) -> Quantity {
    value.as_str().and_then(|t| t.parse().ok()).unwrap_or_default()
}

/// What a pod's containers ask for together: the larger of the sum of its containers and any one init container.
fn total(pod: &Value, kind: &str, resource: &str) -> Quantity {
    let of = |c: &Value| amount(&c["resources"][kind][resource]);
    let sum = list(&pod["spec"]["containers"]).iter().map(of).fold(Quantity::default(), |a, b| a + b);
    list(&pod["spec"]["initContainers"]).iter().map(of).fold(sum, |a, b| if b > a { b } else { a })
}

fn percent(part: &Quantity, whole: &Quantity) -> i64 {
    let whole = whole.to_f64();
    if whole <= 0.0 { 0 } else { (part.to_f64() / whole * 100.0) as i64 }
}

const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn usage(asker: &Asker<'_>, pods: &[Value], allocatable: &Value, w: &mut Writer) {
    w.line(0, format!("Non-terminated Pods:\t({} in total)", pods.len()));
    w.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    w.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let cell = |q: &Quantity, resource: &str| format!("{q} ({}%)", percent(q, &amount(&allocatable[resource])));
    for p in pods {
        let cells: Vec<String> = ["cpu", "memory"].iter().flat_map(|r| ["requests", "limits"].map(|k| cell(&total(p, k, r), r))).collect();
        let meta = &p["metadata"];
        w.line(
            1,
            format!(
                "{}\t{}\t\t{}\t{}",
                show(&meta["namespace"]),
                show(&meta["name"]),
                cells.join("\t"),
                ago(&meta["creationTimestamp"], asker.now)
            ),
        );
    }
    w.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    w.line(1, "Resource\tRequests\tLimits");
    w.line(1, "--------\t--------\t------");
    for r in RESOURCES {
        let sum = |kind: &str| pods.iter().map(|p| total(p, kind, r)).fold(Quantity::default(), |a, b| a + b);
        w.line(1, format!("{r}\t{}\t{}", cell(&sum("requests"), r), cell(&sum("limits"), r)));
    }
}
