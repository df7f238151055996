//! Structural schemas on values: pruning, defaults, validation and rules.

use super::*;
use crate::field::ErrorList;
use serde_json::json;

fn schema() -> Structural {
    let props: JSONSchemaProps = serde_json::from_value(json!({
        "type": "object", "properties": {"spec": {"type": "object", "required": ["size"],
            "x-kubernetes-validations": [
                {"rule": "!has(self.replicas) || self.replicas <= self.size", "message": "too many"},
                {"rule": "self.size >= oldSelf.size", "messageExpression": "'shrunk from ' + string(oldSelf.size)", "fieldPath": ".size", "reason": "FieldValueForbidden"}],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "replicas": {"type": "integer"},
                "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 4},
                "maybe": {"type": "string", "nullable": true},
                "when": {"type": "string", "format": "date-time"},
                "port": {"x-kubernetes-int-or-string": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object", "properties": {"x": {"type": "integer"}}}}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "list": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "string", "default": "d"}}}},
                "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
                "raw": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}
            }}}
    }))
    .unwrap();
    Structural::new(&props)
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"}, "spec": spec})
}

fn told(errors: ErrorList) -> Vec<String> {
    errors.0.into_iter().map(|e| format!("{}: {}", e.path, e.message)).collect()
}

#[test]
fn what_is_not_declared_goes() {
    let mut value = object(json!({"size": 1, "x": 1, "free": {"y": 1, "known": {"z": 1, "x": 2}}, "labels": {"a": "b"},
        "list": [{"k": "a", "q": 1}], "raw": {"apiVersion": "v1", "kind": "P", "metadata": {"name": "x", "odd": 1}, "spec": {}}}));
    let mut unknown = Vec::new();
    prune(&schema(), &mut value, true, &mut unknown);
    assert_eq!(unknown, ["spec.free.known.z", "spec.list[0].q", "spec.raw.metadata.odd", "spec.x"]);
    assert_eq!(
        value,
        object(json!({"size": 1, "free": {"y": 1, "known": {"x": 2}}, "labels": {"a": "b"}, "list": [{"k": "a"}],
            "raw": {"apiVersion": "v1", "kind": "P", "metadata": {"name": "x"}, "spec": {}}}))
    );
}

#[test]
fn defaults_fill_in_what_is_absent_or_null() {
    let mut value = object(json!({"color": null, "name": null, "maybe": null, "list": [{"k": "a"}]}));
    default(&schema(), &mut value);
    drop_nulls(&schema(), &mut value);
    assert_eq!(value, object(json!({"color": "red", "maybe": null, "list": [{"k": "a", "v": "d"}]})));
}

#[test]
fn values_are_judged_in_upstreams_words() {
    for (spec, wrong) in [
        (json!({"size": 3, "color": "red", "port": "http", "maybe": null}), vec![]),
        (json!({}), vec!["spec.size: Required value"]),
        (json!({"size": 0}), vec!["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]),
        (json!({"size": 10}), vec!["spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9"]),
        (json!({"size": "3"}), vec!["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""]),
        (json!({"size": 1, "color": "green"}), vec!["spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\""]),
        (json!({"size": 1, "name": "A1"}), vec!["spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'"]),
        (json!({"size": 1, "name": "a"}), vec!["spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long"]),
        (json!({"size": 1, "name": "abcde"}), vec!["spec.name: Too long: may not be more than 4 bytes"]),
        (json!({"size": 1, "when": "x"}), vec!["spec.when: Invalid value: \"x\": spec.when in body must be of type date-time: \"x\""]),
        (
            json!({"size": 1, "port": true}),
            vec!["spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\""],
        ),
        (json!({"size": 1, "name": null}), vec!["spec.name: Invalid value: \"null\": spec.name in body must be of type string: \"null\""]),
        (
            json!({"size": 1, "list": [{"k": "a"}, {"k": "b"}, {"k": "c"}, {}]}),
            vec!["spec.list: Too many: 4: must have at most 3 items", "spec.list[3].k: Required value"],
        ),
        (
            json!({"size": 1, "labels": {"a": 1}}),
            vec!["spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\""],
        ),
        (
            json!({"size": 1, "one": {"a": "x", "b": "y"}}),
            vec!["<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found 2 valid alternatives"],
        ),
        (
            json!({"size": 1, "one": {}}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
                "spec.one.a: Required value",
            ],
        ),
    ] {
        let mut errors = ErrorList::new();
        validate(&schema(), &object(spec.clone()), None, &mut errors);
        assert_eq!(told(errors), wrong, "{spec}");
    }
    let mut errors = ErrorList::new();
    let value = object(json!({"list": [{"k": "a"}, {"k": "a"}], "tags": ["x", "y", "x"], "raw": {"spec": 1}}));
    validate_lists(&schema(), &value, &mut errors);
    validate_embedded(&schema(), &value, &mut errors);
    assert_eq!(
        told(errors),
        [
            "spec.list[1]: Duplicate value: {\"k\":\"a\"}",
            "spec.tags[2]: Duplicate value: \"x\"",
            "spec.raw.apiVersion: Required value: must not be empty",
            "spec.raw.kind: Required value: must not be empty"
        ]
    );
}

#[test]
fn what_was_wrong_before_may_stay_as_it_is() {
    let check = |old: Value, new: Value| {
        let mut errors = ErrorList::new();
        validate(&schema(), &object(new), Some(&object(old)), &mut errors);
        told(errors).len()
    };
    let old = json!({"size": 1, "name": "TOO-LONG", "list": [{"k": "a", "v": 1}]});
    assert_eq!(check(old.clone(), json!({"size": 2, "name": "TOO-LONG", "list": [{"k": "b"}, {"k": "a", "v": 1}]})), 0);
    assert_eq!(check(old.clone(), json!({"size": 2, "name": "OTHER", "list": [{"k": "a", "v": 2}]})), 3);
}

#[test]
fn rules_are_checked() {
    let schema = schema();
    let rules = Rules::new(&schema, true).unwrap();
    let check = |old: Option<Value>, new: Value| {
        let mut errors = ErrorList::new();
        let (new, old) = (object(new), old.map(object));
        let warnings = rules.check(&schema, &new, old.as_ref(), &mut errors);
        (told(errors), warnings)
    };
    assert_eq!(check(None, json!({"size": 2, "replicas": 2})), (vec![], vec![]));
    assert_eq!(check(None, json!({"size": 2, "replicas": 5})), (vec!["spec: Invalid value: too many".to_owned()], vec![]));
    assert_eq!(check(Some(json!({"size": 3})), json!({"size": 2})), (vec!["spec.size: Forbidden: shrunk from 3".to_owned()], vec![]));
    let broken = json!({"size": 2, "replicas": 5});
    assert_eq!(check(Some(broken.clone()), broken), (vec![], vec!["spec: Invalid value: too many".to_owned()]));
}

#[test]
fn owners_see_lists_by_their_keys() {
    let (arena, id) = arena(Some(&schema()));
    let definition = arena.get(id);
    let crate::schema::Type::Struct(spec) = definition.field("spec").unwrap().ty else { panic!("spec is an object") };
    let spec = arena.get(spec);
    assert_eq!(spec.field("list").unwrap().relation, crate::schema::Relation::Map(vec!["k".into()]));
    assert_eq!(spec.field("tags").unwrap().relation, crate::schema::Relation::Set);
    assert!(!spec.open && !definition.open);
}
