//! Servers that have a say in decisions: they filter and score nodes after the plugins have, choose among preemption's candidates, and bind (upstream:
//! `pkg/scheduler/extender.go`).
//!
//! A decision waits for their answers, as upstream's does: what is decided next depends on it. So the thread is given up to the other tasks meanwhile,
//! which only a runtime with several threads allows.

mod http;
#[cfg(test)]
mod tests;
mod wire;

use crate::config;
use crate::cycle::FitError;
use crate::framework::{MAX_SCORE, Rejection};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use crate::snapshot::Snapshot;
use futures::future::{BoxFuture, join_all};
use std::collections::HashMap;
use std::sync::Arc;
use wire::Filtered;

/// What is named, in the place of a plugin, when an extender has refused a node. Nobody knows what could change its mind, so every event may.
pub const EXTENDER: &str = "Extender";

/// The best score that an extender can give.
const MAX_PRIORITY: i64 = 10;

/// How an extender is called.
pub trait Transport: Send + Sync {
    /// Sends a question, and returns the answer's body, or why there is none.
    fn post<'a>(&'a self, verb: &'a str, body: Vec<u8>) -> BoxFuture<'a, Result<Vec<u8>, String>>;
}

/// One of them.
struct Extender {
    config: config::Extender,
    transport: Box<dyn Transport>,
}

/// All of them, in the order in which they are asked.
#[derive(Default)]
pub struct Extenders(Vec<Extender>);

