//! The settings in OpenTelemetry's variables. The SDK reads most of them itself, and ignores values
//! that it does not understand. Here such a value is an error that names the variable, so that
//! nobody waits in vain for telemetry.

use std::{path::PathBuf, time::Duration};

use http::{Uri, uri::Scheme};

use super::{ExportError, pairs};

/// The default of the specification, for one export.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Variables that hold a number and that the SDK reads.
const COUNTS: [&str; 12] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// A kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    /// Its spelling in names of variables.
    const fn upper(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Traces => 1,
            Self::Metrics => 2,
            Self::Logs => 4,
        }
    }
}

/// The OTLP transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

/// A file, and the variable that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(super) variable: String,
    pub(super) path: PathBuf,
}

/// How one signal gets to its collector. The exporters read the rest themselves: headers,
/// compression, and whether an endpoint without a scheme is plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(super) signal: Signal,
    pub(super) protocol: Protocol,
    pub(super) endpoint: String,
    /// Limit for one export with its retries; none if there is no limit.
    pub(super) timeout: Option<Duration>,
    /// The CA certificates that the collector is checked against; none for the system's.
    pub(super) authority: Option<File>,
    /// The client certificate and its key.
    pub(super) identity: Option<(File, File)>,
}

/// Where each signal is sent. By default nothing is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) traces: Option<Link>,
    pub(super) metrics: Option<Link>,
    pub(super) logs: Option<Link>,
    /// Resource attributes of this process, beside its own.
    pub(crate) attributes: Vec<(String, String)>,
    /// The value of `OTEL_SDK_DISABLED` if it is neither true nor false.
    pub(crate) misread_switch: Option<String>,
}

impl Wanted {
    /// [`Wanted::parse`] with the environment of this process.
    pub(crate) fn by_environment() -> Result<Self, ExportError> {
        Self::parse(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))
    }

    /// Parses the variables, whose values come from `read`.
    pub(crate) fn parse(read: impl Fn(&str) -> Option<String>) -> Result<Self, ExportError> {
        let variables = Variables(&read);
        let mut wanted = Self { attributes: variables.attributes()?, ..Self::default() };
        // By the specification every value but "true", in upper or lower case, means false.
        let switch =
            variables.one("OTEL_SDK_DISABLED").map(|(_, value)| value.to_ascii_lowercase());
        match switch.as_deref() {
            Some("true") => return Ok(wanted),
            None | Some("false") => {}
            Some(_) => wanted.misread_switch = switch,
        }
        wanted.traces = variables.link(Signal::Traces)?;
        wanted.metrics = variables.link(Signal::Metrics)?;
        wanted.logs = variables.link(Signal::Logs)?;
        if wanted.is_anything() {
            variables.check()?;
        }
        Ok(wanted)
    }

    fn is_anything(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
}

