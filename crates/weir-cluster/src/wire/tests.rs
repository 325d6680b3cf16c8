#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use weir_broker::gateway::{PeerMessage, PeerPublish, Positions, RetainedEntry, RetainedPublisher};
use weir_mqtt::ProtocolVersion;

use super::field::{Length, Reader, Sink, varint_len};
use super::*;
use crate::sim::Rng;

const SEEDS: u64 = 2000;

/// What a message borrows from.
struct Parts {
    group: String,
    filter: String,
    packet: Vec<u8>,
}

impl Parts {
    fn new(rng: &mut Rng) -> Self {
        Self { group: rng.text(20), filter: rng.text(200), packet: rng.bytes(300) }
    }

    fn message(&self, rng: &mut Rng) -> PeerMessage<'_> {
        let (group, filter) = (self.group.as_str(), self.filter.as_str());
        let namespace = rng.any() as u32;
        match rng.below(12) {
            0 => PeerMessage::Namespace { id: namespace, name: group },
            1 => PeerMessage::AddInterest { namespace, filter },
            2 => PeerMessage::RemoveInterest { namespace, filter },
            3 => PeerMessage::Group { namespace, group, filter, members: rng.any() as u32, ready: rng.any() as u32 },
            4 => PeerMessage::SnapshotEnd { stamp: rng.any() },
            5 => PeerMessage::Publish(self.publish(rng)),
            6 => PeerMessage::LogApplied { sequence: rng.any() },
            7 => {
                let (stamp, clean_start) = (rng.any(), rng.one_in(2));
                PeerMessage::ClientConnected { namespace, client_id: group, stamp, clean_start }
            }
            8 => {
                let will = rng.one_in(2).then_some(self.packet.as_slice());
                PeerMessage::ClientWill { namespace, client_id: group, stamp: rng.any(), will }
            }
            9 => PeerMessage::WillsEnd,
            10 => PeerMessage::WillPublished { namespace, client_id: group, stamp: rng.any() },
            _ => PeerMessage::GroupPublish { group, filter, publish: self.publish(rng) },
        }
    }

    fn publish(&self, rng: &mut Rng) -> PeerPublish<'_> {
        let expires_in = rng.one_in(2).then(|| rng.any().min(u64::MAX - 1));
        PeerPublish { namespace: rng.any() as u32, version: version(rng), expires_in, packet: &self.packet }
    }

    fn entry(&self, rng: &mut Rng) -> RetainedEntry<'_> {
        let address = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([7_u16; 8])][rng.below(2) as usize];
        let publisher = RetainedPublisher {
            client_id: &self.group,
            username: rng.one_in(2).then_some(self.filter.as_str()),
            address: rng.one_in(2).then_some(address),
            endpoint: &self.group,
        };
        let after = &self.packet[..self.packet.len() / 20 * 20];
        RetainedEntry {
            node: rng.next(),
            number: rng.any(),
            after: Positions(after),
            namespace: &self.group,
            version: version(rng),
            expires_in: rng.one_in(2).then(|| rng.any().min(u64::MAX - 1)),
            publisher: rng.one_in(2).then_some(publisher),
            packet: &self.packet,
        }
    }
}

fn move_frame<'a>(rng: &mut Rng, bytes: &'a [u8]) -> MoveFrame<'a> {
    let step = match rng.below(14) {
        0 => MoveStep::Offer(u128::from(rng.any()) << 64 | u128::from(rng.any())),
        1 => MoveStep::Accepted,
        2 => MoveStep::Refused,
        3 => MoveStep::Hold,
        4 => MoveStep::Held,
        5 => MoveStep::Cut(rng.any()),
        6 => MoveStep::CutDone(rng.any()),
        7 => MoveStep::Data,
        8 => MoveStep::DataEnd,
        9 => MoveStep::Imported(rng.any()),
        10 => MoveStep::Release,
        11 => MoveStep::Released(rng.one_in(2)),
        12 => MoveStep::Abandoned,
        _ => MoveStep::Query,
    };
    let has_bytes = matches!(step, MoveStep::Data | MoveStep::DataEnd);
    MoveFrame { number: rng.any(), step, bytes: if has_bytes { bytes } else { &[] } }
}

