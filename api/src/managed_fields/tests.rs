//! The recorded answers of an upstream apiserver (tests/oracle, `patches`), played through these functions.

use super::*;
use crate::normalize::{empty, normalize};
use crate::schema;
use serde_json::json;

const NOW: &str = "2020-01-01T00:00:00Z";

/// An object with its managed fields, written by one after another.
struct Story {
    root: Root<'static>,
    api_version: &'static str,
    object: Value,
    managed: Value,
}

impl Story {
    fn new(api_version: &'static str, kind: &str) -> Self {
        let root = schema::of_kind(api_version, kind).expect(kind);
        Story { root, api_version, object: empty(root), managed: Value::Null }
    }

    fn writer<'a>(&self, manager: &'a str, subresource: &'a str) -> Writer<'a> {
        Writer { manager, subresource, api_version: self.api_version, time: NOW, reset: reset_fields(true, subresource) }
    }

    fn apply(&mut self, manager: &str, subresource: &str, config: Value, force: bool) -> Result<(), String> {
        let applied = super::apply(self.root, &self.object, &config, &self.managed, &self.writer(manager, subresource), force)
            .map_err(|e| e.to_string())?;
        self.object = crate::decode::value(self.root, &applied.object).expect("it fits the schema").value;
        normalize(self.root, &mut self.object);
        self.managed = applied.managed;
        Ok(())
    }

    fn update(&mut self, manager: &str, subresource: &str, change: impl FnOnce(&mut Value)) {
        let mut new = self.object.clone();
        change(&mut new);
        normalize(self.root, &mut new);
        self.managed = super::update(self.root, &self.object, &new, &self.managed, &self.writer(manager, subresource));
        self.object = new;
    }

    fn owns(&self, manager: &str) -> Value {
        let entry = self.managed.as_array().into_iter().flatten().find(|e| e["manager"] == manager);
        entry.map_or(Value::Null, |e| e["fieldsV1"].clone())
    }
}

#[test]
fn apply_create_and_change() {
    let mut story = Story::new("v1", "ConfigMap");
    let config = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    story.apply("one", "", config(json!({"k": "v", "x": "y"})), false).expect("created");
    assert_eq!(story.owns("one"), json!({"f:data": {"f:k": {}, "f:x": {}}}));
    story.apply("one", "", config(json!({"k": "v"})), false).expect("a field is given up");
    assert_eq!((&story.object["data"], story.owns("one")), (&json!({"k": "v"}), json!({"f:data": {"f:k": {}}})));
    let refused = story.apply("two", "", config(json!({"k": "other"})), false);
    assert_eq!(refused, Err("Apply failed with 1 conflict: conflict with \"one\": .data.k".into()));
    story.apply("two", "", config(json!({"k": "other", "mine": "2"})), true).expect("forced");
    assert_eq!(story.owns("one"), Value::Null);
    assert_eq!(story.owns("two"), json!({"f:data": {"f:k": {}, "f:mine": {}}}));
    story.apply("one", "", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}), false).expect("nothing");
    assert_eq!(story.object["data"], json!({"k": "other", "mine": "2"}));
    let before = story.managed.clone();
    story.apply("two", "", config(json!({"k": "other", "mine": "2"})), false).expect("again");
    assert_eq!(story.managed, before);
    let refused = story.apply("one", "", json!({"metadata": {"managedFields": [{"manager": "x"}]}}), false);
    assert_eq!(refused, Err("metadata.managedFields must be nil".into()));
}

