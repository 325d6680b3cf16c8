//! Authentication, access lists and bans: which client may connect, publish and subscribe.
//!
//! - [`api`]: what an authenticator receives and returns. It knows no documents.
//! - `chain`: runs the authenticators of an auth document in order. `backends`: one folder or file for each of them.
//! - `guard`: bans and rate limits before every chain. `acl`: access lists.
//! - `fair_queue`: the order and the bounds of attempts that wait for a worker or a service; `source_key`: what they are
//!   counted by; `counts`: what was dropped.
//! - `custom`: authenticators of the program that embeds the broker. `request_queue`: the bound of calls at the same time.
//! - `compile`: the only part that reads declarations and the files that they refer to; `http_service`: that of a service.
//!
//! Nothing here blocks: slow work is returned as a job for the data plane's workers or a task for its runtime.

mod acl;
mod admitted_by;
pub mod api;
mod backends;
mod certificate;
mod chain;
mod compile;
pub(crate) mod counts;
mod custom;
mod digest;
mod fair_queue;
mod guard;
#[cfg(feature = "http")]
mod http_service;
mod in_process;
mod keyed_hash;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod relayed;
mod request_queue;
mod source_key;

pub use acl::{AclDecision, AclRequest, DenyAll, RuleSet};
pub use api::{AdmissionCheck, AuthExchange, AuthRefusal, AuthTask, Authenticate, Credentials, Decision};
pub use backends::anonymous::Anonymous;
pub use backends::jwt::ClaimedRules;
pub use backends::password::{PasswordFile, PasswordHash, PasswordHashError, RecordError, RecordProblem};
pub use backends::scram::{SaslprepError, ScramRecord, ScramRecordError, check_scram_file, saslprep};
pub use certificate::{CertificateError, PeerCertificate, SubjectAltName, validity};
pub use compile::{AuthCompiler, AuthError, ReadFile};
pub use counts::{AuthCounters, AuthCounts};
pub(crate) use custom::Authenticators;
pub use custom::{AuthChallenge, AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator};
pub(crate) use fair_queue::{Busy, FairQueue, QueueLimits, Ticket};
pub use in_process::{InProcessAuth, is_in_process};
pub use relayed::RelayedAuth;
pub(crate) use source_key::SourceKey;

#[cfg(test)]
mod tests;
