//! What must hold of everything that reads credentials, whatever they are. The fuzz targets in `fuzz/` search for a breach;
//! the tests of the parsers try seeded mutations of valid input.

pub use super::backends::jwt::properties::jwt;
pub use super::backends::scram::properties::scram;
