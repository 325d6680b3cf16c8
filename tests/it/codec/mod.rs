//! The codec from outside: what is decoded and encoded again is the same, nothing is allocated for a PUBLISH, and an
//! independent codec agrees wherever it is right.

mod allocation;
mod differential;
mod generate;
mod known_differences;
mod ours;
mod round_trip;
mod theirs;
