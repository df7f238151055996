//! Whom to ask about everything else: the name servers of a `resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr};

/// More would never be reached within the time that a query has (CoreDNS takes 15).
const SERVERS: usize = 15;
const PORT: u16 = 53;

/// The name servers, in their order.
pub fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?.and_then(server)
    });
    servers.take(SERVERS).collect()
}

/// `ADDRESS` or `ADDRESS:PORT`; an address with a scope (`fe80::1%eth0`) is none that can be asked from here.
pub fn server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_and_nothing_else() {
        let text = "# nameserver 192.0.2.1\nsearch example.com\n  nameserver 192.0.2.2 # one\nnameserver\t2001:db8::1\nnameserver fe80::1%eth0\n\
                    nameserver\noptions ndots:5\nnameservers 192.0.2.3\n; nameserver 192.0.2.4\n";
        let shown: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.2:53", "[2001:db8::1]:53"]);
        assert_eq!(server("127.0.0.1:5353"), Some("127.0.0.1:5353".parse().unwrap()));
        assert_eq!(server("localhost"), None);
    }
}
