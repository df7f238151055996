//! The part of a table that is the same whatever Services there are: chains at the kernel's hooks, and what they look up
//! (upstream: `setupNFTables`).
//!
//! All statements can be repeated on a table that is there, so that a proxy that starts again takes over its predecessor's in one transaction.

use crate::family::Family;
use crate::rules::Map;
use std::fmt::Write;

/// Marks packets that are to be masqueraded.
pub const MARK_CHAIN: &str = "mark-for-masquerade";
/// Refuses.
pub const REJECT_CHAIN: &str = "reject-chain";

/// Chains at hooks: name, type, hook, priority. Who may come is asked while the destination is as the client wrote it; what becomes of packets
/// for which there is no endpoint is asked after it had its chance to change, in the hooks that may refuse.
const HOOKS: [(&str, &str, &str, i32); 8] = [
    ("filter-prerouting", "filter", "prerouting", -110),
    ("filter-input", "filter", "input", -110),
    ("filter-forward", "filter", "forward", -110),
    ("filter-output", "filter", "output", -110),
    ("filter-output-post-dnat", "filter", "output", -90),
    ("nat-prerouting", "nat", "prerouting", -100),
    ("nat-output", "nat", "output", -100),
    ("nat-postrouting", "nat", "postrouting", 100),
];

/// Other chains, with their rules. IP and ADDRESS stand for the family's words, MARK for the mark's bit.
const CHAINS: [(&str, &[&str]); 7] = [
    (MARK_CHAIN, &["mark set mark or MARK"]),
    (REJECT_CHAIN, &["reject"]),
    ("services", &["IP daddr . meta l4proto . th dport vmap @service-ips", "NODEPORT meta l4proto . th dport vmap @service-nodeports"]),
    (
        "endpoints-check",
        &["IP daddr . meta l4proto . th dport vmap @no-endpoint-services", "NODEPORT meta l4proto . th dport vmap @no-endpoint-nodeports"],
    ),
    ("firewall-check", &["IP daddr . meta l4proto . th dport vmap @firewall-ips"]),
    ("cluster-ips-check", &["IP daddr @cluster-ips reject"]),
    (
        "masquerading",
        &[
            // An endpoint that got itself by way of its Service would see its own address and answer itself.
            "IP saddr . IP daddr . meta l4proto . th dport @hairpin masquerade fully-random",
            "mark and MARK == 0 return",
            "mark set mark xor MARK",
            "masquerade fully-random",
        ],
    ),
];

/// Which hook leads to which chain, and for which packets.
const JUMPS: [(&str, &str); 10] = [
    ("filter-prerouting", "ct state new jump firewall-check"),
    ("filter-input", "ct state new jump endpoints-check"),
    ("filter-forward", "ct state new jump endpoints-check"),
    ("filter-forward", "ct state new jump cluster-ips-check"),
    ("filter-output", "ct state new jump firewall-check"),
    ("filter-output-post-dnat", "ct state new jump endpoints-check"),
    ("filter-output-post-dnat", "ct state new jump cluster-ips-check"),
    ("nat-prerouting", "jump services"),
    ("nat-output", "jump services"),
    ("nat-postrouting", "jump masquerading"),
];

/// How a table is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Skeleton {
    /// The table's name.
    pub table: String,
    /// The bit of the packet mark that says "masquerade".
    pub masquerade_bit: u8,
    /// The node's networks on which NodePorts answer; empty means every address of the node but loopback.
    pub node_port_addresses: Vec<String>,
}

impl Skeleton {
    /// The statements that make the table of a family, empty of Services.
    pub fn statements(&self, family: Family) -> String {
        let (ip, table) = (family.keyword(), &self.table);
        let mark = format!("{:#010x}", 1u32 << self.masquerade_bit);
        let words = |text: &str| {
            let text = text.replace("NODEPORT", &self.node_port_match(family));
            text.replace("IP ", &format!("{ip} ")).replace("ADDRESS", family.address_type()).replace("MARK", &mark)
        };
        let mut text = format!("add table {ip} {table} {{ comment \"rules for kube-proxy\"; }}\n");
        let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
        for (name, kind, hook, priority) in HOOKS {
            line(format!("add chain {ip} {table} {name} {{ type {kind} hook {hook} priority {priority}; }}"));
            line(format!("flush chain {ip} {table} {name}"));
        }
        for (map, name, kind) in Map::ALL {
            let noun = noun(map);
            line(format!("add {noun} {ip} {table} {name} {{ type {}; }}", words(kind)));
            line(format!("flush {noun} {ip} {table} {name}"));
        }
        for (name, _) in CHAINS {
            line(format!("add chain {ip} {table} {name}"));
            line(format!("flush chain {ip} {table} {name}"));
        }
        for (name, rules) in CHAINS {
            rules.iter().for_each(|rule| line(format!("add rule {ip} {table} {name} {}", words(rule))));
        }
        for (hook, rule) in JUMPS {
            line(format!("add rule {ip} {table} {hook} {rule}"));
        }
        text
    }

    fn node_port_match(&self, family: Family) -> String {
        let own: Vec<&str> = self.node_port_addresses.iter().filter(|cidr| family.owns_cidr(cidr)).map(String::as_str).collect();
        let limit = if own.is_empty() { String::new() } else { format!(" {} daddr {{ {} }}", family.keyword(), own.join(", ")) };
        format!("fib daddr type local {}{limit}", family.not_loopback())
    }
}

/// Whether nft calls it a map or a set.
pub fn noun(map: Map) -> &'static str {
    if Map::ALL[map as usize].2.contains(':') { "map" } else { "set" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_familys() {
        let skeleton = Skeleton { table: "t".into(), masquerade_bit: 14, node_port_addresses: vec!["192.0.2.0/24".into()] };
        let (four, six) = (skeleton.statements(Family::V4), skeleton.statements(Family::V6));
        assert!(four.contains("add map ip t service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }"), "{four}");
        assert!(four.contains("add set ip t hairpin { type ipv4_addr . ipv4_addr . inet_proto . inet_service; }"));
        assert!(four.contains("add rule ip t mark-for-masquerade mark set mark or 0x00004000\n"));
        let node_ports =
            "fib daddr type local ip daddr != 127.0.0.0/8 ip daddr { 192.0.2.0/24 } meta l4proto . th dport vmap @service-nodeports";
        assert!(four.contains(node_ports), "{four}");
        assert!(
            six.contains("add rule ip6 t services fib daddr type local ip6 daddr != ::1 meta l4proto . th dport vmap @service-nodeports")
        );
        assert!(!six.contains("ipv4") && !six.contains("IP ") && !six.contains("MARK"), "{six}");
    }
}
