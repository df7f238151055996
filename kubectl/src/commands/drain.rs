//! `kubectl drain`: a node without pods, by evicting them (upstream: `kubectl/pkg/drain`).

use super::{cordon, dry_run_flag};
use crate::cli::{Args, Command, Flag};
use crate::connection::{Connection, Url};
use crate::context::{Context, DryRun};
use crate::error::{Error, Result, message};
use crate::selection::Target;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long to wait before asking again when a disruption budget refuses, as upstream does.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// How often pods are looked for until they are gone.
const PAUSE: Duration = Duration::from_secs(1);
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The command.
pub fn cli() -> Command {
    Command::new("drain", "Drain node in preparation for maintenance")
        .usage("NODE")
        .flags([
            Flag::int64("chunk-size", "500", "How many objects to ask for at once; 0 for all."),
            Flag::switch("delete-emptydir-data", "Also pods whose emptyDir data is lost with them."),
            Flag::switch("disable-eviction", "Delete pods instead of evicting them."),
            dry_run_flag(),
            Flag::switch("force", "Also pods that nothing would replace."),
            Flag::int("grace-period", "-1", "Seconds for each pod to end in; negative for its own."),
            Flag::switch("ignore-daemonsets", "Pass over pods of daemon sets."),
            Flag::string("pod-selector", "", "Only pods whose labels match."),
            Flag::string("selector", "", "Only nodes whose labels match.").short('l'),
            Flag::int("skip-wait-for-delete-timeout", "0", "Do not wait for pods deleted longer ago than these seconds."),
            Flag::duration("timeout", "0s", "How long to try; 0 for as long as it takes."),
        ])
        .exec(exec)
}

