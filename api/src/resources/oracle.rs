//! The recorded answers of a real apiserver, played against the rows alone: decode, default, prepare, validate, print. What an apiserver adds to that
//! (admission, allocation, versions) is masked or taken from the recording.

use crate::field::{ErrorList, Path};
use crate::kind::Object;
use crate::resource::{PrintContext, Resource};
use crate::validation::metadata;
use crate::{decode, normalize, resources, schema, status::StatusError};
use regex::Regex;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracle");

/// Cases of `validation` that differ still.
const KNOWN_TO_DIFFER: &[&str] = &[];

fn cases(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("{ORACLE}/cases/{file}.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn answers(file: &str, id: &str) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(format!("{ORACLE}/answers/{file}/{id}.json")).unwrap()).unwrap()
}

/// The row that a path belongs to, and whether the path is that of objects of it, not of a subresource.
fn row_of(path: &str) -> Option<(&'static Resource, bool)> {
    let path = path.split('?').next().unwrap();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let row = resources::find(group, version, rest.first()?)?;
    Some((row, rest.len() <= 2))
}

fn fill(value: &Value, id: &str) -> Value {
    match value {
        Value::String(s) => json!(s.replace("{ns}", "NS").replace("{id}", id)),
        Value::Array(items) => items.iter().map(|v| fill(v, id)).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.replace("{id}", id), fill(v, id))).collect::<Map<_, _>>().into(),
        other => other.clone(),
    }
}

static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"(pod updates may not change fields other than [^\n]*)\n[\s\S]*", "$1 DIFF"),
        (r":\d{5}/(TCP|UDP|SCTP)", ":PORT/$1"),
        (r"\b10\.\d+\.\d+\.\d+\b", "IP"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    ]
    .map(|(pattern, with)| (Regex::new(pattern).unwrap(), with))
    .into()
});

static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(\d+[smhd]|<invalid>|\d+m\d+s)$").unwrap());

fn mask(value: &Value) -> Value {
    match value {
        Value::String(s) => {
            let masked = MASKS.iter().fold(s.clone(), |s, (pattern, with)| pattern.replace_all(&s, *with).into_owned());
            json!(AGE.replace(&masked, "AGE"))
        }
        Value::Array(items) => items.iter().map(mask).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), mask(v))).collect::<Map<_, _>>().into(),
        other => other.clone(),
    }
}

/// An object as the recording has it, made decodable again where it is masked.
fn unmasked(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::String(s) if s == "TIME" => *s = "2026-01-01T00:00:00Z".into(),
            Value::String(s) if s == "AGE" => *s = "500m".into(),
            Value::Object(map) => {
                if map.get("nodePort").is_some_and(|v| v == "PORT") {
                    // Any that differ will do, and ports of a service differ.
                    let port = 30_000 + map["port"].as_i64().unwrap_or(0);
                    map.insert("nodePort".into(), json!(port));
                }
                for (key, value) in map.iter_mut() {
                    walk(value);
                    if matches!(key.as_str(), "renewTime" | "acquireTime" | "eventTime" | "lastObservedTime") && value.is_string() {
                        *value = json!("2026-01-01T00:00:00.000000Z");
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}

fn decode(row: &Resource, value: &Value) -> Result<Box<dyn Object>, String> {
    let root = schema::find(&row.schema).expect("every row has a schema");
    let mut decoded = decode::value(root, value).map_err(|e| e.to_string())?;
    decoded.value["apiVersion"] = json!(row.api_version());
    decoded.value["kind"] = json!(row.kind);
    (row.decode)(&decoded.value).map_err(|e| e.to_string())
}

fn shown(row: &Resource, object: &dyn Object) -> Value {
    let mut value = object.to_value();
    normalize::normalize(schema::find(&row.schema).expect("every row has a schema"), &mut value);
    value
}

/// A new object as the registry makes it, before admission.
fn created(row: &Resource, body: &Value) -> Result<Box<dyn Object>, String> {
    let mut object = decode(row, body)?;
    object.set_defaults();
    let meta = object.metadata_mut();
    meta.uid = Some("UID".into());
    meta.generation = row.generation.then_some(1);
    meta.creation_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    if row.namespaced() {
        meta.namespace = Some("NS".into());
    }
    object.prepare_for_create();
    Ok(object)
}

/// What a client gets: the recorded object is read back from the store, so defaults have run on it once more.
fn answered(row: &Resource, object: &dyn Object) -> Value {
    let mut again = object.boxed_clone();
    again.set_defaults();
    shown(row, &*again)
}

/// Takes out what is not made from the body alone.
fn without_additions(row: &Resource, value: &Value) -> Value {
    let mut value = value.clone();
    let remove = |value: &mut Value, pointer: &str, key: &str| {
        if let Some(map) = value.pointer_mut(pointer).and_then(Value::as_object_mut) {
            map.remove(key);
        }
    };
    for key in ["managedFields", "resourceVersion", "finalizers"] {
        remove(&mut value, "/metadata", key);
    }
    if row.kind == "Pod" {
        for key in ["tolerations", "serviceAccount", "serviceAccountName", "preemptionPolicy", "priority"] {
            remove(&mut value, "/spec", key);
        }
        fn drop_token_mounts(value: &mut Value) {
            match value {
                Value::Array(items) => {
                    items.retain(|i| !i["name"].as_str().is_some_and(|n| n.starts_with("kube-api-access")));
                    items.iter_mut().for_each(drop_token_mounts);
                }
                Value::Object(map) => {
                    map.values_mut().for_each(drop_token_mounts);
                    map.retain(|k, v| !(matches!(k.as_str(), "volumes" | "volumeMounts") && v == &json!([])));
                }
                _ => {}
            }
        }
        drop_token_mounts(&mut value);
    }
    if row.kind == "Service" {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"] {
            remove(&mut value, "/spec", key);
        }
        for port in value.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            port.as_object_mut().unwrap().remove("nodePort");
        }
    }
    // The admission of nodes taints those that are new.
    if row.kind == "Node" {
        remove(&mut value, "/spec", "taints");
    }
    value
}

fn differences(want: &Value, got: &Value, at: &str, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(w), Value::Object(g)) => {
            let mut keys: Vec<&String> = w.keys().chain(g.keys()).collect();
            keys.sort();
            keys.dedup();
            for k in keys {
                match (w.get(k), g.get(k)) {
                    (Some(w), Some(g)) => differences(w, g, &format!("{at}.{k}"), out),
                    (w, g) => out.push(format!("{at}.{k}: wanted {}, got {}", json!(w), json!(g))),
                }
            }
        }
        (Value::Array(w), Value::Array(g)) if w.len() == g.len() => {
            w.iter().zip(g).enumerate().for_each(|(i, (w, g))| differences(w, g, &format!("{at}[{i}]"), out));
        }
        _ if want == got => {}
        _ => out.push(format!("{at}: wanted {want}, got {got}")),
    }
}

