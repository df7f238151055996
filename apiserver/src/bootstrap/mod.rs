//! What a cluster is born with: namespaces, roles, priority classes, flow control, the `kubernetes` service
//! (upstream: the apiserver's post-start hooks).
//!
//! It runs at every start, on a new store and on an old one: what is missing is made, what an earlier version made is brought up to date, what an
//! administrator changed is kept. All writes are under way at once, so that they share the store's commits.

mod defaults;
mod flow_control;
pub mod policy;
mod reconcile;

use crate::cache::Filter;
use crate::objects::{Collection, Objects, decode};
use crate::registry::Registry;
use api::status::{Result, StatusError};
use futures::{FutureExt, StreamExt, future, future::BoxFuture, stream};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the cluster's first objects say about this server.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// `10.96.0.0/12`, or two ranges with a comma between.
    pub service_range: String,
    /// The address that pods reach this server under.
    pub advertise_address: IpAddr,
    /// The port it serves on.
    pub port: u16,
    /// The client CA's certificate, for servers that delegate authentication.
    pub client_ca: Option<String>,
    /// How other servers recognise this one when it names users: the keys of the ConfigMap for servers that delegate authentication.
    pub request_header: Vec<(&'static str, String)>,
    /// The APIServices of what this server answers itself.
    pub api_services: Vec<Value>,
    /// Today, `2026-01-31`: since when tokens in secrets are tracked.
    pub today: String,
}

/// How many writes are under way at once: enough to fill a commit, few enough to leave room for clients.
const AT_ONCE: usize = 64;

/// An object that ought to exist.
struct Wanted {
    collection: Collection,
    namespace: &'static str,
    object: Value,
    /// What becomes of the object that is there: the new one, or `None` if it is fine. Without, whatever is there is fine.
    merge: Option<fn(old: &Value, wanted: &Value) -> reconcile::Outcome>,
}

impl Wanted {
    fn new(collection: Collection, namespace: &'static str, object: Value) -> Self {
        Wanted { collection, namespace, object, merge: None }
    }

    fn merged(self, merge: fn(&Value, &Value) -> reconcile::Outcome) -> Self {
        Wanted { merge: Some(merge), ..self }
    }

    fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Makes the object, or merges it into the one that is there.
    async fn ensure(&self, objects: &dyn Objects) -> Result<()> {
        // A conflict means that another server does the same at this moment; what it made is looked at then.
        for _ in 0..5 {
            match self.try_once(objects).await {
                Err(error) if error.code() == 409 => {}
                answer => return answer,
            }
        }
        Err(StatusError::internal(format!("{} {:?} keeps changing", self.collection.plural, self.name())))
    }

    async fn try_once(&self, objects: &dyn Objects) -> Result<()> {
        let Some(old) = objects.read(self.collection, self.namespace, self.name()).await? else {
            return objects.create(self.collection, self.namespace, self.object.clone()).await.map(drop);
        };
        let (Some(merge), Some(old)) = (self.merge, decode::<Value>(&old)) else { return Ok(()) };
        match merge(&old, &self.object) {
            reconcile::Outcome::Fine => Ok(()),
            reconcile::Outcome::Update(new) => objects.update(self.collection, self.namespace, "", new).await.map(drop),
            reconcile::Outcome::Recreate => {
                let uid = old["metadata"]["uid"].as_str().unwrap_or_default();
                objects.delete(self.collection, self.namespace, self.name(), uid).await?;
                objects.create(self.collection, self.namespace, self.object.clone()).await.map(drop)
            }
        }
    }
}

async fn ensure_all(objects: &dyn Objects, wanted: Vec<Wanted>) -> Result<()> {
    let mut each: Vec<BoxFuture<'_, (&Wanted, Result<()>)>> = Vec::with_capacity(wanted.len());
    for w in &wanted {
        each.push(Box::pin(async move { (w, w.ensure(objects).await) }));
    }
    let mut results = stream::iter(each).buffer_unordered(AT_ONCE);
    let mut answer = Ok(());
    while let Some((wanted, result)) = results.next().await {
        if let Err(error) = result {
            tracing::error!(resource = wanted.collection.plural, name = wanted.name(), %error, "bootstrap");
            answer = Err(error);
        }
    }
    answer
}

/// Makes and repairs everything. An error names one object that could not be made; the others were tried all the same.
pub async fn run(objects: &dyn Objects, cluster: &Cluster) -> Result<()> {
    // Namespaces first: the others live in them.
    ensure_all(objects, defaults::namespaces()).await?;
    let mut wanted = defaults::roles_and_bindings();
    wanted.extend(defaults::priority_classes());
    wanted.extend(flow_control::all());
    wanted.extend(defaults::configuration(cluster));
    let own = cluster.api_services.iter().cloned();
    wanted.extend(own.map(|object| Wanted::new(crate::aggregation::API_SERVICES, "", object).merged(reconcile::fields)));
    let first = ensure_all(objects, wanted).await.and(announce_service_range(objects, cluster).await);
    first.and(ensure_all(objects, defaults::own_service(cluster)).await)
}

