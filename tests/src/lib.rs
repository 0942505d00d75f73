//! The harness of the black-box tests: what a test needs around the programs
//! it tests, each part real and each part its own.
//!
//! A test starts a TPM ([`Swtpm`]), mostly by way of a whole vault
//! ([`TestVault`]), runs the built programs as an admin would ([`Run`],
//! [`Programs`]), and looks at what crossed the TPM's bus ([`Recorder`]). No
//! two tests share anything, so they run in parallel, and nothing that a test
//! starts outlives it.

// A harness reports by panicking, in every function.
#![allow(clippy::missing_panics_doc)]

pub mod abrmd;
mod c_library;
pub mod conversation;
pub mod daemon;
pub mod duplicate;
pub mod event_logs;
pub mod executable;
pub mod gate;
pub mod host;
pub mod instants;
pub mod kernel_image;
pub mod keyfs;
pub mod launcher;
pub mod machine;
pub mod middleware;
pub mod namespace;
pub mod nas;
pub mod nginx;
pub mod openssl;
pub mod port;
pub mod programs;
pub mod recorder;
pub mod rpc;
pub mod run;
pub mod s3;
pub mod someone;
pub mod ssh;
pub mod swtpm;
pub mod token;
pub mod token_server;
pub mod tpm2_pkcs11;
mod tpm_commands;
pub mod truenas_fixture;
pub mod unit;
pub mod vault;
pub mod vault_files;
pub mod webdav;
pub mod zfs;

pub use abrmd::Abrmd;
pub use conversation::converse;
pub use daemon::Daemon;
pub use gate::Gate;
pub use host::Host;
pub use kernel_image::KernelImage;
pub use keyfs::KeyFs;
pub use launcher::Launcher;
pub use machine::{Boot, Machine};
pub use nginx::Nginx;
pub use openssl::OpenSsl;
pub use programs::Programs;
pub use recorder::Recorder;
pub use run::{Output, Run};
pub use s3::S3;
pub use someone::Someone;
pub use ssh::{Agent, Sshd};
pub use swtpm::Swtpm;
pub use token::{KeyType, Token};
pub use token_server::TokenServer;
pub use tpm2_pkcs11::Tpm2Pkcs11;
pub use vault::TestVault;
pub use webdav::WebDav;
pub use zfs::{StandInDataset, ZfsStandIn};
