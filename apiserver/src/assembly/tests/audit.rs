//! The audit log, of requests that were made for real.

use super::{Cluster, MAPS, map};
use serde_json::{Value, json};

#[tokio::test]
async fn requests_are_in_the_audit_log_as_the_policy_wants_them() {
    let directory = tempfile::tempdir().unwrap();
    let (policy, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
                 - {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}\n- {level: None}\n";
    std::fs::write(&policy, rules).unwrap();
    let cluster = Cluster::with(|options| {
        options.audit_policy_file = Some(policy.clone());
        options.audit_log_path = Some(log.clone());
    })
    .await;
    let made = cluster.request("POST", MAPS).json(&map("a", "1")).send().await.unwrap();
    let id = made.headers()["audit-id"].to_str().unwrap().to_owned();
    let refused = cluster.client.get(format!("{}{MAPS}/a", cluster.url)).bearer_auth("bob");
    assert_eq!(cluster.send(refused).await.0, 403);
    // A watch is recorded when it begins, and when its client lets go of it.
    drop(cluster.request("GET", &format!("{MAPS}?watch=1")).send().await.unwrap());
    let events: Vec<Value> = loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events: Vec<Value> = whole.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        if events.iter().any(|e| e["verb"] == "watch" && e["stage"] == "ResponseComplete") {
            break events;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    let create = events.iter().find(|e| e["auditID"] == id.as_str()).unwrap();
    assert_eq!((&create["stage"], &create["responseStatus"]["code"]), (&json!("ResponseComplete"), &json!(201)));
    assert_eq!((&create["requestObject"]["data"]["k"], &create["responseObject"]["metadata"]["name"]), (&json!("1"), &json!("a")));
    assert_eq!(create["annotations"]["authorization.k8s.io/decision"], "allow");
    let forbidden = events.iter().find(|e| e["user"]["username"] == "bob").unwrap();
    assert_eq!(
        (&forbidden["responseStatus"]["code"], &forbidden["annotations"]["authorization.k8s.io/decision"]),
        (&json!(403), &json!("forbid"))
    );
    assert!(events.iter().any(|e| e["verb"] == "watch" && e["stage"] == "ResponseStarted"));
    cluster.stop().await;
}
