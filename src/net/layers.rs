//! The layers between a socket and MQTT: TLS, WebSocket, or none.

use std::io::{self, BufRead, IoSlice, Write};

use rustls::ServerConnection;
use rustls::pki_types::CertificateDer;

use super::stream::Stream;
use super::websocket::{FrameError, FrameReader, FrameWriter, Incoming};
use weir_broker::OutBuf;

/// Maximum of ciphertext that waits for the socket, bytes.
const TLS_BUFFER_MAX_BYTES: usize = 64 << 10;
/// The WebSocket close code for a normal closure (RFC 6455, 7.4.1).
const NORMAL_CLOSURE: u16 = 1000;
/// Maximum of slices per system call.
const SLICES: usize = 16;

/// The layers of one connection, in the order in which incoming bytes pass them.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) tls: Option<Box<ServerConnection>>,
    pub(super) websocket: Option<Box<WebSocket>>,
    /// The client's certificates, where another node has verified them.
    pub(super) relayed: Vec<CertificateDer<'static>>,
}

pub(super) struct WebSocket {
    reader: FrameReader,
    writer: FrameWriter,
}

impl WebSocket {
    /// `response` is the HTTP response to the upgrade; frames follow it.
    pub(super) fn new(max_message_bytes: u64, response: Vec<u8>) -> Self {
        Self { reader: FrameReader::new(max_message_bytes), writer: FrameWriter::after(response) }
    }
}

/// Why a layer ends the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("WebSocket: {0}")]
    WebSocket(#[from] FrameError),
}

impl Layers {
    pub(super) fn new_tls(config: &std::sync::Arc<rustls::ServerConfig>) -> Result<Self, rustls::Error> {
        let mut tls = ServerConnection::new(std::sync::Arc::clone(config))?;
        tls.set_buffer_limit(Some(TLS_BUFFER_MAX_BYTES));
        Ok(Self { tls: Some(Box::new(tls)), ..Self::default() })
    }

    /// The client's certificates, its own first.
    pub(super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.as_ref().and_then(|tls| tls.peer_certificates()).unwrap_or(&self.relayed)
    }

    /// Decodes bytes from the socket; the payload is appended to `output`.
    pub(super) fn decode(&mut self, raw: &[u8], output: &mut Vec<u8>) -> Result<Incoming, LayerError> {
        match (&mut self.tls, &mut self.websocket) {
            (Some(tls), None) => Ok(decrypt(tls, raw, output)?),
            (None, Some(websocket)) => Ok(websocket.reader.read(raw, output, &mut websocket.writer)?),
            (Some(tls), Some(websocket)) => {
                let mut plain = Vec::new();
                let incoming = decrypt(tls, raw, &mut plain)?;
                Ok(websocket.reader.read(&plain, output, &mut websocket.writer)?.max(incoming))
            }
            (None, None) => {
                output.extend_from_slice(raw);
                Ok(Incoming::Open)
            }
        }
    }

    /// Decodes bytes that TLS has decrypted already.
    pub(super) fn decode_frames(&mut self, plain: &[u8], output: &mut Vec<u8>) -> Result<Incoming, LayerError> {
        match &mut self.websocket {
            Some(websocket) => Ok(websocket.reader.read(plain, output, &mut websocket.writer)?),
            None => {
                output.extend_from_slice(plain);
                Ok(Incoming::Open)
            }
        }
    }

    /// Whether a layer has bytes of its own to send: TLS handshake messages, WebSocket pongs.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
            || self.websocket.as_ref().is_some_and(|websocket| websocket.writer.has_pending())
    }

    /// Queues a WebSocket close frame, unless one was sent. (TLS's close_notify is [`send_close_notify`].)
    pub(super) fn close(&mut self) {
        self.close_with(NORMAL_CLOSURE);
    }

    /// Queues the WebSocket close frame for an error. (TLS queues its alert itself.)
    pub(super) fn close_with_error(&mut self, error: &LayerError) {
        if let LayerError::WebSocket(error) = error {
            self.close_with(error.code);
        }
    }

    fn close_with(&mut self, code: u16) {
        if let Some(websocket) = &mut self.websocket {
            websocket.writer.close(Some(code));
        }
    }
}

fn decrypt(tls: &mut ServerConnection, mut raw: &[u8], output: &mut Vec<u8>) -> Result<Incoming, rustls::Error> {
    let mut incoming = Incoming::Open;
    while !raw.is_empty() && incoming == Incoming::Open {
        match tls.read_tls(&mut raw) {
            // The buffer of rustls is full, and holds no complete record.
            Ok(0) | Err(_) => {
                return Err(rustls::Error::General("the peer sent more bytes than a TLS record may have".into()));
            }
            Ok(_) => {}
        }
        let state = tls.process_new_packets()?;
        let mut waiting = state.plaintext_bytes_to_read();
        while waiting > 0 {
            let mut reader = tls.reader();
            let Ok(chunk) = reader.fill_buf() else { break };
            let taken = chunk.len();
            output.extend_from_slice(chunk);
            reader.consume(taken);
            if taken == 0 {
                break;
            }
            waiting = waiting.saturating_sub(taken);
        }
        if state.peer_has_closed() {
            incoming = Incoming::Closed;
        }
    }
    Ok(incoming)
}

