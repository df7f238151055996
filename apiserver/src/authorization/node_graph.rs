//! Which objects the pods of each node refer to: secrets, config maps, claims and their volumes, service accounts
//! (upstream: `plugin/pkg/auth/authorizer/node/{graph,graph_populator}.go`).
//!
//! A set of references per pod and a count per node and object. It follows the cache whenever it is asked, so a node may read a secret as soon as
//! the binding of the pod that names it is acknowledged.

use crate::objects::{Change, Collection, Feed, Objects, decode};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Namespace (empty for cluster scope) and name.
type Key = (String, String);
/// Plural, namespace and name.
type Reference = (&'static str, String, String);

/// Follows pods, volumes, attachments and slices.
pub struct Graph {
    feeds: Vec<(Kind, Box<dyn Feed>)>,
    /// Each placed pod's node and what the pod refers to, itself included.
    pods: HashMap<Key, (String, BTreeSet<Reference>)>,
    /// How many of a node's pods refer to an object.
    counts: HashMap<String, HashMap<Reference, usize>>,
    /// Each volume's claim and the secrets that mounting it takes.
    volumes: HashMap<String, (Key, BTreeSet<Key>)>,
    /// The node of each volume attachment.
    attachments: HashMap<String, String>,
    /// The node of each resource slice.
    slices: HashMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pods,
    Volumes,
    Attachments,
    Slices,
}

const KINDS: [(Kind, Collection); 4] = [
    (Kind::Pods, Collection::core("pods")),
    (Kind::Volumes, Collection::core("persistentvolumes")),
    (Kind::Attachments, Collection::of("storage.k8s.io", "volumeattachments")),
    (Kind::Slices, Collection::of("resource.k8s.io", "resourceslices")),
];

/// The little that is read of an object.
#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    resource_claim_statuses: Vec<Value>,
    #[serde(default)]
    extended_resource_claim_status: Value,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// All that a pod's specification refers to in its namespace.
fn references(namespace: &str, name: &str, pod: &Spec) -> BTreeSet<Reference> {
    let spec = &pod.spec;
    let mut found = BTreeSet::new();
    let mut add = |plural: &'static str, name: &Value| {
        if !text(name).is_empty() {
            found.insert((plural, namespace.to_owned(), text(name).to_owned()));
        }
    };
    add("pods", &Value::from(name));
    // A mirror pod is the kubelet's own and gives no rights.
    if !pod.metadata.annotations.contains_key("kubernetes.io/config.mirror") {
        add("serviceaccounts", &spec["serviceAccountName"]);
        items(&spec["imagePullSecrets"]).for_each(|s| add("secrets", &s["name"]));
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for container in items(&spec[list]) {
                for env in items(&container["env"]) {
                    add("secrets", &env["valueFrom"]["secretKeyRef"]["name"]);
                    add("configmaps", &env["valueFrom"]["configMapKeyRef"]["name"]);
                }
                for env in items(&container["envFrom"]) {
                    add("secrets", &env["secretRef"]["name"]);
                    add("configmaps", &env["configMapRef"]["name"]);
                }
            }
        }
        for volume in items(&spec["volumes"]) {
            add("secrets", &volume["secret"]["secretName"]);
            add("configmaps", &volume["configMap"]["name"]);
            add("persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
            if volume.get("ephemeral").is_some() {
                add("persistentvolumeclaims", &Value::from(format!("{name}-{}", text(&volume["name"]))));
            }
            for source in items(&volume["projected"]["sources"]) {
                add("secrets", &source["secret"]["name"]);
                add("configmaps", &source["configMap"]["name"]);
            }
            // Drivers that name the secret next to their other settings.
            for driver in ["csi", "rbd", "cephfs", "flexVolume", "scaleIO", "iscsi", "storageos", "cinder"] {
                for field in ["nodePublishSecretRef", "secretRef"] {
                    add("secrets", &volume[driver][field]["name"]);
                }
            }
            add("secrets", &volume["azureFile"]["secretName"]);
        }
        items(&spec["resourceClaims"]).for_each(|claim| add("resourceclaims", &claim["resourceClaimName"]));
        pod.status.resource_claim_statuses.iter().for_each(|claim| add("resourceclaims", &claim["resourceClaimName"]));
        add("resourceclaims", &pod.status.extended_resource_claim_status["resourceClaimName"]);
    }
    found
}

/// A volume's claim, and the secrets that a node needs to mount it.
fn volume(spec: &Value) -> (Key, BTreeSet<Key>) {
    let claim = &spec["claimRef"];
    let claim = (text(&claim["namespace"]).to_owned(), text(&claim["name"]).to_owned());
    let mut secrets = BTreeSet::new();
    for driver in ["csi", "rbd", "cephfs", "flexVolume", "scaleIO", "iscsi", "storageos", "cinder"] {
        for field in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef", "secretRef"] {
            let secret = &spec[driver][field];
            let namespace = if text(&secret["namespace"]).is_empty() { &claim.0 } else { text(&secret["namespace"]) };
            if !text(&secret["name"]).is_empty() {
                secrets.insert((namespace.to_owned(), text(&secret["name"]).to_owned()));
            }
        }
    }
    let azure = &spec["azureFile"];
    if !text(&azure["secretName"]).is_empty() {
        let namespace = azure["secretNamespace"].as_str().unwrap_or(&claim.0);
        secrets.insert((namespace.to_owned(), text(&azure["secretName"]).to_owned()));
    }
    (claim, secrets)
}

