//! One life of the controller-manager: the real controllers with their queues and expectations, on caches that are fed from the world's log late, in
//! lumps, twice, or after a gap; and a client whose requests take time, fail before they were heard or after they were carried out, and conflict.

use super::serving;
use super::world::{NAMESPACE, World, refusal};
use bytes::Bytes;
use client::cache::{Cache, Cacheable};
use client::{ObjectKey, SharedCaches};
use controller_manager::controller::{self, Context, Controller, Keys, Settings};
use controller_manager::controllers::{
    cron_job, daemon_set, deployment, disruption, endpoint_slice, endpoints, garbage_collector, horizontal_pod_autoscaler, job, namespace,
    replicas, resource_quota, stateful_set,
};
use controller_manager::ops::Executor;
use controller_manager::trim;
use http_body_util::BodyExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Whether things go wrong. Shared by all that can.
pub type Trouble = Arc<AtomicBool>;

/// A running process; dropped, it is killed wherever it is.
pub struct Process {
    _tasks: JoinSet<()>,
}

impl Process {
    /// Starts with full caches, as a process does that has waited for them.
    pub fn start(world: &Arc<World>, trouble: &Trouble, seed: u64) -> Self {
        let client = client(world.clone(), trouble.clone(), seed, false);
        let caches = SharedCaches::unfed(client.clone());
        trim::all_kinds(&caches);
        let clock = world.clock();
        let acting = |client: &Client, component: &str| Context {
            caches: caches.clone(),
            executor: Executor::new(client.clone(), component),
            settings: Arc::new(Settings::default()),
            clock,
        };
        let context = |component: &str| acting(&client, component);
        // Its deletions are judged one by one.
        let collecting = acting(&self::client(world.clone(), trouble.clone(), !seed, true), "garbage-collector-controller");
        let controllers: Vec<(&'static str, Arc<dyn Controller>)> = vec![
            ("deployment", Arc::new(deployment::DeploymentController::new(context("deployment-controller")))),
            ("replicaset", Arc::new(replicas::ReplicasController::<ReplicaSet>::new(context("replicaset-controller")))),
            ("rc", Arc::new(replicas::ReplicasController::<ReplicationController>::new(context("replication-controller")))),
            ("statefulset", Arc::new(stateful_set::StatefulSetController::new(context("statefulset-controller")))),
            ("daemonset", Arc::new(daemon_set::DaemonSetController::new(context("daemonset-controller")))),
            ("job", Arc::new(job::JobController::new(context("job-controller")))),
            ("cronjob", Arc::new(cron_job::CronJobController::new(context("cronjob-controller")))),
            ("garbagecollector", Arc::new(garbage_collector::GarbageCollector::new(collecting))),
            ("namespace", Arc::new(namespace::NamespaceController::new(context("namespace-controller")))),
            ("resourcequota", Arc::new(resource_quota::ResourceQuotaController::new(context("resourcequota-controller")))),
            ("autoscaling", Arc::new(horizontal_pod_autoscaler::Autoscaler::new(context("horizontal-pod-autoscaler")))),
            ("endpoints", Arc::new(endpoints::EndpointsController::new(context("endpoint-controller")))),
            ("endpointslice", Arc::new(endpoint_slice::EndpointSliceController::new(context("endpoint-slice-controller")))),
            ("disruption", Arc::new(disruption::DisruptionController::new(context("controllermanager")))),
        ];
        let mut tasks = JoinSet::new();
        let mut feeds = seed;
        let mut feed = |feeding: &dyn Fn(u64) -> Feeding| {
            feeds = feeds.wrapping_add(0x9e37_79b9);
            tasks.spawn(feeding(feeds));
        };
        feed(&|seed| fed::<Pod>("pods", &caches, world, trouble, seed));
        feed(&|seed| fed::<Node>("nodes", &caches, world, trouble, seed));
        feed(&|seed| fed::<PersistentVolumeClaim>("persistentvolumeclaims", &caches, world, trouble, seed));
        feed(&|seed| fed::<ReplicationController>("replicationcontrollers", &caches, world, trouble, seed));
        feed(&|seed| fed::<ReplicaSet>("replicasets", &caches, world, trouble, seed));
        feed(&|seed| fed::<Deployment>("deployments", &caches, world, trouble, seed));
        feed(&|seed| fed::<StatefulSet>("statefulsets", &caches, world, trouble, seed));
        feed(&|seed| fed::<DaemonSet>("daemonsets", &caches, world, trouble, seed));
        feed(&|seed| fed::<ControllerRevision>("controllerrevisions", &caches, world, trouble, seed));
        feed(&|seed| fed::<Job>("jobs", &caches, world, trouble, seed));
        feed(&|seed| fed::<CronJob>("cronjobs", &caches, world, trouble, seed));
        feed(&|seed| fed::<Namespace>("namespaces", &caches, world, trouble, seed));
        feed(&|seed| fed::<ResourceQuota>("resourcequotas", &caches, world, trouble, seed));
        feed(&|seed| fed::<HorizontalPodAutoscaler>("horizontalpodautoscalers", &caches, world, trouble, seed));
        feed(&|seed| fed::<Service>("services", &caches, world, trouble, seed));
        feed(&|seed| fed::<Endpoints>("endpoints", &caches, world, trouble, seed));
        feed(&|seed| fed::<EndpointSlice>("endpointslices", &caches, world, trouble, seed));
        feed(&|seed| fed::<PodDisruptionBudget>("poddisruptionbudgets", &caches, world, trouble, seed));
        for (name, controller) in controllers {
            let keys = Keys::default();
            controller.clone().watch(&keys);
            let workers = controller.workers();
            tasks.spawn(controller::run(name, controller, workers, keys, CancellationToken::new()));
        }
        Self { _tasks: tasks }
    }
}

