//! Images: those that nobody uses go, the longest unused first, when the runtime's file system fills up, and those that have not been used for too long
//! (upstream: `pkg/kubelet/images/image_gc_manager.go`).
//!
//! What to remove is decided by pure functions; [`Keeper`] asks and removes. Images in use, pinned ones and the sandbox image stay.

use crate::{node::usage::disk, pod::workers::Workers, recorder::About, runtime};
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1::{Container, Image};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often the file system is looked at (upstream: `ImageGCPeriod`).
const PERIOD: Duration = Duration::from_secs(300);

/// When to remove images.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The share of the file system, in hundredths, from which on images are removed.
    pub high: i64,
    /// The share down to which they are.
    pub low: i64,
    /// An image stays at least that long after it was first seen.
    pub minimum_age: SignedDuration,
    /// An image goes that long after it was last used; none is never.
    pub maximum_age: SignedDuration,
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    first_seen: Timestamp,
    last_used: Timestamp,
    size: u64,
    /// It is pinned, or the sandboxes'.
    spared: bool,
}

/// What is known of all.
#[derive(Default)]
pub struct Records(HashMap<String, Record>);

impl Records {
    /// Brings them up to date. Answers with the ids of the images in use.
    pub fn observe(&mut self, images: &[Image], containers: &[Container], sandbox: &str, now: Timestamp) -> HashSet<String> {
        let mut wanted: HashSet<&str> = HashSet::new();
        for container in containers {
            wanted.insert(&container.image_ref);
            wanted.insert(&container.image_id);
            wanted.extend(container.image.as_ref().map(|i| i.image.as_str()));
        }
        let named =
            |image: &Image, name: &str| image.id == name || image.repo_tags.iter().chain(&image.repo_digests).any(|known| known == name);
        let mut in_use = HashSet::new();
        for image in images {
            let used = wanted.contains(image.id.as_str())
                || image.repo_tags.iter().chain(&image.repo_digests).any(|n| wanted.contains(n.as_str()));
            let record = self.0.entry(image.id.clone()).or_insert(Record {
                first_seen: now,
                // Nothing is known of the time before: as upstream, an image that was never used was used never.
                last_used: Timestamp::UNIX_EPOCH,
                size: image.size,
                spared: false,
            });
            record.size = image.size;
            record.spared = image.pinned || (!sandbox.is_empty() && named(image, sandbox));
            if used {
                record.last_used = now;
                in_use.insert(image.id.clone());
            }
        }
        self.0.retain(|id, _| images.iter().any(|image| image.id == *id));
        in_use
    }

    /// The images that may go, the one to go first at the front.
    fn removable(&self, in_use: &HashSet<String>) -> Vec<(&String, &Record)> {
        let mut out: Vec<_> = self.0.iter().filter(|(id, record)| !record.spared && !in_use.contains(*id)).collect();
        out.sort_by_key(|(id, record)| (record.last_used, record.first_seen, *id));
        out
    }

    /// Images that have not been used for too long.
    pub fn too_old(&self, in_use: &HashSet<String>, policy: &Policy, now: Timestamp) -> Vec<String> {
        if policy.maximum_age.is_zero() {
            return Vec::new();
        }
        let unused = |record: &Record| now.duration_since(record.last_used.max(record.first_seen));
        self.removable(in_use).into_iter().filter(|(_, r)| unused(r) > policy.maximum_age).map(|(id, _)| id.clone()).collect()
    }

    /// The images to remove to free so many bytes, and how many that frees.
    pub fn to_free(&self, bytes: u64, in_use: &HashSet<String>, minimum_age: SignedDuration, now: Timestamp) -> (Vec<String>, u64) {
        let (mut out, mut freed) = (Vec::new(), 0);
        for (id, record) in self.removable(in_use) {
            if freed >= bytes {
                break;
            }
            if now.duration_since(record.first_seen) < minimum_age {
                continue;
            }
            out.push(id.clone());
            freed += record.size;
        }
        (out, freed)
    }
}

/// How much is to be freed of a file system; `None` while it is not full enough for that.
pub fn excess(capacity: i64, available: i64, policy: &Policy) -> Option<u64> {
    let available = available.min(capacity);
    let used = 100 - i128::from(available) * 100 / i128::from(capacity.max(1));
    if capacity <= 0 || used < i128::from(policy.high) {
        return None;
    }
    u64::try_from(i128::from(capacity) * i128::from(100 - policy.low) / 100 - i128::from(available)).ok()
}

/// Keeps images in bounds.
pub struct Keeper {
    workers: Arc<Workers>,
    policy: Policy,
    /// The image of sandboxes, where the command line names one.
    sandbox: String,
    records: Mutex<Records>,
}

impl Keeper {
    /// Nothing is known yet.
    pub fn new(workers: Arc<Workers>, policy: Policy, sandbox: String) -> Arc<Self> {
        Arc::new(Keeper { workers, policy, sandbox, records: Mutex::default() })
    }

