//! Lifecycle hooks: `postStart` and `preStop`, by command, request or sleep (upstream: `pkg/kubelet/lifecycle/handlers.go`).

use crate::{node::Node, probe::check};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};
use std::time::Duration;

/// How long a hook's request may take. Upstream's client has no limit of its own; the grace period bounds `preStop`.
const REQUEST: Duration = Duration::from_secs(60);

/// What requests are sent in the name of.
const AGENT: &str = "kube-lifecycle/1.36";

fn without_credentials(get: &HTTPGetAction) -> HTTPGetAction {
    let mut get = get.clone();
    get.http_headers.get_or_insert_default().retain(|h| !h.name.eq_ignore_ascii_case("authorization"));
    get
}

/// Runs a hook in the container `id` of a pod at `pod_ip`. The error is what the log says; clients are only told that the hook failed.
pub async fn run(node: &Node, handler: &LifecycleHandler, container: &Container, id: &str, pod_ip: &str) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output = node.runtime.exec_sync(id, &command, Duration::ZERO).await.map_err(|e| e.to_string())?;
        return match output.exit_code {
            0 => Ok(()),
            code => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
                Err(format!("command {command:?} exited with {code}: {said}"))
            }
        };
    }
    if let Some(get) = &handler.http_get {
        let url = check::http_url(get, container, pod_ip)?;
        let answer = match (check::http_get(&url, get, REQUEST, AGENT).await, url.strip_prefix("https://")) {
            // Hooks were once sent in the clear whatever their scheme said; one that still listens so is found, but told no secret.
            (Err(_), Some(rest)) => check::http_get(&format!("http://{rest}"), &without_credentials(get), REQUEST, AGENT).await,
            (answer, _) => answer,
        };
        let answer = answer.map_err(|e| e.to_string())?;
        return if (200..400).contains(&answer.0) { Ok(()) } else { Err(format!("HTTP request failed with status {}", answer.0)) };
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("the hook has no handler".into())
}
