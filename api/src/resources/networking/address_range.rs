//! A range that Services' addresses are taken from, and in which order (upstream: `registry/core/service/ipallocator`).

use crate::validation::names::parse_cidr;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of the lower part of a range, which is for those who choose their own addresses (KEP-3070), the sixteenth of the range that it is, within these bounds.
const CHOSEN: (u128, u128, u128) = (16, 16, 256);

/// The addresses of a CIDR block that a Service can have: all but the first, and of IPv4's the last, which is for broadcasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    ipv4: bool,
    length: u8,
    first: u128,
    last: u128,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl AddressRange {
    /// Reads a CIDR block; `None` if it is none or holds no address.
    pub fn parse(cidr: &str) -> Option<Self> {
        let (address, length) = parse_cidr(cidr)?;
        let ipv4 = address.is_ipv4();
        let size = 1u128.checked_shl((if ipv4 { 32 } else { 128 }) - u32::from(length)).unwrap_or(0);
        let network = number(address) & !size.wrapping_sub(1);
        let last = network.wrapping_add(size).wrapping_sub(1 + u128::from(ipv4));
        let range = Self { ipv4, length, first: network.checked_add(1)?, last };
        (range.first <= range.last).then_some(range)
    }

    /// Whether its addresses are IPv4's.
    pub fn is_ipv4(&self) -> bool {
        self.ipv4
    }

    /// Whether a Service could have the address out of it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.ipv4 && (self.first..=self.last).contains(&number(address))
    }

    /// Whether the address is the block's network or its broadcasts', which no Service can have.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        let number = number(address);
        address.is_ipv4() == self.ipv4 && (number == self.first - 1 || (self.ipv4 && number == self.last + 1))
    }

    /// All of it, each once: the upper part first, each part from a place that `start` chooses among so many.
    pub fn from(self, mut start: impl FnMut(u128) -> u128) -> impl Iterator<Item = IpAddr> {
        let size = self.last - self.first + 1;
        let (part, least, most) = CHOSEN;
        let chosen = if size <= least { 0 } else { (size / part).clamp(least, most) };
        let mut turned = |first: u128, count: u128| {
            let offset = if count > 1 { start(count) } else { 0 };
            (0..count).map(move |index| first + (offset + index) % count)
        };
        let upper = turned(self.first + chosen, size - chosen);
        let lower = turned(self.first, chosen);
        upper.chain(lower).map(move |number| self.address(number))
    }

    fn address(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if self.ipv4 => Ipv4Addr::from(number).into(),
            _ => Ipv6Addr::from(number).into(),
        }
    }
}

/// The block, as `ADDRESS/LENGTH`.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(self.first - 1), self.length)
    }
}

/// The ranges of a ServiceCIDR.
pub fn ranges(object: &ServiceCIDR) -> impl Iterator<Item = AddressRange> {
    let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| AddressRange::parse(cidr))
}

/// Whether addresses may be taken from a ServiceCIDR: it stays, and nobody has said that it is not ready.
pub fn is_open(object: &ServiceCIDR) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let closed = conditions.any(|condition| condition.type_ == "Ready" && condition.status != "True");
    object.metadata.deletion_timestamp.is_none() && !closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_neither_its_network_nor_its_broadcasts() {
        for (cidr, inside, outside) in [
            ("10.96.0.0/16", vec!["10.96.0.1", "10.96.255.254"], vec!["10.96.0.0", "10.96.255.255", "10.97.0.1", "::1"]),
            ("10.0.0.4/30", vec!["10.0.0.5", "10.0.0.6"], vec!["10.0.0.4", "10.0.0.7"]),
            ("fd00::/112", vec!["fd00::1", "fd00::ffff"], vec!["fd00::", "fd00::1:0", "10.0.0.1"]),
            ("0.0.0.0/0", vec!["0.0.0.1", "255.255.255.254"], vec!["255.255.255.255"]),
            ("::/0", vec!["::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], vec!["::"]),
        ] {
            let range = AddressRange::parse(cidr).unwrap();
            inside.iter().for_each(|address| assert!(range.contains(address.parse().unwrap()), "{address} in {cidr}"));
            outside.iter().for_each(|address| assert!(!range.contains(address.parse().unwrap()), "{address} not in {cidr}"));
            assert_eq!(range.to_string(), cidr);
        }
        let range = AddressRange::parse("10.0.0.5/30").unwrap();
        let reserved = ["10.0.0.4", "10.0.0.5", "10.0.0.7", "10.0.0.8"].map(|address| range.is_reserved(address.parse().unwrap()));
        assert_eq!((reserved, range.to_string().as_str()), ([true, false, true, false], "10.0.0.4/30"));
        for none in ["10.0.0.1/32", "10.0.0.0/31", "fd00::1/128", "nonsense"] {
            assert_eq!(AddressRange::parse(none), None, "{none}");
        }
    }

    #[test]
    fn the_lower_part_is_taken_from_last() {
        let taken = |cidr: &str, start: u128| -> Vec<String> {
            AddressRange::parse(cidr).unwrap().from(|count| start.min(count - 1)).map(|address| address.to_string()).collect()
        };
        let all = taken("10.0.0.0/24", 0);
        assert_eq!((all.len(), all[0].as_str(), all[237].as_str(), all[238].as_str()), (254, "10.0.0.17", "10.0.0.254", "10.0.0.1"));
        assert_eq!(taken("10.0.0.0/29", 5), ["10.0.0.6", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
        let of_64: Vec<_> = AddressRange::parse("fd00::/64").unwrap().from(|count| count - 1).take(2).map(|a| a.to_string()).collect();
        assert_eq!(of_64, ["fd00::ffff:ffff:ffff:ffff", "fd00::101"]);
    }
}
