//! Paths and methods. Every path is in [`ROUTES`], and `/openapi.json` describes exactly those.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{Semaphore, watch};

use super::access::{Access, Content};
use super::budget::{ByteBudget, ChargedBody, charged, receive};
use super::connections::{Activity, Source};
use super::counters::{Refused, StatusCounters};
use super::hosts::KnownHosts;
use super::http::{Answer, Body, Problem, Reply};
use super::query::Query;
use super::sampler::Sampler;
use super::server::StatusOptions;
use super::{
    Gauges, ShardAnswer, StatusProvider, bridges, clients, control, endpoints, events, members, method_not_allowed,
    metrics, page, probes, system, topic_tree, topics, trace, traffic, validate,
};
use weir_declare::reconcile::Timestamp;

/// How long the shards have to report their gauges; after that, the answer leaves them out.
const GAUGES_TIMEOUT: Duration = Duration::from_secs(1);
/// Gauges are at most so old.
const GAUGES_AGE: Duration = Duration::from_millis(500);
/// Answers up to so many bytes are not charged.
const SMALL_ANSWER_BYTES: usize = 4 << 10;

/// The state that handlers share.
pub(super) struct App {
    pub(super) view: Arc<dyn StatusProvider>,
    pub(super) options: StatusOptions,
    pub(super) access: Arc<Access>,
    hosts: KnownHosts,
    pub(super) counters: Arc<StatusCounters>,
    /// Taken by the server itself: no endpoint can have it.
    pub(super) local_addr: SocketAddr,
    pub(super) stopping: watch::Receiver<bool>,
    /// Places for event streams.
    pub(super) streams: Arc<ByteBudget>,
    /// Bytes of bodies that are being read.
    pub(super) bodies: Arc<ByteBudget>,
    /// Bytes of answers that are not written yet.
    answers: Arc<ByteBudget>,
    /// Reads of a level of topics that take the shards' time.
    pub(super) topic_reads: Semaphore,
    /// Places for traces.
    pub(super) traces: Arc<Semaphore>,
    pub(super) sampler: Sampler,
    /// When the last sample was taken.
    pub(super) sampled: watch::Sender<Timestamp>,
    /// When all shards last answered a ping, by the monotonic clock.
    pub(super) last_ping: Mutex<Instant>,
    /// The last gauges and when the shards counted them; `None` where they did not answer.
    gauges: tokio::sync::Mutex<Option<(Instant, Option<Gauges>)>>,
    /// Judging a large document set takes a core for a while; never more than so many at a time.
    validations: Semaphore,
}

impl App {
    pub(super) fn new(
        view: Arc<dyn StatusProvider>,
        options: StatusOptions,
        access: Arc<Access>,
        hosts: KnownHosts,
        local_addr: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let budget = |max| Arc::new(ByteBudget::new(max));
        let (streams, bodies) = (budget(options.max_streams), budget(options.max_bodies_bytes));
        let answers = budget(options.max_answers_bytes);
        Self {
            view,
            options,
            access,
            hosts,
            counters: Arc::default(),
            local_addr,
            stopping,
            streams,
            bodies,
            answers,
            topic_reads: Semaphore::new(topic_tree::READS_MAX),
            traces: Arc::new(Semaphore::new(trace::TRACES_MAX)),
            sampler: Sampler::default(),
            sampled: watch::Sender::default(),
            last_ping: Mutex::new(Instant::now()),
            gauges: tokio::sync::Mutex::default(),
            validations: Semaphore::new(1),
        }
    }

