//! The output of a link.

/// Output of one connection above which no more bytes are consumed from the other, bytes.
pub(super) const HIGH_BYTES: usize = 256 << 10;

/// Output for one connection.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    bytes: Vec<u8>,
    taken: usize,
}

impl OutputBuffer {
    /// The bytes to write.
    pub fn waiting(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// Marks `n` bytes as written.
    pub fn advance(&mut self, n: usize) {
        self.taken = (self.taken + n).min(self.bytes.len());
        if self.taken == self.bytes.len() {
            self.clear();
        } else if self.taken > HIGH_BYTES {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.taken = 0;
    }
}
