//! The launch of rclone: what its configuration and our environment lack is read from the vault, put
//! into its environment, a token into the copy of its configuration in memory, and what it writes over a
//! placeholder is sealed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::io::FdFlags;
use strongroom::Secret;

use super::config::{self, Config};
use super::copy::{self, Folder};
use super::keeper::Keeper;
use super::places::{Form, Place, places};
use super::{obscure, variables};
use crate::environment::{self, Variable};
use crate::failure::Failure;
use crate::launch::{self, say};
use crate::vault::{Contents, Vault};
use crate::{child, credential};

/// Launches rclone with these arguments and answers its exit code.
pub(crate) fn run(
    module: Option<PathBuf>,
    arguments: Vec<OsString>,
) -> Result<ExitCode, Vec<Failure>> {
    let ourselves = launch::ourselves()?;
    let rclone = crate::program::real("rclone", &ourselves)?;
    let file = config::file(&arguments, &rclone, |name| std::env::var_os(name));
    let text = file.as_deref().map(copy::text_of).transpose()?;
    let text = text.unwrap_or_default();
    let config = Config::parse(&text);
    let places = places(&config);
    let lacking = environment::placeholders()?;
    if places.is_empty() && lacking.is_empty() {
        return Err(launch::as_if_we_were_not_there("rclone", &rclone, arguments).into());
    }
    strongroom::process::harden();
    launch::check_arguments(&arguments)?;
    check_names(&places, &config)?;
    if logs_options(&arguments) {
        return Err(vec![Failure::usage(
            "at this log level, or with --dump, rclone writes every secret that it is given into its \
             log; use -v, or a remote without placeholders",
        )]);
    }
    let mut keeper = if places.is_empty() {
        None
    } else {
        // It begins while the TPM is at work.
        Some(Keeper::start(&text, &places).map_err(|error| {
            Failure::input(format!(
                "rclone's configuration cannot be kept in memory: {error}"
            ))
        })?)
    };
    let handed = hand_over(module, &ourselves, &places, &lacking)?;
    if let Some(keeper) = &mut keeper {
        let begun = (with_tokens(&text, &handed.tokens))
            .map_or(Ok(()), |text| keeper.folder.write(&text))
            .and_then(|()| keeper.begin());
        begun.map_err(|error| {
            keeper.folder.remove();
            Failure::input(format!(
                "nobody would seal what rclone writes over a placeholder, for the process that is to \
                 does not answer: {error}"
            ))
        })?;
    }

    let mut command = launch::command("rclone", &rclone);
    match &keeper {
        Some(keeper) => {
            command.args(config::with_file(&arguments, &keeper.folder.file()));
        }
        None => {
            command.args(arguments);
        }
    }
    let files = handed.give_to(&mut command);
    let end = files.and_then(|_files| {
        keeper.as_ref().map_or(Ok(()), Keeper::hand_on)?;
        child::run(command)
    });
    let end = end.map_err(|error| {
        Failure::input(format!("{} cannot be launched: {error}", rclone.display()))
    })?;
    let (mut failures, mut is_kept) = (Vec::new(), false);
    if let Some(keeper) = keeper {
        let finished = keeper.finish();
        if let Some(file) = &file {
            take_over_the_rest(&finished.folder, file, &text, &config, &places);
        }
        if let Some(signal) = finished.interrupted {
            say("what rclone has written over a placeholder is still being sealed");
            child::end_by(signal);
        }
        (failures, is_kept) = (finished.failures, finished.is_kept);
        if !is_kept {
            finished.folder.remove();
        }
    }
    for failure in &failures {
        let fate = if failure.is_final() || !is_kept {
            "What rclone has written there is lost: sign in to the provider anew"
        } else {
            "What rclone has written there is in memory alone, from where it will be sealed as soon as \
             that can be done. If this machine restarts before that, sign in to the provider anew"
        };
        say(format!("{failure}. {fate}"));
    }
    match failures.first() {
        Some(failure) if end.is_good() => Ok(ExitCode::from(failure.exit_code())),
        _ => Ok(end.exit_code()),
    }
}

/// What is put in the place of placeholders.
#[derive(Default)]
struct HandedOver {
    variables: Vec<(String, Secret)>,
    /// By section. rclone takes what is in its environment before what it has written itself: it would
    /// refresh a token a second time with one that is spent.
    tokens: Vec<(String, Secret)>,
    /// Variables that name a file, and what is to be in it.
    files: Vec<(String, OwnedFd)>,
}

