//! Validation of volumes. The sources that live on in the API but in no cluster of today (cloud disks that were moved to CSI, and the like) are
//! checked for being the only source, not for their own fields.

use super::environment::{FILE_FIELDS, field_ref, resource_ref};
use crate::field::{ErrorList, Path};
use crate::resources::core::persistent_volume_claim;
use crate::resources::core::resource_name::parse;
use crate::resources::defaulting::{items, str};
use crate::validation::{invalid, labels, names};
use k8s_openapi::api::core::v1::{
    CSIVolumeSource, ClusterTrustBundleProjection, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, NFSVolumeSource,
    ProjectedVolumeSource, Volume,
};
use std::collections::{BTreeMap, HashSet};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The volumes by name, as mounts refer to them: those without mistakes.
pub type ByName<'a> = BTreeMap<&'a str, &'a Volume>;

/// Checks `volumes` and answers with those that can be mounted. The name of the pod, where there is one, is part of the names of its claims.
pub fn volumes<'a>(errors: &mut ErrorList, path: &Path, volumes: &'a [Volume], pod_name: Option<&str>, is_pod: bool) -> ByName<'a> {
    let mut by_name = ByName::new();
    let made: HashSet<String> = match pod_name.filter(|n| !n.is_empty()) {
        Some(pod) => volumes.iter().filter(|v| v.ephemeral.is_some()).map(|v| format!("{pod}-{}", v.name)).collect(),
        None => HashSet::new(),
    };
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let mut found = ErrorList::new();
        source(&mut found, &path, volume, pod_name, is_pod);
        if volume.name.is_empty() {
            found.required(&path.child("name"), "");
        } else {
            invalid(&mut found, &path.child("name"), &volume.name, names::dns1123_label(&volume.name));
        }
        if by_name.contains_key(volume.name.as_str()) {
            found.duplicate(&path.child("name"), volume.name.as_str());
        }
        if found.is_empty() {
            by_name.insert(&volume.name, volume);
        }
        errors.0.extend(found.0);
        if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|c| made.contains(&c.claim_name)) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&path.child("persistentVolumeClaim").child("claimName"), claim.claim_name.as_str(), why);
        }
    }
    by_name
}

