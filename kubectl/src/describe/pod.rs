//! Pods, and the pod templates of workloads.

use super::Asker;
use super::writer::{Writer, list, or_none, show, time};
use serde_json::Value;

/// The pod's own description.
pub(super) fn pod(_: &Asker<'_>, object: &Value, w: &mut Writer) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    w.field(0, "Name", show(&meta["name"]));
    w.field(0, "Namespace", show(&meta["namespace"]));
    if !spec["priority"].is_null() {
        w.field(0, "Priority", show(&spec["priority"]));
    }
    w.some(0, "Priority Class Name", &spec["priorityClassName"]);
    w.some(0, "Runtime Class Name", &spec["runtimeClassName"]);
    w.some(0, "Service Account", &spec["serviceAccountName"]);
    match show(&spec["nodeName"]) {
        node if node.is_empty() => w.field(0, "Node", "<none>"),
        node => w.field(0, "Node", format!("{node}/{}", show(&status["hostIP"]))),
    }
    if !status["startTime"].is_null() {
        w.field(0, "Start Time", time(&status["startTime"]));
    }
    w.map("Labels", &meta["labels"]);
    w.annotations(&meta["annotations"]);
    if meta["deletionTimestamp"].is_null() {
        w.field(0, "Status", show(&status["phase"]));
    } else {
        let since = meta["deletionTimestamp"]
            .as_str()
            .map_or(String::new(), |t| crate::printers::table::age(t, jiff::Timestamp::now().as_second()));
        w.field(0, "Status", format!("Terminating (lasts {since})"));
        w.field(0, "Termination Grace Period", format!("{}s", show(&meta["deletionGracePeriodSeconds"])));
    }
    w.some(0, "Reason", &status["reason"]);
    w.some(0, "Message", &status["message"]);
    w.some(0, "SeccompProfile", &spec["securityContext"]["seccompProfile"]["type"]);
    w.field(0, "IP", show(&status["podIP"]));
    match list(&status["podIPs"]) {
        [] => w.line(0, "IPs:\t<none>"),
        ips => {
            w.line(0, "IPs:");
            ips.iter().for_each(|ip| w.field(1, "IP", show(&ip["ip"])));
        }
    }
    if let Some(owner) = controller(object) {
        w.field(0, "Controlled By", owner);
    }
    w.some(0, "NominatedNodeName", &status["nominatedNodeName"]);
    if !list(&spec["initContainers"]).is_empty() {
        containers("Init Containers", &spec["initContainers"], &status["initContainerStatuses"], Some(object), 0, w);
    }
    containers("Containers", &spec["containers"], &status["containerStatuses"], Some(object), 0, w);
    if !list(&spec["ephemeralContainers"]).is_empty() {
        containers("Ephemeral Containers", &spec["ephemeralContainers"], &status["ephemeralContainerStatuses"], Some(object), 0, w);
    }
    let gates = list(&spec["readinessGates"]);
    if !gates.is_empty() {
        w.line(0, "Readiness Gates:\n  Type\tStatus");
        for g in gates {
            let condition = list(&status["conditions"]).iter().find(|c| c["type"] == g["conditionType"]);
            w.line(1, format!("{}\t{} ", show(&g["conditionType"]), condition.map_or("<none>".into(), |c| show(&c["status"]))));
        }
    }
    let conditions = list(&status["conditions"]);
    if !conditions.is_empty() {
        w.line(0, "Conditions:\n  Type\tStatus");
        conditions.iter().for_each(|c| w.line(1, format!("{}\t{} ", show(&c["type"]), show(&c["status"]))));
    }
    volumes(&spec["volumes"], 0, w);
    w.field(0, "QoS Class", show(&status["qosClass"]));
    placement(spec, w);
}

