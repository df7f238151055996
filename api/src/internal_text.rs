//! Objects as messages show them that upstream builds from its internal types: Go's names and order of fields, and every field, also those of which
//! nothing is set.
//!
//! The internal types are those of the API with a few fields in other places, so that the schema table and a short list of differences make them. Types
//! that upstream's internal ones borrow from the machinery (selectors, quantities, times) look as in the API.

use crate::go_text::go_text;
use crate::schema::{self, Definition, Field, Schema, Type};
use serde::Serialize;
use serde_json::{Map, Value};

/// Fields whose name in Go is not their name in JSON with a capital.
const GO_NAMES: &[(&str, &str)] = &[
    ("apiVersion", "APIVersion"),
    ("awsElasticBlockStore", "AWSElasticBlockStore"),
    ("cephfs", "CephFS"),
    ("csi", "CSI"),
    ("dnsConfig", "DNSConfig"),
    ("dnsPolicy", "DNSPolicy"),
    ("fc", "FC"),
    ("fsGroup", "FSGroup"),
    ("fsGroupChangePolicy", "FSGroupChangePolicy"),
    ("fsType", "FSType"),
    ("gcePersistentDisk", "GCEPersistentDisk"),
    ("gmsaCredentialSpec", "GMSACredentialSpec"),
    ("gmsaCredentialSpecName", "GMSACredentialSpecName"),
    ("grpc", "GRPC"),
    ("httpGet", "HTTPGet"),
    ("httpHeaders", "HTTPHeaders"),
    ("ip", "IP"),
    ("iqn", "IQN"),
    ("iscsi", "ISCSI"),
    ("nfs", "NFS"),
    ("os", "OS"),
    ("pdName", "PDName"),
    ("rbd", "RBD"),
    ("seLinuxChangePolicy", "SELinuxChangePolicy"),
    ("seLinuxOptions", "SELinuxOptions"),
    ("storageos", "StorageOS"),
    ("tcpSocket", "TCPSocket"),
    ("tty", "TTY"),
    ("uid", "UID"),
];

/// Fields of a pod that upstream's internal type has in its security context, first of all.
const MOVED: [&str; 5] = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

/// Types whose fields come in another order than in the API, or not at all: all that there are, in order.
#[rustfmt::skip] // A line a name would hide what matters: the order.
const ORDERS: &[(&str, &[&str])] = &[
    (
        "Container",
        &[
            "name", "image", "command", "args", "workingDir", "ports", "envFrom", "env", "resources", "resizePolicy", "restartPolicy",
            "restartPolicyRules", "volumeMounts", "volumeDevices", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle",
            "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "securityContext", "stdin", "stdinOnce", "tty",
        ],
    ),
    (
        "EphemeralContainer",
        &[
            "name", "image", "command", "args", "workingDir", "ports", "envFrom", "env", "resources", "resizePolicy", "restartPolicy",
            "restartPolicyRules", "volumeMounts", "volumeDevices", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle",
            "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "securityContext", "stdin", "stdinOnce", "tty",
            "targetContainerName",
        ],
    ),
    (
        "PodSecurityContext",
        &[
            "seLinuxOptions", "windowsOptions", "runAsUser", "runAsGroup", "runAsNonRoot", "supplementalGroups", "supplementalGroupsPolicy",
            "fsGroup", "fsGroupChangePolicy", "sysctls", "seccompProfile", "appArmorProfile", "seLinuxChangePolicy",
        ],
    ),
    (
        "PodSpec",
        &[
            "volumes", "initContainers", "containers", "ephemeralContainers", "restartPolicy", "terminationGracePeriodSeconds",
            "activeDeadlineSeconds", "dnsPolicy", "nodeSelector", "serviceAccountName", "automountServiceAccountToken", "nodeName",
            "securityContext", "imagePullSecrets", "hostname", "subdomain", "setHostnameAsFQDN", "affinity", "schedulerName", "tolerations",
            "hostAliases", "priorityClassName", "priority", "preemptionPolicy", "dnsConfig", "readinessGates", "runtimeClassName", "overhead",
            "enableServiceLinks", "topologySpreadConstraints", "os", "schedulingGates", "resourceClaims", "resources", "hostnameOverride",
            "schedulingGroup",
        ],
    ),
];

/// The value, of the type with this name in the schema (`io.k8s.api.core.v1.PodTemplateSpec`), on one line.
pub fn of(definition: &str, value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    let mut out = String::new();
    match schema::find(definition) {
        Some(root) => print(root.schema, &root.ty(), &value, &mut out),
        None => out = value.to_string(),
    }
    out
}

/// The same over many lines, each level one blank further in.
pub fn indented(definition: &str, value: &impl Serialize) -> String {
    spread(&of(definition, value))
}

