//! The exact simulation: after every operation the broker runs until it is idle; every packet it sent, and its
//! gauges, must be what the model says.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy, WorkBudget};

use super::model::Model;
use super::rng::Rng;
use super::values::{Connecting, Expected, Message, NEVER, Subscription, Will};
use crate::node::{LinkId, Node, policy};
use crate::wire::*;

/// These have no wills, and may subscribe to everything.
const WATCHERS: usize = 2;
const CLIENTS: usize = 5;
const TOPICS: &[&str] = &["a", "a/b", "a/b/c", "b", "/", "c/d"];
const FILTERS: &[&str] = &["a", "a/b", "a/+", "a/#", "+/b", "+", "c/d", "b", "/"];
const WATCHERS_FILTERS: &[&str] = &["#", "w/+", "+/+", "+/#"];

/// A client's connection, as the client sees it.
struct Link {
    client: usize,
    version: Version,
    observer: Observer,
    received: Vec<u8>,
}

pub struct Exact {
    node: Node,
    model: Model,
    rng: Rng,
    policy: Arc<EndpointPolicy>,
    links: BTreeMap<LinkId, Link>,
    payloads: u64,
    /// What was done, for the report of a failure.
    pub log: Vec<String>,
    /// The link whose next PUBLISHes come in any order: it was sent retained messages of several topics.
    unordered: Option<LinkId>,
    /// Clients have room for everything: what is retained is read when they have, and not before where the budget is small.
    takes_all: bool,
}

fn name(client: usize) -> String {
    format!("client{client}")
}

impl Exact {
    /// `work`: what the cores do at once; the rest is put off.
    pub fn new(seed: u64, node: Node, work: WorkBudget) -> Exact {
        let model = Model::new(node.now);
        Exact {
            node,
            model,
            rng: Rng::new(seed),
            policy: policy(1, EndpointLimits::default()),
            links: BTreeMap::new(),
            payloads: 0,
            log: Vec::new(),
            unordered: None,
            takes_all: work != WorkBudget::default(),
        }
    }

    /// Does `steps` operations.
    pub fn run(&mut self, steps: usize) -> Result<(), String> {
        for step in 0..steps {
            self.unordered = None;
            let client = self.rng.below(CLIENTS);
            self.pass(self.until_turn_of(client));
            match (self.model.link(&name(client)), self.rng.below(20)) {
                (_, 0 | 1) => self.advance(),
                (_, 2) | (None, _) => self.connect(client),
                (Some(link), 3) => self.disconnect(client, link),
                (Some(link), 4..=6) => self.subscribe(client, link),
                (Some(link), 7) => self.unsubscribe(client, link),
                (Some(link), 8..=12) => self.publish(client, link),
                (Some(link), 13) => self.release(client, link),
                (Some(link), 14) => self.ping(client, link),
                (Some(link), _) => self.acknowledge(client, link),
            }
            self.node.settle();
            self.compare().map_err(|error| format!("step {step}: {error}"))?;
        }
        Ok(())
    }

    fn log(&mut self, what: String) {
        self.log.push(format!("{:>9} {what}", self.node.now));
    }

    fn send(&mut self, link: LinkId, packet: &Packet) {
        let Some(sender) = self.links.get_mut(&link) else { return };
        sender.observer.sent(packet);
        let bytes = packet.encode(sender.version);
        self.model.received(&name(sender.client));
        self.node.send(link, &bytes);
    }

    fn advance(&mut self) {
        let millis = self.rng.pick(&[1, 999, 1000, 3001, 5000, 14_011, 20_000, 30_037, 120_041]);
        self.log(format!("{millis} ms pass"));
        self.pass(millis);
    }

    fn pass(&mut self, millis: u64) {
        self.node.advance(millis);
        self.model.advance(self.node.now);
    }

    /// Each client acts in its own milliseconds of a second, so that no deadlines of two clients fall together: which of
    /// them comes first would be undefined.
    fn until_turn_of(&self, client: usize) -> u64 {
        (client as u64 * 10 + 1000 - self.node.now % 1000) % 1000
    }

