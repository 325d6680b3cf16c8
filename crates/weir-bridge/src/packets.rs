//! What either side sends: CONNACK and what it allows; the rest goes where it belongs.

use super::Millis;
use super::ids::Ids;
use super::link::{Leg, Link};
use super::spec::{Cause, Failure};
use weir_mqtt::{ConnAck, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode, return_code};

/// Messages that may be on their way to the other broker, whatever it allows: they are held here until it acknowledges.
const WINDOW_MAX: u16 = 1024;
/// The same for QoS 2 over 3.1.1, which has no word for what a broker allows, nor for one message too many: brokers close
/// (mosquitto does beyond 100, by default), and would again at every resend.
const WINDOW_UNTOLD: u16 = 20;

impl Link {
    pub(super) fn on_remote(&mut self, packet: &Packet<'_>, now: Millis) -> Result<(), Failure> {
        match packet {
            Packet::ConnAck(ack) if self.remote == Leg::Opening => self.on_connack(ack, now),
            _ if self.remote == Leg::Opening => {
                Err(Failure::new(Cause::Protocol, "the other broker's first packet is no CONNACK [MQTT-3.2.0-1]"))
            }
            Packet::SubAck(ack) => {
                self.there.subscribed(ack.packet_id, ack.codes);
                self.ask_there(now)
            }
            Packet::UnsubAck(ack) => {
                self.there.unsubscribed(ack.packet_id);
                self.ask_there(now)
            }
            Packet::PingResp => Ok(()),
            Packet::Disconnect(disconnect) => Err(said_goodbye(disconnect)),
            Packet::Publish(publish) => self.carry_in(publish),
            Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                self.pass_to_local(packet);
                Ok(())
            }
            _ => Err(Failure::new(Cause::Protocol, "the other broker sent a packet that has no place here")),
        }
    }

    fn on_connack(&mut self, ack: &ConnAck<'_>, now: Millis) -> Result<(), Failure> {
        if ack.code != 0 {
            return Err(self.refusal(ack));
        }
        let properties = &ack.properties;
        let is_v5 = self.spec.version == ProtocolVersion::V5;
        let keep_alive_s = properties.server_keep_alive_s.unwrap_or(self.spec.keep_alive_s);
        self.keep_alive_ms = Millis::from(keep_alive_s) * 1000;
        let exactly_once = self.spec.out.iter().any(|rule| rule.qos == QoS::ExactlyOnce);
        let most = if exactly_once && !is_v5 { WINDOW_UNTOLD } else { WINDOW_MAX };
        self.window = properties.receive_maximum.map_or(most, |maximum| maximum.get().min(most));
        self.maximum_qos = properties.maximum_qos.unwrap_or(QoS::ExactlyOnce);
        self.retain_available = properties.retain_available.unwrap_or(true);
        self.maximum_packet_size = if is_v5 { properties.maximum_packet_size.unwrap_or(u32::MAX) } else { u32::MAX };
        self.remote = Leg::Up;
        self.there.connected(ack.session_present);
        if !ack.session_present {
            self.remote_is_new();
        }
        self.list_filters();
        self.ask_there(now)
    }

    fn refusal(&mut self, ack: &ConnAck<'_>) -> Failure {
        if self.spec.version == ProtocolVersion::V5 {
            let name = ReasonCode::try_from(ack.code).map_or("unknown", ReasonCode::name);
            let why = ack.properties.reason_string.map_or_else(String::new, |reason| format!(": {reason:?}"));
            return Failure::new(Cause::Refused, format!("CONNACK 0x{:02x}, {name}{why}", ack.code));
        }
        let meaning = match ack.code {
            return_code::UNACCEPTABLE_PROTOCOL_VERSION if !self.plain_protocol => {
                self.plain_protocol = true;
                "it does not know bridges; the next attempt is an ordinary client's"
            }
            return_code::UNACCEPTABLE_PROTOCOL_VERSION => "unacceptable protocol version",
            return_code::IDENTIFIER_REJECTED => "client id rejected",
            return_code::SERVER_UNAVAILABLE => "server unavailable",
            4 => "bad user name or password",
            5 => "not authorized",
            _ => "unknown",
        };
        Failure::new(Cause::Refused, format!("CONNACK {}, {meaning}", ack.code))
    }

    pub(super) fn on_local(&mut self, packet: &Packet<'_>, now: Millis) -> Result<(), Failure> {
        match packet {
            Packet::ConnAck(ack) if ack.code == 0 => {
                self.local = Leg::Up;
                self.handshake_until = Millis::MAX;
                self.open = Ids::default();
                self.here.connected(ack.session_present);
                if !ack.session_present {
                    self.local_is_new();
                    self.asks_found = false;
                }
                self.release_stale(now);
                self.ask_here()
            }
            Packet::ConnAck(ack) => Err(Failure::new(
                Cause::Local,
                format!("this broker does not let its own bridge in: 0x{:02x}", ack.code),
            )),
            Packet::SubAck(ack) => {
                self.here.subscribed(ack.packet_id, ack.codes);
                self.ask_here()
            }
            Packet::UnsubAck(ack) => {
                self.here.unsubscribed(ack.packet_id);
                self.ask_here()
            }
            Packet::Disconnect(disconnect) => {
                let name = ReasonCode::try_from(disconnect.code).map_or("unknown", ReasonCode::name);
                Err(Failure::new(Cause::Local, format!("this broker ended the bridge's session here: {name}")))
            }
            Packet::Publish(publish) => self.carry_out(publish, now),
            Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                self.pass_to_remote(packet, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn said_goodbye(disconnect: &Disconnect<'_>) -> Failure {
    let name = ReasonCode::try_from(disconnect.code).map_or("unknown", ReasonCode::name);
    let why = disconnect.reason_string.map_or_else(String::new, |reason| format!(": {reason:?}"));
    Failure::new(Cause::Lost, format!("DISCONNECT 0x{:02x}, {name}{why}", disconnect.code))
}
