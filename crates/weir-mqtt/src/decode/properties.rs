//! MQTT 5.0's properties: known, allowed in this packet, once, in range. Chapter 2.2.2.

use std::num::{NonZeroU16, NonZeroU32};

use super::reader::Reader;
use crate::property::{self, id};
use crate::rule::{self, Broken};
use crate::{ConnAckProperties, ConnectProperties, PublishProperties, QoS, Side, UserProperties};

/// A packet's properties, to be read one by one with [`Properties::each`].
pub(super) struct Properties<'a> {
    /// The whole block, without its length.
    raw: &'a [u8],
    reader: Reader<'a>,
    /// A bit per identifier: those the packet may carry.
    allowed: u64,
    /// Those that came already.
    seen: u64,
}

impl<'a> Properties<'a> {
    /// Takes the property length and the block it measures from `reader`.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>, allowed: u64) -> Result<Self, Broken> {
        let len = reader.varint()?;
        let raw = reader.take(len as usize).map_err(|_| &rule::PROPERTY_LENGTH)?;
        Ok(Self { raw, reader: Reader::new(raw), allowed, seen: 0 })
    }

    /// Reads all with `each`, which takes the value that belongs to the identifier it is given from the reader.
    #[inline]
    pub(super) fn each(
        mut self,
        mut each: impl FnMut(u8, &mut Reader<'a>) -> Result<(), Broken>,
    ) -> Result<UserProperties<'a>, Broken> {
        while !self.reader.is_empty() {
            let read = self.next_id().and_then(|id| each(id, &mut self.reader));
            read.map_err(|broken| if *broken == rule::ENDS_EARLY { &rule::PROPERTY_ENDS_EARLY } else { broken })?;
        }
        Ok(UserProperties { raw: self.raw })
    }

    #[inline]
    fn next_id(&mut self) -> Result<u8, Broken> {
        // a Variable Byte Integer [MQTT-1.5.5-1], but every identifier there is takes one byte
        let id = self.reader.varint()?;
        let id = u8::try_from(id).ok().filter(|&id| property::form(id).is_some()).ok_or(&rule::PROPERTY_UNKNOWN)?;
        let bit = 1u64 << id;
        if bit & self.allowed == 0 {
            return Err(&rule::PROPERTY_MISPLACED);
        }
        if bit & self.seen & !property::REPEATABLE != 0 {
            return Err(&rule::PROPERTY_REPEATED);
        }
        self.seen |= bit;
        Ok(id)
    }
}

pub(super) fn connect<'a>(reader: &mut Reader<'a>) -> Result<ConnectProperties<'a>, Broken> {
    let mut read = ConnectProperties::default();
    read.user_properties = Properties::read(reader, property::IN_CONNECT)?.each(|id, value| {
        match id {
            id::SESSION_EXPIRY_INTERVAL => read.session_expiry_s = Some(value.u32()?),
            id::RECEIVE_MAXIMUM => read.receive_maximum = Some(receive_maximum(value)?),
            id::MAXIMUM_PACKET_SIZE => read.maximum_packet_size = Some(maximum_packet_size(value)?),
            id::TOPIC_ALIAS_MAXIMUM => read.topic_alias_maximum = Some(value.u16()?),
            id::REQUEST_RESPONSE_INFORMATION => read.request_response_information = Some(boolean(value)?),
            id::REQUEST_PROBLEM_INFORMATION => read.request_problem_information = Some(boolean(value)?),
            id::AUTHENTICATION_METHOD => read.authentication_method = Some(value.string()?),
            id::AUTHENTICATION_DATA => read.authentication_data = Some(value.binary()?),
            _ => user_property(value)?,
        }
        Ok(())
    })?;
    if read.authentication_data.is_some() && read.authentication_method.is_none() {
        return Err(&rule::AUTH_DATA_WITHOUT_METHOD);
    }
    Ok(read)
}

pub(super) fn connack<'a>(reader: &mut Reader<'a>) -> Result<ConnAckProperties<'a>, Broken> {
    let mut read = ConnAckProperties::default();
    read.user_properties = Properties::read(reader, property::IN_CONNACK)?.each(|id, value| {
        match id {
            id::SESSION_EXPIRY_INTERVAL => read.session_expiry_s = Some(value.u32()?),
            id::RECEIVE_MAXIMUM => read.receive_maximum = Some(receive_maximum(value)?),
            id::MAXIMUM_QOS => {
                read.maximum_qos = Some(if boolean(value)? { QoS::AtLeastOnce } else { QoS::AtMostOnce });
            }
            id::RETAIN_AVAILABLE => read.retain_available = Some(boolean(value)?),
            id::MAXIMUM_PACKET_SIZE => read.maximum_packet_size = Some(maximum_packet_size(value)?),
            id::ASSIGNED_CLIENT_IDENTIFIER => read.assigned_client_id = Some(value.string()?),
            id::TOPIC_ALIAS_MAXIMUM => read.topic_alias_maximum = Some(value.u16()?),
            id::REASON_STRING => read.reason_string = Some(value.string()?),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => read.wildcard_subscription_available = Some(boolean(value)?),
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => read.subscription_identifiers_available = Some(boolean(value)?),
            id::SHARED_SUBSCRIPTION_AVAILABLE => read.shared_subscription_available = Some(boolean(value)?),
            id::SERVER_KEEP_ALIVE => read.server_keep_alive_s = Some(value.u16()?),
            id::RESPONSE_INFORMATION => read.response_information = Some(value.string()?),
            id::SERVER_REFERENCE => read.server_reference = Some(value.string()?),
            id::AUTHENTICATION_METHOD => read.authentication_method = Some(value.string()?),
            id::AUTHENTICATION_DATA => read.authentication_data = Some(value.binary()?),
            _ => user_property(value)?,
        }
        Ok(())
    })?;
    Ok(read)
}

