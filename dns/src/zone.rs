//! From a query to its answer: the Kubernetes DNS specification (`kubernetes/dns`, `docs/specification.md`, version 1.1.0), pure over the index.
//!
//! Where the specification leaves something open, answers are CoreDNS's: a name that exists but has no record of the type asked for is answered
//! without records and with the SOA, so is every name between the zone's and a Service's; a headless Service without ready endpoints does not
//! exist; endpoints of any Service have names, not only those of headless ones; names of pods are made of their addresses and not looked up.

use crate::index::{Index, Port, Target, label_address};
use client::ObjectKey;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What `dns-version` says: the version of the specification.
const VERSION: &str = "1.1.0";
/// Times of the SOA: nobody transfers the zone, so these are the usual ones (CoreDNS's).
const REFRESH: i32 = 7200;
const RETRY: i32 = 1800;
const EXPIRE: i32 = 86400;

/// How the cluster's zone is answered.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name, in lower case.
    pub domain: Name,
    /// How long clients may keep an answer, in seconds.
    pub ttl: u32,
    /// Whether names of pods are answered.
    pub pods: bool,
    /// The addresses of this server, which are what the zone's name server has.
    pub servers: Vec<IpAddr>,
}

/// An answer, before it is put into a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The response code.
    pub code: ResponseCode,
    /// Whether it comes from the source.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The additional section.
    pub additional: Vec<Record>,
}

