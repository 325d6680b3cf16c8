//! Defects that a test plants, to prove that the simulation finds them: calls between the node and its driver are falsified.

use std::collections::BTreeMap;

use weir_broker::gateway::Positions;
use weir_cluster::node::Append;
use weir_cluster::wire::{Envelope, decode_retained_entry, encode_retained_entry};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Peers are taken to have stored what they were sent.
    PubackWithoutPeers,
    /// Peers are taken to have processed the interest that they were sent.
    SubackWithoutPeers,
    /// Entries of the log do not name what is before them on the links.
    NoPositions,
    /// A peer does not see that a stream begins anew.
    NoReset,
    /// The log stores an entry again when it is appended again.
    StoredTwice,
    /// A retained publish is delivered directly, too.
    RetainedDirect,
    /// The slot table gives slots to a node that has no copy of their sessions.
    TableBeforeCopy,
}

/// What falsifies.
#[derive(Default)]
pub struct Planted {
    pub fault: Option<Fault>,
    /// The last envelope from each node to each other one, without its payload.
    last: BTreeMap<(usize, usize), Vec<u8>>,
    /// Retained publishes that are to be delivered directly.
    pub direct: Vec<Append>,
}

fn rewrite(bytes: &[u8], change: impl FnOnce(&mut Envelope<'_>)) -> Vec<u8> {
    let Ok(mut envelope) = Envelope::decode(bytes) else { return bytes.to_vec() };
    change(&mut envelope);
    let mut out = Vec::new();
    envelope.encode(&mut out);
    out
}

impl Planted {
    pub fn new(fault: Option<Fault>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// What is sent instead of an envelope.
    pub fn leaving(&mut self, link: (usize, usize), bytes: &[u8]) -> Vec<u8> {
        match self.fault {
            Some(Fault::NoReset) => rewrite(bytes, |envelope| envelope.generation = 1),
            Some(Fault::PubackWithoutPeers | Fault::SubackWithoutPeers) => {
                self.last.insert(link, rewrite(bytes, |envelope| envelope.payload = &[]));
                bytes.to_vec()
            }
            _ => bytes.to_vec(),
        }
    }

    pub fn arriving(&self, _link: (usize, usize), bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }

    /// Acknowledgements that no peer has sent.
    pub fn forged(&self, to: usize, incarnation: u64) -> Vec<Vec<u8>> {
        let mut forged = Vec::new();
        for (_, bytes) in self.last.iter().filter(|((_, at), _)| *at == to) {
            match self.fault {
                Some(Fault::PubackWithoutPeers) => forged.push(rewrite(bytes, |envelope| {
                    envelope.receiver = incarnation;
                    envelope.acknowledgement.stored = u64::MAX;
                })),
                // What is more than was sent is ignored.
                Some(Fault::SubackWithoutPeers) => forged.extend((1..60).rev().map(|more| {
                    rewrite(bytes, |envelope| {
                        envelope.receiver = incarnation;
                        envelope.acknowledgement.processed += more;
                    })
                })),
                _ => {}
            }
        }
        forged
    }

    /// What is appended instead.
    pub fn append(&mut self, append: Append) -> Append {
        match self.fault {
            Some(Fault::NoPositions) => {
                let Ok(mut entry) = decode_retained_entry(&append.payload) else { return append };
                entry.after = Positions(&[]);
                let mut payload = Vec::new();
                encode_retained_entry(&entry, &mut payload);
                Append { payload, ..append }
            }
            Some(Fault::RetainedDirect) => {
                let Append { number, ref namespace, ref topic, ref payload, ttl_ms } = append;
                let (namespace, topic, payload) = (namespace.clone(), topic.clone(), payload.clone());
                self.direct.push(Append { number, namespace, topic, payload, ttl_ms });
                append
            }
            _ => append,
        }
    }
}
