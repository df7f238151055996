//! Validation of what configures admission (upstream: `pkg/apis/admissionregistration/validation`).

use super::expressions::{Compiled, Environments};
use crate::cel::types::Type;
use crate::field::{ErrorList, Path};
use crate::resources::defaulting::{items, str};
use crate::validation::{invalid, labels, names};
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef, RuleWithOperations, Variable, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;
use std::collections::HashSet;

/// How many match conditions a webhook or policy may have.
const CONDITIONS: usize = 64;
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

/// A value that has to be one of those supported.
fn one_of(errors: &mut ErrorList, path: &Path, value: Option<&str>, supported: &[&str]) {
    if let Some(value) = value.filter(|v| !supported.contains(v)) {
        errors.not_supported(path, value, supported);
    }
}

/// The parts of either kind of webhook.
pub(super) struct Webhook<'a> {
    pub name: &'a str,
    pub client: &'a WebhookClientConfig,
    pub rules: &'a [RuleWithOperations],
    pub failure_policy: Option<&'a str>,
    pub match_policy: Option<&'a str>,
    pub side_effects: &'a str,
    pub timeout: Option<i32>,
    pub namespace_selector: Option<&'a LabelSelector>,
    pub object_selector: Option<&'a LabelSelector>,
    pub versions: &'a [String],
    pub conditions: &'a [MatchCondition],
    pub reinvocation: Option<&'a str>,
}

