//! What lies between MQTT bytes and the socket: nothing, TLS, or WebSocket.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// How a row's clients speak to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listener {
    Plain,
    Tls,
    WebSocket,
}

/// The client side of one connection's transport.
pub enum Transport {
    Plain,
    Tls(Box<ClientConnection>),
    WebSocket(WebSocket),
}

/// Client side WebSocket framing: one masked binary frame per MQTT packet, as clients do.
#[derive(Default)]
pub struct WebSocket {
    upgraded: bool,
    /// Bytes of the HTTP answer or of a frame header that is not complete yet.
    head: Vec<u8>,
    /// Payload bytes of the present frame still to come.
    remaining: u64,
}

const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x0f];

impl Transport {
    /// A transport for `listener`; `tls` is needed for [`Listener::Tls`].
    pub fn new(listener: Listener, tls: Option<&Arc<ClientConfig>>) -> Result<Transport> {
        Ok(match listener {
            Listener::Plain => Transport::Plain,
            Listener::WebSocket => Transport::WebSocket(WebSocket::default()),
            Listener::Tls => {
                let config = Arc::clone(tls.context("TLS rows need a certificate")?);
                let name = ServerName::try_from("localhost").context("server name")?;
                Transport::Tls(Box::new(ClientConnection::new(config, name)?))
            }
        })
    }

    /// What goes out before the first MQTT byte.
    pub fn opening(&self) -> Vec<u8> {
        match self {
            Transport::WebSocket(_) => b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
                .to_vec(),
            Transport::Plain | Transport::Tls(_) => Vec::new(),
        }
    }

    /// Whether MQTT bytes may be sent: a WebSocket waits for the server's answer.
    pub fn is_open(&self) -> bool {
        !matches!(self, Transport::WebSocket(socket) if !socket.upgraded)
    }

    /// Appends one MQTT packet to the bytes waiting to go out.
    pub fn push(&self, packet: &[u8], out: &mut Vec<u8>) {
        let Transport::WebSocket(_) = self else {
            out.extend_from_slice(packet);
            return;
        };
        out.push(0x82);
        match packet.len() {
            length @ 0..=125 => out.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&MASK);
        let start = out.len();
        out.extend_from_slice(packet);
        for chunk in out[start..].chunks_mut(4) {
            for (byte, mask) in chunk.iter_mut().zip(MASK) {
                *byte ^= mask;
            }
        }
    }

    /// Reads once into `buf`: how many MQTT bytes came, and whether the socket is drained.
    pub fn read(&mut self, stream: &mut TcpStream, buf: &mut [u8]) -> Result<(usize, bool)> {
        match self {
            Transport::Plain => read_raw(stream, buf),
            Transport::Tls(session) => read_tls(session, stream, buf),
            Transport::WebSocket(socket) => {
                let (raw, drained) = read_raw(stream, buf)?;
                Ok((socket.unframe(&mut buf[..raw])?, drained))
            }
        }
    }

    /// Writes from `out` starting at `sent`, as much as the socket takes; returns the new `sent`.
    pub fn write(&mut self, stream: &mut TcpStream, out: &[u8], mut sent: usize) -> Result<usize> {
        if let Transport::Tls(session) = self {
            return write_tls(session, stream, out, sent);
        }
        while sent < out.len() {
            match stream.write(&out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("writing to the broker"),
            }
        }
        Ok(sent)
    }
}

fn read_raw(stream: &mut TcpStream, buf: &mut [u8]) -> Result<(usize, bool)> {
    loop {
        match stream.read(buf) {
            Ok(0) => bail!("the broker closed a connection"),
            // A short read took all there was; the next byte is a new edge.
            Ok(count) => return Ok((count, count < buf.len())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((0, true)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading from the broker"),
        }
    }
}

fn read_tls(session: &mut ClientConnection, stream: &mut TcpStream, buf: &mut [u8]) -> Result<(usize, bool)> {
    let mut count = 0;
    loop {
        while count < buf.len() {
            match session.reader().read(&mut buf[count..]) {
                Ok(0) => bail!("the broker ended the TLS session"),
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("reading from the broker's TLS session"),
            }
        }
        if count == buf.len() {
            return Ok((count, false));
        }
        match session.read_tls(stream) {
            Ok(0) => bail!("the broker closed a connection"),
            Ok(_) => {
                session.process_new_packets().context("the broker's TLS records")?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((count, true)),
            Err(error) => return Err(error).context("reading from the broker"),
        }
    }
}

fn write_tls(session: &mut ClientConnection, stream: &mut TcpStream, out: &[u8], mut sent: usize) -> Result<usize> {
    loop {
        while session.wants_write() {
            match session.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sent),
                Err(error) => return Err(error).context("writing to the broker"),
            }
        }
        if sent == out.len() || session.is_handshaking() {
            return Ok(sent);
        }
        sent += session.writer().write(&out[sent..]).or_else(|error| match error.kind() {
            ErrorKind::WouldBlock => Ok(0),
            _ => Err::<usize, io::Error>(error),
        })?;
    }
}

impl WebSocket {
    /// Takes the framing out of `raw`, moving payload to its front; returns the payload's length.
    fn unframe(&mut self, raw: &mut [u8]) -> Result<usize> {
        let (mut read, mut kept) = (0, 0);
        while read < raw.len() {
            if self.remaining > 0 {
                let count = (raw.len() - read).min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
                raw.copy_within(read..read + count, kept);
                (read, kept) = (read + count, kept + count);
                self.remaining -= count as u64;
                continue;
            }
            self.head.push(raw[read]);
            read += 1;
            if self.upgraded {
                self.end_of_header()?;
            } else if self.head.ends_with(b"\r\n\r\n") {
                ensure!(self.head.starts_with(b"HTTP/1.1 101"), "the broker refused the WebSocket upgrade");
                self.upgraded = true;
                self.head.clear();
            }
        }
        Ok(kept)
    }

    fn end_of_header(&mut self) -> Result<()> {
        let remaining = match *self.head.as_slice() {
            [_, length @ 0..=125] => u64::from(length),
            [_, 126, high, low] => u64::from(u16::from_be_bytes([high, low])),
            [_, 127, a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            [_, 128..=255, ..] => bail!("the broker masked a WebSocket frame"),
            _ => return Ok(()),
        };
        let opcode = self.head[0] & 0x0f;
        ensure!(opcode == 0 || opcode == 2, "the broker sent a WebSocket frame of opcode {opcode}");
        self.remaining = remaining;
        self.head.clear();
        Ok(())
    }
}
