//! The launch of rclone: what its configuration lacks is read from the vault, put into its
//! environment, and when rclone is done, what it wrote into the configuration is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::value::RawValue;
use strongroom::object::ObjectId;
use strongroom::{ErrorKind, Secret};

use crate::child;
use crate::failure::Failure;
use crate::placeholder::{self, Place};
use crate::rclone::config::{self, Config};
use crate::rclone::{environment, obscure, program};
use crate::vault::Vault;

/// Tells a program that we launch which file it was launched as.
const LAUNCHED_AS: &str = "STRONGROOM_LAUNCHED";

/// Counts the launches of a program of ours by another.
const LAUNCHES: &str = "STRONGROOM_LAUNCHES";

/// One for the name on PATH, one for a script around it, and one to spare.
const MOST_LAUNCHES: u32 = 3;

/// Launches rclone with these arguments and answers its exit code, or says what is in the way.
pub(crate) fn rclone(module: Option<PathBuf>, arguments: Vec<OsString>) -> ExitCode {
    run(module, arguments).unwrap_or_else(|failures| {
        for failure in &failures {
            say(failure);
        }
        let first = failures.first().map_or(u8::MAX, Failure::exit_code);
        ExitCode::from(first)
    })
}

fn run(module: Option<PathBuf>, arguments: Vec<OsString>) -> Result<ExitCode, Vec<Failure>> {
    let ourselves = std::env::current_exe()
        .map_err(|error| Failure::input(format!("this program cannot find itself: {error}")))?;
    let rclone = find_rclone(&ourselves)?;
    let file = config::file(&arguments, &rclone, |name| std::env::var_os(name));
    let config = file.as_deref().map(Config::read).unwrap_or_default();
    let places = placeholder::places(&config);
    check_names(&places, &config)?;

    let mut command = Command::new(&rclone);
    if !places.is_empty() && logs_options(&arguments) {
        return Err(vec![Failure::usage(
            "at this log level rclone writes every secret that it is given into its log; use -v, or \
             a remote without placeholders",
        )]);
    }
    command
        .args(arguments)
        .env(LAUNCHED_AS, &rclone)
        .env(LAUNCHES, (launches() + 1).to_string());
    if !places.is_empty() {
        let vault = Vault::open(module, &ourselves)?;
        let values = values(&vault, &places);
        vault.close();
        for (place, value) in places.iter().zip(values?) {
            for name in environment::names(&place.section, &place.key) {
                command.env(name, OsStr::from_bytes(value.expose()));
            }
        }
    }
    let end = child::run(command).map_err(|error| {
        Failure::input(format!("{} cannot be launched: {error}", rclone.display()))
    })?;

    if let Some(file) = file {
        let now = Config::read(&file);
        for place in placeholder::overwritten(&places, &now) {
            say(format!(
                "warning: {place} of {}: rclone has written a new value over the placeholder. It \
                 was left there, in clear, for it is the only copy; a later release of Strongroom \
                 will seal it again",
                file.display()
            ));
        }
    }
    Ok(end.exit_code())
}

/// How many of us are above us, each having launched the next.
fn launches() -> u32 {
    std::env::var(LAUNCHES)
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

/// Whether rclone is asked for its debug log (`-vv`, `--log-level DEBUG`, or their variables), in
/// which it says what each option was set to from the environment.
fn logs_options(arguments: &[OsString]) -> bool {
    let arguments: Vec<_> = arguments.iter().map(|it| it.to_string_lossy()).collect();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let verbose: usize = arguments
        .iter()
        .map(|argument| match argument.strip_prefix('-') {
            Some("-verbose") => 1,
            // A cluster of short flags, such as -Pvv.
            Some(flags) if flags.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
                flags.matches('v').count()
            }
            _ => 0,
        })
        .sum();
    let counted = |text: &str| text.parse::<usize>().is_ok_and(|level| level > 1);
    let of_option = |option: &str, wanted: &dyn Fn(&str) -> bool| {
        let joined = format!("{option}=");
        arguments.iter().enumerate().any(|(place, argument)| {
            let next = arguments.get(place + 1).filter(|_| argument == option);
            argument.strip_prefix(&joined).is_some_and(wanted) || next.is_some_and(|it| wanted(it))
        })
    };
    let debug = |text: &str| text.eq_ignore_ascii_case("DEBUG");
    verbose > 1
        || of_option("--verbose", &counted)
        || of_option("--log-level", &debug)
        || counted(&variable("RCLONE_VERBOSE"))
        || debug(&variable("RCLONE_LOG_LEVEL"))
}

