//! WebSocket frames, server side. The payload of data frames is passed on as it arrives, across frame and message
//! boundaries, since MQTT packets need not align with them [MQTT-6.0.0-2]. Only a frame header is buffered.

/// Maximum payload of a control frame, bytes (RFC 6455, 5.5).
const CONTROL_MAX_BYTES: u64 = 125;
/// Maximum of queued control frames for a peer that does not read, bytes; above it pings are not answered.
const CONTROLS_MAX_BYTES: usize = 1024;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;

/// A protocol violation by the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (close code {code})")]
pub(in crate::net) struct FrameError {
    /// The close code to send (RFC 6455, 7.4.1).
    pub(in crate::net) code: u16,
    pub(in crate::net) what: &'static str,
}

const fn protocol(what: &'static str) -> FrameError {
    FrameError { code: 1002, what }
}

/// Whether the stream is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::net) enum Incoming {
    Open,
    /// The peer sent a close frame; bytes after it are ignored.
    Closed,
}

/// Decodes incoming frames.
#[derive(Debug)]
pub(in crate::net) struct FrameReader {
    /// The header of the current frame, while it is incomplete.
    header: [u8; 14],
    header_len: u8,
    opcode: u8,
    /// Payload bytes of the current frame that have not arrived.
    remaining: u64,
    mask: [u8; 4],
    /// Whether a fragmented message is in progress.
    in_message: bool,
    /// Bytes of the current message so far.
    message_bytes: u64,
    max_message_bytes: u64,
    /// Payload of the current control frame so far.
    control: Vec<u8>,
}

impl FrameReader {
    pub(in crate::net) fn new(max_message_bytes: u64) -> Self {
        Self {
            header: [0; 14],
            header_len: 0,
            opcode: 0,
            remaining: 0,
            mask: [0; 4],
            in_message: false,
            message_bytes: 0,
            max_message_bytes,
            control: Vec::new(),
        }
    }

    /// Consumes all of `input`: appends payload to `output`, and answers to control frames to `writer`.
    pub(in crate::net) fn read(
        &mut self,
        mut input: &[u8],
        output: &mut Vec<u8>,
        writer: &mut FrameWriter,
    ) -> Result<Incoming, FrameError> {
        loop {
            if self.remaining == 0 {
                let Some(rest) = self.read_header(input)? else { return Ok(Incoming::Open) };
                input = rest;
            }
            let take = usize::try_from(self.remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
            let (payload, rest) = input.split_at(take);
            input = rest;
            self.remaining -= take as u64;
            let is_control = self.opcode >= CLOSE;
            let into = if is_control { &mut self.control } else { &mut *output };
            let start = into.len();
            into.extend_from_slice(payload);
            unmask(&mut into[start..], self.mask);
            self.mask.rotate_left(take % 4);
            if self.remaining > 0 {
                return Ok(Incoming::Open);
            }
            if is_control && self.on_control(writer)? == Incoming::Closed {
                return Ok(Incoming::Closed);
            }
        }
    }

    /// Reads a frame's header; returns the bytes after it, or `None` if it is incomplete.
    fn read_header<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, FrameError> {
        let held = usize::from(self.header_len);
        let added = input.len().min(self.header.len() - held);
        self.header[held..held + added].copy_from_slice(&input[..added]);
        let available = held + added;
        self.header_len = u8::try_from(available).unwrap_or(14);
        let header = &self.header[..available];
        let &[first, second, ..] = header else { return Ok(None) };
        let has_mask = second & 0x80 != 0;
        let opcode = first & 0x0F;
        // These are checked before the header is complete.
        if first & 0x70 != 0 {
            return Err(protocol("reserved bits of a frame are set"));
        }
        if !has_mask {
            return Err(protocol("a frame from a client is not masked"));
        }
        self.check_opcode(opcode, first & FIN != 0, second & 0x7F)?;
        let (length, mask_at) = match (second & 0x7F, header.get(2..4), header.get(2..10)) {
            (short @ 0..=125, ..) => (u64::from(short), 2),
            (126, Some(&[a, b]), _) => (u64::from(u16::from_be_bytes([a, b])), 4),
            (127, _, Some(&[a, b, c, d, e, f, g, h])) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10),
            _ => return Ok(None),
        };
        let Some(&[a, b, c, d]) = header.get(mask_at..mask_at + 4) else { return Ok(None) };
        if opcode < CLOSE {
            self.begin_data(opcode, first & FIN != 0, length)?;
        }
        self.opcode = opcode;
        self.mask = [a, b, c, d];
        self.remaining = length;
        self.header_len = 0;
        Ok(Some(&input[mask_at + 4 - held..]))
    }

