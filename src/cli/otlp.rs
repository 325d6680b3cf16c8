//! Where traces go: the flags, and OpenTelemetry's own variables beside them.

use std::path::PathBuf;

use anyhow::{Context, bail};
use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::apply::system_authorities;
use crate::http_client::{HttpClient, tls_trusting};
use crate::telemetry::ExporterOptions;

/// Traces of reconcile passes for an OpenTelemetry collector.
#[derive(Debug, clap::Args)]
pub(super) struct OtlpArgs {
    /// OpenTelemetry collector that reconcile passes are traced to over OTLP/HTTP, as http://127.0.0.1:4318
    /// [default: OTEL_EXPORTER_OTLP_ENDPOINT, or none]
    #[arg(long, env = "WEIR_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Who may have issued an https:// collector's certificate (PEM) [default: OTEL_EXPORTER_OTLP_CERTIFICATE, or the
    /// system's authorities]
    #[arg(long, env = "WEIR_OTLP_CA", value_name = "FILE")]
    otlp_ca: Option<PathBuf>,
}

impl OtlpArgs {
    /// Where to, or `None`: nowhere. `node` is this broker's name, `variable` reads the environment.
    ///
    /// # Errors
    /// A value that cannot be used; with the flag's or variable's name, and without header values, which are secrets.
    pub(super) fn options(
        &self,
        node: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Option<ExporterOptions>> {
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
        let url = checked(&url).map_err(|problem| anyhow::anyhow!("{name}: {problem}"))?;
        if set("OTEL_EXPORTER_OTLP_PROTOCOL").is_some_and(|protocol| protocol == "grpc") {
            tracing::warn!(
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not spoken here: traces go over http/json, which collectors take at \
                 port 4318"
            );
        }
        let mut headers = HeaderMap::new();
        for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
            for (key, value) in pairs(name, set(name))? {
                let key = HeaderName::try_from(&key).with_context(|| format!("{name}: {key:?} is no header's name"))?;
                let mut value = HeaderValue::try_from(value)
                    .with_context(|| format!("{name}: {key}'s value is no header's text"))?;
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
        let client = HttpClient::new(tls, 1)?;
        Ok(Some(ExporterOptions { url, headers, client, resource }))
    }

    fn tls(&self, standard: Option<String>) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        match self.otlp_ca.clone().or(standard.map(PathBuf::from)) {
            Some(path) => {
                let shown = || format!("--otlp-ca {}", path.display());
                for certificate in CertificateDer::pem_file_iter(&path).with_context(shown)? {
                    roots.add(certificate.with_context(shown)?).with_context(shown)?;
                }
                if roots.is_empty() {
                    bail!("{}: no certificate in it", shown());
                }
            }
            None => {
                let bundle = system_authorities()
                    .context("this system has no certificate authorities; name the collector's with --otlp-ca")?;
                // A bundle may hold some that are too old to be used.
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok));
            }
        }
        Ok(tls_trusting(roots)?.with_no_client_auth())
    }
}

/// The traces' own place below a collector's.
fn traces_below(base: &str) -> String {
    format!("{}/v1/traces", base.trim_end_matches('/'))
}

fn checked(text: &str) -> Result<Uri, String> {
    // What stands before an @ may be a password, so it is not repeated.
    if text.contains('@') {
        return Err("credentials do not belong in the URL; put them in OTEL_EXPORTER_OTLP_HEADERS".to_owned());
    }
    let url: Option<Uri> = text.parse().ok();
    url.filter(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
    })
    .ok_or_else(|| format!("{text}: a collector's URL is written http://HOST:4318 or https://HOST:4318"))
}

/// `key=value,key=value`, percent-encoded, as OpenTelemetry's variables have it.
fn pairs(variable: &str, text: Option<String>) -> anyhow::Result<Vec<(String, String)>> {
    let text = text.unwrap_or_default();
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), percent_decode_str(value.trim()).decode_utf8_lossy().into_owned()))
            }
            // The pair may be a secret, so it is not repeated.
            _ => bail!("{variable}: it is written KEY=VALUE,KEY=VALUE"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flag: Option<&str>, variables: &[(&str, &str)]) -> anyhow::Result<Option<ExporterOptions>> {
        let args = OtlpArgs { otlp_endpoint: flag.map(str::to_owned), otlp_ca: None };
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        args.options("node-1", find)
    }

    #[test]
    fn the_flag_goes_before_opentelemetrys_variables() {
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
    fn headers_and_resource_are_taken_from_the_environment() {
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
    fn what_cannot_be_used_is_refused_without_showing_a_secret() {
        for (flag, variables, expected) in [
            ("ftp://a", &[][..], "--otlp-endpoint: ftp://a/v1/traces: a collector's URL is written http://HOST:4318"),
            ("127.0.0.1:4318", &[], "a collector's URL is written"),
            ("http://me:secret@a", &[], "put them in OTEL_EXPORTER_OTLP_HEADERS"),
            ("http://a", &[("OTEL_EXPORTER_OTLP_HEADERS", "secret")], "it is written KEY=VALUE"),
            ("http://a", &[("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0a")], "a's value is no header's text"),
        ] {
            let error = format!("{:#}", options(Some(flag), variables).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
