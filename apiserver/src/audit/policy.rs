//! Which requests are recorded, and how much of them: an `audit.k8s.io/v1` Policy (upstream: `apiserver/pkg/audit/policy`). Pure.

use crate::authorization::Attributes;
use serde::Deserialize;

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who asked for what, when, and how it ended.
    Metadata,
    /// The object that was sent as well.
    Request,
    /// The answer as well.
    RequestResponse,
}

impl Level {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policy {
    api_version: String,
    kind: String,
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How much is recorded.
    pub level: Level,
    /// Stages that are not.
    pub omit_stages: Vec<String>,
    /// Whether managed fields are left out of the objects.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Policy = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(format!("unknown {} {}: want audit.k8s.io/v1 Policy", policy.api_version, policy.kind));
        }
        if policy.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        Ok(policy)
    }

    /// The first rule that fits decides; without one nothing is recorded.
    pub fn decide(&self, request: &Attributes) -> Decision {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(request)) else {
            return Decision { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false };
        };
        let omit_stages = self.omit_stages.iter().chain(&rule.omit_stages).cloned().collect();
        Decision { level: rule.level, omit_stages, omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields) }
    }
}

fn any_of(list: &[String], wanted: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == wanted)
}

impl Rule {
    fn fits(&self, request: &Attributes) -> bool {
        let groups = self.user_groups.is_empty() || self.user_groups.iter().any(|group| request.user.in_group(group));
        if !any_of(&self.users, &request.user.name) || !groups || !any_of(&self.verbs, &request.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return request.resource_request
                && any_of(&self.namespaces, &request.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.fits(request)));
        }
        if !self.non_resource_urls.is_empty() {
            let covers = |pattern: &String| match pattern.strip_suffix('*') {
                Some(prefix) => request.path.starts_with(prefix),
                None => *pattern == request.path,
            };
            return !request.resource_request && self.non_resource_urls.iter().any(covers);
        }
        true
    }
}

impl GroupResources {
    fn fits(&self, request: &Attributes) -> bool {
        if self.group != request.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !any_of(&self.resource_names, &request.name) {
            return false;
        }
        let (resource, subresource) = (request.resource.as_str(), request.subresource.as_str());
        self.resources.iter().any(|entry| match entry.split_once('/') {
            None => entry == "*" || (entry == resource && subresource.is_empty()),
            Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
            Some((res, "*")) => res == resource,
            Some((res, sub)) => res == resource && sub == subresource,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authentication::UserInfo;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
             - {level: None, users: [robot], verbs: [watch]}\n\
             - {level: RequestResponse, resources: [{group: '', resources: [pods]}]}\n\
             - {level: Metadata, resources: [{group: '', resources: ['pods/log', '*/status']}]}\n\
             - {level: Request, namespaces: [kube-system], resources: [{group: '', resources: [configmaps], resourceNames: [c]}]}\n\
             - {level: None, nonResourceURLs: ['/healthz*', /version]}\n\
             - {level: Metadata, omitStages: [Panic]}\n",
        )
        .unwrap();
        let level = |user: &str, verb: &str, what: &str| {
            let mut request =
                Attributes { user: UserInfo { name: user.into(), ..Default::default() }, verb: verb.into(), ..Default::default() };
            if what.starts_with('/') {
                request.path = what.into();
            } else {
                let parts: Vec<&str> = what.split(' ').collect();
                let (resource, subresource) = parts[0].split_once('/').unwrap_or((parts[0], ""));
                (request.resource_request, request.resource, request.subresource) = (true, resource.into(), subresource.into());
                request.namespace = parts.get(1).unwrap_or(&"").to_string();
                request.name = parts.get(2).unwrap_or(&"").to_string();
            }
            policy.decide(&request).level.name()
        };
        for (user, verb, what, want) in [
            ("robot", "watch", "pods", "None"),
            ("robot", "get", "pods ns", "RequestResponse"),
            ("amy", "get", "pods/log ns", "Metadata"),
            ("amy", "update", "nodes/status", "Metadata"),
            ("amy", "get", "configmaps kube-system c", "Request"),
            ("amy", "get", "/healthz/ping", "None"),
            ("amy", "get", "/metrics", "Metadata"),
        ] {
            assert_eq!(level(user, verb, what), want, "{user} {verb} {what}");
        }
        assert!(Policy::parse("apiVersion: audit.k8s.io/v1\nkind: Policy\n").is_err());
        assert!(Policy::parse("rules: [{level: Metadata}]").is_err());
    }
}
