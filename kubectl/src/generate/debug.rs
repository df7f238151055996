//! The objects of `kubectl debug`: an ephemeral container for a pod, a pod on a node, a copy of a pod, each with what a profile allows it.

use crate::error::{Result, message};
use serde_json::{Map, Value, json};

/// What the container may do, by the name of `--profile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The one before there were profiles: the node's namespaces on a node, nothing else.
    Legacy,
    /// What most debugging takes.
    General,
    /// Within the Baseline standard.
    Baseline,
    /// Within the Restricted standard.
    Restricted,
    /// For the network.
    Netadmin,
    /// Everything.
    Sysadmin,
}

/// What the container goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A pod of its own on a node.
    Node,
    /// A copy of a pod.
    Copy,
    /// A running pod.
    Ephemeral,
}

/// What of the original a copy keeps.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// `metadata.labels`.
    pub labels: bool,
    /// `metadata.annotations`.
    pub annotations: bool,
    /// Liveness probes.
    pub liveness: bool,
    /// Readiness probes.
    pub readiness: bool,
    /// Startup probes.
    pub startup: bool,
    /// Init containers.
    pub init_containers: bool,
}

/// The container to add, from flags.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its image; empty where an existing container is changed.
    pub image: String,
    /// Its pull policy; empty for the server's choice.
    pub pull_policy: String,
    /// What follows `--`.
    pub command: Vec<String>,
    /// That goes in as arguments.
    pub as_arguments: bool,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// It keeps standard input open.
    pub stdin: bool,
    /// It has a terminal.
    pub tty: bool,
}

impl Profile {
    /// The profile of this name.
    pub fn parse(name: &str) -> Result<Profile> {
        Ok(match name {
            "legacy" => Profile::Legacy,
            "general" => Profile::General,
            "baseline" => Profile::Baseline,
            "restricted" => Profile::Restricted,
            "netadmin" => Profile::Netadmin,
            "sysadmin" => Profile::Sysadmin,
            _ => return Err(message(format!("unknown profile: {name}"))),
        })
    }

    /// Gives a pod's debugging container what the profile says.
    pub fn apply(self, pod: &mut Value, container: &str, place: Place, keep: Keep) {
        let list = if place == Place::Ephemeral { "ephemeralContainers" } else { "containers" };
        if place == Place::Copy {
            let keep = if self == Profile::Legacy { Keep { labels: false, ..KEEP_ALL } } else { keep };
            strip(pod, keep);
            if self != Profile::Legacy {
                pod["spec"]["shareProcessNamespace"] = true.into();
            }
        }
        if place == Place::Node {
            if matches!(self, Profile::Legacy | Profile::General | Profile::Sysadmin) {
                mount_host(pod, container);
            }
            if matches!(self, Profile::Legacy | Profile::General | Profile::Netadmin | Profile::Sysadmin) {
                for namespace in ["hostNetwork", "hostPID", "hostIPC"] {
                    pod["spec"][namespace] = true.into();
                }
            }
        }
        let Some(container) = pod["spec"][list].as_array_mut().into_iter().flatten().find(|c| c["name"] == container) else { return };
        let adding = |capabilities: &[&str]| json!({"capabilities": {"add": capabilities}});
        let allowed = match (self, place) {
            (Profile::Legacy, _) | (Profile::General, Place::Node) => return,
            (Profile::General, _) => adding(&["SYS_PTRACE"]),
            (Profile::Baseline, _) => Value::Null,
            (Profile::Restricted, _) => {
                json!({"runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false, "seccompProfile": {"type": "RuntimeDefault"}})
            }
            (Profile::Netadmin, _) => adding(&["NET_ADMIN", "NET_RAW"]),
            (Profile::Sysadmin, _) => json!({"privileged": true}),
        };
        match (&allowed, container.as_object_mut()) {
            (Value::Null, Some(fields)) => drop(fields.remove("securityContext")),
            (_, Some(fields)) => drop(fields.insert("securityContext".into(), allowed)),
            _ => {}
        }
    }
}

const KEEP_ALL: Keep = Keep { labels: true, annotations: true, liveness: true, readiness: true, startup: true, init_containers: true };

fn strip(pod: &mut Value, keep: Keep) {
    for (field, kept) in [("labels", keep.labels), ("annotations", keep.annotations)] {
        if let Some(metadata) = pod["metadata"].as_object_mut().filter(|_| !kept) {
            metadata.remove(field);
        }
    }
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for (probe, kept) in [("livenessProbe", keep.liveness), ("readinessProbe", keep.readiness), ("startupProbe", keep.startup)] {
            if !kept {
                container.remove(probe);
            }
        }
    }
    if let Some(spec) = pod["spec"].as_object_mut().filter(|_| !keep.init_containers) {
        spec.remove("initContainers");
    }
}

fn mount_host(pod: &mut Value, container: &str) {
    pod["spec"]["volumes"] = json!([{"name": "host-root", "hostPath": {"path": "/"}}]);
    for found in pod["spec"]["containers"].as_array_mut().into_iter().flatten().filter(|c| c["name"] == container) {
        found["volumeMounts"] = json!([{"name": "host-root", "mountPath": "/host"}]);
    }
}

impl Wanted {
    /// The container under a name.
    fn container(&self, name: &str) -> Value {
        let mut fields = Map::new();
        fields.insert("name".into(), name.into());
        fields.insert("terminationMessagePolicy".into(), "File".into());
        let mut container = Value::Object(fields);
        self.write_to(&mut container);
        container
    }

