//! What peers send: whatever decodes is encoded again and decodes to the same. A link that gets it panics never and keeps its bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_broker::gateway::PeerMessage;
use weir_cluster::wire::{
    Acknowledgement, Envelope, Frame, Heartbeat, decode_frame, decode_retained_entry, encode_frame,
    encode_retained_entry,
};
use weir_cluster::{LinkConfig, PeerLink};

const MAX_FRAME: usize = 4096;
const RECEIVE_LIMIT: usize = 8192;

fn frames(mut bytes: &[u8]) {
    while let Ok(Some((frame, len))) = decode_frame(bytes, MAX_FRAME) {
        if let Frame::Message(message) = frame {
            let mut again = Vec::new();
            encode_frame(&message, &mut again);
            assert_eq!(decode_frame(&again, usize::MAX), Ok(Some((frame, again.len()))));
        }
        bytes = &bytes[len..];
    }
}

/// The bytes are numbers and payloads of envelopes, so that the fuzzer need not guess a checksum.
fn link(mut bytes: &[u8]) {
    let mut link = PeerLink::new(LinkConfig { own: 1, peer: 2, max_frame: MAX_FRAME, receive_limit: RECEIVE_LIMIT });
    let (mut now, mut out) = (0, Vec::new());
    while let [flags, generation, offset, received, processed, len, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        let far = if flags & 4 == 0 { 1 } else { u64::MAX / 255 };
        let envelope = Envelope {
            sender: 2,
            receiver: 1,
            wants_ack: flags & 1 != 0,
            resend: flags & 2 != 0,
            generation: u32::from(*generation).max(1),
            offset: u64::from(*offset) * far,
            acknowledgement: Acknowledgement {
                generation: u32::from(*generation),
                received: u64::from(*received) * far,
                processed: u64::from(*processed) * far,
                stored: u64::from(*processed) * far,
            },
            payload,
        };
        link.receive(&envelope, now);
        assert!(link.untaken_bytes() <= RECEIVE_LIMIT);
        if flags & 8 != 0 {
            while link.next_frame().is_some() {}
            link.acknowledge(link.taken(), link.taken(), now);
        }
        if flags & 16 != 0 {
            link.push(&PeerMessage::SnapshotEnd { stamp: 0 });
        }
        if flags & 32 != 0 {
            link.reset(now);
        }
        now += u64::from(*flags);
        while link.poll(now, 256, &mut out) {
            assert_eq!(Envelope::decode(&out).map(|envelope| envelope.sender), Ok(1));
        }
        assert!(link.peer_processed() <= link.pushed() && link.peer_stored() <= link.pushed());
        bytes = rest;
    }
}

fuzz_target!(|data: &[u8]| {
    frames(data);
    link(data);
    let mut again = Vec::new();
    if let Ok(envelope) = Envelope::decode(data) {
        envelope.encode(&mut again);
        assert_eq!(Envelope::decode(&again), Ok(envelope));
    }
    // The checksum of a record is made right, so that its fields are reached.
    let mut record = vec![1, 0, 0, 0, 0];
    record.extend_from_slice(data);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..1]);
    hasher.update(data);
    record[1..5].copy_from_slice(&hasher.finalize().to_le_bytes());
    if let Ok(heartbeat) = Heartbeat::decode(&record) {
        again.clear();
        heartbeat.encode(&mut again);
        assert_eq!(Heartbeat::decode(&again), Ok(heartbeat));
    }
    if let Ok(entry) = decode_retained_entry(&record) {
        again.clear();
        encode_retained_entry(&entry, &mut again);
        assert_eq!(decode_retained_entry(&again), Ok(entry));
    }
});
