//! Which objects a list or a watch wants, by its path, its labels and its fields.
//!
//! The cache knows an object's labels and the fields of its stored form, so it chooses by them itself. Fields of a version that only a webhook can convert to are
//! known once the webhook was asked: lists then convert before they choose, and a watch remembers what it has shown, for whether an object comes, changes or goes
//! is a matter of what it was before (upstream has a cache for each version instead, with all objects converted).

use super::Endpoint;
use crate::cache::{Entry, Filter, Page, WatchEvent, Watcher};
use crate::encoding::EventType;
use crate::handlers::parameters::ListParameters;
use api::selector::{FieldSelector, LabelSelector};
use api::{Resource, StatusError, status::Result};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// How many objects a webhook is asked about at once.
const AT_ONCE: usize = 500;

/// What is wanted.
pub struct Selection {
    /// What the cache chooses by.
    pub filter: Filter,
    /// What has to hold of an object as it is served, where the cache cannot know.
    pub served: Option<FieldSelector>,
}

impl Selection {
    /// What the path and the selectors want.
    pub fn of(endpoint: &Endpoint, namespace: &str, name: &str, parameters: &ListParameters) -> Result<Selection> {
        let mut filter = Filter::all().in_namespace(namespace);
        if !name.is_empty() {
            filter = filter.named(name);
        }
        let labels = match parameters.label_selector.as_str() {
            "" => None,
            text => Some(LabelSelector::parse(text).map_err(|e| StatusError::bad_request(e.to_string()))?),
        };
        let fields = match parameters.field_selector.as_str() {
            "" => None,
            text => Some(FieldSelector::parse(text).map_err(|e| StatusError::bad_request(e.to_string()))?),
        };
        if let Some(fields) = &fields {
            for label in fields.labels() {
                check_field_label(endpoint, label)?;
            }
            if let Some(name) = fields.exact("metadata.name") {
                filter = filter.named(name);
            }
        }
        let (fields, served) = match fields {
            Some(fields) if endpoint.asks_webhook() && !fields.labels().all(is_metadata) => (None, Some(fields)),
            fields => (fields, None),
        };
        if labels.is_none() && fields.is_none() {
            return Ok(Selection { filter, served });
        }
        let row = endpoint.row.clone();
        let filter = filter.matching(move |entry| {
            labels.as_ref().is_none_or(|l| l.matches_with(|key| entry.label(key))) && fields.as_ref().is_none_or(|f| chosen(f, &row, entry))
        });
        Ok(Selection { filter, served })
    }
}

/// Whether the fields of an object are those wanted, as far as its stored form shows.
fn chosen(fields: &FieldSelector, row: &Resource, entry: &Entry) -> bool {
    let Some(conversion) = &row.storage else { return fields.matches_with(|label| entry.field(label).unwrap_or("")) };
    // Selectable fields are read from the stored form; where that differs, the object has to be looked at as it is served.
    let Ok(stored) = serde_json::from_slice::<Value>(entry.text()) else { return false };
    chosen_served(fields, row, entry, &(conversion.from_storage)(stored))
}

fn chosen_served(fields: &FieldSelector, row: &Resource, entry: &Entry, served: &Value) -> bool {
    fields.matches(|label| match row.selectable_fields.iter().find(|f| f.label == label) {
        Some(field) => field.value(served).into_owned(),
        None => entry.field(label).unwrap_or("").to_owned(),
    })
}

fn is_metadata(label: &str) -> bool {
    matches!(label, "metadata.name" | "metadata.namespace")
}

fn check_field_label(endpoint: &Endpoint, label: &str) -> Result<()> {
    let row = endpoint.row.clone();
    if is_metadata(label) || row.selectable_fields.iter().any(|f| f.label == label) {
        return Ok(());
    }
    Err(StatusError::bad_request(if row.selectable_fields.is_empty() {
        format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {label}")
    }))
}

