//! Acting as somebody else: the `Impersonate-*` headers, and who may use them (upstream: `endpoints/filters/impersonation`, KEP-5284).
//!
//! Constrained modes are tried first, each of which needs two rights: to be that user (`impersonate:MODE`) and to do this particular thing as such a
//! user (`impersonate-on:MODE:VERB`); then the old right `impersonate`, which allows everything the user may do. When none
//! is granted, the answer is the first mode's refusal.

use super::{ANONYMOUS, AUTHENTICATED, MASTERS, NODE_PREFIX, NODES, UNAUTHENTICATED, UserInfo, service_account, split_service_account};
use crate::authorization::{Attributes, Authorizer, Decision, forbidden};
use api::status::{Result, StatusError};
use http::HeaderMap;

const AUTHENTICATION_GROUP: &str = "authentication.k8s.io";
const EXTRA_HEADER: &str = "impersonate-extra-";

/// The user that the headers ask to be; `None` without such headers.
pub fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>> {
    let text = |name: &str| headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default();
    let mut user = UserInfo { name: text("impersonate-user"), uid: text("impersonate-uid"), ..UserInfo::default() };
    for group in headers.get_all("impersonate-group") {
        user.groups.push(String::from_utf8_lossy(group.as_bytes()).into_owned());
    }
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_HEADER) {
            let key = percent_decoded(key);
            user.extra.entry(key).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty() {
        return Ok(None);
    }
    Err(StatusError::bad_request("impersonation headers were given without Impersonate-User"))
}

/// `%2f` and the like; a key that does not decode stands as it is.
fn percent_decoded(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
            let Some(byte) = hex else { return key.to_owned() };
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map(|s| s.to_lowercase()).unwrap_or_else(|_| key.to_owned())
}

/// A way to be allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

const MODES: [Mode; 5] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    /// Whether the mode is for such a user at all.
    fn applies(self, wanted: &UserInfo, requestor: &UserInfo) -> bool {
        let name_only = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_name(&wanted.name);
        let account = split_service_account(&wanted.name);
        match self {
            Mode::AssociatedNode => {
                let own = requestor.extra.get("authentication.kubernetes.io/node-name");
                name_only
                    && node.is_some_and(|node| requestor.service_account().is_some() && own.is_some_and(|own| own[..] == [node.to_owned()]))
            }
            Mode::ArbitraryNode => name_only && node.is_some(),
            Mode::ServiceAccount => name_only && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Legacy => true,
        }
    }
}

fn node_name(user: &str) -> Option<&str> {
    let name = user.strip_prefix(NODE_PREFIX)?;
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(name)
}