fn source(errors: &mut ErrorList, path: &Path, volume: &Volume, pod_name: Option<&str>, is_pod: bool) {
    let mut count = 0;
    let mut first = |errors: &mut ErrorList, given: bool, field: &str| {
        count += usize::from(given);
        if given && count > 1 {
            errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
        }
        given && count == 1
    };
    let required = |errors: &mut ErrorList, path: &Path, field: &str, value: &str| {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        }
    };
    if let Some(empty_dir) = &volume.empty_dir
        && first(errors, true, "emptyDir")
        && empty_dir.size_limit.as_ref().is_some_and(|q| parse(q).sign() < 0)
    {
        errors.forbidden(&path.child("emptyDir").child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    if let Some(source) = &volume.host_path
        && first(errors, true, "hostPath")
    {
        host_path(errors, &path.child("hostPath"), source);
    }
    if let Some(source) = &volume.git_repo
        && first(errors, true, "gitRepo")
    {
        let path = path.child("gitRepo");
        required(errors, &path, "repository", &source.repository);
        descending_path(errors, &path.child("directory"), str(&source.directory));
    }
    first(errors, volume.gce_persistent_disk.is_some(), "gcePersistentDisk");
    first(errors, volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore");
    if let Some(source) = &volume.secret
        && first(errors, true, "secret")
    {
        let path = path.child("secret");
        required(errors, &path, "secretName", str(&source.secret_name));
        mode(errors, &path.child("defaultMode"), source.default_mode);
        keys(errors, &path.child("items"), items(&source.items));
    }
    if let Some(source) = &volume.nfs
        && first(errors, true, "nfs")
    {
        nfs(errors, &path.child("nfs"), source);
    }
    first(errors, volume.iscsi.is_some(), "iscsi");
    first(errors, volume.glusterfs.is_some(), "glusterfs");
    first(errors, volume.flocker.is_some(), "flocker");
    if let Some(source) = &volume.persistent_volume_claim
        && first(errors, true, "persistentVolumeClaim")
    {
        required(errors, &path.child("persistentVolumeClaim"), "claimName", &source.claim_name);
    }
    first(errors, volume.rbd.is_some(), "rbd");
    first(errors, volume.cinder.is_some(), "cinder");
    first(errors, volume.cephfs.is_some(), "cephFS");
    first(errors, volume.quobyte.is_some(), "quobyte");
    if let Some(source) = &volume.downward_api
        && first(errors, true, "downwarAPI")
    {
        let path = path.child("downwardAPI");
        mode(errors, &path.child("defaultMode"), source.default_mode);
        items(&source.items).iter().for_each(|file| downward_file(errors, &path, file));
    }
    first(errors, volume.fc.is_some(), "fc");
    if let Some(source) = &volume.flex_volume
        && first(errors, true, "flexVolume")
    {
        required(errors, &path.child("flexVolume"), "driver", &source.driver);
    }
    if let Some(source) = &volume.config_map
        && first(errors, true, "configMap")
    {
        let path = path.child("configMap");
        required(errors, &path, "name", &source.name);
        mode(errors, &path.child("defaultMode"), source.default_mode);
        keys(errors, &path.child("items"), items(&source.items));
    }
    first(errors, volume.azure_file.is_some(), "azureFile");
    first(errors, volume.vsphere_volume.is_some(), "vsphereVolume");
    first(errors, volume.photon_persistent_disk.is_some(), "photonPersistentDisk");
    first(errors, volume.portworx_volume.is_some(), "portworxVolume");
    first(errors, volume.azure_disk.is_some(), "azureDisk");
    first(errors, volume.storageos.is_some(), "storageos");
    if let Some(source) = &volume.projected
        && first(errors, true, "projected")
    {
        projected(errors, &path.child("projected"), source);
    }
    first(errors, volume.scale_io.is_some(), "scaleIO");
    if let Some(source) = &volume.csi
        && first(errors, true, "csi")
    {
        csi(errors, &path.child("csi"), source);
    }
    if let Some(source) = &volume.ephemeral
        && first(errors, true, "ephemeral")
    {
        let path = path.child("ephemeral").child("volumeClaimTemplate");
        match &source.volume_claim_template {
            None => errors.required(&path, ""),
            Some(template) => {
                let metadata = template.metadata.clone().unwrap_or_default();
                labels::annotations(errors, &path.child("metadata").child("annotations"), metadata.annotations.as_ref());
                labels::labels(errors, &path.child("metadata").child("labels"), metadata.labels.as_ref());
                persistent_volume_claim::spec(errors, &path.child("spec"), &template.spec);
            }
        }
    }
    if let (Some(_), Some(pod)) = (&volume.ephemeral, pod_name.filter(|n| !n.is_empty())) {
        let claim = format!("{pod}-{}", volume.name);
        for message in names::dns1123_subdomain(&claim) {
            errors.invalid(&path.child("name"), volume.name.as_str(), &format!("PVC name {claim:?}: {message}"));
        }
    }
    if let Some(image) = &volume.image
        && first(errors, true, "image")
    {
        let path = path.child("image");
        if is_pod {
            required(errors, &path, "reference", str(&image.reference));
        }
        let policies = &["Always", "IfNotPresent", "Never"];
        super::containers::one_of(errors, &path.child("pullPolicy"), str(&image.pull_policy), policies);
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

/// A path that goes down from where it starts.
pub fn descending_path(errors: &mut ErrorList, path: &Path, target: &str) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(errors, path, target);
}

fn no_backsteps(errors: &mut ErrorList, path: &Path, target: &str) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// A path of a file in a volume. What starts with two dots is the kubelet's own.
pub fn local_path(errors: &mut ErrorList, path: &Path, target: &str) {
    descending_path(errors, path, target);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}

fn mode(errors: &mut ErrorList, path: &Path, mode: Option<i32>) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid(path, mode, MODE);
    }
}

fn keys(errors: &mut ErrorList, path: &Path, items: &[KeyToPath]) {
    for (i, item) in items.iter().enumerate() {
        key(errors, &path.index(i), item);
    }
}

fn key(errors: &mut ErrorList, path: &Path, item: &KeyToPath) {
    if item.key.is_empty() {
        errors.required(&path.child("key"), "");
    }
    if item.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    local_path(errors, &path.child("path"), &item.path);
    mode(errors, &path.child("mode"), item.mode);
}

/// A directory or file of the node.
pub fn host_path(errors: &mut ErrorList, path: &Path, source: &HostPathVolumeSource) {
    if source.path.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    no_backsteps(errors, &path.child("path"), &source.path);
    if let Some(kind) = source.type_.as_deref().filter(|t| !HOST_PATH_TYPES.contains(t)) {
        errors.not_supported(&path.child("type"), kind, HOST_PATH_TYPES);
    }
}

/// A directory of a file server.
pub fn nfs(errors: &mut ErrorList, path: &Path, source: &NFSVolumeSource) {
    if source.server.is_empty() {
        errors.required(&path.child("server"), "");
    }
    if source.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    if !source.path.starts_with('/') {
        errors.invalid(&path.child("path"), source.path.as_str(), "must be an absolute path");
    }
}

fn downward_file(errors: &mut ErrorList, path: &Path, file: &DownwardAPIVolumeFile) {
    if file.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    local_path(errors, &path.child("path"), &file.path);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            field_ref(errors, &path.child("fieldRef"), field, FILE_FIELDS);
            if resource.is_some() {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => resource_ref(errors, &path.child("resourceFieldRef"), resource, true),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(errors, &path.child("mode"), file.mode);
}

fn projected(errors: &mut ErrorList, path: &Path, projected: &ProjectedVolumeSource) {
    mode(errors, &path.child("defaultMode"), projected.default_mode);
    let mut paths = HashSet::new();
    let mut unique = |errors: &mut ErrorList, target: &str, shown: &str| {
        if !target.is_empty() && !paths.insert(target.to_owned()) {
            errors.invalid(path, shown, "conflicting duplicate paths");
        }
    };
    for (i, source) in items(&projected.sources).iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut count = 0;
        let key_sources = [
            ("secret", source.secret.as_ref().map(|s| (&s.name, items(&s.items)))),
            ("configMap", source.config_map.as_ref().map(|s| (&s.name, items(&s.items)))),
        ];
        for (field, (name, list)) in key_sources.into_iter().filter_map(|(field, s)| s.map(|s| (field, s))) {
            count += 1;
            let at = at.child(field);
            if name.is_empty() {
                errors.required(&at.child("name"), "");
            }
            for (i, item) in list.iter().enumerate() {
                key(errors, &at.child("items").index(i), item);
                unique(errors, &item.path, name);
            }
        }
        if let Some(downward) = &source.downward_api {
            count += 1;
            for file in items(&downward.items) {
                downward_file(errors, &at.child("downwardAPI"), file);
                unique(errors, &file.path, &file.path);
            }
        }
        if let Some(token) = &source.service_account_token {
            count += 1;
            let seconds = token.expiration_seconds.unwrap_or(0);
            let at = at.child("serviceAccountToken").child("expirationSeconds");
            if seconds < 10 * 60 {
                errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > 1 << 32 {
                errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            if token.path.is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                local_path(errors, &path.child("path"), &token.path);
            }
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            count += 1;
            trust_bundle(errors, &at.child("clusterTrustBundle"), bundle);
            unique(errors, &bundle.path, &bundle.path);
        }
        if count > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn trust_bundle(errors: &mut ErrorList, path: &Path, bundle: &ClusterTrustBundleProjection) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => {
            let shown = serde_json::to_value(bundle).unwrap_or_default();
            errors.invalid(path, shown, "only one of name and signerName may be used");
        }
        (Some(name), None) if name.is_empty() => errors.required(&path.child("name"), "must be a valid object name"),
        (None, Some(signer)) if signer.is_empty() => errors.required(&path.child("signerName"), "must be a valid signer name"),
        (None, None) => errors.required(path, "either name or signerName must be specified"),
        _ => labels::selector(errors, &path.child("labelSelector"), bundle.label_selector.as_ref()),
    }
    if bundle.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    local_path(errors, &path.child("path"), &bundle.path);
}

fn csi(errors: &mut ErrorList, path: &Path, source: &CSIVolumeSource) {
    driver_name(errors, &path.child("driver"), &source.driver);
    if let Some(secret) = &source.node_publish_secret_ref {
        let path = path.child("nodePublishSecretRef").child("name");
        if secret.name.is_empty() {
            errors.required(&path, "");
        } else {
            invalid(errors, &path, &secret.name, names::dns1123_subdomain(&secret.name));
        }
    }
}

/// The name of a storage driver.
pub fn driver_name(errors: &mut ErrorList, path: &Path, driver: &str) {
    if driver.is_empty() {
        errors.required(path, "");
    }
    if driver.len() > names::LABEL_MAX {
        errors.too_long(path, names::LABEL_MAX);
    }
    let lower = driver.to_lowercase();
    invalid(errors, path, driver, names::dns1123_subdomain(&lower));
}