fn find_rclone(ourselves: &Path) -> Result<PathBuf, Failure> {
    // Two copies of this program under rclone's name, or a script of that name which calls us, would
    // launch each other without end.
    if launches() >= MOST_LAUNCHES {
        return Err(Failure::input(
            "rclone on PATH leads back to this program again and again; leave one of them on PATH",
        ));
    }
    if std::env::var_os(LAUNCHED_AS).is_some_and(|it| program::same_file(it.as_ref(), ourselves)) {
        return Err(Failure::input(format!(
            "{} was launched as rclone by another copy of itself; leave one of them on PATH",
            ourselves.display()
        )));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    program::find(&path, ourselves).ok_or_else(|| Failure::input("there is no rclone on PATH"))
}

/// A variable must be one place's alone: another section that it means as well would get a secret
/// that is not its own.
fn check_names(places: &[Place], config: &Config) -> Result<(), Vec<Failure>> {
    let mut failures = Vec::new();
    for place in places {
        let names = environment::names(&place.section, &place.key);
        // [a]'s key b_c and [a_b]'s key c are one variable.
        let shared = config.sections.keys().find(|other| {
            let prefixes = environment::prefixes(other);
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

/// The value for each place, in their order. Each object is read once.
fn values(vault: &Vault, places: &[Place]) -> Result<Vec<Secret>, Vec<Failure>> {
    let wanted: BTreeSet<ObjectId> = places.iter().map(|place| place.object).collect();
    let objects: BTreeMap<ObjectId, Result<Secret, Failure>> = wanted
        .into_iter()
        .map(|object| (object, vault.read(object)))
        .collect();
    let (mut values, mut failures) = (Vec::new(), Vec::new());
    for place in places {
        let value = match &objects[&place.object] {
            Ok(content) => field(content, &place.key).and_then(|value| prepare(value, place)),
            Err(failure) => Err(failure.clone()),
        };
        match value {
            Ok(value) => values.push(value),
            Err(failure) => {
                failures.push(failure.at(format!("{place}: object {}", place.object)));
            }
        }
    }
    if failures.is_empty() {
        Ok(values)
    } else {
        Err(failures)
    }
}

/// A field of a credential, which is a JSON object: a string's content, any other value's text.
fn field(content: &Secret, key: &str) -> Result<Secret, Failure> {
    // What serde_json says of an error may quote the content.
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(content.expose())
        .map_err(|_| Failure::input("its content is not a JSON object of fields"))?;
    let value = fields.get(key).map(|value| value.get());
    let value = value
        .filter(|value| *value != "null")
        .ok_or_else(|| Failure::new(ErrorKind::NoObject, "it has no such field"))?;
    Ok(match serde_json::from_str::<String>(value) {
        Ok(text) => Secret::take(text.into_bytes()),
        Err(_) => Secret::copy_of(value.as_bytes()),
    })
}

fn prepare(value: Secret, place: &Place) -> Result<Secret, Failure> {
    if place.obscured {
        return Ok(obscure::obscure(value.expose()));
    }
    if value.expose().contains(&0) {
        return Err(Failure::input(
            "the field has a zero byte, which no environment can carry",
        ));
    }
    Ok(value)
}

fn say(what: impl std::fmt::Display) {
    eprintln!("credential-provider: {what}");
}

impl From<Failure> for Vec<Failure> {
    fn from(failure: Failure) -> Self {
        vec![failure]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_strings_or_the_text_of_other_values() {
        let content = Secret::copy_of(
            br#"{"pass": "a\"b\u00fc", "port": 22, "token": {"a": [1]}, "none": null, "pass2": ""}"#,
        );
        let text = |key| {
            let value = field(&content, key).map_err(|failure| failure.exit_code())?;
            Ok::<_, u8>(String::from_utf8(value.expose().to_vec()).expect("UTF-8"))
        };
        assert_eq!(text("pass").as_deref(), Ok("a\"bü"));
        assert_eq!(text("port").as_deref(), Ok("22"));
        assert_eq!(text("token").as_deref(), Ok("{\"a\": [1]}"));
        assert_eq!(text("pass2").as_deref(), Ok(""));
        assert_eq!(text("none"), Err(126));
        assert_eq!(text("missing"), Err(126));
    }

    #[test]
    fn no_failure_quotes_a_credential() {
        for content in [
            "\"hunter2\"",
            "hunter2",
            "{\"pass\": hunter2}",
            "[\"hunter2\"]",
            "",
        ] {
            let content = Secret::copy_of(content.as_bytes());
            let failure = field(&content, "pass").err().expect("no object of fields");
            assert_eq!(failure.exit_code(), 127);
            assert!(!failure.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_debug_log_is_noticed() {
        let logs = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            logs_options(&arguments)
        };
        for line in [
            "-vv lsf r:",
            "-v lsf r: -v",
            "lsf -Pvv r:",
            "--verbose --verbose lsf r:",
            "--verbose=2 lsf r:",
            "--log-level DEBUG lsf r:",
            "lsf r: --log-level=debug",
        ] {
            assert!(logs(line), "{line}");
        }
        for line in [
            "-v lsf r:",
            "lsf r:",
            "--log-level INFO lsf r:",
            "--verbose lsf r:",
            "copy vv r:vv",
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
            check_names(&placeholder::places(&config), &config)
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
