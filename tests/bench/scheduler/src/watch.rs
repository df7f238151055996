//! When pods are bound, as a watcher sees it.

use crate::load::Load;
use anyhow::{Context, Result};
use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The pods of a namespace that have a node; whoever appears there has been bound. `!=` nothing.
const BOUND: &str = "fieldSelector=spec.nodeName%21%3D";

/// Waits for pods to be bound.
pub struct Bound {
    namespace: String,
    seen: JoinHandle<Result<Vec<Instant>>>,
}

impl Bound {
    /// Watches from now on, until as many are bound as are to come.
    pub async fn watch(load: &Load, namespace: &str, count: usize) -> Result<Self> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?{BOUND}");
        let list = load.client().request_text(Request::get(format!("{path}&limit=1")).body(Vec::new())?).await?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        let version = list["metadata"]["resourceVersion"].as_str().context("a list has a version")?.to_owned();
        let request = Request::get(format!("{path}&watch=1&resourceVersion={version}")).body(Vec::new())?;
        let mut lines = load.client().request_stream(request).await?.lines();
        let seen = tokio::spawn(async move {
            let mut times = Vec::with_capacity(count);
            while times.len() < count {
                let line = lines.next().await.context("the watch has ended")??;
                // The whole object need not be understood to know this.
                if line.starts_with("{\"type\":\"ADDED\"") {
                    times.push(Instant::now());
                }
            }
            Ok(times)
        });
        Ok(Self { namespace: namespace.to_owned(), seen })
    }

    /// When each was bound, in order.
    pub async fn wait(self, patience: Duration) -> Result<Vec<Instant>> {
        let waited = tokio::time::timeout(patience, self.seen).await;
        waited.with_context(|| format!("pods of {} were not bound in {patience:?}", self.namespace))??
    }
}
