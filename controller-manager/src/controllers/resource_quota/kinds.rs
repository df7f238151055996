//! Objects of any kind, counted by namespace: the metadata of a kind is watched from when the first quota bounds its number.

use crate::discovery;
use anyhow::Context;
use futures::StreamExt;
use kube::Client;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The counts of the kinds that quotas bound.
#[derive(Default)]
pub struct Kinds {
    counts: Mutex<HashMap<String, Arc<Mutex<Names>>>>,
}

#[derive(Default)]
struct Names {
    by_namespace: HashMap<String, BTreeSet<String>>,
    synced: bool,
}

impl Kinds {
    /// How many objects of a kind (`secrets`, `jobs.batch`) a namespace has. `None`: not known yet; `changed` is then called soon, as whenever a count
    /// changes, with the namespace, or without one if all may have changed.
    pub async fn count(
        &self,
        client: &Client,
        qualified: &str,
        namespace: &str,
        stop: &CancellationToken,
        changed: impl Fn(Option<&str>) + Clone + Send + 'static,
    ) -> anyhow::Result<Option<i64>> {
        let known = self.counts.lock().get(qualified).cloned();
        if let Some(names) = known {
            let names = names.lock();
            let count = names.by_namespace.get(namespace).map_or(0, BTreeSet::len);
            return Ok(names.synced.then_some(i64::try_from(count).unwrap_or(i64::MAX)));
        }
        let wanted = if qualified.contains('.') { qualified.to_owned() } else { format!("{qualified}.") };
        let kinds = discovery::served(client).await?;
        // What is not served has no objects; it may be served later, and is asked for again then.
        let Some(kind) = kinds.into_iter().find(|kind| kind.qualified() == wanted && kind.namespaced && kind.can("watch")) else {
            return Ok(Some(0));
        };
        let names = {
            let mut counts = self.counts.lock();
            if counts.contains_key(qualified) {
                return Ok(None);
            }
            counts.entry(qualified.to_owned()).or_default().clone()
        };
        let api: kube::Api<PartialObjectMeta<DynamicObject>> = kube::Api::all_with(client.clone(), &kind.resource);
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default().any_semantic()).default_backoff().boxed();
            while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
                match event.context("watching a kind that a quota counts") {
                    Ok(event) => names.lock().take_in(event).into_iter().for_each(|what| changed(what.as_deref())),
                    Err(error) => tracing::warn!(kind = wanted, error = format!("{error:#}"), "trying again"),
                }
            }
        });
        Ok(None)
    }
}

impl Names {
    /// Takes in what the watch tells; `Some` if a count has changed.
    fn take_in<K: kube::Resource>(&mut self, event: watcher::Event<K>) -> Option<Option<String>> {
        let names = |object: &K| (object.meta().namespace.clone().unwrap_or_default(), object.meta().name.clone().unwrap_or_default());
        match event {
            watcher::Event::Init => {
                *self = Self::default();
                None
            }
            watcher::Event::InitApply(object) => {
                let (namespace, name) = names(&object);
                self.by_namespace.entry(namespace).or_default().insert(name);
                None
            }
            watcher::Event::InitDone => {
                self.synced = true;
                Some(None)
            }
            watcher::Event::Apply(object) => {
                let (namespace, name) = names(&object);
                self.by_namespace.entry(namespace.clone()).or_default().insert(name).then_some(Some(namespace))
            }
            watcher::Event::Delete(object) => {
                let (namespace, name) = names(&object);
                let left = self.by_namespace.get_mut(&namespace)?;
                let gone = left.remove(&name);
                if left.is_empty() {
                    self.by_namespace.remove(&namespace);
                }
                gone.then_some(Some(namespace))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    #[test]
    fn counts_follow_the_watch() {
        let secret = |name: &str| -> Secret { serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}})).unwrap() };
        let mut names = Names::default();
        let ns = || Some(Some("ns".to_owned()));
        for (event, told, count) in [
            (Init, None, 0),
            (InitApply(secret("a")), None, 1),
            (InitDone, Some(None), 1),
            (Apply(secret("b")), ns(), 2),
            (Apply(secret("b")), None, 2),
            (Delete(secret("a")), ns(), 1),
            (Delete(secret("a")), None, 1),
            (Delete(secret("b")), ns(), 0),
            (Init, None, 0),
        ] {
            assert_eq!(names.take_in(event), told);
            assert_eq!(names.by_namespace.get("ns").map_or(0, BTreeSet::len), count);
        }
        assert!(!names.synced, "a new list is under way");
    }
}
