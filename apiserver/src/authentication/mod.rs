//! Who is asking. Each authenticator is a file and a row; the first that recognises a credential decides.
//!
//! A request with no credential is anonymous; one whose credential nobody recognises, or somebody found bad, is refused, unless another of its
//! credentials is good (a bad certificate with a good token passes, as upstream). Left out: asking a webhook whose a token is.

pub mod bootstrap_token;
pub mod certificate;
pub mod impersonation;
pub mod jwt;
pub mod request_header;
pub mod service_account;
pub mod token_file;

use futures::future::BoxFuture;
use http::HeaderMap;
use std::{collections::BTreeMap, time::SystemTime};

/// The group of everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user name of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of kubelets.
pub const NODES: &str = "system:nodes";
/// A kubelet's user name is this and its node's name.
pub const NODE_PREFIX: &str = "system:node:";
/// A service account's user name is this, its namespace, a colon and its name.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// The identity behind a request (upstream: `authentication/user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// `system:node:n1`, `bob`, `system:anonymous`.
    pub name: String,
    /// A stable id, where the credential has one.
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` among them.
    pub groups: Vec<String>,
    /// Further facts, e.g. `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A request without credentials.
    pub fn anonymous() -> Self {
        UserInfo { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..UserInfo::default() }
    }

    /// Whether the user is in the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that a kubelet speaks for. As upstream it needs both the name and the group.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|_| self.in_group(NODES))
    }

    /// The namespace and name of a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        split_service_account(&self.name)
    }
}

/// `system:serviceaccount:NAMESPACE:NAME` taken apart.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// What an authenticator may look at.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The client certificate chain (DER, leaf first), already proven by the TLS handshake to be the peer's, not yet verified against our CA.
    pub certificates: Vec<Vec<u8>>,
    /// The bearer token, from `Authorization` or the WebSocket subprotocol.
    pub bearer: Option<String>,
    /// The request's headers: a front proxy names its client in them.
    pub headers: HeaderMap,
}

/// Somebody recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// Who.
    pub user: UserInfo,
    /// Which of the wanted audiences the credential is for.
    pub audiences: Vec<String>,
}

/// One way to tell who is asking.
pub trait Authenticator: Send + Sync + 'static {
    /// `audiences`: who wants to know; the credential must be for one of them.
    /// `Ok(None)`: the credential is not of this kind. `Err`: it is, and it is bad (the text is logged, never sent).
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        audiences: &'a [String],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<Option<Recognised>, String>>;
}

/// What became of a request's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They are good, or there are none and anonymous requests are let in.
    User(UserInfo),
    /// 401. The reasons are for the log only.
    Refused(Vec<String>),
}

/// All ways, in order.
pub struct Chain {
    authenticators: Vec<Box<dyn Authenticator>>,
    audiences: Vec<String>,
    anonymous: bool,
}

impl Chain {
    /// `audiences`: what this server answers to. `anonymous`: whether requests without credentials are let in.
    pub fn new(authenticators: Vec<Box<dyn Authenticator>>, audiences: Vec<String>, anonymous: bool) -> Self {
        Chain { authenticators, audiences, anonymous }
    }

    /// Who asks.
    pub async fn authenticate(&self, credentials: &Credentials, now: SystemTime) -> Outcome {
        let mut reasons = Vec::new();
        match self.recognise(credentials, &self.audiences, now, &mut reasons).await {
            Some(recognised) => Outcome::User(with_group(recognised.user)),
            None if !reasons.is_empty() => Outcome::Refused(reasons),
            None if credentials.bearer.is_some() => Outcome::Refused(vec!["invalid bearer token".into()]),
            None if self.anonymous => Outcome::User(UserInfo::anonymous()),
            None => Outcome::Refused(vec!["no credentials".into()]),
        }
    }

    /// Whose token this is, for somebody else who asks in a TokenReview; by default for this server's own audiences.
    pub async fn review(&self, token: &str, audiences: &[String], now: SystemTime) -> Result<Option<Recognised>, Vec<String>> {
        let credentials = Credentials { bearer: Some(token.to_owned()), ..Credentials::default() };
        let mut reasons = Vec::new();
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        match self.recognise(&credentials, wanted, now, &mut reasons).await {
            Some(recognised) => Ok(Some(Recognised { user: with_group(recognised.user), ..recognised })),
            None if reasons.is_empty() => Ok(None),
            None => Err(reasons),
        }
    }