/// Node selector and tolerations.
pub(super) fn placement(spec: &Value, w: &mut Writer) {
    w.map("Node-Selectors", &spec["nodeSelector"]);
    let tolerations = list(&spec["tolerations"]);
    if tolerations.is_empty() {
        w.field(0, "Tolerations", "<none>");
    }
    let mut texts: Vec<String> = tolerations.iter().map(toleration).collect();
    texts.sort();
    for (i, text) in texts.iter().enumerate() {
        w.line(0, format!("{}\t{text}", if i == 0 { "Tolerations:" } else { "" }));
    }
    let spread = list(&spec["topologySpreadConstraints"]);
    for (i, c) in spread.iter().enumerate() {
        let lead = if i == 0 { "Topology Spread Constraints:" } else { "" };
        let text =
            format!("{}:{} when max skew {} is exceeded", show(&c["topologyKey"]), show(&c["whenUnsatisfiable"]), show(&c["maxSkew"]));
        let chosen = if c["labelSelector"].is_null() {
            String::new()
        } else {
            format!(" for selector {}", super::writer::selector(&c["labelSelector"]))
        };
        w.line(0, format!("{lead}\t{text}{chosen}"));
    }
}

fn toleration(t: &Value) -> String {
    let mut text = show(&t["key"]);
    for (sign, field) in [("=", "value"), (":", "effect")] {
        let value = show(&t[field]);
        if !value.is_empty() {
            text += &format!("{sign}{value}");
        }
    }
    if t["operator"] == "Exists" && show(&t["value"]).is_empty() {
        text += if show(&t["key"]).is_empty() && show(&t["effect"]).is_empty() { "op=Exists" } else { " op=Exists" };
    }
    match t["tolerationSeconds"].as_i64() {
        Some(s) => format!("{text} for {s}s"),
        None => text,
    }
}

/// `ReplicaSet/x`, if something controls the object.
pub(super) fn controller(object: &Value) -> Option<String> {
    let owner = list(&object["metadata"]["ownerReferences"]).iter().find(|o| o["controller"] == true)?;
    Some(format!("{}/{}", show(&owner["kind"]), show(&owner["name"])))
}

/// Containers with their state, or without one in a template.
pub(super) fn containers(title: &str, specs: &Value, statuses: &Value, pod: Option<&Value>, level: usize, w: &mut Writer) {
    if list(specs).is_empty() {
        w.field(level, title, "<none>");
        return;
    }
    w.line(level, format!("{title}:"));
    for c in list(specs) {
        let status = list(statuses).iter().find(|s| s["name"] == c["name"]);
        // Below a template's title upstream indents a container by one space, not two.
        let (lead, below) = if level > 0 { (" ", level + 1) } else { ("", 2) };
        w.line(1, format!("{lead}{}:", show(&c["name"])));
        container(c, status, pod, below, w);
    }
}

fn container(c: &Value, status: Option<&Value>, pod: Option<&Value>, level: usize, w: &mut Writer) {
    if let Some(s) = status {
        w.field(level, "Container ID", show(&s["containerID"]));
    }
    w.field(level, "Image", show(&c["image"]));
    if let Some(s) = status {
        w.field(level, "Image ID", show(&s["imageID"]));
    }
    ports(c, level, w);
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        let words = list(&c[field]);
        if !words.is_empty() {
            w.line(level, format!("{title}:"));
            words.iter().for_each(|word| show(word).split('\n').for_each(|line| w.line(level + 1, line)));
        }
    }
    if let Some(s) = status {
        state("State", &s["state"], level, w);
        if s["lastState"]["terminated"].is_object() {
            state("Last State", &s["lastState"], level, w);
        }
        let ready = if s["ready"] == true { "True" } else { "False" };
        w.field(level, "Ready", ready);
        w.field(level, "Restart Count", or_zero(&s["restartCount"]));
    }
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let mut pairs: Vec<_> = c["resources"][field].as_object().into_iter().flatten().collect();
        pairs.sort_by_key(|(k, _)| *k);
        if !pairs.is_empty() {
            w.line(level, format!("{title}:"));
            pairs.iter().for_each(|(k, v)| w.field(level + 1, k, show(v)));
        }
    }
    for (title, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")] {
        if c[field].is_object() {
            w.field(level, title, probe(&c[field]));
        }
    }
    let from = list(&c["envFrom"]);
    if !from.is_empty() {
        w.line(level, "Environment Variables from:");
        for e in from {
            let (source, kind) =
                if e["configMapRef"].is_object() { (&e["configMapRef"], "ConfigMap") } else { (&e["secretRef"], "Secret") };
            let prefix = show(&e["prefix"]);
            let prefix = if prefix.is_empty() { prefix } else { format!(" with prefix '{prefix}'") };
            w.line(level + 1, format!("{}\t{kind}{prefix}\tOptional: {}", show(&source["name"]), source["optional"] == true));
        }
    }
    environment(c, pod, level, w);
    mounts(c, level, w);
}

