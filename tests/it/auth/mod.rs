//! Authentication, access lists and limits on the built program, also while its declarations change.

pub mod broker;
mod client;
mod cve;
mod examples;
mod floods;
mod http;
mod limits;
mod methods;
mod mtls;
pub mod reload;
mod revocation;
mod rules;
mod tenants;
mod transports;
