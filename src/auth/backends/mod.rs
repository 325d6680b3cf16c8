//! The authenticators of a chain, one for each key that an auth document may hold.
//!
//! Each owns the data to check credentials against (password records, keys, connections to a service). None knows its
//! place in the chain, reads a file or blocks.

pub(super) mod anonymous;
pub(super) mod client_certificate;
pub(super) mod custom;
mod decoy;
#[cfg(feature = "http")]
pub(super) mod http;
pub(super) mod jwt;
pub(super) mod password;
pub(super) mod scram;
