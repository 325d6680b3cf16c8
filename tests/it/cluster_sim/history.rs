//! What was published, what became of it, and what must be true of it.

use std::collections::BTreeMap;

use weir_cluster::wire::decode_retained_entry;
use weir_mqtt::{DecodeContext, Decoded, Packet, Side, decode};

use super::client::{Client, Received, Role, Session};
use super::engine::Engine;
use super::host::Host;

/// A publish.
#[derive(Debug)]
pub struct Published {
    pub publisher: usize,
    /// The node to which it was sent.
    pub host: usize,
    /// The publisher's session: that of a node that died ends.
    pub session: usize,
    pub topic: String,
    pub payload: String,
    pub qos: u8,
    pub is_retained: bool,
    pub at: u64,
    pub acked_at: Option<u64>,
    /// It was sent again: at QoS 1 it may come twice.
    pub is_repeated: bool,
}

#[derive(Default)]
pub struct History {
    pub published: Vec<Published>,
    /// From when on everything works: publishes reach everyone.
    pub healed_at: Option<u64>,
}

/// Topic and payload.
type Key = (String, String);

fn key(received: &Received) -> Key {
    (received.topic.clone(), received.payload.clone())
}

/// What was appended to the log of retained messages, in its order: topic, payload, and whether the log still has it as a
/// retained message.
pub fn log_of(engine: &Engine) -> Vec<(String, String, bool)> {
    let decoded = engine.log.stored.iter().filter_map(|(_, entry)| {
        let is_purged = entry.is_purged;
        let entry = decode_retained_entry(&entry.bytes).ok()?;
        let context = DecodeContext { version: entry.version, max_packet_size: u32::MAX, from: Side::Client };
        match decode(entry.packet, &context) {
            Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) => {
                let payload = String::from_utf8_lossy(publish.payload).into_owned();
                Some((publish.topic.to_owned(), payload, publish.retain && !is_purged))
            }
            _ => None,
        }
    });
    decoded.collect()
}

/// The retained messages that follow from the log.
pub fn retained_of(engine: &Engine) -> BTreeMap<String, String> {
    let mut retained = BTreeMap::new();
    for (topic, payload, _) in log_of(engine).into_iter().filter(|(_, _, is_retained)| *is_retained) {
        if payload.is_empty() {
            retained.remove(&topic);
        } else {
            retained.insert(topic, payload);
        }
    }
    retained
}

impl History {
    fn index(&self) -> BTreeMap<Key, &Published> {
        // An empty payload has no number.
        let numbered = self.published.iter().filter(|published| !published.payload.is_empty());
        numbered.map(|p| ((p.topic.clone(), p.payload.clone()), p)).collect()
    }

    pub fn check(&self, clients: &[Client], hosts: &[Host], engine: &Engine) -> Result<(), String> {
        let index = self.index();
        let places = log_of(engine).into_iter().enumerate().map(|(at, (topic, payload, _))| ((topic, payload), at));
        let places: BTreeMap<Key, usize> = places.collect();
        for client in clients.iter().filter(|client| client.role == Role::Subscriber) {
            for session in &client.sessions {
                let check = check_once(session, &index)
                    .and_then(|()| check_order(session, &index))
                    .and_then(|()| check_log_order(session, &places, &index));
                check.map_err(|error| format!("{}: {error}", client.name))?;
            }
            self.check_delivered(client, hosts).map_err(|error| format!("{}: {error}", client.name))?;
        }
        self.check_group(clients, hosts)
    }

    /// Whether a publish was acknowledged to reach a subscription since `subscribed`, on whichever nodes its session was.
    fn is_promised(&self, published: &Published, hosts: &[Host], session: &Session, subscribed: u64) -> bool {
        let Some(acked) = published.acked_at else { return false };
        let healed = self.healed_at.is_some_and(|healed| published.at >= healed);
        let served = |(at, host): (usize, &usize)| {
            hosts[*host].did_not_fail(if at == 0 { subscribed } else { published.at }, acked)
        };
        published.qos > 0
            && published.at > subscribed
            && (healed
                || session.hosts.iter().enumerate().all(served)
                    && hosts[published.host].did_not_fail(published.at, acked))
    }

    fn check_delivered(&self, client: &Client, hosts: &[Host]) -> Result<(), String> {
        let Some(session) = client.sessions.last() else { return Ok(()) };
        let Some(since) = session.subscribed_at else { return Err("has no SUBACK".to_owned()) };
        let received: std::collections::BTreeSet<Key> = session.received.iter().map(key).collect();
        for published in &self.published {
            if self.is_promised(published, hosts, session, since)
                && !published.payload.is_empty()
                && !received.contains(&(published.topic.clone(), published.payload.clone()))
            {
                return Err(format!("lacks {published:?}; subscribed since {since}"));
            }
        }
        Ok(())
    }

