//! The bytes of one connection, in both directions.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use weir_bridge::OutputBuffer;

/// The transport of a connection: TCP, TLS, or a socket pair.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// Minimum room for a read, bytes.
const READ_BYTES: usize = 64 << 10;

/// A connection, with the beginning of an incomplete packet.
pub(super) struct Wire {
    transport: Box<dyn ByteStream>,
    input: Vec<u8>,
    /// The part of the input that is filled and not consumed.
    start: usize,
    end: usize,
    flushes: bool,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireRead {
    Some,
    Nothing,
    Closed,
}

impl Wire {
    pub(super) fn new(transport: Box<dyn ByteStream>) -> Self {
        Self { transport, input: Vec::new(), start: 0, end: 0, flushes: false }
    }

    /// The bytes that are not consumed.
    pub(super) fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Marks `n` bytes of the input as consumed.
    pub(super) fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once. Bytes that are not consumed stay in the buffer, which grows with the received bytes, not with the
    /// declared length of a packet.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<WireRead> {
        if self.input.len() - self.end < READ_BYTES {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.input.len() - self.end < READ_BYTES {
                self.input.resize((self.end * 2).max(self.end + READ_BYTES), 0);
            }
        }
        let mut buffer = ReadBuf::new(&mut self.input[self.end..]);
        match Pin::new(&mut self.transport).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(WireRead::Nothing),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) => {
                let n = buffer.filled().len();
                self.end += n;
                Ok(if n == 0 { WireRead::Closed } else { WireRead::Some })
            }
        }
    }

    /// Writes the output until the connection blocks; returns whether any bytes were written.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut OutputBuffer) -> io::Result<bool> {
        let mut moved = false;
        while !out.waiting().is_empty() {
            match Pin::new(&mut self.transport).poll_write(cx, out.waiting()) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    out.advance(n);
                    (moved, self.flushes) = (true, true);
                }
            }
        }
        if self.flushes {
            match Pin::new(&mut self.transport).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) => self.flushes = false,
            }
        }
        Ok(moved)
    }

    /// Whether all written bytes are flushed.
    pub(super) fn is_flushed(&self) -> bool {
        !self.flushes
    }
}
