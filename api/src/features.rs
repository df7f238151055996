//! Fields of features that are off in this version: taken from what clients write, but where the object has them already (upstream:
//! `dropDisabledFields` of each kind, `pkg/features/kube_features.go`).
//!
//! One row is one field. Left out: gates that change what is valid and not what is kept, and fields of kinds that are not served while their gate is off.

use serde_json::Value;
use std::collections::BTreeMap;

/// Where a row's field is.
enum Place {
    /// In the specs of pods and in those of templates of pods.
    PodSpec,
    /// In objects of one resource: its group and plural.
    Of(&'static str, &'static str),
}
use Place::{Of, PodSpec};

/// A field behind a gate.
struct Row {
    gate: &'static str,
    place: Place,
    /// `[]` stands for every item of a list, `*` for every value of a map.
    field: &'static str,
    /// What of it needs the gate, where that is not the field itself.
    needs: &'static str,
}

const fn row(gate: &'static str, place: Place, field: &'static str) -> Row {
    Row { gate, place, field, needs: field }
}

/// All of them. The gates are off by default in v1.36.
const TABLE: &[Row] = &[
    row("ContainerStopSignals", PodSpec, "containers.[].lifecycle.stopSignal"),
    row("ContainerStopSignals", PodSpec, "initContainers.[].lifecycle.stopSignal"),
    row("ContainerStopSignals", PodSpec, "ephemeralContainers.[].lifecycle.stopSignal"),
    row("ContainerStopSignals", Of("", "pods"), "status.containerStatuses.[].stopSignal"),
    row("ContainerStopSignals", Of("", "pods"), "status.initContainerStatuses.[].stopSignal"),
    row("ContainerStopSignals", Of("", "pods"), "status.ephemeralContainerStatuses.[].stopSignal"),
    row("GenericWorkload", PodSpec, "schedulingGroup"),
    row("ClusterTrustBundleProjection", PodSpec, "volumes.[].projected.sources.[].clusterTrustBundle"),
    Row {
        gate: "CrossNamespaceVolumeDataSource",
        place: Of("", "persistentvolumeclaims"),
        field: "spec.dataSourceRef",
        needs: "spec.dataSourceRef.namespace",
    },
    row("VolumeLimitScaling", Of("storage.k8s.io", "csidrivers"), "spec.preventPodSchedulingIfMissing"),
    row("CoordinatedLeaderElection", Of("coordination.k8s.io", "leases"), "spec.strategy"),
    row("CoordinatedLeaderElection", Of("coordination.k8s.io", "leases"), "spec.preferredHolder"),
    row("DRAListTypeAttributes", Of("resource.k8s.io", "resourceslices"), "spec.devices.[].attributes.*.bools"),
    row("DRAListTypeAttributes", Of("resource.k8s.io", "resourceslices"), "spec.devices.[].attributes.*.ints"),
    row("DRAListTypeAttributes", Of("resource.k8s.io", "resourceslices"), "spec.devices.[].attributes.*.strings"),
    row("DRAListTypeAttributes", Of("resource.k8s.io", "resourceslices"), "spec.devices.[].attributes.*.versions"),
];

/// Where the pod's spec is in objects that have one: group, plural, path.
const POD_SPECS: &[(&str, &str, &str)] = &[
    ("", "pods", "spec"),
    ("", "podtemplates", "template.spec"),
    ("", "replicationcontrollers", "spec.template.spec"),
    ("apps", "daemonsets", "spec.template.spec"),
    ("apps", "deployments", "spec.template.spec"),
    ("apps", "replicasets", "spec.template.spec"),
    ("apps", "statefulsets", "spec.template.spec"),
    ("batch", "cronjobs", "spec.jobTemplate.spec.template.spec"),
    ("batch", "jobs", "spec.template.spec"),
];

/// Which gates are open: those that are told of (`--feature-gates`), else none of the table.
#[derive(Clone, Debug, Default)]
pub struct Gates(BTreeMap<String, bool>);