    fn check_opcode(&self, opcode: u8, fin: bool, length: u8) -> Result<(), FrameError> {
        match opcode {
            CONTINUATION if !self.in_message => Err(protocol("a continuation frame without a message")),
            BINARY if self.in_message => Err(protocol("a new message inside a fragmented one")),
            // [MQTT-6.0.0-1]
            TEXT => Err(FrameError { code: 1003, what: "a text frame: MQTT needs binary frames" }),
            CLOSE | PING | PONG if !fin => Err(protocol("a fragmented control frame")),
            CLOSE | PING | PONG if u64::from(length) > CONTROL_MAX_BYTES => {
                Err(protocol("a control frame above 125 bytes"))
            }
            CONTINUATION | BINARY | CLOSE | PING | PONG => Ok(()),
            _ => Err(protocol("a reserved opcode")),
        }
    }

    fn begin_data(&mut self, opcode: u8, fin: bool, length: u64) -> Result<(), FrameError> {
        let before = if opcode == BINARY { 0 } else { self.message_bytes };
        self.message_bytes = before.saturating_add(length);
        self.in_message = !fin;
        if self.message_bytes > self.max_message_bytes {
            return Err(FrameError { code: 1009, what: "a message larger than the endpoint allows" });
        }
        Ok(())
    }

    fn on_control(&mut self, writer: &mut FrameWriter) -> Result<Incoming, FrameError> {
        let payload = std::mem::take(&mut self.control);
        match self.opcode {
            PING => writer.push_control(PONG, &payload),
            CLOSE => {
                if payload.len() == 1 {
                    return Err(protocol("a close frame with a one-byte payload"));
                }
                // RFC 6455, 5.5.1: the answer has the received code.
                writer.close(payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code)));
                return Ok(Incoming::Closed);
            }
            _ => {}
        }
        Ok(Incoming::Open)
    }
}

/// XORs `bytes` with the mask, starting at its first byte.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Encodes outgoing frames: provides the headers and control frames between the bytes of the MQTT stream.
#[derive(Debug, Default)]
pub(in crate::net) struct FrameWriter {
    /// Headers and control frames to write before any payload.
    head: Vec<u8>,
    /// Bytes of `head` that are written.
    written: usize,
    /// Payload bytes of the current frame that are not written yet.
    frame_left: usize,
    /// Control frames queued until the end of the current frame.
    controls: Vec<u8>,
    /// Whether a close frame was queued: no data frame may follow it.
    closed: bool,
}

impl FrameWriter {
    /// A writer whose first output is `response`.
    pub(in crate::net) fn after(response: Vec<u8>) -> Self {
        Self { head: response, ..Self::default() }
    }

    /// The next output, with `waiting` payload bytes available: the bytes to write first, and how many payload bytes
    /// may follow them. A new frame covers all available payload.
    pub(in crate::net) fn next(&mut self, waiting: usize) -> (&[u8], usize) {
        if self.written == self.head.len() {
            self.head.clear();
            self.written = 0;
            if self.frame_left == 0 {
                self.head.append(&mut self.controls);
                if waiting > 0 && !self.closed {
                    self.begin(BINARY, waiting);
                    self.frame_left = waiting;
                }
            }
        }
        (&self.head[self.written..], self.frame_left)
    }

    /// Records that `n` bytes of the output of [`FrameWriter::next`] were written; returns how many of them were
    /// payload.
    pub(in crate::net) fn advance(&mut self, n: usize) -> usize {
        let head = n.min(self.head.len() - self.written);
        self.written += head;
        let payload = n - head;
        self.frame_left -= payload;
        if self.written == self.head.len() && self.frame_left == 0 {
            // An idle connection keeps no buffer.
            self.head = Vec::new();
            self.written = 0;
        }
        payload
    }

    /// Whether headers or control frames wait to be written.
    pub(in crate::net) fn has_pending(&self) -> bool {
        self.written < self.head.len() || !self.controls.is_empty()
    }

    /// Queues a close frame.
    pub(in crate::net) fn close(&mut self, code: Option<u16>) {
        if !self.closed {
            let code = code.map(u16::to_be_bytes);
            self.push_frame(CLOSE, code.as_ref().map_or(&[], |code| &code[..]));
            self.closed = true;
        }
    }

    fn push_control(&mut self, opcode: u8, payload: &[u8]) {
        if !self.closed && self.controls.len() < CONTROLS_MAX_BYTES {
            self.push_frame(opcode, payload);
        }
    }

    fn push_frame(&mut self, opcode: u8, payload: &[u8]) {
        debug_assert!(payload.len() as u64 <= CONTROL_MAX_BYTES);
        self.controls.extend_from_slice(&[FIN | opcode, payload.len() as u8]);
        self.controls.extend_from_slice(payload);
    }

