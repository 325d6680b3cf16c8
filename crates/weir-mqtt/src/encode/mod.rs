//! Packets to bytes, appended to a buffer that the caller owns.
//!
//! What is refused is what cannot be written (a field or packet that is too long); nothing else is judged here. An error
//! leaves the buffer as it was. For 3.x, reason codes and properties that it has no place for are left out.

mod acks;
mod connect;
mod publish;
mod writer;

pub use acks::{auth, disconnect, pingreq, pingresp, puback, pubcomp, pubrec, pubrel, suback, unsuback};
pub use connect::connack;
pub use publish::{PublishPropsOut, encode_publish_parts, publish_len, push_publish_properties};
pub use writer::{MAX_REMAINING_LENGTH, push_user_property};

use super::{EncodeError, Packet, ProtocolVersion};

/// Appends `packet` in the form of `version` (a CONNECT in the form of the version it names).
///
/// Where a [`super::PublishProperties`] has a `raw` block, that is what is written; else its fields are.
pub fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match packet {
        Packet::Connect(connect) => connect::connect(out, connect),
        Packet::ConnAck(ack) => connack(out, version, ack.session_present, ack.code, &ack.properties),
        Packet::Publish(publish) => publish::publish(out, version, publish),
        Packet::PubAck(ack) => acks::ack(out, version, acks::PUBACK, ack),
        Packet::PubRec(ack) => acks::ack(out, version, acks::PUBREC, ack),
        Packet::PubRel(ack) => acks::ack(out, version, acks::PUBREL, ack),
        Packet::PubComp(ack) => acks::ack(out, version, acks::PUBCOMP, ack),
        Packet::Subscribe(subscribe) => acks::subscribe(out, version, subscribe),
        Packet::SubAck(ack) => acks::suback_with(out, version, ack),
        Packet::Unsubscribe(unsubscribe) => acks::unsubscribe(out, version, unsubscribe),
        Packet::UnsubAck(ack) => acks::unsuback_with(out, version, ack),
        Packet::PingReq => {
            pingreq(out);
            Ok(())
        }
        Packet::PingResp => {
            pingresp(out);
            Ok(())
        }
        Packet::Disconnect(packet) => disconnect(out, version, packet),
        Packet::Auth(packet) => auth(out, version, packet),
    }
}