    fn connect(&mut self, client: usize) {
        let version = if self.rng.one_in(3) { Version::V3_1_1 } else { Version::V5 };
        let clean = self.rng.one_in(3);
        let expiry_s = match version {
            Version::V5 => self.rng.pick(&[0, 5, 60, NEVER]),
            _ if clean => 0,
            _ => NEVER,
        };
        let keep_alive_s = self.rng.pick(&[0, 0, 30]);
        let receive_maximum = if version.is_v5() { self.rng.pick(&[1, 2, 3, 65_535]) } else { 65_535 };
        let receive_maximum = if self.takes_all { 65_535 } else { receive_maximum };
        let will = (client >= WATCHERS && self.rng.one_in(2)).then(|| self.will(client, version));
        let mut properties = Properties::new();
        if version.is_v5() {
            properties.push((0x11, PropertyValue::Number(expiry_s)));
            properties.push((0x21, PropertyValue::Number(receive_maximum)));
            if self.rng.one_in(3) {
                properties.push((0x22, PropertyValue::Number(2)));
            }
        }
        // To any node: a client finds its session wherever it connects.
        let at = self.rng.below(self.node.nodes());
        self.log(format!(
            "{} connects at {at}, {} clean {clean} expiry {expiry_s} keep-alive {keep_alive_s} receive maximum {receive_maximum} \
             will {will:?}",
            name(client),
            version.name()
        ));
        let link = self.node.open_at(at, Arc::clone(&self.policy));
        self.links.insert(link, Link { client, version, observer: Observer::new(version), received: Vec::new() });
        let packet = Packet::Connect(Connect {
            version,
            clean,
            keep_alive_s: keep_alive_s as u16,
            client_id: name(client),
            username: None,
            password: None,
            will: will.as_ref().map(|will| wire_will(will, version)),
            properties,
        });
        let how = Connecting {
            link,
            version,
            clean,
            expiry_s,
            keep_alive_s,
            receive_maximum: receive_maximum as usize,
            will,
        };
        self.model.connect(&name(client), how);
        self.send(link, &packet);
    }

    fn will(&mut self, client: usize, version: Version) -> Will {
        let is_v5 = version.is_v5();
        self.payloads += 1;
        Will {
            message: Message {
                topic: format!("w/{client}"),
                payload: format!("will{}", self.payloads).into_bytes(),
                qos: self.rng.below(3) as u8,
                retain: self.rng.one_in(3),
                expires_at: None,
                publisher: name(client),
            },
            delay_s: if is_v5 { self.rng.pick(&[0, 0, 3, 20]) } else { 0 },
            expiry_s: if is_v5 { self.rng.pick(&[None, None, Some(4)]) } else { None },
        }
    }

    fn disconnect(&mut self, client: usize, link: LinkId) {
        let version = self.links[&link].version;
        let session_expires = self.model.sessions[&name(client)].expiry_s > 0;
        if self.rng.one_in(2) {
            self.log(format!("{} is lost", name(client)));
            self.node.close(link);
            self.model.close(&name(client), None);
            return;
        }
        let code = if version.is_v5() { self.rng.pick(&[0, 0, 4]) } else { 0 };
        let expiry_s = (version.is_v5() && session_expires && self.rng.one_in(3)).then(|| self.rng.pick(&[0, 5, 60]));
        let properties = expiry_s.map(|seconds| (0x11, PropertyValue::Number(seconds))).into_iter().collect();
        self.log(format!("{} disconnects with {code} {expiry_s:?}", name(client)));
        self.send(link, &Packet::Disconnect { code, properties });
        self.model.disconnect(&name(client), code, expiry_s);
    }

