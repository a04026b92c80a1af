//! Entity tags (RFC 9110, sections 8.8.3 and 13.1.1): which content of an order a client has seen.

use http::{HeaderMap, header};

/// Maximum number of tags in one If-Match.
const TAGS_MAX: usize = 32;

/// Why an If-Match is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("must be * or a list of quoted entity tags")]
    Form,
    #[error("must name at most {TAGS_MAX} entity tags")]
    TooMany,
}

/// Formats a token as a strong entity tag.
pub(crate) fn quoted(token: &str) -> String {
    format!("\"{token}\"")
}

/// Matches any content.
const ANY: &str = "*";
/// A token that no order has, in place of a weak tag or a quoted `*`, which never match.
const NEVER_MATCHES: &str = "W/";

/// The tokens that If-Match names, or [`ANY`] alone. None when the header is absent.
pub(crate) fn if_match(headers: &HeaderMap) -> Option<Result<Vec<String>, Malformed>> {
    headers.contains_key(header::IF_MATCH).then(|| {
        let mut tokens = Vec::new();
        for value in headers.get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| Malformed::Form)?;
            parse_list(text, &mut tokens)?;
        }
        // A list is not empty, and `*` is not a member of one.
        if tokens.is_empty() || (tokens.len() > 1 && tokens.iter().any(|token| token == ANY)) {
            return Err(Malformed::Form);
        }
        if tokens.len() > TAGS_MAX { Err(Malformed::TooMany) } else { Ok(tokens) }
    })
}

fn parse_list(text: &str, tokens: &mut Vec<String>) -> Result<(), Malformed> {
    let mut rest = text.trim();
    if rest == ANY {
        tokens.push(rest.to_owned());
        return Ok(());
    }
    while !rest.is_empty() {
        let (weak, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (true, tag),
            None => (false, rest),
        };
        let tag = tag.strip_prefix('"').ok_or(Malformed::Form)?;
        let (token, behind) = tag.split_once('"').ok_or(Malformed::Form)?;
        tokens.push(if weak || token == ANY { NEVER_MATCHES.to_owned() } else { token.to_owned() });
        rest = behind.trim_start();
        if !rest.is_empty() {
            // A list may have empty elements.
            let separated = rest.strip_prefix(',').ok_or(Malformed::Form)?;
            rest = separated.trim_start_matches([',', ' ', '\t']);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&'static str]) -> Option<Result<Vec<String>, Malformed>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, HeaderValue::from_static(value));
        }
        if_match(&headers)
    }

    #[test]
    fn what_a_client_may_say_is_understood() {
        assert_eq!(read(&[]), None);
        for (values, expected) in [
            (&["\"a-1\""][..], &["a-1"][..]),
            (&["\"a\", \"b\""], &["a", "b"]),
            (&["\"a\",\"b\",", "\"c\""], &["a", "b", "c"]),
            (&["*"], &["*"]),
            (&["\"*\""], &["W/"]),
            (&["\"\""], &[""]),
            (&["W/\"a\""], &["W/"]),
            (&["\"a,b\" , \"c\""], &["a,b", "c"]),
        ] {
            let expected = expected.iter().map(|token| (*token).to_owned()).collect();
            assert_eq!(read(values), Some(Ok(expected)), "{values:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for wrong in ["", "a-1", "\"a", "\"a\" \"b\"", "a\"b\"", "w/\"a\"", "\"a\";", ","] {
            assert_eq!(read(&[wrong]), Some(Err(Malformed::Form)), "{wrong}");
        }
        assert_eq!(read(&["\"a\"", "*"]), Some(Err(Malformed::Form)));
        let many = vec!["\"a\""; TAGS_MAX + 1];
        assert_eq!(read(&many), Some(Err(Malformed::TooMany)));
        assert!(matches!(read(&many[1..]), Some(Ok(_))));
    }
}
