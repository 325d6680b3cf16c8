//! Packets made from choices: right by construction, in all forms that the specification leaves open; and then spoiled.
//! An encoder of its own, so that the codec is not asked about itself. The fuzz targets use it too.

use weir_mqtt::ProtocolVersion::{self, V3_1, V3_1_1, V5};
use weir_mqtt::Side::{self, Client, Server};

/// Choices drawn from bytes: a fuzzer's, proptest's, or a seed's. After the last byte every choice is 0.
pub struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub fn u8(&mut self) -> u8 {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        byte
    }

    /// A number less than `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.u8()) % end
    }

    pub fn flag(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// One time in `n`.
    pub fn rarely(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// Bytes of a seed, for [`Choices`].
pub fn bytes_of_seed(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15); // splitmix64
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes
}

const STRINGS: &[&str] = &["a", "", "name", "é", "\u{FEFF}bom", "\u{1}\u{7F}", "\u{10FFFF}", "application/json", LONG];
const TOPICS: &[&str] = &["a", "a/b", "/", "//x/", "$SYS/uptime", "é/ü", "with space", "$share", LONG];
const FILTERS: &[&str] =
    &["a", "#", "+", "a/+/b", "+/+/#", "/", "$SYS/#", "$share/g/a/#", "$shared/a", "é/+", LONG, "a#/not+judged"];
/// As long as makes every length around it take two bytes.
const LONG: &str = "llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll\
                    llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll";

/// The control packets, in the order of their types.
const CLIENT_TYPES: &[u8] = &[1, 3, 4, 5, 6, 7, 8, 10, 12, 14];
const SERVER_TYPES: &[u8] = &[2, 3, 4, 5, 6, 7, 9, 11, 13];

pub fn version(choices: &mut Choices<'_>) -> ProtocolVersion {
    choices.of(&[V5, V3_1_1, V5, V3_1])
}

pub fn side(choices: &mut Choices<'_>) -> Side {
    choices.of(&[Client, Server])
}

/// A packet that `from` may send on a connection of `version`.
pub fn packet(choices: &mut Choices<'_>, version: ProtocolVersion, from: Side) -> Vec<u8> {
    let mut types = if from == Client { CLIENT_TYPES } else { SERVER_TYPES }.to_vec();
    if version == V5 {
        types.push(15);
        if from == Server {
            types.push(14);
        }
    }
    let packet_type = choices.of(&types);
    let mut flags = if matches!(packet_type, 6 | 8 | 10) { 0b0010 } else { 0 };
    let mut body = Vec::new();
    match packet_type {
        1 => connect(choices, version, &mut body),
        2 => connack(choices, version, &mut body),
        3 => flags = publish(choices, version, from, &mut body),
        4..=7 => ack(choices, version, packet_type, &mut body),
        8 => subscribe(choices, version, &mut body),
        9 => suback(choices, version, &mut body),
        10 => unsubscribe(choices, version, &mut body),
        11 => unsuback(choices, version, &mut body),
        14 if version == V5 => disconnect(choices, from, &mut body),
        15 => auth(choices, from, &mut body),
        _ => {}
    }
    frame(packet_type << 4 | flags, &body)
}

/// A fixed header and a body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    varint(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(bytes);
}

fn string(choices: &mut Choices<'_>, out: &mut Vec<u8>) {
    prefixed(out, choices.of(STRINGS).as_bytes());
}

fn binary(choices: &mut Choices<'_>) -> Vec<u8> {
    (0..choices.below(5)).map(|_| choices.u8()).collect()
}

fn packet_id(choices: &mut Choices<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&choices.of(&[1u16, 7, 255, 256, 65_535]).to_be_bytes());
}

/// Properties with the identifiers `of`, each perhaps, in any order; and `must`, in any case.
fn properties(choices: &mut Choices<'_>, of: &[u8], must: &[u8], out: &mut Vec<u8>) {
    let mut block: Vec<Vec<u8>> = Vec::new();
    let sparse = choices.flag();
    for &id in of {
        let wanted = must.contains(&id) || choices.flag() && !(sparse && choices.flag());
        let times = match id {
            _ if !wanted => 0,
            0x26 => 1 + choices.below(3),
            _ => 1,
        };
        for _ in 0..times {
            let at = choices.below(block.len() + 1);
            let property = property(choices, id);
            // user properties stand in any place but keep their order
            if id == 0x26 { block.push(property) } else { block.insert(at, property) }
        }
    }
    let block = block.concat();
    varint(out, block.len());
    out.extend_from_slice(&block);
}

