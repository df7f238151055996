//! The webhooks of all configurations, read once when they change.

use super::Rule;
use crate::objects::{Change, Collection, Feed, Objects, decode};
use crate::outbound::{Place, Server, ServiceTarget};
use api::resources::admissionregistration::expressions::{Compiled, Environments};
use bytes::Bytes;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "admissionregistration.k8s.io";
/// The versions of `AdmissionReview` that are spoken, the better first.
pub(super) const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// One webhook.
pub(super) struct Hook {
    /// The configuration it stands in.
    pub configuration: String,
    /// Its name, as messages have it.
    pub name: String,
    /// What tells it from all others.
    pub id: String,
    /// Whether it may change objects.
    pub mutating: bool,
    /// Where it is, or why nowhere.
    pub server: Result<Server, String>,
    /// What it wants to see.
    pub rules: Vec<Rule>,
    /// Whether requests go on when it cannot be asked.
    pub ignore_failure: bool,
    /// Whether it wants only the versions that its rules name.
    pub exact: bool,
    /// The namespaces it looks at.
    pub namespace_selector: LabelSelector,
    /// The objects it looks at.
    pub object_selector: LabelSelector,
    /// Whether it may be asked about what is not going to happen.
    pub harmless: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// The version of the review it is sent; `None` if it speaks none of ours.
    pub review_version: Option<&'static str>,
    /// Whether it wants to see what others change after it.
    pub reinvoked: bool,
    /// What must hold for it to be asked.
    pub conditions: Vec<(String, Compiled)>,
}

/// The parts that both kinds of webhook have.
struct Parts {
    name: String,
    client: WebhookClientConfig,
    rules: Option<Vec<RuleWithOperations>>,
    failure_policy: Option<String>,
    match_policy: Option<String>,
    namespace_selector: Option<LabelSelector>,
    object_selector: Option<LabelSelector>,
    side_effects: String,
    timeout: Option<i32>,
    versions: Vec<String>,
    conditions: Option<Vec<MatchCondition>>,
    reinvocation: Option<String>,
}

/// The parts of a webhook of either type.
macro_rules! parts {
    ($webhook:expr, $reinvocation:expr) => {
        Parts {
            reinvocation: $reinvocation,
            name: $webhook.name,
            client: $webhook.client_config,
            rules: $webhook.rules,
            failure_policy: $webhook.failure_policy,
            match_policy: $webhook.match_policy,
            namespace_selector: $webhook.namespace_selector,
            object_selector: $webhook.object_selector,
            side_effects: $webhook.side_effects,
            timeout: $webhook.timeout_seconds,
            versions: $webhook.admission_review_versions,
            conditions: $webhook.match_conditions,
        }
    };
}

fn server(client: WebhookClientConfig) -> Result<Server, String> {
    let authorities = client.ca_bundle.map(|b| b.0).unwrap_or_default();
    let place = match (client.url, client.service) {
        (Some(url), _) => Place::Url(url),
        (None, Some(service)) => Place::Service(ServiceTarget {
            namespace: service.namespace,
            name: service.name,
            port: service.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
            path: service.path.unwrap_or_default(),
        }),
        (None, None) => return Err("webhook configuration must have either service or URL".into()),
    };
    Ok(Server { place, authorities })
}

fn compiled(conditions: Vec<MatchCondition>) -> Vec<(String, Compiled)> {
    let environments = Environments::new(false);
    conditions.into_iter().map(|c| (c.name, environments.compile(&c.expression))).collect()
}

