//! The slot table: which node owns which slot. A message of the register of slots is a whole table.

use super::field::{FieldError, FieldProblem, Reader, Sink, text};
use super::record::{RecordError, decode_record, encode_record, number, put_field, put_number};
use crate::Incarnation;

const PER_CLASS: u64 = 1;
const FOUNDED: u64 = 2;
const OWNER: u64 = 3;
const ROW: u64 = 4;

/// Slots of a class at least.
pub const SLOTS_MIN: u16 = 8;
/// Slots of a class at most.
pub const SLOTS_MAX: u16 = 64;
/// Bytes of a node's name at most.
const NAME_MAX: usize = 256;

/// The owner of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotRow {
    /// The owner's name. Empty: the slot has no owner.
    pub node: String,
    /// The start of its process that owns the slot.
    pub incarnation: Incarnation,
    /// The incarnation that owned it before. 0: none.
    pub from: Incarnation,
    /// The version of the table with which it got the slot.
    pub since: u64,
    /// The number of the move in which the owner before gave it a copy of the sessions. 0: it gave none.
    pub transfer: u64,
}

/// The owners of all slots: those of sessions in memory first, then those of sessions on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTable {
    /// Slots of each class, [`SLOTS_MIN`] to [`SLOTS_MAX`].
    pub per_class: u16,
    /// A number of the first version that no other register has. Versions of different foundings cannot be compared.
    pub founded: u64,
    /// `2 * per_class` rows.
    pub rows: Vec<SlotRow>,
}

impl SlotTable {
    /// A table without owners. `per_class` is limited to what is allowed.
    pub fn new(per_class: u16, founded: u64) -> Self {
        let per_class = per_class.clamp(SLOTS_MIN, SLOTS_MAX);
        Self { per_class, founded, rows: vec![SlotRow::default(); usize::from(per_class) * 2] }
    }

    /// Appends the table's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut owners: Vec<(&str, Incarnation)> = Vec::new();
        for row in self.rows.iter().filter(|row| !row.node.is_empty()) {
            if !owners.contains(&(&row.node, row.incarnation)) {
                owners.push((&row.node, row.incarnation));
            }
        }
        encode_record(out, |out| {
            put_number(out, PER_CLASS, u64::from(self.per_class));
            put_number(out, FOUNDED, self.founded);
            let mut field = Vec::new();
            for (node, incarnation) in &owners {
                field.clear();
                field.varint(*incarnation);
                field.bytes(node.as_bytes());
                put_field(out, OWNER, &field);
            }
            for row in &self.rows {
                let owner = owners.iter().position(|owner| *owner == (row.node.as_str(), row.incarnation));
                field.clear();
                field.varint(owner.map_or(0, |at| at as u64 + 1));
                field.varint(row.from);
                field.varint(row.since);
                if row.transfer != 0 {
                    field.varint(row.transfer);
                }
                put_field(out, ROW, &field);
            }
        });
    }

    /// Decodes a table. Fields that this version does not know are skipped, also at the end of a row.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut per_class, mut founded, mut owners, mut rows) = (None, None, Vec::new(), Vec::new());
        let rows_max = usize::from(SLOTS_MAX) * 2;
        for field in decode_record(bytes)? {
            let (tag, value) = field?;
            match tag {
                PER_CLASS => per_class = Some(slots_per_class(value)?),
                FOUNDED => founded = Some(number(value, "founded")?),
                OWNER if owners.len() == rows_max => return Err(FieldProblem::TooMany.of("owner").into()),
                OWNER => owners.push(read_owner(value)?),
                ROW if rows.len() == rows_max => return Err(FieldProblem::TooMany.of("slot").into()),
                ROW => rows.push(read_row(value)?),
                _ => {} // of a newer version
            }
        }
        let missing = |field: &'static str| FieldProblem::Missing.of(field);
        let per_class = per_class.ok_or(missing("slots of a class"))?;
        let founded = founded.ok_or(missing("founded"))?;
        match rows.len().cmp(&(usize::from(per_class) * 2)) {
            std::cmp::Ordering::Less => return Err(missing("slot").into()),
            std::cmp::Ordering::Greater => return Err(FieldProblem::TooMany.of("slot").into()),
            std::cmp::Ordering::Equal => {}
        }
        let row = |(owner, row): (u64, SlotRow)| {
            let Some(at) = owner.checked_sub(1) else { return Ok(row) };
            let found = usize::try_from(at).ok().and_then(|at| owners.get(at));
            let (incarnation, node) = *found.ok_or(FieldProblem::Undefined(owner).of("owner"))?;
            Ok(SlotRow { node: String::from(node), incarnation, ..row })
        };
        let rows: Result<_, FieldError> = rows.into_iter().map(row).collect();
        Ok(Self { per_class, founded, rows: rows? })
    }
}

fn slots_per_class(value: &[u8]) -> Result<u16, FieldError> {
    let value = number(value, "slots of a class")?;
    let slots = u16::try_from(value).ok().filter(|slots| (SLOTS_MIN..=SLOTS_MAX).contains(slots));
    slots.ok_or(FieldProblem::Undefined(value).of("slots of a class"))
}

fn read_owner(value: &[u8]) -> Result<(Incarnation, &str), FieldError> {
    let mut reader = Reader(value);
    let (incarnation, name) = (reader.varint("owner")?, reader.bytes("owner")?);
    if name.is_empty() {
        return Err(FieldProblem::Missing.of("owner"));
    }
    if name.len() > NAME_MAX {
        return Err(FieldProblem::TooLarge.of("owner"));
    }
    Ok((incarnation, text(name, "owner")?))
}

/// The number of the owner, and the rest of the row.
fn read_row(value: &[u8]) -> Result<(u64, SlotRow), FieldError> {
    let mut reader = Reader(value);
    let (owner, from, since) = (reader.varint("owner")?, reader.varint("from")?, reader.varint("since")?);
    // Older nodes do not write it.
    let transfer = if reader.is_empty() { 0 } else { reader.varint("transfer")? };
    Ok((owner, SlotRow { from, since, transfer, ..SlotRow::default() }))
}
