//! A query on its way: the cluster's zone from the index at once, and everything else from the cache or from others.

use crate::forward::Forwarder;
use crate::index::Index;
use crate::message::Request;
use crate::zone::{Answer, Resolved, Zone};
use hickory_proto::op::{Query, ResponseCode};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Aliases followed for one query. A chain of ExternalName Services that is longer is a circle.
const ALIASES: usize = 8;

/// What can be said without waiting.
pub enum Step {
    /// The answer.
    Answer(Answer),
    /// Somebody else has to be asked for this name, whose records follow those of the answer so far.
    Ask(Answer, Query),
}

/// All that answers.
pub struct Resolver {
    /// The cluster's names.
    pub index: RwLock<Index>,
    /// How they are answered.
    pub zone: Zone,
    /// Who is asked about others.
    pub forwarder: Arc<Forwarder>,
    /// Whether the index is filled: before that, nothing may be said not to exist.
    pub ready: AtomicBool,
    turn: AtomicUsize,
}

impl Resolver {
    /// A resolver that knows nothing yet.
    pub fn new(zone: Zone, forwarder: Arc<Forwarder>) -> Self {
        Self { index: RwLock::default(), zone, forwarder, ready: AtomicBool::new(false), turn: AtomicUsize::new(0) }
    }

    /// Answers as far as that goes without asking others.
    pub fn at_once(&self, request: &Request) -> Step {
        let mut so_far: Option<Answer> = None;
        let mut query = request.query.clone();
        for _ in 0..ALIASES {
            if !self.ready.load(Ordering::Acquire) && (self.zone.owns(query.name()) || is_reverse(&query)) {
                return Step::Answer(Answer::of(ResponseCode::ServFail));
            }
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let resolved = self.zone.resolve(&self.index.read(), &query, turn);
            match resolved {
                Resolved::Answer(answer) => return Step::Answer(joined(so_far, answer)),
                Resolved::Alias(answer, target) => {
                    so_far = Some(joined(so_far, answer));
                    query.set_name(target);
                }
                Resolved::Elsewhere => {
                    if self.forwarder.is_probe(&query) {
                        return Step::Answer(Answer::of(ResponseCode::ServFail));
                    }
                    return match self.forwarder.known(request, &query) {
                        Some(answer) => Step::Answer(joined(so_far, answer)),
                        None => Step::Ask(so_far.unwrap_or_default(), query),
                    };
                }
            }
        }
        Step::Answer(so_far.unwrap_or_default())
    }

    /// Asks others for what [`Resolver::at_once`] could not say.
    pub async fn ask(&self, request: &Request, so_far: Answer, query: &Query) -> Answer {
        let answer = self.forwarder.ask(request, query).await;
        let so_far = (!so_far.answers.is_empty()).then_some(so_far);
        joined(so_far, answer)
    }
}

fn is_reverse(query: &Query) -> bool {
    query.name().iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"))
}

/// An answer behind the aliases that led to it. Where they lead is not asked of this zone, but the aliases are its own.
fn joined(aliases: Option<Answer>, mut answer: Answer) -> Answer {
    let Some(mut aliases) = aliases else { return answer };
    aliases.code = answer.code;
    aliases.answers.append(&mut answer.answers);
    Answer { authority: answer.authority, additional: answer.additional, ..aliases }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{external, service};
    use crate::forward::Source;
    use client::ObjectKey;
    use hickory_proto::rr::{Name, RecordType};
    use serde_json::json;

    fn resolver(ready: bool) -> Resolver {
        let zone = Zone { domain: Name::from_ascii("cluster.local.").unwrap(), ttl: 30, pods: true, servers: Vec::new() };
        let forwarder = Forwarder::new(Source::Given(Vec::new()), Vec::new(), Arc::default());
        let resolver = Resolver::new(zone, Arc::new(forwarder));
        let mut index = resolver.index.write();
        index.set_namespace("ns", true);
        let mut set = |name: &str, service| index.set_service(&ObjectKey::new("ns", name), Some(&service));
        set("web", service("ns", "web", "10.96.0.5", json!([{"port": 80}])));
        set("alias", external("ns", "alias", "web.ns.svc.cluster.local"));
        set("second", external("ns", "second", "alias.ns.svc.cluster.local"));
        set("circle", external("ns", "circle", "circle.ns.svc.cluster.local"));
        set("outside", external("ns", "outside", "example.com"));
        set("broken", external("ns", "broken", "absent.ns.svc.cluster.local"));
        drop(index);
        resolver.ready.store(ready, Ordering::Release);
        resolver
    }

    fn ask(resolver: &Resolver, name: &str, kind: RecordType) -> String {
        let request = Request::plain(Query::query(Name::from_ascii(name).unwrap(), kind));
        let records = |answer: &Answer| answer.answers.iter().map(|record| format!(" {}", record.data)).collect::<String>();
        match resolver.at_once(&request) {
            Step::Answer(answer) => format!("{:?}{}", answer.code, records(&answer)),
            Step::Ask(so_far, query) => format!("ask {}{}", query.name(), records(&so_far)),
        }
    }

    #[test]
    fn aliases_are_followed_to_their_end() {
        let resolver = resolver(true);
        for (name, kind, expected) in [
            ("web.ns.svc.cluster.local.", RecordType::A, "NoError 10.96.0.5"),
            ("alias.ns.svc.cluster.local.", RecordType::A, "NoError web.ns.svc.cluster.local. 10.96.0.5"),
            ("alias.ns.svc.cluster.local.", RecordType::CNAME, "NoError web.ns.svc.cluster.local."),
            ("alias.ns.svc.cluster.local.", RecordType::AAAA, "NoError web.ns.svc.cluster.local."),
            ("second.ns.svc.cluster.local.", RecordType::A, "NoError alias.ns.svc.cluster.local. web.ns.svc.cluster.local. 10.96.0.5"),
            ("broken.ns.svc.cluster.local.", RecordType::A, "NXDomain absent.ns.svc.cluster.local."),
            ("outside.ns.svc.cluster.local.", RecordType::A, "ask example.com. example.com."),
            ("example.org.", RecordType::A, "ask example.org."),
            ("9.2.0.192.in-addr.arpa.", RecordType::PTR, "ask 9.2.0.192.in-addr.arpa."),
        ] {
            assert_eq!(ask(&resolver, name, kind), expected, "{name} {kind}");
        }
        let circle = ask(&resolver, "circle.ns.svc.cluster.local.", RecordType::A);
        assert_eq!(circle.matches("circle").count(), ALIASES, "{circle}");
    }

    #[test]
    fn nothing_is_denied_before_everything_is_known() {
        let resolver = resolver(false);
        for (name, expected) in
            [("absent.ns.svc.cluster.local.", "ServFail"), ("5.0.96.10.IN-ADDR.ARPA.", "ServFail"), ("example.org.", "ask example.org.")]
        {
            assert_eq!(ask(&resolver, name, RecordType::PTR), expected, "{name}");
        }
    }
}
