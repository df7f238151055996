//! Streams into and out of containers: exec and attach over WebSocket subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`, port-forward over SPDY in a
//! WebSocket (upstream: `client-go/tools/{remotecommand,portforward}`, KEP-4006). Left out: exec and attach over SPDY, which servers of the last ten
//! releases no longer need.

mod session;
mod terminal;
mod tunnel;

pub use session::{Session, Streams};
pub use terminal::{RawMode, size};
pub use tunnel::Tunnel;

use crate::cli::Args;
use crate::connection::{Connection, JSON, Url};
use crate::context::Context;
use crate::error::{Error, Result, message};
use crate::selection::{self, Choice, Rules};
use serde_json::Value;
use std::time::Duration;

/// The annotation that names the container commands mean when none is given.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// All containers of a pod: init, ordinary and ephemeral ones, in that order.
pub fn containers(pod: &Value) -> Vec<String> {
    let names = |field: &str| {
        let items = pod["spec"][field].as_array().cloned().unwrap_or_default();
        items.into_iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(names).collect()
}

/// The container a command means, and the note upstream prints when it had to choose.
pub fn default_container(pod: &Value, wanted: &str) -> Result<(String, Option<String>)> {
    let all = containers(pod);
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    if !wanted.is_empty() {
        return match all.iter().any(|c| c == wanted) {
            true => Ok((wanted.to_owned(), None)),
            false => Err(message(format!("container {wanted} not found in pod {name}"))),
        };
    }
    if let Some(annotated) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str()
        && all.iter().any(|c| c == annotated)
    {
        return Ok((annotated.to_owned(), None));
    }
    let ordinary = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let first = ordinary.first().and_then(|c| c["name"].as_str()).unwrap_or("").to_owned();
    let mut shown: Vec<String> = ordinary.iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect();
    for (field, note) in [("initContainers", " (init)"), ("ephemeralContainers", " (ephem)")] {
        let items = pod["spec"][field].as_array().cloned().unwrap_or_default();
        shown.extend(items.iter().filter_map(|c| c["name"].as_str().map(|n| format!("{n}{note}"))));
    }
    let note = (shown.len() > 1).then(|| format!("Defaulted container {first:?} out of: {}\n", shown.join(", ")));
    Ok((first, note))
}

/// The pods behind an object: itself, or those its selector matches, the best candidate first.
pub fn pods_of(ctx: &mut Context, word: &str, namespace: &str) -> Result<Vec<Value>> {
    let mapper = ctx.mapper()?;
    let arguments = if word.contains('/') { vec![word.to_owned()] } else { vec!["pods".to_owned(), word.to_owned()] };
    let choices = selection::choose(&mapper, &arguments, Rules::default())?;
    let Some(Choice { resource, name: Some(name) }) = choices.into_iter().next() else { return Err(message("no objects were passed")) };
    let connection = ctx.connection()?;
    let object = connection.get(&Url::new(resource.object_path(namespace, &name)))?;
    if object["kind"] == "Pod" {
        return Ok(vec![object]);
    }
    let selector = &object["spec"]["selector"];
    let labels = if selector["matchLabels"].is_object() { &selector["matchLabels"] } else { selector };
    let Some(map) = labels.as_object().filter(|m| !m.is_empty() && !m.contains_key("matchExpressions")) else {
        return Err(message(format!(
            "cannot get the logs from {}.{}: selector for {} not implemented",
            resource.name, resource.group, resource.kind
        )));
    };
    let text: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    let url = Url::new(format!("/api/v1/namespaces/{namespace}/pods")).query("labelSelector", text.join(","));
    let mut pods: Vec<Value> = connection.get(&url)?["items"].as_array().cloned().unwrap_or_default();
    // Upstream takes the pod most likely to have something to say: assigned, running, ready, longest so.
    pods.sort_by_key(|p| {
        let ready = p["status"]["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        (
            p["spec"]["nodeName"].is_null(),
            p["status"]["phase"] != "Running",
            !ready,
            p["metadata"]["creationTimestamp"].as_str().unwrap_or("").to_owned(),
        )
    });
    if pods.is_empty() {
        return Err(message("timed out waiting for the condition"));
    }
    Ok(pods)
}

/// Runs a session with this process's stdin, stdout and stderr, and turns its end into an exit code.
pub fn interactive(ctx: &mut Context, url: &Url, streams: Streams) -> Result<()> {
    let connection = ctx.connection()?;
    ctx.flush();
    let raw = if streams.tty && ctx.stdin_is_terminal { RawMode::enter() } else { None };
    let outcome = connection.block_on(async {
        let session = Session::open(&connection, url).await?;
        session.run(streams).await
    });
    drop(raw);
    outcome
}

/// Waits until the pod runs (or has ended), then attaches to it, as `kubectl run -i` does.
pub fn run_attached(ctx: &mut Context, args: &Args, namespace: &str, name: &str) -> Result<()> {
    let connection = ctx.connection()?;
    let pod = wait_for_start(&connection, namespace, name, args.duration("pod-running-timeout"))?;
    let (container, _) = default_container(&pod, "")?;
    let stdin = args.bool("stdin");
    if stdin && !args.bool("quiet") {
        ctx.complain("If you don't see a command prompt, try pressing enter.\n");
    }
    if ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or("")) {
        // Too late to attach: what it said is in its log.
        let log =
            connection.get_bytes(&Url::new(format!("/api/v1/namespaces/{namespace}/pods/{name}/log")).query("container", &container))?;
        ctx.print_bytes(&log);
    } else {
        let url = Url::new(format!("/api/v1/namespaces/{namespace}/pods/{name}/attach"));
        let streams = Streams { stdin, stderr: !args.bool("tty"), tty: args.bool("tty") };
        interactive(ctx, &streams.query(url, &container), streams)?;
    }
    if args.str("restart") == "Always" {
        return Ok(());
    }
    // Its exit code is this command's.
    let ended = wait_for(&connection, namespace, name, Duration::from_secs(60), |p| {
        ["Succeeded", "Failed"].contains(&p["status"]["phase"].as_str().unwrap_or(""))
    })?;
    let code = ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64().unwrap_or(0);
    match i32::try_from(code).unwrap_or(1) {
        0 => Ok(()),
        code => Err(Error::ExitWith { code, message: format!("pod {namespace}/{name} terminated (Error)") }),
    }
}

