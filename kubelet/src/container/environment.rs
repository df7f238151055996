//! A container's environment: service variables, `envFrom`, `env` with references, and `$(NAME)` in values, in upstream's order of
//! precedence (`kubelet_pods.go`, `makeEnvironmentVariables`).
//!
//! What has to be fetched (config maps, secrets) comes through [`Sources`], so that all of this is a function.

use super::{expansion::expand, resources};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service};
use std::{collections::BTreeMap, sync::Arc};

/// Why an environment cannot be made. The text is what the `Failed` event and the waiting state say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnvError(pub String);

/// Why an object is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// The words.
    pub error: EnvError,
    /// Whether it is known not to exist, which an optional reference may.
    pub missing: bool,
}

/// What a referenced object is, or why it is not to be had.
pub type Fetched<T> = Result<Arc<T>, Unavailable>;

/// Everything an environment may refer to besides the pod.
pub struct Sources<'a> {
    /// The config maps that the container names, by name.
    pub config_maps: &'a BTreeMap<String, Fetched<ConfigMap>>,
    /// The secrets that the container names, by name.
    pub secrets: &'a BTreeMap<String, Fetched<Secret>>,
    /// The environment files that the container names, by volume and path in it.
    pub files: &'a BTreeMap<(String, String), Fetched<BTreeMap<String, String>>>,
    /// The services whose variables the pod gets: its namespace's and `default/kubernetes`.
    pub services: &'a [Arc<Service>],
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// What the node has for pods: where a limit is not set, this is it.
    pub allocatable: &'a resources::Amounts,
}

/// The names of config maps and secrets that a container's environment refers to.
pub fn references(container: &Container) -> (Vec<&str>, Vec<&str>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.as_str()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.as_str()));
    }
    (maps, secrets)
}

/// The environment files that a container refers to, by volume and path in it.
pub fn file_references(container: &Container) -> impl Iterator<Item = (&str, &str)> {
    let sources = container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()?.file_key_ref.as_ref());
    sources.map(|file| (file.volume_name.as_str(), file.path.as_str()))
}

/// Docker's link variables for a service: `NAME_SERVICE_HOST` and so on. Headless services have none.
pub fn service_variables(services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let Some(first) = spec.ports.as_ref().and_then(|p| p.first()) else { continue };
        let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        let first_protocol = first.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        out.insert(format!("{name}_PORT"), format!("{first_protocol}://{host}:{}", first.port));
        for port in spec.ports.iter().flatten() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                out.insert(format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol);
            out.insert(prefix.clone(), format!("{}://{host}:{}", protocol.to_lowercase(), port.port));
            out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{prefix}_PORT"), port.port.to_string());
            out.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    out
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Whether a pod without `enableServiceLinks: false` sees this service, or any pod does (`default/kubernetes`).
pub fn service_is_visible(service: &Service, namespace: &str, links: bool) -> bool {
    let (its_namespace, its_name) = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
    let is_master = its_namespace == Some("default") && its_name == Some("kubernetes");
    is_master || (links && its_namespace == Some(namespace))
}

/// The environment, in the order in which the runtime gets it.
pub fn environment(pod: &Pod, container: &Container, sources: &Sources<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut result: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref
            && let Some(map) =
                optional(sources.config_maps.get(&reference.name), reference.optional, || not_found("configmap", &reference.name))?
        {
            result.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
        }
        if let Some(reference) = &from.secret_ref
            && let Some(secret) =
                optional(sources.secrets.get(&reference.name), reference.optional, || not_found("secret", &reference.name))?
        {
            result.extend(secret.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())));
        }
    }
    let services = service_variables(sources.services);
    // Values see what was defined before them; service variables are visible to all, and weaker than any other.
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| own.get(name).or_else(|| services.get(name)).cloned())),
            (_, Some(source)) => referenced(pod, container, namespace, source, sources)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            own.insert(var.name.clone(), value.clone());
            result.insert(var.name.clone(), value);
        }
    }
    for (name, value) in services {
        result.entry(name).or_insert(value);
    }
    Ok(result.into_iter().collect())
}

