//! Paths of values in documents, and their positions in the file.

use std::fmt::Write as _;

use super::Position;
use super::yaml::SourceNode;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PathSegment {
    Key(String),
    Index(usize),
}

/// The path from the root of a document to a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct InstancePath(pub(super) Vec<PathSegment>);

impl InstancePath {
    /// A path of keys: `endpoint.port`.
    pub(super) fn from_keys(keys: &[&str]) -> Self {
        Self(keys.iter().map(|&key| PathSegment::Key(key.to_owned())).collect())
    }

    /// Parses a JSON pointer: `/endpoint/sslConfig/sni/0/certFile`. Steps of digits are indexes.
    pub(super) fn from_pointer(pointer: &str) -> Self {
        let steps = pointer.split('/').filter(|step| !step.is_empty());
        let segment = |step: &str| step.parse().map_or_else(|_| PathSegment::Key(step.to_owned()), PathSegment::Index);
        Self(steps.map(segment).collect())
    }

    /// The path of a field of this value.
    pub(super) fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(PathSegment::Key(key.to_owned()));
        path
    }

    /// The path of an item of this value.
    pub(super) fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(PathSegment::Index(index));
        path
    }

    /// The last key of the path.
    pub(super) fn last_key(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|segment| match segment {
            PathSegment::Key(key) => Some(key.as_str()),
            PathSegment::Index(_) => None,
        })
    }

    /// The position of the value; where it does not exist, of the nearest value around it.
    pub(super) fn position_in(&self, root: &SourceNode) -> Position {
        let mut node = root;
        let mut nearest = root.at;
        for segment in &self.0 {
            let next = match segment {
                PathSegment::Key(key) => node.entry(key).map(|entry| (&entry.node, entry.key_at)),
                PathSegment::Index(index) => node.item(*index).map(|item| (item, item.at)),
            };
            let Some((inner, at)) = next else { return nearest };
            node = inner;
            nearest = at;
        }
        match node.children {
            super::yaml::Children::Scalar => node.at,
            // A collection is shown by the position of its key.
            _ => nearest,
        }
    }

    /// The position of the last key of the path.
    pub(super) fn key_position_in(&self, root: &SourceNode) -> Position {
        let Some((PathSegment::Key(key), parents)) = self.0.split_last() else { return self.position_in(root) };
        let parent = Self(parents.to_vec());
        parent.node_in(root).and_then(|node| node.entry(key)).map_or_else(|| parent.position_in(root), |e| e.key_at)
    }

    fn node_in<'a>(&self, root: &'a SourceNode) -> Option<&'a SourceNode> {
        self.0.iter().try_fold(root, |node, segment| match segment {
            PathSegment::Key(key) => node.entry(key).map(|entry| &entry.node),
            PathSegment::Index(index) => node.item(*index),
        })
    }
}

impl std::fmt::Display for InstancePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                PathSegment::Index(index) => write!(f, "[{index}]")?,
                PathSegment::Key(key) => {
                    if at > 0 {
                        f.write_char('.')?;
                    }
                    let plain =
                        |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '[' | ']' | '"' | ':');
                    if !key.is_empty() && key.chars().all(plain) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
