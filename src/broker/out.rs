//! What waits to be written to a connection.

/// Bytes for one connection's socket, in order: small packets run together in one buffer, large payloads shared.
#[derive(Debug, Default)]
pub struct OutBuf {
    buf: Vec<u8>,
    sent: usize,
}

impl OutBuf {
    /// Bytes not yet taken.
    pub fn len(&self) -> usize {
        self.buf.len() - self.sent
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first run of contiguous bytes.
    pub fn first(&self) -> &[u8] {
        &self.buf[self.sent..]
    }

    /// Takes `n` bytes as written.
    pub fn advance(&mut self, n: usize) {
        self.sent += n;
    }
}
