//! The `pillarbox` binary. Everything it does is in [`pillarbox::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    pillarbox::cli::run(std::env::args_os())
}