impl Extenders {
    /// Those of a configuration.
    pub async fn new(configured: Vec<config::Extender>) -> anyhow::Result<Self> {
        let mut extenders = Vec::new();
        for config in configured {
            let transport = Box::new(http::Server::new(&config).await?);
            extenders.push(Extender { config, transport });
        }
        Ok(Self(extenders))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leaves of the nodes those that the extenders leave. Why not the others is put down beside what the filters have said of nodes. It fails if an
    /// extender does that has to be asked.
    pub fn filter(
        &self,
        pod: &PodInfo,
        mut nodes: Vec<Arc<NodeInfo>>,
        snapshot: &Snapshot,
        error: &mut FitError,
    ) -> Result<Vec<Arc<NodeInfo>>, String> {
        let before = nodes.len();
        for extender in self.interested(pod, |config| &config.filter_verb) {
            if nodes.is_empty() {
                break;
            }
            let Some((left, answer)) = extender.excused(extender.filter(pod, &nodes))? else { continue };
            nodes = left;
            reject(error, snapshot, answer);
        }
        error.by_extender |= nodes.len() != before;
        Ok(nodes)
    }

    /// What the extenders add to the nodes' scores. One that fails adds nothing.
    pub fn scores(&self, pod: &PodInfo, nodes: &[Arc<NodeInfo>]) -> Vec<i64> {
        let scoring: Vec<&Extender> = self.interested(pod, |config| &config.prioritize_verb).collect();
        let mut scores = vec![0_i64; nodes.len()];
        if scoring.is_empty() {
            return scores;
        }
        let positions: HashMap<&str, usize> = nodes.iter().enumerate().map(|(position, node)| (node.name(), position)).collect();
        let answers = wait_for(join_all(scoring.iter().map(|extender| extender.scores(pod, nodes))));
        for (extender, answer) in scoring.into_iter().zip(answers) {
            let given = answer.unwrap_or_else(|error| {
                tracing::debug!(pod = %pod.key(), extender = extender.config.url_prefix, error, "no scores from an extender");
                Vec::new()
            });
            for host in given {
                if let Some(position) = positions.get(host.host.as_str()) {
                    let weighed = host.score.saturating_mul(extender.config.weight).saturating_mul(MAX_SCORE / MAX_PRIORITY);
                    scores[*position] = scores[*position].saturating_add(weighed);
                }
            }
        }
        scores
    }

    /// Whether one of them has a say in whom to preempt for a pod.
    pub fn preempt_for(&self, pod: &PodInfo) -> bool {
        self.interested(pod, |config| &config.preempt_verb).next().is_some()
    }

    /// Leaves of the candidates those that the extenders leave, with the victims that they say.
    pub fn preempt(&self, pod: &PodInfo, mut candidates: Vec<Candidate>, snapshot: &Snapshot) -> Result<Vec<Candidate>, String> {
        for extender in self.interested(pod, |config| &config.preempt_verb) {
            if candidates.is_empty() {
                break;
            }
            let Some(mut left) = extender.excused(extender.preempt(pod, &candidates, snapshot))? else { continue };
            if extender.config.ignorable {
                left.retain(|candidate| !candidate.victims.is_empty());
            } else if let Some(candidate) = left.iter().find(|candidate| candidate.victims.is_empty()) {
                return Err(format!("expected at least one victim pod on node {:?}", candidate.node));
            }
            candidates = left;
        }
        Ok(candidates)
    }

    /// Lets the first bind that does; `None` leaves it to the plugins.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Option<Result<(), String>> {
        for extender in self.interested(pod, |config| &config.bind_verb) {
            match extender.excused(extender.bind(pod, node).await) {
                Ok(None) => {}
                Ok(Some(())) => return Some(Ok(())),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Those that are asked about a pod, and have this verb.
    fn interested(&self, pod: &PodInfo, verb: fn(&config::Extender) -> &String) -> impl Iterator<Item = &Extender> {
        self.0.iter().filter(move |extender| !verb(&extender.config).is_empty() && extender.is_interested(pod))
    }
}

impl Extender {
    fn is_interested(&self, pod: &PodInfo) -> bool {
        let managed = |name: &String| self.config.managed_resources.iter().any(|resource| resource.name == *name);
        let spec = pod.spec();
        let resources =
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(|container| container.resources.as_ref());
        let mut names = resources.flat_map(|resources| resources.requests.iter().chain(&resources.limits)).flatten().map(|(name, _)| name);
        self.config.managed_resources.is_empty() || names.any(managed)
    }

    /// A failure is none of one that need not be asked.
    fn excused<T>(&self, answer: Result<T, String>) -> Result<Option<T>, String> {
        answer.map(Some).or_else(|error| {
            if !self.config.ignorable {
                return Err(error);
            }
            tracing::info!(extender = self.config.url_prefix, error, "an extender that may fail has failed");
            Ok(None)
        })
    }

    async fn ask(&self, verb: &str, question: serde_json::Result<Vec<u8>>) -> Result<Vec<u8>, String> {
        self.transport.post(verb, question.map_err(|error| error.to_string())?).await
    }

    fn filter(&self, pod: &PodInfo, nodes: &[Arc<NodeInfo>]) -> Result<(Vec<Arc<NodeInfo>>, Filtered), String> {
        let knows_nodes = self.config.node_cache_capable;
        let answer = wait_for(self.ask(&self.config.filter_verb, wire::about_nodes(pod, nodes, knows_nodes)))?;
        let answer = wire::filtered(&answer, knows_nodes)?;
        let by_name: HashMap<&str, &Arc<NodeInfo>> = nodes.iter().map(|node| (node.name(), node)).collect();
        let find = |name: &String| {
            let unknown = || {
                format!("extender {:?} claims a filtered node {name:?} which is not found in the input node list", self.config.url_prefix)
            };
            by_name.get(name.as_str()).map(|node| (*node).clone()).ok_or_else(unknown)
        };
        let left = answer.left.iter().map(find).collect::<Result<_, _>>()?;
        Ok((left, answer))
    }

    async fn scores(&self, pod: &PodInfo, nodes: &[Arc<NodeInfo>]) -> Result<Vec<wire::HostPriority>, String> {
        let question = wire::about_nodes(pod, nodes, self.config.node_cache_capable);
        wire::scored(&self.ask(&self.config.prioritize_verb, question).await?)
    }

    fn preempt(&self, pod: &PodInfo, candidates: &[Candidate], snapshot: &Snapshot) -> Result<Vec<Candidate>, String> {
        let question = wire::about_preemption(pod, candidates, self.config.node_cache_capable);
        let answer = wait_for(self.ask(&self.config.preempt_verb, question))?;
        let candidate = |chosen: wire::Chosen| {
            let node = snapshot.get(&chosen.node).ok_or_else(|| format!("nodeinfo not found for node name {:?}", chosen.node))?;
            let find = |uid: &String| {
                let gone = || {
                    let (url, node) = (&self.config.url_prefix, &chosen.node);
                    format!(
                        "extender: {url} claims to preempt pod (UID: &{{{uid}}}) on node: {node}, but the pod is not found on that node"
                    )
                };
                node.pods.iter().find(|pod| pod.uid() == uid).cloned().ok_or_else(gone)
            };
            let victims = chosen.victims.iter().map(find).collect::<Result<_, String>>()?;
            Ok(Candidate { node: chosen.node, victims, violations: chosen.violations })
        };
        wire::preempted(&answer)?.into_iter().map(candidate).collect()
    }

    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), String> {
        wire::bound(&self.ask(&self.config.bind_verb, wire::about_binding(pod, node)).await?)
    }
}

/// Puts down why an extender has refused nodes, in the place of what was said of them before.
fn reject(error: &mut FitError, snapshot: &Snapshot, answer: Filtered) {
    let Filtered { failed, unresolvable, .. } = answer;
    if failed.is_empty() && unresolvable.is_empty() {
        return;
    }
    let mut known: HashMap<usize, usize> = error.rejected.iter().enumerate().map(|(index, (position, _))| (*position, index)).collect();
    let failed = failed.into_iter().filter(|(name, _)| !unresolvable.contains_key(name));
    let failed: Vec<_> = failed.map(|(name, why)| (name, Rejection::unschedulable(why))).collect();
    let never = unresolvable.into_iter().map(|(name, why)| (name, Rejection::unresolvable(why)));
    for (name, rejection) in never.chain(failed) {
        let Some(position) = snapshot.position(&name) else { continue };
        match known.get(&position) {
            Some(index) => error.rejected[*index].1 = rejection,
            None => {
                known.insert(position, error.rejected.len());
                error.rejected.push((position, rejection));
            }
        }
    }
}

/// Waits for an answer in the middle of a decision; see the module's description.
fn wait_for<T>(answer: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| futures::executor::block_on(answer))
}
