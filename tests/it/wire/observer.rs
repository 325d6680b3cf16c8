//! One connection as a suspicious client sees it: whatever a server must never do, on any connection, is checked here, so
//! that every script checks it.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Ack, Packet, Properties, PropertyRow, PropertyValue, Publish, Version, number, packet_type as t};

/// The rules of one connection. Feed it every packet, in both directions.
pub struct Observer {
    version: Version,
    clean: bool,
    resumed: bool,
    has_method: bool,
    receive_maximum: usize,
    maximum_packet_size: usize,
    topic_alias_maximum: u32,
    problem_information: bool,
    connacked: bool,
    disconnected: bool,
    aliases: HashMap<u32, String>,
    /// QoS 1 and 2 messages received and not yet done with.
    incoming: HashSet<u16>,
    /// Packet ids for which a PUBREC went out.
    pubrecs: HashSet<u16>,
    /// What the server owes, in order: (packet type of the answer, packet id).
    owed: VecDeque<(u8, u16)>,
    /// Bytes that are no packet were sent: what the server owes is unknown.
    blind: bool,
}

impl Observer {
    /// A connection on which nothing was sent yet.
    pub fn new(version: Version) -> Observer {
        Observer {
            version,
            clean: false,
            resumed: false,
            has_method: false,
            receive_maximum: 65_535,
            maximum_packet_size: usize::MAX,
            topic_alias_maximum: 0,
            problem_information: true,
            connacked: false,
            disconnected: false,
            aliases: HashMap::new(),
            incoming: HashSet::new(),
            pubrecs: HashSet::new(),
            owed: VecDeque::new(),
            blind: false,
        }
    }

    /// Bytes went out that were not made from a packet.
    pub fn sent_raw(&mut self) {
        self.blind = true;
    }

