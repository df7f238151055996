//! Defaults of pods and of the pod templates in other kinds (upstream: `pkg/apis/core/v1/defaults.go`).
//!
//! [`pod_spec`] is what pods and templates share; [`pod`] adds what only a pod gets.

use crate::resources::defaulting::{absent, is_true, number, text};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, EphemeralContainer, HTTPGetAction, LifecycleHandler, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, Volume,
};

/// What file modes of projected keys default to: 0644.
const FILE_MODE: i32 = 0o644;
/// How long a projected service account token is good for, in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// Defaults that only pods get, on top of [`pod_spec`].
pub fn pod(spec: &mut PodSpec) {
    absent(&mut spec.enable_service_links, true);
    let host_network = is_true(spec.host_network);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(resources) = &mut container.resources {
            requests_from_limits(resources);
        }
        for port in container.ports.iter_mut().flatten().filter(|_| host_network) {
            number(&mut port.host_port, port.container_port);
        }
    }
    if let Some(resources) = &mut spec.resources {
        requests_from_limits(resources);
    }
}

/// A limit without a request is also the request.
fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// Defaults of the template of a workload.
pub fn template(template: &mut PodTemplateSpec) {
    pod_spec(template.spec.get_or_insert_default());
}

/// Defaults that pods and pod templates share.
pub fn pod_spec(spec: &mut PodSpec) {
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    absent(&mut spec.termination_grace_period_seconds, 30);
    spec.security_context.get_or_insert_default();
    // The old name of the field is kept equal to the new one.
    if spec.service_account_name.as_deref().is_none_or(str::is_empty) {
        spec.service_account_name = spec.service_account.take();
    }
    spec.service_account = spec.service_account_name.clone();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        self::container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_container(container);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
}

/// Whether the tag of an image reference is, or defaults to, `latest`. A reference by digest alone has no tag.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest,
    }
}

fn container(c: &mut Container) {
    let policy = if is_latest(c.image.as_deref().unwrap_or("")) { "Always" } else { "IfNotPresent" };
    text(&mut c.image_pull_policy, policy);
    text(&mut c.termination_message_path, "/dev/termination-log");
    text(&mut c.termination_message_policy, "File");
    c.resources.get_or_insert_default();
    for port in c.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    c.env.iter_mut().flatten().for_each(environment);
    [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe].into_iter().flatten().for_each(probe);
    if let Some(lifecycle) = &mut c.lifecycle {
        [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten().for_each(handler);
    }
}

/// An ephemeral container has the fields of a container, in a type of its own.
fn ephemeral_container(e: &mut EphemeralContainer) {
    let mut c = super::ephemeral::as_container(e);
    container(&mut c);
    super::ephemeral::take_container(e, c);
}

fn environment(variable: &mut EnvVar) {
    let Some(source) = &mut variable.value_from else { return };
    if let Some(field) = &mut source.field_ref {
        text(&mut field.api_version, "v1");
    }
    if let Some(file) = &mut source.file_key_ref {
        absent(&mut file.optional, false);
    }
}

fn probe(probe: &mut Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        http_get(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        absent(&mut grpc.service, String::new());
    }
}

fn handler(handler: &mut LifecycleHandler) {
    if let Some(http) = &mut handler.http_get {
        http_get(http);
    }
}

fn http_get(action: &mut HTTPGetAction) {
    text(&mut action.path, "/");
    text(&mut action.scheme, "HTTP");
}

/// Whether none of the sources of a volume is given.
pub(super) fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

fn volume(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(secret) = &mut volume.secret {
        absent(&mut secret.default_mode, FILE_MODE);
    }
    if let Some(ConfigMapVolumeSource { default_mode, .. }) = &mut volume.config_map {
        absent(default_mode, FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        absent(&mut downward.default_mode, FILE_MODE);
        for field in downward.items.iter_mut().flatten().filter_map(|i| i.field_ref.as_mut()) {
            text(&mut field.api_version, "v1");
        }
    }
    if let Some(host_path) = &mut volume.host_path {
        absent(&mut host_path.type_, String::new());
    }
    if let Some(projected) = &mut volume.projected {
        self::projected(projected);
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        text(&mut template.spec.volume_mode, "Filesystem");
    }
    if let Some(image) = &mut volume.image {
        let policy = if is_latest(image.reference.as_deref().unwrap_or("")) { "Always" } else { "IfNotPresent" };
        text(&mut image.pull_policy, policy);
    }
    if let Some(iscsi) = &mut volume.iscsi {
        text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        text(&mut rbd.pool, "rbd");
        text(&mut rbd.user, "admin");
        text(&mut rbd.keyring, "/etc/ceph/keyring");
    }
    if let Some(disk) = &mut volume.azure_disk {
        absent(&mut disk.caching_mode, "ReadWrite".into());
        absent(&mut disk.kind, "Shared".into());
        absent(&mut disk.fs_type, "ext4".into());
        absent(&mut disk.read_only, false);
    }
    if let Some(scale_io) = &mut volume.scale_io {
        text(&mut scale_io.storage_mode, "ThinProvisioned");
        text(&mut scale_io.fs_type, "xfs");
    }
}

fn projected(projected: &mut ProjectedVolumeSource) {
    absent(&mut projected.default_mode, FILE_MODE);
    for source in projected.sources.iter_mut().flatten() {
        for field in source.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten()).filter_map(|i| i.field_ref.as_mut()) {
            text(&mut field.api_version, "v1");
        }
        if let Some(token) = &mut source.service_account_token {
            absent(&mut token.expiration_seconds, TOKEN_SECONDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn images_without_tag_or_digest_are_the_latest() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("registry:5000/nginx", true),
            ("registry:5000/nginx:1", false),
            ("nginx@sha256:00", false),
            ("nginx:latest@sha256:00", true),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
