//! The pieces of an installation: programs, links, units, and where each goes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use strongroom::{Error, Result};

use super::System;
use crate::durable;

/// The programs, by their names in the folder that they come from.
const PROGRAMS: [&str; 4] = [
    "strongroom",
    "zfs-keyprovider",
    "credential-provider",
    "libstrongroom_pkcs11.so",
];

/// What the launcher is called for whoever looks for the real ones.
const LAUNCHED: [&str; 2] = ["rclone", "restic"];

/// Texts, by their places; drop-ins come last, for they refer to all else.
const TEXTS: [(&str, u32, &str); 17] = [
    (
        "root/strongroom/guard-boot-environments",
        0o755,
        include_str!("../../../systemd/truenas/guard-boot-environments"),
    ),
    (
        "root/strongroom/usr-bin-restic",
        0o755,
        include_str!("../../../systemd/truenas/usr-bin-restic"),
    ),
    (
        "etc/pkcs11/modules/strongroom.module",
        0o644,
        include_str!("../../../systemd/truenas/strongroom.module"),
    ),
    unit(
        "etc/systemd/system/strongroom-commit.service",
        include_str!("../../../systemd/strongroom-commit.service"),
    ),
    unit(
        "etc/systemd/system/strongroom-commit.service.d/truenas.conf",
        include_str!("../../../systemd/truenas/strongroom-commit.conf"),
    ),
    unit(
        "etc/systemd/system/strongroom-hand-over.service",
        include_str!("../../../systemd/truenas/strongroom-hand-over.service"),
    ),
    unit(
        "etc/systemd/system/strongroom-enrol.service",
        include_str!("../../../systemd/truenas/strongroom-enrol.service"),
    ),
    unit(
        "etc/systemd/system/strongroom-enrol.path",
        include_str!("../../../systemd/truenas/strongroom-enrol.path"),
    ),
    unit(
        "etc/systemd/system/strongroom-enrol.timer",
        include_str!("../../../systemd/truenas/strongroom-enrol.timer"),
    ),
    unit(
        "etc/systemd/system/strongroom-upgrade-guard.service",
        include_str!("../../../systemd/truenas/strongroom-upgrade-guard.service"),
    ),
    unit(
        "etc/systemd/system/strongroom-upgrade-guard.path",
        include_str!("../../../systemd/truenas/strongroom-upgrade-guard.path"),
    ),
    unit(
        "etc/systemd/system/strongroom-upgrade-guard.timer",
        include_str!("../../../systemd/truenas/strongroom-upgrade-guard.timer"),
    ),
    unit(
        "etc/systemd/system/strongroom-before-restart.service",
        include_str!("../../../systemd/truenas/strongroom-before-restart.service"),
    ),
    unit(
        "etc/systemd/system/run-strongroom-programs.mount",
        include_str!("../../../systemd/truenas/run-strongroom-programs.mount"),
    ),
    unit(
        "etc/systemd/system/usr-bin-restic.mount",
        include_str!("../../../systemd/truenas/usr-bin-restic.mount"),
    ),
    unit(
        "etc/systemd/system/middlewared.service.d/strongroom.conf",
        include_str!("../../../systemd/middlewared.service.d/strongroom.conf"),
    ),
    unit(
        "etc/systemd/system/ix-zfs.service.d/strongroom.conf",
        include_str!("../../../systemd/ix-zfs.service.d/strongroom.conf"),
    ),
];

/// What is in the running system's units.
const UNITS: &str = "etc/systemd/system";

/// Where the launcher's names are, and nothing else: the middleware's PATH begins with it.
const BIN: &str = "root/strongroom/bin";

const fn unit(path: &'static str, text: &'static str) -> (&'static str, u32, &'static str) {
    (path, 0o644, text)
}

/// One file or link of an installation.
pub(crate) struct Piece {
    /// Where it is below the root folder.
    pub(crate) path: PathBuf,
    content: Content,
}

enum Content {
    Program(PathBuf),
    Text(&'static str, u32),
    Link(PathBuf),
}

/// How a piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// As it should be.
    Right,
    /// Something else.
    Other,
    /// Not there.
    Missing,
}