    /// A packet goes out.
    pub fn sent(&mut self, packet: &Packet) {
        match packet {
            Packet::Connect(connect) => {
                self.version = connect.version;
                self.clean = connect.clean;
                self.has_method = connect.properties.iter().any(|(id, _)| *id == 0x15);
                self.receive_maximum =
                    number(&connect.properties, "receive_maximum").map_or(65_535, |maximum| maximum as usize);
                self.maximum_packet_size =
                    number(&connect.properties, "maximum_packet_size").map_or(usize::MAX, |size| size as usize);
                self.topic_alias_maximum = number(&connect.properties, "topic_alias_maximum").unwrap_or(0);
                self.problem_information = number(&connect.properties, "request_problem_information") != Some(0);
            }
            Packet::Publish(Publish { qos: 1, id: Some(id), .. }) => self.owed.push_back((t::PUBACK, *id)),
            Packet::Publish(Publish { qos: 2, id: Some(id), .. }) => self.owed.push_back((t::PUBREC, *id)),
            Packet::Subscribe { id, .. } => self.owed.push_back((t::SUBACK, *id)),
            Packet::Unsubscribe { id, .. } => self.owed.push_back((t::UNSUBACK, *id)),
            Packet::PingReq => self.owed.push_back((t::PINGRESP, 0)),
            Packet::Ack(ack) => match ack.packet_type {
                t::PUBREL => self.owed.push_back((t::PUBCOMP, ack.id)),
                t::PUBACK | t::PUBCOMP => {
                    self.incoming.remove(&ack.id);
                }
                t::PUBREC if ack.code >= 0x80 => {
                    self.incoming.remove(&ack.id);
                }
                t::PUBREC => {
                    self.pubrecs.insert(ack.id);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// A packet of `size` bytes came in. Puts the topic name in place of an alias. An error names the broken rule.
    pub fn received(&mut self, packet: &mut Packet, size: usize) -> Result<(), String> {
        if self.disconnected {
            return Err(format!("a packet after DISCONNECT [MQTT-3.14.4-1]: {packet:?}"));
        }
        if size > self.maximum_packet_size {
            return Err(format!("{size} bytes, above Maximum Packet Size [MQTT-3.1.2-24]: {packet:?}"));
        }
        self.check_problem_information(packet)?;
        match packet {
            Packet::ConnAck { session_present, code, properties } => {
                return self.connack(*session_present, *code, properties);
            }
            Packet::Auth { .. } if !self.has_method => {
                return Err("AUTH though CONNECT named no method [MQTT-4.12.0-6]".to_owned());
            }
            Packet::Auth { .. } => return Ok(()),
            other if !self.connacked => return Err(format!("before CONNACK [MQTT-3.2.0-1]: {other:?}")),
            _ => {}
        }
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::Ack(Ack { packet_type: t::PUBREL, id, code, .. }) => self.pubrel(*id, *code),
            Packet::Ack(ack) => self.owed_answer(ack.packet_type, ack.id),
            Packet::SubAck { id, .. } => self.owed_answer(t::SUBACK, *id),
            Packet::UnsubAck { id, .. } => self.owed_answer(t::UNSUBACK, *id),
            Packet::PingResp => self.owed_answer(t::PINGRESP, 0),
            Packet::Disconnect { code, .. } => {
                self.disconnected = true;
                if *code == 0 { Err("DISCONNECT 0x00 from a server".to_owned()) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn connack(&mut self, session_present: bool, code: u8, properties: &Properties) -> Result<(), String> {
        if self.connacked {
            return Err("a second CONNACK [MQTT-3.2.0-2]".to_owned());
        }
        if session_present && self.clean {
            return Err("session present after a clean start [MQTT-3.2.2-2]".to_owned());
        }
        if session_present && self.version == Version::V3_1 {
            return Err("3.1 knows no session present".to_owned());
        }
        if properties.iter().any(|(id, _)| *id == 0x15 || *id == 0x16) && !self.has_method {
            return Err("authentication method though CONNECT named none [MQTT-4.12.0-6]".to_owned());
        }
        self.connacked = true;
        // A session of 3.1 may be resumed without being told.
        self.resumed = session_present || self.version == Version::V3_1 && !self.clean;
        self.disconnected = code != 0;
        Ok(())
    }

    fn publish(&mut self, publish: &mut Publish) -> Result<(), String> {
        if let Some(alias) = number(&publish.properties, "topic_alias") {
            if alias > self.topic_alias_maximum {
                return Err(format!("topic alias {alias} above {} [MQTT-3.1.2-26]", self.topic_alias_maximum));
            }
            if publish.topic.is_empty() {
                publish.topic =
                    self.aliases.get(&alias).cloned().ok_or_else(|| format!("unknown topic alias {alias}"))?;
            } else {
                self.aliases.insert(alias, publish.topic.clone());
            }
        }
        if publish.dup && !self.resumed {
            return Err(format!("DUP in a session that was not resumed [MQTT-4.4.0-1]: {publish:?}"));
        }
        let Some(id) = publish.id else { return Ok(()) };
        if !self.incoming.insert(id) {
            return Err(format!("packet id {id} is in use [MQTT-2.2.1-4]"));
        }
        if self.incoming.len() > self.receive_maximum {
            return Err(format!("more than {} unacknowledged [MQTT-3.3.4-9]", self.receive_maximum));
        }
        Ok(())
    }

    fn pubrel(&mut self, id: u16, code: u8) -> Result<(), String> {
        if self.resumed {
            // It may be one of an earlier connection.
            self.incoming.insert(id);
            return Ok(());
        }
        match (self.pubrecs.contains(&id) || self.blind, self.incoming.contains(&id), code) {
            (true, true, 0) | (true, false, 0x92) => Ok(()),
            _ => Err(format!("PUBREL {code:#04x} for packet id {id} [MQTT-4.3.3-4]")),
        }
    }

    /// PUBACKs, PUBRECs and so on each come in the order of what they answer [MQTT-4.6.0-2].
    fn owed_answer(&mut self, packet_type: u8, id: u16) -> Result<(), String> {
        if self.blind {
            return Ok(());
        }
        match self.owed.iter().position(|(owed, _)| *owed == packet_type) {
            Some(index) if self.owed[index].1 == id => {
                self.owed.remove(index);
                Ok(())
            }
            Some(index) => Err(format!("packet type {packet_type} answers {id} before {}", self.owed[index].1)),
            None => Err(format!("packet type {packet_type} answers {id}, which was not asked")),
        }
    }

    fn check_problem_information(&self, packet: &Packet) -> Result<(), String> {
        let properties = match packet {
            Packet::Ack(ack) => &ack.properties,
            Packet::SubAck { properties, .. } | Packet::UnsubAck { properties, .. } => properties,
            Packet::Auth { properties, .. } => properties,
            _ => return Ok(()),
        };
        let told = |(id, _): &(u8, PropertyValue)| {
            PropertyRow::by_id(*id).is_some_and(|row| matches!(row.name, "reason_string" | "user_property"))
        };
        if !self.problem_information && properties.iter().any(told) {
            return Err(format!("problem information that was not wanted [MQTT-3.1.2-29]: {packet:?}"));
        }
        Ok(())
    }
}
