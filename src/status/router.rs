//! Paths and methods. Every path is in [`ROUTES`], and `/openapi.json` describes exactly those.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Semaphore, watch};

use super::access::Access;
use super::http::{Answer, Body, Problem, Reply};
use super::query::Query;
use super::sampler::Sampler;
use super::server::{Activity, StatusOptions};
use super::{
    ShardAnswer, StatusProvider, bridges, clients, control, endpoints, events, method_not_allowed, metrics, page,
    probes, system, topics, trace, traffic, validate,
};
use weir_declare::reconcile::Timestamp;

/// A body of so many times the bound is not read to its end.
const DISCARD_FACTOR: usize = 4;

/// The state that handlers share.
pub(super) struct App {
    pub(super) view: Arc<dyn StatusProvider>,
    pub(super) options: StatusOptions,
    pub(super) access: Arc<Access>,
    /// Taken by the server itself: no endpoint can have it.
    pub(super) local_addr: SocketAddr,
    pub(super) stopping: watch::Receiver<bool>,
    /// Places for event streams.
    pub(super) streams: Arc<Semaphore>,
    /// Places for traces.
    pub(super) traces: Arc<Semaphore>,
    pub(super) sampler: Sampler,
    /// When the last sample was taken.
    pub(super) sampled: watch::Sender<Timestamp>,
    /// When all shards last answered a ping, by the monotonic clock.
    pub(super) last_ping: Mutex<Instant>,
    /// Judging a large document set takes a core for a while; never more than so many at a time.
    validations: Semaphore,
}

impl App {
    pub(super) fn new(
        view: Arc<dyn StatusProvider>,
        options: StatusOptions,
        access: Arc<Access>,
        local_addr: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(options.max_streams));
        Self {
            view,
            options,
            access,
            local_addr,
            stopping,
            streams,
            traces: Arc::new(Semaphore::new(trace::TRACES_MAX)),
            sampler: Sampler::default(),
            sampled: watch::Sender::default(),
            last_ping: Mutex::new(Instant::now()),
            validations: Semaphore::new(1),
        }
    }

    /// Waits for an answer of the shards, up to the time-out of requests.
    pub(super) async fn ask_shards<T>(&self, answer: ShardAnswer<Option<T>>) -> Result<T, Problem> {
        let answer = tokio::time::timeout(self.options.request_timeout, answer).await;
        answer.ok().flatten().ok_or_else(|| {
            let message = "the shards did not answer; the broker shuts down or is overloaded";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, message)
        })
    }
}

/// A path and its handler.
pub(super) struct Route {
    pub(super) path: &'static str,
    /// Accepted query parameters.
    pub(super) parameters: &'static [&'static str],
    pub(super) handler: Handler,
}

/// A reply that waits for the shards.
pub(super) type ShardReply<'a> = Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;

#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// GET: state, in the envelope.
    State(fn(&App, &Query) -> Reply),
    /// GET: anything else that is whole.
    Plain(fn(&App, &Query, &HeaderMap) -> Answer),
    /// GET: everything that is counted, as a scraper reads it; the shards are asked.
    Metrics,
    /// GET: data that the shards are asked for, in the envelope.
    Shards(for<'a> fn(&'a App, &'a Query) -> ShardReply<'a>),
    /// GET: a stream of server-sent events.
    Events,
    /// GET: the stream of one client's packets.
    Trace,
    /// POST: validates the body, and changes nothing.
    Validate(fn(&App, &str) -> Reply),
    /// A write path of FluxMQ's, named by its verb: always 405.
    Write(&'static str),
}

impl Handler {
    pub(super) const fn allow(self) -> &'static str {
        match self {
            Self::State(_) | Self::Plain(_) | Self::Metrics | Self::Shards(_) | Self::Events | Self::Trace => {
                "GET, HEAD, OPTIONS"
            }
            Self::Validate(_) => "POST, OPTIONS",
            Self::Write(_) => "OPTIONS",
        }
    }

    fn permits(self, method: &Method) -> bool {
        match self {
            Self::State(_) | Self::Plain(_) | Self::Metrics | Self::Shards(_) | Self::Events | Self::Trace => {
                *method == Method::GET || *method == Method::HEAD
            }
            Self::Validate(_) => *method == Method::POST,
            Self::Write(_) => false,
        }
    }
}

const WHICH: &[&str] = &["port", "name"];

const fn state(path: &'static str, parameters: &'static [&'static str], answer: fn(&App, &Query) -> Reply) -> Route {
    Route { path, parameters, handler: Handler::State(answer) }
}

const fn shards(
    path: &'static str,
    parameters: &'static [&'static str],
    answer: for<'a> fn(&'a App, &'a Query) -> ShardReply<'a>,
) -> Route {
    Route { path, parameters, handler: Handler::Shards(answer) }
}

