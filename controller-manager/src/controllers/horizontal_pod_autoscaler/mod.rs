//! HorizontalPodAutoscalers: sets the number of replicas of a workload by what its pods use, or by other metrics (upstream: `pkg/controller/podautoscaler`).
//!
//! Metrics have no watch, so every autoscaler is looked at again and again ([`Tuning::period`]); where there is none, nothing is asked. What a metric asks for is decided in
//! [`replicas`], what is made of it in [`behavior`]. Left out: a fallback value for external metrics that fail, which is off by default upstream.

mod behavior;
mod compute;
mod metrics;
mod replicas;
mod scale;
mod status;

use crate::children::text;
use crate::controller::{Context, Controller, Keys};
use crate::ops::{Op, Request};
use api::selector::LabelSelector as Selector;
use behavior::{History, Wanted, normalize};
use client::{Cache, Change, ObjectKey};
use compute::Reading;
use futures::future::BoxFuture;
use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use metrics::Metrics;
use parking_lot::Mutex;
pub use replicas::Startup;
use scale::Scales;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How autoscalers are looked at, where they do not say themselves (`--horizontal-pod-autoscaler-*`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// How often.
    pub period: Duration,
    /// For how long the highest proposal counts on the way down.
    pub downscale: SignedDuration,
    /// How far use may be off the target, as a share.
    pub tolerance: f64,
    /// How pods start.
    pub startup: Startup,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(15),
            downscale: SignedDuration::from_mins(5),
            tolerance: 0.1,
            startup: Startup { initialization: SignedDuration::from_mins(5), readiness: SignedDuration::from_secs(30) },
        }
    }
}

/// Keys are autoscalers.
pub struct Autoscaler {
    context: Context,
    autoscalers: Arc<Cache<HorizontalPodAutoscaler>>,
    pods: Arc<Cache<Pod>>,
    scales: Scales,
    metrics: Metrics,
    /// By autoscaler; one that is gone has no entry.
    known: Mutex<HashMap<ObjectKey, Known>>,
}

#[derive(Default)]
struct Known {
    history: History,
    /// What picks the pods of its target.
    selector: Option<Selector>,
}

impl Autoscaler {
    /// With the shared caches.
    pub fn new(context: Context) -> Self {
        let client = context.executor.client().clone();
        Self {
            autoscalers: context.caches.of(),
            pods: context.caches.of(),
            scales: Scales::new(client.clone()),
            metrics: Metrics(client),
            known: Mutex::default(),
            context,
        }
    }

    async fn sync(&self, key: &ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(original) = self.autoscalers.get(key) else {
            self.known.lock().remove(key);
            return Ok(None);
        };
        let mut hpa = (*original).clone();
        let failure = self.rescale(key, &mut hpa).await.err();
        if hpa.status != original.status {
            self.context.executor.apply(vec![Op::send(Request::replace_status(&hpa).tolerating(&[404]))]).await?;
        }
        if let Some(failure) = failure {
            // It is told in the status and by events; the next look comes as always.
            tracing::info!(autoscaler = %key, failure, "not scaled");
        }
        Ok(Some(self.context.settings.autoscaling.period))
    }

    fn event(&self, hpa: &HorizontalPodAutoscaler, warning: bool, reason: &'static str, message: &str) {
        let about = client::events::reference(hpa, None);
        match warning {
            true => self.context.executor.recorder().warning(about, reason, message),
            false => self.context.executor.recorder().normal(about, reason, message),
        }
    }

    /// Decides and scales; the status of `hpa` says what came of it.
    async fn rescale(&self, key: &ObjectKey, hpa: &mut HorizontalPodAutoscaler) -> Result<(), String> {
        let now = self.context.clock.now();
        let target = hpa.spec.scale_target_ref.clone();
        let reference = format!("{}/{}/{}", target.kind, key.namespace, target.name);
        let found = self.scales.get(&key.namespace, target.api_version.as_deref().unwrap_or_default(), &target.kind, &target.name).await;
        let scale = match found {
            Ok(scale) => scale,
            Err(error) => {
                self.event(hpa, true, "FailedGetScale", &error);
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                status::set_condition(hpa, "AbleToScale", false, "FailedGetScale", &message, now);
                return Err(format!("failed to query scale subresource for {reference}: {error}"));
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        status::set_condition(hpa, "AbleToScale", true, "SucceededGetScale", message, now);
        let current = scale.replicas;
        self.known.lock().entry(key.clone()).or_default().history.begin(current, now);

        let (min, max) = (hpa.spec.min_replicas.unwrap_or(1), hpa.spec.max_replicas);
        let mut readings = Vec::new();
        let (desired, why) = if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            status::set_condition(hpa, "ScalingActive", false, "ScalingDisabled", message, now);
            (current, String::new())
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            match self.compute(key, hpa, &scale, now).await {
                Ok(Reading { replicas, metric, statuses }) => {
                    readings = statuses;
                    let why = match replicas.cmp(&current) {
                        std::cmp::Ordering::Greater => format!("{metric} above target"),
                        std::cmp::Ordering::Less => "All metrics below target".to_owned(),
                        std::cmp::Ordering::Equal => String::new(),
                    };
                    let wanted = Wanted { current, proposed: replicas, min, max, downscale: self.context.settings.autoscaling.downscale };
                    let normalized = {
                        let mut known = self.known.lock();
                        normalize(wanted, hpa.spec.behavior.as_ref(), &mut known.entry(key.clone()).or_default().history, now)
                    };
                    let (limited, note) = normalized.limited;
                    status::set_condition(hpa, "AbleToScale", true, normalized.able.reason, normalized.able.message, now);
                    status::set_condition(hpa, "ScalingLimited", limited, note.reason, note.message, now);
                    (normalized.replicas, why)
                }
                Err(error) => {
                    let desired = hpa.status.as_ref().map_or(0, |status| status.desired_replicas);
                    status::set_replicas(hpa, current, desired, Vec::new(), None);
                    self.event(hpa, true, "FailedComputeMetricsReplicas", &error);
                    return Err(format!("failed to compute desired number of replicas based on listed metrics for {reference}: {error}"));
                }
            }
        };
        if desired == current {
            status::set_replicas(hpa, current, current, readings, None);
            return Ok(());
        }
        if let Err(error) = self.scales.set(&scale, desired).await {
            let error = text(&error);
            self.event(hpa, true, "FailedRescale", &format!("New size: {desired}; reason: {why}; error: {error}"));
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            status::set_condition(hpa, "AbleToScale", false, "FailedUpdateScale", &message, now);
            let before = hpa.status.as_ref().map_or(0, |status| status.desired_replicas);
            status::set_replicas(hpa, current, before, readings, None);
            return Err(format!("failed to rescale {reference}: {error}"));
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        status::set_condition(hpa, "AbleToScale", true, "SucceededRescale", &message, now);
        self.event(hpa, false, "SuccessfulRescale", &format!("New size: {desired}; reason: {why}"));
        self.known.lock().entry(key.clone()).or_default().history.record(hpa.spec.behavior.as_ref(), current, desired, now);
        status::set_replicas(hpa, current, desired, readings, Some(now));
        Ok(())
    }
}

impl Controller for Autoscaler {
    fn watch(self: Arc<Self>, keys: &Keys) {
        let keys = keys.clone();
        self.autoscalers.subscribe(move |change| {
            // Its status is what we write ourselves.
            let unchanged = matches!(change, Change::Updated { old, new } if old.spec == new.spec);
            if !unchanged {
                keys.add(ObjectKey::of(change.object().as_ref()));
            }
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(self.sync(key))
    }
}
