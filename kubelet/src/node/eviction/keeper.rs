//! The eviction task: looks, tells the node its conditions, reclaims what the node itself can spare, and ends one pod after the other until nothing is short.
//!
//! A look is cheap ([`sample`]), and made every ten seconds, every second near a threshold ([`state`]). Only a shortage, or a pod whose use of the disk is
//! limited, has the runtime asked and directories walked. Upstream makes the full account every ten seconds.

use super::{
    limits, rank,
    sample::{self, Sample, Where},
    signal::{Place, Pressure},
    state::{State, Step},
    threshold::Threshold,
};
use crate::{
    container::identity,
    node::usage::{
        collect::{self, Detail},
        disk,
        summary::Summary,
    },
    node::{Node, admission::is_critical, gc},
    pod::{worker::Failure, workers::Workers},
    recorder::About,
};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What a pod that has to go at once gets, in seconds.
const AT_ONCE: u64 = 1;
/// How long an evicted pod is waited for before there is another look (upstream: `podCleanupTimeout`).
const CLEANUP: Duration = Duration::from_secs(30);

/// How evictions are made.
pub struct Settings {
    /// What has to stay free.
    pub thresholds: Vec<Threshold>,
    /// How long a condition stays after it was last called for.
    pub transition: Duration,
    /// What a pod gets at most, in seconds, when a soft threshold makes it go; 0 leaves it what it has by itself.
    pub max_grace: u64,
    /// What pods may have of the machine's memory together.
    pub pods_memory: i64,
    /// Whether pods go that take more disk than they may.
    pub storage_limits: bool,
}

struct Keeper {
    workers: Arc<Workers>,
    settings: Settings,
    images: Arc<gc::images::Keeper>,
    state: State,
}