/// Whom the request counts as from here on, if the requestor (in `attributes`) may be `wanted`; else the 403.
pub fn impersonate(wanted: UserInfo, attributes: &Attributes, authorizer: &dyn Authorizer) -> Result<UserInfo> {
    let mut first = None;
    for mode in MODES.into_iter().filter(|mode| mode.applies(&wanted, &attributes.user)) {
        match (Check { mode, attributes, authorizer }).all(&wanted) {
            Ok(user) => return Ok(user),
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    Err(first.expect("the legacy mode applies to everybody"))
}

/// The rights that one mode asks for.
struct Check<'a> {
    mode: Mode,
    attributes: &'a Attributes,
    authorizer: &'a dyn Authorizer,
}

impl Check<'_> {
    fn allowed(&self, attributes: &Attributes) -> Result<()> {
        match self.authorizer.authorize(attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(attributes, &reason)),
        }
    }

    fn target(&self, group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Attributes {
        let verb = if self.mode == Mode::Legacy { "impersonate".into() } else { format!("impersonate:{}", self.mode.name()) };
        Attributes {
            user: self.requestor(),
            verb,
            resource_request: true,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    /// The requestor; where the mode is for a node of its own, without the facts that differ from pod to pod.
    fn requestor(&self) -> UserInfo {
        let mut user = self.attributes.user.clone();
        if self.mode == Mode::AssociatedNode {
            let keys = user.extra.keys().cloned().collect();
            user.extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
        }
        user
    }

    fn all(&self, wanted: &UserInfo) -> Result<UserInfo> {
        let constrained = self.mode != Mode::Legacy;
        if constrained {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), self.attributes.verb);
            self.allowed(&Attributes { verb, user: self.requestor(), ..self.attributes.clone() })?;
        }
        let mut user = wanted.clone();
        self.name(wanted, &mut user)?;
        if !wanted.uid.is_empty() {
            self.allowed(&self.target(AUTHENTICATION_GROUP, "uids", "", "", &wanted.uid))?;
        }
        self.groups(&wanted.groups)?;
        for (key, values) in &wanted.extra {
            let probe = self.target(AUTHENTICATION_GROUP, "userextras", key, "", "");
            if constrained && (key.is_empty() || values.iter().any(String::is_empty)) {
                return Err(forbidden(&probe, "impersonating the empty string key or value in extra is not allowed"));
            }
            for value in values {
                self.allowed(&Attributes { name: value.clone(), ..probe.clone() })?;
            }
        }
        let everybody = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !user.in_group(everybody) && !user.in_group(UNAUTHENTICATED) {
            user.groups.push(everybody.into());
        }
        Ok(user)
    }

    fn name(&self, wanted: &UserInfo, user: &mut UserInfo) -> Result<()> {
        let constrained = self.mode != Mode::Legacy;
        let group = if constrained { AUTHENTICATION_GROUP } else { "" };
        if let Some((namespace, name)) = split_service_account(&wanted.name) {
            if wanted.groups.is_empty() {
                user.groups = service_account::groups(namespace);
            }
            return self.allowed(&self.target(group, "serviceaccounts", "", namespace, name));
        }
        match node_name(&wanted.name).filter(|_| constrained) {
            Some(node) => {
                user.groups = vec![NODES.into()];
                let name = if self.mode == Mode::AssociatedNode { "*" } else { node };
                self.allowed(&self.target(group, "nodes", "", "", name))
            }
            None => self.allowed(&self.target(group, "users", "", "", &wanted.name)),
        }
    }

    fn groups(&self, groups: &[String]) -> Result<()> {
        let constrained = self.mode != Mode::Legacy;
        let target = |name: &str| self.target(if constrained { AUTHENTICATION_GROUP } else { "" }, "groups", "", "", name);
        if constrained && groups.iter().any(String::is_empty) {
            return Err(forbidden(&target(""), "impersonating the empty string group is not allowed"));
        }
        if constrained && groups.iter().any(|g| g == MASTERS) {
            return Err(forbidden(&target(MASTERS), "impersonating the system:masters group is not allowed"));
        }
        groups.iter().try_for_each(|group| self.allowed(&target(group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allows what is listed, as `verb resource[/subresource] name`.
    struct Rules(&'static [&'static str]);

    impl Authorizer for Rules {
        fn authorize(&self, a: &Attributes) -> Decision {
            let resource = if a.subresource.is_empty() { a.resource.clone() } else { format!("{}/{}", a.resource, a.subresource) };
            let asked = format!("{} {resource} {}", a.verb, a.name);
            if self.0.contains(&asked.trim_end()) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo { name: name.into(), groups: groups.iter().map(|g| g.to_string()).collect(), ..UserInfo::default() }
    }

    fn list_pods() -> Attributes {
        Attributes { user: user("bob", &[]), verb: "list".into(), resource_request: true, resource: "pods".into(), ..Attributes::default() }
    }

    #[test]
    fn rights_by_mode() {
        type Case = (&'static [&'static str], &'static str, &'static [&'static str], Option<&'static str>);
        let cases: &[Case] = &[
            (&["impersonate users alice"], "alice", &[], Some("system:authenticated")),
            (&["impersonate users alice"], "alice", &["devs"], None),
            (&["impersonate users alice", "impersonate groups devs"], "alice", &["devs"], Some("devs,system:authenticated")),
            (&["impersonate-on:user-info:list pods", "impersonate:user-info users alice"], "alice", &[], Some("system:authenticated")),
            (&["impersonate-on:user-info:get pods", "impersonate:user-info users alice"], "alice", &[], None),
            (
                &["impersonate serviceaccounts a"],
                "system:serviceaccount:ns:a",
                &[],
                Some("system:serviceaccounts,system:serviceaccounts:ns,system:authenticated"),
            ),
            (
                &["impersonate-on:arbitrary-node:list pods", "impersonate:arbitrary-node nodes n1"],
                "system:node:n1",
                &[],
                Some("system:nodes,system:authenticated"),
            ),
            (&["impersonate users system:anonymous"], "system:anonymous", &[], Some("system:unauthenticated")),
            (
                &["impersonate users alice", "impersonate groups system:masters"],
                "alice",
                &["system:masters"],
                Some("system:masters,system:authenticated"),
            ),
        ];
        for (rules, name, groups, want) in cases {
            let got = impersonate(user(name, groups), &list_pods(), &Rules(rules));
            assert_eq!(got.ok().map(|u| u.groups.join(",")).as_deref(), *want, "{name} by {rules:?}");
        }
    }

    #[test]
    fn a_refusal_is_the_first_modes() {
        let refusal = impersonate(user("alice", &[]), &list_pods(), &Rules(&[])).unwrap_err();
        let want =
            "pods is forbidden: User \"bob\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" at the cluster scope";
        assert_eq!(refusal.to_string(), want);
    }

    #[test]
    fn headers_are_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(wanted(&headers).unwrap(), None);
        headers.append("Impersonate-Group", "devs".parse().unwrap());
        assert_eq!(wanted(&headers).unwrap_err().code(), 400);
        headers.append("Impersonate-Group", "ops".parse().unwrap());
        headers.append("Impersonate-User", "alice".parse().unwrap());
        headers.append("Impersonate-Extra-Acme.com%2Fproject", "x".parse().unwrap());
        let user = wanted(&headers).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.join(",").as_str()), ("alice", "devs,ops"));
        assert_eq!(user.extra["acme.com/project"], ["x"]);
    }
}
