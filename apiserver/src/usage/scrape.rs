//! Asks kubelets what is used, when somebody wants to know, and remembers it for a moment.
//!
//! Use is a difference of two readings. The last one is kept; if it is too old to say what is used now, there is none, or a container has been started
//! since, two are taken a second apart. Whoever asks meanwhile waits for the same answer.

use super::exposition::{NodeUse, Reading, parse};
use api::status::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an answer holds: less than the 15 s between two looks of an autoscaler.
const FRESH: Duration = Duration::from_secs(10);
/// The oldest reading that a difference is taken from.
const OLDEST: Duration = Duration::from_secs(120);
/// The time between two readings that are taken for one answer.
const SPAN: Duration = Duration::from_secs(1);
/// How long a kubelet may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Kubelets asked at a time.
const PARALLEL: usize = 16;

/// Asks a node's kubelet for its `/metrics/resource`.
pub type Ask = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Bytes>> + Send + Sync>;

#[derive(Default)]
struct Kept {
    last: Option<(Instant, Reading)>,
    answer: Option<(Instant, Arc<NodeUse>)>,
}

/// What is known of nodes' use.
pub struct Scraper {
    ask: Ask,
    /// By node; nodes that nobody asks for any more are dropped.
    nodes: parking_lot::Mutex<HashMap<String, Arc<Mutex<Kept>>>>,
}

impl Scraper {
    /// Asks in this way.
    pub fn new(ask: Ask) -> Self {
        Self { ask, nodes: Default::default() }
    }

    /// What these nodes use, by their names. `present` are all nodes that there are; of others nothing is kept. A kubelet that does not answer is left out.
    pub async fn usage(&self, names: Vec<String>, present: &[String]) -> HashMap<String, Arc<NodeUse>> {
        self.nodes.lock().retain(|name, _| present.contains(name));
        let asked = stream::iter(names).map(|name| async move {
            let kept = self.nodes.lock().entry(name.clone()).or_default().clone();
            let mut kept = kept.lock().await;
            match self.current(&name, &mut kept).await {
                Ok(usage) => Some((name, usage)),
                Err(error) => {
                    tracing::debug!(node = name, %error, "its kubelet does not tell what is used");
                    None
                }
            }
        });
        asked.buffer_unordered(PARALLEL).filter_map(std::future::ready).collect().await
    }

    async fn current(&self, node: &str, kept: &mut Kept) -> Result<Arc<NodeUse>> {
        if let Some((at, answer)) = &kept.answer
            && at.elapsed() < FRESH
        {
            return Ok(answer.clone());
        }
        let before = kept.last.take().filter(|(at, _)| at.elapsed() < OLDEST).map(|(_, reading)| reading);
        let mut now = self.read(node).await?;
        let before = match before {
            Some(before) if now.adds_nothing_to(&before) => before,
            // Of what nothing is known yet, two readings are needed.
            before => {
                let mut before = before.unwrap_or_default();
                before.fill(std::mem::take(&mut now));
                tokio::time::sleep(SPAN).await;
                now = self.read(node).await?;
                before
            }
        };
        let mut usage = NodeUse::between(&before, &now);
        if let Some((_, answer)) = &kept.answer {
            usage.keep_unchanged(answer, &now);
        }
        let usage = Arc::new(usage);
        kept.last = Some((Instant::now(), now));
        kept.answer = Some((Instant::now(), usage.clone()));
        Ok(usage)
    }

    async fn read(&self, node: &str) -> Result<Reading> {
        let answer = tokio::time::timeout(PATIENCE, (self.ask)(node.to_owned())).await;
        let text = answer.map_err(|_| api::StatusError::internal("timed out"))??;
        let now = k8s_openapi::jiff::Timestamp::now().as_millisecond();
        Ok(parse(&String::from_utf8_lossy(&text), now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A kubelet whose node uses half a core, on the clock of the test; counts how often it is asked.
    fn kubelet(asked: Arc<AtomicU32>) -> Ask {
        let start = Instant::now();
        Arc::new(move |node| {
            asked.fetch_add(1, Ordering::Relaxed);
            let seconds = start.elapsed().as_secs_f64();
            Box::pin(async move {
                if node == "silent" {
                    std::future::pending::<()>().await;
                }
                let at = (seconds * 1000.0).round();
                Ok(Bytes::from(format!("node_cpu_usage_seconds_total {} {at}\nnode_memory_working_set_bytes 7 {at}\n", seconds / 2.0)))
            })
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_is_measured_however_late_it_came() {
        let asked = Arc::new(AtomicU32::new(0));
        let start = Instant::now();
        let count = asked.clone();
        let ask: Ask = Arc::new(move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let at = start.elapsed().as_millis();
            // Nothing runs at first; in the end the same sample is told again and again, one from before the last.
            let sample = if number < 6 { at } else { 40_000 };
            let container =
                format!("container_cpu_usage_seconds_total{{container=\"c\",namespace=\"n\",pod=\"p\"}} {} {sample}\n", sample / 1000);
            let node = format!("node_cpu_usage_seconds_total 1 {at}\n");
            Box::pin(async move { Ok(Bytes::from(if number < 2 { node } else { node + &container })) })
        });
        let scraper = Scraper::new(ask);
        let nodes = vec!["n".to_owned()];
        for (wait, readings, containers, case) in [
            (0, 2, 0, "nothing runs"),
            (15, 4, 1, "it has been started since"),
            (15, 5, 1, "it is known"),
            (15, 6, 1, "it goes on"),
            (15, 7, 0, "its last sample is an old one"),
            (15, 8, 0, "and does not move"),
        ] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let usage = scraper.usage(nodes.clone(), &nodes).await;
            assert_eq!((asked.load(Ordering::Relaxed), usage["n"].containers.len()), (readings, containers), "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn kubelets_are_asked_only_when_somebody_asks() {
        let asked = Arc::new(AtomicU32::new(0));
        let scraper = Scraper::new(kubelet(asked.clone()));
        let nodes = vec!["n".to_owned(), "silent".to_owned()];
        let cores = async || {
            let usage = scraper.usage(vec!["n".to_owned()], &nodes).await;
            usage["n"].node.map(|used| (used.cpu_nanocores, used.window.as_secs()))
        };
        for (wait, questions, window, case) in [
            (0, 2, 1, "the first answer takes two readings"),
            (5, 2, 1, "an answer holds for a moment"),
            (10, 3, 15, "then one more reading is enough"),
            (600, 5, 1, "an old one says nothing about now"),
        ] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            assert_eq!(cores().await, Some((500_000_000, window)), "{case}");
            assert_eq!(asked.load(Ordering::Relaxed), questions, "{case}");
        }
        let usage = scraper.usage(nodes.clone(), &nodes).await;
        assert_eq!(usage.keys().collect::<Vec<_>>(), ["n"], "who does not answer is left out");
        scraper.usage(Vec::new(), &[]).await;
        assert!(scraper.nodes.lock().is_empty(), "nothing is kept of nodes that are gone");
    }
}