/// Runs until told to stop. A node without places has nothing to run short of.
pub async fn keep(workers: Arc<Workers>, settings: Settings, images: Arc<gc::images::Keeper>, stop: CancellationToken) {
    let mut keeper = Keeper { workers, settings, images, state: State::default() };
    loop {
        let wait = keeper.turn().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Keeper {
    fn node(&self) -> &Node {
        self.workers.node()
    }

    async fn look(&self) -> Option<(Sample, bool)> {
        let node = self.node();
        let (places, cgroups) = (node.places.as_ref()?, node.cgroups.as_ref()?);
        let images = node.vitals.meter.image_root(node.runtime.as_ref()).await;
        let apart = images.as_deref().is_some_and(|images| disk::are_apart(&places.root, images));
        let at = Where {
            root: places.root.clone(),
            images,
            machine: cgroups.machine(),
            pods: cgroups.all_pods(),
            memory: node.facts.memory,
            pods_memory: self.settings.pods_memory,
        };
        Some((sample::take(&at), apart))
    }

    /// One turn. Answers when the next one is due.
    async fn turn(&mut self) -> Duration {
        const LATER: Duration = Duration::from_secs(10);
        let Some((sample, apart)) = self.look().await else { return LATER };
        let (transition, now) = (self.settings.transition, self.node().clock.now());
        let step = self.state.step(&self.settings.thresholds, &sample, transition, now);
        self.node().vitals.pressures.send_if_modified(|known| {
            let news = *known != step.pressures;
            known.clone_from(&step.pressures);
            news
        });
        let wait = self.state.relief(transition, now).map_or(step.next, |relief| relief.min(step.next)).max(Duration::from_millis(10));
        match self.act(&step, &sample, apart).await {
            Ok(true) => Duration::ZERO,
            // Nothing can be done, or what could be done has been: looking at once again would change nothing.
            Ok(false) if !step.starved.is_empty() => LATER,
            Ok(false) => wait,
            Err(error) => {
                tracing::warn!(%error, "what pods use could not be found out");
                wait
            }
        }
    }

    /// Does what the step calls for. Answers whether a pod was ended, after which there is another look at once.
    async fn act(&self, step: &Step, sample: &Sample, apart: bool) -> crate::runtime::Result<bool> {
        let mut pods = self.workers.active();
        let limited = self.settings.storage_limits && pods.iter().any(|pod| limits::has_limits(pod));
        if step.starved.is_empty() && !limited {
            return Ok(false);
        }
        let node = self.node();
        let usage = collect::collect(node, &pods, Detail::All).await?;
        if limited && self.end_who_took_too_much(&pods, &usage, apart).await {
            return Ok(true);
        }
        let Some(first) = step.starved.first() else { return Ok(false) };
        let resource = first.signal.resource;
        tracing::warn!(signal = first.signal.name, resource, "attempting to reclaim");
        node.events.warning(&About::node(&node.facts.name), "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        if self.reclaim(first.signal.place, apart).await {
            return Ok(false);
        }
        rank::rank(&mut pods, &usage, first.signal, apart);
        for pod in &pods {
            let message = rank::message(pod, &usage, &step.starved, sample);
            let grace = if first.is_hard() { Some(AT_ONCE) } else { self.soft_grace(pod) };
            let condition = PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("TerminationByKubelet".into()),
                message: Some(message.clone()),
                ..Default::default()
            };
            if self.evict(pod, message, grace, Some(condition)).await {
                node.vitals.metrics.evicted(first.signal.name);
                return Ok(true);
            }
        }
        tracing::warn!("no pod of the node can be evicted");
        Ok(false)
    }

    /// What a pod gets when a soft threshold makes it go: no more than it has by itself.
    fn soft_grace(&self, pod: &Pod) -> Option<u64> {
        let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
        Some(self.settings.max_grace).filter(|most| *most > 0).map(|most| own.map_or(most, |own| own.min(most)))
    }

    async fn end_who_took_too_much(&self, pods: &[Arc<Pod>], usage: &Summary, apart: bool) -> bool {
        let mut any = false;
        for pod in pods {
            let Some(message) = usage.pod(identity::uid(pod)).and_then(|stats| limits::exceeded(pod, stats, apart)) else { continue };
            if self.evict(pod, message, Some(AT_ONCE), None).await {
                self.node().vitals.metrics.evicted("ephemeral-storage.limit");
                any = true;
            }
        }
        any
    }

    /// Frees what nobody uses. Answers whether nothing is short any more.
    async fn reclaim(&self, place: Place, apart: bool) -> bool {
        if !matches!((place, apart), (Place::ImageFs, _) | (Place::NodeFs, false)) {
            return false;
        }
        if let Err(error) = gc::containers::collect(&self.workers, gc::containers::Which::AllUnused).await {
            tracing::warn!(%error, "dead containers could not be removed");
        }
        if let Err(error) = self.images.delete_unused().await {
            tracing::warn!(%error, "unused images could not be removed");
        }
        let Some((sample, _)) = self.look().await else { return false };
        let short = |t: &Threshold| (t.signal.observe)(&sample).is_some_and(|seen| t.is_met(seen, true));
        !self.settings.thresholds.iter().any(short)
    }

    /// Ends a pod, unless the cluster cannot do without it, and waits until it has ended.
    async fn evict(&self, pod: &Arc<Pod>, message: String, grace: Option<u64>, condition: Option<PodCondition>) -> bool {
        if is_critical(pod) {
            tracing::warn!(pod = %identity::described(pod), "a critical pod is not evicted");
            return false;
        }
        tracing::warn!(pod = %identity::described(pod), %message, "evicting");
        self.node().events.warning(&About::pod(pod), "Evicted", message.clone());
        self.workers.fail(pod.clone(), Failure { grace, condition, ..Failure::new("Evicted", message) });
        let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok()).unwrap_or(30);
        let patience = CLEANUP + Duration::from_secs(grace.unwrap_or(own));
        if tokio::time::timeout(patience, self.workers.ended(identity::uid(pod))).await.is_err() {
            tracing::warn!(pod = %identity::described(pod), "the evicted pod has not ended yet");
        }
        true
    }
}

/// Whether a pod is kept out because of the node's conditions: all but critical ones are under pressure, but memory pressure keeps only pods out that ask
/// for none, and of those only the ones that do not tolerate it.
pub fn refuses(pod: &Pod, best_effort: bool, pressures: &[Pressure]) -> Option<String> {
    if pressures.is_empty() || is_critical(pod) {
        return None;
    }
    if pressures == [Pressure::MemoryPressure] && (!best_effort || crate::node::admission::tolerates_memory_pressure(pod)) {
        return None;
    }
    let names: Vec<&str> = pressures.iter().map(|p| p.as_str()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}
