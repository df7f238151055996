//! `configMap` and `secret` volumes: keys as files (upstream: `pkg/volume/configmap`, `pkg/volume/secret`).

use super::{Backed, Backing, File, Payload, Result, VolumeContext, VolumeError, VolumeType};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret, Volume};
use std::collections::BTreeMap;

/// The mode of files without one.
pub const DEFAULT_MODE: u32 = 0o644;

/// The data of an object by key.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// A config map's data, text and binary.
pub fn config_map_keys(map: &ConfigMap) -> Keys {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

/// A secret's data.
pub fn secret_keys(secret: &Secret) -> Keys {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// Mode bits of the API.
pub fn mode(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|m| u32::try_from(m).ok()).unwrap_or(default)
}

/// All keys as files, or only those that `items` names, under the paths it gives them. A named key must exist unless the volume is
/// optional. `kind` is the word the error uses.
pub fn files(keys: &Keys, items: Option<&[KeyToPath]>, default_mode: u32, optional: bool, kind: &str) -> Result<Payload> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(keys.iter().map(|(k, v)| (k.clone(), File { data: v.clone(), mode: default_mode, owner: None })).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match keys.get(&item.key) {
            Some(data) => {
                drop(out.insert(item.path.clone(), File { data: data.clone(), mode: mode(item.mode, default_mode), owner: None }))
            }
            None if optional => {}
            None => return Err(VolumeError(format!("references non-existent {kind} key: {}", item.key))),
        }
    }
    Ok(out)
}

/// See the module.
pub struct ConfigMapVolume;

#[async_trait]
impl VolumeType for ConfigMapVolume {
    fn name(&self) -> &'static str {
        "configmap"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed {
        let source = volume.config_map.clone().unwrap_or_default();
        let files =
            config_map_files(context, &source.name, source.items.as_deref(), mode(source.default_mode, DEFAULT_MODE), source.optional)
                .await?;
        Ok(Backing::Files { files, memory: false })
    }
}

/// The files of a config map, none where it is missing and may be.
pub async fn config_map_files(
    context: &VolumeContext<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: Option<bool>,
) -> Result<Payload> {
    let optional = optional == Some(true);
    let keys = match context.lookup.config_map(context.pod, name).await {
        Ok(map) => config_map_keys(&map),
        Err(error) if optional && error.is_missing() => Keys::new(),
        Err(error) => return Err(VolumeError(error.to_string())),
    };
    files(&keys, items, default_mode, optional, "config")
}

/// The files of a secret, none where it is missing and may be.
pub async fn secret_files(
    context: &VolumeContext<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: Option<bool>,
) -> Result<Payload> {
    let optional = optional == Some(true);
    let keys = match context.lookup.secret(context.pod, name).await {
        Ok(secret) => secret_keys(&secret),
        Err(error) if optional && error.is_missing() => Keys::new(),
        Err(error) => return Err(VolumeError(error.to_string())),
    };
    files(&keys, items, default_mode, optional, "secret")
}

/// See the module.
pub struct SecretVolume;

#[async_trait]
impl VolumeType for SecretVolume {
    fn name(&self) -> &'static str {
        "secret"
    }

    fn takes(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    async fn backing(&self, volume: &Volume, context: &VolumeContext<'_>) -> Backed {
        let source = volume.secret.clone().unwrap_or_default();
        let name = source.secret_name.unwrap_or_default();
        let files = secret_files(context, &name, source.items.as_deref(), mode(source.default_mode, DEFAULT_MODE), source.optional).await?;
        Ok(Backing::Files { files, memory: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_pick_rename_and_set_modes() {
        let keys = Keys::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        let all = files(&keys, None, 0o600, false, "config").expect("all keys");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
        let item = |key: &str, mode| KeyToPath { key: key.into(), path: format!("d/{key}"), mode };
        let one = files(&keys, Some(&[item("a", Some(0o400))]), 0o644, false, "config").expect("a is there");
        assert_eq!(one, Payload::from([("d/a".to_owned(), File { data: b"1".to_vec(), mode: 0o400, owner: None })]));
        let error = files(&keys, Some(&[item("c", None)]), 0o644, false, "config").expect_err("c is not");
        assert_eq!(error.0, "references non-existent config key: c");
        assert!(files(&keys, Some(&[item("c", None)]), 0o644, true, "config").expect("optional").is_empty());
    }
}
