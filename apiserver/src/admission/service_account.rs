//! ServiceAccount: every pod has an account, and gets its token, the cluster's CA and its namespace mounted unless it or the account does
//! not want that (upstream: `plugin/pkg/admission/serviceaccount`).

use super::{Admission, Operation, Request, new_pod};
use crate::objects::{Collection, Objects, decode};
use api::{Object, generate_name::generate_name, status::Result};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod, PodSpec,
    ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use std::sync::Arc;

/// The plugin.
pub struct ServiceAccounts {
    /// Where accounts are.
    pub objects: Arc<dyn Objects>,
}

const DEFAULT: &str = "default";
/// Where programs look for the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the volume's name begins with.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// How long the token lives before the kubelet renews it; [`crate::reviews::token_request`] knows the odd number.
const TOKEN_SECONDS: i64 = 3607;
/// The permissions of projected files.
const MODE: i32 = 0o644;

/// A static pod's image in the API; it runs as the kubelet's.
fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"))
}

fn account_name(spec: &PodSpec) -> &str {
    spec.service_account_name.as_deref().unwrap_or_default()
}

fn mirror_refused(spec: &PodSpec) -> Option<&'static str> {
    if !account_name(spec).is_empty() {
        return Some("a mirror pod may not reference service accounts");
    }
    let projects_token = |v: &Volume| {
        let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        sources.into_iter().any(|s| s.service_account_token.is_some())
    };
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    if volumes.iter().any(|v| v.secret.is_some()) {
        return Some("a mirror pod may not reference secrets");
    }
    volumes.iter().any(projects_token).then_some("a mirror pod may not use ServiceAccountToken volume projections")
}

/// The volume with token, CA and namespace.
fn token_volume(name: &str) -> Volume {
    let item = |key: &str, path: &str| KeyToPath { key: key.into(), path: path.into(), mode: None };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".into(),
        field_ref: Some(ObjectFieldSelector { api_version: Some("v1".into()), field_path: "metadata.namespace".into() }),
        ..Default::default()
    };
    let sources = vec![
        VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                path: "token".into(),
                expiration_seconds: Some(TOKEN_SECONDS),
                audience: None,
            }),
            ..Default::default()
        },
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: "kube-root-ca.crt".into(),
                items: Some(vec![item("ca.crt", "ca.crt")]),
                optional: None,
            }),
            ..Default::default()
        },
        VolumeProjection { downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }), ..Default::default() },
    ];
    let projected = ProjectedVolumeSource { sources: Some(sources), default_mode: Some(MODE) };
    Volume { name: name.into(), projected: Some(projected), ..Default::default() }
}

fn mount(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|m| m.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount { name: volume.into(), mount_path: MOUNT_PATH.into(), read_only: Some(true), ..Default::default() });
    true
}

/// Mounts the token into every container that has nothing at its path.
fn mount_token(spec: &mut PodSpec, volume: &str) {
    let containers = spec.init_containers.iter_mut().flatten().chain(spec.containers.iter_mut());
    let mut needed = false;
    for container in containers {
        let mounted = mount(container, volume);
        if container.volume_mounts.as_ref().is_some_and(Vec::is_empty) {
            container.volume_mounts = None;
        }
        needed |= mounted;
    }
    if needed {
        spec.volumes.get_or_insert_default().push(token_volume(volume));
    }
}

impl ServiceAccounts {
    async fn account(&self, request: &Request<'_>, name: &str) -> Result<ServiceAccount> {
        let collection = Collection::core("serviceaccounts");
        let found = match self.objects.get(collection, request.namespace, name) {
            Some(found) => Some(found),
            None => self.objects.read(collection, request.namespace, name).await?,
        };
        let missing = || {
            request.forbidden(&format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", request.namespace))
        };
        found.as_ref().and_then(decode).ok_or_else(missing)
    }

    async fn complete(&self, request: &Request<'_>, pod: &mut Pod) -> Result<()> {
        let mirror = is_mirror(pod);
        let spec = pod.spec.get_or_insert_default();
        if mirror {
            return mirror_refused(spec).map_or(Ok(()), |why| Err(request.forbidden(why)));
        }
        if account_name(spec).is_empty() {
            spec.service_account_name = Some(DEFAULT.into());
        }
        let account = self.account(request, account_name(spec)).await?;
        // The older name of the field says the same.
        spec.service_account = spec.service_account_name.clone();
        let wanted = spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true);
        if wanted {
            // A volume of that name that is there already, as in a copy of a running pod, is used.
            let present = spec.volumes.iter().flatten().find(|v| v.name.starts_with(VOLUME_PREFIX)).map(|v| v.name.clone());
            match present {
                Some(name) => {
                    for container in spec.init_containers.iter_mut().flatten().chain(spec.containers.iter_mut()) {
                        mount(container, &name);
                    }
                }
                None => mount_token(spec, &generate_name(VOLUME_PREFIX, &mut rand::rng())),
            }
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = account.image_pull_secrets;
        }
        Ok(())
    }
}

impl Admission for ServiceAccounts {
    fn admit<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a mut dyn Object>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match new_pod(request, object) {
                Some(pod) => self.complete(request, pod).await,
                None => Ok(()),
            }
        })
    }

    fn validate<'a>(&'a self, request: &'a Request<'a>, object: Option<&'a dyn Object>) -> BoxFuture<'a, Result<()>> {
        // Ephemeral containers join a pod that has its account already, but must not bring a mirror pod secrets.
        let creates = request.operation == Operation::Create && request.is("", "pods", "");
        let pod = object.filter(|_| creates).and_then(|o| o.downcast_ref::<Pod>());
        let refused = pod.filter(|p| is_mirror(p)).and_then(|p| mirror_refused(p.spec.as_ref()?));
        super::ready(refused.map_or(Ok(()), |why| Err(request.forbidden(why))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_token_goes_where_nothing_else_is() {
        let mut pod =
            spec(json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
            "initContainers": [{"name": "i"}]}));
        mount_token(&mut pod, "kube-api-access-abcde");
        let mounts = |c: &Container| c.volume_mounts.iter().flatten().map(|m| m.name.clone()).collect::<Vec<_>>();
        assert_eq!(mounts(&pod.containers[0]), ["kube-api-access-abcde"]);
        assert_eq!(mounts(&pod.containers[1]), ["own"]);
        assert_eq!(mounts(&pod.init_containers.unwrap()[0]), ["kube-api-access-abcde"]);
        assert_eq!(pod.volumes.unwrap().len(), 1);
        let mut all_own = spec(json!({"containers": [{"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}));
        mount_token(&mut all_own, "kube-api-access-abcde");
        assert_eq!(all_own.volumes, None);
    }

    #[test]
    fn mirror_pods_bring_no_secrets() {
        for (value, refused) in [
            (json!({"containers": []}), false),
            (json!({"containers": [], "serviceAccountName": "a"}), true),
            (json!({"containers": [], "volumes": [{"name": "s", "secret": {"secretName": "s"}}]}), true),
            (
                json!({"containers": [], "volumes": [{"name": "s", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
                true,
            ),
        ] {
            assert_eq!(mirror_refused(&spec(value.clone())).is_some(), refused, "{value}");
        }
    }
}
