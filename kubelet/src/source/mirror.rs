//! Mirror pods: what the API shows of static pods, read-only. Whatever is done to a mirror, the static pod goes on and the mirror comes back
//! (upstream: `pkg/kubelet/pod/mirror_client.go`).

use crate::container::identity::{self, CONFIG_HASH, CONFIG_MIRROR};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What has to be done to one mirror.
#[derive(Debug, PartialEq)]
pub enum Op {
    /// It is missing.
    Create(Arc<Pod>),
    /// It mirrors what is no more, or an older version of it.
    Delete(Arc<Pod>),
}

/// Pods by namespace and name.
pub type ByName = BTreeMap<(String, String), Arc<Pod>>;

/// A pod's place in [`ByName`].
pub fn key(pod: &Pod) -> (String, String) {
    (identity::namespace(pod).to_owned(), identity::name(pod).to_owned())
}

/// What has to be done so that every static pod has its mirror and no other mirror is there. An outdated mirror is deleted first and made again when
/// it is gone.
pub fn plan(statics: &ByName, mirrors: &ByName) -> Vec<Op> {
    let hash = |pod: &Pod| identity::annotation(pod, CONFIG_HASH).map(str::to_owned);
    let current = |mirror: &Pod, pod: &Pod| {
        identity::annotation(mirror, CONFIG_MIRROR).map(str::to_owned) == hash(pod) && mirror.metadata.deletion_timestamp.is_none()
    };
    let outdated = mirrors.iter().filter(|(key, mirror)| !statics.get(*key).is_some_and(|pod| current(mirror, pod)));
    let missing = statics.iter().filter(|(key, _)| !mirrors.contains_key(*key));
    outdated.map(|(_, mirror)| Op::Delete(mirror.clone())).chain(missing.map(|(_, pod)| Op::Create(pod.clone()))).collect()
}

/// The mirror of a static pod. `node_uid` is the node's in the API, which owns the mirror.
pub fn mirror_of(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut mirror = pod.clone();
    mirror.status = None;
    mirror.metadata.uid = None;
    mirror.metadata.generation = None;
    let hash = identity::annotation(pod, CONFIG_HASH).unwrap_or_default().to_owned();
    mirror.metadata.annotations.get_or_insert_with(BTreeMap::new).insert(CONFIG_MIRROR.into(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.into(),
        uid: node_uid.into(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror
}

/// Keeps the mirrors of a node.
pub struct Mirrors {
    client: Client,
    node: String,
    state: Mutex<(ByName, ByName)>,
    changed: Notify,
}

impl Mirrors {
    /// Knows nothing yet.
    pub fn new(client: Client, node: &str) -> Arc<Self> {
        Arc::new(Mirrors { client, node: node.into(), state: Mutex::default(), changed: Notify::new() })
    }

    /// The static pods are these now.
    pub fn statics(&self, pods: &[Arc<Pod>]) {
        self.state.lock().0 = pods.iter().map(|p| (key(p), p.clone())).collect();
        self.changed.notify_one();
    }

    /// The API has this mirror.
    pub fn seen(&self, mirror: Arc<Pod>) {
        self.state.lock().1.insert(key(&mirror), mirror);
        self.changed.notify_one();
    }

    /// The API has it no longer.
    pub fn gone(&self, mirror: &Pod) {
        self.state.lock().1.remove(&key(mirror));
        self.changed.notify_one();
    }

    /// Works until told to stop. `node_uid` comes once the node is registered.
    pub async fn run(self: Arc<Self>, node_uid: String, stop: CancellationToken) {
        loop {
            let ops = {
                let state = self.state.lock();
                plan(&state.0, &state.1)
            };
            let mut failed = false;
            for op in ops {
                if let Err(error) = self.apply(&op, &node_uid).await {
                    tracing::warn!(%error, "a mirror pod could not be brought up to date");
                    failed = true;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    async fn apply(&self, op: &Op, node_uid: &str) -> kube::Result<()> {
        match op {
            Op::Create(pod) => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), identity::namespace(pod));
                match pods.create(&PostParams::default(), &mirror_of(pod, &self.node, node_uid)).await {
                    // The watch has not shown it yet.
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                    other => other.map(drop),
                }
            }
            Op::Delete(mirror) => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), identity::namespace(mirror));
                let preconditions = Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
                match pods.delete(identity::name(mirror), &params).await {
                    Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
                    other => other.map(drop),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, annotations: serde_json::Value) -> Arc<Pod> {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "annotations": annotations}}))
            .map(Arc::new)
            .expect("a pod")
    }

    #[test]
    fn mirrors_follow_their_static_pods() {
        let by_name = |pods: &[Arc<Pod>]| pods.iter().map(|p| (key(p), p.clone())).collect::<ByName>();
        let (a, b) = (pod("a", json!({CONFIG_HASH: "1"})), pod("b", json!({CONFIG_HASH: "1"})));
        let mirror_a = pod("a", json!({CONFIG_MIRROR: "1"}));
        let (old_b, stray) = (pod("b", json!({CONFIG_MIRROR: "0"})), pod("c", json!({CONFIG_MIRROR: "1"})));
        let statics = by_name(&[a.clone(), b.clone()]);
        assert_eq!(plan(&statics, &by_name(std::slice::from_ref(&mirror_a))), [Op::Create(b.clone())]);
        assert_eq!(plan(&statics, &by_name(&[mirror_a, old_b.clone(), stray.clone()])), [Op::Delete(old_b), Op::Delete(stray)]);
        let mirror = mirror_of(&a, "n", "u");
        assert_eq!(identity::annotation(&mirror, CONFIG_MIRROR), Some("1"));
        assert_eq!(mirror.metadata.owner_references.expect("an owner")[0].uid, "u");
    }
}