    /// Runs until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        // Nothing is ever too full nor too old.
        if self.policy.high >= 100 && self.policy.maximum_age.is_zero() {
            return;
        }
        let mut failed = false;
        loop {
            match self.collect().await {
                Ok(()) => failed = false,
                // The first time may be too early, as the runtime has figures only after a while.
                Err(error) if !failed => {
                    tracing::warn!(%error, "images could not be looked through");
                    failed = true;
                }
                Err(error) => self.tell("ImageGCFailed", error.to_string()),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    fn tell(&self, reason: &str, message: String) {
        let node = self.workers.node();
        tracing::warn!(reason, %message, "images");
        node.events.warning(&About::node(&node.facts.name), reason, message);
    }

    async fn observe(&self) -> runtime::Result<HashSet<String>> {
        let node = self.workers.node();
        let (images, containers) = tokio::try_join!(node.runtime.list_images(), node.runtime.list_containers(&[]))?;
        let sandbox = match self.sandbox.as_str() {
            "" => node.runtime.sandbox_image().await.unwrap_or_default(),
            given => given.to_owned(),
        };
        Ok(self.records.lock().observe(&images, &containers, &sandbox, node.clock.now()))
    }

    /// One turn: images that are too old, then as many as the file system needs.
    async fn collect(&self) -> anyhow::Result<()> {
        let node = self.workers.node();
        let in_use = self.observe().await?;
        let now = node.clock.now();
        let old = self.records.lock().too_old(&in_use, &self.policy, now);
        self.remove(&old).await?;
        let Some(root) = node.vitals.meter.image_root(node.runtime.as_ref()).await else { return Ok(()) };
        let room = disk::filesystem(Path::new(&root))?.bytes;
        if room.capacity == 0 {
            self.tell("InvalidDiskCapacity", "invalid capacity 0 on image filesystem".into());
            return Ok(());
        }
        let Some(wanted) = excess(room.capacity, room.available, &self.policy) else { return Ok(()) };
        tracing::info!(
            capacity = room.capacity,
            available = room.available,
            wanted,
            "the disk is filled beyond the high threshold: removing images"
        );
        let (ids, freed) = self.records.lock().to_free(wanted, &in_use, self.policy.minimum_age, now);
        self.remove(&ids).await?;
        if freed < wanted {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
            );
            self.tell("FreeDiskSpaceFailed", message);
        }
        Ok(())
    }

    async fn remove(&self, ids: &[String]) -> runtime::Result<()> {
        let node = self.workers.node();
        for id in ids {
            tracing::info!(image = %id, "removing an image that is not used");
            node.runtime.remove_image(id).await?;
            self.records.lock().0.remove(id);
        }
        if !ids.is_empty() {
            node.images.changed();
        }
        Ok(())
    }

    /// Removes every image that nobody uses, whatever its age.
    pub async fn delete_unused(&self) -> runtime::Result<()> {
        let in_use = self.observe().await?;
        let now = self.workers.node().clock.now();
        let (ids, _) = self.records.lock().to_free(u64::MAX, &in_use, SignedDuration::ZERO, now);
        self.remove(&ids).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_cri::v1::ImageSpec;

    fn image(id: &str, size: u64, pinned: bool) -> Image {
        Image { id: id.into(), repo_tags: vec![format!("{id}:1")], size, pinned, ..Default::default() }
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minute * 60).expect("a time")
    }

    fn using(image: &str) -> Container {
        Container { image: Some(ImageSpec { image: image.into(), ..Default::default() }), ..Default::default() }
    }

    const POLICY: Policy =
        Policy { high: 85, low: 80, minimum_age: SignedDuration::from_mins(2), maximum_age: SignedDuration::from_mins(60) };

    #[test]
    fn the_longest_unused_goes_first_and_the_young_stay() {
        let images = [
            image("used", 10, false),
            image("pause", 1, false),
            image("pinned", 5, true),
            image("once", 20, false),
            image("never", 30, false),
        ];
        let mut records = Records::default();
        records.observe(&images, &[using("once:1"), using("used")], "pause:1", at(0));
        let in_use = records.observe(&images, &[using("used")], "pause:1", at(5));
        assert_eq!(records.to_free(25, &in_use, POLICY.minimum_age, at(5)), (vec!["never".to_owned()], 30));
        assert_eq!(records.to_free(45, &in_use, POLICY.minimum_age, at(5)).0, ["never", "once"]);
        let in_use = records.observe(&[image("new", 50, false)], &[], "", at(6));
        assert_eq!(records.to_free(1, &in_use, POLICY.minimum_age, at(7)), (vec![], 0), "it was first seen a minute ago");
        assert_eq!(records.to_free(1, &in_use, POLICY.minimum_age, at(8)).1, 50);
    }

    #[test]
    fn an_image_that_nobody_has_used_for_too_long_goes() {
        let images = [image("used", 10, false), image("once", 20, false)];
        let mut records = Records::default();
        records.observe(&images, &[using("once"), using("used")], "", at(0));
        let in_use = records.observe(&images, &[using("used")], "", at(60));
        assert!(records.too_old(&in_use, &POLICY, at(60)).is_empty());
        assert_eq!(records.too_old(&in_use, &POLICY, at(61)), ["once"]);
        assert!(records.too_old(&in_use, &Policy { maximum_age: SignedDuration::ZERO, ..POLICY }, at(900)).is_empty());
    }

    #[test]
    fn a_disk_is_emptied_from_the_high_threshold_to_the_low() {
        assert_eq!(excess(1000, 160, &POLICY), None);
        assert_eq!(excess(1000, 150, &POLICY), Some(50));
        assert_eq!(excess(1000, 0, &POLICY), Some(200));
        assert_eq!(excess(0, 0, &POLICY), None);
    }
}
