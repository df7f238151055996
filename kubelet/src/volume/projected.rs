//! `projected`: several sources in one directory, among them the pod's service account token (upstream: `pkg/volume/projected`).

use super::{
    Backing, File, Payload, Result, VolumeContext, VolumeError, VolumeType, downward,
    keys::{DEFAULT_MODE, config_map_files, mode, secret_files},
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

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

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Result<Backing> {
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
            if let Some(token) = part.service_account_token {
                let text = context.lookup.token(context.pod, token.audience.as_deref(), token.expiration_seconds).await;
                let text = text.map_err(|error| VolumeError(format!("failed to fetch token: {error}")))?;
                files.insert(token.path, File { data: text.into_bytes(), mode: token_mode(context, default_mode) });
            }
        }
        Ok(Backing::Files { files, memory: true })
    }
}

/// A token belongs to whoever runs in the pod: with a group for volumes the group may read it, else with one user for all containers that user alone
/// may, and else everybody may.
fn token_mode(context: &VolumeContext<'_>, default_mode: u32) -> u32 {
    let security = context.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    match security.and_then(|s| s.fs_group) {
        Some(_) => 0o600,
        None => default_mode,
    }
}