    async fn recognise(
        &self,
        credentials: &Credentials,
        audiences: &[String],
        now: SystemTime,
        reasons: &mut Vec<String>,
    ) -> Option<Recognised> {
        if credentials.certificates.is_empty() && credentials.bearer.is_none() {
            return None;
        }
        for authenticator in &self.authenticators {
            match authenticator.authenticate(credentials, audiences, now).await {
                Ok(Some(recognised)) => return Some(recognised),
                Ok(None) => {}
                Err(reason) => reasons.push(reason),
            }
        }
        None
    }
}

fn with_group(mut user: UserInfo) -> UserInfo {
    if user.name != ANONYMOUS && !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

/// The answer of an authenticator whose credentials know no audience: they are for this server's own.
fn for_own_audiences(user: UserInfo, own: &[String], wanted: &[String]) -> Result<Option<Recognised>, String> {
    let audiences: Vec<String> = wanted.iter().filter(|a| own.contains(a)).cloned().collect();
    if audiences.is_empty() && !wanted.is_empty() {
        return Err(format!("unable to authenticate for audiences {wanted:?}"));
    }
    Ok(Some(Recognised { user, audiences }))
}

/// Seconds since 1970.
pub(crate) fn unix(now: SystemTime) -> i64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(&'static str, Result<Option<&'static str>, &'static str>);

    impl Authenticator for One {
        fn authenticate<'a>(
            &'a self,
            given: &'a Credentials,
            _: &'a [String],
            _: SystemTime,
        ) -> BoxFuture<'a, Result<Option<Recognised>, String>> {
            let user = |name: &str| Recognised { user: UserInfo { name: name.into(), ..UserInfo::default() }, audiences: vec![] };
            let mine = given.bearer.as_deref() == Some(self.0) || (self.0 == "cert" && !given.certificates.is_empty());
            let answer = if mine { self.1.map(|n| n.map(user)).map_err(str::to_owned) } else { Ok(None) };
            Box::pin(async move { answer })
        }
    }

    #[tokio::test]
    async fn the_first_good_credential_decides_and_a_bad_one_is_never_anonymous() {
        let rows: Vec<Box<dyn Authenticator>> =
            vec![Box::new(One("cert", Err("another CA"))), Box::new(One("t", Ok(Some("bob")))), Box::new(One("bad", Err("expired")))];
        let chain = Chain::new(rows, vec![], true);
        let cases = [
            (false, None, Some(ANONYMOUS)),
            (false, Some("t"), Some("bob")),
            (false, Some("bad"), None),
            (false, Some("unknown"), None),
            (true, None, None),
            (true, Some("t"), Some("bob")),
        ];
        for (certificate, bearer, want) in cases {
            let certificates = if certificate { vec![vec![1]] } else { vec![] };
            let credentials = Credentials { certificates, bearer: bearer.map(str::to_owned), ..Default::default() };
            let got = match chain.authenticate(&credentials, SystemTime::UNIX_EPOCH).await {
                Outcome::User(user) => {
                    assert_eq!(user.in_group(AUTHENTICATED), user.name != ANONYMOUS);
                    Some(user.name)
                }
                Outcome::Refused(_) => None,
            };
            assert_eq!(got.as_deref(), want, "{certificate} {bearer:?}");
        }
        let closed = Chain::new(vec![], vec![], false);
        assert!(matches!(closed.authenticate(&Credentials::default(), SystemTime::UNIX_EPOCH).await, Outcome::Refused(_)));
    }

    #[test]
    fn names_are_taken_apart_strictly() {
        for (name, want) in [
            ("system:serviceaccount:a:b", Some(("a", "b"))),
            ("system:serviceaccount:a:b:c", None),
            ("system:serviceaccount::b", None),
            ("system:serviceaccount:a", None),
            ("bob", None),
        ] {
            assert_eq!(split_service_account(name), want, "{name}");
        }
        let node = |groups: &[&str]| UserInfo {
            name: "system:node:n1".into(),
            groups: groups.iter().map(|g| g.to_string()).collect(),
            ..UserInfo::default()
        };
        assert_eq!(node(&[NODES]).node(), Some("n1"));
        assert_eq!(node(&[]).node(), None);
    }
}
