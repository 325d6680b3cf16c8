//! Bytes of earlier versions of the wire format, which every later version reads: `kept_bytes_v1.txt`. A node that is upgraded
//! exchanges them with nodes that are not.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weir_broker::gateway::{PeerMessage, PeerPublish, Positions, RetainedEntry, RetainedPublisher};
use weir_mqtt::ProtocolVersion;

use super::*;

const FRAME_MAX: usize = 100;

/// The samples of version 1 by name.
fn kept() -> BTreeMap<&'static str, Vec<u8>> {
    let lines = include_str!("kept_bytes_v1.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, bytes)| (name, unhex(bytes))).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PUBLISH: PeerPublish<'_> =
    PeerPublish { namespace: 300, version: ProtocolVersion::V5, expires_in: Some(4999), packet: b"\x30\x03\0\x01t" };
const GROUP_PUBLISH: PeerMessage<'_> = PeerMessage::GroupPublish { group: "g", filter: "t/#", publish: PUBLISH };

#[test]
fn messages_of_version_1_are_read_and_written() {
    let kept = kept();
    let no_expiry = PeerPublish { expires_in: None, version: ProtocolVersion::V3_1_1, ..PUBLISH };
    let client = |stamp, clean_start| PeerMessage::ClientConnected { namespace: 1, client_id: "c", stamp, clean_start };
    let will = |will| PeerMessage::ClientWill { namespace: 1, client_id: "c", stamp: 200, will };
    let messages = [
        ("namespace", PeerMessage::Namespace { id: 1, name: "tenant" }),
        ("add_interest", PeerMessage::AddInterest { namespace: 1, filter: "a/+" }),
        ("remove_interest", PeerMessage::RemoveInterest { namespace: 1, filter: "a/+" }),
        ("group", PeerMessage::Group { namespace: 1, group: "g", filter: "t/#", members: 200, ready: 2 }),
        ("snapshot_end", PeerMessage::SnapshotEnd { stamp: 200 }),
        ("publish", PeerMessage::Publish(no_expiry)),
        ("group_publish", GROUP_PUBLISH),
        ("log_applied", PeerMessage::LogApplied { sequence: 300 }),
        ("client_connected", client(200, true)),
        ("client_will", will(Some(b"w"))),
        ("client_will_end", will(None)),
        ("wills_end", PeerMessage::WillsEnd),
        ("will_published", PeerMessage::WillPublished { namespace: 1, client_id: "c", stamp: 200 }),
    ];
    for (name, message) in messages {
        let (mut written, bytes) = (Vec::new(), &kept[name]);
        assert_eq!(decode_frame(bytes, FRAME_MAX), Ok(Some((Frame::Message(message), bytes.len()))), "{name}");
        encode_frame(&message, &mut written);
        assert_eq!(hex(&written), hex(bytes), "{name}");
    }
}

#[test]
fn earlier_forms_of_messages_are_read() {
    let kept = kept();
    let earlier = [
        ("snapshot_end_without_stamp", PeerMessage::SnapshotEnd { stamp: 0 }),
        ("group_publish_with_flag", GROUP_PUBLISH),
    ];
    for (name, message) in earlier {
        let bytes = &kept[name];
        assert_eq!(decode_frame(bytes, FRAME_MAX), Ok(Some((Frame::Message(message), bytes.len()))), "{name}");
    }
}

#[test]
fn a_frame_of_a_later_version_is_skipped_by_its_length_and_the_next_one_is_read() {
    let kept = kept();
    let mut stream = kept["later_frame"].clone();
    let skipped = stream.len();
    stream.extend_from_slice(&kept["log_applied"]);
    assert_eq!(decode_frame(&stream, FRAME_MAX), Ok(Some((Frame::Unknown { kind: 487 }, skipped))));
    let next = Frame::Message(PeerMessage::LogApplied { sequence: 300 });
    assert_eq!(decode_frame(&stream[skipped..], FRAME_MAX), Ok(Some((next, stream.len() - skipped))));
}

const END: RelayFrame<'_> =
    RelayFrame::End { relay: 300, code: 0x9C, within_ms: 65_536, revokes: false, reference: b"n2" };

#[test]
fn frames_of_relayed_connections_of_version_1_are_read_and_written() {
    let kept = kept();
    let frames = [
        ("relay_open", RelayFrame::Open { relay: 300, slot: 130, admission: b"a" }),
        ("relay_data", RelayFrame::Data { relay: 300, from_opener: true, bytes: b"\xc0\0" }),
        ("relay_credit", RelayFrame::Credit { relay: 300, from_opener: false, bytes: 65_536 }),
        ("relay_close", RelayFrame::Close { relay: 1, from_opener: true, reason: RelayClose::NotOwner }),
        ("relay_end", END),
        ("relay_end_revokes", RelayFrame::End { relay: 1, code: 0x98, within_ms: 0, revokes: true, reference: b"" }),
    ];
    for (name, frame) in frames {
        let (mut written, bytes) = (Vec::new(), &kept[name]);
        assert_eq!(decode_frame(bytes, FRAME_MAX), Ok(Some((Frame::Relay(frame), bytes.len()))), "{name}");
        assert!(encode_relay_frame(&frame, FRAME_MAX, &mut written));
        assert_eq!(hex(&written), hex(bytes), "{name}");
    }
}

#[test]
fn an_envelope_of_version_1_is_read_and_written() {
    let (kept, mut written) = (kept(), Vec::new());
    let envelope = Envelope {
        sender: 0x0102_0304_0506_0708,
        receiver: 0x1112_1314_1516_1718,
        wants_ack: true,
        resend: true,
        generation: 2,
        offset: 65_536,
        acknowledgement: Acknowledgement { generation: 9, received: 70_000, processed: 12, stored: 11 },
        payload: b"\x05\0",
    };
    assert_eq!(Envelope::decode(&kept["envelope"]), Ok(envelope));
    envelope.encode(&mut written);
    assert_eq!(hex(&written), hex(&kept["envelope"]));
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        node: "n1".into(),
        incarnation: 0x0102_0304_0506_0708,
        sequence: 300,
        wire: WireVersions { min: 1, max: 1 },
        weir_version: "0.1.0".into(),
        addresses: vec!["mqtt://10.0.0.1:1883".into(), "mqtts://n1:8883".into()],
        load: Load { clients: 1000, sessions: 10 },
        leaving: true,
        gone: false,
        evacuating: false,
        uptime_ms: 0,
        slots: None,
        report: Arc::default(),
    }
}

