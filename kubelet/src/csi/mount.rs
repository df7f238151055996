//! A volume's way into a pod and out of it: staged for the node, published for the pod, and back (upstream: `csi_attacher.go`, `csi_mounter.go`).
//!
//! The driver is asked from a task of its own: a pod that is deleted meanwhile does not break off a call half done, and who comes next waits for its turn.

use super::{
    AGAIN, Csi, Published, Use,
    driver::{Driver, is_final, told},
    failure,
    layout::VolumeData,
    protocol::{Ability, CapacityRange, ExpandRequest, Pairs, PublishRequest, StageRequest, UnpublishRequest, UnstageRequest},
    volume::{CsiVolume, EPHEMERAL, SecretName},
};
use crate::{
    container::identity,
    recorder::About,
    volume::{
        SET_UP, VolumeContext,
        ownership::{self, own_tree},
        setup::{Failure, Gives, Mounted, is_mount_point},
    },
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod, Secret},
    storage::v1::CSIDriverSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use nix::mount::{MntFlags, umount2};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Code, Status};

/// How long the API may take to say what drivers there are.
const DRIVERS: Duration = Duration::from_secs(10);

const MOUNT_DEVICE: &str = "MountVolume.MountDevice";
/// How far a claim is on its way to a size, and the condition that tells what went wrong there.
const GROWING: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";
const FAILED: &str = "NodeResizeError";

/// All that a volume is set up with.
pub(super) struct Job {
    pub volume: CsiVolume,
    pub pod: Arc<Pod>,
    pub spec: Option<CSIDriverSpec>,
    pub publish_context: Pairs,
    pub stage_secrets: Pairs,
    pub publish_secrets: Pairs,
    /// The driver's attributes, and what it is told of the pod.
    pub context: Pairs,
}

impl Job {
    pub(super) fn uid(&self) -> &str {
        identity::uid(&self.pod)
    }

    pub(super) fn stage_request(&self, driver: &Driver, path: &Path) -> StageRequest {
        StageRequest {
            volume_id: self.volume.handle.clone(),
            publish_context: self.publish_context.clone(),
            staging_target_path: path.to_string_lossy().into_owned(),
            volume_capability: Some(self.volume.capability(&driver.abilities, ownership::group(&self.pod))),
            secrets: self.stage_secrets.clone(),
            volume_context: self.volume.attributes.clone(),
        }
    }

    pub(super) fn publish_request(&self, driver: &Driver, staged: Option<&Path>, target: &Path) -> PublishRequest {
        PublishRequest {
            volume_id: self.volume.handle.clone(),
            publish_context: self.publish_context.clone(),
            staging_target_path: staged.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            target_path: target.to_string_lossy().into_owned(),
            volume_capability: Some(self.volume.capability(&driver.abilities, ownership::group(&self.pod))),
            readonly: self.volume.read_only,
            secrets: self.publish_secrets.clone(),
            volume_context: self.context.clone(),
        }
    }
}

