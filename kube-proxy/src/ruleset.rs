//! All rules of one table, as the kernel has them, and the transactions that lead from there to what is wanted.
//!
//! Several Services can claim one element (two with the same external IP; an endpoint that stands behind both). Every claim is remembered, and
//! the Service that is first by name has it, so that one that goes away uncovers the next.

use crate::family::Family;
use crate::rules::{Map, Rules};
use crate::skeleton::{Skeleton, noun};
use client::ObjectKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

/// A Service's rules as they are to be; `None` when it is gone.
pub type Changes = Vec<(ObjectKey, Option<Rules>)>;

/// What a table holds that is not ours to know yet: left by the proxy before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Its chains.
    pub chains: BTreeSet<String>,
    /// Its sets and maps.
    pub sets: BTreeSet<String>,
}

type Element = (Map, String);

/// The rules of one table.
#[derive(Debug)]
pub struct Ruleset {
    family: Family,
    table: String,
    services: HashMap<ObjectKey, Arc<Rules>>,
    claims: HashMap<Element, BTreeMap<ObjectKey, String>>,
}

/// The parts of a transaction, in the order in which the kernel must see them: what is named has to exist, what goes may not be named any more.
#[derive(Default)]
struct Transaction {
    declarations: String,
    rules: String,
    removed_elements: String,
    elements: String,
    flushed: String,
    deleted: String,
}

impl Transaction {
    fn text(self) -> String {
        [self.declarations, self.rules, self.removed_elements, self.elements, self.flushed, self.deleted].concat()
    }
}

/// `writeln!` into a String, which takes everything.
macro_rules! line {
    ($into:expr, $($arguments:tt)*) => { writeln!($into, $($arguments)*).expect("a String takes everything") };
}

impl Ruleset {
    /// Of a table that was just made from the skeleton.
    pub fn new(family: Family, table: &str) -> Self {
        Self { family, table: table.to_owned(), services: HashMap::new(), claims: HashMap::new() }
    }