    /// Each message went to one member.
    fn check_group(&self, clients: &[Client], hosts: &[Host]) -> Result<(), String> {
        let members: Vec<&Client> = clients.iter().filter(|client| client.role == Role::Member).collect();
        let since = members.iter().filter_map(|member| member.sessions.last()?.subscribed_at).max();
        let mut times: BTreeMap<Key, usize> = BTreeMap::new();
        for session in members.iter().flat_map(|member| &member.sessions) {
            let mut of_session: Vec<Key> = session.received.iter().map(key).collect();
            of_session.sort();
            of_session.dedup();
            of_session.into_iter().for_each(|key| *times.entry(key).or_default() += 1);
        }
        for published in self.published.iter().filter(|published| published.topic.starts_with("t/")) {
            let count = times.get(&(published.topic.clone(), published.payload.clone())).copied().unwrap_or(0);
            let calm = hosts.iter().all(|host| host.was_in(published.at, u64::MAX - 1));
            if count > 1 && !published.is_repeated && (published.qos != 1 || calm) {
                return Err(format!("{count} members received {published:?}"));
            }
            let promised = since.is_some_and(|since| {
                let sessions = || members.iter().filter_map(|member| member.sessions.last());
                sessions().all(|session| self.is_promised(published, hosts, session, since))
                    && sessions().flat_map(|s| &s.hosts).all(|m| hosts[*m].did_not_fail(published.at, u64::MAX - 1))
            });
            if count == 0 && promised {
                return Err(format!("no member received {published:?}"));
            }
        }
        Ok(())
    }
}

/// Nothing comes twice, but QoS 1 that was sent again.
fn check_once(session: &Session, index: &BTreeMap<Key, &Published>) -> Result<(), String> {
    let mut times: BTreeMap<Key, usize> = BTreeMap::new();
    for received in session.received.iter().filter(|received| !received.is_retained) {
        if received.payload.is_empty() || received.is_dup && received.qos == 1 {
            continue;
        }
        let count = times.entry(key(received)).or_default();
        *count += 1;
        let may_repeat = index.get(&key(received)).is_some_and(|published| published.qos == 1 && published.is_repeated);
        if *count > 1 && !may_repeat {
            return Err(format!("received {received:?} {count} times"));
        }
    }
    Ok(())
}

/// Per publisher, topic and QoS, first arrivals are in the order of publication.
fn check_order(session: &Session, index: &BTreeMap<Key, &Published>) -> Result<(), String> {
    let mut highest: BTreeMap<(usize, usize, &str, u8), (u64, u64)> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for received in session.received.iter().filter(|received| !received.is_retained) {
        let Some(published) = index.get(&key(received)) else { continue };
        // What was sent again is not before what it was behind the first time, for one who has not seen that.
        if !seen.insert(key(received)) || published.is_repeated {
            continue;
        }
        let number = number_of(&received.payload);
        let last =
            highest.entry((published.publisher, published.session, &published.topic, published.qos)).or_default();
        if number < last.0 {
            return Err(format!("received {received:?} of QoS {} after {last:?}", published.qos));
        }
        *last = (number, received.at);
    }
    Ok(())
}

/// By topic and QoS, the newest message that a subscriber has received, and its place in the log.
type Newest<'a> = BTreeMap<(&'a str, u8), (usize, &'a Received)>;

/// What went by the log comes in its order, per topic; what a SUBSCRIBE brought is not older than what came before.
fn check_log_order(
    session: &Session,
    places: &BTreeMap<Key, usize>,
    index: &BTreeMap<Key, &Published>,
) -> Result<(), String> {
    // Of live messages, and of those that the topic retained.
    let mut last: [Newest<'_>; 2] = Default::default();
    for received in session.received.iter().filter(|received| !received.is_dup) {
        let Some(published) = index.get(&key(received)).filter(|published| !published.is_repeated) else { continue };
        let Some(place) = places.get(&key(received)) else { continue };
        for (of_retained, last) in last.iter_mut().enumerate() {
            if of_retained == 0 && received.is_retained || of_retained == 1 && !published.is_retained {
                continue;
            }
            if let Some((before, other)) = last.insert((&received.topic, received.qos), (*place, received))
                && before > *place
            {
                return Err(format!("received {received:?} after {other:?}, which is behind it in the log"));
            }
        }
    }
    Ok(())
}

pub fn number_of(payload: &str) -> u64 {
    payload.rsplit(':').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
