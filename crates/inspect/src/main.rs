//! The program; `kho-inspect --help` says what it does.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1);
    ExitCode::from(kho_inspect::run(args, &mut io::stdout(), &mut io::stderr()))
}