impl Gates {
    /// `name=true` and `name=false`.
    pub fn parse(list: &[String]) -> Result<Self, String> {
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').ok_or_else(|| format!("missing bool value for {text}"))?;
            let open =
                value.trim().parse().map_err(|_| format!("invalid value of {}={}, err: want true or false", name.trim(), value.trim()))?;
            Ok((name.trim().to_owned(), open))
        };
        list.iter().filter(|text| !text.trim().is_empty()).map(pair).collect::<Result<_, String>>().map(Gates)
    }

    /// Those that this version knows nothing of: opening them changes nothing.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(|name| TABLE.iter().all(|row| row.gate != *name))
    }

    fn open(&self, name: &str) -> bool {
        self.0.get(name).copied().unwrap_or(false)
    }

    /// Takes away what is behind closed gates in a new object of a resource, and in a changed one what `old` does not have either.
    pub fn drop_disabled(&self, group: &str, plural: &str, new: &mut Value, old: Option<&Value>) {
        let pod_spec = POD_SPECS.iter().find(|(g, p, _)| (*g, *p) == (group, plural)).map(|(_, _, path)| *path);
        for row in TABLE.iter().filter(|row| !self.open(row.gate)) {
            let root = match row.place {
                PodSpec => pod_spec,
                Of(g, p) => ((g, p) == (group, plural)).then_some(""),
            };
            let Some(root) = root else { continue };
            let path =
                |field: &'static str| -> Vec<&str> { root.split('.').chain(field.split('.')).filter(|step| !step.is_empty()).collect() };
            let field = path(row.field);
            if has(new, &path(row.needs)) && !old.is_some_and(|old| has(old, &field)) {
                remove(new, &field);
            }
        }
    }
}

/// Whether something is set there.
fn has(value: &Value, path: &[&str]) -> bool {
    match path {
        [] => !value.is_null() && value.as_str() != Some(""),
        ["[]", rest @ ..] => value.as_array().is_some_and(|items| items.iter().any(|item| has(item, rest))),
        ["*", rest @ ..] => value.as_object().is_some_and(|fields| fields.values().any(|field| has(field, rest))),
        [name, rest @ ..] => value.get(name).is_some_and(|field| has(field, rest)),
    }
}