fn property(choices: &mut Choices<'_>, id: u8) -> Vec<u8> {
    let mut out = vec![id];
    match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => out.push(choices.u8() & 1),
        0x13 | 0x22 => out.extend_from_slice(&choices.of(&[0u16, 1, 256, 65_535]).to_be_bytes()),
        0x21 | 0x23 => out.extend_from_slice(&choices.of(&[1u16, 2, 256, 65_535]).to_be_bytes()),
        0x27 => out.extend_from_slice(&choices.of(&[1u32, 256, u32::MAX]).to_be_bytes()),
        0x02 | 0x11 | 0x18 => out.extend_from_slice(&choices.of(&[0u32, 1, 3600, u32::MAX]).to_be_bytes()),
        0x0B => varint(&mut out, choices.of(&[1, 127, 128, 16_384, 2_097_152, 268_435_455])),
        0x08 => prefixed(&mut out, choices.of(TOPICS).as_bytes()),
        0x09 | 0x16 => prefixed(&mut out, &binary(choices)),
        0x26 => {
            string(choices, &mut out);
            string(choices, &mut out);
        }
        _ => string(choices, &mut out),
    }
    out
}

fn connect(choices: &mut Choices<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    prefixed(out, if version == V3_1 { b"MQIsdp" } else { b"MQTT" });
    let bridge = version != V5 && choices.rarely(8);
    out.push(version as u8 | u8::from(bridge) << 7);
    let clean_start = choices.flag();
    let (will, user_name, password) = (choices.flag(), choices.flag(), choices.flag());
    let password = password && (user_name || version == V5);
    let (will_qos, will_retain) = (choices.below(3) as u8, choices.flag());
    let will_bits = if will { 0x04 | will_qos << 3 | u8::from(will_retain) << 5 } else { 0 };
    out.push(u8::from(clean_start) << 1 | will_bits | u8::from(password) << 6 | u8::from(user_name) << 7);
    out.extend_from_slice(&choices.of(&[0u16, 60, 65_535]).to_be_bytes());
    if version == V5 {
        let mut ids = vec![0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26];
        let method: &[u8] = if choices.flag() { &[0x15] } else { &[] };
        ids.extend_from_slice(method);
        if !method.is_empty() {
            ids.push(0x16);
        }
        properties(choices, &ids, method, out);
    }
    let empty = choices.rarely(4) && (version == V5 || version == V3_1_1 && clean_start);
    prefixed(out, if empty { b"" } else { choices.of(&["c", "sensor-0042", LONG, "+", "é"]).as_bytes() });
    if will {
        if version == V5 {
            properties(choices, &[0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26], &[], out);
        }
        prefixed(out, choices.of(TOPICS).as_bytes());
        prefixed(out, &binary(choices));
    }
    if user_name {
        string(choices, out);
    }
    if password {
        prefixed(out, &binary(choices));
    }
}

fn connack(choices: &mut Choices<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    let code = if version == V5 { choices.of(&[0u8, 0, 0x80, 0x87, 0x9F]) } else { choices.of(&[0u8, 0, 1, 2, 5]) };
    out.push(if code == 0 && version != V3_1 { choices.u8() & 1 } else { 0 });
    out.push(code);
    if version == V5 {
        let ids =
            [0x11, 0x21, 0x24, 0x25, 0x27, 0x12, 0x22, 0x1F, 0x26, 0x28, 0x29, 0x2A, 0x13, 0x1A, 0x1C, 0x15, 0x16];
        properties(choices, &ids, &[], out);
    }
}

/// Returns the flags.
fn publish(choices: &mut Choices<'_>, version: ProtocolVersion, from: Side, out: &mut Vec<u8>) -> u8 {
    let qos = choices.below(3) as u8;
    let (dup, retain) = (choices.flag() && qos > 0, choices.flag());
    let by_alias = version == V5 && choices.rarely(4);
    prefixed(out, if by_alias { b"" } else { choices.of(TOPICS).as_bytes() });
    if qos > 0 {
        packet_id(choices, out);
    }
    if version == V5 {
        let mut ids = vec![0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26];
        if from == Server {
            ids.extend(std::iter::repeat_n(0x0B, choices.below(4)));
        }
        properties(choices, &ids, if by_alias { &[0x23] } else { &[] }, out);
    }
    out.extend_from_slice(&binary(choices));
    if choices.rarely(4) {
        out.extend_from_slice(LONG.as_bytes());
    }
    u8::from(dup) << 3 | qos << 1 | u8::from(retain)
}

