//! What mqttbytes read, as the same facts.

use mqttbytes::{Protocol, v4, v5};

use super::ours::Facts;

pub fn facts_v4(packet: &v4::Packet) -> Facts {
    let mut facts;
    match packet {
        v4::Packet::Connect(connect) => {
            facts = Facts::of("CONNECT");
            facts.is("level", level(connect.protocol));
            facts.is("clean start", connect.clean_session);
            facts.is("keep alive", connect.keep_alive);
            facts.is("client id", &connect.client_id);
            if let Some(login) = &connect.login {
                self::login(&mut facts, &login.username, &login.password);
            }
            if let Some(will) = &connect.last_will {
                facts.is("will", (&will.topic, &will.message[..], will.qos as u8, will.retain));
            }
        }
        v4::Packet::ConnAck(ack) => {
            facts = Facts::of("CONNACK");
            facts.is("session present", ack.session_present);
            facts.is("code", ack.code as u8);
        }
        v4::Packet::Publish(publish) => {
            facts = Facts::of("PUBLISH");
            facts.is("flags", (publish.dup, publish.qos as u8, publish.retain));
            facts.is("topic", &publish.topic);
            facts.is("packet id", publish.pkid);
            facts.is("payload", &publish.payload[..]);
        }
        v4::Packet::PubAck(ack) => facts = plain_ack("PUBACK", ack.pkid),
        v4::Packet::PubRec(ack) => facts = plain_ack("PUBREC", ack.pkid),
        v4::Packet::PubRel(ack) => facts = plain_ack("PUBREL", ack.pkid),
        v4::Packet::PubComp(ack) => facts = plain_ack("PUBCOMP", ack.pkid),
        v4::Packet::Subscribe(subscribe) => {
            facts = Facts::of("SUBSCRIBE");
            facts.is("packet id", subscribe.pkid);
            subscribe.filters.iter().for_each(|filter| facts.is("filter", (&filter.path, filter.qos as u8)));
        }
        v4::Packet::SubAck(ack) => {
            facts = Facts::of("SUBACK");
            facts.is("packet id", ack.pkid);
            let codes = ack.return_codes.iter().map(|code| match code {
                v4::SubscribeReasonCode::Success(qos) => *qos as u8,
                v4::SubscribeReasonCode::Failure => 0x80,
            });
            facts.is("codes", codes.collect::<Vec<_>>());
        }
        v4::Packet::Unsubscribe(unsubscribe) => {
            facts = Facts::of("UNSUBSCRIBE");
            facts.is("packet id", unsubscribe.pkid);
            unsubscribe.topics.iter().for_each(|filter| facts.is("filter", filter));
        }
        v4::Packet::UnsubAck(ack) => {
            facts = Facts::of("UNSUBACK");
            facts.is("packet id", ack.pkid);
            facts.is("codes", [0u8; 0]);
        }
        v4::Packet::PingReq => facts = Facts::of("PINGREQ"),
        v4::Packet::PingResp => facts = Facts::of("PINGRESP"),
        v4::Packet::Disconnect => {
            facts = Facts::of("DISCONNECT");
            facts.is("code", 0);
        }
    }
    facts
}

fn level(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::V4 => 4,
        Protocol::V5 => 5,
    }
}

fn login(facts: &mut Facts, username: &str, password: &str) {
    facts.may("user name", Some(username).filter(|name| !name.is_empty()));
    facts.may("password", Some(password.as_bytes()).filter(|password| !password.is_empty()));
}

fn plain_ack(name: &str, packet_id: u16) -> Facts {
    let mut facts = Facts::of(name);
    facts.is("packet id", packet_id);
    facts.is("code", 0);
    facts
}

/// Adds a reason string and user properties of properties that may be absent.
macro_rules! reason_and_user {
    ($facts:ident, $properties:expr) => {
        if let Some(properties) = &$properties {
            $facts.may("reason string", properties.reason_string.as_ref());
            $facts.user(&properties.user_properties);
        }
    };
}

macro_rules! ack {
    ($name:literal, $ack:ident) => {{
        let mut facts = Facts::of($name);
        facts.is("packet id", $ack.pkid);
        facts.is("code", $ack.reason as u8);
        reason_and_user!(facts, $ack.properties);
        facts
    }};
}

pub fn facts_v5(packet: &v5::Packet) -> Facts {
    match packet {
        v5::Packet::Connect(connect) => connect_facts(connect),
        v5::Packet::ConnAck(ack) => connack_facts(ack),
        v5::Packet::Publish(publish) => publish_facts(publish),
        v5::Packet::PubAck(ack) => ack!("PUBACK", ack),
        v5::Packet::PubRec(ack) => ack!("PUBREC", ack),
        v5::Packet::PubRel(ack) => ack!("PUBREL", ack),
        v5::Packet::PubComp(ack) => ack!("PUBCOMP", ack),
        v5::Packet::Subscribe(subscribe) => subscribe_facts(subscribe),
        v5::Packet::SubAck(ack) => {
            let mut facts = Facts::of("SUBACK");
            facts.is("packet id", ack.pkid);
            reason_and_user!(facts, ack.properties);
            facts.is("codes", ack.return_codes.iter().map(|code| *code as u8).collect::<Vec<_>>());
            facts
        }
        v5::Packet::Unsubscribe(unsubscribe) => {
            let mut facts = Facts::of("UNSUBSCRIBE");
            facts.is("packet id", unsubscribe.pkid);
            if let Some(properties) = &unsubscribe.properties {
                facts.user(&properties.user_properties);
            }
            unsubscribe.filters.iter().for_each(|filter| facts.is("filter", filter));
            facts
        }
        v5::Packet::UnsubAck(ack) => {
            let mut facts = Facts::of("UNSUBACK");
            facts.is("packet id", ack.pkid);
            reason_and_user!(facts, ack.properties);
            facts.is("codes", ack.reasons.iter().map(|code| *code as u8).collect::<Vec<_>>());
            facts
        }
        v5::Packet::PingReq => Facts::of("PINGREQ"),
        v5::Packet::PingResp => Facts::of("PINGRESP"),
        v5::Packet::Disconnect(disconnect) => {
            let mut facts = Facts::of("DISCONNECT");
            facts.is("code", disconnect.reason_code as u8);
            if let Some(properties) = &disconnect.properties {
                facts.may("session expiry", properties.session_expiry_interval);
                facts.may("reason string", properties.reason_string.as_ref());
                facts.may("server reference", properties.server_reference.as_ref());
                facts.user(&properties.user_properties);
            }
            facts
        }
    }
}