fn relay_frame<'a>(rng: &mut Rng, bytes: &'a [u8]) -> RelayFrame<'a> {
    let (relay, from_opener) = (rng.any(), rng.one_in(2));
    match rng.below(4) {
        0 => RelayFrame::Open { relay, slot: rng.any() as u16, admission: bytes },
        1 => RelayFrame::Data { relay, from_opener, bytes },
        2 => RelayFrame::Credit { relay, from_opener, bytes: rng.any() as u32 },
        _ => {
            let reasons = [RelayClose::Ended, RelayClose::NotOwner, RelayClose::Refused, RelayClose::Full];
            RelayFrame::Close { relay, from_opener, reason: reasons[rng.below(4) as usize] }
        }
    }
}

fn slot_table(rng: &mut Rng) -> SlotTable {
    let mut table = SlotTable::new(8 + rng.below(57) as u16, rng.any());
    let owners: Vec<(String, u64)> = (0..3).map(|_| (rng.text(20), rng.any())).collect();
    for row in &mut table.rows {
        let (node, incarnation) = &owners[rng.below(3) as usize];
        (row.from, row.since) = (rng.any(), rng.any());
        if !node.is_empty() && !rng.one_in(4) {
            (row.node, row.incarnation) = (node.clone(), *incarnation);
        }
    }
    table
}

fn version(rng: &mut Rng) -> ProtocolVersion {
    [ProtocolVersion::V3_1, ProtocolVersion::V3_1_1, ProtocolVersion::V5][rng.below(3) as usize]
}

fn heartbeat(rng: &mut Rng) -> Heartbeat {
    let leaving = rng.one_in(2);
    Heartbeat {
        node: rng.text(20),
        incarnation: rng.next(),
        sequence: rng.any(),
        wire: WireVersions { min: rng.next() as u8, max: rng.next() as u8 },
        weir_version: rng.text(10),
        addresses: (0..rng.below(4)).map(|_| rng.text(20)).collect(),
        load: Load { clients: rng.any(), sessions: rng.any() },
        leaving,
        gone: leaving && rng.one_in(2),
        evacuating: !leaving && rng.one_in(2),
        uptime_ms: rng.any(),
        slots: rng.one_in(2).then(|| HeartbeatSlots {
            has_data_dir: rng.one_in(2),
            founded: rng.any(),
            applied: rng.any(),
        }),
        report: rng.text(40).into_bytes().into(),
    }
}

fn envelope<'a>(rng: &mut Rng, payload: &'a [u8]) -> Envelope<'a> {
    let acknowledgement =
        Acknowledgement { generation: rng.any() as u32, received: rng.any(), processed: rng.any(), stored: rng.any() };
    Envelope {
        sender: rng.next(),
        receiver: rng.next(),
        wants_ack: rng.one_in(2),
        resend: rng.one_in(2),
        generation: (rng.any() as u32).max(1),
        offset: rng.any(),
        acknowledgement,
        payload,
    }
}

/// Bytes that are cut, changed, or extended.
fn damaged(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match rng.below(3) {
        0 => bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize),
        1 => bytes.extend(rng.bytes(8)),
        _ if bytes.is_empty() => {}
        _ => {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
    }
    bytes
}

#[test]
fn varints_have_the_length_that_is_counted_and_decode_to_their_value() {
    let mut rng = Rng::new(1);
    for value in (0..SEEDS).map(|_| rng.any()).chain([0, 127, 128, 16383, 16384, u64::MAX]) {
        let mut bytes = Vec::new();
        bytes.varint(value);
        let mut length = Length(0);
        length.varint(value);
        assert_eq!((bytes.len(), length.0), (varint_len(value), varint_len(value)));
        assert_eq!(Reader(&bytes).varint("x"), Ok(value));
    }
    assert_eq!(Reader(&[0xff; 11]).varint("x"), Err(FieldProblem::TooLarge.of("x")));
    let beyond = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
    assert_eq!(Reader(&beyond).varint("x"), Err(FieldProblem::TooLarge.of("x")));
    assert_eq!(Reader(&[0x80; 9]).varint("x"), Err(FieldProblem::Truncated.of("x")));
}

