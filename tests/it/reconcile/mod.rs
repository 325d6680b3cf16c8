//! The built broker follows its declaration: listeners, clients, status.

mod address;
mod answers;
mod broker;
mod certificate_files;
mod classes;
mod damaged_files;
mod drain;
mod git;
mod held_deletions;
mod labels;
mod last_known_good;
mod lock_out;
mod moving;
mod references;
mod secrets;
mod soak;
