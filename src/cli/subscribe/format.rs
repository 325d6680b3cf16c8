//! The lines that messages are printed as.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::{HEXLOWER, HEXUPPER};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::print::printable;
use crate::client::ReceivedMessage;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum MessageFormat {
    /// The payload
    Text,
    /// Topic, a space, the payload
    Verbose,
    /// A JSON object: topic, payload (text, or base64 with `"base64": true` where it is not UTF-8), qos, retain, properties
    Json,
    /// The payload in hexadecimal
    Hex,
}

/// A line, as its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(char),
}

const FIELDS: &str = "tplxXqrdmIUjJCRDPEFS";

impl Template {
    pub(super) fn of(format: MessageFormat) -> Self {
        Self(match format {
            MessageFormat::Text => vec![Part::Field('p')],
            MessageFormat::Verbose => vec![Part::Field('t'), Part::Text(" ".to_owned()), Part::Field('p')],
            MessageFormat::Json => vec![Part::Field('j')],
            MessageFormat::Hex => vec![Part::Field('x')],
        })
    }

    /// Parses a template with the letters of mosquitto_sub.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => match chars.next() {
                    Some('%') => plain.push('%'),
                    Some(field) if FIELDS.contains(field) => {
                        if !plain.is_empty() {
                            parts.push(Part::Text(std::mem::take(&mut plain)));
                        }
                        parts.push(Part::Field(field));
                    }
                    Some(other) => return Err(format!("%{other} is not a field; see the list in --help")),
                    None => return Err("% at the end; %% is a percent sign".to_owned()),
                },
                '\\' => plain.push(match chars.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some('a') => '\u{7}',
                    Some('e') => '\u{1b}',
                    Some('\\') => '\\',
                    other => {
                        let other = other.map(String::from).unwrap_or_default();
                        return Err(format!("\\{other} is not an escape; \\n, \\t, \\r, \\0, \\a, \\e and \\\\ are"));
                    }
                }),
                other => plain.push(other),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// Appends the line of a message. `escapes`: texts of the message are [`printable`].
    pub(super) fn write(&self, message: &ReceivedMessage, escapes: bool, line: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => line.extend_from_slice(text.as_bytes()),
                Part::Field(field) => {
                    let value = field_of(*field, message);
                    if escapes {
                        line.extend_from_slice(printable(&String::from_utf8_lossy(&value)).as_bytes());
                    } else {
                        line.extend_from_slice(&value);
                    }
                }
            }
        }
    }
}

fn field_of(field: char, message: &ReceivedMessage) -> Vec<u8> {
    let properties = message.properties.as_deref();
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let text = match field {
        't' => message.topic.clone(),
        'p' => return message.payload.clone(),
        'l' => message.payload.len().to_string(),
        'x' => HEXLOWER.encode(&message.payload),
        'X' => HEXUPPER.encode(&message.payload),
        'q' => (message.qos as u8).to_string(),
        'r' => u8::from(message.retain).to_string(),
        'd' => u8::from(message.dup).to_string(),
        'm' => message.packet_id.map_or(0, |id| id.get()).to_string(),
        'I' => OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        'U' => {
            let now = OffsetDateTime::now_utc();
            format!("{}.{:09}", now.unix_timestamp(), now.nanosecond())
        }
        'j' | 'J' => json_of(message).to_string(),
        'C' => properties.and_then(|properties| properties.content_type.clone()).unwrap_or_default(),
        'R' => properties.and_then(|properties| properties.response_topic.clone()).unwrap_or_default(),
        'D' => return properties.and_then(|properties| properties.correlation_data.clone()).unwrap_or_default(),
        'P' => {
            let pairs = properties.map_or(&[][..], |properties| &properties.user_properties);
            pairs.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(" ")
        }
        'E' => number(properties.and_then(|properties| properties.message_expiry_s).map(u64::from)),
        'F' => number(properties.and_then(|properties| properties.payload_format_indicator).map(u64::from)),
        'S' => {
            let identifiers = properties.map_or(&[][..], |properties| &properties.subscription_identifiers);
            identifiers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    };
    text.into_bytes()
}

fn json_of(message: &ReceivedMessage) -> Value {
    let mut line = Map::new();
    line.insert("topic".to_owned(), json!(message.topic));
    match std::str::from_utf8(&message.payload) {
        Ok(text) => {
            line.insert("payload".to_owned(), json!(text));
        }
        Err(_) => {
            line.insert("payload".to_owned(), json!(STANDARD.encode(&message.payload)));
            line.insert("base64".to_owned(), json!(true));
        }
    }
    line.insert("qos".to_owned(), json!(message.qos as u8));
    line.insert("retain".to_owned(), json!(message.retain));
    let mut shown = Map::new();
    if let Some(properties) = message.properties.as_deref() {
        let fields = [
            ("payloadFormatIndicator", properties.payload_format_indicator.map(Value::from)),
            ("messageExpiryInterval", properties.message_expiry_s.map(Value::from)),
            ("contentType", properties.content_type.clone().map(Value::from)),
            ("responseTopic", properties.response_topic.clone().map(Value::from)),
            (
                "correlationData",
                properties.correlation_data.as_deref().map(|data| match std::str::from_utf8(data) {
                    Ok(text) => json!(text),
                    Err(_) => json!({"base64": STANDARD.encode(data)}),
                }),
            ),
        ];
        shown.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        if !properties.user_properties.is_empty() {
            let pairs: Vec<Value> =
                properties.user_properties.iter().map(|(name, value)| json!([name, value])).collect();
            shown.insert("userProperties".to_owned(), Value::Array(pairs));
        }
        if !properties.subscription_identifiers.is_empty() {
            shown.insert("subscriptionIdentifiers".to_owned(), json!(properties.subscription_identifiers));
        }
    }
    line.insert("properties".to_owned(), Value::Object(shown));
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_mqtt::QoS;

    fn line(template: &str, payload: &[u8], escapes: bool) -> String {
        let message = ReceivedMessage {
            topic: "a/b".to_owned(),
            payload: payload.to_vec(),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            packet_id: weir_mqtt::PacketId::new(7),
            properties: None,
        };
        let mut line = Vec::new();
        Template::parse(template).unwrap().write(&message, escapes, &mut line);
        String::from_utf8_lossy(&line).into_owned()
    }

    #[test]
    fn a_template_is_filled_with_the_fields_of_the_message() {
        assert_eq!(
            line("%t %p %x %X %l %q %r %d %m %%\\n[%C]", b"J\xAA", false),
            "a/b J\u{fffd} 4aaa 4AAA 2 1 1 0 7 %\n[]"
        );
        assert_eq!(line("%p", b"\x1b[2J", true), "\\u001b[2J");
        let text = line("%j", b"hi", false);
        assert_eq!(text, r#"{"topic":"a/b","payload":"hi","qos":1,"retain":true,"properties":{}}"#);
        assert!(line("%j", b"\xff", false).contains(r#""payload":"/w==","base64":true"#));
    }

    #[test]
    fn unknown_fields_and_escapes_are_refused() {
        for (text, expected) in [("%z", "%z is not a field"), ("100%", "%% is a percent sign"), ("\\q", "\\q is not")] {
            assert!(Template::parse(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