#[test]
fn frames_decode_to_the_messages_that_were_encoded() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let parts: Vec<Parts> = (0..4).map(|_| Parts::new(&mut rng)).collect();
        let frames: Vec<Frame<'_>> = parts
            .iter()
            .map(|parts| match rng.below(4) {
                0 => Frame::Relay(relay_frame(&mut rng, &parts.packet)),
                1 => Frame::Move(move_frame(&mut rng, &parts.packet)),
                _ => Frame::Message(parts.message(&mut rng)),
            })
            .collect();
        let mut bytes = Vec::new();
        for frame in &frames {
            match frame {
                Frame::Message(message) => encode_frame(message, &mut bytes),
                Frame::Relay(frame) => assert!(encode_relay_frame(frame, 4096, &mut bytes)),
                Frame::Move(frame) => assert!(encode_move_frame(frame, 4096, &mut bytes)),
                Frame::Unknown { .. } => unreachable!(),
            }
        }
        let mut rest = &bytes[..];
        for expected in &frames {
            let (frame, len) = decode_frame(rest, 4096).unwrap().unwrap();
            assert_eq!(frame, *expected, "seed {seed}");
            assert!((0..len).all(|cut| decode_frame(&rest[..cut], 4096) == Ok(None)), "seed {seed}");
            rest = &rest[len..];
        }
        assert!(rest.is_empty(), "seed {seed}");
        let damaged = damaged(&mut rng, &bytes);
        let mut rest = &damaged[..];
        while let Ok(Some((_, len))) = decode_frame(rest, 4096) {
            rest = &rest[len..];
        }
    }
}

#[test]
fn envelopes_decode_to_what_was_encoded_and_damage_is_found() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let payload = rng.bytes(200);
        let envelope = envelope(&mut rng, &payload);
        let mut bytes = Vec::new();
        envelope.encode(&mut bytes);
        assert_eq!(Envelope::decode(&bytes), Ok(envelope), "seed {seed}");
        let damaged = damaged(&mut rng, &bytes);
        assert!(damaged == bytes || Envelope::decode(&damaged).is_err(), "seed {seed}");
    }
}

#[test]
fn records_decode_to_what_was_encoded_and_damage_is_found() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let heartbeat = heartbeat(&mut rng);
        let mut bytes = Vec::new();
        heartbeat.encode(&mut bytes);
        assert_eq!(Heartbeat::decode(&bytes).as_ref(), Ok(&heartbeat), "seed {seed}");
        let spoiled = damaged(&mut rng, &bytes);
        assert!(spoiled == bytes || Heartbeat::decode(&spoiled).is_err(), "seed {seed}");

        let parts = Parts::new(&mut rng);
        let entry = parts.entry(&mut rng);
        bytes.clear();
        encode_retained_entry(&entry, &mut bytes);
        assert_eq!(decode_retained_entry(&bytes), Ok(entry), "seed {seed}");
        let spoiled = damaged(&mut rng, &bytes);
        assert!(spoiled == bytes || decode_retained_entry(&spoiled).is_err(), "seed {seed}");

        let table = slot_table(&mut rng);
        bytes.clear();
        table.encode(&mut bytes);
        assert_eq!(SlotTable::decode(&bytes).as_ref(), Ok(&table), "seed {seed}");
        let spoiled = damaged(&mut rng, &bytes);
        assert!(spoiled == bytes || SlotTable::decode(&spoiled).is_err(), "seed {seed}");
    }
}