    fn begin(&mut self, opcode: u8, length: usize) {
        self.head.push(FIN | opcode);
        match length {
            0..=125 => self.head.push(length as u8),
            126..=0xFFFF => {
                self.head.push(126);
                self.head.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                self.head.push(127);
                self.head.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..=125 => bytes.push(0x80 | short as u8),
            middle @ 126..=0xFFFF => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn read_in(pieces: &[&[u8]], max: u64) -> Result<(Vec<u8>, Vec<u8>, Incoming), FrameError> {
        let (mut reader, mut writer, mut output) = (FrameReader::new(max), FrameWriter::default(), Vec::new());
        let mut incoming = Incoming::Open;
        for piece in pieces {
            incoming = reader.read(piece, &mut output, &mut writer)?;
            if incoming == Incoming::Closed {
                break;
            }
        }
        Ok((output, writer.next(0).0.to_vec(), incoming))
    }

    #[test]
    fn payload_is_decoded_at_any_split_of_the_input() {
        let long: Vec<u8> = (0..70_000_u32).map(|i| i as u8).collect();
        let stream = [
            frame(FIN | BINARY, b"one"),
            frame(BINARY, b"two "),
            frame(FIN | PING, b"are you there"),
            frame(CONTINUATION, b""),
            frame(FIN | CONTINUATION, &long[..300]),
            frame(FIN | BINARY, &long),
        ]
        .concat();
        let expected = [b"onetwo ", &long[..300], &long[..]].concat();
        let pong = [&[FIN | PONG, 13], &b"are you there"[..]].concat();
        for size in [1, 2, 3, 5, 7, 13, 64, 1000, stream.len()] {
            let pieces: Vec<_> = stream.chunks(size).collect();
            let (output, answers, incoming) = read_in(&pieces, 1 << 20).unwrap();
            assert!(output == expected, "pieces of {size}");
            assert_eq!((answers, incoming), (pong.clone(), Incoming::Open), "pieces of {size}");
        }
    }

    #[test]
    fn protocol_violations_are_refused_with_their_close_code() {
        let unmasked = [FIN | BINARY, 1, 0];
        let cases: &[(&str, Vec<u8>, u16)] = &[
            ("text", frame(FIN | TEXT, b"x"), 1003),
            ("unmasked", unmasked.to_vec(), 1002),
            ("reserved bit", frame(FIN | 0x40 | BINARY, b"x"), 1002),
            ("reserved opcode", frame(FIN | 0x3, b"x"), 1002),
            ("reserved control opcode", frame(FIN | 0xB, b"x"), 1002),
            ("continuation of nothing", frame(FIN | CONTINUATION, b"x"), 1002),
            ("message in a message", [frame(BINARY, b"x"), frame(FIN | BINARY, b"x")].concat(), 1002),
            ("fragmented ping", frame(PING, b"x"), 1002),
            ("long ping", frame(FIN | PING, &[0; 126]), 1002),
            ("half a close code", frame(FIN | CLOSE, &[3]), 1002),
            ("large message", frame(FIN | BINARY, &[0; 1001]), 1009),
            (
                "large message in fragments",
                [frame(BINARY, &[0; 600]), frame(FIN | CONTINUATION, &[0; 600])].concat(),
                1009,
            ),
            ("a claim of 2^63 bytes", vec![FIN | BINARY, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
        ];
        for (name, bytes, code) in cases {
            for size in [1, bytes.len()] {
                let pieces: Vec<_> = bytes.chunks(size).collect();
                let error = read_in(&pieces, 1000).expect_err(name);
                assert_eq!(error.code, *code, "{name}: {error}");
            }
        }
        assert!(read_in(&[&frame(FIN | BINARY, &[0; 1000])], 1000).is_ok());
    }

    #[test]
    fn a_close_is_answered_and_ends_the_stream() {
        let bytes = [frame(FIN | CLOSE, &1000_u16.to_be_bytes()), frame(FIN | BINARY, b"late")].concat();
        let (output, answer, incoming) = read_in(&[&bytes], 1000).unwrap();
        assert_eq!((output, answer, incoming), (Vec::new(), vec![FIN | CLOSE, 2, 0x03, 0xE8], Incoming::Closed));
    }

    #[test]
    fn a_frame_covers_all_waiting_payload_and_control_frames_follow_it() {
        let mut writer = FrameWriter::default();
        assert_eq!(writer.next(0), (&[][..], 0));
        assert_eq!(writer.next(300), (&[FIN | BINARY, 126, 1, 44][..], 300));
        assert_eq!(writer.advance(3), 0);
        writer.push_control(PONG, b"p");
        // More bytes are waiting by now, but the frame's length is already written.
        assert_eq!(writer.next(1000), (&[44][..], 300));
        assert_eq!(writer.advance(101), 100);
        assert_eq!(writer.next(900), (&[][..], 200));
        assert_eq!(writer.advance(200), 200);
        assert_eq!(writer.next(700), (&[FIN | PONG, 1, b'p', FIN | BINARY, 126, 2, 0xBC][..], 700));
        assert_eq!(writer.advance(707), 700);
        assert!(!writer.has_pending());
        writer.close(Some(1000));
        assert_eq!(writer.next(5), (&[FIN | CLOSE, 2, 0x03, 0xE8][..], 0), "nothing follows a close");
    }

    #[test]
    fn frame_lengths_are_written_in_their_shortest_form() {
        for (length, header_len) in [(1, 2), (125, 2), (126, 4), (0xFFFF, 4), (0x1_0000, 10)] {
            let mut writer = FrameWriter::default();
            assert_eq!(writer.next(length).0.len(), header_len, "{length}");
        }
    }
}
