//! What one side is asked to send, and what it has agreed to: only differences are asked for.

use std::collections::BTreeMap;

use weir_mqtt::{
    EncodeError, Packet, PacketId, ProtocolVersion, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe,
    UserProperties, encode,
};

/// Filters with their options.
pub(super) type Filters = BTreeMap<Box<str>, SubscriptionOptions>;

/// A SUBSCRIBE that is not answered: its identifier, and its filters in order.
type Asked = (PacketId, Vec<(Box<str>, SubscriptionOptions)>);

/// A session's subscriptions, as far as the side that holds it has answered. Outlives the connection, as the session does.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    agreed: Filters,
    /// Filters that were refused on this connection, with the code.
    refused: BTreeMap<Box<str>, u8>,
    asked: Option<Asked>,
    dropped: Option<(PacketId, Vec<Box<str>>)>,
}

impl Subscriptions {
    /// A connection begins: what was asked and not answered has to be asked again. `present`: the session is the one that
    /// the subscriptions were made in.
    pub(super) fn connected(&mut self, present: bool) {
        self.asked = None;
        self.dropped = None;
        self.refused.clear();
        if !present {
            self.agreed.clear();
        }
    }

    /// The session turns out to have these; with which options is not known.
    pub(super) fn found(&mut self, filters: impl IntoIterator<Item = String>) {
        for filter in filters {
            self.agreed.entry(filter.into()).or_default();
        }
    }

    /// Whether nothing is left to ask.
    pub(super) fn is_settled(&self, wanted: &Filters) -> bool {
        self.asked.is_none() && self.dropped.is_none() && self.missing(wanted).next().is_none() && {
            self.agreed.keys().all(|filter| wanted.contains_key(filter))
        }
    }

    /// What the side will not send: filter and reason code.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&str, u8)> {
        self.refused.iter().map(|(filter, code)| (&**filter, *code))
    }

    /// Whether a subscription is there. One whose retained messages came need not be made anew for them not to come.
    fn has(&self, filter: &str, wanted: &SubscriptionOptions) -> bool {
        let with_retained = SubscriptionOptions { retain_handling: RetainHandling::Always, ..*wanted };
        self.agreed.get(filter).is_some_and(|agreed| agreed == wanted || *agreed == with_retained)
    }

    fn missing<'a>(&'a self, wanted: &'a Filters) -> impl Iterator<Item = (&'a Box<str>, &'a SubscriptionOptions)> {
        wanted.iter().filter(|(filter, options)| !self.has(filter, options) && !self.refused.contains_key(*filter))
    }

    /// Asks for what is missing, and that what is no longer wanted be sent no more. `free` is an identifier that no other
    /// exchange of the connection has; the one after it is taken too.
    pub(super) fn ask(
        &mut self,
        wanted: &Filters,
        version: ProtocolVersion,
        free: PacketId,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if self.asked.is_some() || self.dropped.is_some() {
            return Ok(());
        }
        let unwanted: Vec<Box<str>> =
            self.agreed.keys().filter(|filter| !wanted.contains_key(*filter)).cloned().collect();
        if !unwanted.is_empty() {
            let mut raw = Vec::new();
            unwanted.iter().for_each(|filter| push_filter(&mut raw, filter));
            let user_properties = UserProperties::default();
            let packet = Unsubscribe { packet_id: free, user_properties, raw_filters: &raw, count: unwanted.len() };
            encode(&Packet::Unsubscribe(packet), version, out)?;
            self.dropped = Some((free, unwanted));
        }
        let missing: Vec<_> = self.missing(wanted).map(|(filter, options)| (filter.clone(), *options)).collect();
        if !missing.is_empty() {
            let packet_id = free.checked_add(1).unwrap_or(PacketId::MIN);
            let mut raw = Vec::new();
            for (filter, options) in &missing {
                push_filter(&mut raw, filter);
                raw.push(option_bits(options, version));
            }
            let packet = Subscribe {
                packet_id,
                subscription_identifier: None,
                user_properties: UserProperties::default(),
                raw_filters: &raw,
                count: missing.len(),
            };
            encode(&Packet::Subscribe(packet), version, out)?;
            self.asked = Some((packet_id, missing));
        }
        Ok(())
    }

    /// SUBACK.
    pub(super) fn subscribed(&mut self, packet_id: PacketId, codes: &[u8]) {
        let Some((_, asked)) = self.asked.take_if(|(id, _)| *id == packet_id) else { return };
        // A code that is missing is a refusal, too.
        let codes = codes.iter().copied().chain(std::iter::repeat(0x80));
        for ((filter, options), code) in asked.into_iter().zip(codes) {
            if code < 0x80 {
                self.agreed.insert(filter, options);
            } else {
                self.agreed.remove(&filter);
                self.refused.insert(filter, code);
            }
        }
    }

    /// UNSUBACK.
    pub(super) fn unsubscribed(&mut self, packet_id: PacketId) {
        let Some((_, dropped)) = self.dropped.take_if(|(id, _)| *id == packet_id) else { return };
        for filter in dropped {
            self.agreed.remove(&filter);
        }
    }
}

fn push_filter(raw: &mut Vec<u8>, filter: &str) {
    // The declaration's filters are at most 65,535 bytes, and a shared one is refused by the encoder's measure of the whole.
    raw.extend_from_slice(&u16::try_from(filter.len()).unwrap_or(u16::MAX).to_be_bytes());
    raw.extend_from_slice(&filter.as_bytes()[..filter.len().min(usize::from(u16::MAX))]);
}

fn option_bits(options: &SubscriptionOptions, version: ProtocolVersion) -> u8 {
    let qos = options.qos as u8;
    if version != ProtocolVersion::V5 {
        return qos; // [MQTT-3-8.3-4]
    }
    qos | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}
