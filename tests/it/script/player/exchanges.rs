//! Actions of several packets: what is sent, and the answers to it.

use serde_json::{Map, Value};

use super::Player;
use crate::script::transport::Patience;
use crate::script::{expect, packets};
use crate::wire::{Ack, Packet, Publish, packet_type as t};

impl Player<'_> {
    pub(super) fn ping(&mut self, client: &str) -> Result<(), String> {
        self.send_packet(client, &Packet::PingReq)?;
        self.take(client, t::PINGRESP).map(|_| ())
    }

    pub(super) fn expect_all(
        &mut self,
        client: &str,
        mut expected: Vec<Value>,
        acknowledge: bool,
    ) -> Result<(), String> {
        let version = self.peer(client)?.version;
        while !expected.is_empty() {
            let packet = self.take(client, t::PUBLISH)?;
            let fits = |value: &Value| expect::matches(&packet, value, version, self.names).is_ok();
            let index = expected.iter().position(fits).ok_or_else(|| format!("none of them: {packet:?}"))?;
            expected.remove(index);
            if acknowledge {
                self.complete(client, &packet)?;
            }
        }
        Ok(())
    }

    /// Publishes to each topic; what matches the client's subscription comes back to it, the rest does not.
    pub(super) fn matches(&mut self, client: &str, yes: &[String], no: &[String]) -> Result<(), String> {
        for (topic, comes) in yes.iter().map(|topic| (topic, true)).chain(no.iter().map(|topic| (topic, false))) {
            let message = serde_json::json!({ "topic": topic, "payload": "x", "qos": 1 });
            let Value::Object(message) = message else { return Ok(()) };
            let result = self
                .publish(client, message.clone())
                .and_then(|()| if comes { self.receive(client, &message) } else { self.silence(client) });
            result.map_err(|error| format!("topic {topic:?}: {error}"))?;
        }
        Ok(())
    }

    /// Takes `messages` messages in all from `clients`, at least `each` from every one of them.
    pub(super) fn shares(&mut self, clients: &[String], messages: usize, each: usize) -> Result<(), String> {
        let mut counts = vec![0; clients.len()];
        let mut idle = 0;
        while counts.iter().sum::<usize>() < messages && idle < 200 {
            idle += 1;
            for (client, count) in clients.iter().zip(&mut counts) {
                self.pump(client, Patience::Moment)?;
                while self.peer(client)?.queue.iter().any(|packet| matches!(packet, Packet::Publish(_))) {
                    let packet = self.take(client, t::PUBLISH)?;
                    self.complete(client, &packet)?;
                    (*count, idle) = (*count + 1, 0);
                }
            }
        }
        if counts.iter().sum::<usize>() != messages || counts.iter().any(|count| *count < each) {
            return Err(format!("{messages} messages, at least {each} each, were expected: {counts:?}"));
        }
        Ok(())
    }

    fn next_id(&mut self, client: &str) -> Result<u16, String> {
        let peer = self.peer(client)?;
        peer.next_id = peer.next_id.checked_add(1).unwrap_or(1000);
        Ok(peer.next_id)
    }

    fn ack(&mut self, client: &str, packet_type: u8, id: u16) -> Result<(), String> {
        self.send_packet(client, &Packet::Ack(Ack { packet_type, id, code: 0, properties: Vec::new() }))
    }

    pub(super) fn publish(&mut self, client: &str, mut fields: Map<String, Value>) -> Result<(), String> {
        let code = fields.shift_remove("code");
        let id = self.next_id(client)?;
        let qos = fields.get("qos").and_then(Value::as_u64).unwrap_or(0);
        if qos > 0 && !fields.contains_key("id") {
            fields.insert("id".to_owned(), Value::from(id));
        }
        let version = self.peer(client)?.version;
        let packet = packets::to_send("publish", Value::Object(fields), version, self.names)?;
        let Packet::Publish(Publish { qos, id, retain, .. }) = packet else { return Err("no PUBLISH".to_owned()) };
        self.send_packet(client, &packet)?;
        if let Some(id) = id {
            let first = self.take(client, if qos == 1 { t::PUBACK } else { t::PUBREC })?;
            let mut expected = serde_json::json!({ "id": id });
            if let Some(code) = code {
                expected["code"] = code;
            }
            expect::matches(&first, &expected, version, self.names)?;
            let refused = matches!(&first, Packet::Ack(ack) if ack.code >= 0x80);
            if qos == 2 && !refused {
                self.ack(client, t::PUBREL, id)?;
                let last = self.take(client, t::PUBCOMP)?;
                expect::matches(&last, &serde_json::json!({ "id": id }), version, self.names)?;
            }
        }
        if retain { self.settle() } else { Ok(()) }
    }

    pub(super) fn receive(&mut self, client: &str, fields: &Map<String, Value>) -> Result<(), String> {
        let packet = self.take(client, t::PUBLISH)?;
        let version = self.peer(client)?.version;
        expect::matches(&packet, &Value::Object(fields.clone()), version, self.names)
            .map_err(|error| format!("{error}; it was {packet:?}"))?;
        self.complete(client, &packet)
    }

    /// Does everything the QoS of a received PUBLISH asks for.
    fn complete(&mut self, client: &str, packet: &Packet) -> Result<(), String> {
        let Packet::Publish(Publish { qos, id: Some(id), .. }) = *packet else { return Ok(()) };
        if qos == 1 {
            return self.ack(client, t::PUBACK, id);
        }
        let version = self.peer(client)?.version;
        self.ack(client, t::PUBREC, id)?;
        let pubrel = self.take(client, t::PUBREL)?;
        expect::matches(&pubrel, &serde_json::json!({ "id": id }), version, self.names)?;
        self.ack(client, t::PUBCOMP, id)
    }

    pub(super) fn subscribe(&mut self, client: &str, mut fields: Map<String, Value>) -> Result<(), String> {
        // One filter may be written without the list.
        if !fields.contains_key("filters") {
            let inner = ["filter", "qos", "no_local", "retain_as_published", "retain_handling"];
            let single: Map<String, Value> =
                inner.iter().filter_map(|key| Some(((*key).to_owned(), fields.shift_remove(*key)?))).collect();
            fields.insert("filters".to_owned(), Value::Array(vec![Value::Object(single)]));
        }
        let codes = fields.shift_remove("codes");
        if !fields.contains_key("id") {
            fields.insert("id".to_owned(), Value::from(self.next_id(client)?));
        }
        let version = self.peer(client)?.version;
        let packet = packets::to_send("subscribe", Value::Object(fields), version, self.names)?;
        let Packet::Subscribe { id, filters, .. } = &packet else { return Err("no SUBSCRIBE".to_owned()) };
        let granted: Vec<u8> = filters.iter().map(|(_, options)| options & 3).collect();
        let codes = codes.unwrap_or_else(|| Value::from(granted));
        self.send_packet(client, &packet)?;
        let suback = self.take(client, t::SUBACK)?;
        expect::matches(&suback, &serde_json::json!({ "id": id, "codes": codes }), version, self.names)
    }

    pub(super) fn unsubscribe(&mut self, client: &str, mut fields: Map<String, Value>) -> Result<(), String> {
        if let Some(filter) = fields.shift_remove("filter") {
            fields.insert("filters".to_owned(), Value::Array(vec![filter]));
        }
        let codes = fields.shift_remove("codes");
        if !fields.contains_key("id") {
            fields.insert("id".to_owned(), Value::from(self.next_id(client)?));
        }
        let version = self.peer(client)?.version;
        let packet = packets::to_send("unsubscribe", Value::Object(fields), version, self.names)?;
        let Packet::Unsubscribe { id, filters, .. } = &packet else { return Err("no UNSUBSCRIBE".to_owned()) };
        let codes = codes.unwrap_or_else(|| Value::from(vec![0; filters.len()]));
        self.send_packet(client, &packet)?;
        let unsuback = self.take(client, t::UNSUBACK)?;
        expect::matches(&unsuback, &serde_json::json!({ "id": id, "codes": codes }), version, self.names)
    }
}
