//! A broker that only looks like one: fixed times, four endpoints of different fates, one refused change.

use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::watch;
use weir_declare::config::{Diagnostic, Position, Severity};
use weir_declare::reconcile::{ConditionStatus, ConditionType, Conditions, Reason, Timestamp};
use weirmq::state::{Commit, HistoryAction, HistoryEntry, Outcome, Phase, SourceErrorKind, SourceFailure, SourceState};
use weirmq::state::{EndpointSummary, NodeRecord, NodeRefusal};
use weirmq::status::*;
use weirmq::store::records::StoreStats;
use weirmq::telemetry::TelemetryStats;

pub const NOW: Timestamp = Timestamp::from_unix_ms(1_795_233_600_000);

/// What the server is shown; tests change it.
pub struct Fake {
    pub state: Mutex<Arc<State>>,
    pub traffic: Mutex<Traffic>,
    pub changes: watch::Sender<u64>,
    pub now: Mutex<Timestamp>,
    pub clients: Vec<Client>,
    /// Whether a shard hangs.
    pub hangs: AtomicBool,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(Arc::new(state())),
            traffic: Mutex::new(traffic()),
            changes: watch::Sender::new(7),
            now: Mutex::new(NOW),
            clients: clients(),
            hangs: AtomicBool::new(false),
        })
    }

    /// Time passes, and messages come.
    pub fn tick(&self, ms: u64, messages: u64) {
        let mut now = self.now.lock().unwrap();
        *now = now.plus_ms(ms);
        let mut traffic = self.traffic.lock().unwrap();
        traffic.endpoints.get_mut("mqtt").unwrap().messages_received += messages;
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap();
        change(Arc::make_mut(&mut state));
        drop(state);
        self.changes.send_modify(|version| *version += 1);
    }
}

