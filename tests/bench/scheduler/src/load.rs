//! Makes what a scenario asks for, many at a time, over several connections.

use crate::scenario::NodeLabels;
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

const CONNECTIONS: usize = 2;
/// As many requests as upstream's load has clients.
const IN_FLIGHT: usize = 64;

/// See the module's description.
pub struct Load {
    clients: Vec<Client>,
    next: AtomicUsize,
    namespaces: AtomicUsize,
    /// Names of other things must differ from run to run on a cluster that is used again.
    run: u32,
}

fn name(prefix: &str, number: usize) -> String {
    format!("{prefix}{number}")
}

impl Load {
    /// Connects as the kubeconfig says.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(client::connect(kubeconfig, "scheduler-bench").await?);
        }
        Ok(Self { clients, next: AtomicUsize::new(0), namespaces: AtomicUsize::new(0), run: std::process::id() })
    }

    /// One of the connections.
    pub fn client(&self) -> &Client {
        &self.clients[self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len()]
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>, content_type: &str) -> Result<Option<String>> {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(body)?;
        match self.client().request_text(request).await {
            Ok(text) => Ok(Some(text)),
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| path.to_owned()),
        }
    }

    async fn post(&self, path: &str, object: &Value) -> Result<Option<String>> {
        self.send(Method::POST, path, serde_json::to_vec(object)?, "application/json").await
    }

    /// Does something for every number, many at a time.
    async fn each(&self, count: usize, make: impl AsyncFn(usize) -> Result<()>) -> Result<()> {
        let make = &make;
        stream::iter(0..count).map(|number| async move { make(number).await }).buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Nodes that are ready, labelled in turn.
    pub async fn nodes(&self, template: &Value, count: usize, labels: Option<&NodeLabels>) -> Result<()> {
        self.each(count, async |number| {
            let (name, mut node) = (name("scheduler-bench-", number), template.clone());
            node["metadata"] = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
            if let Some(labels) = labels {
                node["metadata"]["labels"][&labels.label_key] = json!(labels.label_values[number % labels.label_values.len()]);
            }
            let path = format!("/api/v1/nodes/{name}");
            let made = self.post("/api/v1/nodes", &node).await?.with_context(|| format!("node {name} is there already"))?;
            let made: Value = serde_json::from_str(&made)?;
            if made["status"]["allocatable"].is_null() {
                let status = serde_json::to_vec(&json!({"status": node["status"]}))?;
                self.send(Method::PATCH, &format!("{path}/status"), status, "application/merge-patch+json").await?;
            }
            if !made["spec"]["taints"].is_null() {
                let spec = serde_json::to_vec(&json!({"spec": {"taints": null}}))?;
                self.send(Method::PATCH, &path, spec, "application/merge-patch+json").await?;
            }
            Ok(())
        })
        .await
    }

    /// Namespaces `PREFIX-0` and so on, in which pods can be made.
    pub async fn namespaces(&self, prefix: &str, count: usize, template: Option<&Value>) -> Result<()> {
        for number in 0..count {
            self.namespace(&format!("{prefix}-{number}"), template).await?;
        }
        Ok(())
    }

    /// A namespace that no pods are in.
    pub async fn fresh_namespace(&self) -> Result<String> {
        let name = format!("bench-{}-{}", self.run, self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.namespace(&name, None).await?;
        Ok(name)
    }

    async fn namespace(&self, name: &str, template: Option<&Value>) -> Result<()> {
        let mut namespace = template.cloned().unwrap_or(json!({}));
        if let Some(metadata) = namespace["metadata"].as_object_mut() {
            metadata.remove("generateName");
        }
        namespace["metadata"]["name"] = json!(name);
        namespace["metadata"]["labels"]["scheduler-bench"] = json!("yes");
        self.post("/api/v1/namespaces", &namespace).await?;
        // A controller would make it, if one runs.
        self.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await?;
        Ok(())
    }

    /// Pods.
    pub async fn pods(&self, template: &Value, namespace: &str, count: usize) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let prefix = template["metadata"]["generateName"].as_str().unwrap_or("pod-").to_owned();
        self.each(count, async |number| {
            let mut pod = template.clone();
            pod["metadata"]["name"] = json!(name(&prefix, number));
            let made = self.post(&path, &pod).await?;
            ensure!(made.is_some(), "{path}: {prefix}{number} is there already, or the namespace is not");
            Ok(())
        })
        .await
    }

    /// An object of any kind of the core group or scheduling.k8s.io.
    pub async fn any(&self, object: &Value, namespace: Option<&str>) -> Result<()> {
        let field = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (field("apiVersion"), field("kind"));
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let scope = namespace.map_or(String::new(), |namespace| format!("/namespaces/{namespace}"));
        let plural = if kind.ends_with('s') { format!("{kind}es") } else { format!("{kind}s") }.to_lowercase();
        self.post(&format!("{root}{scope}/{plural}"), object).await?;
        Ok(())
    }

    /// All of a collection.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let text = self.send(Method::GET, path, Vec::new(), "application/json").await?.unwrap_or_default();
        let mut list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Removes everything that was made.
    pub async fn clean(&self) -> Result<()> {
        let now = json!({"gracePeriodSeconds": 0}).to_string().into_bytes();
        for namespace in self.list("/api/v1/namespaces?labelSelector=scheduler-bench").await? {
            let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let path = format!("/api/v1/namespaces/{name}");
            for collection in ["pods", "serviceaccounts"] {
                self.send(Method::DELETE, &format!("{path}/{collection}"), now.clone(), "application/json").await?;
            }
            self.send(Method::DELETE, &path, Vec::new(), "application/json").await?;
            // A controller would do so, if one runs: the next case may want the name again.
            let empty = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}});
            self.send(Method::PUT, &format!("{path}/finalize"), serde_json::to_vec(&empty)?, "application/json").await?;
        }
        self.send(Method::DELETE, "/api/v1/nodes", Vec::new(), "application/json").await?;
        Ok(())
    }
}
