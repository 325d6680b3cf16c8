//! SUBSCRIBE and UNSUBSCRIBE, and the walk over their filters. Chapters 3.8 and 3.10.

use super::properties;
use super::reader::Reader;
use crate::rule::{self, Broken};
use crate::{
    ProtocolVersion, QoS, RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions, Unsubscribe, UserProperties,
};

pub(super) fn subscribe(mut reader: Reader<'_>, version: ProtocolVersion) -> Result<Subscribe<'_>, Broken> {
    let packet_id = reader.packet_id()?;
    let (subscription_identifier, user_properties) = match version {
        ProtocolVersion::V5 => properties::subscribe(&mut reader)?,
        _ => (None, UserProperties::default()),
    };
    let raw_filters = reader.rest();
    let mut count = 0;
    while !reader.is_empty() {
        let (_, shared) = reader.topic_filter()?;
        let options = options(reader.u8()?, version)?;
        if shared && options.no_local {
            return Err(&rule::NO_LOCAL_SHARED);
        }
        count += 1;
    }
    if count == 0 {
        return Err(&rule::SUBSCRIBE_EMPTY);
    }
    Ok(Subscribe { packet_id, subscription_identifier, user_properties, raw_filters, count })
}

fn options(byte: u8, version: ProtocolVersion) -> Result<SubscriptionOptions, Broken> {
    let reserved = if version == ProtocolVersion::V5 { 0b1100_0000 } else { 0b1111_1100 };
    if byte & reserved != 0 {
        return Err(&rule::SUBSCRIPTION_RESERVED_BITS);
    }
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(byte & 0b11).ok_or(&rule::SUBSCRIPTION_QOS_3)?,
        no_local: byte & 0b100 != 0,
        retain_as_published: byte & 0b1000 != 0,
        retain_handling: match byte >> 4 & 0b11 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(&rule::RETAIN_HANDLING_3),
        },
    })
}

pub(super) fn unsubscribe(mut reader: Reader<'_>, version: ProtocolVersion) -> Result<Unsubscribe<'_>, Broken> {
    let packet_id = reader.packet_id()?;
    let user_properties = match version {
        ProtocolVersion::V5 => properties::unsubscribe(&mut reader)?,
        _ => UserProperties::default(),
    };
    let raw_filters = reader.rest();
    let mut count = 0;
    while !reader.is_empty() {
        reader.topic_filter()?;
        count += 1;
    }
    if count == 0 {
        return Err(&rule::UNSUBSCRIBE_EMPTY);
    }
    Ok(Unsubscribe { packet_id, user_properties, raw_filters, count })
}

impl<'a> Subscribe<'a> {
    /// The filters with their options, in order: `count` of them.
    pub fn filters(&self) -> impl Iterator<Item = SubscribeFilter<'a>> + use<'a> {
        let mut reader = Reader::new(self.raw_filters);
        std::iter::from_fn(move || {
            let (filter, _) = reader.topic_filter().ok()?;
            // a 3.x packet's bytes mean the same in 5.0
            let options = options(reader.u8().ok()?, ProtocolVersion::V5).ok()?;
            Some(SubscribeFilter { filter, options })
        })
    }
}

impl<'a> Unsubscribe<'a> {
    /// The filters, in order: `count` of them. As sent, `$share/` and all.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.raw_filters);
        std::iter::from_fn(move || reader.topic_filter().ok().map(|(filter, _)| filter))
    }
}
