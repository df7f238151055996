//! The two families of addresses, each of which has a table of its own in the kernel.

use std::net::IpAddr;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// nft's name of the family, which is also the protocol's in a rule: `ip`, `ip6`.
    pub fn keyword(self) -> &'static str {
        match self {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// nft's name of the type of its addresses.
    pub fn address_type(self) -> &'static str {
        match self {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }

    /// Matches what is not on a loopback address.
    pub fn not_loopback(self) -> &'static str {
        match self {
            Family::V4 => "ip daddr != 127.0.0.0/8",
            Family::V6 => "ip6 daddr != ::1",
        }
    }

    /// `ipFamily` of Services and `addressType` of EndpointSlices.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// Whether a CIDR is of this family.
    pub fn owns_cidr(self, cidr: &str) -> bool {
        cidr.split('/').next().and_then(|address| address.parse::<IpAddr>().ok()).is_some_and(|address| Family::of(&address) == self)
    }
}