fn not_found(kind: &str, name: &str) -> EnvError {
    EnvError(format!("{kind} {name:?} not found"))
}

/// The object, or nothing where it may be missing, or why it is missing.
fn optional<T>(found: Option<&Fetched<T>>, optional: Option<bool>, missing: impl Fn() -> EnvError) -> Result<Option<&T>, EnvError> {
    match found {
        Some(Ok(object)) => Ok(Some(object)),
        Some(Err(why)) if !(why.missing && optional == Some(true)) => Err(why.error.clone()),
        None if optional != Some(true) => Err(missing()),
        _ => Ok(None),
    }
}

fn referenced(
    pod: &Pod,
    container: &Container,
    namespace: &str,
    source: &EnvVarSource,
    sources: &Sources<'_>,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return match field.field_path.as_str() {
            "status.podIP" => Ok(Some(sources.pod_ips.first().cloned().unwrap_or_default())),
            "status.podIPs" => Ok(Some(sources.pod_ips.join(","))),
            "status.hostIP" => Ok(Some(sources.host_ips.first().cloned().unwrap_or_default())),
            "status.hostIPs" => Ok(Some(sources.host_ips.join(","))),
            path => pod_field(pod, path).map(Some),
        };
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_field(pod, container, field, sources.allocatable).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let found = optional(sources.config_maps.get(&reference.name), reference.optional, || not_found("configmap", &reference.name))?;
        let value = found.and_then(|map| map.data.as_ref()).and_then(|data| data.get(&reference.key)).cloned();
        return match value {
            None if reference.optional != Some(true) => {
                Err(EnvError(format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name)))
            }
            value => Ok(value),
        };
    }
    if let Some(reference) = &source.file_key_ref {
        let place = (reference.volume_name.clone(), reference.path.clone());
        let missing = || EnvError(format!("file {:?} not found in volume {:?}", reference.path, reference.volume_name));
        let found = optional(sources.files.get(&place), reference.optional, missing)?;
        let value = found.and_then(|variables| variables.get(&reference.key)).cloned();
        return match value {
            None if reference.optional != Some(true) => {
                Err(EnvError(format!("environment variable key {:?} not found in file {:?}", reference.key, reference.path)))
            }
            value => Ok(value),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let found = optional(sources.secrets.get(&reference.name), reference.optional, || not_found("secret", &reference.name))?;
        let value = found.and_then(|secret| secret.data.as_ref()).and_then(|data| data.get(&reference.key));
        return match value {
            None if reference.optional != Some(true) => {
                Err(EnvError(format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name)))
            }
            value => Ok(value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())),
        };
    }
    Ok(None)
}

