//! A copy of the sessions of slots, on its way from one node of a cluster to another: records in the form of the store, with
//! times of the node that wrote them.

use crate::ids::Millis;

/// The sessions of some slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotCopy {
    /// The time of the copied node when it was made: times in the records count from there.
    pub(crate) taken_at: Millis,
    /// Records of sessions in memory, in a batch's form.
    pub(crate) memory: Vec<u8>,
    /// Records of sessions on disk.
    pub(crate) disk: Vec<u8>,
    /// How many sessions it has.
    pub(crate) sessions: u32,
}

impl SlotCopy {
    /// Bytes before the records.
    const HEADER: usize = 16;

    /// Bytes of its records.
    pub fn size(&self) -> usize {
        self.memory.len() + self.disk.len()
    }

    /// How many sessions it has.
    pub fn sessions(&self) -> u32 {
        self.sessions
    }

    /// Adds the sessions of another shard of the same node.
    pub(crate) fn add(&mut self, part: Self) {
        self.taken_at = part.taken_at;
        self.memory.extend_from_slice(&part.memory);
        self.disk.extend_from_slice(&part.disk);
        self.sessions += part.sessions;
    }

    /// Its bytes, for another node.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::HEADER + self.size());
        bytes.extend_from_slice(&self.taken_at.to_le_bytes());
        bytes.extend_from_slice(&self.sessions.to_le_bytes());
        bytes.extend_from_slice(&(self.memory.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.memory);
        bytes.extend_from_slice(&self.disk);
        bytes
    }

    /// Reads what [`SlotCopy::to_bytes`] wrote. `None`: it is cut short. The records are not looked at.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (taken_at, rest) = bytes.split_first_chunk()?;
        let (sessions, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (memory, disk) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some(Self {
            taken_at: u64::from_le_bytes(*taken_at),
            memory: memory.to_vec(),
            disk: disk.to_vec(),
            sessions: u32::from_le_bytes(*sessions),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_of_two_shards_is_read_back_and_one_that_is_cut_short_is_not() {
        let mut copy = SlotCopy { taken_at: 7, memory: b"ab".to_vec(), disk: b"c".to_vec(), sessions: 2 };
        copy.add(SlotCopy { taken_at: 8, memory: b"d".to_vec(), disk: Vec::new(), sessions: 1 });
        let bytes = copy.to_bytes();
        assert_eq!(SlotCopy::from_bytes(&bytes), Some(copy.clone()));
        assert_eq!((copy.size(), copy.sessions(), &copy.memory[..]), (4, 3, &b"abd"[..]));
        assert_eq!(SlotCopy::from_bytes(&bytes[..SlotCopy::HEADER + 2]), None);
        assert_eq!(SlotCopy::from_bytes(&[]), None);
    }
}
