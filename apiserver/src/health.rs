//! `/healthz`, `/livez` and `/readyz` with their checks (upstream: `apiserver/pkg/server/healthz`).

use crate::request::Query;
use crate::respond::{self, Response};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the server checks of itself. A check is passed once it was set, and failed again when it is cleared.
#[derive(Clone, Default)]
pub struct Health(Arc<RwLock<BTreeMap<String, Arc<AtomicBool>>>>);

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
    /// A check that is not passed yet. Only `/readyz` waits for it.
    pub fn check(&self, name: &str) -> Check {
        let flag = self.0.write().entry(name.to_owned()).or_default().clone();
        Check(flag)
    }

    /// Whether all checks are passed.
    pub fn ready(&self) -> bool {
        self.0.read().values().all(|c| c.load(Ordering::Acquire))
    }

    /// Answers a path below `/`, e.g. `readyz` or `livez/ping`.
    pub fn answer(&self, path: &str, query: &Query) -> Response {
        let (endpoint, one) = path.split_once('/').unwrap_or((path, ""));
        let checks = self.results(endpoint);
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

    fn results(&self, endpoint: &str) -> Vec<(String, bool)> {
        // The server listens only once its store is open and its caches are filled, so that these two are as good as the answer.
        let always: &[&str] =
            if endpoint == "readyz" { &["ping", "log", "etcd", "etcd-readiness", "informer-sync"] } else { &["ping", "log", "etcd"] };
        let mut results: Vec<(String, bool)> = always.iter().map(|name| ((*name).to_owned(), true)).collect();
        if endpoint != "livez" {
            results.extend(self.0.read().iter().map(|(name, flag)| (name.clone(), flag.load(Ordering::Acquire))));
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_waits_for_checks() {
        let health = Health::default();
        let check = health.check("poststarthook/bootstrap");
        let code = |path: &str, query: &str| health.answer(path, &Query::parse(query)).status().as_u16();
        assert_eq!((code("livez", ""), code("readyz", ""), code("readyz/ping", "")), (200, 500, 200));
        assert_eq!(code("readyz", "exclude=poststarthook/bootstrap"), 200);
        assert_eq!(code("readyz/nosuch", ""), 404);
        check.set(true);
        assert_eq!((code("readyz", ""), code("readyz/poststarthook/bootstrap", "")), (200, 200));
    }
}
