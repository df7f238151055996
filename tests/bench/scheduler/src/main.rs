//! Measures a scheduler: how many pods a second it places, on how many nodes, with what already there. Which, is said by scenarios in the shape of
//! upstream's scheduler_perf; the scheduler and the apiserver can be any, for all this knows is a kubeconfig.
//!
//! `tests/bench/scheduler/run` starts ours and then this. Prints rows of a table and judges none.

mod load;
mod placement;
mod scenario;
mod watch;

use anyhow::{Context, Result};
use clap::Parser;
use load::Load;
use scenario::{Case, Op, Params, Workload};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use watch::Bound;

/// How long pods may take to be placed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Measures a scheduler by scenarios.
#[derive(Parser)]
struct Flags {
    /// The kubeconfig of an administrator of the cluster.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The scenarios.
    #[arg(long)]
    scenarios: PathBuf,
    /// Only cases and workloads whose name `CASE/WORKLOAD` contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Only workloads with this label.
    #[arg(long)]
    label: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Flags { kubeconfig, scenarios, only, label } = Flags::parse();
    let load = Load::connect(&kubeconfig).await?;
    let text = std::fs::read_to_string(&scenarios).with_context(|| format!("reading {}", scenarios.display()))?;
    let cases: Vec<Case> = serde_yaml::from_str(&text).context("scenarios")?;
    let base = scenarios.parent().unwrap_or(Path::new("."));
    for case in &cases {
        for workload in &case.workloads {
            let name = format!("{}/{}", case.name, workload.name);
            if name.contains(&only) && label.as_ref().is_none_or(|label| workload.labels.contains(label)) {
                run(&load, base, case, workload).await.with_context(|| name.clone())?;
                load.clean().await.context("cleaning up")?;
            }
        }
    }
    Ok(())
}

/// Runs one workload and prints its row.
async fn run(load: &Load, base: &Path, case: &Case, workload: &Workload) -> Result<()> {
    let mut waiting: Vec<Bound> = Vec::new();
    for op in &case.workload_template {
        perform(load, base, case, workload, op, &mut waiting).await?;
    }
    Ok(())
}

async fn perform(load: &Load, base: &Path, case: &Case, workload: &Workload, op: &Op, waiting: &mut Vec<Bound>) -> Result<()> {
    let params = &workload.params;
    match op.opcode.as_str() {
        "createNodes" => {
            let template = scenario::template(base, op.node_template_path.as_deref().unwrap_or("templates/node-default.yaml"))?;
            load.nodes(&template, op.count(params)?, op.label_node_prepare_strategy.as_ref()).await
        }
        "createNamespaces" => {
            let template = op.namespace_template_path.as_deref().map(|path| scenario::template(base, path)).transpose()?;
            load.namespaces(op.prefix.as_deref().unwrap_or_default(), op.count(params)?, template.as_ref()).await
        }
        "createPods" => pods(load, base, case, workload, op, op.namespace.as_deref(), waiting).await,
        "createPodSets" => {
            let (prefix, inner) =
                (op.namespace_prefix.as_deref().unwrap_or_default(), op.create_pods_op.as_deref().context("createPodsOp")?);
            for number in 0..op.count(params)? {
                let namespace = format!("{prefix}-{number}");
                pods(load, base, case, workload, inner, Some(&namespace), waiting).await?;
            }
            Ok(())
        }
        "createAny" => {
            load.any(&scenario::template(base, op.template_path.as_deref().context("templatePath")?)?, op.namespace.as_deref()).await
        }
        "barrier" => {
            for bound in waiting.drain(..) {
                bound.wait(PATIENCE).await?;
            }
            Ok(())
        }
        other => anyhow::bail!("no opcode {other:?} is known"),
    }
}

async fn pods(
    load: &Load,
    base: &Path,
    case: &Case,
    workload: &Workload,
    op: &Op,
    namespace: Option<&str>,
    waiting: &mut Vec<Bound>,
) -> Result<()> {
    let params: &Params = &workload.params;
    let path = op.pod_template_path.as_deref().or(case.default_pod_template_path.as_deref()).unwrap_or("templates/pod-default.yaml");
    let (template, count) = (scenario::template(base, path)?, op.count(params)?);
    let namespace = match namespace {
        Some(namespace) => namespace.to_owned(),
        None => load.fresh_namespace().await?,
    };
    let bound = Bound::watch(load, &namespace, count).await?;
    let begun = Instant::now();
    load.pods(&template, &namespace, count).await?;
    let created = begun.elapsed();
    if op.skip_wait_to_completion {
        waiting.push(bound);
        return Ok(());
    }
    let times = bound.wait(PATIENCE).await?;
    if op.collect_metrics {
        let took = times.last().map_or(Duration::ZERO, |last| *last - begun).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // Counts of pods.
        let (rate, creation) = (count as f64 / took, count as f64 / created.as_secs_f64());
        let wanted = workload.threshold.map_or(String::new(), |threshold| format!("; upstream's floor {threshold}"));
        let placement = placement::describe(load, &namespace).await?;
        println!("| {}/{} | {rate:.0} pods/s (created {creation:.0}/s){wanted}; {placement} |", case.name, workload.name);
    }
    Ok(())
}