/// A variable and its value.
type Said = (String, String);

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// A variable that is set. An empty one counts as unset.
    fn one(&self, name: &str) -> Option<Said> {
        let value = (self.0)(name).filter(|value| !value.is_empty())?;
        Some((name.to_owned(), value))
    }

    /// The variable of this signal, or else the one of all signals.
    fn either(&self, signal: Signal, what: &str) -> Option<Said> {
        self.one(&format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.upper()))
            .or_else(|| self.one(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    /// The resource attributes. `OTEL_SERVICE_NAME` comes last, so that it overrides the attribute.
    fn attributes(&self) -> Result<Vec<(String, String)>, ExportError> {
        let mut attributes = match self.one("OTEL_RESOURCE_ATTRIBUTES") {
            Some((variable, value)) => pairs::parse(&variable, &value)?,
            None => Vec::new(),
        };
        let name = self.one("OTEL_SERVICE_NAME");
        attributes.extend(name.map(|(_, name)| ("service.name".to_owned(), name)));
        Ok(attributes)
    }

    fn link(&self, signal: Signal) -> Result<Option<Link>, ExportError> {
        let exporter = self.one(&format!("OTEL_{}_EXPORTER", signal.upper()));
        match exporter.as_ref().map(|(_, value)| value.as_str()) {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            // Metrics are served at `/metrics` in any case.
            Some("prometheus") if signal == Signal::Metrics => return Ok(None),
            Some(_) => return refuse(exporter, "otlp or none"),
        }
        let Some(endpoint) = self.either(signal, "ENDPOINT") else { return Ok(None) };
        let told = self.either(signal, "PROTOCOL");
        let protocol = match told.as_ref().map(|(_, value)| value.to_ascii_lowercase()).as_deref() {
            Some("grpc") => Protocol::Grpc,
            // The default of the specification.
            None | Some("http/protobuf") => Protocol::Http,
            Some(_) => return refuse(told, "grpc or http/protobuf"),
        };
        let endpoint = endpoint_of(endpoint, protocol)?;
        let timeout = match self.either(signal, "TIMEOUT") {
            None => Some(TIMEOUT),
            Some((variable, value)) => match value.parse() {
                // By the specification 0 means no limit.
                Ok(0) => None,
                Ok(millis) => Some(Duration::from_millis(millis)),
                Err(_) => return refuse(Some((variable, value)), "a number of milliseconds"),
            },
        };
        if let Some((variable, value)) = self.either(signal, "HEADERS") {
            pairs::check_headers(&variable, &value)?;
        }
        let compression = self.either(signal, "COMPRESSION");
        if let Some((_, value)) = &compression
            && !["gzip", "none"].contains(&value.to_ascii_lowercase().as_str())
        {
            return refuse(compression, "gzip or none");
        }
        let file = |what| {
            let (variable, path) = self.either(signal, what)?;
            Some(File { variable, path: path.into() })
        };
        let identity = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                let said = (one.variable, one.path.display().to_string());
                return refuse(
                    Some(said),
                    "set together with its other half (CLIENT_CERTIFICATE, CLIENT_KEY)",
                );
            }
        };
        let authority = file("CERTIFICATE");
        Ok(Some(Link { signal, protocol, endpoint, timeout, authority, identity }))
    }

    /// Checks the variables that the SDK reads itself.
    fn check(&self) -> Result<(), ExportError> {
        for said in COUNTS.iter().filter_map(|name| self.one(name)) {
            if said.1.parse::<u32>().is_err() {
                return refuse(Some(said), "a whole number, from 0");
            }
        }
        let sampler = self.one("OTEL_TRACES_SAMPLER");
        if let Some((_, value)) = &sampler
            && !SAMPLERS.contains(&value.as_str())
        {
            return refuse(
                sampler,
                "one of always_on, always_off, traceidratio, or those behind parentbased_",
            );
        }
        if sampler.is_some_and(|(_, value)| value.ends_with("traceidratio")) {
            let ratio = self.one("OTEL_TRACES_SAMPLER_ARG");
            let good = |(_, value): &Said| {
                value.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio))
            };
            if ratio.as_ref().is_some_and(|said| !good(said)) {
                return refuse(ratio, "from 0 to 1");
            }
        }
        let preference = self.one("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE");
        if let Some((_, value)) = &preference
            && !["cumulative", "delta", "lowmemory"].contains(&value.to_ascii_lowercase().as_str())
        {
            return refuse(preference, "cumulative, delta or lowmemory");
        }
        Ok(())
    }
}

/// Checks that the exporter can use this endpoint. gRPC also takes one without a scheme.
fn endpoint_of(said: Said, protocol: Protocol) -> Result<String, ExportError> {
    let uri = said.1.parse::<Uri>().ok();
    let scheme = uri.as_ref().and_then(Uri::scheme);
    let is_known = scheme.is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let is_bare = protocol == Protocol::Grpc && scheme.is_none();
    let has_host = uri.as_ref().and_then(Uri::host).is_some_and(|host| !host.is_empty());
    if has_host && (is_known || is_bare) {
        return Ok(said.1);
    }
    refuse(Some(said), "http://HOST:PORT or https://HOST:PORT")
}

