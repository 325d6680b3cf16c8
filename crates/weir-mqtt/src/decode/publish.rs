//! PUBLISH: the packet whose decoding counts.

use super::reader::Reader;
use super::{Frame, properties};
use crate::rule::{self, Broken};
use crate::{ProtocolVersion, Publish, PublishProperties, QoS, Side};

/// Decodes a PUBLISH whose flags have been found right.
#[inline]
pub(super) fn publish<'a>(frame: &Frame<'a>, version: ProtocolVersion, from: Side) -> Result<Publish<'a>, Broken> {
    let mut reader = Reader::new(frame.body);
    let topic = reader.topic_name(&rule::TOPIC_WILDCARD)?;
    let qos = QoS::from_bits(frame.flags >> 1 & 0b11).ok_or(&rule::QOS_3)?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let properties = if version == ProtocolVersion::V5 {
        properties::publish(&mut reader, from)?
    } else {
        PublishProperties::default()
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(&rule::TOPIC_EMPTY);
    }
    Ok(Publish {
        dup: frame.flags & 0b1000 != 0,
        qos,
        retain: frame.flags & 1 != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}