impl Graph {
    /// Follows these objects.
    pub fn new(objects: &dyn Objects) -> Self {
        Graph {
            feeds: KINDS.iter().map(|(kind, collection)| (*kind, objects.feed(*collection))).collect(),
            pods: HashMap::new(),
            counts: HashMap::new(),
            volumes: HashMap::new(),
            attachments: HashMap::new(),
            slices: HashMap::new(),
        }
    }

    /// Whether something on the node leads to the object.
    pub fn refers(&mut self, node: &str, plural: &str, namespace: &str, name: &str) -> bool {
        self.update();
        let key = (namespace.to_owned(), name.to_owned());
        match plural {
            "persistentvolumes" => self.volumes.get(name).is_some_and(|(claim, _)| self.direct(node, "persistentvolumeclaims", claim)),
            "volumeattachments" => self.attachments.get(name).is_some_and(|n| n == node),
            "resourceslices" => self.slices.get(name).is_some_and(|n| n == node),
            _ if self.direct(node, plural, &key) => true,
            "secrets" => {
                let mut claims = self.volumes.values().filter(|(_, secrets)| secrets.contains(&key));
                claims.any(|(claim, _)| self.direct(node, "persistentvolumeclaims", claim))
            }
            _ => false,
        }
    }

    fn direct(&self, node: &str, plural: &str, key: &Key) -> bool {
        const PLURALS: [&str; 6] = ["pods", "secrets", "configmaps", "persistentvolumeclaims", "serviceaccounts", "resourceclaims"];
        let Some(plural) = PLURALS.into_iter().find(|p| *p == plural) else { return false };
        self.counts.get(node).is_some_and(|counts| counts.contains_key(&(plural, key.0.clone(), key.1.clone())))
    }

    fn update(&mut self) {
        let mut feeds = std::mem::take(&mut self.feeds);
        for (kind, feed) in &mut feeds {
            feed.drain(&mut |change| self.apply(*kind, change));
        }
        self.feeds = feeds;
    }

    fn apply(&mut self, kind: Kind, change: Change) {
        match (kind, change) {
            (Kind::Pods, Change::Reset) => {
                self.pods.clear();
                self.counts.clear();
            }
            (Kind::Pods, Change::Put { namespace, name, object }) => self.put_pod((namespace, name), &object),
            (Kind::Pods, Change::Gone { namespace, name }) => self.remove_pod(&(namespace, name)),
            (Kind::Volumes, Change::Reset) => self.volumes.clear(),
            (Kind::Volumes, Change::Put { name, object, .. }) => {
                if let Some(object) = decode::<Spec>(&object) {
                    self.volumes.insert(name, volume(&object.spec));
                }
            }
            (Kind::Volumes, Change::Gone { name, .. }) => drop(self.volumes.remove(&name)),
            (kind, change) => {
                let nodes = if kind == Kind::Attachments { &mut self.attachments } else { &mut self.slices };
                match change {
                    Change::Reset => nodes.clear(),
                    Change::Gone { name, .. } => drop(nodes.remove(&name)),
                    Change::Put { name, object, .. } => {
                        if let Some(object) = decode::<Spec>(&object) {
                            nodes.insert(name, text(&object.spec["nodeName"]).to_owned());
                        }
                    }
                }
            }
        }
    }

    fn put_pod(&mut self, key: Key, object: &Bytes) {
        let pod = decode::<Spec>(object);
        let node = pod.as_ref().map(|p| text(&p.spec["nodeName"]).to_owned()).unwrap_or_default();
        let Some(pod) = pod.filter(|_| !node.is_empty()) else { return self.remove_pod(&key) };
        let new = references(&key.0, &key.1, &pod);
        if self.pods.get(&key).is_some_and(|(n, old)| *n == node && *old == new) {
            return;
        }
        self.remove_pod(&key);
        let counts = self.counts.entry(node.clone()).or_default();
        for reference in &new {
            *counts.entry(reference.clone()).or_default() += 1;
        }
        self.pods.insert(key, (node, new));
    }

    fn remove_pod(&mut self, key: &Key) {
        let Some((node, references)) = self.pods.remove(key) else { return };
        let Some(counts) = self.counts.get_mut(&node) else { return };
        for reference in references {
            if let Some(count) = counts.get_mut(&reference) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&reference);
                }
            }
        }
        if counts.is_empty() {
            self.counts.remove(&node);
        }
    }
}
