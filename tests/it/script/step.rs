//! The steps of a script.

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::wire::Version;

/// A step, and the versions it is for (empty: all).
#[derive(Debug, Clone)]
pub struct Step {
    pub only: Vec<Version>,
    pub action: Action,
}

/// What a step does. The maps are read when the step is played, for they depend on the version.
#[derive(Debug, Clone)]
pub enum Action {
    /// Opens a connection and sends nothing.
    Open { client: String },
    /// Opens a connection if there is none, sends CONNECT, expects CONNACK.
    Connect { client: String, fields: Map<String, Value> },
    /// Sends one packet, or several in one write.
    Send { client: String, packets: Vec<(String, Value)> },
    /// Sends bytes.
    Raw { client: String, bytes: String },
    /// Expects one packet of a kind.
    Expect { client: String, kind: String, expected: Value },
    /// Expects these PUBLISH packets in any order; does what their QoS asks for if told to.
    ExpectAll { client: String, publishes: Vec<Value>, acknowledge: bool },
    /// Publishes to topics that come back to the client and to some that do not.
    Matches { client: String, yes: Vec<String>, no: Vec<String> },
    /// Members of a group take so many messages in all, and each of them so many at least.
    Shares { clients: Vec<String>, messages: usize, each: usize },
    /// The one filter of SUBSCRIBE or UNSUBSCRIBE `id` is refused, by its code or by the close.
    FilterRefused { client: String, id: u16 },
    /// The server closed a connection that never was accepted; a CONNACK with an error may come before.
    Broken { client: String },
    /// PUBLISH with everything its QoS asks for.
    Publish { client: String, fields: Map<String, Value> },
    /// Expects a PUBLISH and does everything its QoS asks for.
    Receive { client: String, fields: Map<String, Value> },
    /// SUBSCRIBE and its SUBACK.
    Subscribe { client: String, fields: Map<String, Value> },
    /// UNSUBSCRIBE and its UNSUBACK.
    Unsubscribe { client: String, fields: Map<String, Value> },
    /// PINGREQ and its PINGRESP.
    Ping { client: String },
    /// Nothing (more) was sent to these clients.
    Silence { clients: Vec<String> },
    /// The server closed the connection and had nothing more to say.
    Closed { client: String },
    /// 5.0: DISCONNECT with one of these codes, then closed; 3.x: closed.
    Refused { client: String, codes: Vec<u8> },
    /// CONNACK with a code of the version (3.x: no CONNACK where absent), then closed.
    Rejected { client: String, codes: Vec<u8>, return_code: Option<u8> },
    /// Sends DISCONNECT and waits for the server to close.
    Disconnect { client: String, fields: Map<String, Value> },
    /// Ends the connection without DISCONNECT.
    Close { client: String },
    /// Lets time pass, milliseconds.
    Advance { millis: u64 },
    /// Waits until what was sent has certainly been processed. Nothing in memory.
    Settle,
    /// Plays steps several times, with `${name}` counting from 1.
    Repeat { times: u64, name: String, steps: Vec<Value> },
}

impl Step {
    /// Reads a step: a map with the action and, if it is not for every version, `only`.
    pub fn parse(value: Value) -> Result<Step, String> {
        let value = if let Value::String(name) = value { serde_json::json!({ name: null }) } else { value };
        let shown = value.to_string();
        let mut fields = Fields::new("step", value)?;
        let only: Vec<String> = fields.optional("only")?.unwrap_or_default();
        let only = only.iter().map(|name| super::version(name)).collect::<Result<_, _>>()?;
        let (name, value) = fields.last()?;
        let action = Action::parse(&name, value).map_err(|error| format!("{error}; in step {shown}"))?;
        Ok(Step { only, action })
    }
}