/// All webhooks of a configuration.
pub(super) fn webhooks(errors: &mut ErrorList, webhooks: &[Webhook<'_>]) {
    let path = Path::new("webhooks");
    let mut seen = HashSet::new();
    for (i, hook) in webhooks.iter().enumerate() {
        webhook(errors, &path.index(i), hook);
        if !hook.name.is_empty() && !seen.insert(hook.name) {
            errors.duplicate(&path.index(i).child("name"), hook.name);
        }
    }
}

fn webhook(errors: &mut ErrorList, path: &Path, hook: &Webhook<'_>) {
    fully_qualified(errors, &path.child("name"), hook.name);
    selector(errors, &path.child("objectSelector"), hook.object_selector);
    const KNOWN: [&str; 2] = ["v1", "v1beta1"];
    let versions = path.child("admissionReviewVersions");
    if hook.versions.is_empty() {
        errors.required(&versions, "must specify one of v1, v1beta1");
    } else {
        let mut seen = HashSet::new();
        for (i, version) in hook.versions.iter().enumerate() {
            if !seen.insert(version) {
                errors.invalid(&versions.index(i), version.as_str(), "duplicate version");
                continue;
            }
            invalid(errors, &versions.index(i), version, names::dns1035_label(version));
        }
        if !hook.versions.iter().any(|v| KNOWN.contains(&v.as_str())) {
            errors.invalid(&versions, json!(hook.versions), "must include at least one of v1, v1beta1");
        }
    }
    for (i, given) in hook.rules.iter().enumerate() {
        let at = path.child("rules").index(i);
        let RuleWithOperations { operations, api_groups, api_versions, resources, scope } = given;
        rule(errors, &at, [operations, api_groups, api_versions, resources].map(items), scope.as_deref());
    }
    one_of(errors, &path.child("failurePolicy"), hook.failure_policy, &["Fail", "Ignore"]);
    one_of(errors, &path.child("matchPolicy"), hook.match_policy, &["Equivalent", "Exact"]);
    let effects = path.child("sideEffects");
    match hook.side_effects {
        "" => errors.required(&effects, "must specify one of None, NoneOnDryRun"),
        given => one_of(errors, &effects, Some(given), &["None", "NoneOnDryRun"]),
    }
    if let Some(timeout) = hook.timeout.filter(|t| !(1..=30).contains(t)) {
        errors.invalid(&path.child("timeoutSeconds"), timeout, "the timeout value must be between 1 and 30 seconds");
    }
    one_of(errors, &path.child("reinvocationPolicy"), hook.reinvocation, &["IfNeeded", "Never"]);
    selector(errors, &path.child("namespaceSelector"), hook.namespace_selector);
    client(errors, &path.child("clientConfig"), hook.client);
    conditions(errors, &path.child("matchConditions"), hook.conditions, false);
}

fn selector(errors: &mut ErrorList, path: &Path, given: Option<&LabelSelector>) {
    labels::selector(errors, path, given);
}

fn fully_qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let wrong = names::dns1123_subdomain(name);
    if !wrong.is_empty() {
        return invalid(errors, path, name, wrong);
    }
    if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

/// Where a webhook is.
fn client(errors: &mut ErrorList, path: &Path, client: &WebhookClientConfig) {
    match (&client.url, &client.service) {
        (Some(_), Some(_)) | (None, None) => errors.required(path, "exactly one of url or service is required"),
        (Some(given), None) => url(errors, &path.child("url"), given),
        (None, Some(service)) => {
            let at = path.child("service");
            if service.name.is_empty() {
                errors.required(&at.child("name"), "service name is required");
            }
            if service.namespace.is_empty() {
                errors.required(&at.child("namespace"), "service namespace is required");
            }
            if let Some(port) = service.port.filter(|p| !(1..=65535).contains(p)) {
                errors.invalid(&at.child("port"), port, "port is not valid: must be between 1 and 65535, inclusive");
            }
            if let Some(given) = &service.path {
                service_path(errors, &at.child("path"), given);
            }
        }
    }
}

fn url(errors: &mut ErrorList, path: &Path, given: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some((scheme, rest)) = given.split_once("://") else {
        return errors.required(path, &format!("url must be a valid URL: {given:?} has no scheme{FORM}"));
    };
    if scheme != "https" {
        errors.invalid(path, scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    if host.is_empty() {
        errors.invalid(path, host, &format!("host must be specified{FORM}"));
    }
    if let Some((user, _)) = host.split_once('@') {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    } else if let Some((_, query)) = rest.split_once('?') {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service_path(errors: &mut ErrorList, path: &Path, given: &str) {
    if given.is_empty() || given == "/" {
        return;
    }
    if given == "//" {
        return errors.invalid(path, given, "segment[0] may not be empty");
    }
    let Some(rest) = given.strip_prefix('/') else {
        return errors.invalid(path, given, "must start with a '/'");
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (i, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(path, given, &format!("segment[{i}] may not be empty"));
        } else {
            for why in names::dns1123_subdomain(step) {
                errors.invalid(path, given, &format!("segment[{i}]: {why}"));
            }
        }
    }
}

/// Operations, groups, versions and resources, in that order.
fn rule(errors: &mut ErrorList, path: &Path, lists: [&[String]; 4], scope: Option<&str>) {
    let [operations, groups, versions, resources] = lists;
    let star = |list: &[String]| list.len() > 1 && list.iter().any(|entry| entry == "*");
    if operations.is_empty() {
        errors.required(&path.child("operations"), "");
    }
    if star(operations) {
        errors.invalid(&path.child("operations"), json!(operations), "if '*' is present, must not specify other operations");
    }
    for (i, operation) in operations.iter().enumerate() {
        one_of(errors, &path.child("operations").index(i), Some(operation), OPERATIONS);
    }
    for (field, list, what) in [("apiGroups", groups, "API groups"), ("apiVersions", versions, "API versions")] {
        let at = path.child(field);
        if list.is_empty() {
            errors.required(&at, "");
        }
        if star(list) {
            errors.invalid(&at, json!(list), &format!("if '*' is present, must not specify other {what}"));
        }
        for (i, _) in list.iter().enumerate().filter(|(_, entry)| field == "apiVersions" && entry.is_empty()) {
            errors.required(&at.index(i), "");
        }
    }
    rule_resources(errors, &path.child("resources"), resources);
    one_of(errors, &path.child("scope"), scope, SCOPES);
}

fn rule_resources(errors: &mut ErrorList, path: &Path, resources: &[String]) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let has = |wanted: &str| resources.iter().any(|r| r == wanted);
    let all = |what: &str| format!("if '{what}' is present, must not specify other resources");
    if resources.len() > 1 && has("*/*") {
        errors.invalid(path, json!(resources), &all("*/*"));
    }
    if resources.len() > 1 && has("*") && resources.iter().any(|r| r != "*" && !r.contains('/')) {
        errors.invalid(path, json!(resources), "if '*' is present, must not specify other resources without subresources");
    }
    let mut seen = HashSet::new();
    for (i, entry) in resources.iter().enumerate() {
        let at = path.index(i);
        let (resource, subresource) = entry.split_once('/').unwrap_or((entry, ""));
        if entry.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if !subresource.is_empty() && subresource != "*" && resources.iter().any(|r| *r == format!("{resource}/*")) {
            errors.invalid(&at, entry.as_str(), &format!("if '{resource}/*' is present, must not specify {entry}"));
        }
        if !subresource.is_empty() && resource != "*" && resources.iter().any(|r| *r == format!("*/{subresource}")) {
            errors.invalid(&at, entry.as_str(), &format!("if '*/{subresource}' is present, must not specify {entry}"));
        }
        if !seen.insert(entry) {
            errors.duplicate(&at, entry.as_str());
        }
    }
}

/// Match conditions, of which each has a name of its own and an expression that comes to a boolean.
fn conditions(errors: &mut ErrorList, path: &Path, all: &[MatchCondition], parameters: bool) {
    if all.len() > CONDITIONS {
        errors.too_many(path, all.len(), CONDITIONS);
    }
    let environments = Environments::new(parameters);
    let mut seen = HashSet::new();
    for (i, condition) in all.iter().enumerate() {
        let at = path.index(i);
        let expression = condition.expression.trim();
        if expression.is_empty() {
            errors.required(&at.child("expression"), "");
        } else {
            boolean(errors, &at.child("expression"), &condition.expression, environments.compile(&condition.expression));
        }
        let name = at.child("name");
        if condition.name.is_empty() {
            errors.required(&name, "");
        } else {
            invalid(errors, &name, &condition.name, names::qualified_name(&condition.name));
            if !seen.insert(&condition.name) {
                errors.duplicate(&name, condition.name.as_str());
            }
        }
    }
}

fn compiled(errors: &mut ErrorList, path: &Path, text: &str, outcome: Compiled, wanted: &str, fits: fn(&Type) -> bool) {
    match outcome {
        Err(why) => errors.invalid(path, text, &format!("compilation failed: {why}")),
        Ok(program) if !fits(program.result()) && !program.result().is_dyn() => {
            errors.invalid(path, text, &format!("must evaluate to {wanted}"));
        }
        Ok(_) => {}
    }
}

fn boolean(errors: &mut ErrorList, path: &Path, text: &str, outcome: Compiled) {
    compiled(errors, path, text, outcome, "bool", |ty| matches!(ty, Type::Bool));
}

/// What of a policy both kinds have.
pub(super) struct Policy<'a> {
    pub constraints: Option<&'a MatchResources>,
    pub parameters: Option<&'a ParamKind>,
    pub failure_policy: Option<&'a str>,
    pub conditions: &'a [MatchCondition],
    pub variables: &'a [Variable],
}

/// Checks it; what comes back compiles the expressions that come after the variables.
pub(super) fn policy(errors: &mut ErrorList, policy: &Policy<'_>) -> Environments {
    let path = Path::new("spec");
    one_of(errors, &path.child("failurePolicy"), policy.failure_policy, &["Fail", "Ignore"]);
    if policy.failure_policy.is_none() {
        errors.required(&path.child("failurePolicy"), "");
    }
    if let Some(kind) = policy.parameters {
        let at = path.child("paramKind");
        if str(&kind.api_version).is_empty() {
            errors.required(&at.child("apiVersion"), "");
        }
        if str(&kind.kind).is_empty() {
            errors.required(&at.child("kind"), "");
        }
    }
    match policy.constraints {
        None => errors.required(&path.child("matchConstraints"), ""),
        Some(constraints) => {
            let at = path.child("matchConstraints");
            match_resources(errors, &at, constraints);
            if items(&constraints.resource_rules).is_empty() {
                errors.required(&at.child("resourceRules"), "");
            }
        }
    }
    conditions(errors, &path.child("matchConditions"), policy.conditions, policy.parameters.is_some());
    let mut environments = Environments::new(policy.parameters.is_some());
    let mut seen = HashSet::new();
    for (i, variable) in policy.variables.iter().enumerate() {
        let at = path.child("variables").index(i);
        if variable.name.is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else {
            invalid(errors, &at.child("name"), &variable.name, names::c_identifier(&variable.name));
            if !seen.insert(&variable.name) {
                errors.duplicate(&at.child("name"), variable.name.as_str());
            }
        }
        if variable.expression.trim().is_empty() {
            errors.required(&at.child("expression"), "expression is not specified");
            continue;
        }
        let outcome = environments.compile(&variable.expression);
        environments.declare(&variable.name, &outcome);
        if let Err(why) = outcome {
            errors.invalid(&at.child("expression"), variable.expression.as_str(), &format!("compilation failed: {why}"));
        }
    }
    environments
}

/// What a policy or binding looks at.
pub(super) fn match_resources(errors: &mut ErrorList, path: &Path, given: &MatchResources) {
    if given.match_policy.is_none() {
        errors.required(&path.child("matchPolicy"), "");
    }
    one_of(errors, &path.child("matchPolicy"), given.match_policy.as_deref(), &["Equivalent", "Exact"]);
    for (field, chosen) in [("namespaceSelector", &given.namespace_selector), ("objectSelector", &given.object_selector)] {
        match chosen {
            None => errors.required(&path.child(field), ""),
            Some(chosen) => selector(errors, &path.child(field), Some(chosen)),
        }
    }
    for (field, rules) in [("resourceRules", &given.resource_rules), ("excludeResourceRules", &given.exclude_resource_rules)] {
        for (i, named) in items(rules).iter().enumerate() {
            let at = path.child(field).index(i);
            let NamedRuleWithOperations { operations, api_groups, api_versions, resources, scope, resource_names } = named;
            let mut seen = HashSet::new();
            for (j, name) in items(resource_names).iter().enumerate() {
                invalid(errors, &at.child("resourceNames").index(j), name, names::path_segment(name));
                if !seen.insert(name) {
                    errors.duplicate(&at.child("resourceNames").index(j), name.as_str());
                }
            }
            rule(errors, &at, [operations, api_groups, api_versions, resources].map(items), scope.as_deref());
        }
    }
}

/// An expression of a policy that has to come to a boolean.
pub(super) fn boolean_expression(errors: &mut ErrorList, path: &Path, text: &str, environments: &Environments) {
    if text.trim().is_empty() {
        return errors.required(path, "expression is not specified");
    }
    boolean(errors, path, text, environments.compile(text));
}

/// One that has to come to a text; `null` too where that means nothing.
pub(super) fn text_expression(errors: &mut ErrorList, path: &Path, text: &str, environments: &Environments, null: bool) {
    let wanted = if null { "string or null_type" } else { "string" };
    let fits: fn(&Type) -> bool = if null { |ty| matches!(ty, Type::String(_) | Type::Null) } else { |ty| matches!(ty, Type::String(_)) };
    compiled(errors, path, text, environments.compile(text), wanted, fits);
}

/// One that makes an object or a patch.
pub(super) fn mutation_expression(errors: &mut ErrorList, path: &Path, text: &str, environments: &Environments) {
    if text.trim().is_empty() {
        return errors.required(path, "");
    }
    if let Err(why) = environments.compile_mutation(text) {
        errors.invalid(path, text, &format!("compilation failed: {why}"));
    }
}

/// What both kinds of binding have.
pub(super) fn binding(errors: &mut ErrorList, policy: &str, parameters: Option<&ParamRef>, resources: Option<&MatchResources>) {
    let path = Path::new("spec");
    if policy.is_empty() {
        errors.required(&path.child("policyName"), "");
    } else {
        invalid(errors, &path.child("policyName"), policy, names::dns1123_subdomain(policy));
    }
    if let Some(reference) = parameters {
        let at = path.child("paramRef");
        match (str(&reference.name), &reference.selector) {
            ("", None) => errors.required(&at, "one of name or selector must be specified"),
            ("", Some(given)) => selector(errors, &at.child("selector"), Some(given)),
            (name, None) => invalid(errors, &at.child("name"), name, names::path_segment(name)),
            (_, Some(_)) => errors.forbidden(&at.child("name"), "name and selector are mutually exclusive"),
        }
        match reference.parameter_not_found_action.as_deref() {
            None => errors.required(&at.child("parameterNotFoundAction"), ""),
            given => one_of(errors, &at.child("parameterNotFoundAction"), given, &["Deny", "Allow"]),
        }
    }
    if let Some(given) = resources {
        match_resources(errors, &path.child("matchResouces"), given);
    }
}

#[cfg(test)]
mod tests {
    use crate::field::ErrorList;
    use crate::kind::Kind;
    use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingWebhookConfiguration};
    use serde_json::{Value, json};

    fn texts<K: Kind>(object: Value) -> Vec<String> {
        let mut object: K = serde_json::from_value(object).unwrap();
        Kind::set_defaults(&mut object);
        let mut errors = ErrorList::new();
        Kind::validate(&object, &mut errors);
        errors.0.iter().map(|e| format!("{}: {}", e.path, e.message)).collect()
    }

    #[test]
    fn webhooks_are_told_what_is_wrong_with_them() {
        let hook = |other: Value| {
            let mut hook =
                json!({"name": "a.b.c", "clientConfig": {"url": "https://x"}, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
            hook.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
            texts::<ValidatingWebhookConfiguration>(json!({"metadata": {"name": "w"}, "webhooks": [hook]}))
        };
        assert_eq!(hook(json!({})), Vec::<String>::new());
        for (change, want) in [
            (
                json!({"name": "a.b"}),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ),
            (
                json!({"sideEffects": "Some"}),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                json!({"timeoutSeconds": 31}),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (json!({"clientConfig": {}}), "webhooks[0].clientConfig: Required value: exactly one of url or service is required"),
            (
                json!({"admissionReviewVersions": []}),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*", "a"]}]}),
                "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"a\"]: if '*/*' is present, must not specify other resources",
            ),
        ] {
            assert_eq!(hook(change), [want]);
        }
        let condition = hook(json!({"matchConditions": [{"name": "a", "expression": "nonexistent == 1"}]}));
        let start = "webhooks[0].matchConditions[0].expression: Invalid value: \"nonexistent == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'nonexistent'";
        assert!(condition[0].starts_with(start), "{condition:?}");
    }

    #[test]
    fn policies_are_told_what_is_wrong_with_them() {
        let rules = json!([{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]);
        let policy = |spec: Value| {
            let mut spec = spec;
            spec["matchConstraints"] = json!({"resourceRules": rules.clone()});
            texts::<ValidatingAdmissionPolicy>(json!({"metadata": {"name": "p"}, "spec": spec}))
        };
        assert_eq!(policy(json!({"validations": [{"expression": "object.spec.replicas > 1"}]})), Vec::<String>::new());
        assert_eq!(
            policy(json!({})),
            [
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"
            ]
        );
        assert_eq!(
            policy(json!({"validations": [{"expression": "'a'"}]})),
            ["spec.validations[0].expression: Invalid value: \"'a'\": must evaluate to bool"]
        );
        let unknown = policy(json!({"validations": [{"expression": "params.x == 1"}]}));
        assert!(unknown[0].contains("undeclared reference to 'params'"), "{unknown:?}");
    }
}