/// A source of outgoing bytes.
pub(super) trait Outgoing {
    /// The number of bytes that may be written now.
    fn waiting(&self) -> usize;
    fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize;
    fn advance(&mut self, n: usize);
}

impl Outgoing for OutBuf {
    fn waiting(&self) -> usize {
        self.ready()
    }
    fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.fill_slices(slices)
    }
    fn advance(&mut self, n: usize) {
        self.advance(n);
    }
}

/// Sent bytes that are kept at most.
const FORGET_BYTES: usize = 64 << 10;

/// Outgoing bytes of the shard itself: CONNACKs that refuse, HTTP responses.
#[derive(Debug, Default)]
pub(super) struct DriverOutput {
    bytes: Vec<u8>,
    sent: usize,
}

impl DriverOutput {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.sent == self.bytes.len() || self.sent >= FORGET_BYTES {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }
}

impl Outgoing for DriverOutput {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }
    fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match slices.first_mut() {
            Some(slot) if self.waiting() > 0 => {
                *slot = IoSlice::new(&self.bytes[self.sent..]);
                1
            }
            _ => 0,
        }
    }
    fn advance(&mut self, n: usize) {
        self.sent += n;
    }
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// The kernel has all bytes.
    All,
    /// The socket's send buffer is full.
    Blocked,
}

/// A destination of encoded bytes.
trait Sink {
    /// Writes as much as possible; 0: nothing can be written now.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Called after a short write: whether more can be written.
    fn after_short_write(&mut self) -> io::Result<Wrote>;
    /// Writes buffered bytes.
    fn flush(&mut self) -> io::Result<Wrote>;
}

impl Sink for &Stream {
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            return match self.write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result,
            };
        }
    }
    fn after_short_write(&mut self) -> io::Result<Wrote> {
        // The send buffer is full: another call would fail with EWOULDBLOCK.
        Ok(Wrote::Blocked)
    }
    fn flush(&mut self) -> io::Result<Wrote> {
        Ok(Wrote::All)
    }
}

/// TLS over a socket.
struct Encrypted<'a> {
    tls: &'a mut ServerConnection,
    stream: &'a Stream,
}

impl Sink for Encrypted<'_> {
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let taken = self.tls.writer().write_vectored(slices)?;
        if taken > 0 {
            return Ok(taken);
        }
        // The buffer of rustls is full: flush it.
        match self.flush()? {
            Wrote::All => self.tls.writer().write_vectored(slices),
            Wrote::Blocked => Ok(0),
        }
    }

    fn after_short_write(&mut self) -> io::Result<Wrote> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<Wrote> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Writer(self.stream)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Wrote::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Wrote::All)
    }
}

struct Writer<'a>(&'a Stream);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the bytes of `out` through the layers to the socket, until all are written or the socket blocks.
pub(super) fn write(stream: &Stream, layers: Option<&mut Layers>, out: &mut impl Outgoing) -> io::Result<Wrote> {
    let Some(layers) = layers else { return write_plain(&mut &*stream, out) };
    match (&mut layers.tls, &mut layers.websocket) {
        (None, None) => write_plain(&mut &*stream, out),
        (None, Some(websocket)) => write_frames(&mut &*stream, &mut websocket.writer, out),
        (Some(tls), None) => write_plain(&mut Encrypted { tls, stream }, out),
        (Some(tls), Some(websocket)) => write_frames(&mut Encrypted { tls, stream }, &mut websocket.writer, out),
    }
}

/// Sends TLS's close_notify, as far as the socket accepts it.
pub(super) fn send_close_notify(stream: &Stream, layers: Option<&mut Layers>) -> io::Result<Wrote> {
    match layers.and_then(|layers| layers.tls.as_mut()) {
        Some(tls) => {
            tls.send_close_notify();
            Encrypted { tls, stream }.flush()
        }
        None => Ok(Wrote::All),
    }
}

fn write_plain(sink: &mut impl Sink, out: &mut impl Outgoing) -> io::Result<Wrote> {
    loop {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = out.fill_slices(&mut slices);
        if count == 0 {
            return sink.flush();
        }
        let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        let written = sink.write(&slices[..count])?;
        out.advance(written);
        if written < offered && sink.after_short_write()? == Wrote::Blocked {
            return Ok(Wrote::Blocked);
        }
    }
}

fn write_frames(sink: &mut impl Sink, writer: &mut FrameWriter, out: &mut impl Outgoing) -> io::Result<Wrote> {
    loop {
        let (head, payload) = writer.next(out.waiting());
        if head.is_empty() && payload == 0 {
            return sink.flush();
        }
        let mut filled = [IoSlice::new(&[]); SLICES];
        let filled_count = out.fill_slices(&mut filled);
        let mut slices = [IoSlice::new(&[]); SLICES + 1];
        slices[0] = IoSlice::new(head);
        let (mut count, mut offered, mut left) = (1, head.len(), payload);
        // More bytes may wait than the frame header declared.
        for slice in filled[..filled_count].iter() {
            let part = slice.len().min(left);
            slices[count] = IoSlice::new(&slice[..part]);
            (count, offered, left) = (count + 1, offered + part, left - part);
            if left == 0 {
                break;
            }
        }
        let written = sink.write(&slices[..count])?;
        out.advance(writer.advance(written));
        if written < offered && sink.after_short_write()? == Wrote::Blocked {
            return Ok(Wrote::Blocked);
        }
    }
}