fn wait_for_start(connection: &Connection, namespace: &str, name: &str, limit: Duration) -> Result<Value> {
    wait_for(connection, namespace, name, limit, |p| !["", "Pending"].contains(&p["status"]["phase"].as_str().unwrap_or("")))
}

/// Watches one pod until it is as wanted.
pub fn wait_for(connection: &Connection, namespace: &str, name: &str, limit: Duration, done: impl Fn(&Value) -> bool) -> Result<Value> {
    let by_name = Url::new(format!("/api/v1/namespaces/{namespace}/pods")).query("fieldSelector", format!("metadata.name={name}"));
    let deadline = std::time::Instant::now() + limit;
    loop {
        let list = connection.get(&by_name)?;
        match list["items"].as_array().and_then(|i| i.first()) {
            Some(pod) if done(pod) => return Ok(pod.clone()),
            Some(_) => {}
            None => return Err(message(format!("pods {name:?} not found"))),
        }
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
        let url = by_name.clone().query("resourceVersion", version).query("watch", "true");
        let changed = connection.block_on(async {
            let watching = async {
                let mut stream = connection.stream(&url, JSON).await?;
                while let Some(event) = Connection::next_line(&mut stream).await? {
                    if done(&event["object"]) {
                        return Ok(());
                    }
                }
                Ok::<(), Error>(())
            };
            tokio::time::timeout(left, watching).await
        });
        match changed {
            Err(_) => return Err(message("timed out waiting for the condition")),
            Ok(result) => result?,
        }
    }
}
