//! Waiting until a volume is attached to the node: its status has to say that it is in use, so that nobody takes it away again, and that it is attached;
//! then the attachment has what the driver needs to know (upstream: `operation_generator.go`, `GenerateVerifyControllerAttachedVolumeFunc`).

use super::{Csi, protocol::Pairs, volume::CsiVolume};
use ::api::csi::attachment_name;
use k8s_openapi::api::{core::v1::Node, storage::v1::VolumeAttachment};
use kube::Api;

/// Whether a node's status has a volume both in use and attached.
fn is_attached(node: &Node, volume: &str) -> bool {
    let Some(status) = &node.status else { return false };
    status.volumes_in_use.iter().flatten().any(|name| name == volume)
        && status.volumes_attached.iter().flatten().any(|attached| attached.name == volume)
}

/// What an attachment tells the driver, or why the volume cannot be used.
fn metadata(attachment: &VolumeAttachment, handle: &str) -> Result<Pairs, String> {
    if attachment.metadata.deletion_timestamp.is_some() {
        return Err("volume attachment is being deleted".into());
    }
    let status = attachment.status.clone().unwrap_or_default();
    if status.attached {
        return Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect());
    }
    let told = status.attach_error.and_then(|error| error.message);
    Err(told.unwrap_or_else(|| format!("volume {handle} is not attached")))
}

impl Csi {
    /// Whether the volume is attached, as far as is known.
    pub(super) fn is_attached(&self, volume: &CsiVolume) -> bool {
        let name = volume.unique_name();
        self.itself.list().iter().any(|node| is_attached(node, &name))
    }

    /// What its attachment tells the driver.
    pub(super) async fn publish_context(&self, volume: &CsiVolume) -> Result<Pairs, String> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        let name = attachment_name(&volume.driver, &volume.handle, &self.node);
        let found = attachments.get(&name).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        })?;
        metadata(&found, &volume.handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_has_to_be_in_use_before_it_counts_as_attached() {
        let attached = json!([{"name": "v", "devicePath": ""}]);
        for (status, want) in [
            (json!({"volumesInUse": ["v"], "volumesAttached": attached}), true),
            (json!({"volumesAttached": attached}), false),
            (json!({"volumesInUse": ["v"]}), false),
            (json!({"volumesInUse": ["w"], "volumesAttached": attached}), false),
        ] {
            let node = serde_json::from_value(json!({"status": status})).expect("a node");
            assert_eq!(is_attached(&node, "v"), want, "{status}");
        }
    }

    #[test]
    fn an_attachment_tells_what_the_driver_needs_or_why_there_is_nothing() {
        let base = json!({"spec": {"attacher": "d", "nodeName": "n", "source": {}}});
        for (more, want) in [
            (json!({"status": {"attached": true, "attachmentMetadata": {"device": "/dev/x"}}}), Ok("/dev/x".to_owned())),
            (json!({"status": {"attached": false, "attachError": {"message": "no such disk"}}}), Err("no such disk".to_owned())),
            (json!({"status": {"attached": false}}), Err("volume h is not attached".to_owned())),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"attached": true}}),
                Err("volume attachment is being deleted".to_owned()),
            ),
        ] {
            let mut object = base.clone();
            object.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let attachment = serde_json::from_value(object).expect("an attachment");
            assert_eq!(metadata(&attachment, "h").map(|pairs| pairs["device"].clone()), want, "{more}");
        }
    }
}
