//! The collector that traces are sent to: the options, and OpenTelemetry's own environment variables.

use std::borrow::Cow;
use std::path::PathBuf;
#[cfg(feature = "status")]
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::authorities::system_authorities;
use crate::http_client::{HttpClient, tls_trusting};
#[cfg(feature = "status")]
use crate::telemetry::TelemetryStats;
use crate::telemetry::{Exporter, ExporterOptions, SpanRecorder};

/// The OpenTelemetry collector that reconcile passes are traced to over OTLP/HTTP. What is `None` here comes from
/// OpenTelemetry's variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and others); where they are not set either, nothing is
/// traced.
#[derive(Debug, Clone, Default)]
pub(crate) struct TraceOptions {
    /// The collector's base URL, as `http://127.0.0.1:4318`.
    pub otlp_endpoint: Option<String>,
    /// PEM file of the authorities that may have issued an `https` collector's certificate.
    pub otlp_ca: Option<PathBuf>,
}

/// Which option or variable cannot be used, and why. Header values are secrets and are not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct TraceOptionsError {
    /// The flag or the variable.
    at: String,
    problem: String,
}

impl TraceOptionsError {
    fn new(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { at: at.into(), problem: problem.into() }
    }
}

/// The export of traces, where there is a collector.
pub(super) struct Traces(Option<Exporter>);

impl Traces {
    /// Starts the export on the present runtime. `node` is this broker's name, `variable` reads the environment.
    ///
    /// # Errors
    /// See [`TraceOptionsError`].
    pub(super) fn start(
        options: &TraceOptions,
        node: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, TraceOptionsError> {
        Ok(Self(options.exporter(node, variable)?.map(Exporter::start)))
    }

    /// Records passes for the export.
    pub(super) fn tracer(&self) -> Option<SpanRecorder> {
        self.0.as_ref().map(Exporter::tracer)
    }

    /// The counters of the export.
    #[cfg(feature = "status")]
    pub(super) fn stats(&self) -> Option<Arc<TelemetryStats>> {
        self.0.as_ref().map(Exporter::stats)
    }

    /// Exports what waits, for at most `within`, and stops.
    pub(super) async fn finish(self, within: Duration) {
        if let Some(exporter) = self.0 {
            exporter.finish(within).await;
        }
    }
}

impl TraceOptions {
    /// What the exporter is started with; `None`: nothing is traced.
    ///
    /// # Errors
    /// See [`TraceOptionsError`].
    fn exporter(
        &self,
        node: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<ExporterOptions>, TraceOptionsError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none")
        {
            return Ok(None);
        }
        let (name, url) = if let Some(base) = &self.otlp_endpoint {
            ("--otlp-endpoint", traces_below(base))
        } else if let Some(whole) = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", whole)
        } else if let Some(base) = set("OTEL_EXPORTER_OTLP_ENDPOINT") {
            ("OTEL_EXPORTER_OTLP_ENDPOINT", traces_below(&base))
        } else {
            return Ok(None);
        };
        let url = collector_url(&url).map_err(|problem| TraceOptionsError::new(name, problem))?;
        if set("OTEL_EXPORTER_OTLP_PROTOCOL").is_some_and(|protocol| protocol == "grpc") {
            tracing::warn!(
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not supported: traces are sent as http/json, which collectors accept at \
                 port 4318"
            );
        }
        let mut headers = HeaderMap::new();
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            for (key, value) in pairs(name, set(name))? {
                let bad = |problem: String| TraceOptionsError::new(name, problem);
                let key = HeaderName::try_from(&key).map_err(|_| bad(format!("{key:?} is not a header name")))?;
                let mut value = HeaderValue::try_from(value)
                    .map_err(|_| bad(format!("the value of {key} is not a header value")))?;
                value.set_sensitive(true);
                headers.insert(key, value);
            }
        }
        let mut resource = vec![
            ("service.name".to_owned(), "weir".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id".to_owned(), node.to_owned()),
        ];
        let own = pairs("OTEL_RESOURCE_ATTRIBUTES", set("OTEL_RESOURCE_ATTRIBUTES"))?;
        let service = set("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name));
        for (key, value) in own.into_iter().chain(service) {
            resource.retain(|(known, _)| *known != key);
            resource.push((key, value));
        }
        let secure = url.scheme_str() == Some("https");
        let tls = secure.then(|| self.tls(set("OTEL_EXPORTER_OTLP_CERTIFICATE"))).transpose()?;
        let client = HttpClient::new(tls, 1).map_err(|error| TraceOptionsError::new("TLS", error.to_string()))?;
        Ok(Some(ExporterOptions { url, headers, client, resource }))
    }

    fn tls(&self, standard: Option<String>) -> Result<ClientConfig, TraceOptionsError> {
        let mut roots = RootCertStore::empty();
        match self.otlp_ca.clone().or(standard.map(PathBuf::from)) {
            Some(path) => {
                let bad = |problem: String| TraceOptionsError::new(format!("--otlp-ca {}", path.display()), problem);
                for certificate in CertificateDer::pem_file_iter(&path).map_err(|error| bad(error.to_string()))? {
                    let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                    roots.add(certificate).map_err(|error| bad(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(bad("it contains no certificate".to_owned()));
                }
            }
            None => {
                let missing = "this system has no certificate authorities; name those of the collector";
                let bundle = system_authorities().ok_or_else(|| TraceOptionsError::new("--otlp-ca", missing))?;
                // A bundle may hold certificates that are too old to be used.
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok));
            }
        }
        let builder = tls_trusting(roots).map_err(|error| TraceOptionsError::new("TLS", error.to_string()))?;
        Ok(builder.with_no_client_auth())
    }
}

/// The URL of traces below a collector's base URL.
fn traces_below(base: &str) -> String {
    format!("{}/v1/traces", base.trim_end_matches('/'))
}

/// The URL, or what is wrong with it.
fn collector_url(text: &str) -> Result<Uri, Cow<'static, str>> {
    // The text before an @ may be a password, so it is not repeated.
    if text.contains('@') {
        return Err("credentials do not belong in the URL; put them in OTEL_EXPORTER_OTLP_HEADERS".into());
    }
    let url: Option<Uri> = text.parse().ok();
    url.filter(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
    })
    .ok_or_else(|| format!("{text}: a collector's URL is written http://HOST:4318 or https://HOST:4318").into())
}

