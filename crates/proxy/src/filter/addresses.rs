//! `ip-allow` and `ip-deny`: clients by their addresses. Lists may be long, so an address is searched for in sorted ranges.

use super::{Flow, refusal::Refusal};
use crate::{reply::Reply, request::Request};
use ipnet::{IpNet, Ipv4Net};
use portcullis_config::AddressList;
use std::net::IpAddr;

/// The step of a route.
#[derive(Debug)]
pub(crate) struct AddressFilter {
    allows: bool,
    ranges: Ranges,
    status: u16,
    refusal: Refusal,
}

impl AddressFilter {
    pub(super) fn new(list: &AddressList, refusal: Refusal) -> Self {
        Self {
            allows: list.allows,
            ranges: Ranges::new(&list.networks),
            status: list.status,
            refusal,
        }
    }

    pub(super) fn on_request(&self, request: &mut Request) -> Flow {
        let Some(begun) = &request.begun else {
            return Flow::Continue;
        };
        if self.ranges.contain(begun.identity.ip) == self.allows
            || !self.refusal.refuse(request, "ip_denied")
        {
            return Flow::Continue;
        }
        Flow::Reply(Reply::status(self.status))
    }
}

/// Addresses from one to another, both included, in order and apart from each other.
#[derive(Debug, PartialEq, Eq)]
struct Ranges {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Ranges {
    fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push(range_v4(*network)),
                IpNet::V6(network) => match network.addr().to_ipv4_mapped() {
                    // Clients are known by the address that is in it.
                    Some(address) if network.prefix_len() >= 96 => {
                        let mapped = Ipv4Net::new(address, network.prefix_len() - 96);
                        v4.extend(mapped.map(range_v4));
                    }
                    _ => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
                },
            }
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }

    fn contain(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => is_in(&self.v4, address.to_bits()),
            IpAddr::V6(address) => is_in(&self.v6, address.to_bits()),
        }
    }
}

fn range_v4(network: Ipv4Net) -> (u32, u32) {
    (network.network().to_bits(), network.broadcast().to_bits())
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            _ => merged.push((start, end)),
        }
    }
    merged.into_boxed_slice()
}

fn is_in<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let next = ranges.partition_point(|(start, _)| *start <= address);
    next.checked_sub(1)
        .and_then(|last| ranges.get(last))
        .is_some_and(|(_, end)| address <= *end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_found_in_their_networks() {
        let ranges = Ranges::new(&networks(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "192.0.2.7/32",
            "2001:db8::/32",
            "::ffff:198.51.100.0/120",
        ]));
        assert_eq!(ranges.v4.len(), 3);
        for (address, is_in) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("198.51.100.200", true),
            ("::ffff:10.2.3.4", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::1", false),
        ] {
            assert_eq!(ranges.contain(address.parse().unwrap()), is_in, "{address}");
        }
        let nobody = Ranges::new(&[]);
        assert!(!nobody.contain("10.0.0.1".parse().unwrap()));
        let everybody = Ranges::new(&networks(&["0.0.0.0/0", "::/0"]));
        assert!(everybody.contain("10.0.0.1".parse().unwrap()));
        assert!(everybody.contain("::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn ranges_say_what_the_networks_say(
            written in prop::collection::vec((0u32..1 << 12, 20u8..=32), 0..20),
            address in 0u32..1 << 12,
        ) {
            let networks: Vec<IpNet> = written
                .iter()
                .map(|(bits, prefix)| {
                    let network = Ipv4Net::new((*bits).into(), *prefix).unwrap();
                    IpNet::from(network.trunc())
                })
                .collect();
            let address = IpAddr::from(std::net::Ipv4Addr::from(address));
            let is_in = networks.iter().any(|network| network.contains(&address));
            prop_assert_eq!(Ranges::new(&networks).contain(address), is_in);
        }
    }
}