fn or_zero(value: &Value) -> String {
    Some(show(value)).filter(|s| !s.is_empty()).unwrap_or_else(|| "0".to_owned())
}

fn ports(c: &Value, level: usize, w: &mut Writer) {
    let all = list(&c["ports"]);
    let text = |field: &str| {
        let one = |p: &Value| {
            format!("{}/{}", or_zero(&p[field]), Some(show(&p["protocol"])).filter(|s| !s.is_empty()).unwrap_or_else(|| "TCP".into()))
        };
        all.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let plural = |word: &str| if all.len() > 1 { format!("{word}s") } else { word.to_owned() };
    w.field(level, &plural("Port"), or_none(text("containerPort")));
    w.field(level, &plural("Host Port"), or_none(text("hostPort")));
}

fn state(title: &str, state: &Value, level: usize, w: &mut Writer) {
    if state["running"].is_object() {
        w.field(level, title, "Running");
        w.field(level + 1, "Started", time(&state["running"]["startedAt"]));
    } else if state["terminated"].is_object() {
        let t = &state["terminated"];
        w.field(level, title, "Terminated");
        w.some(level + 1, "Reason", &t["reason"]);
        w.some(level + 1, "Message", &t["message"]);
        w.field(level + 1, "Exit Code", or_zero(&t["exitCode"]));
        if t["signal"].as_i64().is_some_and(|s| s > 0) {
            w.field(level + 1, "Signal", show(&t["signal"]));
        }
        w.field(level + 1, "Started", time(&t["startedAt"]));
        w.field(level + 1, "Finished", time(&t["finishedAt"]));
    } else {
        w.field(level, title, "Waiting");
        w.some(level + 1, "Reason", &state["waiting"]["reason"]);
    }
}

fn probe(p: &Value) -> String {
    let n = |field: &str| or_zero(&p[field]);
    let timing = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        n("initialDelaySeconds"),
        n("timeoutSeconds"),
        n("periodSeconds"),
        n("successThreshold"),
        n("failureThreshold")
    );
    let words = |v: &Value| format!("[{}]", list(v).iter().map(show).collect::<Vec<_>>().join(" "));
    let what = if p["exec"].is_object() {
        format!("exec {}", words(&p["exec"]["command"]))
    } else if p["httpGet"].is_object() {
        let h = &p["httpGet"];
        let scheme = Some(show(&h["scheme"]).to_lowercase()).filter(|s| !s.is_empty()).unwrap_or_else(|| "http".into());
        let port = Some(show(&h["port"])).filter(|s| !s.is_empty()).map_or(String::new(), |p| format!(":{p}"));
        format!("http-get {scheme}://{}{port}{}", show(&h["host"]), Some(show(&h["path"])).filter(|s| !s.is_empty()).unwrap_or_default())
    } else if p["tcpSocket"].is_object() {
        format!("tcp-socket {}:{}", show(&p["tcpSocket"]["host"]), show(&p["tcpSocket"]["port"]))
    } else if p["grpc"].is_object() {
        format!("grpc <pod>:{} {}", show(&p["grpc"]["port"]), show(&p["grpc"]["service"]))
    } else {
        "unknown".to_owned()
    };
    format!("{what} {timing}")
}

