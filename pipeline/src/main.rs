//! The `pipeline` program: arguments and logging around [`pipeline::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    pipeline::cli::main(std::env::args_os())
}
