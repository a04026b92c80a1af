//! The caller's time as gRPC carries it: the `grpc-timeout` header holds the time *left*, not a
//! point in time.

use std::time::Duration;

use http::HeaderMap;

/// The name of the header.
pub const HEADER: &str = "grpc-timeout";

/// The time that the caller has left. `None` if it set none, or in a form that gRPC does not
/// define.
pub fn of(metadata: &impl AsRef<HeaderMap>) -> Option<Duration> {
    of_headers(metadata.as_ref())
}

/// Like [`of`], for a request whose headers are not metadata yet.
pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(HEADER)?.to_str().ok()?)
}

/// Tells the callee how much time it has. The connection also gives up after this time.
pub fn set<T>(request: &mut tonic::Request<T>, left: Duration) {
    request.set_timeout(left);
}

/// Parses 1 to 8 digits and a unit, as defined by gRPC over HTTP/2.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "M" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_read_back() {
        for left in [
            Duration::from_millis(1),
            Duration::from_millis(1500),
            Duration::from_secs(30),
            Duration::from_hours(2),
        ] {
            let mut request = tonic::Request::new(());
            assert_eq!(of(request.metadata()), None);
            set(&mut request, left);
            assert_eq!(of(request.metadata()), Some(left));
        }
    }

    #[test]
    fn a_malformed_timeout_counts_as_none() {
        for text in ["", "S", "5", "5x", "-5S", "5 S", "123456789S", "5.0S", "é"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse("2M"), Some(Duration::from_mins(2)));
    }

    #[test]
    fn a_timeout_is_read_in_each_unit_of_grpc() {
        for (text, nanos) in [
            ("2H", 7_200_000_000_000_u64),
            ("2M", 120_000_000_000),
            ("2S", 2_000_000_000),
            ("2m", 2_000_000),
            ("2u", 2_000),
            ("2n", 2),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(parse("99999999H"), Some(Duration::from_hours(99_999_999)), "the longest");
    }
}
