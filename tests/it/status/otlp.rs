//! Traces of reconcile passes, checked by a collector that parses OTLP's JSON encoding.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::get;
use super::live::Broker;
use crate::support::GUARD;
use crate::support::weir;

/// Answers as it is told, then with 200; keeps the bodies of what it took.
struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// `answers`: what the first requests are answered; nought: nothing ever, the connection stays open.
    fn start(answers: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::<Mutex<Vec<Value>>>::default();
        let (kept, mut answers) = (taken.clone(), VecDeque::from(answers.to_vec()));
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(body) = request(&mut stream) else { continue };
                match answers.pop_front().unwrap_or(200) {
                    0 => silent.push(stream),
                    200 => {
                        kept.lock().unwrap().push(body);
                        let answer =
                            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                        let _gone = stream.write_all(answer);
                    }
                    status => {
                        let answer = format!("HTTP/1.1 {status} No\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n");
                        let _gone = stream.write_all(answer.as_bytes());
                    }
                }
            }
        });
        Self { address, taken }
    }

    /// Waits for a trace whose pass has this outcome.
    fn trace(&self, outcome: &str, broker: &Broker) -> Trace {
        let start = Instant::now();
        loop {
            let bodies = self.taken.lock().unwrap().clone();
            let found = bodies.iter().map(Trace::read).find(|trace| {
                let pass = trace.span("reconcile");
                pass.attributes["weir.outcome"] == outcome
            });
            if let Some(trace) = found {
                return trace;
            }
            assert!(start.elapsed() < GUARD, "no pass that is {outcome}: {bodies:?}\n{}", broker.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The JSON of a request as an exporter makes it; `None`: the peer has gone.
fn request(stream: &mut TcpStream) -> Option<Value> {
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/json".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}

/// A request, taken apart; whatever OTLP's encoding does not have is an error.
struct Trace {
    resource: BTreeMap<String, String>,
    spans: Vec<Span>,
}

#[derive(Clone, Debug)]
struct Span {
    id: String,
    parent: String,
    name: String,
    begin_ns: u128,
    end_ns: u128,
    attributes: BTreeMap<String, String>,
    error: Option<String>,
}

/// The members of an object, which must have no others.
fn members<'a>(value: &'a Value, names: &[&str]) -> Vec<&'a Value> {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    for name in object.keys() {
        assert!(names.contains(&name.as_str()), "OTLP has no {name} here: {value}");
    }
    names.iter().map(|name| object.get(*name).unwrap_or(&Value::Null)).collect()
}

fn only(value: &Value) -> &Value {
    let list = value.as_array().unwrap();
    assert_eq!(list.len(), 1, "{value}");
    &list[0]
}

fn id(value: &Value, digits: usize) -> String {
    let text = value.as_str().unwrap_or_else(|| panic!("an id is a string of hexadecimal digits: {value}"));
    assert_eq!(text.len(), digits, "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.bytes().any(|byte| byte != b'0'), "{text}");
    text.to_owned()
}

/// 64-bit numbers are strings, so that JavaScript does not round them.
fn nanoseconds(value: &Value) -> u128 {
    let text = value.as_str().unwrap_or_else(|| panic!("a 64-bit number is a string: {value}"));
    let ns: u128 = text.parse().unwrap();
    assert!(ns > 1_500_000_000_000_000_000, "since the Unix epoch, in nanoseconds: {ns}");
    ns
}

fn attributes(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_array().unwrap().iter().map(|pair| {
        let [key, value] = members(pair, &["key", "value"])[..] else { unreachable!() };
        let text = match members(value, &["stringValue", "intValue"])[..] {
            [Value::String(text), Value::Null] => text.clone(),
            [Value::Null, Value::String(number)] => number.parse::<i64>().unwrap().to_string(),
            _ => panic!("no OTLP value: {value}"),
        };
        (key.as_str().unwrap().to_owned(), text)
    });
    let pairs: Vec<(String, String)> = pairs.collect();
    let count = pairs.len();
    let map = BTreeMap::from_iter(pairs);
    assert_eq!(map.len(), count, "an attribute is given once: {value}");
    map
}

impl Trace {
    fn read(body: &Value) -> Self {
        let of_resource = only(members(body, &["resourceSpans"])[0]);
        let [resource, of_scope] = members(of_resource, &["resource", "scopeSpans"])[..] else { unreachable!() };
        let [scope, spans] = members(only(of_scope), &["scope", "spans"])[..] else { unreachable!() };
        assert!(members(scope, &["name", "version"]).iter().all(|each| each.is_string()));
        let mut traces = BTreeSet::new();
        let spans: Vec<Span> = spans.as_array().unwrap().iter().map(|each| span(each, &mut traces)).collect();
        assert_eq!(traces.len(), 1, "a pass is one trace");
        let ids: BTreeSet<&String> = spans.iter().map(|span| &span.id).collect();
        assert_eq!(ids.len(), spans.len(), "an id is given once");
        for child in spans.iter().filter(|span| !span.parent.is_empty()) {
            let parent = spans.iter().find(|span| span.id == child.parent).expect("a parent is among them");
            let within = parent.begin_ns <= child.begin_ns && child.end_ns <= parent.end_ns;
            assert!(within && child.begin_ns <= child.end_ns, "{child:?} within {parent:?}");
        }
        assert_eq!(spans.iter().filter(|span| span.parent.is_empty()).count(), 1);
        Self { resource: attributes(members(resource, &["attributes"])[0]), spans }
    }

    fn span(&self, name: &str) -> &Span {
        self.spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {:?}", self.spans))
    }

    fn parent(&self, name: &str) -> &str {
        let parent = &self.span(name).parent;
        self.spans.iter().find(|span| span.id == *parent).map_or("", |span| &span.name)
    }
}

fn span(value: &Value, traces: &mut BTreeSet<String>) -> Span {
    const MEMBERS: [&str; 9] = [
        "traceId",
        "spanId",
        "parentSpanId",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "attributes",
        "status",
    ];
    let [trace, span, parent, name, kind, begin, end, of_span, status] = members(value, &MEMBERS)[..] else {
        unreachable!()
    };
    traces.insert(id(trace, 32));
    assert_eq!(kind.as_u64(), Some(1), "an internal span");
    let error = match members(status, &["code", "message"])[..] {
        [Value::Null, Value::Null] => None,
        [code, Value::String(message)] if code.as_u64() == Some(2) => Some(message.clone()),
        _ => panic!("no OTLP status: {status}"),
    };
    Span {
        id: id(span, 16),
        parent: if parent.is_null() { String::new() } else { id(parent, 16) },
        name: name.as_str().unwrap().to_owned(),
        begin_ns: nanoseconds(begin),
        end_ns: nanoseconds(end),
        attributes: attributes(of_span),
        error,
    }
}

async fn traced(collector: &Collector) -> Broker {
    let url = format!("http://{}", collector.address);
    Broker::start(&["--otlp-endpoint", &url, "--node-name", "node-1", "--resync-s", "1"])
}

/// The value of a metric without labels.
async fn metric(broker: &Broker, name: &str) -> f64 {
    let scraped = get(broker.status(), "/metrics").await;
    let line = scraped.text().lines().find(|line| line.starts_with(&format!("{name} "))).map(str::to_owned);
    line.unwrap_or_else(|| panic!("no {name}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_is_one_trace_with_a_span_for_each_action() {
    let collector = Collector::start(&[]);
    let broker = traced(&collector).await;
    let first = collector.trace("applied", &broker);
    assert_eq!(first.resource["service.name"], "weir");
    assert_eq!(first.resource["service.instance.id"], "node-1");
    for (name, parent) in [
        ("read", "reconcile"),
        ("validate", "reconcile"),
        ("plan", "reconcile"),
        ("apply", "reconcile"),
        ("endpoint add", "apply"),
    ] {
        assert_eq!(first.parent(name), parent, "{name}");
    }
    let pass = first.span("reconcile");
    let known = get(broker.status(), "/api/source").await.json()["data"].clone();
    assert_eq!(pass.attributes["weir.source.kind"], "directory");
    assert_eq!(pass.attributes["weir.revision"], known["appliedRevision"]);
    assert_eq!(pass.attributes["weir.digest"], known["declarationDigest"]);
    assert_eq!(pass.error, None);
    assert_eq!(first.span("endpoint add").attributes["weir.endpoint"], "local");
    assert_eq!(first.span("plan").attributes["weir.actions"], "1");

    // An address that is taken, and a document that is wrong.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let two =
        format!("endpoint: {{name: busy, host: 127.0.0.1, port: {port}}}\n---\nendpoint: {{name: odd, prot: 1}}\n");
    broker.write("more.yaml", &two);
    let second = collector.trace("appliedWithRefusals", &broker);
    let action =
        second.spans.iter().find(|span| span.attributes.get("weir.endpoint").is_some_and(|name| name == "busy"));
    let action = action.unwrap_or_else(|| panic!("{:?}", second.spans));
    assert!(action.error.as_ref().is_some_and(|error| error.contains("in use")), "{action:?}");
    assert!(second.span("reconcile").error.is_some());
    let validate = second.span("validate");
    assert!(validate.error.as_ref().is_some_and(|error| error.contains("more.yaml:3")), "{validate:?}");
    assert_ne!(validate.attributes["weir.diagnostics.errors"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_or_silent_collector_delays_no_pass_and_gets_all_spans() {
    // The first requests are told to come again.
    let collector = Collector::start(&[503, 429, 503]);
    let broker = traced(&collector).await;
    let first = collector.trace("applied", &broker);
    assert_eq!(first.span("endpoint add").attributes["weir.endpoint"], "local");
    let log = broker.log();
    assert_eq!(log.matches("trace export failed").count(), 1, "{log}");
    let start = Instant::now();
    while metric(&broker, "weir_telemetry_up").await < 1.0
        || metric(&broker, "weir_telemetry_spans_exported_total").await < 5.0
    {
        assert!(start.elapsed() < GUARD, "{}", broker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(broker.log().contains("trace export works again"));

    let silent = Collector::start(&[0; 100]);
    let broker = traced(&silent).await;
    let passes = metric(&broker, "weir_reconcile_passes_total").await;
    let start = Instant::now();
    while metric(&broker, "weir_reconcile_passes_total").await < passes + 3.0 {
        assert!(start.elapsed() < GUARD, "{}", broker.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(silent.taken.lock().unwrap().is_empty());
}

#[test]
fn an_invalid_collector_url_is_refused_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let output = weir::command()
        .args(["run", "--status-addr", "none", "--otlp-endpoint", "http://me:secret@127.0.0.1:4318", "--endpoints"])
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("--otlp-endpoint: credentials do not belong in the URL") && !said.contains("secret"),
        "{said}"
    );
}
