//! Which addresses a webhook may reach, and the client that reaches no other.
//!
//! A client chooses the address, our host makes the call: without a check it could call what only our host can reach.
//! Names are checked where they are resolved for the connection, so an answer that changes between a check and the
//! connection (DNS rebinding) does not get through; addresses written as numbers never reach a resolver and are checked
//! before each call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Longest address.
const MAX_URL_BYTES: usize = 2_048;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("must be an absolute http or https URL of at most 2048 bytes")]
    NoUrl,
    #[error("must not carry a user name or a password")]
    Credentials,
    #[error("must not lead to a private or local address; the operator can allow that with --webhook-allow-private")]
    Private,
}

/// What may be known of an address without asking for names.
///
/// # Errors
/// [`BadTarget`], whose text can be shown to the client.
pub fn check(text: &str, allow_private: bool) -> Result<Url, BadTarget> {
    if text.len() > MAX_URL_BYTES {
        return Err(BadTarget::NoUrl);
    }
    let url = Url::parse(text).map_err(|_| BadTarget::NoUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadTarget::NoUrl);
    }
    let host = url.host_str().ok_or(BadTarget::NoUrl)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadTarget::Credentials);
    }
    let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let local = host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost");
    if !allow_private && (local || literal.is_some_and(|ip| !is_public(ip))) {
        return Err(BadTarget::Private);
    }
    Ok(url)
}

/// Reachable from anywhere, as far as its number says.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b); // carrier-grade NAT, RFC 6598
    let protocol = a == 192 && b == 0 && c == 0; // RFC 6890
    let benchmark = a == 198 && (b == 18 || b == 19); // RFC 2544
    let relay = a == 192 && b == 88 && c == 99; // 6to4 relays, RFC 7526
    !(a == 0
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local() // holds the metadata services of clouds
        || ip.is_documentation()
        || ip.is_multicast()
        || a >= 240
        || shared
        || protocol
        || benchmark
        || relay)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let parts = ip.segments();
    let inner = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match parts {
        // An IPv4 address in other clothes is judged as what it is: mapped, compatible, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(inner(high, low))
        }
        [0x2002, high, low, ..] => is_public_v4(inner(high, low)),
        [0x64, 0xff9b, 1, ..] => false,                  // local NAT64, RFC 8215
        [0x2001, second, ..] if second < 0x200 => false, // Teredo, ORCHID and other protocol assignments
        [0x2001, 0xdb8, ..] => false,                    // documentation
        [first, ..] => (first & 0xe000) == 0x2000,       // global unicast, and nothing else
    }
}

/// Resolves names as the system does, and leaves out what may not be called.
struct Guard {
    allow_private: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the name leads to a private or local address")]
pub struct PrivateAddress;

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let some = !found.is_empty();
            let usable: Vec<SocketAddr> =
                found.into_iter().filter(|addr| allow_private || is_public(addr.ip())).collect();
            if some && usable.is_empty() {
                return Err(PrivateAddress.into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// A client that follows no redirect, uses no proxy and connects to no address that may not be called.
///
/// # Errors
/// TLS cannot be set up.
pub fn client(allow_private: bool, timeout: Duration) -> anyhow::Result<reqwest::Client> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Arc::new(Guard { allow_private }))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .connect_timeout(timeout)
        .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")))
        .build()?)
}

/// Whether a call failed because of where it would have gone.
pub fn was_refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<PrivateAddress>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_refused_in_every_disguise() {
        for host in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2001::1]",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[fec0::1]",
            "[ff02::1]",
            "localhost",
            "LOCALHOST",
            "a.localhost",
        ] {
            assert_eq!(check(&format!("http://{host}/hook"), false), Err(BadTarget::Private), "{host}");
            assert!(check(&format!("http://{host}/hook"), true).is_ok(), "{host}");
        }
    }

    #[test]
    fn public_addresses_and_names_pass() {
        for host in ["example.org", "8.8.8.8", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "100.128.0.1"] {
            assert!(check(&format!("https://{host}:8443/hook?x=1"), false).is_ok(), "{host}");
        }
    }

    #[test]
    fn what_is_no_address_to_call_is_refused() {
        for bad in ["", "example.org", "ftp://example.org", "file:///etc/passwd", "http://"] {
            assert_eq!(check(bad, true), Err(BadTarget::NoUrl), "{bad}");
        }
        assert_eq!(check("https://user:secret@example.org", true), Err(BadTarget::Credentials));
        assert_eq!(check(&format!("https://h/{}", "x".repeat(3_000)), true), Err(BadTarget::NoUrl));
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused_where_it_is_resolved() {
        // Resolved by the hosts file; the check of the text alone is passed by on purpose.
        let client = client(false, Duration::from_secs(2)).unwrap();
        let error = client.post("http://localhost:1/").send().await.unwrap_err();
        assert!(was_refused(&error), "{error:?}");
    }
}
