//! One connection's bytes, both ways.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use weir_bridge::Outbox;

/// What carries the bytes: TCP, TLS, a socket pair.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// A connection, with the beginning of what has not come whole.
pub(super) struct Wire {
    carrier: Box<dyn Carrier>,
    input: Vec<u8>,
    /// What of the input is filled and not yet taken.
    start: usize,
    end: usize,
    flushes: bool,
}

/// How reading went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Some,
    Nothing,
    Closed,
}

impl Wire {
    pub(super) fn new(carrier: Box<dyn Carrier>) -> Self {
        Self { carrier, input: Vec::new(), start: 0, end: 0, flushes: false }
    }

    /// What has come and was not taken.
    pub(super) fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// `n` bytes of the input were taken.
    pub(super) fn take(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once. What is not taken is kept: a packet's beginning grows with what comes, not with what it claims.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<Read> {
        if self.input.len() - self.end < READ_BYTES {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.input.len() - self.end < READ_BYTES {
                self.input.resize((self.end * 2).max(self.end + READ_BYTES), 0);
            }
        }
        let mut buffer = ReadBuf::new(&mut self.input[self.end..]);
        match Pin::new(&mut self.carrier).poll_read(cx, &mut buffer) {
            Poll::Pending => Ok(Read::Nothing),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) => {
                let n = buffer.filled().len();
                self.end += n;
                Ok(if n == 0 { Read::Closed } else { Read::Some })
            }
        }
    }

    /// Writes what waits, as far as the connection takes it; whether anything went.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Outbox) -> io::Result<bool> {
        let mut moved = false;
        while !out.waiting().is_empty() {
            match Pin::new(&mut self.carrier).poll_write(cx, out.waiting()) {
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
            match Pin::new(&mut self.carrier).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) => self.flushes = false,
            }
        }
        Ok(moved)
    }

    /// Whether everything written has left.
    pub(super) fn is_flushed(&self) -> bool {
        !self.flushes
    }
}
