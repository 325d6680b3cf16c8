//! The page at `/` and the MQTT client at `/client`: embedded files, without a build step. `http::common_headers` holds
//! their security policy; that of `/client` also permits the WebSocket of one endpoint.

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;

use super::http::{Answer, Problem};
use super::query::Query;
use super::router::App;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

fn file(content_type: &'static str, text: &'static str) -> Answer {
    Answer { tagged: true, ..Answer::new(StatusCode::OK, content_type, text) }
}

/// Handlers that answer with an embedded file.
macro_rules! files {
    ($($handler:ident: $content_type:expr, $path:literal;)+) => {
        $(pub(super) fn $handler(_: &App, _: &Query, _: &HeaderMap) -> Answer {
            file($content_type, include_str!($path))
        })+
    };
}

files! {
    index: HTML, "page/index.html";
    style: "text/css; charset=utf-8", "page/app.css";
    script: SCRIPT, "page/app.js";
    access_script: SCRIPT, "page/access.js";
    client_script: SCRIPT, "page/client.js";
    clients_script: SCRIPT, "page/clients.js";
    elements_script: SCRIPT, "page/elements.js";
    endpoint_script: SCRIPT, "page/endpoint.js";
    mqtt_script: SCRIPT, "page/mqtt.js";
    overview_script: SCRIPT, "page/overview.js";
    plots_script: SCRIPT, "page/plots.js";
    topics_script: SCRIPT, "page/topics.js";
    icon: "image/svg+xml", "page/favicon.svg";
    openapi: super::http::JSON, "openapi.json";
}

/// Parameters of `GET /client`.
pub(super) const CLIENT_PARAMETERS: &[&str] = &["name", "port", "tls"];

/// `GET /client?name=&port=&tls=`: the page of the MQTT client. It may connect to the WebSocket of that port on the host
/// that the page comes from, and to nothing else. The file is the same whether such an endpoint exists or not, because
/// readers without credentials get it too; the script reads `name`.
pub(super) fn client(query: &Query, parts: &Parts) -> Result<Answer, Problem> {
    let scheme = match query.get("tls") {
        None | Some("false") => "ws",
        Some("true") => "wss",
        Some(other) => return Err(Problem::bad_request(format!("tls={other:?} is neither true nor false"))),
    };
    let mut answer = file(HTML, include_str!("page/client.html"));
    if let (Some(port), Some(host)) = (query.port()?, host_of(parts)) {
        let policy = super::http::content_security_policy(&format!("'self' {scheme}://{host}:{port}"));
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            answer.headers.push((header::CONTENT_SECURITY_POLICY, policy));
        }
    }
    Ok(answer)
}

/// The name or address that the page is asked by, without its port: in the target (HTTP/2) or in the Host header. `None`
/// where a security policy cannot contain it, as an IPv6 address.
fn host_of(parts: &Parts) -> Option<&str> {
    let header = || parts.headers.get(header::HOST)?.to_str().ok();
    let host = parts.uri.authority().map(hyper::http::uri::Authority::as_str).or_else(header)?;
    let host = host.split(':').next()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!host.is_empty() && host.chars().all(allowed)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(query: &'static str, host: &str) -> Option<String> {
        policy_of(query, hyper::Request::get("/client").header("Host", host))
    }

    fn policy_of(query: &'static str, request: hyper::http::request::Builder) -> Option<String> {
        let query = Query::parse(Some(query), CLIENT_PARAMETERS).unwrap();
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let answer = client(&query, &parts).unwrap();
        let policy = answer.headers.first()?.1.to_str().unwrap();
        policy.split("; ").find_map(|each| each.strip_prefix("connect-src ")).map(str::to_owned)
    }

    #[test]
    fn the_clients_page_may_connect_to_one_port_of_its_own_host() {
        let sources = |query, host| policy(query, host).unwrap();
        assert_eq!(sources("name=a&port=8083", "weir.example.com:8080"), "'self' ws://weir.example.com:8083");
        assert_eq!(sources("port=8084&tls=true", "192.0.2.7"), "'self' wss://192.0.2.7:8084");
        for host in ["[::1]:8080", "a b", "a; script-src *", "'unsafe-inline'", "", ":80"] {
            assert_eq!(policy("port=8083", host), None, "{host}");
        }
        assert_eq!(policy("name=a", "localhost"), None);
        // HTTP/2 has the name in the target.
        let request = hyper::Request::get("https://weir.example.com:8443/client");
        assert_eq!(policy_of("port=8084&tls=true", request).unwrap(), "'self' wss://weir.example.com:8084");
    }
}
