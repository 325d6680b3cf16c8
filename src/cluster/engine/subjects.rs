//! The names that a cluster has in NATS: subjects of links, members, slots and retained messages, and the streams.

use std::fmt;

/// Characters of a cluster's name at most.
const CLUSTER_NAME_MAX: usize = 32;
/// Characters of a node's name at most.
const NODE_NAME_MAX: usize = 128;
/// Stands for the dot of a node's name: a dot separates the tokens of a subject, and no node's name has this character.
const DOT: char = '=';

/// The hash of a namespace and a topic: the subject of a retained message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectHash(pub [u8; 16]);

impl fmt::Display for SubjectHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Why a name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the cluster name `{0}` is not valid: use 1 to 32 of A-Z, a-z, 0-9, `_` and `-`")]
    Cluster(String),
    #[error("the node name `{0}` is not valid: use 1 to 128 of A-Z, a-z, 0-9, `.`, `_` and `-`")]
    Node(String),
}

/// The names of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Names {
    cluster: String,
}

/// Checks the name of a cluster.
///
/// # Errors
/// It has another character, or another length.
pub fn check_cluster_name(name: &str) -> Result<(), NameError> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > CLUSTER_NAME_MAX || !name.chars().all(is_valid) {
        return Err(NameError::Cluster(name.to_owned()));
    }
    Ok(())
}

impl Names {
    /// # Errors
    /// See [`check_cluster_name`].
    pub(super) fn new(cluster: &str) -> Result<Self, NameError> {
        check_cluster_name(cluster)?;
        Ok(Self { cluster: cluster.to_owned() })
    }

    /// Where the envelopes for a node arrive.
    pub(super) fn link(&self, receiver: u64) -> String {
        format!("weir.{}.link.{receiver:016x}", self.cluster)
    }

    pub(super) fn members_stream(&self) -> String {
        format!("weir_{}_members", self.cluster)
    }

    pub(super) fn all_members(&self) -> String {
        format!("weir.{}.members.*", self.cluster)
    }

    /// Where a node's heartbeats are.
    pub(super) fn member(&self, node: &str) -> String {
        format!("weir.{}.members.{}", self.cluster, node.replace('.', &DOT.to_string()))
    }

    /// The node that a subject of [`Names::member`] names.
    pub(super) fn node_of(subject: &str) -> Option<String> {
        let (_, token) = subject.rsplit_once('.')?;
        Some(token.replace(DOT, "."))
    }

    pub(super) fn slots_stream(&self) -> String {
        format!("weir_{}_slots", self.cluster)
    }

    /// Where the slot table is.
    pub(super) fn slots(&self) -> String {
        format!("weir.{}.slots", self.cluster)
    }

    pub(super) fn retained_stream(&self) -> String {
        format!("weir_{}_retained", self.cluster)
    }

    pub(super) fn all_retained(&self) -> String {
        format!("weir.{}.retained.*", self.cluster)
    }

    pub(super) fn retained(&self, hash: SubjectHash) -> String {
        format!("weir.{}.retained.{hash}", self.cluster)
    }

    /// The hash that a subject of [`Names::retained`] names.
    pub(super) fn hash_of(subject: &str) -> Option<SubjectHash> {
        let (_, token) = subject.rsplit_once('.')?;
        let bytes = data_encoding::HEXLOWER.decode(token.as_bytes()).ok()?;
        Some(SubjectHash(bytes.try_into().ok()?))
    }
}

/// Checks a node's name.
///
/// # Errors
/// The name has another character, or another length.
pub(super) fn check_node(node: &str) -> Result<(), NameError> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if node.is_empty() || node.len() > NODE_NAME_MAX || !node.chars().all(is_valid) {
        return Err(NameError::Node(node.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_one_token_and_comes_back() {
        let names = Names::new("prod-1").unwrap();
        for node in ["a", "a.b.c", ".", "..", "a_b-c", "x.y_z-0"] {
            check_node(node).unwrap();
            let subject = names.member(node);
            assert_eq!(subject.split('.').count(), 4, "{subject}");
            assert_eq!(Names::node_of(&subject).as_deref(), Some(node));
        }
    }

    #[test]
    fn a_retained_subject_is_the_hash_in_hexadecimal() {
        let hash = SubjectHash(*b"0123456789abcdef");
        let subject = Names::new("c").unwrap().retained(hash);
        assert_eq!(subject, "weir.c.retained.30313233343536373839616263646566");
        assert_eq!(Names::hash_of(&subject), Some(hash));
        assert_eq!(Names::hash_of("weir.c.retained.xyz"), None);
    }

    #[test]
    fn names_with_other_characters_are_refused() {
        for cluster in ["", "a.b", "a b", "a*", "ä", "0123456789012345678901234567890123"] {
            assert_eq!(Names::new(cluster).err(), Some(NameError::Cluster(cluster.to_owned())));
        }
        for node in ["", "a b", "a=b", "a*", "a>"] {
            assert_eq!(check_node(node), Err(NameError::Node(node.to_owned())));
        }
    }
}
