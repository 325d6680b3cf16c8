//! Who may come in and what they may do, asked of the real program while its declarations change.

pub mod broker;
mod client;
mod examples;
mod holes;
mod http;
mod limits;
mod live;
mod methods;
mod mtls;
mod revocation;
mod rules;
mod tenants;
mod transports;
