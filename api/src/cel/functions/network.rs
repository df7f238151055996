//! Addresses, ranges of addresses, and URLs.

use super::super::value::{Cidr, EvalError, Key, Map, Url, Val};
use super::{Outcome, failed};
use std::net::IpAddr;
use std::sync::Arc;

/// An address, strictly: no zones, and IPv4 not in IPv6's clothes.
fn address(text: &str) -> Result<IpAddr, EvalError> {
    let wrong = |why: String| EvalError::Failed(why);
    let ip: IpAddr = text.parse().map_err(|_| match text.contains('%') {
        true => wrong(format!("IP address {text:?} with zone value is not allowed")),
        false => wrong(format!("IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP")),
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(wrong(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))),
        ip => Ok(ip),
    }
}

fn range(text: &str) -> Result<Cidr, EvalError> {
    let wrong =
        || EvalError::Failed(format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): no '/'"));
    let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address = address(ip)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.parse::<u8>().ok().filter(|b| *b <= most).ok_or_else(|| {
        EvalError::Failed(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): bad bits after slash: {bits:?}"
        ))
    })?;
    Ok(Cidr { address, bits })
}

/// `ip(text)`, `isIP(text)`, `ip.isCanonical(text)`.
pub(super) fn parse_ip<'a>(name: &str, text: &str) -> Outcome<'a> {
    match (name, address(text)) {
        ("isIP", parsed) => Ok(Val::Bool(parsed.is_ok())),
        (_, Err(error)) => Err(error),
        ("ip.isCanonical", Ok(ip)) => Ok(Val::Bool(ip.to_string() == text)),
        (_, Ok(ip)) => Ok(Val::Ip(ip)),
    }
}

/// `cidr(text)`, `isCIDR(text)`.
pub(super) fn parse_cidr<'a>(name: &str, text: &str) -> Outcome<'a> {
    match (name, range(text)) {
        ("isCIDR", parsed) => Ok(Val::Bool(parsed.is_ok())),
        (_, parsed) => parsed.map(Val::Cidr),
    }
}

/// `url(text)`, `isURL(text)`.
pub(super) fn parse_url<'a>(name: &str, text: &str) -> Outcome<'a> {
    match (name, url(text)) {
        ("isURL", parsed) => Ok(Val::Bool(parsed.is_some())),
        (_, Some(url)) => Ok(Val::Url(Arc::new(url))),
        (_, None) => failed(format!("URL parse error during conversion from string: parse {text:?}: invalid URI for request")),
    }
}

/// An absolute URL or an absolute path.
fn url(text: &str) -> Option<Url> {
    if text.chars().any(|c| c.is_ascii_control() || c == ' ') {
        return None;
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) => (scheme.to_lowercase(), rest),
        _ if text.starts_with('/') => (String::new(), text),
        _ => return None,
    };
    let without_fragment = rest.split('#').next().unwrap_or(rest);
    let (before, query) = without_fragment.split_once('?').unwrap_or((without_fragment, ""));
    let (authority, path) = match (scheme.is_empty(), before.find('/')) {
        (true, _) => ("", before),
        (false, Some(at)) => before.split_at(at),
        (false, None) => (before, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.contains(['<', '>', '"', '^', '`', '{', '}']) {
        return None;
    }
    let pairs = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key), decoded(value))
    });
    Some(Url { text: text.to_owned(), scheme, host: host.to_owned(), path: path.to_owned(), query: pairs.collect() })
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escaped) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A function of an address, a range or a URL.
pub(super) fn call<'a>(name: &str, values: &[Val<'a>]) -> Option<Outcome<'a>> {
    match values {
        [Val::Ip(ip)] => of_ip(name, *ip),
        [Val::Cidr(range), rest @ ..] => of_cidr(name, *range, rest),
        [Val::Url(url)] => of_url(name, url),
        _ => None,
    }
}

fn of_ip<'a>(name: &str, ip: IpAddr) -> Option<Outcome<'a>> {
    let link_local_unicast = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Some(Ok(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(link_local_multicast),
        "isLinkLocalUnicast" => Val::Bool(link_local_unicast),
        "isGlobalUnicast" => Val::Bool(!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast || broadcast)),
        _ => return None,
    }))
}

/// The leading bits of an address, and how many it has in all.
fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

fn contains(range: Cidr, ip: IpAddr) -> bool {
    range.address.is_ipv4() == ip.is_ipv4() && (bits(range.address).0 ^ bits(ip).0) & mask(range.bits) == 0
}

fn of_cidr<'a>(name: &str, range: Cidr, arguments: &[Val<'a>]) -> Option<Outcome<'a>> {
    let within = |other: Cidr| Val::Bool(other.bits >= range.bits && contains(range, other.address));
    Some(match (name, arguments) {
        ("containsIP", [Val::Ip(ip)]) => Ok(Val::Bool(contains(range, *ip))),
        ("containsIP", [Val::String(text)]) => address(text).map(|ip| Val::Bool(contains(range, ip))),
        ("containsCIDR", [Val::Cidr(other)]) => Ok(within(*other)),
        ("containsCIDR", [Val::String(text)]) => self::range(text).map(within),
        ("ip", []) => Ok(Val::Ip(range.address)),
        ("prefixLength", []) => Ok(Val::Int(i64::from(range.bits))),
        ("masked", []) => {
            let masked = bits(range.address).0 & mask(range.bits);
            let address = match range.address {
                // The address stands in the upper 32 bits.
                IpAddr::V4(_) => IpAddr::V4(u32::try_from(masked >> 96).unwrap_or(0).into()),
                IpAddr::V6(_) => IpAddr::V6(masked.into()),
            };
            Ok(Val::Cidr(Cidr { address, bits: range.bits }))
        }
        _ => return None,
    })
}

fn of_url<'a>(name: &str, url: &Url) -> Option<Outcome<'a>> {
    let (hostname, port) = match url.host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or("")),
        None => url.host.rsplit_once(':').unwrap_or((&url.host, "")),
    };
    Some(Ok(match name {
        "getScheme" => Val::text(url.scheme.as_str()),
        "getHost" => Val::text(url.host.as_str()),
        "getHostname" => Val::text(hostname),
        "getPort" => Val::text(port),
        "getEscapedPath" => Val::text(url.path.as_str()),
        "getQuery" => {
            let mut all: indexmap::IndexMap<Key, Val<'a>> = indexmap::IndexMap::new();
            for (key, _) in &url.query {
                let values = url.query.iter().filter(|(k, _)| k == key).map(|(_, v)| Val::text(v.as_str()));
                all.insert(Key::String(key.as_str().into()), Val::list(values.collect()));
            }
            Val::Map(Map::Made(Arc::new(all), None))
        }
        _ => return None,
    }))
}
