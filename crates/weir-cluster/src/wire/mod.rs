//! The bytes that nodes exchange. Decoding borrows from its input, and never panics.
//!
//! - [`Envelope`]: what core NATS carries: a piece of a link's byte stream, and acknowledgements of the other direction;
//! - [`encode_frame`], [`encode_relay_frame`], [`encode_move_frame`], [`decode_frame`]: the messages in that stream;
//! - [`Heartbeat`]: a record in the stream of members;
//! - [`encode_retained_entry`], [`decode_retained_entry`]: an entry of the log of retained messages;
//! - [`SlotTable`]: which node owns which slot.
//!
//! A change that an older node can skip adds a frame kind, a field at the end of a frame, or a field of a record. Any
//! other change needs a new version of the wire format. `kept_bytes_v1.txt` has what nodes of the first version write.

mod envelope;
mod field;
mod frame;
mod heartbeat;
#[cfg(test)]
mod kept_bytes;
mod moves;
mod record;
mod relay;
mod retained;
mod slot_table;
#[cfg(test)]
mod tests;

pub use envelope::{Acknowledgement, Envelope, EnvelopeError};
pub use field::{FieldError, FieldProblem};
pub use frame::{Frame, FrameError, decode_frame, encode_frame, encode_move_frame, encode_relay_frame};
pub(crate) use frame::{FrameHeader, decode_body, frame_header};
pub use heartbeat::{Heartbeat, HeartbeatSlots, Load, REPORT_MAX_BYTES};
pub use moves::{MoveFrame, MoveStep};
pub use record::RecordError;
pub use relay::{RelayClose, RelayFrame};
pub use retained::{decode_retained_entry, encode_retained_entry};
pub use slot_table::{SLOTS_MAX, SLOTS_MIN, SlotRow, SlotTable};

/// The versions of the wire format that this build reads and writes.
pub const WIRE_VERSIONS: WireVersions = WireVersions { min: 1, max: 1 };

/// A range of versions of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireVersions {
    /// The oldest version.
    pub min: u8,
    /// The newest version.
    pub max: u8,
}

impl WireVersions {
    /// The newest version that both ranges have. `None`: the two nodes cannot talk to each other.
    pub fn common(self, other: Self) -> Option<u8> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}