    /// The rules of a Service, as applied.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Rules>> {
        self.services.get(key)
    }

    /// All Services that have rules.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    /// The transaction that makes the table from nothing, or from what an earlier proxy left, which goes on serving until then. The sets that
    /// remember clients stay if they are still wanted.
    pub fn take_over(skeleton: &Skeleton, family: Family, found: &Found, changes: Changes) -> (Self, String) {
        let mut ruleset = Self::new(family, &skeleton.table);
        let wanted = ruleset.apply(changes);
        let mut text = skeleton.statements(family);
        text += &wanted;
        let (ip, table) = (family.keyword(), &skeleton.table);
        // A Service's chains are those with a slash in their names.
        let kept: BTreeSet<&str> = ruleset.services.values().flat_map(|rules| rules.chains.keys().map(String::as_str)).collect();
        let stale = || found.chains.iter().filter(|chain| chain.contains('/') && !kept.contains(chain.as_str()));
        stale().for_each(|chain| line!(text, "flush chain {ip} {table} {chain}"));
        stale().for_each(|chain| line!(text, "delete chain {ip} {table} {chain}"));
        let kept: BTreeSet<&str> = ruleset.services.values().flat_map(|rules| rules.clients.keys().map(String::as_str)).collect();
        for set in found.sets.iter().filter(|set| set.contains('/') && !kept.contains(set.as_str())) {
            line!(text, "delete set {ip} {table} {set}");
        }
        (ruleset, text)
    }

    /// Takes changes in, and returns the transaction that brings them to the kernel; empty if there is nothing to do.
    pub fn apply(&mut self, changes: Changes) -> String {
        let mut transaction = Transaction::default();
        for (key, wanted) in changes {
            self.change(&mut transaction, key, wanted.unwrap_or_default());
        }
        transaction.text()
    }

    fn change(&mut self, to: &mut Transaction, key: ObjectKey, wanted: Rules) {
        let old = self.services.remove(&key).unwrap_or_default();
        let (ip, table, family) = (self.family.keyword(), self.table.clone(), self.family);
        for (set, seconds) in wanted.clients.iter().filter(|(set, _)| !old.clients.contains_key(*set)) {
            let kind = family.address_type();
            line!(to.declarations, "add set {ip} {table} {set} {{ type {kind}; flags dynamic,timeout; timeout {seconds}s; }}");
        }
        for (chain, rules) in wanted.chains.iter().filter(|(chain, rules)| old.chains.get(*chain) != Some(rules)) {
            line!(to.declarations, "add chain {ip} {table} {chain}");
            line!(to.declarations, "flush chain {ip} {table} {chain}");
            rules.iter().for_each(|rule| line!(to.rules, "add rule {ip} {table} {chain} {rule}"));
        }
        for element in old.elements.keys().filter(|element| !wanted.elements.contains_key(*element)) {
            self.claim(to, element, &key, None);
        }
        for (element, value) in wanted.elements.iter().filter(|(element, value)| old.elements.get(*element) != Some(value)) {
            self.claim(to, element, &key, Some(value.clone()));
        }
        for chain in old.chains.keys().filter(|chain| !wanted.chains.contains_key(*chain)) {
            line!(to.flushed, "flush chain {ip} {table} {chain}");
            line!(to.deleted, "delete chain {ip} {table} {chain}");
        }
        for set in old.clients.keys().filter(|set| !wanted.clients.contains_key(*set)) {
            line!(to.deleted, "delete set {ip} {table} {set}");
        }
        if wanted != Rules::default() {
            self.services.insert(key, Arc::new(wanted));
        }
    }

    /// Changes one Service's claim to an element, and the element if another value wins by that.
    fn claim(&mut self, to: &mut Transaction, element: &Element, key: &ObjectKey, value: Option<String>) {
        let claims = self.claims.entry(element.clone()).or_default();
        let before = claims.values().next().cloned();
        match value {
            Some(value) => claims.insert(key.clone(), value),
            None => claims.remove(key),
        };
        let after = claims.values().next().cloned();
        if after.is_none() {
            self.claims.remove(element);
        }
        if before == after {
            return;
        }
        let ((map, name), ip, table) = (element, self.family.keyword(), &self.table);
        if before.is_some() {
            line!(to.removed_elements, "delete element {ip} {table} {} {{ {name} }}", map.name());
        }
        match after {
            Some(value) if noun(*map) == "map" => line!(to.elements, "add element {ip} {table} {} {{ {name} : {value} }}", map.name()),
            Some(_) => line!(to.elements, "add element {ip} {table} {} {{ {name} }}", map.name()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn rules(chain: &str, rule: &str, address: &str) -> Rules {
        let mut rules = Rules::default();
        rules.chains.insert(chain.into(), vec![rule.into()]);
        rules.element(Map::ServiceIps, format!("{address} . tcp . 80"), format!("goto {chain}"));
        rules
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut table = Ruleset::new(Family::V4, "t");
        let made = table
            .apply(vec![(key("a"), Some(rules("service-a/", "one", "10.0.0.1"))), (key("b"), Some(rules("service-b/", "x", "10.0.0.2")))]);
        assert_eq!(made.lines().count(), 8, "{made}");
        assert_eq!(table.apply(vec![(key("a"), Some(rules("service-a/", "one", "10.0.0.1")))]), "");
        let endpoint = table.apply(vec![(key("a"), Some(rules("service-a/", "two", "10.0.0.1")))]);
        assert_eq!(endpoint, "add chain ip t service-a/\nflush chain ip t service-a/\nadd rule ip t service-a/ two\n");
        let gone = table.apply(vec![(key("a"), None), (key("never"), None)]);
        assert_eq!(
            gone,
            "delete element ip t service-ips { 10.0.0.1 . tcp . 80 }\nflush chain ip t service-a/\ndelete chain ip t service-a/\n"
        );
        assert_eq!(table.keys().collect::<Vec<_>>(), [&key("b")]);
    }

    #[test]
    fn the_first_of_two_claims_wins_and_the_second_follows() {
        let mut table = Ruleset::new(Family::V4, "t");
        table.apply(vec![(key("b"), Some(rules("service-b/", "x", "10.0.0.1")))]);
        let first = table.apply(vec![(key("a"), Some(rules("service-a/", "x", "10.0.0.1")))]);
        assert!(
            first.contains("delete element") && first.contains("add element ip t service-ips { 10.0.0.1 . tcp . 80 : goto service-a/ }"),
            "{first}"
        );
        let back = table.apply(vec![(key("a"), None)]);
        assert!(back.contains("add element ip t service-ips { 10.0.0.1 . tcp . 80 : goto service-b/ }"), "{back}");
        assert!(!table.apply(vec![(key("b"), None)]).contains("add element"));
        assert!(table.claims.is_empty());
    }

    #[test]
    fn what_an_earlier_proxy_left_goes_in_the_same_transaction() {
        let skeleton = Skeleton { table: "t".into(), masquerade_bit: 14, node_port_addresses: Vec::new() };
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        let found = Found { chains: names(&["services", "service-a/", "service-old/"]), sets: names(&["affinity-old/", "hairpin"]) };
        let (_, text) = Ruleset::take_over(&skeleton, Family::V4, &found, vec![(key("a"), Some(rules("service-a/", "x", "10.0.0.1")))]);
        let deleted: Vec<&str> = text.lines().filter(|line| line.starts_with("delete")).collect();
        assert_eq!(deleted, ["delete chain ip t service-old/", "delete set ip t affinity-old/"]);
    }
}