/// `key=value,key=value`, percent-encoded, as OpenTelemetry's variables have it.
fn pairs(variable: &str, text: Option<String>) -> Result<Vec<(String, String)>, TraceOptionsError> {
    let text = text.unwrap_or_default();
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), percent_decode_str(value.trim()).decode_utf8_lossy().into_owned()))
            }
            // The pair may be a secret, so it is not repeated.
            _ => Err(TraceOptionsError::new(variable, "it is written KEY=VALUE,KEY=VALUE")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flag: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<ExporterOptions>, TraceOptionsError> {
        let options = TraceOptions { otlp_endpoint: flag.map(str::to_owned), otlp_ca: None };
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        options.exporter("node-1", find)
    }

    #[test]
    fn the_flag_takes_precedence_over_the_variables_of_opentelemetry() {
        const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        for (flag, variables, expected) in [
            (None, &[][..], None),
            (None, &[(BASE, "")], None),
            (Some("http://a:4318"), &[], Some("http://a:4318/v1/traces")),
            (Some("http://a:4318/"), &[(BASE, "http://b:4318")], Some("http://a:4318/v1/traces")),
            (None, &[(BASE, "http://b:4318/otlp")], Some("http://b:4318/otlp/v1/traces")),
            (None, &[(BASE, "http://b"), (TRACES, "http://c/x")], Some("http://c/x")),
            (None, &[(BASE, "http://b"), ("OTEL_SDK_DISABLED", "True")], None),
            (Some("http://a"), &[("OTEL_TRACES_EXPORTER", "none")], None),
        ] {
            let url = options(flag, variables).unwrap().map(|options| options.url.to_string());
            assert_eq!(url.as_deref(), expected, "{flag:?} {variables:?}");
        }
    }

    #[test]
    fn headers_and_resource_come_from_the_environment() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-tenant=a=b"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.name=x"),
            ("OTEL_SERVICE_NAME", "mqtt"),
        ];
        let options = options(Some("http://a"), &variables).unwrap().unwrap();
        assert_eq!(options.headers["authorization"], "Bearer abc");
        assert_eq!(options.headers["x-tenant"], "a=b");
        assert!(!format!("{options:?}").contains("abc"), "a header's value shows");
        let resource: Vec<String> = options.resource.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let version = format!("service.version={}", env!("CARGO_PKG_VERSION"));
        let expected =
            [&version, "service.instance.id=node-1", "deployment.environment.name=prod", "service.name=mqtt"];
        assert_eq!(resource, expected);
    }

    #[test]
    fn a_bad_value_is_refused_without_showing_a_secret() {
        for (flag, variables, expected) in [
            ("ftp://a", &[][..], "--otlp-endpoint: ftp://a/v1/traces: a collector's URL is written http://HOST:4318"),
            ("127.0.0.1:4318", &[], "a collector's URL is written"),
            ("http://me:secret@a", &[], "put them in OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://a", &[("OTEL_EXPORTER_OTLP_HEADERS", "secret")], "it is written KEY=VALUE"),
            ("http://a", &[("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0a")], "the value of a is not a header value"),
        ] {
            let error = format!("{:#}", options(Some(flag), variables).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
