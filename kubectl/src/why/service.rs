//! Why a Service reaches nothing.

use super::{Answer, World, count, grouped, items, namespace, pod, selector, text};
use serde_json::Value;

/// How many different states of pods are told.
const TOLD: usize = 3;

/// The answer for one Service.
pub fn why(world: &dyn World, service: &Value) -> Answer {
    let (spec, ns) = (&service["spec"], namespace(service));
    if spec["type"] == "ExternalName" {
        return Answer::fine(service, format!("is only a name for {}", text(&spec["externalName"])));
    }
    let chosen = selector(&spec["selector"]);
    let slices = world.list(
        &format!("/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices"),
        &format!("kubernetes.io/service-name={}", text(&service["metadata"]["name"])),
        "",
    );
    let ready = slices.iter().flat_map(|s| items(&s["endpoints"])).filter(|e| e["conditions"]["ready"] != false).count();
    if chosen.is_empty() {
        let answer = format!("has no selector: its endpoints are made by hand, {} ready", count(ready, "address"));
        return if ready > 0 { Answer::fine(service, answer) } else { Answer::new(service, answer) };
    }
    let pods = world.list(&format!("/api/v1/namespaces/{ns}/pods"), &chosen, "");
    let live: Vec<&Value> = pods.iter().filter(|p| !["Succeeded", "Failed"].contains(&text(&p["status"]["phase"]))).collect();
    if live.is_empty() {
        return Answer::new(service, format!("has no endpoints: no pod in namespace {ns} matches its selector {chosen}"))
            .remedy(format!("compare with: kubectl get pods -n {ns} --show-labels"));
    }
    let answers: Vec<Answer> = live.iter().map(|p| pod::why(world, p)).collect();
    let well = answers.iter().filter(|a| a.fine).count();
    let unknown: Vec<String> = items(&spec["ports"]).filter_map(|port| unnamed(port, &live)).collect();
    let counted = format!("{} match, {well} ready", count(live.len(), "pod"));
    let answer = match (ready, well) {
        (0, 0) => Answer::new(service, format!("has no endpoints: {counted}"))
            .because(grouped(answers.into_iter().filter(|a| !a.fine).collect(), TOLD)),
        (0, _) => {
            Answer::new(service, format!("has no endpoints, though {counted}")).detail("the endpoint slice controller has not listed them")
        }
        (_, well) if well < live.len() => Answer::fine(service, format!("works on fewer pods than it has: {counted}"))
            .because(grouped(answers.into_iter().filter(|a| !a.fine).collect(), TOLD)),
        _ => Answer::fine(service, format!("works: {counted}")),
    };
    unknown.into_iter().fold(answer, |answer, port| Answer { fine: false, ..answer }.detail(port))
}

/// A target port whose name none of the pods' containers has.
fn unnamed(port: &Value, pods: &[&Value]) -> Option<String> {
    let name = port["targetPort"].as_str()?;
    let has = |pod: &&Value| items(&pod["spec"]["containers"]).flat_map(|c| items(&c["ports"])).any(|p| p["name"] == name);
    (!pods.iter().any(has)).then(|| format!("its target port {name} is no container port's name in any of the pods"))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::Cluster;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_follows_its_pods() {
        let service = |spec: Value| json!({"kind": "Service", "metadata": {"name": "web", "namespace": "d"}, "spec": spec});
        let selecting = || service(json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}));
        let pod = |name: &str, ready: bool| {
            json!({"kind": "Pod", "metadata": {"name": name, "namespace": "d", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http"}], "readinessProbe": {"httpGet": {"port": 80, "path": "/healthz"}}}]},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{"name": "c", "ready": ready, "containerID": "r://1", "state": {"running": {}}}]}})
        };
        let node = json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let world = || Cluster::default().with("/api/v1/nodes", node.clone());
        let pods = "/api/v1/namespaces/d/pods";
        let slices = "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices";
        let slice = json!({"metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}}, "endpoints": [{"conditions": {"ready": true}}]});

        let none = why(&world(), &selecting());
        assert_eq!(none.state, "has no endpoints: no pod in namespace d matches its selector app=web");
        let unready = why(&world().with(pods, pod("a", false)).with(pods, pod("b", false)), &selecting());
        assert_eq!((unready.fine, unready.state.as_str()), (false, "has no endpoints: 2 pods match, 0 ready"));
        assert_eq!(
            (unready.because.len(), unready.because[0].alike, unready.because[0].details[0].as_str()),
            (1, 1, "it asks GET :80/healthz")
        );
        let works = why(&world().with(pods, pod("a", true)).with(slices, slice.clone()), &selecting());
        assert_eq!((works.fine, works.state.as_str()), (true, "works: 1 pod match, 1 ready"));
        let mut wrong = selecting();
        wrong["spec"]["ports"][0]["targetPort"] = json!("htp");
        let wrong = why(&world().with(pods, pod("a", true)).with(slices, slice), &wrong);
        assert_eq!((wrong.fine, wrong.details.len()), (false, 1));
        assert!(why(&world(), &service(json!({"type": "ExternalName", "externalName": "x.org"}))).fine);
    }
}