impl Answer {
    /// An answer of a code alone.
    pub fn of(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

/// What becomes of a query.
#[derive(Debug, PartialEq)]
pub enum Resolved {
    /// This is the answer.
    Answer(Answer),
    /// The name is an alias of one that has to be looked up in turn.
    Alias(Answer, Name),
    /// The name is somebody else's.
    Elsewhere,
}

/// What the labels of a name in the zone mean.
#[derive(Debug, PartialEq)]
enum Meaning {
    Apex,
    /// Between the zone and the names below: it exists, and has nothing.
    Empty,
    Version,
    Server,
    Namespace(String),
    Pod(String, String),
    Service(ObjectKey, Option<Below>),
    Nothing,
}

/// What may stand before a Service's name.
#[derive(Debug, PartialEq)]
enum Below {
    Endpoint(String),
    Port { name: String, protocol: String },
}

impl Below {
    fn takes(this: Option<&Self>, port: &Port) -> bool {
        match this {
            Some(Below::Port { name, protocol }) => port.name == *name && port.protocol == *protocol,
            Some(Below::Endpoint(_)) | None => true,
        }
    }
}

fn meaning(labels: &[String]) -> Meaning {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let service = |name: &str, namespace: &str, below| Meaning::Service(ObjectKey::new(namespace, name), below);
    let plain = |label: &str| label.strip_prefix('_').unwrap_or(label).to_owned();
    match labels[..] {
        [] => Meaning::Apex,
        ["svc" | "pod" | "dns"] => Meaning::Empty,
        ["dns-version"] => Meaning::Version,
        ["ns", "dns"] => Meaning::Server,
        [namespace, "svc" | "pod"] => Meaning::Namespace(namespace.to_owned()),
        [pod, namespace, "pod"] => Meaning::Pod(pod.to_owned(), namespace.to_owned()),
        [name, namespace, "svc"] => service(name, namespace, None),
        [endpoint, name, namespace, "svc"] => service(name, namespace, Some(Below::Endpoint(endpoint.to_owned()))),
        [port, protocol, name, namespace, "svc"] => {
            service(name, namespace, Some(Below::Port { name: plain(port), protocol: plain(protocol) }))
        }
        _ => Meaning::Nothing,
    }
}

/// What a name has: nothing at all, or these addresses, ports and aliases.
#[derive(Debug, Default, PartialEq)]
struct Found {
    exists: bool,
    addresses: BTreeSet<IpAddr>,
    /// Port, the label of its endpoint if it is one's, and the address there.
    ports: Vec<(u16, Option<String>, IpAddr)>,
    alias: Option<Name>,
}

impl Zone {
    /// Answers a query; `turn` says which of several addresses comes first.
    pub fn resolve(&self, index: &Index, query: &Query, turn: usize) -> Resolved {
        let name = query.name();
        if !self.domain.zone_of(name) {
            return self.reverse(index, query);
        }
        let below = usize::from(name.num_labels() - self.domain.num_labels());
        let labels: Vec<String> = name.iter().take(below).map(|label| String::from_utf8_lossy(label).to_lowercase()).collect();
        let kind = query.query_type();
        match meaning(&labels) {
            Meaning::Apex => self.apex(index, query),
            Meaning::Empty => self.exists(index),
            Meaning::Version if kind == RecordType::TXT => {
                self.found(vec![self.record(name, RData::TXT(TXT::new(vec![VERSION.to_owned()])))])
            }
            Meaning::Version => self.exists(index),
            Meaning::Server => {
                let found = Found { exists: true, addresses: self.servers.iter().copied().collect(), ..Found::default() };
                self.answer(index, query, found, None, turn)
            }
            Meaning::Namespace(namespace) if index.has_namespace(&namespace) => self.exists(index),
            Meaning::Pod(label, namespace) if self.pods && index.has_namespace(&namespace) => {
                let found = label_address(&label).map(|address| Found { exists: true, addresses: [address].into(), ..Found::default() });
                self.answer(index, query, found.unwrap_or_default(), None, turn)
            }
            Meaning::Service(key, below) if index.has_namespace(&key.namespace) => {
                let found = self.service(index, &key, below.as_ref());
                self.answer(index, query, found, Some(&key), turn)
            }
            Meaning::Namespace(_) | Meaning::Pod(..) | Meaning::Service(..) | Meaning::Nothing => self.missing(index),
        }
    }

    /// Whether the answer for a name comes from the index.
    pub fn owns(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    fn service(&self, index: &Index, key: &ObjectKey, below: Option<&Below>) -> Found {
        let mut found = Found::default();
        let Some(service) = index.service(key) else { return found };
        match (&service.target, below) {
            // Neither ports nor endpoints are known of what is elsewhere.
            (Target::Elsewhere(_), Some(_)) => {}
            (Target::Elsewhere(target), None) => {
                found.exists = true;
                match target.parse() {
                    Ok(address) => drop(found.addresses.insert(address)),
                    Err(_) => found.alias = Name::from_ascii(target).ok().map(rooted),
                }
            }
            (Target::Addresses(addresses), None | Some(Below::Port { .. })) => {
                for port in service.ports.iter().filter(|port| Below::takes(below, port)) {
                    found.exists = true;
                    found.ports.extend(addresses.iter().map(|address| (port.number, None, *address)));
                    found.addresses.extend(addresses);
                }
            }
            (Target::Endpoints, _) | (Target::Addresses(_), Some(Below::Endpoint(_))) => {
                let all = index.endpoints(key).into_iter().flatten();
                let chosen = all.filter(|(label, _)| !matches!(below, Some(Below::Endpoint(asked)) if asked != *label));
                for (label, endpoint) in chosen.flat_map(|(label, all)| all.iter().map(move |endpoint| (label, endpoint))) {
                    let ports: Vec<&Port> = endpoint.ports.iter().filter(|port| Below::takes(below, port)).collect();
                    // Only a query for a port asks for more than the address.
                    if ports.is_empty() && matches!(below, Some(Below::Port { .. })) {
                        continue;
                    }
                    found.exists = true;
                    found.addresses.insert(endpoint.address);
                    found.ports.extend(ports.iter().map(|port| (port.number, Some(label.clone()), endpoint.address)));
                }
            }
        }
        found
    }

    fn answer(&self, index: &Index, query: &Query, found: Found, key: Option<&ObjectKey>, turn: usize) -> Resolved {
        let name = query.name();
        if !found.exists {
            return self.missing(index);
        }
        if let Some(target) = found.alias {
            let alias = self.record(name, RData::CNAME(CNAME(target.clone())));
            let answer = Answer { authoritative: true, answers: vec![alias], ..Answer::default() };
            return match query.query_type() {
                RecordType::CNAME => Resolved::Answer(answer),
                _ => Resolved::Alias(answer, target),
            };
        }
        let kind = query.query_type();
        if let (RecordType::SRV, Some(key)) = (kind, key) {
            return self.ports(index, name, key, &found.ports, turn);
        }
        let mut records: Vec<Record> = found.addresses.iter().map(|address| self.address(name, *address)).collect();
        records.retain(|record| record.record_type() == kind);
        if records.is_empty() {
            return self.exists(index);
        }
        rotate(&mut records, turn);
        self.found(records)
    }

    /// SRV records, and the addresses of what they name.
    fn ports(&self, index: &Index, name: &Name, key: &ObjectKey, ports: &[(u16, Option<String>, IpAddr)], turn: usize) -> Resolved {
        let mut seen = BTreeSet::new();
        let distinct: BTreeSet<(Option<&str>, u16)> = ports.iter().map(|(port, label, _)| (label.as_deref(), *port)).collect();
        let weight = u16::try_from(100 / distinct.len().max(1)).unwrap_or(1).max(1);
        let mut records: Vec<Record> = Vec::with_capacity(distinct.len());
        for (label, port) in distinct {
            let Some(target) = self.name_of(key, label) else { continue };
            records.push(self.record(name, RData::SRV(SRV::new(0, weight, port, target))));
        }
        if records.is_empty() {
            return self.exists(index);
        }
        rotate(&mut records, turn);
        let mut additional = Vec::new();
        for (_, label, address) in ports {
            if seen.insert((label, address)) {
                additional.extend(self.name_of(key, label.as_deref()).map(|target| self.address(&target, *address)));
            }
        }
        Resolved::Answer(Answer { authoritative: true, answers: records, additional, ..Answer::default() })
    }

    /// `[LABEL.]NAME.NAMESPACE.svc.ZONE`; nothing if that is too long for a name.
    fn name_of(&self, key: &ObjectKey, label: Option<&str>) -> Option<Name> {
        let labels = label.into_iter().chain([key.name.as_str(), key.namespace.as_str(), "svc"]);
        Name::from_labels(labels.map(str::as_bytes).chain(self.domain.iter())).ok()
    }

    /// Names of an address; those of others are not ours to answer or refuse.
    fn reverse(&self, index: &Index, query: &Query) -> Resolved {
        let name = query.name();
        if query.query_type() != RecordType::PTR {
            return Resolved::Elsewhere;
        }
        let Some(address) = name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len()) else {
            return Resolved::Elsewhere;
        };
        let names = index.names_of(&address.addr());
        let records: Vec<Record> = names
            .into_iter()
            .filter_map(|(key, label)| self.name_of(key, label))
            .map(|target| self.record(name, RData::PTR(PTR(target))))
            .collect();
        if records.is_empty() { Resolved::Elsewhere } else { self.found(records) }
    }

    fn apex(&self, index: &Index, query: &Query) -> Resolved {
        let name = query.name();
        match query.query_type() {
            RecordType::SOA => self.found(vec![self.soa(index)]),
            RecordType::NS => {
                let Some(server) = self.server() else { return self.exists(index) };
                let additional = self.servers.iter().map(|address| self.address(&server, *address)).collect();
                let answers = vec![self.record(name, RData::NS(NS(server)))];
                Resolved::Answer(Answer { authoritative: true, answers, additional, ..Answer::default() })
            }
            _ => self.exists(index),
        }
    }

    fn server(&self) -> Option<Name> {
        Name::from_labels([&b"ns"[..], b"dns"].into_iter().chain(self.domain.iter())).ok()
    }

    fn soa(&self, index: &Index) -> Record {
        let server = self.server().unwrap_or_else(|| self.domain.clone());
        let mailbox = self.domain.prepend_label("hostmaster").unwrap_or_else(|_| self.domain.clone());
        self.record(&self.domain, RData::SOA(SOA::new(server, mailbox, index.serial(), REFRESH, RETRY, EXPIRE, self.ttl)))
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl, data)
    }

    fn address(&self, name: &Name, address: IpAddr) -> Record {
        let data = match address {
            IpAddr::V4(four) => RData::A(A(four)),
            IpAddr::V6(six) => RData::AAAA(AAAA(six)),
        };
        self.record(name, data)
    }

    fn found(&self, answers: Vec<Record>) -> Resolved {
        Resolved::Answer(Answer { authoritative: true, answers, ..Answer::default() })
    }

    /// The name exists, without records of the type asked for.
    fn exists(&self, index: &Index) -> Resolved {
        Resolved::Answer(Answer { authoritative: true, authority: vec![self.soa(index)], ..Answer::default() })
    }

    /// There is no such name.
    fn missing(&self, index: &Index) -> Resolved {
        let authority = vec![self.soa(index)];
        Resolved::Answer(Answer { code: ResponseCode::NXDomain, authoritative: true, authority, ..Answer::default() })
    }
}

fn rooted(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

fn rotate(records: &mut [Record], turn: usize) {
    if let Some(by) = turn.checked_rem(records.len()) {
        records.rotate_left(by);
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