impl HandedOver {
    /// Puts it into the environment of a command, which inherits the files: they must stay open until
    /// it runs, and nothing else may be launched before.
    fn give_to(self, command: &mut Command) -> io::Result<Vec<OwnedFd>> {
        for (name, value) in &self.variables {
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        let give = |(name, file): (String, OwnedFd)| {
            rustix::io::fcntl_setfd(&file, FdFlags::empty())?;
            command.env(name, format!("/proc/self/fd/{}", file.as_raw_fd()));
            Ok(file)
        };
        self.files.into_iter().map(give).collect()
    }
}

/// Reads each object that is wanted once.
fn hand_over(
    module: Option<PathBuf>,
    ourselves: &Path,
    places: &[Place],
    lacking: &[Variable],
) -> Result<HandedOver, Vec<Failure>> {
    let vault = Vault::open(module, ourselves)?;
    let wanted = places.iter().map(|place| place.object);
    let contents = vault.read_all(wanted.chain(lacking.iter().map(|it| it.object)));
    vault.close();

    let (mut handed, mut failures) = (HandedOver::default(), Vec::new());
    for place in places {
        let names = variables::names(&place.section, &place.key);
        let outcome = value_for(place, &contents).and_then(|value| match place.form {
            Form::File => file_of(&value).map(|file| {
                let copies = names.iter().filter_map(|name| {
                    let copy = rustix::io::fcntl_dupfd_cloexec(&file, 3);
                    Some((name.clone(), copy.ok()?))
                });
                handed.files.extend(copies);
            }),
            Form::Plain if place.key == TOKEN => {
                handed.tokens.push((place.section.clone(), value));
                Ok(())
            }
            Form::Plain | Form::Obscured => {
                let copies = names.into_iter();
                let copies = copies.map(|name| (name, Secret::copy_of(value.expose())));
                handed.variables.extend(copies);
                Ok(())
            }
        });
        if let Err(failure) = outcome {
            failures.push(failure.at(format!("{place}: object {}", place.object)));
        }
    }
    for variable in lacking {
        match launch::value_of(variable, &contents) {
            Ok(value) => handed.variables.push((variable.name.clone(), value)),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() {
        Ok(handed)
    } else {
        Err(failures)
    }
}

/// The key of what rclone refreshes.
const TOKEN: &str = "token";

/// A configuration with tokens in the places of their placeholders; `None` where there are none.
fn with_tokens(text: &str, tokens: &[(String, Secret)]) -> Option<String> {
    let value = |token: &Secret| String::from_utf8_lossy(token.expose()).into_owned();
    let owned: Vec<_> = tokens
        .iter()
        .map(|(section, it)| (section, value(it)))
        .collect();
    let values: BTreeMap<_, _> = (owned.iter())
        .map(|(section, value)| ((section.as_str(), TOKEN), value.as_str()))
        .collect();
    (!values.is_empty()).then(|| Config::with_values(text, &values))
}

/// A value that one line of a configuration can have.
fn for_configuration(value: Secret) -> Result<Secret, Failure> {
    let is_line =
        std::str::from_utf8(value.expose()).is_ok_and(|it| !it.contains(['\n', '\r', '\0']));
    if is_line {
        return Ok(value);
    }
    Err(Failure::input(
        "the field is more than one line of text, which no configuration can have",
    ))
}

fn value_for(place: &Place, contents: &Contents) -> Result<Secret, Failure> {
    let content = contents.of(place.object)?;
    match place.form {
        Form::Plain if place.key == TOKEN => {
            for_configuration(credential::field(content, &place.key)?)
        }
        Form::Plain => launch::for_environment(credential::field(content, &place.key)?),
        Form::Obscured => {
            let value = credential::field(content, &place.key)?;
            Ok(obscure::obscure(value.expose()))
        }
        // The keychain calls it so.
        Form::File => credential::field_meant_by(content, "private_key"),
    }
}

fn file_of(value: &Secret) -> Result<OwnedFd, Failure> {
    copy::anonymous_file(value)
        .map_err(|error| Failure::input(format!("no file in memory can be made: {error}")))
}

/// A variable must be one place's alone: another section that it means as well would get a secret
/// that is not its own.
fn check_names(places: &[Place], config: &Config) -> Result<(), Vec<Failure>> {
    let mut failures = Vec::new();
    for place in places {
        let names = variables::names(&place.section, &place.key);
        // [a]'s key b_c and [a_b]'s key c are one variable.
        let shared = config.sections.keys().find(|other| {
            let prefixes = variables::prefixes(other);
            let theirs = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
            **other != place.section && names.iter().any(theirs)
        });
        if let Some(other) = shared {
            failures.push(
                Failure::input(format!(
                    "rclone's environment does not tell this section from [{other}]; rename one"
                ))
                .at(place),
            );
        } else if names.iter().any(|name| name.contains(['=', '\0'])) {
            failures.push(
                Failure::input("no variable can have this name; rename the section").at(place),
            );
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures)
    }
}

/// Whether rclone is asked for its debug log, in which it says what each option was set to from the
/// environment: by `-vv`, `--log-level DEBUG` or `--dump`, or by their variables.
fn logs_options(arguments: &[OsString]) -> bool {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let dumps = std::env::vars_os()
        .any(|(name, value)| name.as_bytes().starts_with(b"RCLONE_DUMP") && !value.is_empty());
    dumps
        || verbosity(&variable("RCLONE_VERBOSE")) > 1
        || is_debug(&variable("RCLONE_LOG_LEVEL"))
        || arguments_log_options(arguments)
}

fn arguments_log_options(arguments: &[OsString]) -> bool {
    let arguments: Vec<_> = arguments.iter().map(|it| it.to_string_lossy()).collect();
    let mut verbose = 0;
    for (place, argument) in arguments.iter().enumerate() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&**argument, None),
        };
        if let Some(option) = name.strip_prefix("--") {
            // Which rclone takes for the same.
            match option.replace('_', "-").as_str() {
                "verbose" => verbose += value.map_or(1, verbosity),
                "log-level" => {
                    let next = arguments.get(place + 1).map(|it| &**it);
                    if value.or(next).is_some_and(is_debug) {
                        return true;
                    }
                }
                "dump" => return true,
                option if option.starts_with("dump-") => return true,
                _ => {}
            }
        } else if let Some(flags) = name.strip_prefix('-') {
            // A cluster of short flags, such as -Pvv, of which the last may have a value: -Pv=2.
            if flags.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                verbose += flags.matches('v').count();
                if let Some(value) = value.filter(|_| flags.ends_with('v')) {
                    verbose = (verbose - 1) + verbosity(value);
                }
            }
        }
    }
    verbose > 1
}