    /// The shards' gauges. Counting takes their time, so callers within [`GAUGES_AGE`] share an answer.
    pub(super) async fn gauges(&self) -> Option<Gauges> {
        let mut last = self.gauges.lock().await;
        if let Some((_, gauges)) = last.as_ref().filter(|(at, _)| at.elapsed() < GAUGES_AGE) {
            return gauges.clone();
        }
        let gauges = tokio::time::timeout(GAUGES_TIMEOUT, self.view.gauges()).await.ok().flatten();
        *last = Some((Instant::now(), gauges.clone()));
        gauges
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
    pub(super) content: Content,
}

impl Route {
    const fn with(self, content: Content) -> Self {
        Self { content, ..self }
    }
}

/// A reply that waits for the shards.
pub(super) type ShardReply<'a> = Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;

#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// GET: state, in the envelope.
    State(fn(&App, &Query) -> Reply),
    /// GET: anything else that is whole.
    Plain(fn(&App, &Query, &HeaderMap) -> Answer),
    /// GET: the page of the MQTT client, whose security policy depends on the endpoint and on the name of the host.
    Client,
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
            Self::State(_)
            | Self::Plain(_)
            | Self::Client
            | Self::Metrics
            | Self::Shards(_)
            | Self::Events
            | Self::Trace => "GET, HEAD, OPTIONS",
            Self::Validate(_) => "POST, OPTIONS",
            Self::Write(_) => "OPTIONS",
        }
    }

    fn permits(self, method: &Method) -> bool {
        match self {
            Self::State(_)
            | Self::Plain(_)
            | Self::Client
            | Self::Metrics
            | Self::Shards(_)
            | Self::Events
            | Self::Trace => *method == Method::GET || *method == Method::HEAD,
            Self::Validate(_) => *method == Method::POST,
            Self::Write(_) => false,
        }
    }
}

const WHICH: &[&str] = &["port", "name", "all"];

const fn state(path: &'static str, parameters: &'static [&'static str], answer: fn(&App, &Query) -> Reply) -> Route {
    Route { path, parameters, handler: Handler::State(answer), content: Content::Broker }
}

const fn shards(
    path: &'static str,
    parameters: &'static [&'static str],
    answer: for<'a> fn(&'a App, &'a Query) -> ShardReply<'a>,
) -> Route {
    Route { path, parameters, handler: Handler::Shards(answer), content: Content::Broker }
}

const fn plain(path: &'static str, answer: fn(&App, &Query, &HeaderMap) -> Answer) -> Route {
    Route { path, parameters: &[], handler: Handler::Plain(answer), content: Content::Public }
}

const fn post(path: &'static str, answer: fn(&App, &str) -> Reply) -> Route {
    Route { path, parameters: &[], handler: Handler::Validate(answer), content: Content::Clients }
}

const fn write(path: &'static str, verb: &'static str) -> Route {
    Route { path, parameters: &[], handler: Handler::Write(verb), content: Content::Broker }
}

/// Every path there is.
pub(super) const ROUTES: &[Route] = &[
    plain("/", page::index),
    Route { path: "/client", parameters: page::CLIENT_PARAMETERS, handler: Handler::Client, content: Content::Public },
    plain("/app.css", page::style),
    plain("/app.js", page::script),
    plain("/access.js", page::access_script),
    plain("/client.js", page::client_script),
    plain("/clients.js", page::clients_script),
    plain("/elements.js", page::elements_script),
    plain("/endpoint.js", page::endpoint_script),
    plain("/mqtt.js", page::mqtt_script),
    plain("/overview.js", page::overview_script),
    plain("/plots.js", page::plots_script),
    plain("/topics.js", page::topics_script),
    plain("/favicon.svg", page::icon),
    plain("/openapi.json", page::openapi),
    plain("/livez", probes::livez),
    plain("/readyz", probes::readyz),
    Route { path: "/metrics", parameters: &[], handler: Handler::Metrics, content: Content::Broker },
    state("/api/endpoints/list", &["all"], endpoints::list),
    state("/api/endpoints/get", WHICH, endpoints::get),
    state("/api/endpoints/status", WHICH, endpoints::status),
    shards("/api/endpoints/metrics", WHICH, |app, query| Box::pin(traffic::metrics(app, query))),
    state("/api/endpoints/performance", WHICH, traffic::performance),
    state("/api/endpoints/health", WHICH, traffic::health),
    state("/api/endpoints/check-port", &["port"], traffic::check_port),
    Route {
        path: "/api/endpoints/export",
        parameters: &["format"],
        handler: Handler::Plain(control::export),
        content: Content::Clients,
    },
    state("/api/endpoints/history", &["port", "name", "limit"], control::history).with(Content::Clients),
    post("/api/endpoints/validate", validate::endpoint),
    post("/api/endpoints/validate-config", validate::set),
    write("/api/endpoints/add", "add"),
    write("/api/endpoints/update", "update"),
    write("/api/endpoints/remove", "remove"),
    write("/api/endpoints/import", "import"),
    state("/api/cluster/status", &[], system::cluster_status),
    state("/api/cluster/nodes", &[], system::cluster_nodes),
    state("/api/cluster/members", &[], members::list),
    state("/api/system/health", &[], system::health),
    state("/api/system/resources", &[], system::resources),
    shards("/api/clients", clients::PARAMETERS, |app, query| Box::pin(clients::list(app, query)))
        .with(Content::Clients),
    shards("/api/clients/slowest", &["limit"], |app, query| Box::pin(clients::slowest(app, query)))
        .with(Content::Clients),
    Route {
        path: "/api/clients/trace",
        parameters: trace::PARAMETERS,
        handler: Handler::Trace,
        content: Content::Clients,
    },
    shards("/api/topics", topics::PARAMETERS, |app, query| Box::pin(topics::list(app, query))).with(Content::Clients),
    shards("/api/topics/tree", topic_tree::PARAMETERS, |app, query| Box::pin(topic_tree::list(app, query)))
        .with(Content::Clients),
    state("/api/bridges", &["name"], bridges::list).with(Content::Clients),
    state("/api/declared", &["kind", "name"], control::declared).with(Content::Clients),
    state("/api/plan", &[], control::plan).with(Content::Clients),
    shards("/api/source", &["fresh", "contains"], |app, query| Box::pin(control::source(app, query))),
    state("/api/ignite/status", &[], control::ignite),
    Route { path: "/api/events", parameters: &[], handler: Handler::Events, content: Content::Broker },
];

