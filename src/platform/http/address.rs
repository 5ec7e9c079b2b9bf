//! Where a request comes from: the peer of its connection, or the client that a trusted proxy names.
//!
//! A proxy appends to `X-Forwarded-For` the address that it was asked from, so only what trusted proxies have appended
//! says anything: the list is read from its end, and the first address that is no trusted proxy's is the client's. What
//! stands before that is the client's own word and is never looked at; `Forwarded` is not read at all.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, de};

use crate::platform::error::Problem;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// A network: an address and how many of its leading bits count. IPv4 is kept as IPv6 has it (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    bits: u128,
    prefix: u32,
}

/// Networks as settings write them: a list, or one text with commas, such as `10.0.0.0/8, ::1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// The proxies whose `X-Forwarded-For` is believed: an extension of every request.
#[derive(Clone, Debug)]
pub struct TrustedProxies(pub Arc<Networks>);

/// The address that a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(prefix: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        bits(address) & mask(self.prefix) == self.bits
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no network such as 10.0.0.0/8 or 2001:db8::/32");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        // An IPv4 address is the end of an IPv6 address.
        let (whole, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let prefix = prefix.map_or(Ok(whole), str::parse).map_err(|_| refuse())?;
        if prefix > whole {
            return Err(refuse());
        }
        let prefix = before + prefix;
        Ok(Self { bits: bits(address) & mask(prefix), prefix })
    }
}

impl Networks {
    /// Whether one of them has this address in it.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

struct ReadNetworks;

impl<'de> Visitor<'de> for ReadNetworks {
    type Value = Networks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("networks such as 10.0.0.0/8")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Networks, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Networks, A::Error> {
        let mut networks = Networks::default();
        while let Some(text) = list.next_element::<String>()? {
            networks.0.push(text.parse().map_err(de::Error::custom)?);
        }
        Ok(networks)
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadNetworks)
    }
}

impl ClientAddress {
    /// Of a request that came from `peer` with these headers.
    #[must_use]
    pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> Self {
        let mut client = peer.to_canonical();
        let lists = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut before = lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(',').map(str::trim));
        while trusted.contain(client) {
            // What cannot be read ends the way: it came through the proxy that was found last, and that is all we know.
            let Some(next) = before.next().and_then(readable) else { break };
            client = next.to_canonical();
        }
        Self(client)
    }

    /// What stands for this address where addresses are counted: of IPv6 the first 64 bits, since whoever has one address
    /// of such a network has all of them.
    #[must_use]
    pub fn site(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask(64))),
        }
    }
}

/// Some proxies add the port; IPv6 may stand in brackets.
fn readable(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let extensions = &parts.extensions;
        match (extensions.get::<ConnectInfo<SocketAddr>>(), extensions.get::<TrustedProxies>()) {
            (Some(ConnectInfo(peer)), Some(trusted)) => Ok(Self::of(peer.ip(), &parts.headers, &trusted.0)),
            _ => Err(Problem::internal(anyhow::anyhow!("the request has no peer, or the router no trusted proxies"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn networks(text: &str) -> Networks {
        text.parse().unwrap()
    }

    fn client(peer: &str, forwarded: &[&str], trusted: &str) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers.insert("forwarded", HeaderValue::from_static("for=9.9.9.9"));
        ClientAddress::of(peer.parse().unwrap(), &headers, &networks(trusted)).0.to_string()
    }

    #[test]
    fn networks_are_read_with_their_bounds() {
        let some = networks("10.0.0.0/8, 192.0.2.7,2001:db8::/32, ");
        for (address, is_inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.1.1.1", true),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            assert_eq!(some.contain(address.parse().unwrap()), is_inside, "{address}");
        }
        let everything = networks("0.0.0.0/0,::/0");
        assert!(everything.contain("1.2.3.4".parse().unwrap()) && everything.contain("::1".parse().unwrap()));
        assert!(!networks("0.0.0.0/0").contain("2001:db8::1".parse().unwrap()), "IPv4 is not all there is");
        assert_eq!(networks(""), Networks::default());
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "localhost", "10.0.0.0/", "10.0.0.0/-1", "a,b"] {
            assert!(bad.parse::<Networks>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_and_a_text_are_both_settings() {
        let list: Networks = serde_json::from_str(r#"["10.0.0.0/8", "::1/128"]"#).unwrap();
        assert_eq!(list, networks("10.0.0.0/8,::1"));
        assert_eq!(serde_json::from_str::<Networks>(r#""10.0.0.0/8,::1""#).unwrap(), list);
        assert!(serde_json::from_str::<Networks>(r#"["10"]"#).is_err());
        assert!(serde_json::from_str::<Networks>("10").is_err());
    }

    #[test]
    fn who_is_no_trusted_proxy_is_the_client_whatever_it_says() {
        assert_eq!(client("203.0.113.5", &["198.51.100.1"], ""), "203.0.113.5");
        assert_eq!(client("203.0.113.5", &["198.51.100.1"], "10.0.0.0/8"), "203.0.113.5");
        assert_eq!(client("::ffff:203.0.113.5", &[], ""), "203.0.113.5");
    }

    #[test]
    fn behind_trusted_proxies_the_last_who_is_none_is_the_client() {
        let trusted = "10.0.0.0/8,fd00::/8";
        for (forwarded, found) in [
            (&["198.51.100.1"][..], "198.51.100.1"),
            // What the client made up stands before what the proxies saw.
            (&["1.1.1.1, 127.0.0.1, 198.51.100.1"], "198.51.100.1"),
            (&["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
            (&["198.51.100.1, 10.0.0.3,10.0.0.2"], "198.51.100.1"),
            (&["198.51.100.1", "10.0.0.3"], "198.51.100.1"),
            (&["2001:db8::5, fd00::1"], "2001:db8::5"),
            (&["[2001:db8::5]:4711"], "2001:db8::5"),
            (&["[2001:db8::5]"], "2001:db8::5"),
            (&["198.51.100.1:4711"], "198.51.100.1"),
            (&["::ffff:198.51.100.1"], "198.51.100.1"),
            // All of them are proxies: the first.
            (&["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            // Nothing to be read: the proxy that said so.
            (&[], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["198.51.100.1, unknown"], "10.0.0.1"),
            (&["198.51.100.1, ,10.0.0.2"], "10.0.0.2"),
            (&["198.51.100.1", "\u{e9}"], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", forwarded, trusted), found, "{forwarded:?}");
        }
    }

    #[test]
    fn one_network_of_ipv6_is_one_site() {
        let site = |text: &str| ClientAddress(text.parse().unwrap()).site().to_string();
        assert_eq!(site("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(site("2001:db8:1:2::ffff"), site("2001:db8:1:2:3:4:5:6"));
        assert_ne!(site("2001:db8:1:3::1"), site("2001:db8:1:2::1"));
        assert_eq!(site("203.0.113.5"), "203.0.113.5");
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn no_header_moves_an_untrusted_peer(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(axum::http::HeaderName::from_static(FORWARDED_FOR), value)]);
                let peer: IpAddr = "203.0.113.5".parse().unwrap();
                proptest::prop_assert_eq!(ClientAddress::of(peer, &headers, &networks("10.0.0.0/8")).0, peer);
            }
        }
    }
}