impl Action {
    fn parse(name: &str, value: Value) -> Result<Action, String> {
        if let Some(simple) = Action::parse_simple(name, &value)? {
            return Ok(simple);
        }
        // A bare client name stands for a map with nothing else.
        let value = if value.is_string() { serde_json::json!({ "client": value }) } else { value };
        let mut fields = Fields::new(name, value)?;
        let client: String = fields.required("client")?;
        Ok(match name {
            "connect" => Action::Connect { client, fields: fields.rest() },
            "publish" => Action::Publish { client, fields: fields.rest() },
            "receive" => Action::Receive { client, fields: fields.rest() },
            "subscribe" => Action::Subscribe { client, fields: fields.rest() },
            "unsubscribe" => Action::Unsubscribe { client, fields: fields.rest() },
            "disconnect" => Action::Disconnect { client, fields: fields.rest() },
            "send" => Action::Send { client, packets: packets(fields)? },
            "expect" => {
                let (kind, expected) = fields.last()?;
                if kind == "publishes" {
                    let publishes = serde_json::from_value(expected).map_err(|error| error.to_string())?;
                    return Ok(Action::ExpectAll { client, publishes, acknowledge: false });
                }
                super::packets::server_packet_type(&kind)?;
                Action::Expect { client, kind, expected }
            }
            "raw" => {
                let bytes = fields.required("bytes")?;
                fields.finish()?;
                Action::Raw { client, bytes }
            }
            "refused" => {
                let codes = codes(&mut fields)?;
                fields.finish()?;
                Action::Refused { client, codes }
            }
            "rejected" => {
                let (codes, return_code) = (codes(&mut fields)?, fields.optional("return_code")?);
                fields.finish()?;
                Action::Rejected { client, codes, return_code }
            }
            "receive_all" => {
                let publishes = fields.required("publishes")?;
                fields.finish()?;
                Action::ExpectAll { client, publishes, acknowledge: true }
            }
            "matches" => {
                let (yes, no) = (fields.required("yes")?, fields.required("no")?);
                fields.finish()?;
                Action::Matches { client, yes, no }
            }
            "filter_refused" => {
                let id = fields.required("id")?;
                fields.finish()?;
                Action::FilterRefused { client, id }
            }
            other => return Err(format!("no step is called {other:?}")),
        })
    }

    /// The steps whose value is a name, a list of names, a number or nothing.
    fn parse_simple(name: &str, value: &Value) -> Result<Option<Action>, String> {
        let client = || value.as_str().map(str::to_owned).ok_or_else(|| format!("{name}: a client's name is wanted"));
        Ok(Some(match name {
            "open" => Action::Open { client: client()? },
            "ping" => Action::Ping { client: client()? },
            "closed" => Action::Closed { client: client()? },
            "close" => Action::Close { client: client()? },
            "broken" => Action::Broken { client: client()? },
            "settle" => Action::Settle,
            "silence" => {
                let clients = if value.is_string() { Value::Array(vec![value.clone()]) } else { value.clone() };
                Action::Silence {
                    clients: serde_json::from_value(clients).map_err(|error| format!("silence: {error}"))?,
                }
            }
            "shares" => {
                let mut fields = Fields::new("shares", value.clone())?;
                let (clients, messages) = (fields.required("clients")?, fields.required("messages")?);
                let each = fields.required("each")?;
                fields.finish()?;
                Action::Shares { clients, messages, each }
            }
            "advance" => Action::Advance { millis: value.as_u64().ok_or("advance: milliseconds are wanted")? },
            "repeat" => {
                let mut fields = Fields::new("repeat", value.clone())?;
                let name: Option<String> = fields.optional("as")?;
                let (times, steps) = (fields.required("times")?, fields.required("steps")?);
                fields.finish()?;
                Action::Repeat { times, name: name.unwrap_or_else(|| "i".to_owned()), steps }
            }
            _ => return Ok(None),
        }))
    }
}

fn packets(fields: Fields) -> Result<Vec<(String, Value)>, String> {
    let (kind, value) = fields.last()?;
    if kind != "packets" {
        return Ok(vec![(kind, value)]);
    }
    let list: Vec<Value> = serde_json::from_value(value).map_err(|error| error.to_string())?;
    list.into_iter().map(|packet| Fields::new("packet", packet)?.last()).collect()
}

/// `code`: one, or a list of those that are right.
fn codes(fields: &mut Fields) -> Result<Vec<u8>, String> {
    let codes = match fields.optional::<Value>("code")? {
        None => return Ok(Vec::new()),
        Some(Value::Array(codes)) => Value::Array(codes),
        Some(code) => Value::Array(vec![code]),
    };
    serde_json::from_value(codes).map_err(|error| format!("code: {error}"))
}