impl Parts {
    fn hook(self, configuration: &str, index: usize, mutating: bool) -> Hook {
        Hook {
            configuration: configuration.to_owned(),
            id: format!("{configuration}/{}/{index}", self.name),
            mutating,
            server: server(self.client),
            rules: self.rules.into_iter().flatten().map(Rule::from).collect(),
            ignore_failure: self.failure_policy.as_deref() == Some("Ignore"),
            exact: self.match_policy.as_deref() == Some("Exact"),
            namespace_selector: self.namespace_selector.unwrap_or_default(),
            object_selector: self.object_selector.unwrap_or_default(),
            harmless: matches!(self.side_effects.as_str(), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(self.timeout.and_then(|t| u64::try_from(t).ok()).unwrap_or(10)),
            review_version: self.versions.iter().find_map(|v| VERSIONS.iter().find(|known| *known == v).copied()),
            reinvoked: self.reinvocation.as_deref() == Some("IfNeeded"),
            conditions: compiled(self.conditions.unwrap_or_default()),
            name: self.name,
        }
    }
}

fn mutating(object: &Bytes) -> Option<Vec<Arc<Hook>>> {
    let configuration: MutatingWebhookConfiguration = decode(object)?;
    let name = configuration.metadata.name.unwrap_or_default();
    let hooks = configuration.webhooks.unwrap_or_default().into_iter().enumerate();
    Some(hooks.map(|(i, w)| Arc::new(parts!(w, w.reinvocation_policy).hook(&name, i, true))).collect())
}

fn validating(object: &Bytes) -> Option<Vec<Arc<Hook>>> {
    let configuration: ValidatingWebhookConfiguration = decode(object)?;
    let name = configuration.metadata.name.unwrap_or_default();
    let hooks = configuration.webhooks.unwrap_or_default().into_iter().enumerate();
    Some(hooks.map(|(i, w)| Arc::new(parts!(w, None).hook(&name, i, false))).collect())
}

type Read = fn(&Bytes) -> Option<Vec<Arc<Hook>>>;

struct Index {
    feed: Box<dyn Feed>,
    by_configuration: BTreeMap<String, Vec<Arc<Hook>>>,
    all: Arc<Vec<Arc<Hook>>>,
}

/// All webhooks of one kind, brought up to date whenever they are asked for.
pub(super) struct Hooks {
    read: Read,
    index: Mutex<Index>,
}

impl Hooks {
    fn new(objects: &dyn Objects, plural: &'static str, read: Read) -> Self {
        let feed = objects.feed(Collection::of(GROUP, plural));
        Hooks { read, index: Mutex::new(Index { feed, by_configuration: BTreeMap::new(), all: Arc::default() }) }
    }

    /// Those that change objects.
    pub fn mutating(objects: &dyn Objects) -> Self {
        Self::new(objects, "mutatingwebhookconfigurations", mutating)
    }

    /// Those that are asked whether objects may be written.
    pub fn validating(objects: &dyn Objects) -> Self {
        Self::new(objects, "validatingwebhookconfigurations", validating)
    }

    /// All of them, in the order in which they are called.
    pub fn all(&self) -> Arc<Vec<Arc<Hook>>> {
        let mut index = self.index.lock();
        let Index { feed, by_configuration, all } = &mut *index;
        let mut changed = false;
        feed.drain(&mut |change| {
            changed = true;
            match change {
                Change::Reset => by_configuration.clear(),
                Change::Put { name, object, .. } => {
                    by_configuration.insert(name, (self.read)(&object).unwrap_or_default());
                }
                Change::Gone { name, .. } => {
                    by_configuration.remove(&name);
                }
            }
        });
        if changed {
            *all = Arc::new(by_configuration.values().flatten().cloned().collect());
        }
        all.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Fixed;
    use serde_json::json;

    #[test]
    fn webhooks_follow_their_configurations() {
        let objects = Fixed::default();
        let hooks = Hooks::mutating(&objects);
        let collection = Collection::of(GROUP, "mutatingwebhookconfigurations");
        let hook = |name: &str| {
            json!({"name": name, "clientConfig": {"service": {"namespace": "n", "name": "s"}}, "sideEffects": "None",
            "admissionReviewVersions": ["v9", "v1"], "failurePolicy": "Ignore", "reinvocationPolicy": "IfNeeded"})
        };
        let names = || hooks.all().iter().map(|h| h.id.clone()).collect::<Vec<_>>().join(" ");
        assert_eq!(names(), "");
        objects.put(collection, json!({"metadata": {"name": "b"}, "webhooks": [hook("x"), hook("y")]}));
        objects.put(collection, json!({"metadata": {"name": "a"}, "webhooks": [hook("z")]}));
        assert_eq!(names(), "a/z/0 b/x/0 b/y/1");
        let all = hooks.all();
        let one = &all[0];
        assert!(one.harmless && one.ignore_failure && one.reinvoked && !one.exact && one.review_version == Some("v1"));
        assert_eq!(one.server.as_ref().unwrap().url(), "https://s.n.svc:443");
        objects.remove(collection, "", "b");
        assert_eq!(names(), "a/z/0");
    }
}