fn refuse<T>(said: Option<Said>, must: &'static str) -> Result<T, ExportError> {
    let (variable, value) = said.unwrap_or_default();
    Err(ExportError::Value { variable, value, must })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Wanted, ExportError> {
        Wanted::parse(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317");

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_named() {
        assert_eq!(parse(&[]).unwrap(), Wanted::default());
        assert_eq!(parse(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).unwrap(), Wanted::default());
        // The variables are checked only if something reads them.
        assert_eq!(parse(&[("OTEL_TRACES_SAMPLER", "odd")]).unwrap(), Wanted::default());
        let all = parse(&[ENDPOINT]).unwrap();
        assert!(all.traces.is_some() && all.metrics.is_some() && all.logs.is_some());
        let one = parse(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a:4317")]).unwrap();
        assert!(one.traces.is_some() && one.metrics.is_none() && one.logs.is_none());
    }

    #[test]
    fn the_variables_turn_parts_off_or_all() {
        assert_eq!(parse(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]).unwrap(), Wanted::default());
        assert_eq!(parse(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap(), Wanted::default());
        for (value, misread) in [("false", false), ("False", false), ("", false), ("1", true)] {
            let wanted = parse(&[ENDPOINT, ("OTEL_SDK_DISABLED", value)]).unwrap();
            assert!(wanted.traces.is_some(), "{value:?} is not true");
            assert_eq!(wanted.misread_switch.is_some(), misread, "{value:?}");
        }
        let wanted = parse(&[ENDPOINT, ("OTEL_LOGS_EXPORTER", "none")]).unwrap();
        assert!(wanted.logs.is_none() && wanted.traces.is_some());
        let wanted = parse(&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "prometheus")]).unwrap();
        assert!(wanted.metrics.is_none() && wanted.traces.is_some());
    }

    #[test]
    fn what_is_said_of_one_signal_wins_over_what_is_said_of_all() {
        let wanted = parse(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://b:4318/logs"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "8"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ])
        .unwrap();
        let (traces, logs) = (wanted.traces.unwrap(), wanted.logs.unwrap());
        assert_eq!((traces.endpoint.as_str(), traces.protocol), ("http://a:4317", Protocol::Grpc));
        assert_eq!((logs.endpoint.as_str(), logs.protocol), ("http://b:4318/logs", Protocol::Http));
        let millis = |link: &Link| link.timeout.map(|timeout| timeout.as_millis());
        assert_eq!((millis(&traces), millis(&logs)), (Some(7), Some(8)));
        assert_eq!(logs.authority.unwrap().path, PathBuf::from("/ca.pem"));
    }

    #[test]
    fn no_time_is_as_much_as_it_takes() {
        let wanted = parse(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TIMEOUT", "0")]).unwrap();
        assert_eq!(wanted.traces.unwrap().timeout, None);
        assert_eq!(parse(&[ENDPOINT]).unwrap().traces.unwrap().timeout, Some(TIMEOUT));
    }

    #[test]
    fn attributes_are_decoded_and_the_name_goes_first() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,team=till%2Cshop%20%C3%A9");
        let wanted = parse(&[attributes, ("OTEL_SERVICE_NAME", "b")]).unwrap();
        let found: Vec<_> =
            wanted.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let expected = [("service.name", "a"), ("team", "till,shop \u{e9}"), ("service.name", "b")];
        assert_eq!(found, expected);
    }

    #[test]
    fn pairs_of_a_wrong_form_are_refused_by_their_variable() {
        for variable in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"] {
            let error = parse(&[ENDPOINT, (variable, "Authorization: Bearer x")]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{variable}: ")), "{error}");
        }
        let error = parse(&[("OTEL_RESOURCE_ATTRIBUTES", "team")]).unwrap_err();
        assert!(error.to_string().starts_with("OTEL_RESOURCE_ATTRIBUTES: "), "{error}");
    }

    #[test]
    fn what_is_not_offered_is_refused_by_its_name() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "a:4318"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "a b"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "udp"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1s"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "odd"),
        ] {
            let error = parse(&[ENDPOINT, (variable, value)]).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{variable} is {value:?}, and must be ")),
                "{error}"
            );
        }
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert!(parse(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "a:4317"), grpc]).is_ok());
        let ratio = ("OTEL_TRACES_SAMPLER_ARG", "1.5");
        let sampler = |name| ("OTEL_TRACES_SAMPLER", name);
        assert!(parse(&[ENDPOINT, ratio, sampler("parentbased_traceidratio")]).is_err());
        assert!(parse(&[ENDPOINT, ratio, sampler("always_on")]).is_ok());
    }
}