/// A field of the pod by its path, as the downward API allows (upstream: `fieldpath.ExtractFieldPathAsString`).
pub fn pod_field(pod: &Pod, path: &str) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix(']').and_then(|p| p.split_once('[')) {
        let key = key.trim_matches(['\'', '"']);
        let values = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(EnvError(format!("fieldPath {path:?} does not support subscript"))),
        };
        return Ok(values.as_ref().and_then(|v| v.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        "metadata.labels" => Ok(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Ok(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => Ok(spec.and_then(|s| s.node_name.clone()).unwrap_or_default()),
        "spec.serviceAccountName" => Ok(spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()),
        _ => Err(EnvError(format!("unsupported fieldPath: {path}"))),
    }
}

/// `key="value"` lines in the keys' order.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect::<Vec<_>>().join("\n")
}

/// A text in quotes with control characters escaped, as upstream's `%q` prints labels.
fn go_quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A container's request or limit, divided and rounded up (upstream: `resource.ExtractContainerResourceValue`).
pub fn resource_field(
    pod: &Pod,
    container: &Container,
    field: &ResourceFieldSelector,
    allocatable: &resources::Amounts,
) -> Result<String, EnvError> {
    let subject = match field.container_name.as_deref().filter(|n| !n.is_empty()) {
        None => container,
        Some(name) => {
            let spec = pod.spec.as_ref();
            let mut all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
            all.find(|c| c.name == name).ok_or_else(|| EnvError(format!("container {name} not found")))?
        }
    };
    let (which, resource) = field
        .resource
        .split_once('.')
        .filter(|(which, _)| matches!(*which, "requests" | "limits"))
        .ok_or_else(|| EnvError(format!("unsupported container resource : {}", field.resource)))?;
    let amounts = subject.resources.as_ref();
    let limit = amounts.and_then(|a| a.limits.as_ref()).and_then(|l| l.get(resource)).and_then(resources::milli);
    let value = match which {
        "limits" => limit.or_else(|| allocatable.get(resource).and_then(resources::milli)),
        _ => amounts.and_then(|a| a.requests.as_ref()).and_then(|r| r.get(resource)).and_then(resources::milli).or(limit),
    };
    let divisor = field.divisor.as_ref().and_then(resources::milli).filter(|d| *d > 0).unwrap_or(1000);
    let value = value.unwrap_or(0);
    Ok((value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).expect("the test's object is well formed")
    }

    /// Config maps by their data; a text instead says that the server could not be asked.
    fn made(container: serde_json::Value, maps: &[(&str, serde_json::Value)]) -> Result<BTreeMap<String, String>, EnvError> {
        let pod: Pod = from(
            json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b", "z": "q\"x"}}, "spec": {"containers": [], "nodeName": "n1"}}),
        );
        let service = Arc::new(from(json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}})));
        let fetched = |data: &serde_json::Value| match data.as_str() {
            None => Ok(Arc::new(from(json!({"data": data})))),
            Some(why) => Err(Unavailable { error: EnvError(why.to_owned()), missing: false }),
        };
        let maps = maps.iter().map(|(n, v)| ((*n).to_owned(), fetched(v))).collect();
        let sources = Sources {
            config_maps: &maps,
            secrets: &BTreeMap::new(),
            files: &BTreeMap::new(),
            services: &[service],
            pod_ips: &["10.1.0.5".to_owned()],
            host_ips: &["192.0.2.2".to_owned()],
            allocatable: &BTreeMap::from([("memory".to_owned(), k8s_openapi::apimachinery::pkg::api::resource::Quantity("1Gi".into()))]),
        };
        environment(&pod, &from(container), &sources).map(|vars| vars.into_iter().collect())
    }

    #[test]
    fn values_references_and_service_variables_come_together() {
        let env = made(
            json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}},
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
                "env": [
                    {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(KUBERNETES_SERVICE_HOST)-$(NOSUCH)"},
                    {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                    {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                    {"name": "LABELS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                    {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "nosuch", "key": "k", "optional": true}}}]}),
            &[("m", json!({"k": "v"}))],
        )
        .expect("everything referred to exists");
        for (name, want) in [
            ("A", "1"),
            ("B", "1-10.0.0.1-$(NOSUCH)"),
            ("P_k", "v"),
            ("KEY", "v"),
            ("LABEL", "b"),
            ("LABELS", "a=\"b\"\nz=\"q\\\"x\""),
            ("IP", "10.1.0.5"),
            ("CPU", "2"),
            ("MEM", "1024"),
            ("KUBERNETES_PORT_443_TCP", "tcp://10.0.0.1:443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(want), "{name}");
        }
        assert!(!env.contains_key("GONE"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let key = |name: &str| json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": name, "key": "k"}}}]});
        assert_eq!(made(key("later"), &[]), Err(EnvError("configmap \"later\" not found".into())));
        assert_eq!(made(key("m"), &[("m", json!({}))]), Err(EnvError("couldn't find key k in ConfigMap ns/m".into())));
        let optional = json!({"name": "c", "envFrom": [{"configMapRef": {"name": "m", "optional": true}}]});
        assert!(made(optional.clone(), &[]).is_ok());
        assert_eq!(made(optional, &[("m", json!("timed out"))]), Err(EnvError("timed out".into())), "what could not be read may exist");
    }
}
