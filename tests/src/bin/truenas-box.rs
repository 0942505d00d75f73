//! Parts of a TrueNAS box for the test machine.
//!
//! `truenas-box serve SOCKET STATE`: its middleware ([`MiddlewareStandIn`]), which writes down in the file
//! STATE what it has in its memory and what it was asked: lines `key DATASET HEX`, `alert TEXT` and
//! `call METHOD`.
//!
//! `truenas-box unlock STATE`: what the middleware does with those keys when it has imported the pools.
//!
//! `truenas-box sql DATABASE STATEMENT`: runs one statement, and prints rows with tabs in between.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use strongroom_tests::middleware::{Behaviour, MiddlewareStandIn};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", socket, state] => serve(Path::new(socket), Path::new(state)),
        ["unlock", state] => unlock(Path::new(state)),
        ["sql", database, statement] => sql(Path::new(database), statement),
        _ => {
            eprintln!("truenas-box: see the first lines of its source");
            ExitCode::from(2)
        }
    }
}

/// Until it is killed.
fn serve(socket: &Path, state: &Path) -> ExitCode {
    let _ = fs::remove_file(socket);
    let middleware = MiddlewareStandIn::start(socket, Behaviour::JsonRpc);
    let mut written = None;
    loop {
        let keys = middleware.keys();
        let keys = keys.iter().map(|(name, key)| format!("key {name} {key}\n"));
        let alerts = middleware.alerts().into_iter();
        let alerts = alerts.map(|text| format!("alert {text}\n"));
        let calls = middleware.calls().into_iter();
        let calls = calls.map(|method| format!("call {method}\n"));
        let text: String = keys.chain(alerts).chain(calls).collect();
        if written.as_ref() != Some(&text) {
            // At once, for whoever reads.
            let new = state.with_extension("new");
            fs::write(&new, &text).expect("the test's own folder");
            fs::rename(&new, state).expect("the test's own folder");
            written = Some(text);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn unlock(state: &Path) -> ExitCode {
    let text = fs::read_to_string(state).unwrap_or_default();
    for line in text.lines() {
        let Some((dataset, key)) = line.strip_prefix("key ").and_then(|it| it.rsplit_once(' '))
        else {
            continue;
        };
        let mut load = Command::new("zfs")
            .args(["load-key", "-L", "prompt", dataset])
            .stdin(Stdio::piped())
            .spawn()
            .expect("the machine has ZFS");
        let mut stdin = load.stdin.take().expect("it was piped");
        stdin.write_all(key.as_bytes()).expect("it reads the key");
        drop(stdin);
        // One dataset's misfortune is not the others'.
        let _ = load.wait();
    }
    ExitCode::SUCCESS
}

fn sql(database: &Path, statement: &str) -> ExitCode {
    let connection = Connection::open(database).expect("a database");
    connection
        .busy_timeout(Duration::from_secs(20))
        .expect("it waits");
    let mut statement = connection.prepare(statement).expect("SQL");
    let columns = statement.column_count();
    let mut rows = statement.query(()).expect("it runs");
    while let Some(row) = rows.next().expect("it goes on") {
        let shown: Vec<String> = (0..columns)
            .map(|column| match row.get_ref(column).expect("a column") {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Real(number) => number.to_string(),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                    String::from_utf8_lossy(bytes).into_owned()
                }
            })
            .collect();
        println!("{}", shown.join("\t"));
    }
    ExitCode::SUCCESS
}