    /// Writes what was asked for over a container that is there.
    fn write_to(&self, container: &mut Value) {
        if !self.image.is_empty() {
            container["image"] = self.image.as_str().into();
        }
        if !self.pull_policy.is_empty() {
            container["imagePullPolicy"] = self.pull_policy.as_str().into();
        }
        if !self.env.is_empty() {
            container["env"] = self.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        }
        if !self.command.is_empty() {
            let field = if self.as_arguments { "args" } else { "command" };
            if let Some(fields) = container.as_object_mut().filter(|_| !self.as_arguments) {
                fields.remove("args");
            }
            container[field] = self.command.clone().into();
        }
        for (field, on) in [("stdin", self.stdin), ("tty", self.tty)] {
            if on {
                container[field] = true.into();
            } else if let Some(fields) = container.as_object_mut() {
                fields.remove(field);
            }
        }
    }
}

/// The strategic merge patch that adds an ephemeral container to a pod.
pub fn ephemeral(wanted: &Wanted, name: &str, target: &str, profile: Profile, keep: Keep) -> Value {
    let mut container = wanted.container(name);
    if !target.is_empty() {
        container["targetContainerName"] = target.into();
    }
    let mut pod = json!({"spec": {"ephemeralContainers": [container]}});
    profile.apply(&mut pod, name, Place::Ephemeral, keep);
    pod
}

/// A pod that runs on a node, whatever the node's taints.
pub fn on_node(wanted: &Wanted, pod_name: &str, name: &str, node: &str, profile: Profile, keep: Keep) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod_name, "labels": {"app.kubernetes.io/managed-by": "kubectl-debug"}},
        "spec": {"containers": [wanted.container(name)], "nodeName": node, "restartPolicy": "Never", "tolerations": [{"operator": "Exists"}]},
    });
    profile.apply(&mut pod, name, Place::Node, keep);
    pod
}

/// How a copy differs from its pod.
#[derive(Clone, Debug)]
pub struct Copying {
    /// Its name.
    pub name: String,
    /// It goes to the same node.
    pub same_node: bool,
    /// Whether its containers see each other's processes, if that was said.
    pub share_processes: Option<bool>,
    /// Images by container; `*` is all of them.
    pub images: Vec<(String, String)>,
}