#[test]
fn heartbeats_of_version_1_are_read_and_written() {
    let kept = kept();
    let slots = Some(HeartbeatSlots { has_data_dir: true, founded: 77, applied: 300 });
    let with_slots = Heartbeat { leaving: false, evacuating: true, uptime_ms: 90_000, slots, ..heartbeat() };
    let with_report = Heartbeat { report: b"{}".as_slice().into(), ..heartbeat() };
    let heartbeats =
        [("heartbeat", heartbeat()), ("heartbeat_with_slots", with_slots), ("heartbeat_with_report", with_report)];
    for (name, heartbeat) in heartbeats {
        let mut written = Vec::new();
        assert_eq!(Heartbeat::decode(&kept[name]).as_ref(), Ok(&heartbeat), "{name}");
        heartbeat.encode(&mut written);
        assert_eq!(hex(&written), hex(&kept[name]), "{name}");
    }
}

#[test]
fn a_report_that_is_too_long_does_not_cost_the_heartbeat() {
    let (long, mut written) =
        (Heartbeat { report: vec![b'x'; REPORT_MAX_BYTES + 1].into(), ..heartbeat() }, Vec::new());
    long.encode(&mut written);
    assert_eq!(Heartbeat::decode(&written), Ok(heartbeat()));
}

#[test]
fn a_slot_table_of_version_1_is_read_and_written() {
    let (kept, mut written) = (kept(), Vec::new());
    let mut table = SlotTable::new(8, 77);
    table.rows[0] = SlotRow { node: "n1".into(), incarnation: 300, from: 0, since: 1, transfer: 0 };
    table.rows[1] = SlotRow { node: "n2".into(), incarnation: 301, from: 300, since: 12, transfer: 0 };
    table.rows[15] = SlotRow { from: 301, since: 200, ..SlotRow::default() };
    table.encode(&mut written);
    assert_eq!(hex(&written), hex(&kept["slot_table"]));
    assert_eq!(SlotTable::decode(&kept["slot_table"]), Ok(table));
}

#[test]
fn an_entry_of_the_retained_log_of_version_1_is_read_and_written() {
    let (kept, mut written) = (kept(), Vec::new());
    let address = Some(IpAddr::from([10, 0, 0, 7]));
    let publisher = RetainedPublisher { client_id: "c", username: Some("u"), address, endpoint: "main" };
    let entry = RetainedEntry {
        node: 0x0102_0304_0506_0708,
        number: 300,
        after: Positions(&[7; 20]),
        namespace: "tenant",
        version: ProtocolVersion::V5,
        expires_in: Some(59_999),
        publisher: Some(publisher),
        packet: b"\x31\x03\0\x01t",
    };
    assert_eq!(decode_retained_entry(&kept["retained_entry"]), Ok(entry));
    encode_retained_entry(&entry, &mut written);
    assert_eq!(hex(&written), hex(&kept["retained_entry"]));
}

#[test]
fn two_nodes_take_the_newest_version_that_both_have_or_none() {
    let versions = |min, max| WireVersions { min, max };
    for (own, peer, common) in [
        (versions(1, 1), versions(1, 2), Some(1)),
        (versions(1, 3), versions(1, 2), Some(2)),
        (versions(2, 3), versions(1, 2), Some(2)),
        (versions(2, 3), versions(1, 1), None),
    ] {
        assert_eq!((own.common(peer), peer.common(own)), (common, common), "{own:?} and {peer:?}");
    }
}
