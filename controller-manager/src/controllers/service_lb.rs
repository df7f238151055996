//! Services of type LoadBalancer get an address, on a machine without a cloud (upstream: `service-lb-controller` of the cloud controller managers).
//!
//! Addresses come from `--load-balancer-cidr`; the node proxies of all nodes answer on them as on every other address of a Service, so nothing else has to be
//! set up. Whoever is to use them needs a route to that network by way of a node; `deploy/up` sets one for its own machine. Each Service has an address of its own,
//! so two Services can have the same port, and none can take a port from the node itself. What is taken is what Services' statuses say. Services with a
//! `loadBalancerClass` are somebody else's. Without the flag the controller does not run.

use crate::controller::{Context, Controller, Keys, watch_all};
use crate::ops::{Op, Request};
use client::{Cache, Change, ObjectKey};
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Keys are Services.
pub struct ServiceLoadBalancers {
    context: Context,
    pool: IpNet,
    services: Arc<Cache<Service>>,
}

/// Whether the Service is to have an address from here.
fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    service.metadata.deletion_timestamp.is_none()
        && spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none())
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

fn with_addresses(service: &Service, addresses: &[IpAddr]) -> Op {
    let ingress =
        addresses.iter().map(|ip| LoadBalancerIngress { ip: Some(ip.to_string()), ip_mode: Some("VIP".into()), ..Default::default() });
    let ingress = Some(ingress.collect::<Vec<_>>()).filter(|ingress| !ingress.is_empty());
    let mut updated = service.clone();
    updated.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
    Op::send(Request::replace_status(&updated).tolerating(&[404]))
}

/// The address for a Service: the one that it asks for, or the first free one.
fn choose(service: &Service, pool: &IpNet, taken: &HashSet<IpAddr>) -> Result<IpAddr, String> {
    let asked = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default();
    if asked.is_empty() {
        let free = pool.hosts().find(|address| !taken.contains(address));
        return free.ok_or_else(|| format!("all addresses of {pool} are taken"));
    }
    match asked.parse::<IpAddr>() {
        Ok(address) if !pool.contains(&address) => Err(format!("loadBalancerIP {asked} is not in {pool}")),
        Ok(address) if taken.contains(&address) => Err(format!("loadBalancerIP {asked} is taken")),
        Ok(address) => Ok(address),
        Err(_) => Err(format!("loadBalancerIP {asked} is no address")),
    }
}

/// What to do about a Service, when others have the addresses in `taken`.
fn plan(service: &Service, pool: &IpNet, taken: &HashSet<IpAddr>) -> Vec<Op> {
    let present: Vec<IpAddr> = addresses(service);
    let own: Vec<IpAddr> = present.iter().copied().filter(|address| pool.contains(address)).collect();
    if !is_ours(service) {
        let changed_type = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() != Some("LoadBalancer"));
        if own.is_empty() || !changed_type || service.metadata.deletion_timestamp.is_some() {
            return Vec::new();
        }
        return vec![
            Op::normal(service, "DeletingLoadBalancer", "Deleting load balancer"),
            with_addresses(service, &[]),
            Op::normal(service, "DeletedLoadBalancer", "Deleted load balancer"),
        ];
    }
    let asked = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default();
    let suits = |address: &IpAddr| !taken.contains(address) && (asked.is_empty() || asked.parse() == Ok(*address));
    if let ([one], 1) = (own.as_slice(), present.len())
        && suits(one)
    {
        return Vec::new();
    }
    match choose(service, pool, taken) {
        Ok(address) => vec![
            Op::normal(service, "EnsuringLoadBalancer", "Ensuring load balancer"),
            with_addresses(service, &[address]),
            Op::normal(service, "EnsuredLoadBalancer", "Ensured load balancer"),
        ],
        Err(why) => {
            let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
            vec![Op::warning(service, "SyncLoadBalancerFailed", message)]
        }
    }
}

