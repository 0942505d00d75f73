//! Libraries in C, for what is to stand in for another or in front of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A library that was built for this run of tests, and goes with it.
pub(crate) struct CLibrary {
    _folder: TempDir,
    path: PathBuf,
}

impl CLibrary {
    pub(crate) fn build(source: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder to build in");
        let file = folder.path().join("library.c");
        let path = folder.path().join("library.so");
        fs::write(&file, source).expect("written");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&path, &file])
            .status()
            .expect("a C compiler, which Rust links with too");
        assert!(built.success(), "a library of the tests' own builds");
        Self {
            _folder: folder,
            path,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
