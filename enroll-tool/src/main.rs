//! `strongroom`: the enrolment tool. It makes a vault on a box full of data, moves the keys out of
//! the TrueNAS database into it, and keeps the vault opening over the machine's life.

mod audit;
mod cli;
mod commands;
mod disk;
mod durable;
mod failure;
mod groups;
mod installation;
mod kits;
mod migration;
mod notes;
mod output;
mod pins;
mod qr;
mod truenas;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;

/// Wipes every block that is freed, so that what passed through ordinary memory does not stay.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    strongroom::process::harden();
    let cli = Cli::parse();
    strongroom::logging::start("strongroom", log::LevelFilter::Warn);
    match commands::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let json = cli.json && !failure.is_reported();
            strongroom_console::failed(
                "strongroom",
                json,
                &failure,
                failure.refusal(),
                failure.exit_code(),
            )
        }
    }
}
