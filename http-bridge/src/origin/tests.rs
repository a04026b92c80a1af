use super::*;

fn foreign(method: &Method, headers: &[(&'static str, &'static str)], allowed: &[Origin]) -> bool {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_static(value));
    }
    is_foreign(method, &Uri::from_static("/payment/add_funds/1/1"), &map, allowed)
}

#[test]
fn a_foreign_origin_is_judged_as_by_go() {
    // The table of Go's own test, net/http/csrf_test.go.
    for (site, origin, refused) in [
        ("same-origin", "", false),
        ("none", "", false),
        ("cross-site", "", true),
        ("same-site", "", true),
        ("", "", false),
        ("", "https://example.com", false),
        ("", "https://attacker.example", true),
        ("", "null", true),
        ("same-origin", "https://attacker.example", false),
        ("cross-site", "https://example.com", true),
        ("nonsense", "", true),
    ] {
        let mut headers = vec![("host", "example.com")];
        headers.extend((!site.is_empty()).then_some(("sec-fetch-site", site)));
        headers.extend((!origin.is_empty()).then_some(("origin", origin)));
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            assert_eq!(foreign(&method, &headers, &[]), refused, "{method} {site} {origin}");
        }
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(!foreign(&method, &headers, &[]), "{method} {site} {origin}");
        }
    }
    // A port is a part of the origin.
    let other_port = [("host", "localhost:8000"), ("origin", "http://localhost:3000")];
    assert!(foreign(&Method::POST, &other_port, &[]));
    // Without a host, no origin is the same.
    assert!(foreign(&Method::POST, &[("origin", "null")], &[]));
}

#[test]
fn an_allowed_origin_may_and_no_other() {
    let allowed: [Origin; 1] = ["https://shop.example".parse().unwrap()];
    for (site, origin, refused) in [
        ("cross-site", "https://shop.example", false),
        ("cross-site", "http://shop.example", true),
        ("cross-site", "https://shop.example.evil.example", true),
        ("cross-site", "null", true),
    ] {
        let headers = [("host", "till"), ("sec-fetch-site", site), ("origin", origin)];
        assert_eq!(foreign(&Method::POST, &headers, &allowed), refused, "{origin}");
    }
    let old = [("host", "till"), ("origin", "https://shop.example")];
    assert!(!foreign(&Method::POST, &old, &allowed));
}

#[test]
fn an_origin_is_written_as_browsers_tell_it() {
    for right in ["http://localhost:3000", "https://shop.example", "http://[::1]:8000"] {
        assert!(right.parse::<Origin>().is_ok(), "{right}");
    }
    for wrong in [
        "*",
        "null",
        "",
        "shop.example",
        "https://",
        "https://shop.example/",
        "https://Shop.example",
        "https://*.example",
        "https://shop.example:",
        "https://u@shop.example",
        "ftp://shop.example",
        "https://a,https://b",
    ] {
        assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
    }
}

#[test]
fn on_loopback_only_own_names_count() {
    let allowed: Vec<Host> =
        ["till.lan", "10.0.0.7", "fd00::7"].map(|host| host.parse().unwrap()).to_vec();
    for own in [
        "localhost:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "host.docker.internal:8000",
        "till.lan",
        "TILL.lan:8000",
        "10.0.0.7:8000",
        "[fd00::7]:8000",
    ] {
        assert!(is_own(own, &allowed), "{own}");
    }
    for other in ["evil.example:8000", "localhost.evil.example", "", "till.lan@evil.example"] {
        assert!(!is_own(other, &allowed), "{other}");
    }
    assert!(!is_own("till.lan", &[]));
    for wrong in ["http://till.lan", "till.lan:8000", "*.lan", "", "[::1]"] {
        assert!(wrong.parse::<Host>().is_err(), "{wrong}");
    }
}