/// Damage that the checksum does not hide: the fields themselves are damaged.
#[test]
fn damaged_fields_of_records_are_errors_or_other_values_without_panic() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let parts = Parts::new(&mut rng);
        let (mut first, mut second, mut third) = (Vec::new(), Vec::new(), Vec::new());
        heartbeat(&mut rng).encode(&mut first);
        encode_retained_entry(&parts.entry(&mut rng), &mut second);
        slot_table(&mut rng).encode(&mut third);
        for bytes in [first, second, third] {
            let fields = damaged(&mut rng, &bytes[5..]);
            let mut record = Vec::new();
            record::encode_record(&mut record, |out| out.extend_from_slice(&fields));
            let _ = Heartbeat::decode(&record);
            let _ = decode_retained_entry(&record);
            if let Ok(table) = SlotTable::decode(&record) {
                assert_eq!(table.rows.len(), usize::from(table.per_class) * 2);
            }
        }
    }
}

#[test]
fn unknown_frame_kinds_and_fields_are_skipped() {
    let message = PeerMessage::AddInterest { namespace: 3, filter: "a/b" };
    let mut bytes = vec![99, 3, 1, 2, 3];
    encode_frame(&message, &mut bytes);
    assert_eq!(decode_frame(&bytes, 100), Ok(Some((Frame::Unknown { kind: 99 }, 5))));
    // a field at the end of a body that this version knows
    bytes[6] += 2;
    bytes.extend([1, 7]);
    assert_eq!(decode_frame(&bytes[5..], 100), Ok(Some((Frame::Message(message), bytes.len() - 5))));

    let heartbeat = heartbeat(&mut Rng::new(1));
    let mut known = Vec::new();
    heartbeat.encode(&mut known);
    let mut record = Vec::new();
    record::encode_record(&mut record, |out| {
        record::put_field(out, 900, b"newer");
        out.extend_from_slice(&known[5..]);
    });
    assert_eq!(Heartbeat::decode(&record), Ok(heartbeat));
}

#[test]
fn unknown_fields_of_a_slot_table_and_its_rows_are_skipped_and_bounds_are_kept() {
    let mut table = SlotTable::new(8, 7);
    table.rows[3] = SlotRow { node: "n1".into(), incarnation: 5, from: 4, since: 3, transfer: 7 };
    let record = |per_class: u64, rows: usize, owner: &[u8], row: &[u8]| {
        let mut bytes = Vec::new();
        record::encode_record(&mut bytes, |out| {
            record::put_field(out, 900, b"newer");
            record::put_number(out, 1, per_class);
            record::put_number(out, 2, 7);
            record::put_field(out, 3, owner);
            for at in 0..rows {
                record::put_field(out, 4, if at == 3 { row } else { &[0, 0, 0] });
            }
        });
        SlotTable::decode(&bytes)
    };
    let problem = |field, problem: FieldProblem| Err(RecordError::Field(problem.of(field)));
    let owner = b"\x05\x02n1newer";
    let long = [b"\x05\x81\x02", [b'n'; 257].as_slice()].concat();
    type Case<'a> = (u64, usize, &'a [u8], &'a [u8], Result<SlotTable, RecordError>);
    let cases: [Case<'_>; 9] = [
        (8, 16, owner, &[1, 4, 3, 7, 99, 99], Ok(table)),
        (8, 16, owner, &[2, 4, 3], problem("owner", FieldProblem::Undefined(2))),
        (8, 16, owner, &[1, 4], problem("since", FieldProblem::Truncated)),
        (8, 15, owner, &[1, 4, 3], problem("slot", FieldProblem::Missing)),
        (8, 17, owner, &[1, 4, 3], problem("slot", FieldProblem::TooMany)),
        (7, 14, owner, &[1, 4, 3], problem("slots of a class", FieldProblem::Undefined(7))),
        (65, 130, owner, &[1, 4, 3], problem("slots of a class", FieldProblem::Undefined(65))),
        (8, 16, b"\x05\x00", &[1, 4, 3], problem("owner", FieldProblem::Missing)),
        (8, 16, &long, &[1, 4, 3], problem("owner", FieldProblem::TooLarge)),
    ];
    for (per_class, rows, owner, row, expected) in cases {
        assert_eq!(record(per_class, rows, owner, row), expected, "{per_class} {rows} {owner:?} {row:?}");
    }
}