#[test]
fn created_objects_are_those_of_upstream() {
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in cases("kinds") {
        let id = case["id"].as_str().unwrap();
        let step = &case["steps"][0];
        let answer = &answers("kinds", id)[0];
        if answer["code"] != 201 {
            continue;
        }
        let (row, _) = row_of(step["do"].as_str().unwrap().split(' ').nth(1).unwrap()).unwrap();
        let object = created(row, &fill(&step["body"], id)).unwrap();
        let mut found = Vec::new();
        let want = mask(&without_additions(row, &answer["body"]));
        differences(&want, &mask(&without_additions(row, &answered(row, &*object))), "", &mut found);
        compared += 1;
        wrong.extend(found.into_iter().map(|d| format!("{id}{d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 50, "only {compared} compared");
}

#[test]
fn tables_are_those_of_upstream() {
    let context = PrintContext { now: "2026-01-01T00:00:05Z".parse().unwrap() };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in cases("kinds") {
        let id = case["id"].as_str().unwrap();
        let answers = answers("kinds", id);
        let Some(position) = answers.iter().position(|a| a["body"]["kind"] == "Table") else { continue };
        let (row, _) = row_of(case["steps"][0]["do"].as_str().unwrap().split(' ').nth(1).unwrap()).unwrap();
        let table = &answers[position]["body"];
        let columns: Vec<Value> =
            row.columns.iter().map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "priority": c.priority})).collect();
        let mut found = Vec::new();
        differences(&table["columnDefinitions"], &json!(columns), "columns", &mut found);
        // The object as it was recorded just before, so that what admission gave it is printed too.
        let object = decode(row, &unmasked(answers[position - 1]["body"].clone())).unwrap();
        differences(&mask(&table["rows"][0]["cells"]), &mask(&json!((row.cells)(&*object, &context))), "cells", &mut found);
        compared += 1;
        wrong.extend(found.into_iter().map(|d| format!("{id}: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 50, "only {compared} compared");
}

/// What the row says to a step: the 422 answer, or nothing with the warnings.
fn judged(row: &Resource, id: &str, step: &Value, old: Option<&Value>) -> Result<Vec<String>, Box<StatusError>> {
    let mut errors = ErrorList::new();
    let body = fill(&step["body"], id);
    let path = Path::new("metadata");
    let (object, warnings) = match old {
        None => {
            let mut object = created(row, &body).expect("a body that the recording took");
            // The mask is no namespace's name.
            if row.namespaced() {
                object.metadata_mut().namespace = Some("ns".into());
            }
            metadata::object_meta(object.metadata(), row.namespaced(), row.name_rule, &path, &mut errors);
            metadata::kube_finalizers(row, object.metadata(), &path, &mut errors);
            object.validate(&mut errors);
            let warnings = object.warnings(None);
            (object, warnings)
        }
        Some(old) => {
            let mut old = decode(row, &unmasked(old.clone())).expect("a recorded object");
            old.metadata_mut().namespace = row.namespaced().then(|| "ns".into());
            let mut object = decode(row, &body).expect("a body that the recording took");
            object.set_defaults();
            let meta = object.metadata_mut();
            meta.uid = old.metadata().uid.clone();
            meta.resource_version = Some("1".into());
            meta.generation = old.metadata().generation;
            meta.creation_timestamp = old.metadata().creation_timestamp.clone();
            meta.namespace = row.namespaced().then(|| "ns".into());
            if row.has_status() {
                let mut value = object.to_value();
                value["status"] = old.to_value()["status"].clone();
                object = (row.decode)(&value).unwrap();
            }
            object.prepare_for_update(&*old);
            metadata::object_meta_update(object.metadata(), old.metadata(), &path, &mut errors);
            metadata::kube_finalizers(row, object.metadata(), &path, &mut errors);
            object.validate_update(&*old, &mut errors);
            let warnings = object.warnings(Some(&*old));
            (object, warnings)
        }
    };
    if errors.is_empty() {
        return Ok(warnings);
    }
    let name = object.metadata().name.clone().unwrap_or_default();
    Err(Box::new(StatusError::invalid(&row.group, &row.kind, &name, errors)))
}

/// The object that a step left behind; where only a part of it was recorded, as the row makes it, with the account that admission gives to pods and the address that services get.
fn recorded_or_made(row: &Resource, answer: &Value, body: &Value) -> Value {
    if answer.is_object() {
        return answer.clone();
    }
    let mut value = shown(row, &*created(row, body).unwrap());
    if row.kind == "Pod" {
        value["spec"]["serviceAccountName"] = json!("default");
        value["spec"]["serviceAccount"] = json!("default");
    }
    if row.kind == "Service" {
        value["spec"]["clusterIP"] = json!("10.96.0.5");
        value["spec"]["clusterIPs"] = json!(["10.96.0.5"]);
    }
    value
}

fn sorted_causes(status: &Value) -> Value {
    let mut causes: Vec<String> = status["details"]["causes"].as_array().into_iter().flatten().map(Value::to_string).collect();
    causes.sort();
    json!(causes)
}

#[test]
fn refusals_are_those_of_upstream() {
    let mut differing = Vec::new();
    let mut compared = 0;
    for case in cases("validation") {
        let id = case["id"].as_str().unwrap();
        let answers = answers("validation", id);
        let mut old = None;
        let mut found = Vec::new();
        for (step, answer) in case["steps"].as_array().unwrap().iter().zip(&answers) {
            let (method, path) = step["do"].as_str().unwrap().split_once(' ').unwrap();
            let Some((row, true)) = row_of(path) else { continue };
            // Refused before validation, by decoding or admission, or after it, by allocation.
            let allocation = answer["body"]["message"].as_str().is_some_and(|m| m.contains("failed to allocate"));
            if !matches!(method, "POST" | "PUT") || !matches!(answer["code"].as_u64(), Some(200 | 201 | 422)) || allocation {
                continue;
            }
            compared += 1;
            let got = judged(row, id, step, old.as_ref().filter(|_| method == "PUT"));
            match (answer["code"] == 422, got) {
                (false, Ok(warnings)) => {
                    let own = |w: &&Value| !w.as_str().is_some_and(|w| w.contains("unknown field"));
                    let want: Vec<String> = answer["warnings"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(own)
                        .map(|w| w.as_str().unwrap().trim_start_matches("299 - ").to_owned())
                        .collect();
                    let got: Vec<String> = warnings.iter().map(|w| json!(w).to_string()).collect();
                    if want != got {
                        found.push(format!("warnings: wanted {want:?}, got {got:?}"));
                    }
                    old = Some(recorded_or_made(row, &answer["body"], &fill(&step["body"], id)));
                }
                (false, Err(status)) => found.push(format!("wanted none, got {status}")),
                (true, Ok(_)) => found.push(format!("wanted {}, got none", answer["body"]["message"])),
                (true, Err(status)) => {
                    let got = mask(&serde_json::to_value(&*status.0).unwrap());
                    for (what, want, got) in [
                        ("message", answer["body"]["message"].clone(), got["message"].clone()),
                        ("causes", sorted_causes(&answer["body"]), sorted_causes(&got)),
                    ] {
                        if want != got {
                            found.push(format!("{what}:\n   wanted {want}\n   got    {got}"));
                        }
                    }
                }
            }
        }
        if !found.is_empty() {
            differing.push((id.to_owned(), found.join("\n  ")));
        }
    }
    let unexpected: Vec<String> =
        differing.iter().filter(|(id, _)| !KNOWN_TO_DIFFER.contains(&id.as_str())).map(|(id, what)| format!("{id}: {what}")).collect();
    assert!(unexpected.is_empty(), "{} of {compared}:\n{}", unexpected.len(), unexpected.join("\n"));
    let fixed: Vec<_> = KNOWN_TO_DIFFER.iter().filter(|id| !differing.iter().any(|(d, _)| d == *id)).collect();
    assert!(fixed.is_empty(), "no longer different: {fixed:?}");
    assert!(compared > 150, "only {compared} compared");
}