fn remove(value: &mut Value, path: &[&str]) {
    match path {
        [] => {}
        ["[]", rest @ ..] => value.as_array_mut().into_iter().flatten().for_each(|item| remove(item, rest)),
        ["*", rest @ ..] => value.as_object_mut().into_iter().for_each(|fields| fields.values_mut().for_each(|field| remove(field, rest))),
        [name] => {
            if let Some(fields) = value.as_object_mut() {
                fields.remove(*name);
            }
        }
        [name, rest @ ..] => value.get_mut(name).into_iter().for_each(|field| remove(field, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Schema, Type, of_kind};
    use serde_json::json;

    fn pod(signal: Option<&str>) -> Value {
        let lifecycle = signal.map_or(json!({}), |signal| json!({"stopSignal": signal}));
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "lifecycle": lifecycle}]}})
    }

    #[test]
    fn what_is_behind_a_closed_gate_is_kept_only_where_it_was() {
        let open = Gates::parse(&["ContainerStopSignals=true".to_owned()]).expect("good gates");
        for (gates, new, old, want) in [
            (Gates::default(), pod(Some("SIGUSR1")), None, pod(None)),
            (Gates::default(), pod(Some("SIGUSR1")), Some(pod(None)), pod(None)),
            (Gates::default(), pod(Some("SIGUSR1")), Some(pod(Some("SIGTERM"))), pod(Some("SIGUSR1"))),
            (open.clone(), pod(Some("SIGUSR1")), None, pod(Some("SIGUSR1"))),
            (Gates::default(), pod(None), None, pod(None)),
        ] {
            let mut got = new.clone();
            gates.drop_disabled("", "pods", &mut got, old.as_ref());
            assert_eq!(got, want, "{new} over {old:?}");
        }
    }

    #[test]
    fn fields_are_found_wherever_they_are() {
        let dropped = |group: &str, plural: &str, mut object: Value| {
            Gates::default().drop_disabled(group, plural, &mut object, None);
            object
        };
        let template = |spec: &Value| json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}});
        assert_eq!(dropped("batch", "cronjobs", template(&json!({"schedulingGroup": {"podGroupName": "g"}}))), template(&json!({})));
        let deployment = json!({"spec": {"schedulingGroup": {"podGroupName": "g"}}});
        assert_eq!(dropped("apps", "deployments", deployment.clone()), deployment, "it is no field of a pod's there");
        let slice = |attribute: Value| json!({"spec": {"devices": [{"name": "d", "attributes": {"a": attribute}}]}});
        assert_eq!(dropped("resource.k8s.io", "resourceslices", slice(json!({"ints": [1], "int": 2}))), slice(json!({"int": 2})));
        let claim = |namespace: &str| json!({"spec": {"dataSourceRef": {"kind": "X", "name": "x", "namespace": namespace}}});
        assert_eq!(dropped("", "persistentvolumeclaims", claim("other")), json!({"spec": {}}));
        assert_eq!(dropped("", "persistentvolumeclaims", claim("")), claim(""), "in its own namespace it needs no gate");
    }

    #[test]
    fn gates_are_read_as_upstream_writes_them() {
        let read = |text: &str| Gates::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert!(read("A=true,B=false").is_ok_and(|gates| gates.open("A") && !gates.open("B") && gates.unknown().count() == 2));
        assert_eq!(read("A").err().as_deref(), Some("missing bool value for A"));
        assert_eq!(read("A=maybe").err().as_deref(), Some("invalid value of A=maybe, err: want true or false"));
    }

    /// The type at a path of a type.
    fn at(schema: &Schema, ty: Type, path: &[&str]) -> Option<Type> {
        let [step, rest @ ..] = path else { return Some(ty) };
        let inner = match (ty, *step) {
            (Type::List(item), "[]") | (Type::Map(item), "*") => *item,
            (Type::Struct(id), name) => schema.get(id).field(name)?.ty.clone(),
            _ => return None,
        };
        at(schema, inner, rest)
    }

    #[test]
    fn every_field_is_one_that_the_api_has() {
        let kinds = [
            ("pods", "v1", "Pod"),
            ("podtemplates", "v1", "PodTemplate"),
            ("replicationcontrollers", "v1", "ReplicationController"),
            ("daemonsets", "apps/v1", "DaemonSet"),
            ("deployments", "apps/v1", "Deployment"),
            ("replicasets", "apps/v1", "ReplicaSet"),
            ("statefulsets", "apps/v1", "StatefulSet"),
            ("cronjobs", "batch/v1", "CronJob"),
            ("jobs", "batch/v1", "Job"),
            ("persistentvolumeclaims", "v1", "PersistentVolumeClaim"),
            ("csidrivers", "storage.k8s.io/v1", "CSIDriver"),
            ("leases", "coordination.k8s.io/v1", "Lease"),
            ("resourceslices", "resource.k8s.io/v1", "ResourceSlice"),
        ];
        let known = |plural: &str, path: &str| {
            let (_, version, kind) = kinds.iter().find(|(known, ..)| *known == plural)?;
            let root = of_kind(version, kind)?;
            at(root.schema, root.ty(), &path.split('.').collect::<Vec<_>>())
        };
        for row in TABLE {
            match row.place {
                Of(_, plural) => assert!(known(plural, row.needs).is_some(), "{plural}: {}", row.needs),
                PodSpec => {
                    for (_, plural, path) in POD_SPECS {
                        assert!(known(plural, &format!("{path}.{}", row.field)).is_some(), "{plural}: {path}.{}", row.field);
                    }
                }
            }
        }
    }
}