fn connect_facts(connect: &v5::Connect) -> Facts {
    let mut facts = Facts::of("CONNECT");
    facts.is("level", level(connect.protocol));
    facts.is("clean start", connect.clean_session);
    facts.is("keep alive", connect.keep_alive);
    facts.is("client id", &connect.client_id);
    if let Some(login) = &connect.login {
        self::login(&mut facts, &login.username, &login.password);
    }
    if let Some(properties) = &connect.properties {
        facts.may("session expiry", properties.session_expiry_interval);
        facts.may("receive maximum", properties.receive_maximum);
        facts.may("maximum packet size", properties.max_packet_size);
        facts.may("topic alias maximum", properties.topic_alias_max);
        facts.may("request response information", properties.request_response_info);
        facts.may("request problem information", properties.request_problem_info);
        facts.may("authentication method", properties.authentication_method.as_ref());
        facts.may("authentication data", properties.authentication_data.as_deref());
        facts.user(&properties.user_properties);
    }
    if let Some(will) = &connect.last_will {
        facts.is("will", (&will.topic, &will.message[..], will.qos as u8, will.retain));
        if let Some(properties) = &will.properties {
            facts.may("will delay", properties.delay_interval.filter(|delay_s| *delay_s != 0));
            facts.may("payload format", properties.payload_format_indicator);
            facts.may("message expiry", properties.message_expiry_interval);
            facts.may("response topic", properties.response_topic.as_ref());
            facts.may("correlation data", properties.correlation_data.as_deref());
            facts.may("content type", properties.content_type.as_ref());
            facts.user(&properties.user_properties);
        }
    }
    facts
}

fn connack_facts(ack: &v5::ConnAck) -> Facts {
    let mut facts = Facts::of("CONNACK");
    facts.is("session present", ack.session_present);
    facts.is("code", ack.code as u8);
    if let Some(properties) = &ack.properties {
        facts.may("session expiry", properties.session_expiry_interval);
        facts.may("receive maximum", properties.receive_max);
        facts.may("maximum QoS", properties.max_qos);
        facts.may("retain available", properties.retain_available);
        facts.may("maximum packet size", properties.max_packet_size);
        facts.may("assigned client id", properties.assigned_client_identifier.as_ref());
        facts.may("topic alias maximum", properties.topic_alias_max);
        facts.may("reason string", properties.reason_string.as_ref());
        facts.may("wildcard subscriptions", properties.wildcard_subscription_available);
        facts.may("subscription identifiers", properties.subscription_identifiers_available);
        facts.may("shared subscriptions", properties.shared_subscription_available);
        facts.may("server keep alive", properties.server_keep_alive);
        facts.may("response information", properties.response_information.as_ref());
        facts.may("server reference", properties.server_reference.as_ref());
        facts.may("authentication method", properties.authentication_method.as_ref());
        facts.may("authentication data", properties.authentication_data.as_deref());
        facts.user(&properties.user_properties);
    }
    facts
}

fn publish_facts(publish: &v5::Publish) -> Facts {
    let mut facts = Facts::of("PUBLISH");
    facts.is("flags", (publish.dup, publish.qos as u8, publish.retain));
    facts.is("topic", &publish.topic);
    facts.is("packet id", publish.pkid);
    if let Some(properties) = &publish.properties {
        facts.may("payload format", properties.payload_format_indicator);
        facts.may("message expiry", properties.message_expiry_interval);
        facts.may("topic alias", properties.topic_alias);
        facts.may("response topic", properties.response_topic.as_ref());
        facts.may("correlation data", properties.correlation_data.as_deref());
        facts.may("content type", properties.content_type.as_ref());
        properties.subscription_identifiers.iter().for_each(|id| facts.is("subscription identifier", id));
        facts.user(&properties.user_properties);
    }
    facts.is("payload", &publish.payload[..]);
    facts
}

fn subscribe_facts(subscribe: &v5::Subscribe) -> Facts {
    let mut facts = Facts::of("SUBSCRIBE");
    facts.is("packet id", subscribe.pkid);
    if let Some(properties) = &subscribe.properties {
        facts.may("subscription identifier", properties.id);
        facts.user(&properties.user_properties);
    }
    for filter in &subscribe.filters {
        facts.is("filter", (&filter.path, filter.qos as u8));
        let handling = match filter.retain_forward_rule {
            v5::RetainForwardRule::OnEverySubscribe => 0u8,
            v5::RetainForwardRule::OnNewSubscribe => 1,
            v5::RetainForwardRule::Never => 2,
        };
        facts.is("options", (filter.nolocal, filter.preserve_retain, handling));
    }
    facts
}
