//! The built broker follows what is declared: its listeners, its clients, what it says of them.

mod address;
mod broker;
mod classes;
mod damaged;
mod git;
mod guard;
mod kept;
mod labels;
mod leave;
mod lock_out;
mod material;
mod moving;
mod references;
mod soak;