fn go_name(name: &str) -> String {
    if let Some((_, go)) = GO_NAMES.iter().find(|(json, _)| *json == name) {
        return (*go).to_owned();
    }
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

fn print(schema: &Schema, ty: &Type, value: &Value, out: &mut String) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => {
            let definition = schema.get(*id);
            // Types of the machinery have one form only.
            if definition.package.contains(".apimachinery.") {
                out.push_str(&go_text(schema, ty, value));
            } else {
                structure(schema, definition, map, out);
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            list('{', '}', map.iter(), out, |(key, value), out| {
                out.push_str(&format!("{}:", Value::from(key.as_str())));
                print(schema, item, value, out);
            });
        }
        (Type::List(item), Value::Array(items)) => list('[', ']', items.iter(), out, |value, out| print(schema, item, value, out)),
        _ => out.push_str(&go_text(schema, ty, value)),
    }
}

fn list<T>(open: char, close: char, items: impl Iterator<Item = T>, out: &mut String, mut one: impl FnMut(T, &mut String)) {
    out.push(open);
    for (i, item) in items.enumerate() {
        out.push_str(if i > 0 { "," } else { "" });
        one(item, out);
    }
    out.push(close);
}

fn structure(schema: &Schema, definition: &Definition, map: &Map<String, Value>, out: &mut String) {
    let ordered: Vec<&Field> = match ORDERS.iter().find(|(name, _)| *name == definition.name) {
        Some((_, names)) => names.iter().filter_map(|name| definition.field(name)).collect(),
        None => definition.fields.iter().collect(),
    };
    let mut members: Vec<String> = Vec::with_capacity(ordered.len());
    for field in ordered {
        let value = map.get(field.name.as_ref()).unwrap_or(&Value::Null);
        match field.name.as_ref() {
            // The metadata of a template is embedded: its fields stand beside the others, by their own names.
            "metadata" => members.extend(embedded(&go_text(schema, &field.ty, value))),
            "securityContext" if definition.name == "PodSpec" => members.push(pod_security(schema, definition, field, map)),
            name => members.push(format!("\"{}\":{}", go_name(name), member(schema, field, value))),
        }
    }
    list('{', '}', members.iter(), out, |member, out| out.push_str(member));
}

/// What stands between the braces of an object.
fn embedded(object: &str) -> Option<String> {
    let inner = object.strip_prefix('{')?.strip_suffix('}')?;
    (!inner.is_empty()).then(|| inner.to_owned())
}

fn member(schema: &Schema, field: &Field, value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Null if field.pointer => out.push_str("null"),
        Value::Null => match &field.ty {
            Type::Struct(_) => print(schema, &field.ty, &Value::Object(Map::new()), &mut out),
            ty => out = crate::normalize::zero_of(schema, ty).to_string(),
        },
        Value::Array(items) if items.is_empty() => out.push_str("null"),
        value => print(schema, &field.ty, value, &mut out),
    }
    out
}

fn pod_security(schema: &Schema, pod: &Definition, field: &Field, map: &Map<String, Value>) -> String {
    let Some(own) = map.get("securityContext").filter(|v| v.is_object()) else { return "\"SecurityContext\":null".into() };
    let mut moved: Vec<String> = Vec::with_capacity(MOVED.len());
    for name in MOVED {
        let Some(field) = pod.field(name) else { continue };
        moved.push(format!("\"{}\":{}", go_name(name), member(schema, field, map.get(name).unwrap_or(&Value::Null))));
    }
    let mut rest = String::new();
    print(schema, &field.ty, own, &mut rest);
    moved.extend(embedded(&rest));
    format!("\"SecurityContext\":{{{}}}", moved.join(","))
}

/// Breaks compact JSON into lines as Go's `MarshalIndent` does.
fn spread(compact: &str) -> String {
    let (mut out, mut depth, mut in_text, mut escaped) = (String::with_capacity(compact.len() * 2), 0usize, false, false);
    let mut chars = compact.chars().peekable();
    while let Some(c) = chars.next() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        let newline = |out: &mut String, depth: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth));
        };
        match c {
            '{' | '[' => {
                out.push(c);
                if matches!(chars.peek(), Some('}' | ']')) {
                    out.extend(chars.next());
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_have_their_internal_names_and_places() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "resources": {}}], "hostPID": true,
            "securityContext": {"fsGroup": 1}, "dnsPolicy": "Default"}});
        let shown = of("io.k8s.api.core.v1.PodTemplateSpec", &template);
        assert!(
            shown.starts_with(r#"{"labels":{"a":"b"},"Spec":{"Volumes":null,"InitContainers":null,"Containers":[{"Name":"c","Image":"","#),
            "{shown}"
        );
        let security = r#""SecurityContext":{"HostNetwork":false,"HostPID":true,"HostIPC":false,"ShareProcessNamespace":null,"HostUsers":null,"SELinuxOptions":null"#;
        assert!(shown.contains(security) && shown.contains(r#""FSGroup":1"#) && shown.contains(r#""DNSPolicy":"Default""#), "{shown}");
        assert!(!shown.contains("\"HostPID\":true,\"HostIPC\":false},"), "{shown}");
    }

    #[test]
    fn lines_are_indented_by_one() {
        assert_eq!(
            spread(r#"{"a":[],"b":{"c":"x,{\"y"},"d":[1,2]}"#),
            "{\n \"a\": [],\n \"b\": {\n  \"c\": \"x,{\\\"y\"\n },\n \"d\": [\n  1,\n  2\n ]\n}"
        );
    }
}
