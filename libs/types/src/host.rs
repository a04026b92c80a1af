//! The host that a request is meant for (Host header or HTTP/2 authority), and whether it is this
//! machine.
//!
//! A site can make its own name resolve to 127.0.0.1 (DNS rebinding). Its pages' calls then reach
//! servers that listen there, but still carry the site's name.

use core::net::IpAddr;

/// The host of `host`, `host:port`, `[address]` or `[address]:port`, without port and brackets.
/// None for any other form.
pub fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?)
    } else {
        authority.split_once(':').unwrap_or((authority, ""))
    };
    let is_host = !host.is_empty() && !host.contains(['@', '/', '[', ']']);
    (is_host && port.bytes().all(|digit| digit.is_ascii_digit())).then_some(host)
}

/// True for `localhost`, names below it (RFC 6761, section 6.3) and loopback addresses. No page of
/// another site can have such a name.
pub fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.is_loopback();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// Whether a request that reaches a loopback listener is meant for it. The target's authority
/// decides, otherwise the Host header. True for a request with neither, because no browser sends
/// one.
pub fn is_for_loopback(authority: Option<&str>, host: Option<&str>) -> bool {
    let meant = authority.or(host);
    meant.is_none_or(|meant| host_of(meant).is_some_and(is_loopback))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (authority, host) in [
            ("till", "till"),
            ("till:8000", "till"),
            ("127.0.0.1:8000", "127.0.0.1"),
            ("[::1]:8000", "::1"),
            ("[::1]", "::1"),
            ("till:", "till"),
        ] {
            assert_eq!(host_of(authority), Some(host), "{authority}");
        }
        for malformed in ["", ":80", "a:b", "::1", "[::1", "[::1]80", "u@a", "a/b", "[]:1"] {
            assert_eq!(host_of(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn no_name_that_another_site_can_have_is_loopback() {
        for own in ["localhost", "LocalHost", "localhost.", "till.localhost", "127.0.0.1", "::1"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "till",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "0.0.0.0",
            "10.0.0.1",
            "notlocalhost",
            "",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn a_target_is_looked_at_before_a_host_header_and_neither_is_no_browser() {
        for (authority, host, is_meant) in [
            (None, None, true),
            (None, Some("localhost:1"), true),
            (None, Some("evil.example"), false),
            (None, Some(""), false),
            (Some("[::1]:1"), Some("evil.example"), true),
            (Some("evil.example"), Some("localhost"), false),
        ] {
            assert_eq!(is_for_loopback(authority, host), is_meant, "{authority:?} {host:?}");
        }
    }
}
