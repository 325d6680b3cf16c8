//! Incoming packets of both sides: handles CONNACK and its limits, and dispatches the rest.

use super::Millis;
use super::ids::PacketIds;
use super::link::{BridgeLink, SideState};
use super::spec::{BridgeFailure, FailureCause};
use weir_mqtt::{ConnAck, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode, return_code};

/// Maximum of messages in flight to the remote broker, whatever it allows: the local session holds the others until it
/// acknowledges.
const WINDOW_MAX: u16 = 1024;
/// The same for QoS 2 over 3.1.1, which has no Receive Maximum and no error for exceeding it: brokers close the
/// connection (mosquitto above 100, by default), and would again at every resend.
const WINDOW_MAX_QOS2_V3: u16 = 20;

impl BridgeLink {
    pub(super) fn on_remote(&mut self, packet: &Packet<'_>, now: Millis) -> Result<(), BridgeFailure> {
        match packet {
            Packet::ConnAck(ack) if self.remote == SideState::Opening => self.on_connack(ack, now),
            _ if self.remote == SideState::Opening => Err(BridgeFailure::new(
                FailureCause::Protocol,
                "the first packet of the remote broker is not a CONNACK [MQTT-3.2.0-1]",
            )),
            Packet::SubAck(ack) => {
                self.remote_subscriptions.subscribed(ack.packet_id, ack.codes);
                self.subscribe_remote(now)
            }
            Packet::UnsubAck(ack) => {
                self.remote_subscriptions.unsubscribed(ack.packet_id);
                self.subscribe_remote(now)
            }
            Packet::PingResp => Ok(()),
            Packet::Disconnect(disconnect) => Err(disconnected(disconnect)),
            Packet::Publish(publish) => self.forward_in(publish),
            Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                self.ack_to_local(packet);
                Ok(())
            }
            _ => Err(BridgeFailure::new(
                FailureCause::Protocol,
                "the remote broker sent a packet that a server must not send",
            )),
        }
    }

    fn on_connack(&mut self, ack: &ConnAck<'_>, now: Millis) -> Result<(), BridgeFailure> {
        if ack.code != 0 {
            return Err(self.refusal(ack));
        }
        let properties = &ack.properties;
        let is_v5 = self.spec.version == ProtocolVersion::V5;
        let keep_alive_s = properties.server_keep_alive_s.unwrap_or(self.spec.keep_alive_s);
        self.keep_alive_ms = Millis::from(keep_alive_s) * 1000;
        let exactly_once = self.spec.out.iter().any(|rule| rule.qos == QoS::ExactlyOnce);
        let most = if exactly_once && !is_v5 { WINDOW_MAX_QOS2_V3 } else { WINDOW_MAX };
        self.window = properties.receive_maximum.map_or(most, |maximum| maximum.get().min(most));
        self.maximum_qos = properties.maximum_qos.unwrap_or(QoS::ExactlyOnce);
        self.retain_available = properties.retain_available.unwrap_or(true);
        self.maximum_packet_size = if is_v5 { properties.maximum_packet_size.unwrap_or(u32::MAX) } else { u32::MAX };
        self.remote = SideState::Up;
        self.remote_subscriptions.connected(ack.session_present);
        if !ack.session_present {
            self.on_new_remote_session();
        }
        self.update_wanted_filters();
        self.subscribe_remote(now)
    }

    fn refusal(&mut self, ack: &ConnAck<'_>) -> BridgeFailure {
        if self.spec.version == ProtocolVersion::V5 {
            let name = ReasonCode::try_from(ack.code).map_or("unknown", ReasonCode::name);
            let why = shown_reason(ack.properties.reason_string);
            return BridgeFailure::new(FailureCause::Refused, format!("CONNACK 0x{:02x}, {name}{why}", ack.code));
        }
        let meaning = match ack.code {
            return_code::UNACCEPTABLE_PROTOCOL_VERSION if !self.no_bridge_flag => {
                self.no_bridge_flag = true;
                "the remote broker does not accept the bridge flag; the next attempt connects without it"
            }
            return_code::UNACCEPTABLE_PROTOCOL_VERSION => "unacceptable protocol version",
            return_code::IDENTIFIER_REJECTED => "client id rejected",
            return_code::SERVER_UNAVAILABLE => "server unavailable",
            return_code::BAD_USER_NAME_OR_PASSWORD => "bad user name or password",
            return_code::NOT_AUTHORIZED => "not authorized",
            _ => "unknown",
        };
        BridgeFailure::new(FailureCause::Refused, format!("CONNACK {}, {meaning}", ack.code))
    }

    pub(super) fn on_local(&mut self, packet: &Packet<'_>, now: Millis) -> Result<(), BridgeFailure> {
        match packet {
            Packet::ConnAck(ack) if ack.code == return_code::ACCEPTED => {
                self.local = SideState::Up;
                self.handshake_until = Millis::MAX;
                self.open = PacketIds::default();
                self.local_subscriptions.connected(ack.session_present);
                if !ack.session_present {
                    self.on_new_local_session();
                    self.needs_local_subscriptions = false;
                }
                self.release_stale(now);
                self.subscribe_local()
            }
            Packet::ConnAck(ack) => Err(BridgeFailure::new(
                FailureCause::Local,
                format!("this broker refused its bridge: CONNACK 0x{:02x}", ack.code),
            )),
            Packet::SubAck(ack) => {
                self.local_subscriptions.subscribed(ack.packet_id, ack.codes);
                self.subscribe_local()
            }
            Packet::UnsubAck(ack) => {
                self.local_subscriptions.unsubscribed(ack.packet_id);
                self.subscribe_local()
            }
            Packet::Disconnect(disconnect) => {
                let name = ReasonCode::try_from(disconnect.code).map_or("unknown", ReasonCode::name);
                Err(BridgeFailure::new(FailureCause::Local, format!("this broker disconnected its bridge: {name}")))
            }
            Packet::Publish(publish) => self.forward_out(publish, now),
            Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubRel(_) | Packet::PubComp(_) => {
                self.ack_to_remote(packet, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Characters of a reason string that the status and the log show.
const REASON_SHOWN_CHARS: usize = 200;

/// The remote broker's reason string, for an error message.
fn shown_reason(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| {
        let end = reason.char_indices().nth(REASON_SHOWN_CHARS).map_or(reason.len(), |(end, _)| end);
        format!(": {:?}", reason.get(..end).unwrap_or_default())
    })
}

fn disconnected(disconnect: &Disconnect<'_>) -> BridgeFailure {
    let name = ReasonCode::try_from(disconnect.code).map_or("unknown", ReasonCode::name);
    let why = shown_reason(disconnect.reason_string);
    BridgeFailure::new(FailureCause::Lost, format!("DISCONNECT 0x{:02x}, {name}{why}", disconnect.code))
}
