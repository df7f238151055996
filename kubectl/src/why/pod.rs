//! Why a pod does not run or is not ready: the first step of its life that it has not got past.

use super::{Answer, World, condition, finalizers, items, latest_event, namespace, node, nodes, number, text, told};
use serde_json::Value;

/// The answer for one pod.
pub fn why(world: &dyn World, pod: &Value) -> Answer {
    STEPS.iter().find_map(|step| step(world, pod)).unwrap_or_else(|| Answer::fine(pod, "runs and is ready"))
}

type Step = fn(&dyn World, &Value) -> Option<Answer>;

/// In the order of a pod's life, but that its end comes first; the first that has something to say answers.
const STEPS: &[Step] = &[ending, over, gated, unscheduled, node_away, volumes, sandbox, init, containers, probes, gates, unready];

fn ending(world: &dyn World, pod: &Value) -> Option<Answer> {
    if pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let grace = number(&pod["metadata"]["deletionGracePeriodSeconds"]);
    let answer = Answer::new(pod, "is being deleted").detail(finalizers(pod));
    let away = node_of(world, pod).map(|n| node::why(world, &n)).filter(|n| !n.fine);
    let runs: Vec<&str> =
        items(&pod["status"]["containerStatuses"]).filter(|c| c["state"]["running"].is_object()).map(|c| text(&c["name"])).collect();
    Some(match away {
        Some(node) => answer
            .detail("its node has to say that its containers have ended, and does not answer")
            .because([node])
            .remedy(format!("if the node is gone for good: kubectl delete {} --force", super::reference(pod))),
        None if !runs.is_empty() => answer.detail(format!("its containers have {grace} s to end and still run: {}", runs.join(", "))),
        None => answer,
    })
}

