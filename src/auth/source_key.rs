//! The source of an attempt: what limits and queues count by, before anything about the client is known.

use std::net::{IpAddr, SocketAddr};

/// The addresses that one party is assumed to control: one IPv4 address, or a /64 of IPv6. All Unix sockets are one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceKey(Option<IpAddr>);

impl SourceKey {
    /// The source of a connection from `peer`; behind a proxy, the address in the PROXY header.
    pub(crate) fn new(peer: Option<SocketAddr>) -> Self {
        Self(peer.map(|peer| match peer.ip().to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
            address @ IpAddr::V4(_) => address,
        }))
    }

    /// Whether it is an address; on a Unix socket there is none.
    pub(crate) fn has_address(self) -> bool {
        self.0.is_some()
    }

    /// For keyed hashes: different sources have different bytes.
    pub(crate) fn bytes(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        let (kind, octets) = match self.0 {
            None => (0, [0; 16]),
            Some(IpAddr::V4(address)) => (4, address.to_ipv6_mapped().octets()),
            Some(IpAddr::V6(address)) => (6, address.octets()),
        };
        if let Some((first, rest)) = bytes.split_first_mut() {
            *first = kind;
            rest.copy_from_slice(&octets);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_and_an_ipv6_64_are_one_source_each() {
        let source = |address: &str| SourceKey::new(Some(SocketAddr::new(address.parse().unwrap(), 4000)));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        let all = [source("192.0.2.1"), source("2001:db8::1"), source("::"), SourceKey::new(None)];
        for (index, one) in all.iter().enumerate() {
            for other in &all[..index] {
                assert_ne!((one, one.bytes()), (other, other.bytes()));
            }
        }
    }
}