const fn plain(path: &'static str, answer: fn(&App, &Query, &HeaderMap) -> Answer) -> Route {
    Route { path, parameters: &[], handler: Handler::Plain(answer) }
}

const fn post(path: &'static str, answer: fn(&App, &str) -> Reply) -> Route {
    Route { path, parameters: &[], handler: Handler::Validate(answer) }
}

const fn write(path: &'static str, verb: &'static str) -> Route {
    Route { path, parameters: &[], handler: Handler::Write(verb) }
}

/// Every path there is.
pub(super) const ROUTES: &[Route] = &[
    plain("/", page::index),
    plain("/app.css", page::style),
    plain("/app.js", page::script),
    plain("/access.js", page::access_script),
    plain("/elements.js", page::elements_script),
    plain("/lists.js", page::lists_script),
    plain("/favicon.svg", page::icon),
    plain("/openapi.json", page::openapi),
    plain("/livez", probes::livez),
    plain("/readyz", probes::readyz),
    Route { path: "/metrics", parameters: &[], handler: Handler::Metrics },
    state("/api/endpoints/list", &[], endpoints::list),
    state("/api/endpoints/get", WHICH, endpoints::get),
    state("/api/endpoints/status", WHICH, endpoints::status),
    shards("/api/endpoints/metrics", WHICH, |app, query| Box::pin(traffic::metrics(app, query))),
    state("/api/endpoints/performance", WHICH, traffic::performance),
    state("/api/endpoints/health", WHICH, traffic::health),
    state("/api/endpoints/check-port", &["port"], traffic::check_port),
    Route { path: "/api/endpoints/export", parameters: &["format"], handler: Handler::Plain(control::export) },
    state("/api/endpoints/history", &["port", "name", "limit"], control::history),
    post("/api/endpoints/validate", validate::endpoint),
    post("/api/endpoints/validate-config", validate::set),
    write("/api/endpoints/add", "add"),
    write("/api/endpoints/update", "update"),
    write("/api/endpoints/remove", "remove"),
    write("/api/endpoints/import", "import"),
    state("/api/cluster/status", &[], system::cluster_status),
    state("/api/cluster/nodes", &[], system::cluster_nodes),
    state("/api/system/health", &[], system::health),
    state("/api/system/resources", &[], system::resources),
    shards("/api/clients", clients::PARAMETERS, |app, query| Box::pin(clients::list(app, query))),
    shards("/api/clients/slowest", &["limit"], |app, query| Box::pin(clients::slowest(app, query))),
    Route { path: "/api/clients/trace", parameters: trace::PARAMETERS, handler: Handler::Trace },
    shards("/api/topics", topics::PARAMETERS, |app, query| Box::pin(topics::list(app, query))),
    state("/api/bridges", &["name"], bridges::list),
    state("/api/declared", &["kind", "name"], control::declared),
    state("/api/plan", &[], control::plan),
    state("/api/source", &["fresh"], control::source),
    state("/api/ignite/status", &[], control::ignite),
    Route { path: "/api/events", parameters: &[], handler: Handler::Events },
];

/// Every path that is answered.
pub fn paths() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|route| route.path)
}

/// Answers one request. Never fails: errors are answers too.
pub(super) async fn answer(app: Arc<App>, activity: Arc<Activity>, request: Request<Incoming>) -> Response<Body> {
    let head = *request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let access = Arc::clone(&app.access);
    // A browser sends a preflight request without credentials.
    let admitted = if parts.method == Method::OPTIONS {
        Ok(())
    } else {
        access.admit(parts.uri.path(), &parts.headers, activity.identified)
    };
    let dispatched = match admitted {
        Ok(()) => dispatch(app, activity, &parts, body).await,
        Err(problem) => Err(problem),
    };
    let mut response = match dispatched {
        Ok(Dispatched::Whole(answer)) => answer.into_response(head, &parts.headers),
        Ok(Dispatched::Stream(response)) => response,
        Err(problem) => Answer::from(problem).into_response(head, &parts.headers),
    };
    add_cors_headers(&access, &parts, response.headers_mut());
    response
}

/// Lets pages of declared origins read the answer.
fn add_cors_headers(access: &Access, parts: &Parts, headers: &mut HeaderMap) {
    if access.varies() {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    let Some(origin) = access.cors(&parts.headers) else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag"));
    if parts.method == Method::OPTIONS && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        let allowed = HeaderValue::from_static("authorization, content-type, if-none-match");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(methods) = headers.get(header::ALLOW).cloned() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
    }
}