fn over(_: &dyn World, pod: &Value) -> Option<Answer> {
    let status = &pod["status"];
    match text(&status["phase"]) {
        "Succeeded" => Some(Answer::fine(pod, "has done its work: all its containers ended with success")),
        "Failed" => {
            let reason = [text(&status["reason"]), text(&status["message"])]
                .iter()
                .filter(|t| !t.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join(": ");
            let answer = Answer::new(pod, "has failed").detail(reason);
            Some(statuses(pod).filter_map(|c| ended(c, &c["state"]["terminated"])).fold(answer, Answer::detail))
        }
        _ => None,
    }
}

fn gated(_: &dyn World, pod: &Value) -> Option<Answer> {
    let gates: Vec<&str> = items(&pod["spec"]["schedulingGates"]).map(|g| text(&g["name"])).collect();
    let answer =
        Answer::new(pod, "may not be scheduled yet").detail(format!("its scheduling gates have to be removed first: {}", gates.join(", ")));
    (!gates.is_empty()).then_some(answer)
}

fn unscheduled(world: &dyn World, pod: &Value) -> Option<Answer> {
    if !text(&pod["spec"]["nodeName"]).is_empty() {
        return None;
    }
    let scheduler = text(&pod["spec"]["schedulerName"]);
    if !["", "default-scheduler"].contains(&scheduler) {
        return Some(
            Answer::new(pod, format!("waits for the scheduler {scheduler}"))
                .detail("no scheduler of that name has bound it; is there one?"),
        );
    }
    let said = condition(pod, "PodScheduled").filter(|c| c["status"] == "False").map(told);
    Some(nodes::why(world, pod, said))
}

fn node_of(world: &dyn World, pod: &Value) -> Option<Value> {
    world.get(&format!("/api/v1/nodes/{}", text(&pod["spec"]["nodeName"])))
}

fn node_away(world: &dyn World, pod: &Value) -> Option<Answer> {
    let name = text(&pod["spec"]["nodeName"]);
    let Some(node) = node_of(world, pod) else {
        return Some(
            Answer::new(pod, format!("is bound to node {name}, which does not exist"))
                .remedy("delete the pod; its controller makes another one"),
        );
    };
    let answer = node::why(world, &node);
    let ready = condition(&node, "Ready").is_some_and(|c| c["status"] == "True");
    (!ready).then(|| Answer::new(pod, format!("is on node {name}, which is not ready")).because([answer]))
}

/// Whether containers could have been started: the sandbox is there, or a container is or was.
fn prepared(pod: &Value) -> bool {
    condition(pod, "PodReadyToStartContainers").is_some_and(|c| c["status"] == "True") || statuses(pod).any(|c| !c["containerID"].is_null())
}

fn volumes(world: &dyn World, pod: &Value) -> Option<Answer> {
    if prepared(pod) {
        return None;
    }
    let event = latest_event(world, pod, &["FailedMount", "FailedAttachVolume", "FailedMapVolume"])?;
    let answer = Answer::new(pod, "waits for its volumes").detail(text(&event["message"]));
    Some(missing(world, pod).into_iter().fold(answer, Answer::remedy))
}

/// Config maps and secrets that the pod's volumes want and that are not there.
fn missing(world: &dyn World, pod: &Value) -> Vec<String> {
    let mut wanted = Vec::new();
    for volume in items(&pod["spec"]["volumes"]) {
        let sources = [volume].into_iter().chain(items(&volume["projected"]["sources"]));
        for source in sources {
            for (what, field, resource) in
                [("configMap", "name", "configmaps"), ("secret", "secretName", "secrets"), ("secret", "name", "secrets")]
            {
                let name = text(&source[what][field]);
                if !name.is_empty() && source[what]["optional"] != true {
                    wanted.push((resource, name.to_owned()));
                }
            }
        }
    }
    let ns = namespace(pod);
    wanted.retain(|(resource, name)| world.get(&format!("/api/v1/namespaces/{ns}/{resource}/{name}")).is_none());
    wanted.into_iter().map(|(resource, name)| format!("make the {} {name} in namespace {ns}", resource.trim_end_matches('s'))).collect()
}

fn sandbox(world: &dyn World, pod: &Value) -> Option<Answer> {
    if prepared(pod) {
        return None;
    }
    let event = latest_event(world, pod, &["FailedCreatePodSandBox", "FailedKillPod", "NetworkNotReady"])?;
    Some(Answer::new(pod, "waits for its sandbox: the runtime cannot set it up").detail(text(&event["message"])))
}

fn init(world: &dyn World, pod: &Value) -> Option<Answer> {
    let specs: Vec<&Value> = items(&pod["spec"]["initContainers"]).collect();
    for (i, status) in items(&pod["status"]["initContainerStatuses"]).enumerate() {
        let name = text(&status["name"]);
        let sidecar = specs.iter().any(|s| s["name"] == status["name"] && s["restartPolicy"] == "Always");
        let through = if sidecar { status["started"] == true } else { status["state"]["terminated"]["exitCode"] == 0 };
        if through {
            continue;
        }
        let place = format!("init container {name} ({} of {})", i + 1, specs.len());
        if let Some(answer) = stuck(world, pod, status, &place) {
            return Some(answer);
        }
        if status["state"]["running"].is_object() {
            let look = format!("kubectl logs {} -c {name}", text(&pod["metadata"]["name"]));
            return Some(Answer::new(pod, format!("waits for {place}, which still runs")).remedy(format!("see what it waits for: {look}")));
        }
    }
    None
}

fn containers(world: &dyn World, pod: &Value) -> Option<Answer> {
    items(&pod["status"]["containerStatuses"]).find_map(|status| stuck(world, pod, status, &format!("container {}", text(&status["name"]))))
}

/// What holds a container back that does not run.
fn stuck(world: &dyn World, pod: &Value, status: &Value, place: &str) -> Option<Answer> {
    let (waiting, name) = (&status["state"]["waiting"], text(&status["name"]));
    let logs = format!("kubectl logs {} -c {name} --previous", text(&pod["metadata"]["name"]));
    match text(&waiting["reason"]) {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" | "RegistryUnavailable" => {
            let said = latest_event(world, pod, &["Failed", "InspectFailed", "ErrImageNeverPull"]).map(|e| text(&e["message"]).to_owned());
            let image = text(&status["image"]);
            Some(
                Answer::new(pod, format!("cannot get the image of {place}: {image}"))
                    .detail(said.filter(|s| s.contains(image)).unwrap_or_else(|| text(&waiting["message"]).to_owned()))
                    .remedy("is the image's name right, and may this node pull it (imagePullSecrets)?"),
            )
        }
        "CrashLoopBackOff" => {
            let last = ended(status, &status["lastState"]["terminated"]).unwrap_or_default();
            let restarts = number(&status["restartCount"]);
            Some(
                Answer::new(pod, format!("keeps failing in {place}"))
                    .detail(last)
                    .detail(format!("it was restarted {restarts} times; the next try waits ({})", text(&waiting["message"])))
                    .remedy(format!("see what it said: {logs}")),
            )
        }
        reason @ ("CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PostStartHookError"
        | "PreCreateHookError"
        | "PreStartHookError") => {
            Some(Answer::new(pod, format!("cannot start {place}")).detail(format!("{reason}: {}", text(&waiting["message"]))))
        }
        _ => {
            let last = ended(status, &status["state"]["terminated"]).filter(|_| number(&status["state"]["terminated"]["exitCode"]) != 0)?;
            Some(
                Answer::new(pod, format!("has failed in {place}"))
                    .detail(last)
                    .remedy(format!("see what it said: {}", logs.replace(" --previous", ""))),
            )
        }
    }
}