    fn subscribe(&mut self, client: usize, link: LinkId) {
        let is_v5 = self.links[&link].version.is_v5();
        let wide = client < WATCHERS && self.rng.one_in(3);
        let filter = self.rng.pick(if wide { WATCHERS_FILTERS } else { FILTERS });
        let mut subscription = Subscription {
            qos: self.rng.below(3) as u8,
            no_local: is_v5 && self.rng.one_in(4),
            retain_as_published: is_v5 && self.rng.one_in(3),
            retain_handling: if is_v5 { self.rng.below(3) as u8 } else { 0 },
            identifier: (is_v5 && self.rng.one_in(2)).then(|| self.rng.below(300) as u32 + 1),
        };
        // Retained messages of several topics come in any order: only where all of them go out at once can it be learned.
        let mut retained = self.model.retained_under(&name(client), filter, subscription).len();
        if retained > 1 && !self.model.has_room(&name(client), retained) {
            if !is_v5 {
                return;
            }
            (subscription.retain_handling, retained) = (2, 0);
        }
        self.unordered = (retained > 1).then_some(link);
        self.log(format!("{} subscribes to {filter} {subscription:?}", name(client)));
        let options = subscription.qos
            | u8::from(subscription.no_local) << 2
            | u8::from(subscription.retain_as_published) << 3
            | subscription.retain_handling << 4;
        let properties = subscription.identifier.map(|id| (0x0B, PropertyValue::Number(id))).into_iter().collect();
        self.model.subscribe(&name(client), 9, filter, subscription);
        self.send(link, &Packet::Subscribe { id: 9, properties, filters: vec![(filter.to_owned(), options)] });
    }

    fn unsubscribe(&mut self, client: usize, link: LinkId) {
        let filter = self.rng.pick(FILTERS);
        self.log(format!("{} unsubscribes from {filter}", name(client)));
        self.model.unsubscribe(&name(client), 8, filter);
        let filters = vec![filter.to_owned()];
        self.send(link, &Packet::Unsubscribe { id: 8, properties: Properties::new(), filters });
    }

    fn publish(&mut self, client: usize, link: LinkId) {
        let version = self.links[&link].version;
        let (topic, qos, retain) = (self.rng.pick(TOPICS), self.rng.below(3) as u8, self.rng.one_in(3));
        self.payloads += 1;
        let payload = if retain && self.rng.one_in(3) { Vec::new() } else { self.payloads.to_string().into_bytes() };
        let expiry_s = (version.is_v5() && self.rng.one_in(4)).then(|| self.rng.pick(&[1, 4, 40]));
        let id = (qos > 0).then(|| self.rng.below(4) as u16 + 1);
        let again = qos == 2 && id.is_some_and(|id| self.model.sessions[&name(client)].incoming.contains(&id));
        self.log(format!(
            "{} publishes {topic} {:?} qos {qos} id {id:?} retain {retain} expiry {expiry_s:?} again {again}",
            name(client),
            String::from_utf8_lossy(&payload)
        ));
        let properties = expiry_s.map(|seconds| (0x02, PropertyValue::Number(seconds))).into_iter().collect();
        let packet = Packet::Publish(Publish {
            dup: again,
            qos,
            retain,
            topic: topic.to_owned(),
            id,
            properties,
            payload: payload.clone(),
        });
        if let Some(id) = id {
            let packet_type = if qos == 1 { packet_type::PUBACK } else { packet_type::PUBREC };
            self.model.expected.entry(link).or_default().push(Expected::Ack(packet_type, id, 0));
        }
        if !again {
            if let (2, Some(id)) = (qos, id) {
                self.model.sessions.get_mut(&name(client)).expect("connected").incoming.insert(id);
            }
            let expires_at = expiry_s.map(|seconds| self.node.now + u64::from(seconds) * 1000);
            let publisher = name(client);
            self.model.route(Message { topic: topic.to_owned(), payload, qos, retain, expires_at, publisher });
        }
        self.send(link, &packet);
    }

    fn release(&mut self, client: usize, link: LinkId) {
        let id = self.rng.below(4) as u16 + 1;
        self.log(format!("{} releases {id}", name(client)));
        let known = self.model.sessions.get_mut(&name(client)).expect("connected").incoming.remove(&id);
        let code = if known || !self.links[&link].version.is_v5() { 0 } else { 0x92 };
        self.model.expected.entry(link).or_default().push(Expected::Ack(packet_type::PUBCOMP, id, code));
        let ack = Ack { packet_type: packet_type::PUBREL, id, code: 0, properties: Properties::new() };
        self.send(link, &Packet::Ack(ack));
    }

    fn ping(&mut self, client: usize, link: LinkId) {
        self.log(format!("{} pings", name(client)));
        self.model.expected.entry(link).or_default().push(Expected::Ack(packet_type::PINGRESP, 0, 0));
        self.send(link, &Packet::PingReq);
    }