fn exec(ctx: &mut Context, args: &Args) -> Result<()> {
    let dry_run = ctx.dry_run(args)?;
    let (nodes, errors) = cordon::nodes(ctx, args)?;
    Error::collect(errors)?;
    for node in &nodes {
        cordon::mark(ctx, node, true, dry_run)?;
    }
    let mut failed = Vec::new();
    for node in &nodes {
        match drain(ctx, args, node, dry_run) {
            Ok(()) => ctx.print(&format!("node/{} drained{}\n", node.name, dry_run.suffix())),
            Err(e @ Error::Unreachable { .. }) => return Err(e),
            Err(e) => {
                ctx.complain(&format!("error: unable to drain node {:?} due to error: {e}, continuing command...\n", node.name));
                failed.push((node.name.clone(), e));
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = failed.iter().map(|(n, _)| n.as_str()).collect();
    ctx.complain(&format!(
        "There are pending nodes to be drained:\n{}\n",
        names.iter().map(|n| format!(" {n}")).collect::<Vec<_>>().join("\n")
    ));
    Error::collect(failed.into_iter().map(|(_, e)| e).collect())
}

/// Why a pod stays, or may not go.
#[derive(Debug, PartialEq)]
enum Verdict {
    Evict,
    EvictWithWarning(&'static str),
    Skip,
    SkipWithWarning(&'static str),
    Refuse(&'static str),
}

const UNMANAGED: &str = "cannot delete Pods that declare no controller (use --force to override)";
const LOCAL: &str = "cannot delete Pods with local storage (use --delete-emptydir-data to override)";
const DAEMON: &str = "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)";

fn judge(args: &Args, pod: &Value) -> Verdict {
    let meta = &pod["metadata"];
    let controller = meta["ownerReferences"].as_array().and_then(|o| o.iter().find(|o| o["controller"] == true)).map(|o| o["kind"].clone());
    let finished = ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or(""));
    if !meta["annotations"][MIRROR].is_null() {
        return Verdict::Skip;
    }
    if controller == Some(json!("DaemonSet")) && !finished {
        return if args.bool("ignore-daemonsets") {
            Verdict::SkipWithWarning("ignoring DaemonSet-managed Pods")
        } else {
            Verdict::Refuse(DAEMON)
        };
    }
    let local = pod["spec"]["volumes"].as_array().is_some_and(|v| v.iter().any(|v| v["emptyDir"].is_object()));
    if local && !finished && !args.bool("delete-emptydir-data") {
        return Verdict::Refuse(LOCAL);
    }
    if controller.is_none() && !finished {
        return if args.bool("force") {
            Verdict::EvictWithWarning("deleting Pods that declare no controller")
        } else {
            Verdict::Refuse(UNMANAGED)
        };
    }
    Verdict::Evict
}

/// Reasons, each with the pods it holds for.
type Reasons = Vec<(&'static str, Vec<String>)>;

fn name_of(pod: &Value) -> String {
    format!("{}/{}", pod["metadata"]["namespace"].as_str().unwrap_or(""), pod["metadata"]["name"].as_str().unwrap_or(""))
}

fn drain(ctx: &mut Context, args: &Args, node: &Target, dry_run: DryRun) -> Result<()> {
    let connection = ctx.connection()?;
    let url = Url::new("/api/v1/pods")
        .query("fieldSelector", format!("spec.nodeName={}", node.name))
        .query("labelSelector", args.str("pod-selector"));
    let list = connection.get(&url)?;
    let (mut leaving, mut warnings, mut refusals) = (Vec::new(), Reasons::new(), Reasons::new());
    let note = |to: &mut Reasons, why: &'static str, pod: &Value| match to.iter_mut().find(|(w, _)| *w == why) {
        Some((_, pods)) => pods.push(name_of(pod)),
        None => to.push((why, vec![name_of(pod)])),
    };
    for pod in list["items"].as_array().into_iter().flatten() {
        match judge(args, pod) {
            Verdict::Skip => {}
            Verdict::SkipWithWarning(why) => note(&mut warnings, why, pod),
            Verdict::Refuse(why) => note(&mut refusals, why, pod),
            Verdict::EvictWithWarning(why) => {
                note(&mut warnings, why, pod);
                leaving.push(pod.clone());
            }
            Verdict::Evict => leaving.push(pod.clone()),
        }
    }
    let texts = |all: &Reasons| all.iter().map(|(why, pods)| format!("{why}: {}", pods.join(", "))).collect::<Vec<_>>();
    if !refusals.is_empty() {
        return Err(message(format!("[{}]", texts(&refusals).join(", ")).trim_matches(['[', ']'].as_slice()).to_owned()));
    }
    if !warnings.is_empty() {
        ctx.warn(&texts(&warnings).join("; "));
    }
    let deadline =
        Instant::now() + if args.duration("timeout").is_zero() { Duration::from_secs(7 * 24 * 3600) } else { args.duration("timeout") };
    for pod in &leaving {
        ctx.print(&format!("evicting pod {}{}\n", name_of(pod), dry_run.suffix()));
        ctx.flush();
        if dry_run != DryRun::Client {
            evict(ctx, &connection, args, pod, dry_run, deadline)?;
        }
    }
    if dry_run != DryRun::None {
        return Ok(());
    }
    for pod in &leaving {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            pod["metadata"]["namespace"].as_str().unwrap_or(""),
            pod["metadata"]["name"].as_str().unwrap_or("")
        );
        while connection.get(&Url::new(path.clone())).is_ok_and(|p| p["metadata"]["uid"] == pod["metadata"]["uid"]) {
            if Instant::now() > deadline {
                return Err(message(format!(
                    "error when waiting for pod {:?} in namespace {:?} to terminate: global timeout reached: {}",
                    pod["metadata"]["name"].as_str().unwrap_or(""),
                    pod["metadata"]["namespace"].as_str().unwrap_or(""),
                    crate::duration::format(args.duration("timeout"))
                )));
            }
            std::thread::sleep(PAUSE);
        }
        ctx.print(&format!("pod/{} evicted\n", pod["metadata"]["name"].as_str().unwrap_or("")));
    }
    Ok(())
}

fn evict(ctx: &mut Context, connection: &Connection, args: &Args, pod: &Value, dry_run: DryRun, deadline: Instant) -> Result<()> {
    let (namespace, name) = (pod["metadata"]["namespace"].as_str().unwrap_or(""), pod["metadata"]["name"].as_str().unwrap_or(""));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let mut options = json!({});
    if args.int("grace-period") >= 0 {
        options["gracePeriodSeconds"] = json!(args.int("grace-period"));
    }
    if dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    loop {
        let outcome = if args.bool("disable-eviction") {
            connection.delete(&Url::new(path.clone()), &options)
        } else {
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
            connection.post(&Url::new(format!("{path}/eviction")), &eviction)
        };
        match outcome {
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) if e.reason() == "TooManyRequests" && Instant::now() + REFUSED_PAUSE < deadline => {
                ctx.complain(&format!("error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {e}\n"));
                std::thread::sleep(REFUSED_PAUSE);
            }
            Err(e) => return Err(e.during(&format!("error when evicting pods/{name:?} -n {namespace:?}"), "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_go() {
        let owned = |kind: &str| json!({"metadata": {"ownerReferences": [{"kind": kind, "controller": true}]}});
        let cases = [
            ("", owned("ReplicaSet"), Verdict::Evict),
            ("", owned("DaemonSet"), Verdict::Refuse(DAEMON)),
            ("--ignore-daemonsets", owned("DaemonSet"), Verdict::SkipWithWarning("ignoring DaemonSet-managed Pods")),
            ("", json!({"metadata": {}}), Verdict::Refuse(UNMANAGED)),
            ("--force", json!({"metadata": {}}), Verdict::EvictWithWarning("deleting Pods that declare no controller")),
            ("", json!({"metadata": {}, "status": {"phase": "Succeeded"}}), Verdict::Evict),
            ("", json!({"metadata": {"annotations": {MIRROR: "x"}}}), Verdict::Skip),
            ("--force", json!({"spec": {"volumes": [{"emptyDir": {}}]}}), Verdict::Refuse(LOCAL)),
        ];
        for (flag, pod, expected) in cases {
            let words: Vec<String> = Some(flag).filter(|f| !f.is_empty()).map(str::to_owned).into_iter().collect();
            let args = Args::parse("kubectl drain", cli().flags, &words, true).unwrap();
            assert_eq!(judge(&args, &pod), expected, "{flag} {pod}");
        }
    }
}