/// `container c ended with exit code 3 (Error)`.
fn ended(status: &Value, terminated: &Value) -> Option<String> {
    terminated.as_object()?;
    let (name, reason) = (text(&status["name"]), text(&terminated["reason"]));
    let message = text(&terminated["message"]);
    let why = match reason {
        "OOMKilled" => "it used more memory than its limit allows and was killed".to_owned(),
        _ => format!("it ended with exit code {}", number(&terminated["exitCode"])),
    };
    Some(format!("container {name}: {why} ({reason}){}", if message.is_empty() { String::new() } else { format!(": {message}") }))
}

fn probes(world: &dyn World, pod: &Value) -> Option<Answer> {
    let running = |c: &&Value| c["state"]["running"].is_object();
    let status = items(&pod["status"]["containerStatuses"]).filter(running).find(|c| c["ready"] != true)?;
    let name = text(&status["name"]);
    let spec = items(&pod["spec"]["containers"]).find(|c| text(&c["name"]) == name)?;
    let which = if status["started"] == false && spec["startupProbe"].is_object() { "startup" } else { "readiness" };
    let probe = &spec[format!("{which}Probe")];
    let event = latest_event(world, pod, &["Unhealthy", "ProbeWarning"]).filter(|e| text(&e["message"]).to_lowercase().starts_with(which));
    let said = event.map_or_else(|| format!("the {which} probe has not succeeded yet"), |e| text(&e["message"]).to_owned());
    Some(
        Answer::new(pod, format!("is not ready: the {which} probe of container {name} does not pass"))
            .detail(format!("it asks {}", asked(probe)))
            .detail(said),
    )
}

/// What a probe asks, in a few words.
fn asked(probe: &Value) -> String {
    let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    if let Some(http) = probe.get("httpGet") {
        return format!("GET :{}{}", plain(&http["port"]), text(&http["path"]));
    }
    if let Some(tcp) = probe.get("tcpSocket") {
        return format!("for a connection to :{}", plain(&tcp["port"]));
    }
    if let Some(grpc) = probe.get("grpc") {
        return format!("gRPC health on :{} {}", plain(&grpc["port"]), text(&grpc["service"])).trim_end().to_owned();
    }
    items(&probe["exec"]["command"]).map(text).collect::<Vec<_>>().join(" ")
}

fn gates(_: &dyn World, pod: &Value) -> Option<Answer> {
    let open: Vec<&str> = items(&pod["spec"]["readinessGates"])
        .map(|g| text(&g["conditionType"]))
        .filter(|kind| condition(pod, kind).is_none_or(|c| c["status"] != "True"))
        .collect();
    let answer = || {
        Answer::new(pod, "is not ready: somebody outside has to set its readiness gates")
            .detail(format!("not true yet: {}", open.join(", ")))
    };
    (!open.is_empty()).then(answer)
}

