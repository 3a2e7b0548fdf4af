//! Which addresses may be dialled for a server id that came from outside.
//!
//! A foreign id must not turn the node into a scanner of its own network, so
//! only what is globally reachable passes. Pure: never resolves, never dials.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `Err` says in a few words what kind of address it is.
///
/// Sources: the IANA special-purpose registries (RFC 6890 and its updates),
/// RFC 6052 and RFC 8215 (NAT64), RFC 3056 (6to4), RFC 4291 (mapped,
/// compatible).
pub fn check(address: IpAddr) -> Result<(), &'static str> {
    match address {
        IpAddr::V4(v4) => check_v4(v4),
        IpAddr::V6(v6) => check_v6(v6),
    }
}

/// Prefix, its length, what it is.
const V4: &[([u8; 4], u32, &str)] = &[
    ([0, 0, 0, 0], 8, "unspecified"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "carrier-grade NAT"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "documentation"),
    ([192, 88, 99, 0], 24, "reserved"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "reserved"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([255, 255, 255, 255], 32, "broadcast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

fn check_v4(address: Ipv4Addr) -> Result<(), &'static str> {
    let bits = u32::from(address);
    let inside = |prefix: [u8; 4], length: u32| (bits ^ u32::from_be_bytes(prefix)) >> (32 - length) == 0;
    match V4.iter().find(|(prefix, length, _)| inside(*prefix, *length)) {
        Some((_, _, what)) => Err(what),
        None => Ok(()),
    }
}

/// First two groups, prefix length (at most 32), what it is. All of it lies
/// in 2000::/3; what lies outside of that is dealt with by name in `check_v6`.
const V6: &[(u32, u32, &str)] = &[
    (0x2001_0000, 23, "reserved"), // Teredo, ORCHID and other protocol assignments
    (0x2001_0db8, 32, "documentation"),
    (0x3fff_0000, 20, "documentation"),
];

fn check_v6(address: Ipv6Addr) -> Result<(), &'static str> {
    let groups = address.segments();
    let last = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match groups {
        [0, 0, 0, 0, 0, 0, 0, 0] => return Err("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => return Err("loopback"),
        // Mapped. A socket reaches the IPv4 address by it.
        [0, 0, 0, 0, 0, 0xffff, high, low] => return check_v4(last(high, low)),
        // Compatible: deprecated, nothing public answers there.
        [0, 0, 0, 0, 0, 0, _, _] => return Err("IPv4-compatible"),
        // NAT64, well-known prefix.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return check_v4(last(high, low)),
        // NAT64, local use: where the IPv4 address stands depends on a prefix
        // length that only that network knows, so nothing in it passes.
        [0x64, 0xff9b, 1, ..] => return Err("local NAT64"),
        // 6to4.
        [0x2002, high, low, ..] => return check_v4(last(high, low)),
        _ => {}
    }
    match groups[0] {
        0xfc00..=0xfdff => return Err("private (unique local)"),
        0xfe80..=0xfebf => return Err("link-local"),
        0xfec0..=0xfeff => return Err("site-local"),
        0xff00.. => return Err("multicast"),
        0x2000..=0x3fff => {}
        _ => return Err("reserved"),
    }
    let head = u32::from(groups[0]) << 16 | u32::from(groups[1]);
    match V6.iter().find(|(prefix, length, _)| (head ^ prefix) >> (32 - length) == 0) {
        Some((_, _, what)) => Err(what),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
