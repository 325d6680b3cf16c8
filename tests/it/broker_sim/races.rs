//! The racing simulation: what crosses between shards is delivered in any order that the links allow, a batch at a time,
//! while clients go on acting. At the end the history is checked: no client lacks a message, gets a QoS 2 message
//! twice, sees an older message after a newer one, or a retained one out of line with the live ones.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy};

use super::rng::Rng;
use crate::node::{LinkId, Node, policy};
use crate::wire::*;

const PUBLISHERS: usize = 3;
const GROUP: &str = "$share/g/t/#";

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Publishes to `t/n/…` at every QoS and retained to `r/n`.
    Publisher(usize),
    /// Subscribes to `t/#` and `r/#`.
    Subscriber,
    /// Shares `t/#` in a group.
    Member,
    /// Shares it too, in sessions that end with their connections.
    TransientMember,
}

/// A message as it was received: topic and its number there.
type Received = (String, u64);

struct RacingClient {
    role: Role,
    name: String,
    link: LinkId,
    observer: Observer,
    bytes: Vec<u8>,
    /// QoS 2 packet ids received and not yet released.
    incoming: HashSet<u16>,
    /// Packets sent and not acknowledged: to be sent again after a reconnect.
    unacknowledged: BTreeMap<u16, Packet>,
    next_id: u16,
    received: Vec<Received>,
    /// The filters that SUBACK granted, and the clock when it came.
    subscribed_at: Option<u64>,
    subscribe_sent: bool,
    /// A transient member that is subscribed to nothing, and since when.
    left_at: Option<u64>,
}

/// A message that was published.
struct Published {
    topic: String,
    number: u64,
    qos: u8,
    at: u64,
    /// Sent again at QoS 1: it may come twice.
    repeated: bool,
}

pub struct Races {
    node: Node,
    rng: Rng,
    policy: Arc<EndpointPolicy>,
    clients: Vec<RacingClient>,
    published: Vec<Published>,
    numbers: BTreeMap<String, u64>,
    clock: u64,
    pub log: Vec<String>,
}

impl Races {
    pub fn new(seed: u64, node: Node) -> Races {
        let mut races = Races {
            node,
            rng: Rng::new(seed),
            policy: policy(1, EndpointLimits::default()),
            clients: Vec::new(),
            published: Vec::new(),
            numbers: BTreeMap::new(),
            clock: 0,
            log: Vec::new(),
        };
        races.node.transcript = Some(Vec::new());
        let roles = (0..PUBLISHERS).map(Role::Publisher).chain([
            Role::Subscriber,
            Role::Subscriber,
            Role::Subscriber,
            Role::Member,
            Role::Member,
            Role::TransientMember,
        ]);
        for (index, role) in roles.enumerate() {
            // Different names end on different shards.
            let name = format!("{role:?}{index}x{}", races.rng.below(1000));
            races.clients.push(RacingClient {
                role,
                name,
                link: usize::MAX,
                observer: Observer::new(Version::V5),
                bytes: Vec::new(),
                incoming: HashSet::new(),
                unacknowledged: BTreeMap::new(),
                next_id: 0,
                received: Vec::new(),
                subscribed_at: None,
                subscribe_sent: false,
                left_at: None,
            });
            races.connect(index);
        }
        races
    }

    /// All bytes that clients were sent, in order.
    pub fn transcript(&self) -> &[(LinkId, Vec<u8>)] {
        self.node.transcript.as_deref().unwrap_or_default()
    }

