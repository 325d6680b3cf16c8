//! A stand-in for a broker: fixed times, endpoints in different states, one refused change.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::sync::watch;
use weir_broker::{MemoryAccount, MemoryKind};
use weir_declare::reconcile::Timestamp;
use weirmq::status::*;
use weirmq::store::records::StoreStats;
use weirmq::telemetry::TelemetryStats;

use super::fake_data::{bridge, clients, diagnostic, members, state, traffic};

pub const NOW: Timestamp = Timestamp::from_unix_ms(1_795_233_600_000);

/// What the server is shown; tests change it.
pub struct Fake {
    pub state: Mutex<Arc<StateView>>,
    pub traffic: Mutex<Traffic>,
    pub changes: watch::Sender<u64>,
    pub now: Mutex<Timestamp>,
    pub clients: Vec<ClientView>,
    pub members: Mutex<ClusterMembersView>,
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
            members: Mutex::new(members()),
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

    pub fn change(&self, change: impl FnOnce(&mut StateView)) {
        let mut state = self.state.lock().unwrap();
        change(Arc::make_mut(&mut state));
        drop(state);
        self.changes.send_modify(|version| *version += 1);
    }
}

impl StatusProvider for Fake {
    fn state(&self) -> Arc<StateView> {
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
    fn cluster_members(&self) -> Option<ClusterMembersView> {
        Some(self.members.lock().unwrap().clone())
    }
    fn store(&self) -> Option<Arc<StoreStats>> {
        let store = StoreStats::default();
        store.commits.store(3, Ordering::Relaxed);
        store.records.store(40, Ordering::Relaxed);
        store.bytes.store(5_000, Ordering::Relaxed);
        Some(Arc::new(store))
    }
    fn memory(&self) -> Option<MemoryAccount> {
        let memory = MemoryAccount::new(100_000_000);
        memory.add(MemoryKind::Retained, 5_000_000);
        memory.count_refusal(MemoryKind::Subscriptions);
        Some(memory)
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
        let of_interest = of_interest.map(|client| ClientView { detail: detailed.then(detail), ..client.clone() });
        let mut clients: Vec<ClientView> = of_interest.take(query.limit + 1).collect();
        let more = clients.len() > query.limit;
        clients.truncate(query.limit);
        Box::pin(async move { Some(ClientPage { clients, more }) })
    }
    fn backlogs(&self, limit: usize) -> ShardAnswer<Option<Vec<BacklogView>>> {
        let slow = BacklogView {
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
        let away = BacklogView {
            client_id: "archive".to_owned(),
            endpoint: "tls-a".to_owned(),
            queued_messages: 12,
            queued_bytes: 768,
            ..BacklogView::default()
        };
        let worst = vec![slow, away].into_iter().take(limit).collect();
        Box::pin(async move { Some(worst) })
    }
    fn topics(&self, query: TopicQuery) -> ShardAnswer<Option<TopicPage>> {
        let topic = |namespace: &str, topic: &str, qos: u8| RetainedTopicView {
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            qos,
            payload_bytes: 4,
            expires_in_s: (qos == 1).then_some(3600),
        };
        let all = [topic("", "sensor/1/temp", 1), topic("", "$SYS/broker/version", 0), topic("eu", "sensor/1/temp", 2)];
        let TopicCursor(_, _, start) = query.after;
        let start: usize = start.parse().unwrap_or(0);
        let wanted = all.into_iter().enumerate().skip(start).filter(|(_, each)| {
            query.namespace.as_ref().is_none_or(|namespace| each.namespace == *namespace)
                && query.filter.as_ref().is_none_or(|filter| weir_mqtt::matches(filter, &each.topic))
        });
        let mut wanted: Vec<(usize, RetainedTopicView)> = wanted.take(query.limit + 1).collect();
        let more = wanted.split_off(query.limit.min(wanted.len()));
        let next = more.first().map(|(at, _)| TopicCursor(0, 0, at.to_string()));
        Box::pin(async move { Some(TopicPage { topics: wanted.into_iter().map(|(_, each)| each).collect(), next }) })
    }
    fn topic_level(&self, query: TopicLevelQuery) -> ShardAnswer<Option<TopicLevelPage>> {
        let page = super::fake_data::topic_level(&query);
        let hangs = self.hangs.load(Ordering::Relaxed);
        Box::pin(async move { if hangs { std::future::pending().await } else { Some(page) } })
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
