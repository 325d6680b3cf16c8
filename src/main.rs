//! The `weir` program: see [`weirmq::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    weirmq::cli::main()
}
