//! Admission policies, from their objects to answers.

use super::{Cluster, MAPS, map};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

async fn put(cluster: &Cluster, plural: &str, kind: &str, name: &str, spec: Value) {
    let object = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let (code, answer) = cluster.json("POST", &format!("{GROUP}/{plural}"), object).await;
    assert_eq!(code, 201, "{answer}");
}

fn constraints() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

async fn validating(cluster: &Cluster, spec: Value, binding: Value) {
    let mut spec = spec;
    spec["matchConstraints"] = constraints();
    put(cluster, "validatingadmissionpolicies", "ValidatingAdmissionPolicy", "p", spec).await;
    let mut binding = binding;
    binding["policyName"] = "p".into();
    put(cluster, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", "b", binding).await;
}

#[tokio::test]
async fn a_policy_refuses_with_its_message_and_reason() {
    let cluster = Cluster::start().await;
    let spec = json!({
        "variables": [{"name": "value", "expression": "object.data.k"}],
        "matchConditions": [{"name": "mine", "expression": "object.metadata.name.startsWith('guarded')"}],
        "validations": [
            {"expression": "variables.value != 'bad'", "messageExpression": "'it is ' + variables.value", "reason": "Forbidden"},
            {"expression": "request.userInfo.username == 'admin' && authorizer.group('').resource('pods').namespace('default').check('get').allowed()"}]});
    validating(&cluster, spec, json!({"validationActions": ["Deny"]})).await;
    assert_eq!(cluster.json("POST", MAPS, map("free", "bad")).await.0, 201);
    assert_eq!(cluster.json("POST", MAPS, map("guarded", "good")).await.0, 201);
    let (code, refused) = cluster.json("POST", MAPS, map("guarded-2", "bad")).await;
    let why = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: it is bad";
    assert_eq!((code, &refused["reason"]), (403, &json!("Forbidden")));
    assert_eq!(refused["message"], format!("configmaps \"guarded-2\" is forbidden: {why}"));
    assert_eq!(refused["details"]["causes"], json!([{"message": why}]));
    cluster.stop().await;
}

#[tokio::test]
async fn parameters_come_from_objects_and_warnings_do_not_refuse() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.json("POST", MAPS, map("limits", "3")).await.0, 201);
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.data.k.size() <= int(params.data.k)", "message": "too long"}]});
    let reference = json!({"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"});
    validating(&cluster, spec, json!({"validationActions": ["Warn", "Audit"], "paramRef": reference})).await;
    let response = cluster.request("POST", MAPS).json(&map("a", "1234")).send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["warning"], "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': too long\"");
    cluster.stop().await;
}

#[tokio::test]
async fn expressions_are_checked_against_the_kinds_they_are_about() {
    let cluster = Cluster::start().await;
    validating(&cluster, json!({"validations": [{"expression": "object.data.k > 1"}]}), json!({"validationActions": ["Deny"]})).await;
    let one = format!("{GROUP}/validatingadmissionpolicies/p");
    let status = loop {
        let (_, policy) = cluster.send(cluster.request("GET", &one)).await;
        if policy["status"]["observedGeneration"] == 1 {
            break policy["status"].clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    let warning = &status["typeChecking"]["expressionWarnings"][0];
    assert_eq!(warning["fieldRef"], "spec.validations[0].expression");
    assert!(
        warning["warning"].as_str().unwrap().starts_with("v1, Kind=ConfigMap: ERROR: <input>:1:15: found no matching overload"),
        "{warning}"
    );
    // At run time the types are looked at again: a policy that fails refuses.
    let (code, refused) = cluster.json("POST", MAPS, map("a", "1")).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"].as_str().unwrap().contains("expression 'object.data.k > 1' resulted in error: no such overload"),
        "{refused}"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn mutating_policies_apply_and_patch() {
    let cluster = Cluster::start().await;
    let spec = json!({"matchConstraints": constraints(), "reinvocationPolicy": "Never", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{data: {'added': object.data.k + '!'}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('x.y'), value: object.data.added}]"}}]});
    put(&cluster, "mutatingadmissionpolicies", "MutatingAdmissionPolicy", "m", spec).await;
    put(&cluster, "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", "m", json!({"policyName": "m"})).await;
    let (code, made) = cluster.json("POST", MAPS, map("a", "1")).await;
    assert_eq!((code, &made["data"]), (201, &json!({"k": "1", "added": "1!", "x.y": "1!"})), "{made}");
    cluster.stop().await;
}