#[test]
fn apply_deployment() {
    let mut story = Story::new("apps/v1", "Deployment");
    let config = |labels: Value, spec: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": labels}, "spec": spec});
    let template = |containers: Value| json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}});
    let selector = json!({"matchLabels": {"a": "b"}});
    let full = json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "h"}], "env": [{"name": "A", "value": "1"}]}]);
    story
        .apply("one", "", config(json!({"l": "1"}), json!({"replicas": 2, "selector": selector, "template": template(full)})), false)
        .expect("created");
    let owned = json!({"f:metadata": {"f:labels": {"f:l": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {"f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}}, "f:image": {}, "f:name": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:name": {}}}}}}}}});
    assert_eq!(story.owns("one"), owned);
    story.update("defaults", "", |o| o["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP".into());

    story.update("hpa", "", |o| o["spec"]["replicas"] = 5.into());
    assert_eq!(story.owns("hpa"), json!({"f:spec": {"f:replicas": {}}}));
    let refused = story.apply(
        "one",
        "",
        config(json!({}), json!({"replicas": 2, "selector": selector, "template": template(json!([{"name": "c", "image": "i"}]))})),
        false,
    );
    assert_eq!(refused, Err("Apply failed with 1 conflict: conflict with \"hpa\" using apps/v1: .spec.replicas".into()));

    let spec = json!({"selector": selector, "template": template(json!([{"name": "c", "image": "i:2"}, {"name": "side", "image": "s"}]))});
    story
        .apply("one", "", json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}), false)
        .expect("changed");
    assert_eq!(
        story.owns("one"),
        json!({"f:spec": {"f:selector": {}, "f:template": {"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {
            "k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}, "k:{\"name\":\"side\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
    );
    assert_eq!(story.object["spec"]["replicas"], 5);
    assert_eq!(story.object["metadata"].get("labels"), None);
    assert_eq!(
        story.object["spec"]["template"]["spec"]["containers"],
        json!([{"name": "c", "image": "i:2", "resources": {}}, {"name": "side", "image": "s", "resources": {}}])
    );

    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:3"}]}}}});
    let refused = story.apply("other", "", other, false);
    assert_eq!(
        refused,
        Err("Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"c\"].image".into())
    );
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "status": {"replicas": 1}});
    story.apply("ctl", "status", status, false).expect("status");
    assert_eq!(story.owns("ctl"), json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn lists_with_keys() {
    let mut story = Story::new("v1", "Service");
    let config =
        |name: &str, ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}});
    let refused = story.apply("one", "", config("a", json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}])), false);
    assert_eq!(refused, Err("failed to create typed patch object (/a; /v1, Kind=Service): .spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]".into()));
    story.apply("one", "", config("b", json!([{"port": 80, "protocol": "TCP"}])), false).expect("created");
    story.apply("two", "", config("b", json!([{"port": 443, "name": "s"}, {"port": 80, "name": "h"}])), false).expect("shared");
    assert_eq!(
        story.object["spec"]["ports"],
        json!([{"name": "s", "port": 443, "targetPort": 0}, {"name": "h", "port": 80, "protocol": "TCP", "targetPort": 0}])
    );
    assert_eq!(
        story.owns("two"),
        json!({"f:spec": {"f:ports": {"k:{\"port\":443,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}}}})
    );
    let unknown = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": {"nope": 1}});
    assert_eq!(
        story.apply("one", "", unknown, false),
        Err("failed to create typed patch object (/b; /v1, Kind=Service): .spec.nope: field not declared in schema".into())
    );
}

#[test]
fn updates() {
    let mut story = Story::new("v1", "Pod");
    story.update("kubectl-create", "", |o| {
        o["metadata"] = json!({"name": "a", "uid": "u", "labels": {"x": "1"}, "annotations": {"n": "1"}});
        o["spec"] = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A", "value": "b"}]}], "securityContext": {}});
    });
    let created = json!({"f:metadata": {"f:annotations": {".": {}, "f:n": {}}, "f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {},
        "f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}}, "f:image": {}, "f:name": {},
        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}, "f:resources": {}}}, "f:securityContext": {}}});
    assert_eq!(story.owns("kubectl-create"), created);
    story.update("kubelet", "status", |o| {
        o["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "1.2.3.4"}]});
    });
    assert_eq!(
        story.owns("kubelet"),
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}},
            "f:phase": {}, "f:podIPs": {".": {}, "k:{\"ip\":\"1.2.3.4\"}": {".": {}, "f:ip": {}}}}})
    );
    story.update("label", "", |o| o["metadata"]["labels"] = json!({"x": "2", "y": "3"}));
    assert_eq!(story.owns("kubectl-create")["f:metadata"], json!({"f:annotations": {".": {}, "f:n": {}}, "f:labels": {}}));
    assert_eq!(story.owns("label"), json!({"f:metadata": {"f:labels": {"f:x": {}, "f:y": {}}}}));
    let before = story.managed.clone();
    story.update("nobody", "", |_| {});
    assert_eq!(story.managed, before, "who changes nothing owns nothing");
    assert_eq!(starting_point(&before, &json!([{}]), ""), &json!([{}]));
    assert_eq!(starting_point(&before, &json!([]), ""), &before);
    assert_eq!(starting_point(&before, &json!([{}]), "status"), &before);
}