/// A PUBLISH's, with their length.
#[inline]
pub(super) fn publish<'a>(reader: &mut Reader<'a>, from: Side) -> Result<PublishProperties<'a>, Broken> {
    let block = Properties::read(reader, property::IN_PUBLISH)?;
    if block.raw.is_empty() {
        Ok(PublishProperties::default())
    } else {
        publish_or_will(block, Some(from)).map(|(read, _)| read)
    }
}

/// A will's, with their length, and the Will Delay Interval in seconds.
pub(super) fn will<'a>(reader: &mut Reader<'a>) -> Result<(PublishProperties<'a>, u32), Broken> {
    publish_or_will(Properties::read(reader, property::IN_WILL)?, None)
}

fn publish_or_will<'a>(
    block: Properties<'a>,
    publish_from: Option<Side>,
) -> Result<(PublishProperties<'a>, u32), Broken> {
    let mut read = PublishProperties { raw: block.raw, ..PublishProperties::default() };
    let mut delay_s = 0;
    block.each(|id, value| {
        match id {
            id::PAYLOAD_FORMAT_INDICATOR => read.payload_format_indicator = Some(u8::from(boolean(value)?)),
            id::MESSAGE_EXPIRY_INTERVAL => read.message_expiry_s = Some(value.u32()?),
            id::CONTENT_TYPE => read.content_type = Some(value.string()?),
            id::RESPONSE_TOPIC => {
                let topic = value.topic_name(&rule::RESPONSE_TOPIC)?;
                read.response_topic = Some(if topic.is_empty() { return Err(&rule::RESPONSE_TOPIC) } else { topic });
            }
            id::CORRELATION_DATA => read.correlation_data = Some(value.binary()?),
            id::TOPIC_ALIAS => {
                read.topic_alias = Some(NonZeroU16::new(value.u16()?).ok_or(&rule::TOPIC_ALIAS_ZERO)?);
            }
            id::SUBSCRIPTION_IDENTIFIER if publish_from == Some(Side::Client) => {
                return Err(&rule::SUBSCRIPTION_IDENTIFIER_FROM_CLIENT);
            }
            id::SUBSCRIPTION_IDENTIFIER => {
                let identifier = subscription_identifier(value)?;
                read.subscription_identifier.get_or_insert(identifier);
            }
            id::WILL_DELAY_INTERVAL => delay_s = value.u32()?,
            _ => user_property(value)?,
        }
        Ok(())
    })?;
    Ok((read, delay_s))
}

/// Those of the acknowledgements: a reason string and user properties.
pub(super) fn ack<'a>(reader: &mut Reader<'a>) -> Result<(Option<&'a str>, UserProperties<'a>), Broken> {
    let mut reason_string = None;
    let user_properties = Properties::read(reader, property::IN_ACK)?.each(|id, value| {
        match id {
            id::REASON_STRING => reason_string = Some(value.string()?),
            _ => user_property(value)?,
        }
        Ok(())
    })?;
    Ok((reason_string, user_properties))
}

pub(super) fn subscribe<'a>(reader: &mut Reader<'a>) -> Result<(Option<u32>, UserProperties<'a>), Broken> {
    let mut identifier = None;
    let user_properties = Properties::read(reader, property::IN_SUBSCRIBE)?.each(|id, value| {
        match id {
            id::SUBSCRIPTION_IDENTIFIER if identifier.is_some() => return Err(&rule::PROPERTY_REPEATED),
            id::SUBSCRIPTION_IDENTIFIER => identifier = Some(subscription_identifier(value)?),
            _ => user_property(value)?,
        }
        Ok(())
    })?;
    Ok((identifier, user_properties))
}

/// UNSUBSCRIBE's: user properties alone.
pub(super) fn unsubscribe<'a>(reader: &mut Reader<'a>) -> Result<UserProperties<'a>, Broken> {
    Properties::read(reader, property::IN_UNSUBSCRIBE)?.each(|_, value| user_property(value))
}

fn boolean(value: &mut Reader<'_>) -> Result<bool, Broken> {
    match value.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(&rule::PROPERTY_NOT_BOOLEAN),
    }
}

fn receive_maximum(value: &mut Reader<'_>) -> Result<NonZeroU16, Broken> {
    NonZeroU16::new(value.u16()?).ok_or(&rule::RECEIVE_MAXIMUM_ZERO)
}

fn maximum_packet_size(value: &mut Reader<'_>) -> Result<u32, Broken> {
    NonZeroU32::new(value.u32()?).map(NonZeroU32::get).ok_or(&rule::MAXIMUM_PACKET_SIZE_ZERO)
}

fn subscription_identifier(value: &mut Reader<'_>) -> Result<u32, Broken> {
    match value.varint()? {
        0 => Err(&rule::SUBSCRIPTION_IDENTIFIER_ZERO),
        identifier => Ok(identifier),
    }
}

pub(super) fn user_property(value: &mut Reader<'_>) -> Result<(), Broken> {
    value.string()?;
    value.string()?;
    Ok(())
}