    fn acknowledge(&mut self, client: usize, link: LinkId) {
        let flights = &self.model.sessions[&name(client)].flights;
        let seen: Vec<(u16, u8, bool)> = flights
            .iter()
            .filter(|flight| flight.was_seen())
            .map(|flight| (flight.id, flight.qos(), flight.released))
            .collect();
        if seen.is_empty() {
            return;
        }
        let (id, qos, released) = seen[if self.rng.one_in(3) { self.rng.below(seen.len()) } else { 0 }];
        let is_v5 = self.links[&link].version.is_v5();
        let code = if is_v5 && !released && self.rng.one_in(8) { 0x83 } else { 0 };
        let packet_type = match (qos, released) {
            (1, _) => packet_type::PUBACK,
            (_, false) => packet_type::PUBREC,
            (_, true) => packet_type::PUBCOMP,
        };
        self.log(format!("{} sends packet type {packet_type} for {id} with {code:#x}", name(client)));
        if packet_type == packet_type::PUBREC && code == 0 {
            self.model.pubrec(&name(client), id);
        } else {
            self.model.done(&name(client), id);
        }
        self.send(link, &Packet::Ack(Ack { packet_type, id, code, properties: Properties::new() }));
    }

    /// What was sent against what was expected, and the gauges against the model's.
    fn compare(&mut self) -> Result<(), String> {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            let expected = self.model.expected.remove(&link).unwrap_or_default();
            self.compare_link(link, expected).map_err(|error| format!("link {link}: {error}"))?;
        }
        let mut found = [0; 5];
        for core in &self.node.cores {
            let gauges = core.gauges();
            let counts =
                [gauges.sessions, gauges.subscriptions, gauges.retained_messages, gauges.inflight, gauges.queued];
            found.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let mut wanted = self.model.counts();
        // Every node has all retained messages.
        wanted[2] *= self.node.nodes();
        if found != wanted {
            return Err(format!(
                "sessions, subscriptions, retained, in flight, queued: {found:?} instead of {wanted:?}"
            ));
        }
        Ok(())
    }

    fn compare_link(&mut self, link: LinkId, expected: Vec<Expected>) -> Result<(), String> {
        let client = name(self.links[&link].client);
        let packets = self.receive(link)?;
        let is_publish = |packet: &Packet| matches!(packet, Packet::Publish(_));
        let (publishes, others): (Vec<_>, Vec<_>) = packets.into_iter().partition(is_publish);
        let (mut wanted, others_wanted): (Vec<_>, Vec<_>) =
            expected.into_iter().partition(|expected| matches!(expected, Expected::Publish { .. }));
        if self.unordered == Some(link) {
            wanted = in_order_of_arrival(wanted, &publishes);
            let serials = wanted.iter().filter_map(|expected| match expected {
                Expected::Publish { serial, .. } => *serial,
                _ => None,
            });
            self.model.reorder(&client, &serials.collect::<Vec<_>>());
        }
        if publishes.len() != wanted.len() {
            return Err(format!("sent {publishes:#?}\ninstead of {wanted:#?}"));
        }
        for (packet, wanted) in publishes.iter().zip(&wanted) {
            self.compare_publish(&client, packet, wanted)?;
        }
        let closes = others_wanted.contains(&Expected::Closed);
        let is_v5 = self.links[&link].version.is_v5();
        let mut found: Vec<Expected> =
            others.iter().map(|packet| as_expected(packet, is_v5)).collect::<Result<_, _>>()?;
        if self.node.is_closed(link) {
            found.push(Expected::Closed);
        }
        let order = |expected: &Expected| match expected {
            Expected::Ack(packet_type, ..) => *packet_type,
            Expected::ConnAck { .. } => 0,
            Expected::Closed => 100,
            _ => 50,
        };
        let mut others_wanted = others_wanted;
        if !is_v5 {
            for expected in &mut others_wanted {
                if let Expected::UnsubAck(_, codes) = expected {
                    codes.clear();
                }
            }
        }
        // Between the kinds the order is free; within each it is not.
        found.sort_by_key(order);
        others_wanted.sort_by_key(order);
        if found != others_wanted {
            return Err(format!("sent {found:?} instead of {others_wanted:?}"));
        }
        if closes {
            self.links.remove(&link);
        }
        Ok(())
    }