/// How often a number says `-v`. Go reads it, in any notation of its own: what is not plainly less is more.
fn verbosity(text: &str) -> usize {
    match text {
        "" | "0" => 0,
        "1" | "+1" => 1,
        _ => 2,
    }
}

fn is_debug(text: &str) -> bool {
    text.eq_ignore_ascii_case("DEBUG")
}

/// What rclone wrote that is no placeholder's goes where it would have gone.
fn take_over_the_rest(folder: &Folder, file: &Path, text: &str, before: &Config, places: &[Place]) {
    let taken = folder.read().and_then(|now| {
        let now = String::from_utf8_lossy(now.expose());
        let kept: BTreeMap<_, _> = places
            .iter()
            .filter_map(|place| {
                let (section, key) = (place.section.as_str(), place.key.as_str());
                Some(((section, key), before.value(section, key)?))
            })
            .collect();
        let now = Config::with_values(&now, &kept);
        if now == text || Config::parse(&now) == *before {
            return Ok(());
        }
        replace(file, now.as_bytes())
    });
    if let Err(error) = taken {
        say(format!(
            "warning: what rclone changed in {} is lost: {error}",
            file.display()
        ));
    }
}

/// Writes a file beside the old one, with its owner and mode, and renames it.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = fs::canonicalize(file)?;
    let old = fs::metadata(&file)?;
    let mut beside = file.clone().into_os_string();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut options = OpenOptions::new();
    let mut new = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let written = new
        .write_all(bytes)
        .and_then(|()| fchown(&new, Some(old.uid()), Some(old.gid())))
        .and_then(|()| new.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777)))
        .and_then(|()| new.sync_all())
        .and_then(|()| fs::rename(&beside, &file));
    if written.is_err() {
        // It is of no use to anyone.
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_log_is_noticed() {
        let logs = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            arguments_log_options(&arguments)
        };
        for line in [
            "-vv lsf r:",
            "-v lsf r: -v",
            "lsf -Pvv r:",
            "--verbose --verbose lsf r:",
            "--verbose=2 lsf r:",
            "--log-level DEBUG lsf r:",
            "lsf r: --log-level=debug",
            "-v=2 lsf r:",
            "-Pv=0x2 lsf r:",
            "-v -v=1 lsf r:",
            "--verbose=0b10 lsf r:",
            "--dump headers lsf r:",
            "lsf r: --dump=bodies",
            "--dump-headers lsf r:",
            "--dump_bodies lsf r:",
        ] {
            assert!(logs(line), "{line}");
        }
        for line in [
            "-v lsf r:",
            "lsf r:",
            "--log-level INFO lsf r:",
            "--verbose lsf r:",
            "-v=1 lsf r:",
            "-Pv=0 lsf r:",
            "copy vv r:vv",
            "copy dump r:dump-1",
        ] {
            assert!(!logs(line), "{line}");
        }
    }

    #[test]
    fn a_variable_is_one_sections() {
        let id = "strongroom:v1:11111111-1111-4111-8111-111111111111";
        let check = |other: &str| {
            let text = format!("[my-remote]\npass = {id}\n[{other}]\ntype = s3\n");
            let config = Config::parse(&text);
            check_names(&places(&config), &config)
        };
        assert!(check("other").is_ok());
        assert!(check("my").is_err());
        assert!(check("MY-Remote").is_err());
        let failures = check("my_remote").expect_err("the same variable");
        assert!(
            failures[0]
                .to_string()
                .contains("section [my-remote], field pass")
        );
    }
}