impl StatusView for Fake {
    fn state(&self) -> Arc<State> {
        self.state.lock().unwrap().clone()
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap().clone()
    }
    fn bridges(&self) -> Vec<BridgeView> {
        vec![bridge()]
    }
    fn store(&self) -> Option<Arc<StoreStats>> {
        let store = StoreStats::default();
        store.commits.store(3, Ordering::Relaxed);
        store.records.store(40, Ordering::Relaxed);
        store.bytes.store(5_000, Ordering::Relaxed);
        Some(Arc::new(store))
    }
    fn telemetry(&self) -> Option<Arc<TelemetryStats>> {
        let telemetry = TelemetryStats::default();
        telemetry.exported.store(210, Ordering::Relaxed);
        Some(Arc::new(telemetry))
    }
    fn gauges(&self) -> ShardAnswer<Option<Gauges>> {
        let held = EndpointSessionGauges {
            sessions: 22,
            sessions_away: 7,
            subscriptions: 30,
            inflight_messages: 4,
            queued_messages: 12,
            queued_bytes: 768,
        };
        Box::pin(async move {
            Some(Gauges {
                sessions: 25,
                subscriptions: 31,
                retained_messages: 3,
                retained_bytes: 96,
                inflight_messages: 4,
                queued_messages: 12,
                internal_errors: vec![("session_of_connection", 0)],
                endpoints: BTreeMap::from([("mqtt".to_owned(), held)]),
            })
        })
    }
    fn clients(&self, query: ClientQuery) -> ShardAnswer<Option<ClientPage>> {
        let of_interest = self.clients.iter().filter(|client| {
            query.endpoint.as_ref().is_none_or(|endpoint| client.endpoint == *endpoint)
                && query.client_id.as_ref().is_none_or(|id| client.client_id == *id)
                && query.client_id_prefix.as_ref().is_none_or(|prefix| client.client_id.starts_with(prefix))
                && query.address.is_none_or(|address| client.address.is_some_and(|each| each.ip() == address))
                && query.after.is_none_or(|after| client.sequence > after)
        });
        let detailed = query.client_id.is_some();
        let detail = || ClientDetail {
            keep_alive_s: 60,
            session_expiry_s: 3600,
            subscriptions: vec!["sensor/+/temp".to_owned(), "$share/g/a/#".to_owned()],
            ..ClientDetail::default()
        };
        let of_interest = of_interest.map(|client| Client { detail: detailed.then(detail), ..client.clone() });
        let mut clients: Vec<Client> = of_interest.take(query.limit + 1).collect();
        let more = clients.len() > query.limit;
        clients.truncate(query.limit);
        Box::pin(async move { Some(ClientPage { clients, more }) })
    }
    fn backlogs(&self, limit: usize) -> ShardAnswer<Option<Vec<Backlog>>> {
        let slow = Backlog {
            client_id: "dashboard".to_owned(),
            endpoint: "mqtt".to_owned(),
            connected: true,
            slow: true,
            inflight_messages: 20,
            queued_messages: 950,
            queued_bytes: 61_440,
            waiting_bytes: 1_048_576,
            dropped_messages: 5,
        };
        let away = Backlog {
            client_id: "archive".to_owned(),
            endpoint: "tls-a".to_owned(),
            queued_messages: 12,
            queued_bytes: 768,
            ..Backlog::default()
        };
        let worst = vec![slow, away].into_iter().take(limit).collect();
        Box::pin(async move { Some(worst) })
    }
    fn topics(&self, query: TopicQuery) -> ShardAnswer<Option<TopicPage>> {
        let topic = |namespace: &str, topic: &str, qos: u8| RetainedTopic {
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            qos,
            payload_bytes: 4,
            expires_in_s: (qos == 1).then_some(3600),
        };
        let all = [topic("", "sensor/1/temp", 1), topic("", "$SYS/broker/version", 0), topic("eu", "sensor/1/temp", 2)];
        let TopicCursor(_, _, start) = query.after;
        let start: usize = start.parse().unwrap_or(0);
        let wanted = all.into_iter().enumerate().skip(start as usize).filter(|(_, each)| {
            query.namespace.as_ref().is_none_or(|namespace| each.namespace == *namespace)
                && query.filter.as_ref().is_none_or(|filter| weir_mqtt::matches(filter, &each.topic))
        });
        let mut wanted: Vec<(usize, RetainedTopic)> = wanted.take(query.limit + 1).collect();
        let more = wanted.split_off(query.limit.min(wanted.len()));
        let next = more.first().map(|(at, _)| TopicCursor(0, 0, at.to_string()));
        Box::pin(async move { Some(TopicPage { topics: wanted.into_iter().map(|(_, each)| each).collect(), next }) })
    }
    fn trace(&self, query: TraceQuery) -> ShardAnswer<Option<tokio::sync::mpsc::Receiver<TraceEvent>>> {
        let (tell, told) = tokio::sync::mpsc::channel(8);
        let packet = json!({"at": NOW, "direction": "received", "packet": "PUBLISH", "topic": query.client_id});
        for (kind, data) in [("connected", json!({"at": NOW})), ("packet", packet.clone()), ("packet", packet)] {
            tell.try_send(TraceEvent { kind, data }).unwrap();
        }
        Box::pin(async move {
            tokio::spawn(async move { tell.closed().await });
            Some(told)
        })
    }
    fn ping_shards(&self) -> ShardAnswer<bool> {
        let hangs = self.hangs.load(Ordering::Relaxed);
        Box::pin(async move { if hangs { std::future::pending().await } else { true } })
    }
    fn validate(&self, request: ValidateRequest) -> Validation {
        match request {
            ValidateRequest::Endpoint(text) | ValidateRequest::Set(text) if text.contains("prot:") => {
                Validation { valid: false, diagnostics: vec![diagnostic()], declaration_digest: None }
            }
            ValidateRequest::Endpoint(_) => Validation { valid: true, ..Validation::default() },
            ValidateRequest::Set(_) => {
                Validation { valid: true, diagnostics: Vec::new(), declaration_digest: Some("v1:5f0c".to_owned()) }
            }
        }
    }
    fn read_source(&self) {}
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }
}

/// Serves `fake` on a free port.
pub fn serve_with(fake: &Arc<Fake>, options: StatusOptions) -> StatusServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    weirmq::status::serve(listener, fake.clone(), options).unwrap()
}

pub fn serve(fake: &Arc<Fake>) -> StatusServer {
    serve_with(fake, StatusOptions::default())
}

fn ago(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(NOW.unix_ms - seconds * 1000)
}

