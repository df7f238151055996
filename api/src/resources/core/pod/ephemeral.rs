//! Ephemeral containers as containers and back. The API has them as a type of their own whose fields are those of a container and one more;
//! defaults and validation are written once, for containers.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};

macro_rules! fields {
    ($make:ident { $from:expr }) => {
        fields!(@ $make $from; args command env env_from image image_pull_policy lifecycle liveness_probe name ports readiness_probe
            resize_policy resources restart_policy restart_policy_rules security_context startup_probe stdin stdin_once
            termination_message_path termination_message_policy tty volume_devices volume_mounts working_dir)
    };
    (@ container $from:expr; $($field:ident)*) => { Container { $($field: $from.$field.clone()),* } };
    (@ ephemeral $from:expr; $($field:ident)*) => { EphemeralContainer { $($field: $from.$field,)* target_container_name: None } };
}

/// The container that an ephemeral container is, but for its target.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    fields!(container { ephemeral })
}

/// Puts the fields of `container` into `ephemeral`, whose target stays.
pub fn take_container(ephemeral: &mut EphemeralContainer, container: Container) {
    let target = ephemeral.target_container_name.take();
    *ephemeral = EphemeralContainer { target_container_name: target, ..fields!(ephemeral { container }) };
}