fn route(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.path == path)
}

/// Every path that is answered.
pub fn paths() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|route| route.path)
}

/// Answers one request. Never fails: errors are answers too.
pub(super) async fn answer(app: Arc<App>, activity: Arc<Activity>, request: Request<Incoming>) -> Response<Body> {
    let head = *request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let (access, source) = (Arc::clone(&app.access), activity.source);
    let dispatched = match admit(&app, &activity, &parts) {
        Ok(()) => dispatch(app.clone(), activity, &parts, body).await,
        // Orchestrators ask by any name and without credentials.
        Err(_) if probes::is_probe(parts.uri.path()) && (parts.method == Method::GET || head) => {
            Ok(Dispatched::Whole(probes::brief(&app, parts.uri.path())))
        }
        Err(problem) => Err(problem),
    };
    let mut response = match dispatched {
        Ok(Dispatched::Whole(answer)) => within_budget(&app, source, answer).into_response(head, &parts.headers),
        Ok(Dispatched::Stream(response)) => response,
        Err(problem) => Answer::from(problem).into_response(head, &parts.headers),
    };
    add_cors_headers(&access, &parts, response.headers_mut());
    response
}

/// Checks the name that the broker is called by, and the caller's credentials.
fn admit(app: &App, caller: &Activity, parts: &Parts) -> Result<(), Problem> {
    let path = parts.uri.path();
    app.hosts
        .check(parts.uri.authority(), &parts.headers, caller.local)
        .inspect_err(|_| app.counters.count(Refused::Host))?;
    // A browser sends a preflight request without credentials.
    if parts.method == Method::OPTIONS {
        return Ok(());
    }
    // An unknown path reveals nothing but that it is unknown.
    let content = match route(path) {
        // Only callers who may read the state learn the reason of a failed probe.
        Some(_) if probes::is_probe(path) => Content::Clients,
        Some(route) => route.content,
        None => Content::Broker,
    };
    app.access.admit(path, content, &parts.headers, caller).inspect_err(|_| app.counters.count(Refused::Credentials))
}

