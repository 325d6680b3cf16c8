//! Entries of the log of retained messages.

use std::net::IpAddr;

use weir_broker::gateway::{Positions, RetainedEntry, RetainedPublisher};

use super::field::{FieldError, FieldProblem, Reader, text};
use super::frame::{expiry_from_wire, expiry_to_wire, protocol_version};
use super::record::{FieldIter, RecordError, decode_record, encode_record, number, put_field, put_number};

const NAMESPACE: u64 = 1;
const VERSION: u64 = 2;
const EXPIRY: u64 = 3;
const PUBLISHER: u64 = 4;
const PACKET: u64 = 5;
const NODE: u64 = 6;
const ENTRY_NUMBER: u64 = 7;
const AFTER: u64 = 8;

const CLIENT_ID: u64 = 1;
const USERNAME: u64 = 2;
const ADDRESS: u64 = 3;
const ENDPOINT: u64 = 4;

/// Appends the bytes of an entry.
pub fn encode_retained_entry(entry: &RetainedEntry<'_>, out: &mut Vec<u8>) {
    encode_record(out, |out| {
        put_field(out, NAMESPACE, entry.namespace.as_bytes());
        put_number(out, VERSION, u64::from(entry.version as u8));
        if entry.expires_in.is_some() {
            put_number(out, EXPIRY, expiry_to_wire(entry.expires_in));
        }
        if let Some(publisher) = &entry.publisher {
            let mut fields = Vec::new();
            encode_publisher(publisher, &mut fields);
            put_field(out, PUBLISHER, &fields);
        }
        put_number(out, NODE, entry.node);
        put_number(out, ENTRY_NUMBER, entry.number);
        if !entry.after.0.is_empty() {
            put_field(out, AFTER, entry.after.0);
        }
        put_field(out, PACKET, entry.packet);
    });
}

fn encode_publisher(publisher: &RetainedPublisher<'_>, out: &mut Vec<u8>) {
    put_field(out, CLIENT_ID, publisher.client_id.as_bytes());
    if let Some(username) = publisher.username {
        put_field(out, USERNAME, username.as_bytes());
    }
    match publisher.address {
        Some(IpAddr::V4(address)) => put_field(out, ADDRESS, &address.octets()),
        Some(IpAddr::V6(address)) => put_field(out, ADDRESS, &address.octets()),
        None => {}
    }
    put_field(out, ENDPOINT, publisher.endpoint.as_bytes());
}

/// Decodes an entry, which borrows from `bytes`. It allocates nothing.
pub fn decode_retained_entry(bytes: &[u8]) -> Result<RetainedEntry<'_>, RecordError> {
    let (mut namespace, mut version, mut expires_in, mut publisher, mut packet) = (None, None, None, None, None);
    let (mut node, mut entry_number, mut after) = (None, None, Positions::default());
    for field in decode_record(bytes)? {
        let (tag, value) = field?;
        match tag {
            NAMESPACE => namespace = Some(text(value, "namespace")?),
            VERSION => {
                let number = number(value, "protocol version")?;
                let small = u8::try_from(number).map_err(|_| FieldProblem::Undefined(number).of("protocol version"))?;
                version = Some(protocol_version(small)?);
            }
            EXPIRY => expires_in = expiry_from_wire(number(value, "expiry")?),
            PUBLISHER => publisher = Some(decode_publisher(value)?),
            PACKET => packet = Some(value),
            NODE => node = Some(number(value, "node")?),
            ENTRY_NUMBER => entry_number = Some(number(value, "number")?),
            AFTER => after = Positions(value),
            _ => {} // of a newer version
        }
    }
    let missing = |field: &'static str| FieldProblem::Missing.of(field);
    Ok(RetainedEntry {
        node: node.ok_or(missing("node"))?,
        number: entry_number.ok_or(missing("number"))?,
        after,
        namespace: namespace.ok_or(missing("namespace"))?,
        version: version.ok_or(missing("protocol version"))?,
        expires_in,
        publisher,
        packet: packet.ok_or(missing("packet"))?,
    })
}

fn decode_publisher(bytes: &[u8]) -> Result<RetainedPublisher<'_>, FieldError> {
    let (mut client_id, mut username, mut address, mut endpoint) = (None, None, None, None);
    for field in FieldIter(Reader(bytes)) {
        let (tag, value) = field?;
        match tag {
            CLIENT_ID => client_id = Some(text(value, "client id")?),
            USERNAME => username = Some(text(value, "username")?),
            ADDRESS => address = Some(ip_address(value)?),
            ENDPOINT => endpoint = Some(text(value, "endpoint")?),
            _ => {} // of a newer version
        }
    }
    let missing = |field: &'static str| FieldProblem::Missing.of(field);
    Ok(RetainedPublisher {
        client_id: client_id.ok_or(missing("client id"))?,
        username,
        address,
        endpoint: endpoint.ok_or(missing("endpoint"))?,
    })
}

fn ip_address(bytes: &[u8]) -> Result<IpAddr, FieldError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(octets));
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(octets) => Ok(IpAddr::from(octets)),
        Err(_) => Err(FieldProblem::Undefined(bytes.len() as u64).of("length of the address")),
    }
}