impl Csi {
    /// Sets a volume up for a pod, or sees that it is; what has to be waited for wakes the pod.
    pub async fn set_up(self: &Arc<Self>, volume: CsiVolume, name_in_pod: &str, context: &VolumeContext<'_>) -> Result<Mounted, Failure> {
        let uid = identity::uid(context.pod);
        let place = if volume.block {
            self.layout.link(uid, &volume.spec_name)
        } else {
            self.layout.published(uid, &volume.spec_name).join("mount")
        };
        let gives = if volume.block { Gives::Device } else { Gives::Files };
        let mounted = Mounted { path: place, read_only: volume.read_only, gives };
        let key = (uid.to_owned(), volume.spec_name.clone());
        let before = self.published.lock().get(&key).cloned();
        if before.as_ref().is_some_and(|p| !p.again || p.at.elapsed() < AGAIN) && volume.grows_to().is_none() {
            return Ok(mounted);
        }
        if !volume.inline {
            self.want(&volume, uid);
        }
        // Registered for before it is looked at, so that nothing falls in between.
        if let Some(waker) = context.lookup.waker(uid) {
            self.waiting.lock().insert(uid.to_owned(), waker);
        }
        let known = tokio::time::timeout(DRIVERS, self.objects.wait_until_synced()).await;
        known.map_err(|_| failure("FailedMount", SET_UP, &volume.spec_name, "CSIDrivers has not been synced yet"))?;
        let object = self.object(&volume.driver);
        volume
            .verify_mode(object.as_deref())
            .map_err(|error| failure("FailedMount", "MountVolume.NewMounter initialization", &volume.spec_name, error))?;
        if !volume.inline && self.is_attachable(&volume.driver) && !self.is_attached(&volume) {
            return Err(Failure { volume: volume.spec_name, event: None });
        }
        let (reason, step) = if volume.block { super::device::WORDS } else { ("FailedMount", SET_UP) };
        let name = volume.spec_name.clone();
        let job = self.job(volume, object.map(|object| object.spec.clone()), context).await;
        let job = job.map_err(|error| failure(reason, step, &name, error))?;
        let republish = job.spec.as_ref().and_then(|spec| spec.requires_republish) == Some(true);
        let (csi, volume) = (self.clone(), job.volume.clone());
        let is_new = before.is_none() || republish;
        let done = tokio::spawn(async move {
            let turn = csi.turn(&job.volume.unique_name());
            let _turn = turn.lock().await;
            match (is_new, job.volume.block) {
                (false, _) => Ok(()),
                (true, true) => csi.map_device(&job).await,
                (true, false) => csi.mount(&job).await,
            }
        });
        done.await.map_err(|error| failure(reason, step, &name, error))??;
        self.waiting.lock().remove(uid);
        self.grow(&volume, &mounted.path, context).await?;
        let grows = volume.size.is_some() && self.driver(&volume.driver).is_ok_and(|d| d.can(Ability::ExpandVolume));
        self.published
            .lock()
            .insert(key, Published { name: name_in_pod.to_owned(), at: Instant::now(), again: republish || grows, usage: None });
        Ok(mounted)
    }

    /// Fetches what the driver has to be told.
    async fn job(&self, volume: CsiVolume, spec: Option<CSIDriverSpec>, context: &VolumeContext<'_>) -> Result<Job, String> {
        let attached = !volume.inline && self.is_attachable(&volume.driver);
        let publish_context = if attached { self.publish_context(&volume).await? } else { Pairs::new() };
        let mut attributes = volume.attributes.clone();
        attributes.extend(volume.pod_info(context.pod, spec.as_ref()));
        let mut publish_secrets = self.secret(volume.secrets.publish.as_ref(), "NodePublishSecretRef").await?;
        if let Some(tokens) = tokens(spec.as_ref(), context).await? {
            let in_secrets = spec.as_ref().and_then(|s| s.service_account_token_in_secrets) == Some(true);
            let target = if in_secrets { &mut publish_secrets } else { &mut attributes };
            target.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
        }
        Ok(Job {
            publish_context,
            stage_secrets: self.secret(volume.secrets.stage.as_ref(), "NodeStageSecretRef").await?,
            publish_secrets,
            context: attributes,
            pod: Arc::new(context.pod.clone()),
            volume,
            spec,
        })
    }

    /// What is in a secret. It may be of any namespace, as who made the volume said.
    async fn secret(&self, name: Option<&SecretName>, what: &str) -> Result<Pairs, String> {
        let Some((namespace, name)) = name else { return Ok(Pairs::new()) };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = secrets.get(name).await.map_err(|error| match error {
            kube::Error::Api(status) => format!("fetching {what} {namespace}/{name} failed: {}", status.message),
            other => format!("fetching {what} {namespace}/{name} failed: {other}"),
        })?;
        let data = found.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
    }