/// Makes the `kubernetes` service and what is behind it again whenever somebody deletes them, until the server stops
/// (upstream: `pkg/controlplane/controller/kubernetesservice`, which looks every ten seconds).
pub async fn keep_own_service(registry: &Registry, cluster: &Cluster, stop: &CancellationToken) {
    const RETRY: Duration = Duration::from_secs(1);
    let wanted = defaults::own_service(cluster);
    let watch = |w: &Wanted| registry.changes(w.collection, Filter::all().in_namespace(w.namespace).named(w.name()));
    while let Some(mut watchers) = wanted.iter().map(watch).collect::<Option<Vec<_>>>().filter(|watchers| !watchers.is_empty()) {
        let mut failed = false;
        for missing in wanted.iter().filter(|w| Objects::get(registry, w.collection, w.namespace, w.name()).is_none()) {
            if let Err(error) = missing.ensure(registry).await {
                tracing::warn!(resource = missing.collection.plural, %error, "the server's own service cannot be made again yet");
                failed = true;
            }
        }
        let next = async {
            if failed {
                return tokio::time::sleep(RETRY).await;
            }
            future::select_all(watchers.iter_mut().map(|watcher| watcher.next().boxed())).await;
        };
        if stop.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

/// Says in the ServiceCIDR `kubernetes` that it is ready.
async fn announce_service_range(objects: &dyn Objects, cluster: &Cluster) -> Result<()> {
    let old = objects.read(defaults::SERVICE_CIDRS, "", "kubernetes").await?.and_then(|bytes| decode::<Value>(&bytes));
    let Some(new) = old.and_then(|old| defaults::ready_service_cidr(cluster, &old, Timestamp::now())) else { return Ok(()) };
    match objects.update(defaults::SERVICE_CIDRS, "", "status", new).await {
        // Another server has said so.
        Err(error) if error.code() != 409 => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authorization::rbac::GROUP, objects::Fixed};
    use bytes::Bytes;
    use serde_json::json;

    const ROLES: Collection = Collection::of(GROUP, "clusterroles");
    const BINDINGS: Collection = Collection::of(GROUP, "clusterrolebindings");

    fn cluster() -> Cluster {
        Cluster {
            service_range: "10.96.0.0/12".into(),
            advertise_address: "192.0.2.1".parse().unwrap(),
            port: 6443,
            client_ca: Some("PEM".into()),
            request_header: vec![("requestheader-client-ca-file", "PEM".into())],
            api_services: Vec::new(),
            today: "2026-01-31".into(),
        }
    }

    fn value(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    fn everything(objects: &Fixed) -> Vec<Bytes> {
        let core = ["namespaces", "services", "endpoints", "configmaps"].map(Collection::core);
        let others = [ROLES, BINDINGS, Collection::of(GROUP, "roles"), Collection::of(GROUP, "rolebindings")];
        core.iter().chain(&others).flat_map(|c| objects.list(*c, "")).collect()
    }

    #[tokio::test]
    async fn a_second_start_changes_nothing() {
        let objects = Fixed::default();
        run(&objects, &cluster()).await.unwrap();
        let first = everything(&objects);
        assert!(first.len() > 140, "{}", first.len());
        run(&objects, &cluster()).await.unwrap();
        assert_eq!(everything(&objects), first);
    }

    #[tokio::test]
    async fn a_start_repairs_roles_but_keeps_what_an_administrator_added_or_switched_off() {
        let objects = Fixed::default();
        run(&objects, &cluster()).await.unwrap();
        let extra = json!({"apiGroups": ["acme.com"], "resources": ["widgets"], "verbs": ["get"]});
        let get = |collection, name: &str| value(&objects.get(collection, "", name).unwrap());
        let mut role = get(ROLES, "system:kube-dns");
        role["rules"] = json!([extra]);
        objects.put(ROLES, role);
        let mut off = get(ROLES, "system:volume-scheduler");
        off["rules"] = json!([]);
        off["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
        objects.put(ROLES, off);
        let mut binding = get(BINDINGS, "system:kube-dns");
        binding["roleRef"]["name"] = json!("cluster-admin");
        objects.put(BINDINGS, binding);
        run(&objects, &cluster()).await.unwrap();
        let repaired = get(ROLES, "system:kube-dns")["rules"].clone();
        let rule = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["list", "watch"]});
        assert_eq!(repaired, json!([extra, rule("endpoints"), rule("services")]));
        assert_eq!(get(ROLES, "system:volume-scheduler")["rules"], json!([]));
        assert_eq!(get(BINDINGS, "system:kube-dns")["roleRef"]["name"], "system:kube-dns");
    }

    #[tokio::test]
    async fn the_service_range_is_ready_unless_it_is_another_one() {
        let objects = Fixed::default();
        run(&objects, &cluster()).await.unwrap();
        let range = || value(&objects.get(defaults::SERVICE_CIDRS, "", "kubernetes").unwrap());
        let condition = range()["status"]["conditions"][0].clone();
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Ready"), &json!("True")));
        let mut unsaid = range();
        unsaid["status"] = json!({});
        objects.put(defaults::SERVICE_CIDRS, unsaid);
        let other = Cluster { service_range: "10.0.0.0/24".into(), ..cluster() };
        run(&objects, &other).await.unwrap();
        assert_eq!(range()["status"], json!({}));
    }

    #[tokio::test]
    async fn the_servers_own_endpoints_follow_its_address() {
        let objects = Fixed::default();
        run(&objects, &cluster()).await.unwrap();
        let moved = Cluster { advertise_address: "192.0.2.9".parse().unwrap(), ..cluster() };
        run(&objects, &moved).await.unwrap();
        let endpoints = value(&objects.get(Collection::core("endpoints"), "default", "kubernetes").unwrap());
        assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "192.0.2.9"}]));
        let service = value(&objects.get(Collection::core("services"), "default", "kubernetes").unwrap());
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    }
}
