//! What our decoder read, as facts that can be held against another decoder's.

use weir_mqtt::{ConnAckProperties, ConnectProperties, Packet, ProtocolVersion, PublishProperties, UserProperties};

/// Names and values, in the order of the fields; what is absent is left out.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub fn of(packet: &str) -> Self {
        Self(vec![("packet", packet.to_owned())])
    }

    pub fn is(&mut self, name: &'static str, value: impl std::fmt::Debug) {
        self.0.push((name, format!("{value:?}")));
    }

    pub fn may<T: std::fmt::Debug>(&mut self, name: &'static str, value: Option<T>) {
        if let Some(value) = value {
            self.is(name, value);
        }
    }

    /// How often `name` stands there.
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|fact| fact.0 == name).count()
    }

    pub fn user(&mut self, pairs: &[(String, String)]) {
        if !pairs.is_empty() {
            self.is("user properties", pairs);
        }
    }
}

fn user(facts: &mut Facts, properties: UserProperties<'_>) {
    facts.user(&properties.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>());
}

pub fn facts(packet: &Packet<'_>, version: ProtocolVersion) -> Facts {
    let mut facts;
    match packet {
        Packet::Connect(connect) => {
            facts = Facts::of("CONNECT");
            facts.is("level", connect.version as u8);
            facts.is("clean start", connect.clean_start);
            facts.is("keep alive", connect.keep_alive_s);
            facts.is("client id", connect.client_id);
            facts.may("user name", connect.username.filter(|name| !name.is_empty()));
            facts.may("password", connect.password.filter(|password| !password.is_empty()));
            connect_properties(&mut facts, &connect.properties);
            if let Some(will) = &connect.will {
                facts.is("will", (will.topic, will.payload, will.qos as u8, will.retain));
                facts.may("will delay", Some(will.delay_s).filter(|delay_s| *delay_s != 0));
                publish_properties(&mut facts, &will.properties);
            }
        }
        Packet::ConnAck(ack) => {
            facts = Facts::of("CONNACK");
            facts.is("session present", ack.session_present);
            facts.is("code", ack.code);
            connack_properties(&mut facts, &ack.properties);
        }
        Packet::Publish(publish) => {
            facts = Facts::of("PUBLISH");
            facts.is("flags", (publish.dup, publish.qos as u8, publish.retain));
            facts.is("topic", publish.topic);
            facts.is("packet id", publish.packet_id.map_or(0, |id| id.get()));
            publish_properties(&mut facts, &publish.properties);
            facts.is("payload", publish.payload);
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            facts = Facts::of(name(packet));
            facts.is("packet id", ack.packet_id.get());
            facts.is("code", ack.code);
            facts.may("reason string", ack.reason_string);
            user(&mut facts, ack.user_properties);
        }
        Packet::Subscribe(subscribe) => {
            facts = Facts::of("SUBSCRIBE");
            facts.is("packet id", subscribe.packet_id.get());
            facts.may("subscription identifier", subscribe.subscription_identifier);
            user(&mut facts, subscribe.user_properties);
            for filter in subscribe.filters() {
                let options = filter.options;
                facts.is("filter", (filter.filter, options.qos as u8));
                if version == ProtocolVersion::V5 {
                    let handling = options.retain_handling as u8;
                    facts.is("options", (options.no_local, options.retain_as_published, handling));
                }
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            facts = Facts::of("UNSUBSCRIBE");
            facts.is("packet id", unsubscribe.packet_id.get());
            user(&mut facts, unsubscribe.user_properties);
            unsubscribe.filters().for_each(|filter| facts.is("filter", filter));
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => {
            facts = Facts::of(name(packet));
            facts.is("packet id", ack.packet_id.get());
            facts.may("reason string", ack.reason_string);
            user(&mut facts, ack.user_properties);
            facts.is("codes", ack.codes);
        }
        Packet::Disconnect(disconnect) => {
            facts = Facts::of("DISCONNECT");
            facts.is("code", disconnect.code);
            facts.may("session expiry", disconnect.session_expiry_s);
            facts.may("reason string", disconnect.reason_string);
            facts.may("server reference", disconnect.server_reference);
            user(&mut facts, disconnect.user_properties);
        }
        Packet::PingReq | Packet::PingResp | Packet::Auth(_) => facts = Facts::of(name(packet)),
    }
    facts
}

pub fn name(packet: &Packet<'_>) -> &'static str {
    match packet {
        Packet::Connect(_) => "CONNECT",
        Packet::ConnAck(_) => "CONNACK",
        Packet::Publish(_) => "PUBLISH",
        Packet::PubAck(_) => "PUBACK",
        Packet::PubRec(_) => "PUBREC",
        Packet::PubRel(_) => "PUBREL",
        Packet::PubComp(_) => "PUBCOMP",
        Packet::Subscribe(_) => "SUBSCRIBE",
        Packet::SubAck(_) => "SUBACK",
        Packet::Unsubscribe(_) => "UNSUBSCRIBE",
        Packet::UnsubAck(_) => "UNSUBACK",
        Packet::PingReq => "PINGREQ",
        Packet::PingResp => "PINGRESP",
        Packet::Disconnect(_) => "DISCONNECT",
        Packet::Auth(_) => "AUTH",
    }
}

fn connect_properties(facts: &mut Facts, properties: &ConnectProperties<'_>) {
    facts.may("session expiry", properties.session_expiry_s);
    facts.may("receive maximum", properties.receive_maximum.map(|maximum| maximum.get()));
    facts.may("maximum packet size", properties.maximum_packet_size);
    facts.may("topic alias maximum", properties.topic_alias_maximum);
    facts.may("request response information", properties.request_response_information.map(u8::from));
    facts.may("request problem information", properties.request_problem_information.map(u8::from));
    facts.may("authentication method", properties.authentication_method);
    facts.may("authentication data", properties.authentication_data);
    user(facts, properties.user_properties);
}

fn connack_properties(facts: &mut Facts, properties: &ConnAckProperties<'_>) {
    facts.may("session expiry", properties.session_expiry_s);
    facts.may("receive maximum", properties.receive_maximum.map(|maximum| maximum.get()));
    facts.may("maximum QoS", properties.maximum_qos.map(|qos| qos as u8));
    facts.may("retain available", properties.retain_available.map(u8::from));
    facts.may("maximum packet size", properties.maximum_packet_size);
    facts.may("assigned client id", properties.assigned_client_id);
    facts.may("topic alias maximum", properties.topic_alias_maximum);
    facts.may("reason string", properties.reason_string);
    facts.may("wildcard subscriptions", properties.wildcard_subscription_available.map(u8::from));
    facts.may("subscription identifiers", properties.subscription_identifiers_available.map(u8::from));
    facts.may("shared subscriptions", properties.shared_subscription_available.map(u8::from));
    facts.may("server keep alive", properties.server_keep_alive_s);
    facts.may("response information", properties.response_information);
    facts.may("server reference", properties.server_reference);
    facts.may("authentication method", properties.authentication_method);
    facts.may("authentication data", properties.authentication_data);
    user(facts, properties.user_properties);
}

fn publish_properties(facts: &mut Facts, properties: &PublishProperties<'_>) {
    facts.may("payload format", properties.payload_format_indicator);
    facts.may("message expiry", properties.message_expiry_s);
    facts.may("topic alias", properties.topic_alias.map(|alias| alias.get()));
    facts.may("response topic", properties.response_topic);
    facts.may("correlation data", properties.correlation_data);
    facts.may("content type", properties.content_type);
    properties.subscription_identifiers().for_each(|identifier| facts.is("subscription identifier", identifier));
    user(facts, properties.user_properties());
}
