//! Properties of the code that reads credentials, for every input. The fuzz targets in `fuzz/` search for a breach;
//! the tests of the parsers try seeded mutations of valid input.

#[cfg(fuzzing)]
pub use super::backends::jwt::properties::jwt;
#[cfg(fuzzing)]
pub use super::backends::scram::properties::scram;
