//! `projected`: several sources in one directory, among them the pod's service account token (upstream: `pkg/volume/projected`).

use super::{
    Backed, Backing, File, Payload, VolumeContext, VolumeError, VolumeType, downward,
    keys::{DEFAULT_MODE, config_map_files, mode, secret_files},
};
use crate::container::security;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Volume};

/// See the module.
pub struct Projected;

#[async_trait]
impl VolumeType for Projected {
    fn name(&self) -> &'static str {
        "projected"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed {
        let source = volume.projected.clone().unwrap_or_default();
        let default_mode = mode(source.default_mode, DEFAULT_MODE);
        let mut files = Payload::new();
        for part in source.sources.into_iter().flatten() {
            if let Some(secret) = part.secret {
                files.extend(secret_files(context, &secret.name, secret.items.as_deref(), default_mode, secret.optional).await?);
            }
            if let Some(map) = part.config_map {
                files.extend(config_map_files(context, &map.name, map.items.as_deref(), default_mode, map.optional).await?);
            }
            if let Some(down) = part.downward_api {
                files.extend(downward::files(context, down.items.as_deref().unwrap_or_default(), default_mode)?);
            }
            for (asked, what) in
                [(part.cluster_trust_bundle.is_some(), "ClusterTrustBundle"), (part.pod_certificate.is_some(), "PodCertificate")]
            {
                if asked {
                    return Err(VolumeError(format!("{what} projection is not supported in this kubelet")).into());
                }
            }
            if let Some(token) = part.service_account_token {
                let text = context.lookup.token(context.pod, token.audience.as_deref(), token.expiration_seconds).await;
                let text = text.map_err(|error| VolumeError(format!("failed to fetch token: {error}")))?;
                let (mode, owner) = token_access(context.pod, default_mode);
                files.insert(token.path, File { data: text.into_bytes(), mode, owner });
            }
        }
        Ok(Backing::Files { files, memory: true })
    }
}

/// Who may read a token: with one user for all containers that user, with a group for volumes that group too, and else everybody. Answers mode and owner.
fn token_access(pod: &Pod, default_mode: u32) -> (u32, Option<u32>) {
    let Some(spec) = &pod.spec else { return (default_mode, None) };
    let group = spec.security_context.as_ref().and_then(|s| s.fs_group);
    let mut users = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| security::effective_user(pod, c));
    let first = users.next().flatten();
    let owner = first.filter(|_| users.all(|user| user == first)).and_then(|user| u32::try_from(user).ok());
    (if owner.is_some() || group.is_some() { 0o600 } else { default_mode }, owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_is_for_whoever_runs_in_the_pod() {
        let pod = |context: serde_json::Value, second: serde_json::Value| -> Pod {
            let containers = json!([{"name": "a"}, {"name": "b", "securityContext": second}]);
            serde_json::from_value(json!({"spec": {"securityContext": context, "containers": containers}})).expect("a pod")
        };
        for (context, second, want) in [
            (json!({}), json!({}), (0o644, None)),
            (json!({"fsGroup": 5}), json!({}), (0o600, None)),
            (json!({"runAsUser": 7}), json!({}), (0o600, Some(7))),
            (json!({"runAsUser": 7}), json!({"runAsUser": 8}), (0o644, None)),
        ] {
            assert_eq!(token_access(&pod(context, second), 0o644), want);
        }
    }
}
