//! Whether somebody may do something: the three access reviews (upstream: `pkg/registry/authorization`).

use super::{Asked, Review, part};
use crate::{
    authentication::UserInfo,
    authorization::{Attributes, Authorizer, Decision},
};
use api::{
    field::{ErrorList, Path},
    status::{Result, StatusError},
};
use futures::future::BoxFuture;
use k8s_openapi::api::authorization::v1::{FieldSelectorAttributes, NonResourceAttributes, ResourceAttributes, SubjectAccessReviewSpec};
use serde_json::{Value, json};
use std::sync::Arc;

/// Whose rights are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The asker's own.
    Own,
    /// Anybody's.
    Any,
    /// Anybody's, in one namespace.
    Local,
}

/// Answers access reviews.
pub struct AccessReview {
    /// Which kind of them.
    pub question: Question,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
}

const GROUP: &str = "authorization.k8s.io";

fn shown<T: serde::Serialize>(value: &Option<T>) -> Value {
    serde_json::to_value(value).expect("API types serialise to JSON")
}

fn validate(question: Question, spec: &SubjectAccessReviewSpec, namespace: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(other)) => {
            errors.invalid(
                &path.child("nonResourceAttributes"),
                shown(&Some(other)),
                "cannot be specified in combination with resourceAttributes",
            );
        }
        (None, None) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&path.child("resourceAttributes"), Value::Null, why);
        }
        _ => {}
    }
    if question != Question::Own && spec.user.as_deref().unwrap_or_default().is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    if question == Question::Local {
        if let Some(other) = &spec.non_resource_attributes {
            errors.invalid(&path.child("nonResourceAttributes"), shown(&Some(other)), "disallowed on this kind of request");
        }
        if let Some(resource) = &spec.resource_attributes {
            let given = resource.namespace.clone().unwrap_or_default();
            if given != namespace {
                errors.invalid(&path.child("resourceAttributes").child("namespace"), given, "must match metadata.namespace");
            }
        }
    }
    errors
}

/// The selector as it would stand in a request.
fn field_selector(attributes: Option<FieldSelectorAttributes>) -> String {
    let Some(attributes) = attributes else { return String::new() };
    let requirements = attributes.requirements.unwrap_or_default();
    let exact = requirements.iter().filter(|r| r.operator == "In").filter_map(|r| match r.values.as_deref() {
        Some([value]) => Some(format!("{}={value}", r.key)),
        _ => None,
    });
    let parts: Vec<String> = exact.collect();
    if parts.is_empty() { attributes.raw_selector.unwrap_or_default() } else { parts.join(",") }
}

fn attributes(user: UserInfo, resource: Option<ResourceAttributes>, other: Option<NonResourceAttributes>) -> Attributes {
    match (resource, other) {
        (Some(r), _) => Attributes {
            user,
            resource_request: true,
            verb: r.verb.unwrap_or_default(),
            group: r.group.unwrap_or_default(),
            version: r.version.unwrap_or_default(),
            resource: r.resource.unwrap_or_default(),
            subresource: r.subresource.unwrap_or_default(),
            namespace: r.namespace.unwrap_or_default(),
            name: r.name.unwrap_or_default(),
            field_selector: field_selector(r.field_selector),
            path: String::new(),
        },
        (None, other) => {
            let other = other.unwrap_or_default();
            Attributes { user, verb: other.verb.unwrap_or_default(), path: other.path.unwrap_or_default(), ..Attributes::default() }
        }
    }
}

impl AccessReview {
    fn status(&self, asked: &Asked<'_>) -> Result<Value> {
        // The spec of a SelfSubjectAccessReview is that of the others without the user.
        let spec: SubjectAccessReviewSpec = part(&asked.object, "spec")?;
        if self.question == Question::Local && asked.namespace.is_empty() {
            return Err(StatusError::bad_request("namespace is required on this type: "));
        }
        let errors = validate(self.question, &spec, asked.namespace);
        if !errors.is_empty() {
            return Err(StatusError::invalid(GROUP, "", "", errors));
        }
        let user = match self.question {
            Question::Own => asked.user.clone(),
            _ => UserInfo {
                name: spec.user.unwrap_or_default(),
                uid: spec.uid.unwrap_or_default(),
                groups: spec.groups.unwrap_or_default(),
                extra: spec.extra.unwrap_or_default(),
            },
        };
        let decision = self.authorizer.authorize(&attributes(user, spec.resource_attributes, spec.non_resource_attributes));
        let (mut status, reason) = match decision {
            Decision::Allow(reason) => (json!({"allowed": true}), reason),
            Decision::Deny(reason) => (json!({"allowed": false, "denied": true}), reason),
            Decision::NoOpinion(reason) => (json!({"allowed": false}), reason),
        };
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        Ok(status)
    }
}

impl Review for AccessReview {
    fn answer<'a>(&'a self, mut asked: Asked<'a>) -> BoxFuture<'a, Result<Value>> {
        let answer = self.status(&asked).map(|status| {
            asked.object["status"] = status;
            asked.object
        });
        Box::pin(async move { answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allows bob, and members of devs, to get anything.
    struct Getters;

    impl Authorizer for Getters {
        fn authorize(&self, a: &Attributes) -> Decision {
            let may = (a.user.name == "bob" || a.user.in_group("devs")) && a.verb == "get";
            if may { Decision::Allow("because".into()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    async fn ask(question: Question, namespace: &str, spec: Value) -> Result<Value, String> {
        let user = UserInfo { name: "bob".into(), ..UserInfo::default() };
        let review = AccessReview { question, authorizer: Arc::new(Getters) };
        let asked = Asked { user: &user, namespace, name: "", object: json!({"spec": spec}), dry_run: false };
        review.answer(asked).await.map(|o| o["status"].clone()).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn answers_and_refusals() {
        let yes = Ok(json!({"allowed": true, "reason": "because"}));
        let no = Ok(json!({"allowed": false}));
        let get = json!({"verb": "get", "resource": "pods", "namespace": "ns"});
        assert_eq!(ask(Question::Own, "", json!({"resourceAttributes": get})).await, yes);
        assert_eq!(ask(Question::Own, "", json!({"nonResourceAttributes": {"verb": "post", "path": "/"}})).await, no);
        assert_eq!(ask(Question::Any, "", json!({"resourceAttributes": get, "user": "eve"})).await, no);
        assert_eq!(ask(Question::Any, "", json!({"resourceAttributes": get, "groups": ["devs"]})).await, yes);
        assert_eq!(ask(Question::Local, "ns", json!({"resourceAttributes": get, "user": "bob"})).await, yes);
        for (question, namespace, spec, why) in [
            (Question::Own, "", json!({}), "spec.resourceAttributes: Invalid value: null: exactly one of"),
            (Question::Any, "", json!({"resourceAttributes": get}), "spec.user: Invalid value: \"\": at least one of"),
            (Question::Local, "other", json!({"resourceAttributes": get, "user": "bob"}), "must match metadata.namespace"),
            (Question::Own, "", json!({"resourceAttributes": get, "nonResourceAttributes": {}}), "cannot be specified in combination"),
        ] {
            let got = ask(question, namespace, spec).await.unwrap_err();
            assert!(got.starts_with(".authorization.k8s.io \"\" is invalid: ") && got.contains(why), "{got}");
        }
    }
}