enum Dispatched {
    Whole(Answer),
    Stream(Response<Body>),
}

async fn dispatch(
    app: Arc<App>,
    activity: Arc<Activity>,
    parts: &Parts,
    body: Incoming,
) -> Result<Dispatched, Problem> {
    let path = parts.uri.path();
    let route = ROUTES
        .iter()
        .find(|route| route.path == path)
        .ok_or_else(|| Problem::not_found(format!("no such path: {path}; GET /openapi.json lists every path")))?;
    if parts.method == Method::OPTIONS {
        let mut answer = Answer::new(StatusCode::NO_CONTENT, super::http::TEXT, Bytes::new());
        answer.headers.push((header::ALLOW, HeaderValue::from_static(route.handler.allow())));
        return Ok(Dispatched::Whole(answer));
    }
    if let Handler::Write(verb) = route.handler {
        let sent = receive(&app, body).await.ok();
        return Err(method_not_allowed::refuse(&app.view.state(), verb, sent.as_deref()));
    }
    if !route.handler.permits(&parts.method) {
        let allow = route.handler.allow();
        let message = format!("{path} answers {allow} only; declarations change in git or etcd, never here");
        return Err(Problem { allow: Some(allow), ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, message) });
    }
    let query = Query::parse(parts.uri.query(), route.parameters)?;
    Ok(Dispatched::Whole(match route.handler {
        Handler::State(handler) => Answer::reply(handler(&app, &query)),
        Handler::Plain(handler) => handler(&app, &query, &parts.headers),
        Handler::Metrics => metrics::metrics(&app, &parts.headers).await,
        Handler::Shards(handler) => Answer::reply(handler(&app, &query).await),
        Handler::Events => return events::open(&app, activity, parts.method == Method::HEAD).map(Dispatched::Stream),
        Handler::Trace => {
            let head = parts.method == Method::HEAD;
            return trace::open(&app, &query, activity, head).await.map(Dispatched::Stream);
        }
        Handler::Validate(handler) => validate_body(app, &parts.headers, body, handler).await?,
        // Refused above.
        Handler::Write(verb) => return Err(method_not_allowed::refuse(&app.view.state(), verb, None)),
    }))
}

/// Reads the documents in the body and validates them on a blocking thread.
async fn validate_body(
    app: Arc<App>,
    headers: &HeaderMap,
    body: Incoming,
    handler: fn(&App, &str) -> Reply,
) -> Result<Answer, Problem> {
    documents_expected(headers)?;
    let bytes = receive(&app, body).await?;
    let text = String::from_utf8(bytes.into())
        .map_err(|error| Problem::bad_request(format!("the body is not UTF-8: {error}")))?;
    let patience: Duration = app.options.request_timeout;
    let Ok(Ok(place)) = tokio::time::timeout(patience, app.validations.acquire()).await else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "other documents are being validated; try again"));
    };
    let judged = tokio::task::spawn_blocking({
        let app = app.clone();
        move || handler(&app, &text)
    });
    let reply = judged.await.map_err(|error| {
        tracing::error!(%error, "validation task failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "validation failed; the log says why")
    })?;
    drop(place);
    Ok(Answer { tagged: false, ..Answer::reply(reply) })
}

/// JSON is YAML, so both are read alike; any other content type is refused.
fn documents_expected(headers: &HeaderMap) -> Result<(), Problem> {
    const KNOWN: &[&str] = &["application/json", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"];
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if KNOWN.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("Content-Type {essence:?} is not a document's; send application/json or application/yaml"),
    ))
}

/// The whole body, within the server's bounds of bytes and time.
async fn receive(app: &App, body: Incoming) -> Result<Bytes, Problem> {
    let most = app.options.max_body_bytes;
    let collected = tokio::time::timeout(app.options.request_timeout, collect(body, most)).await;
    match collected {
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {most} bytes; use `weir validate` for sets of that size"),
        )),
        Ok(Err(error)) => Err(Problem::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// The body, or `None` where it is longer than `most` bytes. The rest is read and discarded up to a limit: over HTTP/2,
/// a server that stops reading cancels its own answer.
async fn collect(mut body: Incoming, most: usize) -> Result<Option<Bytes>, hyper::Error> {
    let (mut kept, mut seen) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= most {
            kept.extend_from_slice(&data);
        } else if seen > most.saturating_mul(DISCARD_FACTOR) {
            break;
        }
    }
    Ok((seen <= most).then(|| kept.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique() {
        for (at, route) in ROUTES.iter().enumerate() {
            assert!(ROUTES[..at].iter().all(|other| other.path != route.path), "{} twice", route.path);
        }
    }
}
