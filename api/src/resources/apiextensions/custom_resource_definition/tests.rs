//! Definitions as they are made and changed: what is refused in upstream's words, names, and conditions.

use super::*;
use crate::custom::Family;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

fn definition(schema: Value, change: impl FnOnce(&mut Value)) -> CustomResourceDefinition {
    let mut value = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": schema}}]}});
    change(&mut value);
    let mut made: CustomResourceDefinition = serde_json::from_value(value).unwrap();
    Kind::set_defaults(&mut made);
    made
}

fn wrong(definition: &CustomResourceDefinition) -> Vec<String> {
    let mut errors = ErrorList::new();
    Kind::validate(definition, &mut errors);
    errors.0.into_iter().map(|e| format!("{}: {}", e.path, e.message)).collect()
}

fn of_schema(spec: Value) -> Vec<String> {
    let found = wrong(&definition(json!({"type": "object", "properties": {"spec": spec}}), |_| {}));
    let at = "spec.validation.openAPIV3Schema.properties[spec]";
    found.into_iter().map(|e| e.strip_prefix(at).map(str::to_owned).unwrap_or(e)).collect()
}

#[test]
fn schemas_have_to_be_structural() {
    for (spec, told) in [
        (json!({"type": "string"}), vec![]),
        (json!({}), vec![".type: Required value: must not be empty for specified object fields"]),
        (json!({"type": "array"}), vec![".items: Required value: must be specified"]),
        (json!({"type": "array", "items": {}}), vec![".items.type: Required value: must not be empty for specified array items"]),
        (
            json!({"type": "thing"}),
            vec![
                ".type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        ),
        (
            json!({"type": "string", "pattern": "("}),
            vec![
                ".pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            vec![".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"],
        ),
        (
            json!({"type": "string", "anyOf": [{"type": "string"}, {"description": "x"}]}),
            vec![".anyOf[1].description: Forbidden: must be empty to be structural"],
        ),
        (json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}), vec![]),
        (
            json!({"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
            vec![
                ".items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            json!({"type": "integer", "default": "x"}),
            vec![
                ".default: Invalid value: \"string\": spec.validation.openAPIV3Schema.properties[spec].default in body must be of type integer: \"string\"",
            ],
        ),
        (json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}), vec![]),
    ] {
        assert_eq!(of_schema(spec.clone()), told, "{spec}");
    }
}

#[test]
fn rules_have_to_compile_and_be_cheap() {
    let rule = |rule: &str| {
        of_schema(json!({"type": "object", "properties": {"a": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}}},
        "x-kubernetes-validations": [{"rule": rule}]}))
    };
    let one = |text: &str| -> String { rule(text).first().cloned().unwrap_or_default() };
    assert_eq!(one("self.a == 'x'"), "");
    assert!(
        one("self.bogus == 1").contains("compilation failed: ERROR: <input>:1:5: undefined field 'bogus'"),
        "{}",
        one("self.bogus == 1")
    );
    assert!(one("self.a ==").contains("Syntax error"));
    assert!(one("self.a").contains("cel expression must evaluate to a bool"));
    assert!(
        one("self.l.all(x, self.l.all(y, x == y))").contains("estimated rule cost exceeds budget by factor of more than 100x"),
        "{:?}",
        one("self.l.all(x, self.l.all(y, x == y))")
    );
    assert_eq!(
        of_schema(
            json!({"type": "array", "items": {"type": "string", "maxLength": 5, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}, "maxItems": 5})
        ),
        [
            ".items.x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"self == oldSelf\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[spec]"
        ]
    );
}

#[test]
fn the_rest_of_a_definition_is_checked_too() {
    let with = |change: &dyn Fn(&mut Value)| wrong(&definition(json!({"type": "object"}), change));
    assert_eq!(with(&|_| {}), [""; 0]);
    assert_eq!(with(&|d| d["spec"]["names"]["kind"] = "W_x".into()).len(), 3);
    assert_eq!(with(&|d| d["spec"]["preserveUnknownFields"] = true.into()).len(), 1);
    assert_eq!(
        with(&|d| d["spec"]["conversion"] = json!({"strategy": "Webhook"})),
        ["spec.conversion.webhook.clientConfig: Required value: required when strategy is set to Webhook"]
    );
    assert_eq!(
        with(&|d| d["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.x"}])),
        ["spec.selectableFields[0].jsonPath: Invalid value: \".spec.x\": is an invalid path: does not refer to a valid field"]
    );
    assert_eq!(
        with(
            &|d| d["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".x", "statusReplicasPath": ".status.r"}})
        ),
        ["spec.subresources.scale.specReplicasPath: Invalid value: \".x\": should be a json path under .spec"]
    );
}

#[test]
fn names_go_to_whoever_was_first() {
    let now = Time(Timestamp::UNIX_EPOCH);
    let first = definition(json!({"type": "object"}), |_| {});
    let first = conditions::decide(&first, std::iter::empty(), &now);
    assert!(conditions::is(&first, conditions::ESTABLISHED) && conditions::is(&first, conditions::NAMES_ACCEPTED));
    let second = definition(json!({"type": "object"}), |d| {
        d["metadata"]["name"] = "gizmos.example.com".into();
        d["spec"]["names"] = json!({"plural": "gizmos", "kind": "Widget", "shortNames": ["widget"]});
    });
    let second = conditions::decide(&second, [&first].into_iter(), &now);
    let told: Vec<String> = second
        .status
        .as_ref()
        .unwrap()
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason.as_deref().unwrap(), c.message.as_deref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "NamesAccepted=False ListKindConflict: \"WidgetList\" is already in use",
            "Established=False NotAccepted: not all names are accepted"
        ]
    );
    assert_eq!(second.status.unwrap().accepted_names.unwrap().plural, "gizmos");
}

#[test]
fn a_version_is_a_row() {
    let made = definition(
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}}),
        |d| {
            d["spec"]["versions"][0]["subresources"] =
                json!({"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}});
            d["spec"]["versions"][0]["additionalPrinterColumns"] = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]);
            let mut second = d["spec"]["versions"][0].clone();
            second["name"] = "v2".into();
            second["storage"] = false.into();
            d["spec"]["versions"].as_array_mut().unwrap().push(second);
        },
    );
    let rows = Family::rows(&made);
    assert_eq!(rows.iter().map(|r| r.api_version()).collect::<Vec<_>>(), ["example.com/v2", "example.com/v1"]);
    let row = &rows[1];
    assert_eq!((row.list_kind().as_str(), row.subresources.len(), row.columns.len()), ("WidgetList", 2, 2));
    let mut object = row
        .typed(&json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {}, "status": {"size": 1}}))
        .unwrap();
    object.set_defaults();
    object.prepare_for_create();
    assert_eq!(
        object.to_value(),
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 3}})
    );
    let context = PrintContext { now: Timestamp::UNIX_EPOCH };
    assert_eq!((row.cells)(&*object, &context), [json!("a"), json!(3)]);
    let document = crate::openapi::document(&[row]);
    assert_eq!(document["components"]["schemas"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"]["type"], "integer");
    assert!(document["paths"].get("/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale").is_some());
}