#[test]
fn updaters_are_bounded() {
    let mut story = Story::new("v1", "ConfigMap");
    for i in 0..20 {
        story.update(&format!("m{i}"), "", |o| o["data"][format!("k{i}")] = "v".into());
    }
    assert_eq!(story.managed.as_array().map(Vec::len), Some(MAX_UPDATERS));
    let fields = story.owns("ancient-changes")["f:data"].as_object().map(serde_json::Map::len);
    assert_eq!(fields, Some(12), "eleven keys and the map itself");
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let mut story = Story::new("v1", "ConfigMap");
    let manifest = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let mut config = manifest.clone();
    config["data"]["k"] = "w".into();
    let create = |o: &mut Value| {
        o["metadata"]["annotations"] = json!({LAST_APPLIED: manifest.to_string()});
        o["data"] = json!({"k": "v"});
    };
    story.update("kubectl-client-side-apply", "", create);
    assert!(story.apply("other", "", config.clone(), false).is_err());
    story.apply("kubectl", "", config.clone(), false).expect("no conflict with its own past");
    assert_eq!(story.object["data"]["k"], "w");
    assert_eq!(story.object["metadata"]["annotations"][LAST_APPLIED], format!("{config}\n"));
    story.update("edit", "", |o| o["data"]["k"] = "x".into());
    assert!(story.apply("kubectl", "", config, false).is_err(), "somebody else's change is a conflict");
}

#[test]
fn names_of_clients() {
    for (agent, name) in
        [("kubectl/v1.32.0 (linux/amd64) kubernetes/70d3cc9", "kubectl"), ("Python-urllib/3.11", "Python-urllib"), ("", "unknown")]
    {
        assert_eq!(manager_of_user_agent(agent), name);
    }
    assert_eq!(manager_of_user_agent(&"a".repeat(300)).len(), MANAGER_MAX);
}

/// What an upstream apiserver recorded for the objects it created: whoever creates owns all that is recorded; what admission and the kind's own preparation
/// set later stands in the answers too, but nobody owns it.
#[test]
fn creators_own_what_is_recorded() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle/answers/kinds");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).expect("the recorded answers are in the repository") {
        let path = entry.expect("readable").path();
        let answers: Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("readable")).expect("JSON");
        let mut created = answers[0]["body"].clone();
        let Some(root) = created["apiVersion"].as_str().and_then(|v| schema::of_kind(v, created["kind"].as_str()?)) else { continue };
        let Some(managed) = created["metadata"].as_object_mut().and_then(|m| m.remove("managedFields")) else { continue };
        let api_version = created["apiVersion"].as_str().expect("found above").to_owned();
        let writer = Writer { manager: "oracle", subresource: "", api_version: &api_version, time: NOW, reset: &Set::default() };
        let ours = super::update(root, &empty(root), &created, &Value::Null, &writer);
        let mut missing = Set::from_value(&managed[0]["fieldsV1"]);
        missing.subtract(&Set::from_value(&ours[0]["fieldsV1"]));
        // An empty list that its creator owned before storing made it null, and addresses, which the recording masks in values but not in keys.
        missing.subtract_trees(&Set::of_fields(&["spec.drivers", "spec.podCIDRs", "spec.hostAliases"]));
        assert_eq!(missing.paths(), Vec::<String>::new(), "{}", path.display());
        seen += 1;
    }
    assert!(seen > 40, "only {seen} objects were compared");
}