    async fn mount(&self, job: &Job) -> Result<(), Failure> {
        let volume = &job.volume;
        let set_up = |error: String| failure("FailedMount", SET_UP, &volume.spec_name, error);
        let unknown = |client: &str, error| {
            let step = if volume.inline { SET_UP } else { MOUNT_DEVICE };
            failure("FailedMount", step, &volume.spec_name, format!("kubernetes.io/csi: {client}: {error}"))
        };
        let client = if volume.inline {
            "mounter.SetUpAt failed to get CSI client"
        } else {
            "attacher.MountDevice failed to create newCsiDriverClient"
        };
        let driver = self.driver(&volume.driver).map_err(|error| unknown(client, error))?;
        let dir = self.layout.published(job.uid(), &volume.spec_name);
        // Before anything is done, so that whoever comes after knows what to undo.
        volume.data(&self.node).write(&dir).map_err(|e| set_up(format!("kubernetes.io/csi: failed to save volume info data: {e}")))?;
        let stages = !volume.inline && driver.can(Ability::StageUnstageVolume);
        let staged = stages.then(|| self.layout.staged(&volume.driver, &volume.handle));
        if let Some(staged) = &staged {
            self.stage(job, &driver, staged).await.map_err(|error| failure("FailedMount", MOUNT_DEVICE, &volume.spec_name, error))?;
        }
        let target = dir.join("mount");
        driver.publish(job.publish_request(&driver, staged.as_deref(), &target)).await.map_err(|status| set_up(told(&status)))?;
        if volume.is_handed_over(job.spec.as_ref()) && !driver.can(Ability::VolumeMountGroup) {
            own_tree(&target, &job.pod).map_err(|e| set_up(format!("applyFSGroup failed for vol {}: {e}", volume.handle)))?;
        }
        Ok(())
    }

    async fn stage(&self, job: &Job, driver: &Driver, path: &Path) -> Result<(), String> {
        let name = job.volume.unique_name();
        if self.staged.lock().contains(&name) {
            return Ok(());
        }
        let data = VolumeData { volume_handle: job.volume.handle.clone(), driver_name: job.volume.driver.clone(), ..Default::default() };
        let written = fs::create_dir_all(path).and_then(|()| data.write(path.parent().unwrap_or(path)));
        written.map_err(|e| format!("kubernetes.io/csi: failed to save volume info data: {e}"))?;
        let staged = driver.stage(job.stage_request(driver, path)).await;
        if staged.as_ref().is_err_and(|status| self.is_unstaged(&name, status)) {
            let removed = remove_target(path).and_then(|()| fs::remove_dir_all(path.parent().unwrap_or(path)));
            removed.map_err(|e| format!("kubernetes.io/csi: failed to remove {}: {e}", path.display()))?;
        }
        staged.map_err(|status| told(&status))?;
        self.staged.lock().insert(name);
        Ok(())
    }

    /// Whether there is nothing to undo of a volume that failed to be staged.
    pub(super) fn is_unstaged(&self, volume: &str, status: &Status) -> bool {
        is_final(status) && !self.uses.lock().get(volume).is_some_and(|used| used.is_left)
    }