fn environment(c: &Value, pod: Option<&Value>, level: usize, w: &mut Writer) {
    let all = list(&c["env"]);
    if all.is_empty() {
        w.field(level, "Environment", "<none>");
        return;
    }
    w.line(level, "Environment:");
    for e in all {
        let (name, from) = (show(&e["name"]), &e["valueFrom"]);
        let text = if from["fieldRef"].is_object() {
            let path = show(&from["fieldRef"]["fieldPath"]);
            let value = pod.map_or(String::new(), |p| field_value(p, &path));
            format!("{value} ({}:{path})", show(&from["fieldRef"]["apiVersion"]))
        } else if from["resourceFieldRef"].is_object() {
            let r = &from["resourceFieldRef"];
            let resource = show(&r["resource"]);
            let value = resource.split_once('.').map_or(String::new(), |(kind, name)| show(&c["resources"][kind][name]));
            format!("{} ({resource})", if value.is_empty() { "node allocatable".into() } else { value })
        } else if from["secretKeyRef"].is_object() || from["configMapKeyRef"].is_object() {
            let (r, what) =
                if from["secretKeyRef"].is_object() { (&from["secretKeyRef"], "secret") } else { (&from["configMapKeyRef"], "config map") };
            format!("<set to the key '{}' of {what} '{}'>\tOptional: {}", show(&r["key"]), show(&r["name"]), r["optional"] == true)
        } else {
            let value = show(&e["value"]);
            for (i, line) in value.split('\n').enumerate() {
                if i == 0 { w.field(level + 1, &name, line) } else { w.line(level + 1, format!("\t{line}")) }
            }
            continue;
        };
        w.field(level + 1, &name, text);
    }
}

fn field_value(pod: &Value, path: &str) -> String {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return show(&pod["metadata"][map.trim_start_matches("metadata.")][key]);
    }
    show(path.split('.').fold(pod, |at, field| &at[field]))
}

fn mounts(c: &Value, level: usize, w: &mut Writer) {
    let all = list(&c["volumeMounts"]);
    if all.is_empty() {
        w.field(level, "Mounts", "<none>");
        return;
    }
    w.line(level, "Mounts:");
    let mut lines: Vec<(String, String)> = Vec::new();
    for m in all {
        let mut flags = vec![if m["readOnly"] == true { "ro" } else { "rw" }.to_owned()];
        let sub = show(&m["subPath"]);
        if !sub.is_empty() {
            flags.push(format!("path={sub:?}"));
        }
        let path = show(&m["mountPath"]);
        lines.push((path.clone(), format!("{path} from {} ({})", show(&m["name"]), flags.join(","))));
    }
    lines.sort();
    lines.iter().for_each(|(_, l)| w.line(level + 1, l));
    for d in list(&c["volumeDevices"]) {
        w.line(level + 1, format!("{} from {}", show(&d["devicePath"]), show(&d["name"])));
    }
}

/// Titles and the fields they stand for.
type Titles = &'static [(&'static str, &'static str)];

/// For a volume source: what it is called, and the titles of its fields.
const SOURCES: &[(&str, &str, Titles)] = &[
    ("hostPath", "HostPath (bare host directory volume)", &[("Path", "path"), ("HostPathType", "type")]),
    ("emptyDir", "EmptyDir (a temporary directory that shares a pod's lifetime)", &[("Medium", "medium"), ("SizeLimit", "sizeLimit")]),
    ("secret", "Secret (a volume populated by a Secret)", &[("SecretName", "secretName"), ("Optional", "optional")]),
    ("configMap", "ConfigMap (a volume populated by a ConfigMap)", &[("Name", "name"), ("Optional", "optional")]),
    ("nfs", "NFS (an NFS mount that lasts the lifetime of a pod)", &[("Server", "server"), ("Path", "path"), ("ReadOnly", "readOnly")]),
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName", "claimName"), ("ReadOnly", "readOnly")],
    ),
    ("local", "LocalVolume (a persistent volume backed by local storage on a node)", &[("Path", "path")]),
    (
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[("Driver", "driver"), ("FSType", "fsType"), ("ReadOnly", "readOnly")],
    ),
];

