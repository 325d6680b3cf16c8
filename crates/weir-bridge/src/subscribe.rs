//! Subscriptions of one side: only differences are subscribed and unsubscribed.

use std::collections::BTreeMap;

use weir_mqtt::{
    EncodeError, Packet, PacketId, ProtocolVersion, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe,
    UserProperties, encode,
};

/// Filters with their options.
pub(super) type Filters = BTreeMap<Box<str>, SubscriptionOptions>;

/// A SUBSCRIBE without SUBACK yet: its identifier, and its filters in order.
type UnackedSubscribe = (PacketId, Vec<(Box<str>, SubscriptionOptions)>);

/// The confirmed subscriptions of a session. They outlive the connection, as the session does.
#[derive(Debug, Default)]
pub(super) struct SideSubscriptions {
    confirmed: Filters,
    /// Filters refused on this connection, with the reason code.
    refused: BTreeMap<Box<str>, u8>,
    pending_subscribe: Option<UnackedSubscribe>,
    pending_unsubscribe: Option<(PacketId, Vec<Box<str>>)>,
}

impl SideSubscriptions {
    /// Call when a connection is accepted: pending requests are repeated. `present`: the session is the one with the
    /// confirmed subscriptions.
    pub(super) fn connected(&mut self, present: bool) {
        self.pending_subscribe = None;
        self.pending_unsubscribe = None;
        self.refused.clear();
        if !present {
            self.confirmed.clear();
        }
    }

    /// Adds subscriptions that the session already has, with unknown options.
    pub(super) fn set_existing(&mut self, filters: impl IntoIterator<Item = String>) {
        for filter in filters {
            self.confirmed.entry(filter.into()).or_default();
        }
    }

    /// Whether the session has exactly the wanted subscriptions.
    pub(super) fn is_settled(&self, wanted: &Filters) -> bool {
        self.pending_subscribe.is_none()
            && self.pending_unsubscribe.is_none()
            && self.missing(wanted).next().is_none()
            && { self.confirmed.keys().all(|filter| wanted.contains_key(filter)) }
    }

    /// Refused filters with their reason codes.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&str, u8)> {
        self.refused.iter().map(|(filter, code)| (&**filter, *code))
    }

    /// Whether the session has a subscription. One that requested retained messages need not be renewed to exclude
    /// them.
    fn has(&self, filter: &str, wanted: &SubscriptionOptions) -> bool {
        let with_retained = SubscriptionOptions { retain_handling: RetainHandling::Always, ..*wanted };
        self.confirmed.get(filter).is_some_and(|confirmed| confirmed == wanted || *confirmed == with_retained)
    }

    fn missing<'a>(&'a self, wanted: &'a Filters) -> impl Iterator<Item = (&'a Box<str>, &'a SubscriptionOptions)> {
        wanted.iter().filter(|(filter, options)| !self.has(filter, options) && !self.refused.contains_key(*filter))
    }

    /// Subscribes to missing filters and unsubscribes from unwanted ones. `free` is an identifier that no other
    /// exchange of the connection uses; the one after it is used too.
    pub(super) fn request_changes(
        &mut self,
        wanted: &Filters,
        version: ProtocolVersion,
        free: PacketId,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if self.pending_subscribe.is_some() || self.pending_unsubscribe.is_some() {
            return Ok(());
        }
        let unwanted: Vec<Box<str>> =
            self.confirmed.keys().filter(|filter| !wanted.contains_key(*filter)).cloned().collect();
        if !unwanted.is_empty() {
            let mut raw = Vec::new();
            unwanted.iter().for_each(|filter| push_filter(&mut raw, filter));
            let user_properties = UserProperties::default();
            let packet = Unsubscribe { packet_id: free, user_properties, raw_filters: &raw, count: unwanted.len() };
            encode(&Packet::Unsubscribe(packet), version, out)?;
            self.pending_unsubscribe = Some((free, unwanted));
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
            self.pending_subscribe = Some((packet_id, missing));
        }
        Ok(())
    }

    /// SUBACK.
    pub(super) fn subscribed(&mut self, packet_id: PacketId, codes: &[u8]) {
        let Some((_, pending_subscribe)) = self.pending_subscribe.take_if(|(id, _)| *id == packet_id) else { return };
        // A missing reason code counts as a refusal.
        let codes = codes.iter().copied().chain(std::iter::repeat(0x80));
        for ((filter, options), code) in pending_subscribe.into_iter().zip(codes) {
            if code < 0x80 {
                self.confirmed.insert(filter, options);
            } else {
                self.confirmed.remove(&filter);
                self.refused.insert(filter, code);
            }
        }
    }

    /// UNSUBACK.
    pub(super) fn unsubscribed(&mut self, packet_id: PacketId) {
        let Some((_, pending_unsubscribe)) = self.pending_unsubscribe.take_if(|(id, _)| *id == packet_id) else {
            return;
        };
        for filter in pending_unsubscribe {
            self.confirmed.remove(&filter);
        }
    }
}

fn push_filter(raw: &mut Vec<u8>, filter: &str) {
    // Declared filters have at most 65,535 bytes; the encoder refuses a shared filter that is longer.
    raw.extend_from_slice(&u16::try_from(filter.len()).unwrap_or(u16::MAX).to_be_bytes());
    raw.extend_from_slice(&filter.as_bytes()[..filter.len().min(usize::from(u16::MAX))]);
}

fn option_bits(options: &SubscriptionOptions, version: ProtocolVersion) -> u8 {
    let qos = options.qos as u8;
    if version != ProtocolVersion::V5 {
        return qos; // [MQTT-3.8.3-4]
    }
    qos | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}
