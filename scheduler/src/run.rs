//! Starting and ending: watches, election, the loop.

use crate::config::Configuration;
use crate::extenders::Extenders;
use crate::informers::Informers;
use crate::metrics::Metrics;
use crate::profiles::Profiles;
use crate::queue::SchedulingQueue;
use crate::scheduler::Scheduler;
use crate::trim::Trimmed;
use client::election::{self, Candidate as Replica, host_name};
use client::serving::{self, Observable};
use client::{EventRecorder, SharedCaches};
use kube::Client;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How to run.
pub struct Options {
    /// The apiserver, as the scheduler's user.
    pub client: Client,
    /// `--config`, or the defaults.
    pub configuration: Configuration,
    /// Where to serve health and metrics, if anywhere.
    pub address: Option<SocketAddr>,
}

/// Schedules until `stop` is cancelled, or fails when this replica is no longer the leader.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let Options { client, configuration, address } = options;
    let Configuration { profiles, backoff, leader_election: leading, extenders, kubeconfig: _, shown } = configuration;
    let profiles = Arc::new(Profiles::new(&profiles));
    let extenders = Arc::new(Extenders::new(extenders).await?);
    let trimmed = if extenders.is_empty() { Trimmed::All } else { Trimmed::AllButPodsAndNodes };
    let caches = SharedCaches::new(client.clone());
    let metrics = Arc::new(Metrics::default());
    let queue = SchedulingQueue::new(profiles.clone(), backoff, metrics.clone());
    let recorder = EventRecorder::series(client.clone(), crate::config::DEFAULT_NAME, &host_name()?);
    let scheduler =
        Arc::new(Scheduler::new(client.clone(), profiles, extenders, Informers::start(caches.clone(), trimmed), queue, recorder, metrics));
    if let Some(address) = address {
        let bound = serving::serve(address, Arc::new(Health { scheduler: scheduler.clone(), shown }), stop.clone()).await?;
        tracing::info!(address = %bound, "serving health and metrics");
    }
    let leads = if leading.elect {
        let times = election::Times { lease: leading.lease_duration, renew: leading.renew_deadline, retry: leading.retry_period };
        let replica = Replica { namespace: leading.namespace, times, ..Replica::new(&leading.name)? };
        match election::lead(client, replica, stop.clone()).await {
            Some(leads) => leads,
            None => return Ok(()),
        }
    } else {
        stop.child_token()
    };
    Informers::subscribe(&scheduler);
    caches.wait_until_synced().await;
    tracing::info!("caches are filled, scheduling");
    leads.run_until_cancelled(scheduler.decide()).await;
    scheduler.queue.close();
    caches.stop();
    anyhow::ensure!(stop.is_cancelled(), "lost the lease");
    Ok(())
}

struct Health {
    scheduler: Arc<Scheduler>,
    shown: Value,
}

impl Observable for Health {
    fn name(&self) -> &'static str {
        "kube-scheduler"
    }

    fn configuration(&self) -> Option<(&'static str, Value)> {
        Some(("kubescheduler.config.k8s.io", self.shown.clone()))
    }

    fn problems(&self) -> Vec<String> {
        self.scheduler.informers.shared.unsynced().into_iter().map(|kind| format!("informer-sync failed: {kind}")).collect()
    }

    fn metrics(&self) -> String {
        self.scheduler.metrics.text(&self.scheduler.gauges())
    }
}