/// Which of the objects have the fields wanted once they are served; a webhook is asked.
async fn choose(endpoint: &Endpoint, fields: &FieldSelector, entries: &[Arc<Entry>]) -> Result<Vec<bool>> {
    let mut chosen = Vec::with_capacity(entries.len());
    for some in entries.chunks(AT_ONCE) {
        let served = endpoint.served_values(some.iter().map(|e| e.text())).await?;
        chosen.extend(some.iter().zip(&served).map(|(entry, served)| chosen_served(fields, &endpoint.row, entry, served)));
    }
    Ok(chosen)
}

/// Of a list without limit the part that has the fields wanted, up to the limit (0: all).
pub async fn narrow(endpoint: &Endpoint, fields: &FieldSelector, page: Page, limit: usize) -> Result<Page> {
    let chosen = choose(endpoint, fields, &page.entries).await?;
    let mut entries: Vec<Arc<Entry>> = page.entries.into_iter().zip(chosen).filter_map(|(entry, takes)| takes.then_some(entry)).collect();
    let more = limit > 0 && entries.len() > limit;
    if more {
        entries.truncate(limit);
    }
    let next = entries.last().filter(|_| more).map(|entry| entry.relative_key().to_owned());
    Ok(Page { entries, next, remaining: None, ..page })
}

/// A watch through a selection.
pub struct Following {
    watcher: Watcher,
    shown: Option<Shown>,
    failed: bool,
}

/// What a watch has shown, where the cache cannot choose.
struct Shown {
    endpoint: Arc<Endpoint>,
    fields: FieldSelector,
    /// By relative key: as its client knows them.
    objects: HashMap<String, Arc<Entry>>,
}

impl Following {
    /// All that the watcher is told.
    pub fn all(watcher: Watcher) -> Following {
        Following { watcher, shown: None, failed: false }
    }

    /// What has the fields wanted. `before` is what the client knows already.
    pub async fn chosen(watcher: Watcher, endpoint: &Arc<Endpoint>, fields: FieldSelector, before: Vec<Arc<Entry>>) -> Result<Following> {
        let chosen = choose(endpoint, &fields, &before).await?;
        let objects = before.into_iter().zip(chosen).filter(|(_, takes)| *takes).map(|(e, _)| (e.relative_key().to_owned(), e)).collect();
        Ok(Following { watcher, shown: Some(Shown { endpoint: endpoint.clone(), fields, objects }), failed: false })
    }

    /// The next events, at least one; `None` when the watch is over, as it is after an error.
    pub async fn next(&mut self) -> Option<Result<Vec<WatchEvent>>> {
        while !self.failed {
            let events = self.watcher.next().await?;
            let Some(shown) = &mut self.shown else { return Some(Ok(events)) };
            let seen = shown.seen(events).await;
            self.failed = seen.is_err();
            if !seen.as_ref().is_ok_and(Vec::is_empty) {
                return Some(seen);
            }
        }
        None
    }
}

impl Shown {
    async fn seen(&mut self, events: Vec<WatchEvent>) -> Result<Vec<WatchEvent>> {
        let present = events.iter().filter_map(|event| match event {
            WatchEvent::Object { event_type, entry } if *event_type != EventType::Deleted => Some(entry.clone()),
            _ => None,
        });
        let present: Vec<Arc<Entry>> = present.collect();
        let mut chosen = choose(&self.endpoint, &self.fields, &present).await?.into_iter();
        let mut seen = Vec::with_capacity(events.len());
        for event in events {
            let WatchEvent::Object { event_type, entry } = event else {
                seen.push(event);
                continue;
            };
            let there = event_type != EventType::Deleted;
            let takes = there && chosen.next().unwrap_or(false);
            let key = entry.relative_key();
            let before = if takes { self.objects.insert(key.to_owned(), entry.clone()) } else { self.objects.remove(key) };
            let (event_type, entry) = match (before, takes) {
                (None, false) => continue,
                (None, true) => (EventType::Added, entry),
                (Some(_), true) => (EventType::Modified, entry),
                (Some(before), false) if there => (EventType::Deleted, Arc::new(before.departed(entry.revision))),
                (Some(_), false) => (EventType::Deleted, entry),
            };
            seen.push(WatchEvent::Object { event_type, entry });
        }
        Ok(seen)
    }
}