impl Piece {
    /// How it stands in a system.
    ///
    /// # Errors
    /// [`Error::Input`] for a program that cannot be read where it comes from.
    pub(crate) fn state(&self, system: &System) -> Result<State> {
        let there = system.at(&self.path);
        // Before anything else: a program that cannot be read is told of before any is written.
        let wanted = match &self.content {
            Content::Program(source) => Some(program(source)?),
            _ => None,
        };
        let Ok(metadata) = fs::symlink_metadata(&there) else {
            return Ok(State::Missing);
        };
        // A unit that its admin has switched off stays so.
        if fs::read_link(&there).is_ok_and(|to| to == Path::new("/dev/null")) {
            return Ok(State::Right);
        }
        let is_file = |mode: u32, bytes: &[u8]| {
            metadata.is_file()
                && metadata.permissions().mode() & 0o7777 == mode
                && fs::read(&there).is_ok_and(|now| now == bytes)
        };
        let is_right = match &self.content {
            Content::Program(_) => is_file(0o755, wanted.as_deref().unwrap_or_default()),
            Content::Text(text, mode) => is_file(*mode, text.as_bytes()),
            Content::Link(to) => fs::read_link(&there).is_ok_and(|now| now == *to),
        };
        Ok(if is_right { State::Right } else { State::Other })
    }

    /// Whether there is anything in its place.
    pub(crate) fn is_there(&self, system: &System) -> bool {
        fs::symlink_metadata(system.at(&self.path)).is_ok()
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for a program that cannot be read.
    pub(crate) fn put(&self, system: &System) -> Result<()> {
        let place = system.at(&self.path);
        let folder = place.parent().expect("every piece is in a folder");
        durable::make_folder(folder, 0o755)?;
        durable::clean(folder);
        match &self.content {
            Content::Program(source) => durable::write(&place, &program(source)?, 0o755),
            Content::Text(text, mode) => durable::write(&place, text.as_bytes(), *mode),
            Content::Link(to) => durable::link(to, &place),
        }
    }

    /// Takes it away, and its folder where nothing else is in it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn take(&self, system: &System) -> Result<()> {
        let place = system.at(&self.path);
        let folder = place.parent().expect("every piece is in a folder");
        durable::clean(folder);
        durable::remove(&place)?;
        let mut folder = self.path.parent();
        while let Some(of_ours) = folder.filter(|folder| is_ours(folder)) {
            // One that holds something else stays.
            if fs::remove_dir(system.at(of_ours)).is_err() {
                break;
            }
            folder = of_ours.parent();
        }
        Ok(())
    }
}

/// All pieces, in the order in which they are put in place.
pub(crate) struct Pieces(pub(crate) Vec<Piece>);

impl Pieces {
    /// Those of an installation with the programs of a folder.
    pub(crate) fn with_programs(from: &Path) -> Self {
        let mut pieces = Vec::new();
        for name in PROGRAMS {
            pieces.push(Piece {
                path: Path::new("root/strongroom").join(name),
                content: Content::Program(from.join(name)),
            });
        }
        for name in LAUNCHED {
            pieces.push(Piece {
                path: Path::new(BIN).join(name),
                content: Content::Link("../credential-provider".into()),
            });
        }
        for (path, mode, text) in TEXTS {
            pieces.push(Piece {
                path: path.into(),
                content: Content::Text(text, mode),
            });
        }
        pieces.extend(TEXTS.iter().flat_map(|(path, _, text)| enabled(path, text)));
        Self(pieces)
    }

    /// Where programs come from: a folder that was named, else that of the program which is running.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not known.
    pub(crate) fn source(named: Option<&Path>) -> Result<PathBuf> {
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        let ours = std::env::current_exe().ok();
        ours.and_then(|ours| Some(ours.parent()?.to_owned()))
            .ok_or_else(|| {
                let reason = "it is not known here; name it with --from";
                Error::input("the folder of this program", reason)
            })
    }
}

/// What `systemctl enable` would make of a unit: links in the folders of what wants it.
fn enabled(path: &str, text: &str) -> Vec<Piece> {
    let Some(name) = Path::new(path)
        .file_name()
        .filter(|_| path.starts_with(UNITS))
    else {
        return Vec::new();
    };
    let wanted_by = text
        .lines()
        .filter_map(|line| line.strip_prefix("WantedBy="));
    wanted_by
        .flat_map(str::split_whitespace)
        .map(|target| Piece {
            path: Path::new(UNITS).join(format!("{target}.wants")).join(name),
            content: Content::Link(Path::new("/etc/systemd/system").join(name)),
        })
        .collect()
}

/// Whether a folder is there for Strongroom, so that it goes when it is empty.
fn is_ours(folder: &Path) -> bool {
    let is_for_units = folder.parent() == Some(Path::new(UNITS));
    is_for_units || folder.starts_with("root/strongroom")
}

fn program(source: &Path) -> Result<Vec<u8>> {
    fs::read(source).map_err(|error| {
        let reason = format!("{error}; the programs are to be in one folder, which --from names");
        Error::input(format!("program {}", source.display()), reason)
    })
}