fn unready(_: &dyn World, pod: &Value) -> Option<Answer> {
    let ready = condition(pod, "Ready");
    if ready.is_some_and(|c| c["status"] == "True") {
        return None;
    }
    let waiting =
        statuses(pod).filter_map(|c| Some(format!("container {}: {}", text(&c["name"]), c["state"]["waiting"]["reason"].as_str()?)));
    let answer = waiting.fold(Answer::new(pod, "is being started"), Answer::detail);
    Some(match ready {
        Some(condition) => answer.detail(told(condition)),
        None => answer.detail("the kubelet of its node has not reported on it yet"),
    })
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|list| items(&pod["status"][list]))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;
    use super::*;
    use serde_json::json;

    fn bound(rest: Value) -> Value {
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "d"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x:1",
            "readinessProbe": {"httpGet": {"port": 80, "path": "/healthz"}}}]}, "status": {"phase": "Pending"}});
        for (key, value) in rest.as_object().unwrap() {
            pod["status"][key] = value.clone();
        }
        pod
    }

    fn cluster() -> Cluster {
        let node = json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        Cluster::default().with("/api/v1/nodes", node)
    }

    #[test]
    fn the_step_that_holds_a_pod_is_told() {
        let waiting = |reason: &str, message: &str| {
            json!({"containerStatuses": [{"name": "c", "image": "x:1", "restartCount": 4,
            "containerID": "r://1", "state": {"waiting": {"reason": reason, "message": message}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]})
        };
        for (status, state, detail) in [
            (waiting("ImagePullBackOff", "Back-off"), "cannot get the image of container c: x:1", "Back-off"),
            (
                waiting("CrashLoopBackOff", "back-off 10s"),
                "keeps failing in container c",
                "container c: it used more memory than its limit allows and was killed (OOMKilled)",
            ),
            (
                waiting("CreateContainerConfigError", "secret \"s\" not found"),
                "cannot start container c",
                "CreateContainerConfigError: secret \"s\" not found",
            ),
            (
                json!({"containerStatuses": [{"name": "c", "ready": false, "containerID": "r://1", "state": {"running": {}}}]}),
                "is not ready: the readiness probe of container c does not pass",
                "it asks GET :80/healthz",
            ),
            (json!({"phase": "Succeeded"}), "has done its work: all its containers ended with success", ""),
            (json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}), "has failed", "Evicted: low on memory"),
            (json!({}), "is being started", "the kubelet of its node has not reported on it yet"),
            (json!({"conditions": [{"type": "Ready", "status": "True"}]}), "runs and is ready", ""),
        ] {
            let answer = why(&cluster(), &bound(status));
            assert_eq!((answer.state.as_str(), answer.details.first().map_or("", String::as_str)), (state, detail));
        }
    }

    #[test]
    fn a_volume_that_is_not_there_is_named_with_what_would_help() {
        let mut pod = bound(json!({}));
        pod["spec"]["volumes"] =
            json!([{"name": "v", "configMap": {"name": "settings"}}, {"name": "w", "secret": {"secretName": "there"}}]);
        let world = cluster().with("/api/v1/namespaces/d/secrets", json!({"metadata": {"name": "there"}})).event(
            &pod,
            "FailedMount",
            "configmap \"settings\" not found",
        );
        let answer = why(&world, &pod);
        assert_eq!((answer.state.as_str(), answer.details), ("waits for its volumes", vec!["configmap \"settings\" not found".to_owned()]));
        assert_eq!(answer.remedies, ["make the configmap settings in namespace d"]);
    }

    #[test]
    fn init_containers_and_nodes_come_first() {
        let mut pod = bound(json!({"initContainerStatuses": [{"name": "i", "containerID": "r://1", "state": {"running": {}}}]}));
        pod["spec"]["initContainers"] = json!([{"name": "i"}]);
        assert_eq!(why(&cluster(), &pod).state, "waits for init container i (1 of 1), which still runs");
        assert_eq!(why(&Cluster::default(), &pod).state, "is bound to node n1, which does not exist");
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(why(&cluster(), &pod).state, "is being deleted");
    }
}