#[test]
fn relay_frame_that_is_too_long_is_not_written() {
    let mut out = Vec::new();
    let frame = RelayFrame::Data { relay: 1, from_opener: false, bytes: &[0; 97] };
    assert!(encode_relay_frame(&frame, 100, &mut out) && out.len() == 102);
    assert!(!encode_relay_frame(&frame, 99, &mut out) && out.len() == 102);
}

#[test]
fn a_longer_header_of_an_envelope_is_skipped() {
    let mut bytes = Vec::new();
    let mut expected = envelope(&mut Rng::new(2), b"payload");
    expected.encode(&mut bytes);
    bytes[1] = 64 + 3;
    let sum = envelope::checksum(&[&bytes[..4], &bytes[8..]]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    expected.payload = b"load";
    assert_eq!(Envelope::decode(&bytes), Ok(expected));
}

#[test]
fn errors_say_what_is_wrong() {
    let field = |kind, field, problem: FieldProblem| Err(FrameError::Field { kind, error: problem.of(field) });
    type Decoded<'a> = Result<Option<(Frame<'a>, usize)>, FrameError>;
    let cases: [(&[u8], Decoded<'_>); 7] = [
        (&[6, 0xff, 1], Err(FrameError::TooLong { kind: 6, len: 255, max: 100 })),
        (&[0xff; 12], Err(FrameError::Header(FieldProblem::TooLarge.of("kind")))),
        (&[1, 3, 1, 9, b'a'], field(1, "name", FieldProblem::Truncated)),
        (&[1, 3, 1, 1, 0xff], field(1, "name", FieldProblem::NotUtf8)),
        (&[6, 2, 1, 6], field(6, "protocol version", FieldProblem::Undefined(6))),
        (&[1, 6, 0xff, 0xff, 0xff, 0xff, 0x7f, 0], field(1, "namespace", FieldProblem::TooLarge)),
        (&[2, 0], field(2, "namespace", FieldProblem::Truncated)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode_frame(bytes, 100), expected, "{bytes:02x?}");
    }
    assert_eq!(Envelope::decode(&[1; 63]), Err(EnvelopeError::TooShort { len: 63 }));
    assert_eq!(Envelope::decode(&[2; 64]), Err(EnvelopeError::UnsupportedVersion { version: 2 }));
    assert_eq!(Envelope::decode(&[1; 64]), Err(EnvelopeError::Checksum));
    assert_eq!(Heartbeat::decode(&[1; 4]), Err(RecordError::TooShort { len: 4 }));
    assert_eq!(Heartbeat::decode(&[3; 5]), Err(RecordError::UnsupportedVersion { version: 3 }));
    assert_eq!(Heartbeat::decode(&[1; 5]), Err(RecordError::Checksum));
    let many = Heartbeat { addresses: vec!["a".into(); 65], ..heartbeat(&mut Rng::new(3)) };
    let mut bytes = Vec::new();
    many.encode(&mut bytes);
    assert_eq!(Heartbeat::decode(&bytes).unwrap().addresses.len(), 64);
    let fields = [&bytes[5..], b"\x07\x01a"].concat();
    bytes.clear();
    record::encode_record(&mut bytes, |out| out.extend_from_slice(&fields));
    assert_eq!(Heartbeat::decode(&bytes), Err(RecordError::Field(FieldProblem::TooMany.of("address"))));
    let mut empty = Vec::new();
    record::encode_record(&mut empty, |_| {});
    let error = Heartbeat::decode(&empty).unwrap_err();
    assert_eq!(error.to_string(), "field `node` is missing");
}

#[test]
fn common_wire_version_is_the_newest_of_both() {
    let range = |min, max| WireVersions { min, max };
    assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
    assert_eq!(range(4, 4).common(range(1, 4)), Some(4));
    assert_eq!(range(1, 2).common(range(3, 4)), None);
}
