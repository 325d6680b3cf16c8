//! What lies between a socket and MQTT: TLS, WebSocket, or nothing.

use std::io::{self, BufRead, IoSlice, Write};

use rustls::ServerConnection;

use super::stream::Stream;
use super::websocket::{FrameError, FrameReader, FrameWriter, Incoming};
use weir_broker::OutBuf;

/// Ciphertext that may wait for the socket, bytes.
const TLS_BUFFER_MAX_BYTES: usize = 64 << 10;
/// The WebSocket close code that says that all is well.
const NORMAL_CLOSURE: u16 = 1000;
/// Slices of one system call.
const SLICES: usize = 16;

/// The layers of one connection, in the order bytes come in.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) tls: Option<Box<ServerConnection>>,
    pub(super) websocket: Option<Box<WebSocket>>,
}

pub(super) struct WebSocket {
    reader: FrameReader,
    writer: FrameWriter,
}

impl WebSocket {
    /// `response` is what the upgrade is answered with; frames follow it.
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
        Ok(Self { tls: Some(Box::new(tls)), websocket: None })
    }

    /// Takes bytes from the socket; what they carry is appended to `output`.
    pub(super) fn open(&mut self, raw: &[u8], output: &mut Vec<u8>) -> Result<Incoming, LayerError> {
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

    /// Takes bytes that are out of TLS already.
    pub(super) fn open_frames(&mut self, plain: &[u8], output: &mut Vec<u8>) -> Result<Incoming, LayerError> {
        match &mut self.websocket {
            Some(websocket) => Ok(websocket.reader.read(plain, output, &mut websocket.writer)?),
            None => {
                output.extend_from_slice(plain);
                Ok(Incoming::Open)
            }
        }
    }

    /// Whether a layer has something of its own to send: handshake messages, pongs.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
            || self.websocket.as_ref().is_some_and(|websocket| websocket.writer.has_pending())
    }

    /// Queues WebSocket's close frame, unless one was sent. (TLS's goodbye is [`finish`].)
    pub(super) fn close(&mut self) {
        self.close_with(NORMAL_CLOSURE);
    }

    /// Queues the close frame that tells of an error. (TLS has queued its alert by itself.)
    pub(super) fn close_for(&mut self, error: &LayerError) {
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
            // Its buffer is full of what it cannot use.
            Ok(0) | Err(_) => return Err(rustls::Error::General("the peer sends more than a record may hold".into())),
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

/// Bytes on their way out.
pub(super) trait Outgoing {
    /// Bytes that may be written.
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

/// What the driver itself has to say.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

impl Outgoing for Unsent {
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

/// How far writing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// Everything is with the kernel.
    All,
    /// The socket takes no more now.
    Blocked,
}

/// Where framed bytes go.
trait Sink {
    /// Takes what it can; 0: nothing for now.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// After it took less than it was offered: whether it may take more.
    fn after_short_write(&mut self) -> io::Result<Wrote>;
    /// Passes on what it holds back.
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
        // The buffer is full: asking again would only be told so.
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
        // Its buffer is full: make room.
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

/// Writes what waits in `out` through the layers into the socket, as far as it takes it.
pub(super) fn write(stream: &Stream, layers: Option<&mut Layers>, out: &mut impl Outgoing) -> io::Result<Wrote> {
    let Some(layers) = layers else { return write_plain(&mut &*stream, out) };
    match (&mut layers.tls, &mut layers.websocket) {
        (None, None) => write_plain(&mut &*stream, out),
        (None, Some(websocket)) => write_frames(&mut &*stream, &mut websocket.writer, out),
        (Some(tls), None) => write_plain(&mut Encrypted { tls, stream }, out),
        (Some(tls), Some(websocket)) => write_frames(&mut Encrypted { tls, stream }, &mut websocket.writer, out),
    }
}

/// Sends TLS's close_notify, as far as the socket takes it.
pub(super) fn finish(stream: &Stream, layers: Option<&mut Layers>) -> io::Result<Wrote> {
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
        // More may wait than the frame's header has said.
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
