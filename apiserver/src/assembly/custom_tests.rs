//! Custom resources over TLS, against a server in this process.

use super::tests::Cluster;
use super::tests::servers::{Answer, Outside};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A definition whose first version is stored.
fn definition(versions: &[(&str, Value)]) -> Value {
    let version = |(i, (name, extra)): (usize, &(&str, Value))| {
        let mut out = json!({"name": name, "served": true, "storage": i == 0, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}, "replicas": {"type": "integer"},
                "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}}},
                "x-kubernetes-validations": [{"rule": "!has(oldSelf.size) || self.size >= oldSelf.size", "message": "cannot shrink"}]},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}}}}});
        json_patch::merge(&mut out, extra);
        out
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
        "versions": versions.iter().enumerate().map(version).collect::<Vec<_>>()}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

impl Cluster {
    /// Makes the definition and waits until it is established.
    async fn define(&self, definition: Value) -> Value {
        let (code, made) = self.json("POST", DEFINITIONS, definition).await;
        assert_eq!(code, 201, "{made}");
        self.established(made["metadata"]["name"].as_str().unwrap()).await
    }

    async fn established(&self, name: &str) -> Value {
        let holds = |body: &Value| {
            body["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
        };
        self.until(&format!("{DEFINITIONS}/{name}"), |_, body| holds(body)).await
    }
}

#[tokio::test]
async fn a_custom_resource_lives_as_any_other() {
    let cluster = Cluster::start().await;
    let extra = json!({"subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}], "selectableFields": [{"jsonPath": ".spec.color"}]});
    let made = cluster.define(definition(&[("v1", extra)])).await;
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "WidgetList");
    // It is served, in discovery and in OpenAPI the moment it is established.
    let (_, list) = cluster.get("/apis/example.com/v1").await;
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    let (_, document) = cluster.get("/openapi/v3/apis/example.com/v1").await;
    assert_eq!(document["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"]["required"], json!(["size"]));

    let watch = cluster.request("GET", &format!("{WIDGETS}?watch=1&fieldSelector=spec.color%3Dred")).send().await.unwrap();
    let (code, a) = cluster.json("POST", WIDGETS, json!({"kind": "Widget", "apiVersion": "example.com/v1", "metadata": {"name": "a"}, "spec": {"size": 1, "x": 1}, "status": {"replicas": 3}})).await;
    assert_eq!((code, &a["spec"], a.get("status")), (201, &json!({"size": 1, "color": "red"}), None));
    let strict = cluster.json("POST", &format!("{WIDGETS}?fieldValidation=Strict"), widget("b", json!({"size": 1, "x": 1}))).await;
    assert_eq!(
        strict.1["message"],
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.x\""
    );
    let refused = cluster.json("POST", WIDGETS, widget("b", json!({"size": 0}))).await;
    assert_eq!(
        refused.1["message"],
        "Widget.example.com \"b\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
    );
    assert_eq!(cluster.json("POST", WIDGETS, widget("b", json!({"size": 2, "color": "blue"}))).await.0, 201);
    let (_, blue) = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await;
    assert_eq!((blue["items"].as_array().unwrap().len(), &blue["items"][0]["kind"]), (1, &json!("Widget")));

    let merge = "application/merge-patch+json";
    let (code, grown) = cluster.typed("PATCH", &format!("{WIDGETS}/a"), merge, r#"{"spec":{"size":3,"replicas":2}}"#).await;
    assert_eq!((code, &grown["metadata"]["generation"]), (200, &json!(2)));
    let (code, shrunk) = cluster.typed("PATCH", &format!("{WIDGETS}/a"), merge, r#"{"spec":{"size":2}}"#).await;
    assert_eq!((code, &shrunk["message"]), (422, &json!("Widget.example.com \"a\" is invalid: spec: Invalid value: cannot shrink")));
    let (_, status) = cluster
        .typed("PATCH", &format!("{WIDGETS}/a/status"), merge, r#"{"status":{"replicas":1,"selector":"a=b"},"spec":{"size":9}}"#)
        .await;
    assert_eq!(
        (&status["status"]["replicas"], &status["spec"]["size"], &status["metadata"]["generation"]),
        (&json!(1), &json!(3), &json!(2))
    );
    let (_, scale) = cluster.get(&format!("{WIDGETS}/a/scale")).await;
    assert_eq!((&scale["spec"], &scale["status"]), (&json!({"replicas": 2}), &json!({"replicas": 1, "selector": "a=b"})));
    let (code, scaled) = cluster.typed("PATCH", &format!("{WIDGETS}/a/scale"), merge, r#"{"spec":{"replicas":5}}"#).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(5)));
    assert_eq!(cluster.typed("PATCH", &format!("{WIDGETS}/a"), "application/strategic-merge-patch+json", "{}").await.0, 415);

    let apply = |body: &str| (format!("{WIDGETS}/a?fieldManager=two"), body.to_owned());
    let (path, body) =
        apply(r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"list":[{"k":"z","v":"1"}]}}"#);
    let (code, applied) = cluster.typed("PATCH", &path, "application/apply-patch+yaml", body).await;
    assert_eq!((code, &applied["spec"]["list"]), (200, &json!([{"k": "z", "v": "1"}])));
    let table = cluster.request("GET", WIDGETS).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let (_, table) = cluster.send(table).await;
    assert_eq!((&table["columnDefinitions"][1]["name"], &table["rows"][0]["cells"]), (&json!("Size"), &json!(["a", 3])));

    // A quota counts it by name, and an object with a finalizer holds the definition.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"count/widgets.example.com": "2"}}});
    assert_eq!(cluster.json("POST", "/api/v1/namespaces/default/resourcequotas", quota).await.0, 201);
    let counted = json!({"status": {"hard": {"count/widgets.example.com": "2"}, "used": {"count/widgets.example.com": "2"}}}).to_string();
    assert_eq!(cluster.typed("PATCH", "/api/v1/namespaces/default/resourcequotas/q/status", merge, counted).await.0, 200);
    assert_eq!(cluster.json("POST", WIDGETS, widget("c", json!({"size": 1}))).await.0, 403);
    assert_eq!(cluster.typed("PATCH", &format!("{WIDGETS}/b"), merge, r#"{"metadata":{"finalizers":["example.com/hold"]}}"#).await.0, 200);
    let (code, going) = cluster.send(cluster.request("DELETE", &format!("{DEFINITIONS}/widgets.example.com"))).await;
    assert_eq!((code, going["metadata"]["finalizers"][0].as_str()), (200, Some("customresourcecleanup.apiextensions.k8s.io")));
    cluster.until(&format!("{WIDGETS}/a"), |code, _| code == 404).await;
    cluster.until(&format!("{WIDGETS}/b"), |code, held| code == 200 && held["metadata"]["deletionTimestamp"].is_string()).await;
    assert_eq!(cluster.json("POST", WIDGETS, widget("d", json!({"size": 1}))).await.0, 405);
    assert_eq!(cluster.typed("PATCH", &format!("{WIDGETS}/b"), merge, r#"{"metadata":{"finalizers":null}}"#).await.0, 200);
    cluster.until(&format!("{DEFINITIONS}/widgets.example.com"), |code, _| code == 404).await;
    cluster.until(WIDGETS, |code, _| code == 404).await;

    let mut seen = String::new();
    let mut stream = watch.bytes_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        seen += std::str::from_utf8(&bytes).unwrap();
    }
    let events: Vec<(String, String)> = seen
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .map(|e| (e["type"].as_str().unwrap().to_owned(), e["object"]["metadata"]["name"].as_str().unwrap().to_owned()))
        .collect();
    assert!(events.iter().all(|(_, name)| name == "a"), "{events:?}");
    assert_eq!((events[0].0.as_str(), events.last().unwrap().0.as_str()), ("ADDED", "DELETED"));
    cluster.stop().await;
}

#[tokio::test]
async fn applying_is_strict_where_it_is_asked_to_be() {
    let cluster = Cluster::start().await;
    let open = json!({"schema": {"openAPIV3Schema": {"properties": {"spec": {"required": null, "properties": {
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}}}}}});
    cluster.define(definition(&[("v1", open)])).await;
    let apply = async |validation: &str, spec: &str| {
        let path = format!("{WIDGETS}/a?fieldManager=m&fieldValidation={validation}");
        let body = format!("apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n{spec}");
        let (code, answer) = cluster.typed("PATCH", &path, "application/apply-patch+yaml", body).await;
        (code, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let twice = "  free:\n    a: 1\n    a: 2\n";
    let (code, message) = apply("Strict", twice).await;
    assert_eq!(code, 400);
    assert!(message.starts_with("error strict decoding YAML: ") && message.ends_with("line 8: key \"a\" already set in map"), "{message}");
    assert_eq!(apply("Warn", twice).await.0, 201);
    let embedded = "  template:\n    apiVersion: v1\n    kind: Pod\n    metadata:\n      name: p\n      labels: {a: b}\n";
    assert_eq!(apply("Strict", embedded).await, (200, String::new()));
    let (code, message) = apply("Strict", &format!("{embedded}      odd: 1\n")).await;
    assert!(code == 500 && message.ends_with(".spec.template.metadata.odd: field not declared in schema"), "{code} {message}");
    cluster.stop().await;
}

#[tokio::test]
async fn versions_show_the_same_object() {
    let cluster = Cluster::start().await;
    let second =
        json!({"schema": {"openAPIV3Schema": {"properties": {"spec": {"properties": {"shape": {"type": "string", "default": "round"}}}}}}});
    cluster.define(definition(&[("v1", json!({})), ("v2", second)])).await;
    assert_eq!(cluster.json("POST", WIDGETS, widget("a", json!({"size": 1}))).await.0, 201);
    let v2 = WIDGETS.replace("/v1/", "/v2/");
    let (_, seen) = cluster.get(&format!("{v2}/a")).await;
    assert_eq!((&seen["apiVersion"], &seen["spec"]["shape"]), (&json!("example.com/v2"), &json!("round")));
    let (_, list) = cluster.get(&v2).await;
    assert_eq!((&list["kind"], &list["items"][0]["apiVersion"]), (&json!("WidgetList"), &json!("example.com/v2")));
    let (code, changed) = cluster.typed("PATCH", &format!("{v2}/a"), "application/merge-patch+json", r#"{"spec":{"size":4}}"#).await;
    assert_eq!((code, &changed["apiVersion"], &changed["spec"]["size"]), (200, &json!("example.com/v2"), &json!(4)));
    assert_eq!(cluster.get(&format!("{WIDGETS}/a")).await.1["spec"], json!({"size": 4, "color": "red"}));
    let (_, group) = cluster.get("/apis/example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");

    // The stored version changes, a default is new: what was stored before is shown as if it were written now.
    let (_, mut present) = cluster.get(&format!("{DEFINITIONS}/widgets.example.com")).await;
    present["spec"]["versions"][0]["storage"] = false.into();
    present["spec"]["versions"][1]["storage"] = true.into();
    present["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["weight"] =
        json!({"type": "integer", "default": 7});
    let (code, updated) = cluster.json("PUT", &format!("{DEFINITIONS}/widgets.example.com"), present).await;
    assert_eq!((code, &updated["status"]["storedVersions"]), (200, &json!(["v1", "v2"])));
    let shown = cluster.until(&format!("{WIDGETS}/a"), |_, body| body["spec"].get("weight").is_some()).await;
    assert_eq!(shown["spec"], json!({"size": 4, "color": "red", "weight": 7}));
    assert_eq!(cluster.get(&format!("{v2}/a")).await.1["apiVersion"], "example.com/v2");
    cluster.stop().await;
}

#[tokio::test]
async fn names_are_given_once() {
    let cluster = Cluster::start().await;
    cluster.define(definition(&[("v1", json!({}))])).await;
    let mut other = definition(&[("v1", json!({}))]);
    other["metadata"]["name"] = "gizmos.example.com".into();
    other["spec"]["names"] = json!({"plural": "gizmos", "kind": "Widget"});
    assert_eq!(cluster.json("POST", DEFINITIONS, other).await.0, 201);
    let refused = |body: &Value| {
        body["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "NamesAccepted" && c["status"] == "False")
    };
    cluster.until(&format!("{DEFINITIONS}/gizmos.example.com"), |_, body| refused(body)).await;
    assert_eq!(cluster.get("/apis/example.com/v1/gizmos").await.0, 404);
    // The name is free once the other definition is gone.
    assert_eq!(cluster.send(cluster.request("DELETE", &format!("{DEFINITIONS}/widgets.example.com"))).await.0, 200);
    cluster.established("gizmos.example.com").await;
    assert_eq!(cluster.get("/apis/example.com/v1/gizmos").await.0, 200);
    cluster.stop().await;
}

/// Converts between `hostPort` of v1 and `host` and `port` of v2.
fn converter() -> Answer {
    let convert = |object: &Value, wanted: &str| {
        let mut new = json!({"apiVersion": wanted, "kind": object["kind"], "metadata": object["metadata"]});
        if object["apiVersion"] == wanted {
            return object.clone();
        }
        match object["hostPort"].as_str().and_then(|both| both.split_once(':')) {
            Some((host, port)) => (new["host"], new["port"]) = (host.into(), port.into()),
            None => new["hostPort"] = format!("{}:{}", object["host"].as_str().unwrap(), object["port"].as_str().unwrap()).into(),
        }
        new
    };
    Arc::new(move |_, body| {
        let request = &body["request"];
        let wanted = request["desiredAPIVersion"].as_str().unwrap();
        let converted: Vec<Value> = request["objects"].as_array().unwrap().iter().map(|o| convert(o, wanted)).collect();
        let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": converted});
        (200, json!({"kind": "ConversionReview", "apiVersion": body["apiVersion"], "response": response}))
    })
}

#[tokio::test]
async fn what_only_a_webhook_can_show_is_selected_by() {
    let cluster = Cluster::start().await;
    let outside = Outside::start(&["127.0.0.1"], converter()).await;
    let version = |name: &str, stored: bool, fields: &[&str]| {
        let properties: serde_json::Map<String, Value> = fields.iter().map(|f| ((*f).to_owned(), json!({"type": "string"}))).collect();
        let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
        json!({"name": name, "served": true, "storage": stored, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    let mut definition = definition(&[]);
    definition["spec"]["versions"] = json!([version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])]);
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", outside.port), "caBundle": outside.ca_bundle}}});
    cluster.define(definition).await;

    let v2 = WIDGETS.replace("/v1/", "/v2/");
    let mut watches = Vec::new();
    for path in [format!("{v2}?watch=1&fieldSelector=host%3Done"), format!("{WIDGETS}?watch=1&fieldSelector=hostPort%3Done:80")] {
        watches.push(cluster.request("GET", &path).send().await.unwrap());
    }
    for (name, host, port) in [("a", "one", "80"), ("b", "one", "81"), ("c", "two", "80")] {
        let object = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": name, "labels": {"p": port}}, "host": host, "port": port});
        assert_eq!(cluster.json("POST", &v2, object).await.0, 201);
    }
    let names = async |path: &str| -> Vec<String> {
        let (code, list) = cluster.get(path).await;
        assert_eq!(code, 200, "{list}");
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&format!("{v2}?fieldSelector=host%3Done")).await, ["a", "b"]);
    assert_eq!(names(&format!("{v2}?fieldSelector=host%3Done,port%3D81")).await, ["b"]);
    assert_eq!(names(&format!("{v2}?fieldSelector=host%3Done&labelSelector=p%3D80")).await, ["a"]);
    assert_eq!(names(&format!("{WIDGETS}?fieldSelector=hostPort%3Done:81")).await, ["b"]);
    let (_, page) = cluster.get(&format!("{v2}?fieldSelector=host%3Done&limit=1")).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let rest = format!("{v2}?fieldSelector=host%3Done&limit=1&continue={}", page["metadata"]["continue"].as_str().unwrap());
    assert_eq!(names(&rest).await, ["b"]);

    // A watch from before the changes sees them as one from the start does.
    let before = page["metadata"]["resourceVersion"].as_str().unwrap();
    watches.push(cluster.request("GET", &format!("{v2}?watch=1&fieldSelector=host%3Done&resourceVersion={before}")).send().await.unwrap());
    let merge = "application/merge-patch+json";
    assert_eq!(cluster.typed("PATCH", &format!("{v2}/b"), merge, r#"{"host":"two"}"#).await.0, 200);
    assert_eq!(cluster.send(cluster.request("DELETE", &format!("{v2}?fieldSelector=host%3Done"))).await.0, 200);
    assert_eq!(names(&v2).await, ["b", "c"]);
    let expected: [&[(&str, &str, &str)]; 3] = [
        &[("ADDED", "a", "one"), ("ADDED", "b", "one"), ("DELETED", "b", "one"), ("DELETED", "a", "one")],
        &[("ADDED", "a", "one:80"), ("DELETED", "a", "one:80")],
        &[("DELETED", "b", "one"), ("DELETED", "a", "one")],
    ];
    for (watch, expected) in watches.into_iter().zip(expected) {
        let mut stream = watch.bytes_stream();
        let mut seen = String::new();
        while seen.matches('\n').count() < expected.len() {
            seen += std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap();
        }
        let events: Vec<Value> = seen.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let shown: Vec<(String, String, String)> = events
            .iter()
            .map(|e| {
                let object = &e["object"];
                (text(&e["type"]), text(&object["metadata"]["name"]), text(object.get("host").unwrap_or(&object["hostPort"])))
            })
            .collect();
        let shown: Vec<(&str, &str, &str)> = shown.iter().map(|(t, n, h)| (t.as_str(), n.as_str(), h.as_str())).collect();
        assert_eq!(shown, expected);
    }
    cluster.stop().await;
}