/// The source among a volume's fields, described at a level.
pub(super) fn source(v: &Value, level: usize, w: &mut Writer) {
    if let Some((field, title, fields)) = SOURCES.iter().find(|(field, _, _)| v[*field].is_object()) {
        w.field(level, "Type", title);
        for (title, name) in *fields {
            let value = &v[*field][*name];
            let text = match (*title, value) {
                ("ReadOnly" | "Optional", Value::Null) => "false".to_owned(),
                ("SizeLimit", Value::Null) => "<unset>".to_owned(),
                (_, value) => show(value),
            };
            w.field(level, title, text);
        }
    } else if v["downwardAPI"].is_object() {
        w.field(level, "Type", "DownwardAPI (a volume populated by information about the pod)");
        w.line(level, "Items:");
        for i in list(&v["downwardAPI"]["items"]) {
            w.line(level + 1, format!("{} -> {}", show(&i["fieldRef"]["fieldPath"]), show(&i["path"])));
        }
    } else if v["projected"].is_object() {
        w.field(level, "Type", "Projected (a volume that contains injected data from multiple sources)");
        for s in list(&v["projected"]["sources"]) {
            if s["secret"].is_object() {
                w.field(level, "SecretName", show(&s["secret"]["name"]));
                w.field(level, "SecretOptionalName", optional(&s["secret"]["optional"]));
            } else if s["downwardAPI"].is_object() {
                w.field(level, "DownwardAPI", "true");
            } else if s["configMap"].is_object() {
                w.field(level, "ConfigMapName", show(&s["configMap"]["name"]));
                w.field(level, "Optional", optional(&s["configMap"]["optional"]));
            } else if s["serviceAccountToken"].is_object() {
                w.field(level, "TokenExpirationSeconds", show(&s["serviceAccountToken"]["expirationSeconds"]));
            }
        }
    } else {
        w.field(level, "Type", "<unknown>");
    }
}

fn optional(value: &Value) -> String {
    if value.is_null() { "<nil>".to_owned() } else { show(value) }
}

/// A pod's volumes.
pub(super) fn volumes(all: &Value, level: usize, w: &mut Writer) {
    if list(all).is_empty() {
        w.field(level, "Volumes", "<none>");
        return;
    }
    w.line(level, "Volumes:");
    for v in list(all) {
        w.line(level + 1, format!("{}:", show(&v["name"])));
        source(v, level + 2, w);
    }
}

/// The template of a workload's pods.
pub(super) fn template(t: &Value, w: &mut Writer) {
    w.line(0, "Pod Template:");
    let labels = |field: &str, title: &str, w: &mut Writer| {
        let mut pairs: Vec<_> = t["metadata"][field].as_object().into_iter().flatten().collect();
        pairs.sort_by_key(|(k, _)| *k);
        for (i, (k, v)) in pairs.iter().enumerate() {
            let sign = if field == "labels" { "=" } else { ": " };
            w.line(0, format!("{}\t{k}{sign}{}", if i == 0 { format!("  {title}:") } else { String::new() }, show(v)));
        }
        if pairs.is_empty() && field == "labels" {
            w.line(0, format!("  {title}:\t<none>"));
        }
    };
    labels("labels", "Labels", w);
    labels("annotations", "Annotations", w);
    let spec = &t["spec"];
    w.some(1, "Service Account", &spec["serviceAccountName"]);
    if !list(&spec["initContainers"]).is_empty() {
        containers("Init Containers", &spec["initContainers"], &Value::Null, None, 1, w);
    }
    containers("Containers", &spec["containers"], &Value::Null, None, 1, w);
    volumes(&spec["volumes"], 1, w);
    w.some(1, "Priority Class Name", &spec["priorityClassName"]);
    let mut inner = Writer::default();
    placement(spec, &mut inner);
    inner.into_lines().iter().for_each(|l| w.line(1, l));
}