fn diagnostic() -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: "unknown-field",
        file: "endpoints.d/ws.yaml".into(),
        position: Position { line: 3, col: 3, len: 4 },
        path: "endpoint.prot".to_owned(),
        message: "unknown field `prot`".to_owned(),
        help: Some("did you mean `port`?".to_owned()),
        related: Vec::new(),
        identity: None,
    }
}

fn body(port: u16, more: Value) -> Value {
    let mut body = json!({"port": port, "host": "0.0.0.0", "useWebsocket": false, "path": "/mqtt", "enableAuth": true,
        "enableAcl": true, "enableBridge": false, "messageMaxSize": 4_194_304, "enabled": true, "isDefault": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn conditions(falls: &[(ConditionType, bool, Reason, &str)]) -> Conditions {
    let mut conditions = Conditions::unknown(ago(600));
    for kind in ConditionType::ALL {
        conditions.set(kind, kind.healthy_when_true(), Reason::AsDeclared, "", 2, ago(600));
    }
    for (kind, holds, reason, message) in falls {
        conditions.set(*kind, *holds, *reason, *message, 3, ago(30));
    }
    conditions
}

fn endpoint(name: &str, address: &str, declared: Value) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        address: address.to_owned(),
        origin: Origin { file: format!("endpoints.d/{name}.yaml"), line: 2 },
        declared: Some(declared.clone()),
        live: Some(declared),
        conditions: conditions(&[]),
        pending: None,
        certificate_expires_at: None,
    }
}

fn endpoints() -> Vec<Endpoint> {
    let tls = json!({"sslConfig": {"certFile": "tls/a.pem", "keyFile": "tls/a.key"}, "maxConnectionSize": 10});
    let held = (ConditionType::Accepted, false, Reason::Invalid, "endpoints.d/ws.yaml:3:3: unknown field `prot`");
    let taken = (ConditionType::Programmed, false, Reason::AddressInUse, "0.0.0.0:1885 is in use by process 4711");
    vec![
        endpoint("mqtt", "0.0.0.0:1883", body(1883, json!({"maxConnectionSize": 1000, "maxSessionSize": 100}))),
        Endpoint {
            live: None,
            conditions: conditions(&[taken]),
            pending: Some("bind 0.0.0.0:1885".to_owned()),
            ..endpoint("site/spare", "0.0.0.0:1885", body(1885, json!({})))
        },
        Endpoint {
            live: Some(body(8883, json!({"host": "10.0.0.1", "sslConfig": {}, "maxConnectionSize": 5}))),
            pending: Some("rebind 10.0.0.1:8883".to_owned()),
            certificate_expires_at: Some(Timestamp::from_unix_ms(NOW.unix_ms + 86_400_000)),
            ..endpoint("tls-a", "10.0.0.1:8883", body(8883, tls.clone()))
        },
        endpoint("tls-b", "10.0.0.2:8883", body(8883, tls)),
        Endpoint {
            address: String::new(),
            declared: None,
            live: None,
            conditions: conditions(&[(
                ConditionType::Accepted,
                false,
                Reason::Invalid,
                "endpoints.d/new.yaml:2:3: no",
            )]),
            ..endpoint("new", "", json!({}))
        },
        endpoint("unix", "unix:/run/weir.sock", json!({"host": "unix:/run/weir.sock", "enabled": true})),
        Endpoint { live: None, ..endpoint("off", "0.0.0.0:1999", body(1999, json!({"enabled": false}))) },
        Endpoint {
            conditions: conditions(&[held]),
            ..endpoint("ws", "0.0.0.0:8083", body(8083, json!({"useWebsocket": true})))
        },
    ]
}

fn history() -> VecDeque<HistoryEntry> {
    let action = |endpoint: &str, action: &str, error: Option<&str>| HistoryAction {
        endpoint: endpoint.to_owned(),
        action: action.to_owned(),
        error: error.map(str::to_owned),
    };
    let commit = Commit {
        id: "8d1e0a5b6c7d8e9fa0b1c2d3e4f5061728394a5b".to_owned(),
        author: "Ada <ada@example.com>".to_owned(),
        committed_at: ago(3600),
        subject: "Open the WebSocket <port>".to_owned(),
    };
    let first = HistoryEntry {
        sequence: 1,
        at: ago(3590),
        revision: "8d1e0a5b6c7d".to_owned(),
        commit: Some(commit),
        outcome: Outcome::Applied,
        summary: "2 to add".to_owned(),
        actions: vec![action("mqtt", "add", None), action("ws", "add", None)],
        diff: "--- /dev/null\n+++ endpoints.d/ws.yaml\n@@ -0,0 +1,2 @@\n+endpoint:\n+  port: 8083\n".to_owned(),
        duration_us: 1800,
    };
    let second = HistoryEntry {
        sequence: 2,
        at: ago(30),
        revision: "0badc0ffee00".to_owned(),
        commit: None,
        outcome: Outcome::AppliedWithRefusals,
        summary: "1 to rebind, 1 refused".to_owned(),
        actions: vec![action("site/spare", "add", Some("address in use")), action("ws", "refused", None)],
        diff: "--- endpoints.d/ws.yaml\n+++ endpoints.d/ws.yaml\n@@ -1,2 +1,2 @@\n endpoint:\n-  port: 8083\n+  prot: 8084\n"
            .to_owned(),
        duration_us: 2400,
    };
    VecDeque::from([first, second])
}

pub fn state() -> State {
    let mut endpoints = endpoints();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    let documents = endpoints.iter().filter(|endpoint| endpoint.declared.is_some()).map(|endpoint| Document {
        kind: "endpoint",
        name: Some(endpoint.name.clone()),
        origin: endpoint.origin.clone(),
        body: endpoint.declared.clone().unwrap_or_default(),
    });
    let bridge = Document {
        kind: "bridge",
        name: Some("cloud".to_owned()),
        origin: Origin { file: "endpoints.d/cloud.yaml".to_owned(), line: 1 },
        body: json!({"address": ["mqtts://a.example.com:8883"], "password": "file:cloud.secret"}),
    };
    let record = NodeRecord {
        name: "n1".to_owned(),
        instance: "4f2a".to_owned(),
        version: "0.0.0-test".to_owned(),
        started_at: ago(7200),
        phase: Phase::Serving,
        attempted_revision: Some("0badc0ffee00".to_owned()),
        applied_revision: Some("0badc0ffee00".to_owned()),
        declaration_digest: "v1:2b8c".to_owned(),
        live_digest: "v1:77aa".to_owned(),
        ..NodeRecord::default()
    };
    let refused = NodeRefusal {
        endpoint: Some("mqtt".to_owned()),
        reason: "AddressInUse".to_owned(),
        message: "cannot listen on 0.0.0.0:1883".to_owned(),
    };
    let other = NodeRecord {
        name: "n2".to_owned(),
        instance: "93c1".to_owned(),
        status_url: Some("http://10.0.0.2:8080".to_owned()),
        endpoints: EndpointSummary {
            declared: 3,
            listening: 1,
            addresses: BTreeMap::from([("wss".to_owned(), "0.0.0.0:8084".to_owned())]),
        },
        refusals: BTreeMap::from([("endpoints.d/mqtt.yaml".to_owned(), refused)]),
        ..record.clone()
    };
    let this = ClusterNode { record, this: true, converged: true, ..ClusterNode::default() };
    let reason = Some("it has applied revision 12, the newest is 15".to_owned());
    let other = ClusterNode { record: other, reason, ..ClusterNode::default() };
    State {
        node: Node {
            name: "n1".to_owned(),
            labels: BTreeMap::from([("site".to_owned(), "eu".to_owned())]),
            version: "0.0.0-test".to_owned(),
            started_at: ago(7200),
            shards: 2,
        },
        phase: Phase::Serving,
        suspended: false,
        source: SourceState {
            kind: "git",
            location: "/etc/weir/endpoints.d".to_owned(),
            attempted_revision: Some("0badc0ffee00".to_owned()),
            applied_revision: Some("0badc0ffee00".to_owned()),
            applied_at: Some(ago(30)),
            commit: None,
            last_read_at: Some(ago(3)),
            reads: 41,
            store: None,
            trouble: None,
            incidents: BTreeMap::from([("unreadable", 2)]),
            last_known_good: None,
            ignored: vec!["README.md".to_owned()],
        },
        declaration_digest: "v1:2b8c".to_owned(),
        live_digest: "v1:77aa".to_owned(),
        documents: documents.chain([bridge]).collect(),
        endpoints,
        diagnostics: Arc::from([diagnostic()]),
        history: Arc::new(history()),
        nodes: vec![this, other],
        membership_trouble: None,
        plan: Arc::default(),
        reconcile: ReconcileCounters {
            passes: 42,
            last_pass_s: 0.0024,
            durations: Histogram { bounds: vec![0.001, 0.01, 0.1], counts: vec![30, 11, 1, 0], sum: 0.1 },
        },
    }
}

pub fn unreadable(state: &mut State) {
    let message = "/etc/weir/endpoints.d: permission denied".to_owned();
    state.source.trouble = Some(SourceFailure { kind: SourceErrorKind::Unreadable, message, since: ago(10) });
}

pub fn traffic() -> Traffic {
    let mqtt = EndpointTraffic {
        connections: 17,
        pending: 2,
        accepted: 120,
        connects: Counts::from([("success", 110), ("badUserNameOrPassword", 4)]),
        authentication_failures: 4,
        authorization_failures: 2,
        errors: Counts::from([("protocol", 3), ("timeout", 1)]),
        messages_received: 4000,
        messages_sent: 9000,
        messages_dropped: Counts::from([("queueFull", 5)]),
        bytes_received: 123_456,
        bytes_sent: 654_321,
    };
    let full = EndpointTraffic { connections: 5, accepted: 5, ..EndpointTraffic::NONE };
    Traffic {
        endpoints: BTreeMap::from([("mqtt".to_owned(), mqtt), ("tls-a".to_owned(), full)]),
        deliver_durations: Histogram { bounds: vec![0.000_05, 0.000_5], counts: vec![90, 9, 1], sum: 0.004 },
    }
}

fn clients() -> Vec<Client> {
    (1..=5)
        .map(|number| Client {
            client_id: if number == 5 { "<script>alert(1)</script>".to_owned() } else { format!("sensor-{number}") },
            endpoint: if number % 2 == 0 { "ws".to_owned() } else { "mqtt".to_owned() },
            sequence: number,
            address: format!("192.0.2.{number}:5000{number}").parse().ok(),
            username: (number == 1).then(|| "ada".to_owned()),
            protocol: if number == 3 { "3.1.1" } else { "5.0" },
            transport: if number % 2 == 0 { "ws" } else { "tcp" },
            connected_at: ago(100 - number),
            shard: u16::try_from(number % 2).unwrap(),
            detail: None,
        })
        .collect()
}

fn bridge() -> BridgeView {
    let condition = |kind, status, reason, message: &str| BridgeCondition {
        kind,
        status,
        reason,
        message: message.to_owned(),
        observed_generation: 2,
        last_transition_time: (kind == "Connected").then(|| NOW.plus_ms(0)),
    };
    let lost = "mqtt://b.example.com:1883: the other broker closed the connection";
    BridgeView {
        name: "cloud".to_owned(),
        origin: Origin { file: "endpoints.d/cloud.yaml".to_owned(), line: 1 },
        endpoints: vec!["mqtt".to_owned()],
        addresses: vec!["mqtts://a.example.com:8883".to_owned(), "mqtt://b.example.com:1883".to_owned()],
        conditions: vec![
            condition("ResolvedRefs", ConditionStatus::True, "AsDeclared", ""),
            condition("Connected", ConditionStatus::False, "Lost", lost),
        ],
        link: Some(BridgeLink {
            connected: false,
            address: Some("mqtt://b.example.com:1883".to_owned()),
            connects: 3,
            failures: 4,
            last_error: Some(lost.to_owned()),
            messages_sent: 1200,
            messages_received: 34,
            messages_dropped: Counts::from_iter([("loop", 1), ("no_rule", 0), ("queue_full", 5), ("refused", 0)]),
            queued_messages: 17,
            queued_bytes: 2048,
            inflight_messages: 2,
            lag_s: 1.5,
            refused_filters: vec![RefusedFilter { filter: "secret/#".to_owned(), reason_code: 0x87 }],
        }),
    }
}
