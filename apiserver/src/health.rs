//! `/healthz`, `/livez` and `/readyz` with their checks (upstream: `apiserver/pkg/server/healthz`).

use crate::request::Query;
use crate::respond::{self, Response};
use crate::store::Store;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the server checks of itself: that its store can be written to, and the checks that its parts hold.
pub struct Health {
    store: Arc<dyn Store>,
    /// A check is passed once it was set, and failed again when it is cleared.
    checks: RwLock<BTreeMap<String, Arc<AtomicBool>>>,
}

/// A named check, held by the part that it is about.
#[derive(Clone)]
pub struct Check(Arc<AtomicBool>);

impl Check {
    /// Says whether the part works.
    pub fn set(&self, works: bool) {
        self.0.store(works, Ordering::Release);
    }
}

impl Health {
    /// Without checks of parts yet.
    pub fn new(store: Arc<dyn Store>) -> Health {
        Health { store, checks: RwLock::default() }
    }

    /// A check that is not passed yet. Only `/readyz` waits for it.
    pub fn check(&self, name: &str) -> Check {
        let flag = self.checks.write().entry(name.to_owned()).or_default().clone();
        Check(flag)
    }

    /// Whether the store can be written to, or why not.
    pub async fn store(&self) -> Result<(), String> {
        self.store.health().await.map_err(|error| error.to_string())
    }

    /// Whether all checks are passed.
    pub fn ready(&self) -> bool {
        self.checks.read().values().all(|c| c.load(Ordering::Acquire))
    }

    /// Answers a path below `/`, e.g. `readyz` or `livez/ping`.
    pub async fn answer(&self, path: &str, query: &Query) -> Response {
        let (endpoint, one) = path.split_once('/').unwrap_or((path, ""));
        let checks = self.results(endpoint).await;
        if !one.is_empty() {
            return match checks.iter().find(|(name, _)| name == one) {
                Some((_, true)) => respond::text(200, "ok"),
                Some((name, false)) => respond::text(500, format!("internal server error: {name} is not finished\n")),
                None => respond::page_not_found(),
            };
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let failed = checks.iter().any(|(name, passed)| !passed && !excluded.contains(&name.as_str()));
        if !failed && query.get("verbose").is_none() {
            return respond::text(200, "ok");
        }
        let mut text = String::new();
        for (name, passed) in &checks {
            text += &match (excluded.contains(&name.as_str()), passed) {
                (true, _) => format!("[+]{name} excluded: ok\n"),
                (false, true) => format!("[+]{name} ok\n"),
                (false, false) => format!("[-]{name} failed: reason withheld\n"),
            };
        }
        text += &format!("{endpoint} check {}\n", if failed { "failed" } else { "passed" });
        respond::text(if failed { 500 } else { 200 }, text)
    }

    async fn results(&self, endpoint: &str) -> Vec<(String, bool)> {
        let writable = self.store.health().await.is_ok();
        // The server listens only once its caches are filled.
        let always: &[(&str, bool)] = &[("ping", true), ("log", true), ("etcd", writable)];
        let ready: &[(&str, bool)] = if endpoint == "readyz" { &[("etcd-readiness", writable), ("informer-sync", true)] } else { &[] };
        let mut results: Vec<(String, bool)> = always.iter().chain(ready).map(|(name, passed)| ((*name).to_owned(), *passed)).collect();
        if endpoint != "livez" {
            results.extend(self.checks.read().iter().map(|(name, flag)| (name.clone(), flag.load(Ordering::Acquire))));
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{embedded::Options, memory};

    async fn code(health: &Health, path: &str, query: &str) -> u16 {
        health.answer(path, &Query::parse(query)).await.status().as_u16()
    }

    #[tokio::test]
    async fn only_readiness_waits_for_checks() {
        let health = Health::new(memory::open(Options::default()).unwrap());
        let check = health.check("poststarthook/bootstrap");
        for (path, query, expected) in [
            ("livez", "", 200),
            ("readyz", "", 500),
            ("readyz/ping", "", 200),
            ("readyz", "exclude=poststarthook/bootstrap", 200),
            ("readyz/nosuch", "", 404),
        ] {
            assert_eq!(code(&health, path, query).await, expected, "{path}?{query}");
        }
        check.set(true);
        assert_eq!((code(&health, "readyz", "").await, code(&health, "readyz/poststarthook/bootstrap", "").await), (200, 200));
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_to_is_told() {
        let store = memory::open(Options::default()).unwrap();
        let health = Health::new(store.clone());
        store.close().await.unwrap();
        for (path, expected) in
            [("livez", 500), ("readyz", 500), ("healthz/etcd", 500), ("readyz/etcd-readiness", 500), ("livez/ping", 200)]
        {
            assert_eq!(code(&health, path, "").await, expected, "{path}");
        }
    }
}
