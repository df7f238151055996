//! Priority and fairness as far as it is here: which FlowSchema and priority level a request belongs to, told in the answer's headers; requests of an exempt level
//! go ahead of all bounds; and whether each FlowSchema names a level that exists (upstream: `apiserver/pkg/util/flowcontrol`).
//!
//! Left out on purpose: seats and queues of their own for each level. All requests that are not exempt share the two bounds of
//! `--max-requests-inflight` and `--max-mutating-requests-inflight`, wait their turn in order, and are told to come back when too many wait.

use crate::authentication::{SERVICE_ACCOUNT_PREFIX, UserInfo};
use crate::authorization::Attributes;
use crate::cache::{Filter, Start, WatchOptions, Watcher};
use crate::objects::{Change, Collection, Feed, Objects, decode};
use crate::registry::Registry;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration, ResourcePolicyRule, Subject,
};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: Collection = Collection::of(GROUP, "flowschemas");
const LEVELS: Collection = Collection::of(GROUP, "prioritylevelconfigurations");
/// Who owns the condition of a FlowSchema.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

/// Where a request belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The FlowSchema's uid.
    pub schema: String,
    /// The priority level's uid.
    pub level: String,
    /// Whether no bound holds for it.
    pub exempt: bool,
}

struct Index {
    schema_feed: Box<dyn Feed>,
    level_feed: Box<dyn Feed>,
    schemas: BTreeMap<String, FlowSchema>,
    levels: BTreeMap<String, PriorityLevelConfiguration>,
    /// Names of schemas, the one that is tried first in front.
    order: Vec<String>,
}

/// Tells where requests belong, by the FlowSchemas there are at that moment.
pub struct Classifier(Mutex<Index>);

fn keep<T: serde::de::DeserializeOwned>(all: &mut BTreeMap<String, T>, change: Change) {
    match change {
        Change::Reset => all.clear(),
        Change::Put { name, object, .. } => match decode(&object) {
            Some(object) => drop(all.insert(name, object)),
            None => drop(all.remove(&name)),
        },
        Change::Gone { name, .. } => drop(all.remove(&name)),
    }
}

impl Index {
    fn refresh(&mut self) {
        let mut changed = false;
        let (schemas, levels) = (&mut self.schemas, &mut self.levels);
        self.schema_feed.drain(&mut |change| {
            changed = true;
            keep(schemas, change);
        });
        self.level_feed.drain(&mut |change| keep(levels, change));
        if changed {
            let precedence = |s: &FlowSchema| s.spec.as_ref().and_then(|s| s.matching_precedence).unwrap_or(i32::MAX);
            let mut order: Vec<(i32, String)> = self.schemas.iter().map(|(name, s)| (precedence(s), name.clone())).collect();
            order.sort();
            self.order = order.into_iter().map(|(_, name)| name).collect();
        }
    }
}

impl Classifier {
    /// Follows these objects.
    pub fn new(objects: &dyn Objects) -> Self {
        let (schema_feed, level_feed) = (objects.feed(SCHEMAS), objects.feed(LEVELS));
        Classifier(Mutex::new(Index { schema_feed, level_feed, schemas: BTreeMap::new(), levels: BTreeMap::new(), order: Vec::new() }))
    }

    /// Where the request belongs; `None` while no schema takes it.
    pub fn classify(&self, request: &Attributes) -> Option<Flow> {
        let mut index = self.0.lock();
        index.refresh();
        for name in &index.order {
            let Some(schema) = index.schemas.get(name) else { continue };
            let Some(spec) = &schema.spec else { continue };
            let Some(level) = index.levels.get(&spec.priority_level_configuration.name) else { continue };
            if spec.rules.iter().flatten().any(|rules| takes(rules, request)) {
                return Some(Flow {
                    schema: schema.metadata.uid.clone().unwrap_or_default(),
                    level: level.metadata.uid.clone().unwrap_or_default(),
                    exempt: level.spec.as_ref().is_some_and(|s| s.type_ == "Exempt"),
                });
            }
        }
        None
    }
}

fn takes(rules: &PolicyRulesWithSubjects, request: &Attributes) -> bool {
    rules.subjects.iter().any(|s| is_subject(s, &request.user))
        && match request.resource_request {
            true => rules.resource_rules.iter().flatten().any(|r| takes_resource(r, request)),
            false => rules.non_resource_rules.iter().flatten().any(|r| takes_path(r, request)),
        }
}

