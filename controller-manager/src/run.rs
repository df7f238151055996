//! The controller-manager at work: makes the controllers that are wanted, fills their caches, and runs them until told to stop.

use crate::accounts::ServiceAccounts;
use crate::controller::{self, Context, Controller, Keys, Settings};
use crate::controllers::names::{ABSENT, canonical, known};
use crate::controllers::{TABLE, is_wanted};
use crate::ops::Executor;
use crate::trim;
use client::SharedCaches;
use client::clock::Clock;
use client::election::{self, Candidate};
use client::metrics::{self, Described, Observed};
use client::queue::{Durations, QueueMetrics};
use client::serving::{self, Observable};
use kube::Client;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How to run.
pub struct Options {
    /// The apiserver, as the controller-manager's user.
    pub client: Client,
    /// What makes clients for the controllers' service accounts; without it all act as the controller-manager's user.
    pub accounts: Option<ServiceAccounts>,
    /// `--controllers`.
    pub controllers: Vec<String>,
    /// What some controllers need to know.
    pub settings: Settings,
    /// Who waits to be elected first, if there are several.
    pub candidate: Option<Candidate>,
    /// Where to serve health and metrics, if anywhere.
    pub address: Option<SocketAddr>,
}

struct Health {
    caches: Arc<SharedCaches>,
    queues: Mutex<Vec<(&'static str, Keys)>>,
}

impl Observable for Health {
    fn name(&self) -> &'static str {
        "kube-controller-manager"
    }

    fn problems(&self) -> Vec<String> {
        self.caches.unsynced().into_iter().map(|kind| format!("informer-sync failed: {kind}")).collect()
    }

    fn metrics(&self) -> String {
        type Count = fn(QueueMetrics) -> u64;
        let counts: [(&str, &str, &str, Count); 3] = [
            ("workqueue_depth", "gauge", "Keys that wait to be worked on now", |metrics| metrics.depth as u64),
            ("workqueue_adds_total", "counter", "Keys added so far", |metrics| metrics.adds),
            ("workqueue_retries_total", "counter", "Keys added back after a failure so far", |metrics| metrics.retries),
        ];
        type Time = fn(&Durations) -> f64;
        let times: [(&str, &str, Time); 2] = [
            ("workqueue_unfinished_work_seconds", "Seconds that work under way has taken so far, all together", |durations| {
                durations.unfinished
            }),
            ("workqueue_longest_running_processor_seconds", "Seconds that the longest work under way has taken so far", |durations| {
                durations.longest
            }),
        ];
        type Histogram = fn(&Durations) -> &Observed;
        let histograms: [(&str, &str, Histogram); 2] = [
            ("workqueue_queue_duration_seconds", "Seconds that a key waits until a worker takes it", |durations| &durations.waited),
            ("workqueue_work_duration_seconds", "Seconds that the work on a key takes", |durations| &durations.worked),
        ];
        let queues = self.queues.lock();
        let durations: Vec<(&str, Durations)> = queues.iter().map(|(queue, keys)| (*queue, keys.durations())).collect();
        let mut text = String::new();
        let describe = |text: &mut String, name, help, kind| {
            metrics::head(text, &Described { name, help, stability: "ALPHA", labels: &["name"] }, kind)
        };
        for (name, kind, help, read) in counts {
            describe(&mut text, name, help, kind);
            for (queue, keys) in queues.iter() {
                metrics::sample(&mut text, name, &[("name", queue)], read(keys.metrics()));
            }
        }
        for (name, help, read) in times {
            describe(&mut text, name, help, "gauge");
            for (queue, durations) in &durations {
                metrics::sample(&mut text, name, &[("name", queue)], read(durations));
            }
        }
        for (name, help, read) in histograms {
            describe(&mut text, name, help, "histogram");
            for (queue, durations) in &durations {
                read(durations).write(&mut text, name, &[("name", queue)]);
            }
        }
        text
    }
}

/// Runs until `stop` is cancelled, or fails when this replica is no longer the leader.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let Options { client, accounts, controllers, settings, candidate, address } = options;
    known(&controllers).map_err(anyhow::Error::msg)?;
    for (name, why) in ABSENT.iter().filter(|(name, _)| controllers.iter().any(|entry| canonical(entry) == Some(name))) {
        tracing::warn!(controller = name, why, "not started: there is none");
    }
    let caches = SharedCaches::new(client.clone());
    trim::all_kinds(&caches);
    let health = Arc::new(Health { caches: caches.clone(), queues: Mutex::default() });
    if let Some(address) = address {
        let bound = serving::serve(address, health.clone(), stop.clone()).await?;
        tracing::info!(address = %bound, "serving health and metrics");
    }
    let leading = match candidate {
        None => stop.child_token(),
        Some(candidate) => match election::lead(client.clone(), candidate, stop.clone()).await {
            Some(leading) => leading,
            None => return Ok(()),
        },
    };

    let settings = Arc::new(settings);
    let mut made: Vec<(&'static str, Arc<dyn Controller>, Keys)> = Vec::new();
    for row in TABLE.iter().filter(|row| is_wanted(row.name, &controllers)) {
        let client = match (&accounts, row.account) {
            (Some(accounts), Some(name)) => match leading.run_until_cancelled(accounts.client(name, &leading)).await {
                Some(client) => client?,
                None => break,
            },
            _ => client.clone(),
        };
        let executor = Executor::new(client, row.component);
        match (row.make)(Context { caches: caches.clone(), executor, settings: settings.clone(), clock: Clock::Wall }) {
            Some(controller) => made.push((row.name, controller, Keys::default())),
            None => tracing::info!(controller = row.name, "not started: a flag that it needs is not given"),
        }
    }
    if leading.run_until_cancelled(caches.wait_until_synced()).await.is_some() {
        tracing::info!(controllers = made.len(), "caches are filled, controlling");
        let mut running = JoinSet::new();
        for (name, controller, keys) in made {
            health.queues.lock().push((name, keys.clone()));
            controller.clone().watch(&keys);
            let workers = settings.workers.get(name).copied().unwrap_or_else(|| controller.workers());
            running.spawn(controller::run(name, controller, workers, keys, leading.clone()));
        }
        while let Some(ended) = running.join_next().await {
            ended?;
        }
    }
    caches.stop();
    anyhow::ensure!(stop.is_cancelled(), "lost the lease");
    Ok(())
}