    /// Acts `steps` times, settles everything, and checks the history.
    pub fn run(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            self.clock += 1;
            let index = self.rng.below(self.clients.len());
            match self.rng.below(12) {
                0..=3 => {
                    let choice = self.rng.below(1000);
                    self.node.step(|count| choice % count);
                }
                4..=6 => self.read(index)?,
                7 if self.rng.one_in(6) => self.reconnect(index)?,
                _ => self.act(index),
            }
        }
        self.settle()?;
        self.check()
    }

    fn settle(&mut self) -> Result<(), String> {
        // An offline member of the group keeps its part: all reconnect first.
        for _ in 0..4 {
            for index in 0..self.clients.len() {
                if self.node.is_closed(self.clients[index].link) {
                    self.connect(index);
                }
                self.act_if_unsubscribed(index);
            }
            let mut idle = 0;
            while idle < 4 {
                let before = self.received();
                self.node.settle();
                for index in 0..self.clients.len() {
                    self.read(index)?;
                }
                idle = if before == self.received() { idle + 1 } else { 0 };
            }
        }
        Ok(())
    }

    fn received(&self) -> usize {
        self.clients.iter().map(|client| client.received.len()).sum()
    }

    fn connect(&mut self, index: usize) {
        let persistent = self.clients[index].role != Role::TransientMember;
        let at = self.rng.below(self.node.nodes());
        let link = self.node.open_at(at, Arc::clone(&self.policy));
        let receive_maximum = self.rng.pick(&[1, 2, 20, 65_535]);
        let expiry = if persistent { u32::MAX } else { 0 };
        let client = &mut self.clients[index];
        client.link = link;
        client.observer = Observer::new(Version::V5);
        client.bytes.clear();
        if !persistent {
            client.incoming.clear();
            (client.subscribed_at, client.subscribe_sent, client.left_at) = (None, false, Some(self.clock));
        }
        let packet = Packet::Connect(Connect {
            version: Version::V5,
            clean: !persistent,
            keep_alive_s: 0,
            client_id: client.name.clone(),
            username: None,
            password: None,
            will: None,
            properties: vec![(0x11, PropertyValue::Number(expiry)), (0x21, PropertyValue::Number(receive_maximum))],
        });
        self.log.push(format!("{:>5} {} connects at {at}", self.clock, client.name));
        self.send(index, &packet);
        // A SUBSCRIBE that was not answered is sent again as a new one; only transient members unsubscribe, who start anew.
        let client = &mut self.clients[index];
        client.unacknowledged.retain(|_, packet| !matches!(packet, Packet::Unsubscribe { .. }));
        let open = client.unacknowledged.len();
        client.unacknowledged.retain(|_, packet| !matches!(packet, Packet::Subscribe { .. }));
        client.subscribe_sent &= open == client.unacknowledged.len();
        let again: Vec<Packet> = client.unacknowledged.values().cloned().collect();
        again.into_iter().for_each(|packet| self.send_again(index, packet));
    }

    fn send_again(&mut self, index: usize, packet: Packet) {
        let packet = match packet {
            Packet::Publish(publish) => {
                for published in &mut self.published {
                    let same = published.topic == publish.topic && number_of(&publish.payload) == published.number;
                    published.repeated |= same && publish.qos == 1;
                }
                Packet::Publish(Publish { dup: true, ..publish })
            }
            other => other,
        };
        self.send(index, &packet);
    }

    fn send(&mut self, index: usize, packet: &Packet) {
        let client = &mut self.clients[index];
        client.observer.sent(packet);
        self.node.send(client.link, &packet.encode(Version::V5));
    }

    /// Lost and back, or taken over.
    fn reconnect(&mut self, index: usize) -> Result<(), String> {
        self.read(index)?;
        if self.rng.one_in(2) {
            let link = self.clients[index].link;
            self.node.close(link);
            if self.rng.one_in(2) {
                return Ok(());
            }
        }
        self.connect(index);
        Ok(())
    }

    fn act(&mut self, index: usize) {
        if self.node.is_closed(self.clients[index].link) {
            return self.connect(index);
        }
        match self.clients[index].role {
            Role::Publisher(number) => self.publish(index, number),
            Role::TransientMember if self.clients[index].subscribed_at.is_some() && self.rng.one_in(4) => {
                self.unsubscribe(index)
            }
            _ => self.act_if_unsubscribed(index),
        }
    }

    fn act_if_unsubscribed(&mut self, index: usize) {
        let filters: &[(&str, u8)] = match self.clients[index].role {
            Role::Publisher(_) => return,
            Role::Subscriber => &[("t/#", 2), ("r/#", 1)],
            Role::Member | Role::TransientMember => &[(GROUP, 2)],
        };
        // Subscribers ask again now and then: nothing may be lost by it, nor anything old come after it.
        let again = self.clients[index].role == Role::Subscriber && self.rng.one_in(8);
        if self.clients[index].subscribe_sent && !again || self.clients[index].unacknowledged.len() > 1 {
            return;
        }
        (self.clients[index].subscribe_sent, self.clients[index].left_at) = (true, None);
        let id = self.new_id(index);
        let filters = filters.iter().map(|(filter, options)| ((*filter).to_owned(), *options)).collect();
        let packet = Packet::Subscribe { id, properties: Properties::new(), filters };
        self.clients[index].unacknowledged.insert(id, packet.clone());
        self.send(index, &packet);
    }

    fn unsubscribe(&mut self, index: usize) {
        let id = self.new_id(index);
        let packet = Packet::Unsubscribe { id, properties: Properties::new(), filters: vec![GROUP.to_owned()] };
        self.clients[index].subscribed_at = None;
        self.clients[index].unacknowledged.insert(id, packet.clone());
        self.send(index, &packet);
    }

    fn new_id(&mut self, index: usize) -> u16 {
        let client = &mut self.clients[index];
        client.next_id = client.next_id % 60_000 + 1;
        client.next_id
    }

    fn publish(&mut self, index: usize, number: usize) {
        if self.clients[index].unacknowledged.len() > 20 {
            return;
        }
        let retain = self.rng.one_in(4);
        let topic = if retain { format!("r/{number}") } else { format!("t/{number}/{}", self.rng.below(2)) };
        let qos = if retain { 1 } else { self.rng.below(3) as u8 };
        let count = self.numbers.entry(topic.clone()).or_default();
        *count += 1;
        let number = *count;
        self.published.push(Published { topic: topic.clone(), number, qos, at: self.clock, repeated: false });
        let id = (qos > 0).then(|| self.new_id(index));
        self.log.push(format!("{:>5} {} publishes {topic} {number} qos {qos}", self.clock, self.clients[index].name));
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain,
            topic,
            id,
            properties: Properties::new(),
            payload: number.to_string().into_bytes(),
        });
        if let Some(id) = id {
            self.clients[index].unacknowledged.insert(id, packet.clone());
        }
        self.send(index, &packet);
    }

    /// A client reads what was sent to it, and answers.
    fn read(&mut self, index: usize) -> Result<(), String> {
        let bytes = self.node.take_output(self.clients[index].link);
        self.clients[index].bytes.extend_from_slice(&bytes);
        loop {
            let client = &mut self.clients[index];
            let Some((mut packet, size)) = decode_server_packet(Version::V5, &client.bytes)? else { return Ok(()) };
            client.bytes.drain(..size);
            client.observer.received(&mut packet, size).map_err(|error| format!("{}: {error}", client.name))?;
            self.answer(index, packet)?;
        }
    }

    fn answer(&mut self, index: usize, packet: Packet) -> Result<(), String> {
        let clock = self.clock;
        let client = &mut self.clients[index];
        if std::env::var("WEIR_SIM_SEED").is_ok() {
            self.log.push(format!("{clock:>5} {} was sent {packet:?}", client.name));
        }
        let ack = |packet_type, id| Packet::Ack(Ack { packet_type, id, code: 0, properties: Properties::new() });
        match packet {
            Packet::Publish(publish) => {
                let number = number_of(&publish.payload);
                let sent = self.published.iter().find(|p| p.topic == publish.topic && p.number == number);
                if let (Some(left), Some(sent)) = (client.left_at, sent)
                    && sent.at > left
                {
                    return Err(format!("{} left at {left} and was sent {publish:?} of {}", client.name, sent.at));
                }
                let fresh = publish.qos < 2 || publish.id.is_some_and(|id| client.incoming.insert(id));
                if fresh && !(publish.dup && publish.qos == 1) {
                    client.received.push((publish.topic.clone(), number_of(&publish.payload)));
                } else if fresh || publish.qos == 1 {
                    // It may be the first time that it arrives: the connection was lost before.
                    let received = (publish.topic.clone(), number_of(&publish.payload));
                    if !client.received.contains(&received) {
                        client.received.push(received);
                    }
                }
                match (publish.qos, publish.id) {
                    (1, Some(id)) => self.send(index, &ack(packet_type::PUBACK, id)),
                    (2, Some(id)) => self.send(index, &ack(packet_type::PUBREC, id)),
                    _ => {}
                }
            }
            Packet::Ack(answer) => match answer.packet_type {
                packet_type::PUBREL => {
                    client.incoming.remove(&answer.id);
                    self.send(index, &ack(packet_type::PUBCOMP, answer.id));
                }
                packet_type::PUBREC => {
                    let pubrel = ack(packet_type::PUBREL, answer.id);
                    client.unacknowledged.insert(answer.id, pubrel.clone());
                    self.send(index, &pubrel);
                }
                _ => {
                    client.unacknowledged.remove(&answer.id);
                }
            },
            Packet::SubAck { id, codes, .. } => {
                if codes.iter().any(|code| *code > 2) {
                    return Err(format!("{} was refused: {codes:?}", client.name));
                }
                client.unacknowledged.remove(&id);
                client.subscribed_at.get_or_insert(clock);
            }
            Packet::UnsubAck { id, .. } => {
                client.unacknowledged.remove(&id);
                (client.subscribe_sent, client.left_at) = (false, Some(clock));
            }
            Packet::Disconnect { code: 0x8E, .. } | Packet::ConnAck { code: 0, .. } => {}
            other => return Err(format!("{} was sent {other:?}", client.name)),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        for client in self.clients.iter().filter(|client| client.role == Role::Subscriber) {
            self.check_subscriber(client).map_err(|error| format!("{}: {error}", client.name))?;
        }
        self.check_group()
    }

    fn check_subscriber(&self, client: &RacingClient) -> Result<(), String> {
        let Some(since) = client.subscribed_at else { return Ok(()) };
        let received: BTreeSet<&Received> = client.received.iter().collect();
        for published in &self.published {
            let key = (published.topic.clone(), published.number);
            // QoS 0 may be lost while the client is offline.
            if published.qos > 0 && published.at > since && !received.contains(&key) {
                return Err(format!("lacks {key:?} of QoS {}", published.qos));
            }
            let times = client.received.iter().filter(|found| **found == key).count();
            let once = published.qos != 1 && key.0.starts_with("t/");
            if times > 1 && (once || !published.repeated && key.0.starts_with("t/")) {
                return Err(format!("received {key:?} of QoS {} {times} times", published.qos));
            }
        }
        self.check_order(client)?;
        // What is retained may come again with a new SUBSCRIBE, but never older than what came before.
        for topic in (0..PUBLISHERS).map(|number| format!("r/{number}")) {
            let numbers: Vec<u64> =
                client.received.iter().filter(|found| found.0 == topic).map(|found| found.1).collect();
            let last = self.numbers.get(&topic).copied().unwrap_or(0);
            if last > 0 && numbers.last() != Some(&last) && !self.was_repeated(&topic) {
                return Err(format!("of {topic} has {:?} last, not {last}", numbers.last()));
            }
            let backwards = numbers.windows(2).find(|pair| pair[1] < pair[0] || pair[1] > pair[0] + 1);
            if let Some(pair) = backwards.filter(|_| !self.was_repeated(&topic)) {
                return Err(format!("of {topic} saw {} after {}: {numbers:?}", pair[1], pair[0]));
            }
        }
        Ok(())
    }

    fn was_repeated(&self, topic: &str) -> bool {
        self.published.iter().any(|published| published.topic == topic && published.repeated)
    }

    /// Per topic and QoS the first arrivals are in the order of publication.
    fn check_order(&self, client: &RacingClient) -> Result<(), String> {
        let mut highest: BTreeMap<(String, u8), u64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for received in client.received.iter().filter(|received| received.0.starts_with("t/")) {
            // What was published before the subscription, and sent again after it, is no message of the past for the subscriber.
            if !seen.insert(received) || self.is_older_than(received, client.subscribed_at) {
                continue;
            }
            let qos = self.qos_of(received);
            let last = highest.entry((received.0.clone(), qos)).or_default();
            if received.1 < *last {
                return Err(format!("received {received:?} of QoS {qos} after {last}"));
            }
            *last = received.1;
        }
        Ok(())
    }

    fn is_older_than(&self, received: &Received, subscribed_at: Option<u64>) -> bool {
        let mut repeated = self.published.iter().filter(|published| published.repeated);
        repeated.any(|p| p.topic == received.0 && p.number == received.1 && subscribed_at.is_none_or(|at| p.at <= at))
    }

    fn qos_of(&self, received: &Received) -> u8 {
        let found = self.published.iter().find(|p| p.topic == received.0 && p.number == received.1);
        found.map_or(0, |published| published.qos)
    }

    /// Each message went to one member; to a second one only where a transient member's session ended before it was acknowledged.
    fn check_group(&self) -> Result<(), String> {
        let in_group = |client: &&RacingClient| matches!(client.role, Role::Member | Role::TransientMember);
        let members: Vec<&RacingClient> = self.clients.iter().filter(in_group).collect();
        let Some(since) =
            members.iter().filter(|member| member.role == Role::Member).filter_map(|member| member.subscribed_at).min()
        else {
            return Ok(());
        };
        for published in self.published.iter().filter(|p| p.at > since && p.topic.starts_with("t/")) {
            let key = (published.topic.clone(), published.number);
            let times = |role| {
                let of_role = members.iter().filter(|member| member.role == role);
                of_role.map(|member| member.received.iter().filter(|found| **found == key).count()).sum::<usize>()
            };
            let (to_members, to_transient) = (times(Role::Member), times(Role::TransientMember));
            // A transient member's QoS 2 message that was in flight when its session ended is lost with it [MQTT-4.8.2-5].
            if published.qos == 1 && to_members + to_transient == 0 {
                return Err(format!("no member received {key:?} of QoS 1"));
            }
            if to_members > 1 && !published.repeated {
                return Err(format!("the members received {key:?} of QoS {} {to_members} times", published.qos));
            }
        }
        Ok(())
    }
}

fn number_of(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}
