//! Where a webhook may go: an operator's word must not make the server talk to what only the server can reach.
//!
//! An address is looked at twice. When it is subscribed, for its form; and when something is sent, for what its name means at
//! that moment: the client connects to the very addresses that were checked, so a name that changes its meaning in between
//! gains nothing.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::domain::URL_BYTES_MAX;
use crate::notices::Settings;
use crate::platform::error::Problem;
use crate::platform::http::Networks;

/// The address, or every address of the name, is one that nobody outside can reach.
#[derive(Debug)]
pub(super) struct Forbidden;

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a public address")
    }
}

impl Error for Forbidden {}

/// Which addresses may be connected to.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// Allowed although they are not public.
    private: Arc<Networks>,
    plain_http: bool,
}

impl Guard {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { private: Arc::new(settings.private_addresses.clone()), plain_http: settings.plain_http }
    }

    /// The address of an endpoint as it is stored.
    ///
    /// # Errors
    /// 422 `invalid_body` for `url`.
    pub(super) fn checked_url(&self, text: &str) -> Result<Url, Problem> {
        let refuse = |message: &str| Problem::invalid_body("url", message);
        let url = Url::parse(text).map_err(|_| refuse("an address such as https://hooks.example.com/frontrow"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            _ => return Err(refuse("https only")),
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(refuse("without a user, a password and a fragment"));
        }
        if url.as_str().len() > URL_BYTES_MAX {
            return Err(refuse("at most 1000 bytes"));
        }
        if !self.allows_literal(&url) {
            return Err(refuse("a public address"));
        }
        Ok(url)
    }

    /// Whether the host may be connected to as it is written: one that is a name is asked for later, by [`Resolve`].
    pub(super) fn allows_literal(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        !host.is_empty() && host.parse().map_or(true, |address| self.allows(address))
    }

    fn allows(&self, address: IpAddr) -> bool {
        is_public(address) || self.private.contain(address)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| guard.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(Box::new(Forbidden) as Box<dyn Error + Send + Sync>);
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether anybody on the internet may have this address (the registries of RFC 6890 and what was added to them).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match a {
        0 | 10 | 127 | 224..=255 => true,
        100 => (64..128).contains(&b),
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => matches!((b, c), (168, _) | (0, 0 | 2) | (88, 99)),
        198 => matches!((b, c), (18 | 19, _) | (51, 100)),
        203 => (b, c) == (0, 113),
        _ => false,
    };
    !is_special
}

/// Global unicast is `2000::/3`. Of that, what carries an IPv4 address inside is as public as that one.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let inner = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // NAT64 and 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => inner(high, low),
        // Teredo, benchmarks, ORCHID and the like; documentation.
        [0x2001, 0..0x200 | 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => false,
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(private: &str, plain_http: bool) -> Guard {
        Guard { private: Arc::new(private.parse().unwrap()), plain_http }
    }

    #[test]
    fn only_public_addresses_are_public() {
        for address in ["1.1.1.1", "100.63.0.1", "100.128.0.1", "172.32.0.1", "192.0.1.1", "198.20.0.1", "2606:4700::1"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        assert!(is_public("64:ff9b::101:101".parse().unwrap()) && is_public("2002:101:101::1".parse().unwrap()));
    }

    #[test]
    fn addresses_are_https_public_and_plain() {
        let strict = guard("", false);
        let is_taken = |text: &str| strict.checked_url(text).is_ok();
        assert!(is_taken("https://hooks.example.com/frontrow?a=b") && is_taken("https://1.1.1.1:8443/"));
        for bad in [
            "",
            "hooks.example.com",
            "http://hooks.example.com/",
            "ftp://hooks.example.com/",
            "https://user@example.com/",
            "https://:secret@example.com/",
            "https://example.com/#a",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "https://",
        ] {
            assert!(!is_taken(bad), "{bad}");
        }
        assert!(!is_taken(&format!("https://example.com/{}", "a".repeat(1000))));
        let loose = guard("127.0.0.0/8", true);
        assert!(loose.checked_url("http://127.0.0.1:9/").is_ok());
        assert!(loose.checked_url("http://10.0.0.1/").is_err());
    }

    #[tokio::test]
    async fn a_name_is_resolved_to_addresses_that_are_allowed_or_to_none() {
        let local = |guard: Guard| async move { guard.resolve("localhost".parse().unwrap()).await };
        let refused = local(guard("", false)).await.err().expect("nothing public");
        assert!(refused.downcast_ref::<Forbidden>().is_some(), "{refused}");
        let found: Vec<SocketAddr> = local(guard("127.0.0.0/8", false)).await.unwrap().collect();
        assert!(!found.is_empty() && found.iter().all(SocketAddr::is_ipv4));
    }
}
