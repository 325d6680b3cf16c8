//! Where the packets of a stream of MQTT end: a packet of this node's own may only follow a whole one.

/// Bytes of a remaining length at most [MQTT-1.5.5-1].
const LENGTH_BYTES: u32 = 4;

/// How far a stream is in its current packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Position {
    #[default]
    Start,
    /// In the remaining length: its value so far, and how many bytes of it have come.
    Length {
        value: u32,
        bytes: u32,
    },
    Body {
        left: u32,
    },
    /// It is no MQTT.
    Malformed,
}

/// Follows a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PacketBoundary {
    position: Position,
    /// First byte of the last packet; `None`: nothing has come.
    last: Option<u8>,
}

impl PacketBoundary {
    /// The next bytes of the stream.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            self.position = match self.position {
                Position::Start => {
                    self.last = Some(first);
                    Position::Length { value: 0, bytes: 0 }
                }
                Position::Length { value, bytes } => {
                    let value = value | (u32::from(first & 0x7F) << (7 * bytes));
                    match first & 0x80 {
                        0 => Self::body(value),
                        _ if bytes + 1 < LENGTH_BYTES => Position::Length { value, bytes: bytes + 1 },
                        _ => Position::Malformed,
                    }
                }
                Position::Body { left } => {
                    let part = bytes.len().min(left as usize);
                    bytes = &bytes[part..];
                    self.position = Self::body(left - part as u32);
                    continue;
                }
                Position::Malformed => return,
            };
            bytes = rest;
        }
    }

    const fn body(left: u32) -> Position {
        if left == 0 { Position::Start } else { Position::Body { left } }
    }

    /// Whether nothing has come.
    pub(super) const fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// The type of the last packet, where that is whole.
    pub(super) fn last_type(&self) -> Option<u8> {
        self.last.filter(|_| self.position == Position::Start).map(|first| first >> 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_at_a_boundary_after_each_packet_whatever_its_parts() {
        let mut large = vec![0x30, 0xAC, 0x02];
        large.resize(3 + 300, 7);
        let packets = [vec![0x20, 3, 0, 0, 0], vec![0xD0, 0], large, vec![0xE0, 1, 0x8B]];
        for part in [1, 2, 7, 299, 1000] {
            let mut boundary = PacketBoundary::default();
            assert!(boundary.is_empty() && boundary.last_type().is_none());
            for packet in &packets {
                let (last, all) = packet.split_last().unwrap();
                for bytes in all.chunks(part) {
                    boundary.push(bytes);
                    assert_eq!(boundary.last_type(), None, "{packet:?}");
                }
                boundary.push(&[*last]);
                assert_eq!(boundary.last_type(), Some(packet[0] >> 4));
            }
            let mut whole = PacketBoundary::default();
            packets.concat().chunks(part).for_each(|bytes| whole.push(bytes));
            assert_eq!(whole, boundary);
        }
    }

    #[test]
    fn a_stream_with_a_length_of_five_bytes_has_no_boundary() {
        let mut boundary = PacketBoundary::default();
        boundary.push(&[0x30, 0x80, 0x80, 0x80, 0x80, 0, 0xE0, 0]);
        assert!(!boundary.is_empty() && boundary.last_type().is_none());
    }
}
