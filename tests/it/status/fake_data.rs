//! The values that the fake broker shows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use weir_declare::config::{Diagnostic, Position, Severity};
use weir_declare::reconcile::{ConditionReason, ConditionStatus, ConditionType, Conditions, Timestamp};
use weirmq::state::{Commit, HistoryAction, HistoryEntry, Outcome, Phase, SourceErrorKind, SourceFailure, SourceState};
use weirmq::state::{EndpointSummary, NodeRecord, NodeRefusal};
use weirmq::status::*;

use super::fake::NOW;

pub fn ago(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(NOW.unix_ms - seconds * 1000)
}

pub fn diagnostic() -> Diagnostic {
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

pub fn body(port: u16, more: Value) -> Value {
    let mut body = json!({"port": port, "host": "0.0.0.0", "useWebsocket": false, "path": "/mqtt", "enableAuth": true,
        "enableAcl": true, "enableBridge": false, "messageMaxSize": 4_194_304, "enabled": true, "isDefault": false});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub fn conditions(falls: &[(ConditionType, bool, ConditionReason, &str)]) -> Conditions {
    let mut conditions = Conditions::unknown(ago(600));
    for kind in ConditionType::ALL {
        conditions.set(kind, kind.healthy_when_true(), ConditionReason::AsDeclared, "", 2, ago(600));
    }
    for (kind, holds, reason, message) in falls {
        conditions.set(*kind, *holds, *reason, *message, 3, ago(30));
    }
    conditions
}

pub fn endpoint(name: &str, address: &str, declared: Value) -> EndpointView {
    EndpointView {
        name: name.to_owned(),
        address: address.to_owned(),
        origin: OriginView { file: format!("endpoints.d/{name}.yaml"), line: 2 },
        declared: Some(declared.clone()),
        live: Some(declared),
        conditions: conditions(&[]),
        pending: None,
        certificate_expires_at: None,
    }
}

pub fn endpoints() -> Vec<EndpointView> {
    let tls = json!({"sslConfig": {"certFile": "tls/a.pem", "keyFile": "tls/a.key"}, "maxConnectionSize": 10});
    let held =
        (ConditionType::Accepted, false, ConditionReason::Invalid, "endpoints.d/ws.yaml:3:3: unknown field `prot`");
    let taken =
        (ConditionType::Programmed, false, ConditionReason::AddressInUse, "0.0.0.0:1885 is in use by process 4711");
    vec![
        endpoint("mqtt", "0.0.0.0:1883", body(1883, json!({"maxConnectionSize": 1000, "maxSessionSize": 100}))),
        EndpointView {
            live: None,
            conditions: conditions(&[taken]),
            pending: Some("bind 0.0.0.0:1885".to_owned()),
            ..endpoint("site/spare", "0.0.0.0:1885", body(1885, json!({})))
        },
        EndpointView {
            live: Some(body(8883, json!({"host": "10.0.0.1", "sslConfig": {}, "maxConnectionSize": 5}))),
            pending: Some("rebind 10.0.0.1:8883".to_owned()),
            certificate_expires_at: Some(Timestamp::from_unix_ms(NOW.unix_ms + 86_400_000)),
            ..endpoint("tls-a", "10.0.0.1:8883", body(8883, tls.clone()))
        },
        endpoint("tls-b", "10.0.0.2:8883", body(8883, tls)),
        EndpointView {
            address: String::new(),
            declared: None,
            live: None,
            conditions: conditions(&[(
                ConditionType::Accepted,
                false,
                ConditionReason::Invalid,
                "endpoints.d/new.yaml:2:3: no",
            )]),
            ..endpoint("new", "", json!({}))
        },
        endpoint("unix", "unix:/run/weir.sock", json!({"host": "unix:/run/weir.sock", "enabled": true})),
        EndpointView { live: None, ..endpoint("off", "0.0.0.0:1999", body(1999, json!({"enabled": false}))) },
        EndpointView {
            conditions: conditions(&[held]),
            ..endpoint("ws", "0.0.0.0:8083", body(8083, json!({"useWebsocket": true})))
        },
    ]
}

pub fn history() -> VecDeque<HistoryEntry> {
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

pub fn state() -> StateView {
    let mut endpoints = endpoints();
    endpoints.sort_by(|a, b| a.name.cmp(&b.name));
    let documents = endpoints.iter().filter(|endpoint| endpoint.declared.is_some()).map(|endpoint| DocumentView {
        kind: "endpoint",
        name: Some(endpoint.name.clone()),
        origin: endpoint.origin.clone(),
        body: endpoint.declared.clone().unwrap_or_default(),
    });
    let bridge = DocumentView {
        kind: "bridge",
        name: Some("cloud".to_owned()),
        origin: OriginView { file: "endpoints.d/cloud.yaml".to_owned(), line: 1 },
        body: json!({"address": ["mqtts://a.example.com:8883"], "password": "file:cloud.secret"}),
    };
    StateView {
        node: NodeView {
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
            error: None,
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
        nodes: nodes(),
        membership_error: None,
        plan: Arc::default(),
        reconcile: ReconcileCounters {
            passes: 42,
            last_pass_s: 0.0024,
            durations: Histogram { bounds: vec![0.001, 0.01, 0.1], counts: vec![30, 11, 1, 0], sum: 0.1 },
        },
    }
}

/// A node of a cluster with one peer that is late.
pub fn members() -> ClusterMembersView {
    let link = ClusterLinkView {
        unacknowledged_bytes: 640,
        buffered_bytes: 128,
        envelopes_sent: 70,
        bytes_sent: 9_000,
        envelopes_received: 65,
        resends: 2,
        gaps: 1,
        duplicates: 1,
        ..ClusterLinkView::default()
    };
    let applied = ClusterAppliedView {
        revision: Some("0badc0ffee00".to_owned()),
        converged: true,
        ..ClusterAppliedView::default()
    };
    let peer = ClusterPeerView {
        node: "n2".to_owned(),
        incarnation: "00000000000000b2".to_owned(),
        state: "in",
        version: "0.0.0-test".to_owned(),
        clients: 4,
        applied: applied.clone(),
        endpoints: Some(BTreeMap::from([("mqtt".to_owned(), 3)])),
        unlisted_clients: 1,
        silent_ms: 1_700,
        link: Some(link),
    };
    let left = ClusterPeerView { node: "n3".to_owned(), state: "left", link: None, ..peer.clone() };
    ClusterMembersView {
        node: "n1".to_owned(),
        incarnation: "00000000000000a1".to_owned(),
        is_in: true,
        ready: true,
        not_ready: None,
        role: "member",
        isolated: false,
        clients: 3,
        applied,
        slots_per_class: Some(16),
        removed: vec!["n4".to_owned()],
        disconnects: BTreeMap::from([("evacuated", 0), ("isolated", 7), ("removed", 0)]),
        peers: vec![peer, left],
        suspects: vec![ClusterSuspectView { node: "n2".to_owned(), reason: "no heartbeat for 1700 ms".to_owned() }],
        slots: [(0, "memory", Some("n1"), true), (1, "memory", Some("n2"), false), (2, "disk", None, false)]
            .map(|(slot, durability, node, served)| ClusterSlotView {
                slot,
                durability,
                node: node.map(str::to_owned),
                served,
                moves_to: (slot == 0).then(|| "n2".to_owned()),
            })
            .into(),
        moves: ClusterMovesView { finished: 9, abandoned: 1, sessions_sent: 40, sessions_received: 30 },
        wills: ClusterWillsView { entrusted: 3, entrusted_bytes: 90, kept: 2, refused: 1, published: 4 },
        relays: ClusterRelaysView { opened: 5, accepted: 6, bytes_sent: 700, bytes_received: 800, resets: 1 },
        log: ClusterLogView { applied: 12, waiting: 1, unstored_bytes: 64 },
        engine: ClusterEngineView {
            servers: BTreeMap::from([("links", Some("nats-1".to_owned())), ("streams", None)]),
            connects: 3,
            disconnects: 1,
            heartbeats_stored: 120,
            heartbeats_failed: 2,
            heartbeat_seconds: 0.5,
            retained_stored: 8,
            retained_seconds: 0.25,
            ..ClusterEngineView::default()
        },
        errors: 0,
        undecodable: 0,
    }
}

/// This broker and another one.
fn nodes() -> Vec<ClusterNodeView> {
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
    let this = ClusterNodeView { record, this: true, converged: true, ..ClusterNodeView::default() };
    let reason = Some("it has applied revision 12, the newest is 15".to_owned());
    let other = ClusterNodeView { record: other, reason, ..ClusterNodeView::default() };
    vec![this, other]
}

pub fn unreadable(state: &mut StateView) {
    let message = "/etc/weir/endpoints.d: permission denied".to_owned();
    state.source.error = Some(SourceFailure { kind: SourceErrorKind::Unreadable, message, since: ago(10) });
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

pub fn clients() -> Vec<ClientView> {
    (1..=5)
        .map(|number| ClientView {
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

pub fn bridge() -> BridgeView {
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
        origin: OriginView { file: "endpoints.d/cloud.yaml".to_owned(), line: 1 },
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

/// Retained topics; clients choose their names.
const TOPICS: &[(&str, &[u8])] = &[
    ("$SYS/broker/version", b"0.1.0"),
    ("plant/line-1/temperature", b"21.5"),
    ("plant/line-1", b"running"),
    ("plant/line-2/temperature", "22 °C".as_bytes()),
    ("plant/camera", b"\xff\xd8\xff\xe0"),
    ("<img src=x onerror=alert(1)>", b"<script>alert(2)</script>"),
    ("pump\u{202e}gpj.exe", b"line 1\nline 2\x07"),
];

pub fn topic_level(query: &TopicLevelQuery) -> TopicLevelPage {
    let many = (0..250).map(|n| (format!("many/{n:03}"), b"1".to_vec()));
    let long = (format!("long/{}", "x".repeat(5000)), "y".repeat(512).into_bytes());
    let fixed = TOPICS.iter().map(|(topic, payload)| ((*topic).to_owned(), payload.to_vec()));
    let mut entries = BTreeMap::new();
    for (topic, payload) in fixed.chain(many).chain([long]).filter(|_| query.namespace.is_empty()) {
        let Some(rest) = topic.strip_prefix(&*query.prefix) else { continue };
        match rest.split_once('/') {
            Some((level, _)) => entries.insert(format!("{level}/"), None),
            None => entries.insert(
                rest.to_owned(),
                Some(TopicValueView { qos: 1, payload_bytes: payload.len() as u64, payload, expires_in_s: None }),
            ),
        };
    }
    let mut rest: Vec<TopicLevelView> = entries
        .into_iter()
        .filter(|(key, _)| query.after.as_ref().is_none_or(|after| key > after))
        .map(|(key, value)| TopicLevelView { key, value })
        .collect();
    let more = rest.len() > query.limit;
    rest.truncate(query.limit);
    let next = rest.last().filter(|_| more).map(|last| last.key.clone());
    TopicLevelPage { entries: rest, next }
}