    /// Has the driver bring the file system to the size that the volume has by now, and says so on the claim.
    async fn grow(&self, volume: &CsiVolume, path: &Path, context: &VolumeContext<'_>) -> Result<(), Failure> {
        let (Some(bytes), Some((size, claim))) = (volume.grows_to(), &volume.size) else { return Ok(()) };
        let Ok(driver) = self.driver(&volume.driver) else { return Ok(()) };
        if !driver.can(Ability::ExpandVolume) {
            return Ok(());
        }
        let state = claim.status.as_ref().and_then(|status| status.allocated_resource_statuses.as_ref()?.get("storage"));
        if state.is_some_and(|state| state == INFEASIBLE) {
            // Until the driver's resizer has found another size.
            return Ok(());
        }
        let failed = |error: String| failure("VolumeResizeFailed", "NodeExpandVolume.NodeExpandVolume", &volume.spec_name, error);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), identity::namespace(context.pod));
        let (claims, name) = (&claims, claim.metadata.name.as_deref().unwrap_or_default());
        let say = |what: serde_json::Value| async move {
            claims.patch_status(name, &PatchParams::default(), &Patch::Merge(what)).await.map_err(|error| error.to_string())
        };
        if state.is_none_or(|state| state != GROWING) {
            say(growing()).await.map_err(|error| failed(format!("mark PVC expansion in progress failed: {error}")))?;
        }
        let staged =
            if volume.block { self.layout.staged_device(&volume.spec_name) } else { self.layout.staged(&volume.driver, &volume.handle) };
        let request = ExpandRequest {
            volume_id: volume.handle.clone(),
            volume_path: path.to_string_lossy().into_owned(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            staging_target_path: if driver.can(Ability::StageUnstageVolume) {
                staged.to_string_lossy().into_owned()
            } else {
                String::new()
            },
            volume_capability: Some(volume.capability(&driver.abilities, ownership::group(context.pod))),
            secrets: self.secret(volume.secrets.expand.as_ref(), "NodeExpandSecretRef").await.map_err(failed)?,
        };
        if let Err(status) = driver.expand(request).await {
            let said = say(not_resized(claim, &status, Timestamp::now())).await;
            said.map_err(|error| failed(format!("{}; mark PVC expansion failed: {error}", told(&status))))?;
            return Err(failed(told(&status)));
        }
        say(resized(claim, &size.0)).await.map_err(|error| failed(format!("mark PVC resize finished failed: {error}")))?;
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume {:?} {}", volume.spec_name, self.node);
        context.events.normal(&About::pod(context.pod), "FileSystemResizeSuccessful", message);
        Ok(())
    }

    /// Takes all away that a pod has of drivers' volumes. What was not taken away is tried again with the next call, and what is the node's by itself.
    pub async fn tear_down(self: &Arc<Self>, uid: &str) -> io::Result<()> {
        self.waiting.lock().remove(uid);
        let mut left = self.wanted_by(uid);
        left.extend(self.layout.devices_of(uid).into_iter().map(|(_, data)| (data.unique_name(), data)));
        for (dir, data) in self.layout.volumes_of(uid) {
            let turn = self.turn(&data.unique_name());
            let _turn = turn.lock().await;
            let target = dir.join("mount");
            let request = UnpublishRequest { volume_id: data.volume_handle.clone(), target_path: target.to_string_lossy().into_owned() };
            self.driver(&data.driver_name)
                .map_err(io::Error::other)?
                .unpublish(request)
                .await
                .map_err(|status| io::Error::other(told(&status)))?;
            remove_target(&target)?;
            fs::remove_dir_all(&dir)?;
            if data.volume_lifecycle_mode != EPHEMERAL {
                left.insert(data.unique_name(), data);
            }
        }
        self.unmap_devices(uid).await?;
        self.published.lock().retain(|(pod, _), _| pod != uid);
        for data in left.into_values() {
            self.release_or_retry(data, uid).await;
        }
        Ok(())
    }

    /// The volumes that a pod said it has a use for, by their names in the node's status.
    fn wanted_by(&self, uid: &str) -> BTreeMap<String, VolumeData> {
        let uses = self.uses.lock();
        let own = uses.iter().filter(|(_, used)| used.pods.contains(uid));
        let data = |used: &Use| VolumeData { volume_handle: used.handle.clone(), driver_name: used.driver.clone(), ..Default::default() };
        own.map(|(name, used)| (name.clone(), data(used))).collect()
    }

    /// A pod has no use for a volume any more: where it was the last one, the volume is unstaged and may be detached.
    pub(super) async fn release(&self, data: &VolumeData, uid: &str) -> Result<(), String> {
        let (driver, handle) = (&data.driver_name, &data.volume_handle);
        let name = data.unique_name();
        let turn = self.turn(&name);
        let _turn = turn.lock().await;
        let wanted = self.uses.lock().get_mut(&name).is_some_and(|used| {
            used.pods.remove(uid);
            !used.pods.is_empty()
        });
        if wanted || self.layout.is_used(driver, handle, uid) {
            return Ok(());
        }
        let staged = self.layout.staged(driver, handle);
        let dir = staged.parent().unwrap_or(&staged);
        if dir.exists() {
            self.unstage(data, &staged).await?;
            remove_target(&staged).and_then(|()| fs::remove_dir_all(dir)).map_err(|e| format!("removing {}: {e}", dir.display()))?;
        }
        self.release_device(data).await?;
        self.forget(&name);
        Ok(())
    }

    pub(super) async fn unstage(&self, data: &VolumeData, staged: &Path) -> Result<(), String> {
        let driver = self.driver(&data.driver_name)?;
        if !driver.can(Ability::StageUnstageVolume) {
            return Ok(());
        }
        // Whether or not it fails: who wants the volume next has it staged.
        self.staged.lock().remove(&data.unique_name());
        let request = UnstageRequest { volume_id: data.volume_handle.clone(), staging_target_path: staged.to_string_lossy().into_owned() };
        driver.unstage(request).await.map_err(|status| told(&status))
    }
}