impl ServiceLoadBalancers {
    /// With the shared caches; `None` without addresses.
    pub fn new(context: Context) -> Option<Self> {
        let pool = context.settings.load_balancer_network?;
        Some(Self { pool, services: context.caches.of(), context })
    }
}

impl Controller for ServiceLoadBalancers {
    /// One, so that no two Services are given the same address.
    fn workers(&self) -> usize {
        1
    }

    fn watch(self: Arc<Self>, keys: &Keys) {
        watch_all(&self.services, keys);
        let (keys, services) = (keys.clone(), Arc::downgrade(&self.services));
        self.services.subscribe(move |change| {
            // Somebody may be waiting for an address.
            let freed = match change {
                Change::Deleted(service) => !addresses(service).is_empty(),
                Change::Updated { old, new } => addresses(old).len() > addresses(new).len(),
                Change::Added(_) => false,
            };
            let waiting = services.upgrade().filter(|_| freed).map(|services| services.list()).unwrap_or_default();
            let waiting = waiting.iter().filter(|service| is_ours(service) && addresses(service).is_empty());
            waiting.for_each(|service| keys.add(ObjectKey::of(service.as_ref())));
        });
    }

    fn reconcile<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, anyhow::Result<Option<Duration>>> {
        Box::pin(async move {
            let Some(service) = self.services.get(key) else { return Ok(None) };
            let others = self.services.list();
            let taken = others.iter().filter(|other| ObjectKey::of(other.as_ref()) != *key).flat_map(|other| addresses(other)).collect();
            Ok(self.context.executor.apply(plan(&service, &self.pool, &taken)).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value, present: &[&str]) -> Service {
        let ingress: Vec<Value> = present.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"loadBalancer": {"ingress": ingress}});
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn every_load_balancer_has_an_address_of_its_own() {
        let pool: IpNet = "10.9.0.0/29".parse().unwrap();
        let balancer = || json!({"type": "LoadBalancer"});
        let asking = |ip: &str| json!({"type": "LoadBalancer", "loadBalancerIP": ip});
        // What it has, what others have; what it has then, or the event that tells why not.
        let cases: Vec<(Service, &[&str], &str)> = vec![
            (service(balancer(), &[]), &[], "10.9.0.1"),
            (service(balancer(), &[]), &["10.9.0.1"], "10.9.0.2"),
            (service(balancer(), &["10.9.0.5"]), &["10.9.0.1"], ""),
            (service(balancer(), &["10.9.0.5"]), &["10.9.0.5"], "10.9.0.1"),
            (service(balancer(), &["192.0.2.1"]), &[], "10.9.0.1"),
            (service(balancer(), &[]), &["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"], "SyncLoadBalancerFailed"),
            (service(asking("10.9.0.3"), &[]), &[], "10.9.0.3"),
            (service(asking("10.9.0.3"), &["10.9.0.1"]), &[], "10.9.0.3"),
            (service(asking("10.9.0.3"), &[]), &["10.9.0.3"], "SyncLoadBalancerFailed"),
            (service(asking("10.8.0.3"), &[]), &[], "SyncLoadBalancerFailed"),
            (service(json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/x"}), &[]), &[], ""),
            (service(json!({"type": "ClusterIP"}), &["10.9.0.1"]), &[], "none"),
            (service(json!({"type": "ClusterIP"}), &[]), &[], ""),
        ];
        for (service, others, expected) in cases {
            let taken = others.iter().map(|ip| ip.parse().unwrap()).collect();
            let ops = plan(&service, &pool, &taken);
            let got = ops.iter().find_map(|op| match op {
                Op::Send(request) => Some(request.body["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or("none").to_owned()),
                Op::Event { warning: true, reason, .. } => Some((*reason).to_owned()),
                _ => None,
            });
            assert_eq!(got.unwrap_or_default(), expected, "{:?} {others:?}", service.spec);
        }
    }
}
