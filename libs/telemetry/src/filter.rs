//! The filter of log lines: `TILL_LOG`, for example `info,rpc=debug`.

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{FILTER_DEFAULT, FILTER_VARIABLE};

/// `TILL_LOG` is not a valid filter. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{FILTER_VARIABLE} has {0:?}, and must be levels (off, error, warn, info, debug, trace) and TARGET=LEVEL \
     separated by commas, as in info,rpc=debug"
)]
pub struct FilterError(String);

/// The filter of `TILL_LOG` with `more` appended. An empty variable counts as unset.
pub(crate) fn by_environment(more: &str) -> Result<EnvFilter, FilterError> {
    let told = std::env::var_os(FILTER_VARIABLE).map(|told| told.to_string_lossy().into_owned());
    let told = told.filter(|told| !told.trim().is_empty());
    parse(told.as_deref().unwrap_or(FILTER_DEFAULT), more)
}

fn parse(told: &str, more: &str) -> Result<EnvFilter, FilterError> {
    let builder = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
    let parts: Vec<&str> = told.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    for part in &parts {
        // The library takes a bare word that is not a level for a target, and then writes only the
        // lines of that target. A misspelled level would give an empty log.
        let is_bare = !part.contains(['=', '[']);
        let is_wrong = is_bare && part.parse::<LevelFilter>().is_err();
        if is_wrong || builder.parse(part).is_err() {
            return Err(FilterError((*part).to_owned()));
        }
    }
    builder.parse(format!("{}{more}", parts.join(","))).map_err(|_| FilterError(told.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_does_not_parse_is_refused_with_the_part_that_is_wrong() {
        for good in ["", "info", "WARN", "off", "info, rpc=debug", "till.trace=debug,info", "[x]=5"]
        {
            assert!(parse(good, "").is_ok(), "{good}");
        }
        assert!(parse(FILTER_DEFAULT, crate::OF_SENDING).is_ok());
        for (told, wrong) in [
            ("inof", "inof"),
            ("warning", "warning"),
            ("info,rpc=debgu", "rpc=debgu"),
            ("a=b=c", "a=b=c"),
        ] {
            assert_eq!(parse(told, "").unwrap_err(), FilterError(wrong.to_owned()), "{told}");
        }
    }
}