    fn receive(&mut self, link: LinkId) -> Result<Vec<Packet>, String> {
        let bytes = self.node.take_output(link);
        let receiver = self.links.get_mut(&link).expect("one of ours");
        receiver.received.extend_from_slice(&bytes);
        let mut packets = Vec::new();
        while let Some((mut packet, size)) = decode_server_packet(receiver.version, &receiver.received)? {
            receiver.received.drain(..size);
            receiver.observer.received(&mut packet, size)?;
            packets.push(packet);
        }
        if receiver.received.is_empty() {
            Ok(packets)
        } else {
            Err(format!("a partial packet: {:02x?}", receiver.received))
        }
    }

    fn compare_publish(&mut self, client: &str, packet: &Packet, wanted: &Expected) -> Result<(), String> {
        let (Packet::Publish(found), Expected::Publish { serial, message, qos, retain, dup, identifiers, expiry_s }) =
            (packet, wanted)
        else {
            return Err("no PUBLISH".to_owned());
        };
        let mut found_identifiers: Vec<u32> = found
            .properties
            .iter()
            .filter_map(|(id, value)| match value {
                PropertyValue::Number(number) if *id == 0x0B => Some(*number),
                _ => None,
            })
            .collect();
        let mut identifiers = identifiers.clone();
        identifiers.sort_unstable();
        found_identifiers.sort_unstable();
        let found_expiry = number(&found.properties, "message_expiry_interval").map(u64::from);
        let same = found.topic == message.topic
            && found.payload == message.payload
            && (found.qos, found.retain, found.dup) == (*qos, *retain, *dup)
            && found_identifiers == identifiers
            && (*dup || found_expiry == *expiry_s);
        if !same {
            return Err(format!("sent {found:?}\ninstead of {wanted:?}"));
        }
        match (serial, found.id) {
            (Some(serial), Some(id)) => self.model.learn_id(client, *serial, id),
            (None, None) => Ok(()),
            _ => Err(format!("packet id {:?} at QoS {qos}", found.id)),
        }
    }
}

/// The expected messages in the order in which their topics came.
fn in_order_of_arrival(mut expected: Vec<Expected>, arrived: &[Packet]) -> Vec<Expected> {
    let position = |topic: &str| {
        arrived.iter().position(|packet| matches!(packet, Packet::Publish(publish) if publish.topic == topic))
    };
    expected.sort_by_key(|expected| match expected {
        Expected::Publish { message, .. } => position(&message.topic),
        _ => None,
    });
    expected
}

fn wire_will(will: &Will, version: Version) -> crate::wire::Will {
    let mut properties = Properties::new();
    if version.is_v5() {
        properties.push((0x18, PropertyValue::Number(will.delay_s as u32)));
        properties.extend(will.expiry_s.map(|seconds| (0x02, PropertyValue::Number(seconds as u32))));
    }
    let Message { topic, payload, qos, retain, .. } = will.message.clone();
    crate::wire::Will { topic, payload, qos, retain, properties }
}

fn as_expected(packet: &Packet, is_v5: bool) -> Result<Expected, String> {
    Ok(match packet {
        Packet::ConnAck { session_present, code: 0, .. } => Expected::ConnAck { present: *session_present },
        // 0x10, no matching subscribers, is a success at the server's choice.
        Packet::Ack(ack) => Expected::Ack(ack.packet_type, ack.id, if ack.code == 0x10 { 0 } else { ack.code }),
        Packet::SubAck { id, codes, .. } => Expected::SubAck(*id, codes.clone()),
        Packet::UnsubAck { id, codes, .. } => Expected::UnsubAck(*id, if is_v5 { codes.clone() } else { Vec::new() }),
        Packet::PingResp => Expected::Ack(packet_type::PINGRESP, 0, 0),
        Packet::Disconnect { code, .. } => Expected::Disconnect(*code),
        other => return Err(format!("sent {other:?}")),
    })
}
