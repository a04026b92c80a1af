//! Parses `key=value,key=value` as in OpenTelemetry's variables: W3C Baggage, percent-encoded.

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::ExportError;

/// The pairs of `text`, decoded and in order. Blanks around a pair and empty members are ignored.
///
/// # Errors
/// [`ExportError::Pair`] names the variable and the member, but never its text: that may be a
/// credential.
pub(super) fn parse(variable: &str, text: &str) -> Result<Vec<(String, String)>, ExportError> {
    let members = text.split(',').map(str::trim).enumerate().filter(|(_, it)| !it.is_empty());
    members.map(|(at, member)| pair(member).map_err(|it| refused(variable, at, it))).collect()
}

/// Checks pairs that are sent as headers. The exporters read them themselves, and ignore errors.
pub(super) fn check_headers(variable: &str, text: &str) -> Result<(), ExportError> {
    for (at, (key, value)) in parse(variable, text)?.into_iter().enumerate() {
        if HeaderName::try_from(&key).is_err() {
            return Err(refused(variable, at, "has a key that is not a header name"));
        }
        if value.is_empty() || HeaderValue::from_str(&value).is_err() {
            return Err(refused(variable, at, "has a value that no header can have"));
        }
    }
    Ok(())
}

fn refused(variable: &str, at: usize, problem: &'static str) -> ExportError {
    ExportError::Pair { variable: variable.to_owned(), member: at.saturating_add(1), problem }
}

fn pair(member: &str) -> Result<(String, String), &'static str> {
    let (key, value) = member.split_once('=').ok_or("has no =")?;
    let (key, value) = (decoded(key.trim())?, decoded(value.trim())?);
    if key.is_empty() { Err("has no key") } else { Ok((key, value)) }
}

fn decoded(text: &str) -> Result<String, &'static str> {
    let is_hex = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_hexdigit);
    let escapes = text.split('%').skip(1).map(|rest| rest.as_bytes().get(..2));
    if !escapes.into_iter().all(|digits| digits.is_some_and(is_hex)) {
        return Err("has a % without two hexadecimal digits behind it");
    }
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| "is not UTF-8 once decoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn pairs_are_decoded() {
        let parsed = parse("V", " a = b%20c ,,d%2Ce=%C3%BC=1, f=").unwrap();
        assert_eq!(parsed, told(&[("a", "b c"), ("d,e", "\u{fc}=1"), ("f", "")]));
        assert_eq!(parse("V", "").unwrap(), []);
    }

    #[test]
    fn a_wrong_form_is_refused_without_telling_what_may_be_a_secret() {
        for (text, member) in [
            ("Authorization: Bearer secret", 1),
            ("a=b,secret", 2),
            ("a=secret%2", 1),
            ("a=b,=secret", 2),
            ("secret=%zz", 1),
            ("a=secret%ff", 1),
        ] {
            let said = parse("V", text).unwrap_err().to_string();
            assert!(said.starts_with(&format!("V: member {member} ")), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn what_cannot_be_a_header_is_refused() {
        check_headers("V", "Authorization=Bearer%20x,x-b=1").unwrap();
        for text in ["a b=1", "a=", "a=%0A", "x=1,a=%7F"] {
            assert!(check_headers("V", text).is_err(), "{text}");
        }
    }
}