/// Removes where a driver mounted something. What it left mounted is unmounted first.
pub(super) fn remove_target(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if found.is_dir() && !is_mount_point(target)? => {}
        Ok(found) => {
            // A file is bound over another file, which nothing but trying tells.
            let unmounted = umount2(target, MntFlags::MNT_DETACH);
            if found.is_dir() {
                unmounted?;
            }
        }
    }
    if target.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) }
}

/// The patch that says on a claim that its volume has its new size.
fn resized(claim: &PersistentVolumeClaim, size: &str) -> serde_json::Value {
    let left = conditions_but(claim, &["Resizing", "FileSystemResizePending", "ControllerResizeError", FAILED]);
    json!({"status": {"capacity": {"storage": size}, "allocatedResourceStatuses": {"storage": null}, "conditions": left}})
}

/// What a claim says while its file system grows.
fn growing() -> serde_json::Value {
    json!({"status": {"allocatedResourceStatuses": {"storage": GROWING}}})
}

/// What a claim says whose file system could not grow: why, and whether there is a point in trying again (upstream: `MarkNodeExpansionInfeasible`).
fn not_resized(claim: &PersistentVolumeClaim, status: &Status, now: Timestamp) -> serde_json::Value {
    let mut conditions = conditions_but(claim, &[FAILED]);
    conditions.push(PersistentVolumeClaimCondition {
        type_: FAILED.into(),
        status: "True".into(),
        message: Some(format!("failed to expand pvc with {}", told(status))),
        last_transition_time: Some(Time(now)),
        ..Default::default()
    });
    let infeasible = matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::NotFound);
    let state = if infeasible { INFEASIBLE } else { GROWING };
    json!({"status": {"allocatedResourceStatuses": {"storage": state}, "conditions": conditions}})
}

/// A claim's conditions but those of some types.
fn conditions_but(claim: &PersistentVolumeClaim, types: &[&str]) -> Vec<PersistentVolumeClaimCondition> {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.into_iter().filter(|condition| !types.contains(&condition.type_.as_str())).collect()
}

/// Tokens of the pod's account for the audiences that the driver asks for, as it expects them.
async fn tokens(spec: Option<&CSIDriverSpec>, context: &VolumeContext<'_>) -> Result<Option<String>, String> {
    let requests = spec.and_then(|s| s.token_requests.clone()).unwrap_or_default();
    let mut tokens = serde_json::Map::new();
    for request in requests {
        let audience = Some(request.audience.as_str()).filter(|audience| !audience.is_empty());
        let token = context.lookup.token_with_end(context.pod, audience, request.expiration_seconds).await.map_err(|e| e.to_string())?;
        tokens
            .insert(request.audience, json!({"token": token.0, "expirationTimestamp": token.1.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}));
    }
    Ok((!tokens.is_empty()).then(|| serde_json::Value::Object(tokens).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_has_grown_says_so_and_keeps_what_else_it_says() {
        let conditions = json!([{"type": "FileSystemResizePending", "status": "True"}, {"type": "Other", "status": "True"}]);
        let claim = serde_json::from_value(json!({"status": {"conditions": conditions}})).expect("a claim");
        let want = json!({"status": {
            "capacity": {"storage": "2Gi"}, "allocatedResourceStatuses": {"storage": null}, "conditions": [{"type": "Other", "status": "True"}],
        }});
        assert_eq!(resized(&claim, "2Gi"), want);
    }

    #[test]
    fn a_claim_that_could_not_grow_says_why_and_whether_that_may_change() {
        let conditions =
            json!([{"type": "FileSystemResizePending", "status": "True"}, {"type": FAILED, "status": "True", "message": "before"}]);
        let claim = serde_json::from_value(json!({"status": {"conditions": conditions}})).expect("a claim");
        for (status, state) in [(Status::out_of_range("too much"), INFEASIBLE), (Status::unavailable("too much"), GROWING)] {
            let said = not_resized(&claim, &status, Timestamp::UNIX_EPOCH);
            assert_eq!(said["status"]["allocatedResourceStatuses"]["storage"], state);
            let told = said["status"]["conditions"].as_array().expect("a list");
            assert_eq!((told.len(), &told[0]["type"], &told[1]["type"]), (2, &json!("FileSystemResizePending"), &json!(FAILED)));
            assert!(told[1]["message"].as_str().is_some_and(|why| why.ends_with("desc = too much")), "{told:?}");
        }
    }
}
