//! A table of packet rules as a value, and the transaction that makes one of another: only what differs is sent.

use kube_proxy::family::Family;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Elements in one statement, so that no line grows without bound.
const BATCH: usize = 256;

/// A set, or a map if its elements have values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    /// Its type in nft's words.
    pub kind: String,
    /// Its elements with their values; those of a set are empty.
    pub elements: BTreeMap<String, String>,
}

impl Set {
    /// A set of keys of one type.
    pub fn of(kind: &str, elements: impl IntoIterator<Item = String>) -> Self {
        Self { kind: kind.to_owned(), elements: elements.into_iter().map(|element| (element, String::new())).collect() }
    }

    fn noun(&self) -> &'static str {
        if self.kind.contains(':') { "map" } else { "set" }
    }
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// `type … hook … priority …` of those that packets come to by themselves.
    pub hook: Option<String>,
    /// Its rules, in nft's words.
    pub rules: Vec<String>,
}

/// All of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

macro_rules! line {
    ($into:expr, $($arguments:tt)*) => { writeln!($into, $($arguments)*).expect("a String takes everything") };
}

/// The transaction from one table to another, empty if they are the same. Of a table of which nothing is known nothing is kept.
pub fn transition(family: Family, name: &str, from: Option<&Table>, to: &Table) -> String {
    let (ip, none) = (family.keyword(), Table::default());
    let mut text = String::new();
    if from.is_none() {
        // Adding first makes the deletion right in either case.
        line!(text, "add table {ip} {name}\ndelete table {ip} {name}");
        if *to == none {
            return text;
        }
        line!(text, "add table {ip} {name} {{ comment \"rules of network policies\"; }}");
    }
    let from = from.unwrap_or(&none);
    for (set, new) in to.sets.iter().filter(|(set, _)| !from.sets.contains_key(*set)) {
        line!(text, "add {} {ip} {name} {set} {{ type {}; }}", new.noun(), new.kind);
    }
    let changed: Vec<(&String, &Chain)> = to.chains.iter().filter(|(chain, new)| from.chains.get(*chain) != Some(new)).collect();
    for (chain, new) in &changed {
        let hook = new.hook.as_ref().map(|hook| format!(" {{ {hook}; }}")).unwrap_or_default();
        line!(text, "add chain {ip} {name} {chain}{hook}");
        if from.chains.contains_key(*chain) {
            line!(text, "flush chain {ip} {name} {chain}");
        }
    }
    for (chain, new) in &changed {
        new.rules.iter().for_each(|rule| line!(text, "add rule {ip} {name} {chain} {rule}"));
    }
    let empty = Set::default();
    for (set, new) in &to.sets {
        let old = &from.sets.get(set).unwrap_or(&empty).elements;
        let gone = old.iter().filter(|(key, value)| new.elements.get(*key) != Some(value)).map(|(key, _)| key.clone());
        elements(&mut text, "delete", &format!("{ip} {name} {set}"), gone);
        let added = new.elements.iter().filter(|(key, value)| old.get(*key) != Some(value)).map(|(key, value)| match value.as_str() {
            "" => key.clone(),
            value => format!("{key} : {value}"),
        });
        elements(&mut text, "add", &format!("{ip} {name} {set}"), added);
    }
    // A verdict keeps the chain that it leads to from being deleted for as long as its map has it.
    let maps = || from.sets.iter().filter(|(set, _)| !to.sets.contains_key(*set));
    maps().for_each(|(set, old)| line!(text, "flush {} {ip} {name} {set}", old.noun()));
    let gone = || from.chains.keys().filter(|chain| !to.chains.contains_key(*chain));
    gone().for_each(|chain| line!(text, "flush chain {ip} {name} {chain}"));
    gone().for_each(|chain| line!(text, "delete chain {ip} {name} {chain}"));
    maps().for_each(|(set, old)| line!(text, "delete {} {ip} {name} {set}", old.noun()));
    text
}

fn elements(text: &mut String, verb: &str, set: &str, all: impl Iterator<Item = String>) {
    let all: Vec<String> = all.collect();
    for some in all.chunks(BATCH) {
        line!(text, "{verb} element {set} {{ {} }}", some.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rule: &str, member: &str) -> Table {
        let chain = |rule: &str| Chain { hook: None, rules: vec![rule.to_owned()] };
        let mut table = Table::default();
        table.chains.insert("c".into(), chain(rule));
        table.sets.insert("s".into(), Set::of("ipv4_addr", [member.to_owned()]));
        let map = Set { kind: "ipv4_addr : verdict".into(), elements: [(member.to_owned(), "goto c".to_owned())].into() };
        table.sets.insert("m".into(), map);
        table
    }

    #[test]
    fn only_differences_are_sent() {
        let first = table("drop", "10.0.0.1");
        let whole = transition(Family::V4, "t", None, &first);
        assert!(whole.starts_with("add table ip t\ndelete table ip t\nadd table ip t {"), "{whole}");
        assert!(whole.contains("add map ip t m { type ipv4_addr : verdict; }") && whole.contains("{ 10.0.0.1 : goto c }"), "{whole}");
        assert_eq!(transition(Family::V4, "t", Some(&first), &first), "");
        let rule = transition(Family::V4, "t", Some(&first), &table("accept", "10.0.0.1"));
        assert_eq!(rule, "add chain ip t c\nflush chain ip t c\nadd rule ip t c accept\n");
        let member = transition(Family::V6, "t", Some(&first), &table("drop", "10.0.0.2"));
        let expected = "delete element ip6 t m { 10.0.0.1 }\nadd element ip6 t m { 10.0.0.2 : goto c }\n\
                        delete element ip6 t s { 10.0.0.1 }\nadd element ip6 t s { 10.0.0.2 }\n";
        assert_eq!(member, expected);
        let gone = transition(Family::V4, "t", Some(&first), &Table::default());
        assert_eq!(
            gone,
            "flush map ip t m\nflush set ip t s\nflush chain ip t c\ndelete chain ip t c\ndelete map ip t m\ndelete set ip t s\n"
        );
        assert_eq!(transition(Family::V4, "t", None, &Table::default()), "add table ip t\ndelete table ip t\n");
    }
}