type Feeding = futures::future::BoxFuture<'static, ()>;

/// How much later than it happens something is told.
pub fn lateness(rng: &mut SmallRng, bad: bool) -> Duration {
    Duration::from_millis(match rng.random_range(0..100) {
        0 if bad => rng.random_range(1_000..5_000),
        1..10 if bad => rng.random_range(100..1_000),
        _ => rng.random_range(0..20),
    })
}

/// Fills a cache at once, and keeps it filled as well as this world's network allows.
fn fed<K: Cacheable + kube::Resource<DynamicType = ()>>(
    plural: &'static str,
    caches: &Arc<SharedCaches>,
    world: &Arc<World>,
    trouble: &Trouble,
    seed: u64,
) -> Feeding {
    let cache: Arc<Cache<K>> = caches.of();
    let mut at = relist(plural, &cache, world);
    let (world, trouble) = (world.clone(), trouble.clone());
    Box::pin(async move {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut length = world.watch();
        loop {
            if length.wait_for(|length| *length > at).await.is_err() {
                return;
            }
            let bad = trouble.load(Ordering::Relaxed);
            tokio::time::sleep(lateness(&mut rng, bad)).await;
            if bad && rng.random_range(0..200) == 0 {
                // The connection broke, and what happened until the next list is never told.
                tokio::time::sleep(Duration::from_millis(rng.random_range(100..5_000))).await;
                at = relist(plural, &cache, &world);
                continue;
            }
            // What has piled up comes at once, or a part of it.
            let upto = if bad && rng.random_range(0..4) == 0 { at + 1 } else { world.length() };
            while at < upto {
                let Some(entry) = world.entry(at) else { break };
                at += 1;
                if entry.plural == plural {
                    let twice = bad && rng.random_range(0..20) == 0;
                    for _ in 0..if twice { 2 } else { 1 } {
                        tell(&cache, &entry.object, entry.gone);
                    }
                }
            }
        }
    })
}

fn decoded<K: Cacheable>(object: &Value) -> K {
    serde_json::from_value(object.clone()).expect("the world's objects are the API's")
}

fn tell<K: Cacheable>(cache: &Cache<K>, object: &Value, gone: bool) {
    let object: K = decoded(object);
    if gone { cache.delete(&ObjectKey::of(&object), Some(object)) } else { cache.apply(object) }
}

fn relist<K: Cacheable>(plural: &str, cache: &Cache<K>, world: &World) -> usize {
    let (listed, at) = world.list(plural);
    cache.replace(listed.iter().map(|object| decoded(object)).collect());
    at
}

/// A client of the world's apiserver: the garbage collector's, or that of all others.
fn client(world: Arc<World>, trouble: Trouble, seed: u64, collects: bool) -> Client {
    let rng = Arc::new(Mutex::new(SmallRng::seed_from_u64(seed)));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (world, trouble, rng) = (world.clone(), trouble.clone(), rng.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body: Bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let path = parts.uri.path().to_owned();
            if parts.method == http::Method::GET
                && let Some(read) = serving::read(&world, &path)
            {
                return Ok::<_, Infallible>(http::Response::new(told(&world, &trouble, &rng, &parts.uri, &read).await));
            }
            let is_event = path.ends_with("/events") || path.contains("/events/");
            let (chance, before, after) = {
                let mut rng = rng.lock();
                (rng.random_range(0..1000), rng.random_range(0..20_u64), rng.random_range(0..20_u64))
            };
            let bad = trouble.load(Ordering::Relaxed) && !is_event;
            let slow = if bad && chance % 50 == 7 { 100 } else { 1 };
            tokio::time::sleep(Duration::from_millis(before * slow)).await;
            let content_type = parts.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let perform = |body| {
                let (code, answer) = world.request(parts.method.as_str(), &path, content_type, body);
                if collects && parts.method == http::Method::DELETE && code < 300 {
                    world.collected(&answer);
                }
                (code, answer)
            };
            let (code, answer) = match chance {
                0..30 if bad => refusal(500, "InternalError", "the store is not there"),
                30..50 if bad && parts.method == http::Method::PUT => refusal(409, "Conflict", "somebody was faster"),
                50..80 if bad => {
                    // Carried out, and the answer is lost.
                    let (code, answer) = perform(body);
                    if parts.method == http::Method::POST && code < 300 {
                        world.lost(&answer);
                    }
                    refusal(504, "Timeout", "the answer did not come in time")
                }
                _ => perform(body),
            };
            tokio::time::sleep(Duration::from_millis(after * slow)).await;
            Ok(http::Response::builder().status(code).body(serving::whole(&answer)).expect("a constant head is valid"))
        }
    });
    Client::new(service, NAMESPACE)
}

/// The answer to a question about a whole kind: what is there now, or from a revision on whatever happens.
async fn told(world: &Arc<World>, trouble: &Trouble, rng: &Mutex<SmallRng>, uri: &http::Uri, read: &Value) -> serving::Answer {
    let (wait, seed) = {
        let mut rng = rng.lock();
        (lateness(&mut rng, trouble.load(Ordering::Relaxed)), rng.random())
    };
    tokio::time::sleep(wait).await;
    let mut query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let from = query.clone().find(|(name, _)| *name == "resourceVersion").and_then(|(_, revision)| revision.parse().ok());
    match query.any(|(name, _)| name == "watch") {
        true => serving::watch(world.clone(), trouble.clone(), SmallRng::seed_from_u64(seed), uri.path(), from.unwrap_or(0)),
        false => serving::whole(read),
    }
}