fn ack(choices: &mut Choices<'_>, version: ProtocolVersion, packet_type: u8, out: &mut Vec<u8>) {
    packet_id(choices, out);
    if version == V5 && choices.flag() {
        out.push(choices.of(if packet_type <= 5 { &[0u8, 0x10, 0x80, 0x97, 0x99][..] } else { &[0u8, 0x92] }));
        if choices.flag() {
            properties(choices, &[0x1F, 0x26], &[], out);
        }
    }
}

fn subscribe(choices: &mut Choices<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    packet_id(choices, out);
    if version == V5 {
        properties(choices, &[0x0B, 0x26], &[], out);
    }
    for _ in 0..=choices.below(3) {
        let filter = choices.of(FILTERS);
        prefixed(out, filter.as_bytes());
        let qos = choices.below(3) as u8;
        let (no_local, as_published) = (choices.flag() && !filter.starts_with("$share/"), choices.flag());
        let handling = choices.below(3) as u8;
        let of_v5 = u8::from(no_local) << 2 | u8::from(as_published) << 3 | handling << 4;
        out.push(if version == V5 { qos | of_v5 } else { qos });
    }
}

fn suback(choices: &mut Choices<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    packet_id(choices, out);
    if version == V5 {
        properties(choices, &[0x1F, 0x26], &[], out);
    }
    for _ in 0..=choices.below(3) {
        out.push(match version {
            V3_1 => choices.of(&[0u8, 1, 2]),
            V3_1_1 => choices.of(&[0u8, 1, 2, 0x80]),
            V5 => choices.of(&[0u8, 1, 2, 0x80, 0x87, 0x8F, 0xA2]),
        });
    }
}

fn unsubscribe(choices: &mut Choices<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    packet_id(choices, out);
    if version == V5 {
        properties(choices, &[0x26], &[], out);
    }
    for _ in 0..=choices.below(3) {
        prefixed(out, choices.of(FILTERS).as_bytes());
    }
}

fn unsuback(choices: &mut Choices<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    packet_id(choices, out);
    if version == V5 {
        properties(choices, &[0x1F, 0x26], &[], out);
        for _ in 0..=choices.below(3) {
            out.push(choices.of(&[0u8, 0x11, 0x80, 0x91]));
        }
    }
}

fn disconnect(choices: &mut Choices<'_>, from: Side, out: &mut Vec<u8>) {
    if choices.flag() {
        out.push(if from == Client { choices.of(&[0u8, 4, 0x80, 0x99]) } else { choices.of(&[0u8, 0x8B, 0x8E, 0xA2]) });
        if choices.flag() {
            properties(choices, if from == Client { &[0x11, 0x1F, 0x26] } else { &[0x1F, 0x26, 0x1C] }, &[], out);
        }
    }
}

fn auth(choices: &mut Choices<'_>, from: Side, out: &mut Vec<u8>) {
    if from == Server && choices.rarely(4) {
        return;
    }
    out.push(if from == Client { choices.of(&[0x18u8, 0x19]) } else { choices.of(&[0u8, 0x18]) });
    properties(choices, &[0x15, 0x16, 0x1F, 0x26], &[0x15], out);
}

/// Changes a few bytes of a packet; mostly the remaining length is made right again afterwards.
pub fn spoil(choices: &mut Choices<'_>, bytes: &[u8]) -> Vec<u8> {
    let header_len = 1 + bytes.iter().skip(1).take_while(|&&byte| byte & 0x80 != 0).count() + 1;
    let (mut first, mut body) = (bytes[0], bytes[header_len..].to_vec());
    for _ in 0..=choices.below(3) {
        let at = if body.is_empty() { 0 } else { (choices.below(256) << 8 | choices.below(256)) % body.len() };
        match choices.below(8) {
            0 if !body.is_empty() => body[at] ^= 1 << choices.below(8),
            1 if !body.is_empty() => body[at] = choices.of(&[0, 1, 2, 3, 0x7F, 0x80, 0xFF, b'+', b'#', b'$']),
            2 if !body.is_empty() => drop(body.remove(at)),
            3 => body.insert(at, choices.u8()),
            4 => body.truncate(at),
            5 => body.extend_from_within(..at),
            6 if !body.is_empty() => body[at] = body[at].wrapping_add(choices.of(&[1, 0xFF])),
            7 if choices.rarely(3) => first ^= 1 << choices.below(8),
            _ => body.push(choices.u8()),
        }
    }
    let mut spoiled = frame(first, &body);
    if choices.rarely(8) {
        let at = choices.below(spoiled.len().min(5));
        spoiled[at] = choices.u8();
    }
    spoiled
}