/// Charges the answer to the caller until it is written; refuses it where unread answers hold too much.
fn within_budget(app: &App, source: Source, answer: Answer) -> Answer {
    if answer.body.len() <= SMALL_ANSWER_BYTES {
        return answer;
    }
    let mut charge = app.answers.open(source);
    if !charge.extend(answer.body.len()) {
        app.counters.count(Refused::AnswerBudget);
        let message = "the memory for answers is used up by answers that clients do not read; retry later";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, message).into();
    }
    Answer { body: charged(answer.body, charge), ..answer }
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
    let route = route(path)
        .ok_or_else(|| Problem::not_found(format!("no such path: {path}; GET /openapi.json lists every path")))?;
    if parts.method == Method::OPTIONS {
        let mut answer = Answer::new(StatusCode::NO_CONTENT, super::http::TEXT, Bytes::new());
        answer.headers.push((header::ALLOW, HeaderValue::from_static(route.handler.allow())));
        return Ok(Dispatched::Whole(answer));
    }
    if let Handler::Write(verb) = route.handler {
        let sent = receive(&app, activity.source, &parts.headers, body).await.ok();
        let sent = sent.as_ref().map(|sent| &*sent.bytes);
        return Err(method_not_allowed::refuse(&app.view.state(), verb, sent));
    }
    if !route.handler.permits(&parts.method) {
        let allow = route.handler.allow();
        let message = format!("{path} supports {allow} only; declarations change in git or etcd");
        return Err(Problem { allow: Some(allow), ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, message) });
    }
    let query = Query::parse(parts.uri.query(), route.parameters)?;
    Ok(Dispatched::Whole(match route.handler {
        Handler::State(handler) => Answer::reply(handler(&app, &query)),
        Handler::Plain(handler) => handler(&app, &query, &parts.headers),
        Handler::Client => page::client(&query, parts)?,
        Handler::Metrics => metrics::metrics(&app, &parts.headers).await,
        Handler::Shards(handler) => Answer::reply(handler(&app, &query).await),
        Handler::Events => return events::open(&app, activity, parts.method == Method::HEAD).map(Dispatched::Stream),
        Handler::Trace => {
            let head = parts.method == Method::HEAD;
            return trace::open(&app, &query, activity, head).await.map(Dispatched::Stream);
        }
        Handler::Validate(handler) => {
            documents_expected(&parts.headers)?;
            let body = receive(&app, activity.source, &parts.headers, body).await?;
            validate_body(app, body, handler).await?
        }
        // Refused above.
        Handler::Write(verb) => return Err(method_not_allowed::refuse(&app.view.state(), verb, None)),
    }))
}

/// Validates the documents in the body on a blocking thread.
async fn validate_body(app: Arc<App>, body: ChargedBody, handler: fn(&App, &str) -> Reply) -> Result<Answer, Problem> {
    let text = std::str::from_utf8(&body.bytes)
        .map_err(|error| Problem::bad_request(format!("the body is not UTF-8: {error}")))?
        .to_owned();
    let patience: Duration = app.options.request_timeout;
    let Ok(Ok(place)) = tokio::time::timeout(patience, app.validations.acquire()).await else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "other documents are being validated; retry later"));
    };
    let judged = tokio::task::spawn_blocking({
        let app = app.clone();
        move || handler(&app, &text)
    });
    let reply = judged.await.map_err(|error| {
        tracing::error!(%error, "validation task failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "validation failed; see the broker's log")
    })?;
    drop((place, body));
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
        format!("Content-Type {essence:?} is not supported; send application/json or application/yaml"),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::access::AccessOptions;
    use super::*;

    #[test]
    fn without_credentials_other_machines_get_nothing_about_clients() {
        let access = Access::open(AccessOptions::default()).unwrap();
        let ends = |peer: &str, local: &str| Activity::new(peer.parse().unwrap(), local.parse().ok());
        let elsewhere = ends("192.0.2.1:5000", "192.0.2.7:8080");
        let forwarded = ends("127.0.0.1:5000", "192.0.2.7:8080");
        let here = ends("[::ffff:127.0.0.1]:5000", "[::ffff:127.0.0.1]:8080");
        let mut refused = Vec::new();
        for route in ROUTES {
            let admit = |caller| access.admit(route.path, route.content, &HeaderMap::new(), caller);
            assert!(admit(&here).is_ok(), "{}", route.path);
            assert_eq!(admit(&elsewhere).is_ok(), admit(&forwarded).is_ok(), "{}", route.path);
            if let Err(problem) = admit(&elsewhere) {
                assert_eq!(problem.status, StatusCode::FORBIDDEN);
                assert!(problem.message.contains("--status-bearer-token"), "{}", problem.message);
                refused.push(route.path);
            }
        }
        let about_clients = [
            "/api/endpoints/export",
            "/api/endpoints/history",
            "/api/endpoints/validate",
            "/api/endpoints/validate-config",
            "/api/clients",
            "/api/clients/slowest",
            "/api/clients/trace",
            "/api/topics",
            "/api/topics/tree",
            "/api/bridges",
            "/api/declared",
            "/api/plan",
        ];
        assert_eq!(refused, about_clients);
    }

    #[test]
    fn paths_are_unique() {
        for (at, route) in ROUTES.iter().enumerate() {
            assert!(ROUTES[..at].iter().all(|other| other.path != route.path), "{} twice", route.path);
        }
    }
}