fn is_subject(subject: &Subject, user: &UserInfo) -> bool {
    match (subject.kind.as_str(), &subject.user, &subject.group, &subject.service_account) {
        ("User", Some(wanted), ..) => wanted.name == "*" || wanted.name == user.name,
        ("Group", _, Some(wanted), _) => wanted.name == "*" || user.in_group(&wanted.name),
        ("ServiceAccount", _, _, Some(wanted)) => {
            let own = user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
            own.is_some_and(|(namespace, name)| namespace == wanted.namespace && (wanted.name == "*" || name == wanted.name))
        }
        _ => false,
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

fn takes_resource(rule: &ResourcePolicyRule, request: &Attributes) -> bool {
    let resource = match request.subresource.as_str() {
        "" => request.resource.clone(),
        subresource => format!("{}/{subresource}", request.resource),
    };
    let placed = match request.namespace.as_str() {
        "" => rule.cluster_scope == Some(true),
        namespace => has(rule.namespaces.as_deref().unwrap_or_default(), namespace),
    };
    has(&rule.verbs, &request.verb) && has(&rule.api_groups, &request.group) && has(&rule.resources, &resource) && placed
}

fn takes_path(rule: &NonResourcePolicyRule, request: &Attributes) -> bool {
    let covers = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => request.path.starts_with(prefix),
        None => *pattern == request.path,
    };
    has(&rule.verbs, &request.verb) && rule.non_resource_urls.iter().any(covers)
}

/// The condition of a schema: whether the level it names is missing.
fn dangling(level: &str, exists: bool) -> (&'static str, &'static str, String) {
    let named = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    match exists {
        true => ("False", "Found", format!("{named} and it exists")),
        false => ("True", "NotFound", format!("{named} but there is no such object")),
    }
}

/// What is to be written of a schema; `None` if that stands there.
fn condition(schema: &FlowSchema, exists: bool, now: &str) -> Option<Value> {
    let level = schema.spec.as_ref().map_or("", |s| s.priority_level_configuration.name.as_str());
    let (status, reason, message) = dangling(level, exists);
    let known = schema.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_.as_deref() == Some("Dangling"));
    if known.is_some_and(|c| c.status.as_deref() == Some(status) && c.message.as_deref() == Some(&message)) {
        return None;
    }
    let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
    Some(json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
        "metadata": {"name": schema.metadata.name}, "status": {"conditions": [condition]},
    }))
}

fn watch(registry: &Registry, collection: Collection) -> Option<Watcher> {
    let endpoint = registry.stored_endpoint(collection.group, collection.plural)?;
    let options = WatchOptions { start: Start::Initial { end_bookmark: false }, bookmarks: false, deadline: None };
    endpoint.cache.as_ref()?.watch(Filter::all(), options).ok()
}

/// Keeps the conditions of FlowSchemas until `stop`.
pub async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let (mut schemas, mut levels) = (None, None);
    loop {
        schemas = schemas.or_else(|| watch(&registry, SCHEMAS));
        levels = levels.or_else(|| watch(&registry, LEVELS));
        let (Some(of_schemas), Some(of_levels)) = (&mut schemas, &mut levels) else { return };
        let (ended_schemas, ended_levels) = tokio::select! {
            () = stop.cancelled() => return,
            events = of_schemas.next() => (events.is_none(), false),
            events = of_levels.next() => (false, events.is_none()),
        };
        if ended_schemas {
            schemas = None;
        }
        if ended_levels {
            levels = None;
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        for schema in crate::objects::decoded_list::<FlowSchema>(&*registry, SCHEMAS, "") {
            let level = schema.spec.as_ref().map_or("", |s| s.priority_level_configuration.name.as_str());
            let exists = Objects::get(&*registry, LEVELS, "", level).is_some();
            let Some(wanted) = condition(&schema, exists, &now) else { continue };
            if let Err(error) = registry.apply_status(SCHEMAS, MANAGER, &wanted).await
                && !matches!(error.code(), 404 | 409)
            {
                tracing::warn!(schema = schema.metadata.name, %error, "cannot write whether a flow schema's level exists");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Fixed;

    #[test]
    fn the_first_schema_in_order_takes_a_request() {
        let objects = Fixed::default();
        let level = |name: &str, kind: &str| objects.put(LEVELS, json!({"metadata": {"name": name, "uid": name}, "spec": {"type": kind}}));
        let schema = |name: &str, precedence: i32, level: &str, subject: Value, rule: Value| {
            let mut rules = json!({"subjects": [subject]});
            rules.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
            objects.put(
                SCHEMAS,
                json!({"metadata": {"name": name, "uid": name}, "spec": {"matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": level}, "rules": [rules]}}),
            );
        };
        let anything = json!({"resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]});
        let classifier = Classifier::new(&objects);
        level("exempt", "Exempt");
        level("low", "Limited");
        schema("masters", 1, "exempt", json!({"kind": "Group", "group": {"name": "system:masters"}}), anything.clone());
        let pods = json!({"resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["ns"]}]});
        schema("robots", 50, "low", json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "*"}}), pods);
        schema("lost", 2, "nowhere", json!({"kind": "User", "user": {"name": "*"}}), anything.clone());
        schema("rest", 100, "low", json!({"kind": "User", "user": {"name": "*"}}), anything);
        let of = |name: &str, groups: &[&str], namespace: &str| {
            let user = UserInfo { name: name.into(), groups: groups.iter().map(|g| g.to_string()).collect(), ..Default::default() };
            let request = Attributes {
                user,
                verb: "get".into(),
                resource_request: true,
                resource: "pods".into(),
                namespace: namespace.into(),
                ..Default::default()
            };
            classifier.classify(&request).map(|f| (f.schema, f.exempt)).unwrap()
        };
        assert_eq!(of("a", &["system:masters"], "ns"), ("masters".into(), true));
        assert_eq!(of("system:serviceaccount:ns:r", &[], "ns"), ("robots".into(), false));
        assert_eq!(of("system:serviceaccount:ns:r", &[], "other"), ("rest".into(), false));
        assert_eq!(of("a", &[], ""), ("rest".into(), false));
    }

    #[test]
    fn a_condition_is_written_once() {
        let mut schema: FlowSchema =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}})).unwrap();
        let wanted = condition(&schema, false, "2026-01-31T00:00:00Z").unwrap();
        schema.status = serde_json::from_value(wanted["status"].clone()).unwrap();
        assert_eq!(condition(&schema, false, "2026-01-31T00:00:01Z"), None);
        assert_eq!(condition(&schema, true, "2026-01-31T00:00:01Z").unwrap()["status"]["conditions"][0]["reason"], "Found");
    }
}