/// A copy of a pod with a container added, or one of its own changed. Answers the copy; nobody's container if only images changed.
pub fn copy(pod: &Value, how: &Copying, wanted: &Wanted, container: &str, profile: Profile, keep: Keep) -> Result<(Value, Option<String>)> {
    let mut spec = pod["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("ephemeralContainers");
        if !how.same_node {
            fields.remove("nodeName");
        }
        if let Some(shared) = how.share_processes {
            fields.insert("shareProcessNamespace".into(), shared.into());
        }
    }
    let mut metadata = Map::new();
    metadata.insert("name".into(), how.name.as_str().into());
    for field in ["namespace", "annotations", "labels"] {
        if let Some(value) = pod["metadata"].get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    for found in spec["containers"].as_array_mut().into_iter().flatten() {
        let of = |name: &Value| how.images.iter().find(|(container, _)| name == container.as_str());
        if let Some((_, image)) = of(&found["name"]).or_else(|| of(&"*".into())) {
            found["image"] = image.as_str().into();
        }
    }
    let mut copied = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    let all = copied["spec"]["containers"].as_array_mut().ok_or_else(|| message("the pod has no containers"))?;
    match all.iter_mut().find(|c| c["name"] == container) {
        Some(found) => wanted.write_to(found),
        None if !wanted.image.is_empty() => all.push(wanted.container(container)),
        None if !how.images.is_empty() => return Ok((copied, None)),
        None => return Err(message("you must specify image when creating new container")),
    }
    profile.apply(&mut copied, container, Place::Copy, keep);
    Ok((copied, Some(container.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Keep =
        Keep { labels: false, annotations: false, liveness: false, readiness: false, startup: false, init_containers: true };

    fn wanted() -> Wanted {
        Wanted { image: "busybox".into(), command: vec!["sh".into()], stdin: true, tty: true, ..Wanted::default() }
    }

    #[test]
    fn profiles_say_what_an_ephemeral_container_may_do() {
        for (profile, allowed) in [
            ("legacy", Value::Null),
            ("baseline", Value::Null),
            ("general", json!({"capabilities": {"add": ["SYS_PTRACE"]}})),
            ("netadmin", json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}})),
            ("sysadmin", json!({"privileged": true})),
        ] {
            let patch = ephemeral(&wanted(), "d", "app", Profile::parse(profile).unwrap(), NOTHING);
            let container = &patch["spec"]["ephemeralContainers"][0];
            assert_eq!(container["securityContext"], allowed, "{profile}");
            assert_eq!((&container["targetContainerName"], &container["command"]), (&json!("app"), &json!(["sh"])));
        }
        let restricted = ephemeral(&wanted(), "d", "", Profile::Restricted, NOTHING);
        assert_eq!(restricted["spec"]["ephemeralContainers"][0]["securityContext"]["runAsNonRoot"], true);
        assert_eq!(Profile::parse("none").unwrap_err().text(), "error: unknown profile: none\n");
    }

    #[test]
    fn a_pod_on_a_node_sees_the_node() {
        let pod = on_node(&wanted(), "node-debugger-n-abcde", "debugger", "n", Profile::General, NOTHING);
        assert_eq!((&pod["spec"]["hostPID"], &pod["spec"]["nodeName"]), (&json!(true), &json!("n")));
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], "/host");
        let alone = on_node(&wanted(), "p", "debugger", "n", Profile::Restricted, NOTHING);
        assert!(alone["spec"].get("hostPID").is_none() && alone["spec"].get("volumes").is_none(), "{alone}");
    }

    #[test]
    fn a_copy_has_what_is_kept_and_what_is_added() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}, "uid": "1"},
            "spec": {"nodeName": "n", "ephemeralContainers": [{"name": "old"}],
                "containers": [{"name": "app", "image": "app:1", "args": ["x"], "readinessProbe": {}}]}});
        let how = Copying { name: "q".into(), same_node: false, share_processes: None, images: vec![("*".into(), "app:2".into())] };
        let (copied, container) = copy(&pod, &how, &wanted(), "d", Profile::General, NOTHING).unwrap();
        assert_eq!(copied["metadata"], json!({"name": "q", "namespace": "ns"}));
        assert_eq!(copied["spec"]["containers"][0], json!({"name": "app", "image": "app:2", "args": ["x"]}));
        assert_eq!((copied["spec"]["containers"][1]["name"].as_str(), container.as_deref()), (Some("d"), Some("d")));
        assert_eq!(copied["spec"]["shareProcessNamespace"], true);
        assert!(copied["spec"].get("nodeName").is_none() && copied["spec"].get("ephemeralContainers").is_none());

        // One of its own gets another command; the old profile takes away labels alone.
        let (copied, _) = copy(&pod, &how, &Wanted { image: String::new(), ..wanted() }, "app", Profile::Legacy, NOTHING).unwrap();
        assert_eq!(
            copied["spec"]["containers"],
            json!([{"name": "app", "image": "app:2", "readinessProbe": {}, "command": ["sh"], "stdin": true, "tty": true}])
        );
        assert!(copied["metadata"].get("labels").is_none());
        let images_only = Wanted::default();
        assert_eq!(copy(&pod, &how, &images_only, "", Profile::General, NOTHING).unwrap().1, None);
        let nothing = Copying { images: vec![], ..how };
        assert!(copy(&pod, &nothing, &images_only, "d", Profile::General, NOTHING).is_err());
    }
}
