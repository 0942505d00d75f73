//! The TrueNAS database: the values of its encrypted columns, and what takes their place.
//!
//! Reading never changes a row, and a value that is no text is bent into some, never fatal. Writing
//! is one transaction per call, and each value is written only if it still is what the caller
//! read. [`Database::scrub`] then makes sure of the files: what left the rows must not
//! live on in free pages, the WAL or a journal.
//!
//! The middleware keeps rows in memory and writes them back: whoever writes here stops it first,
//! or lets it know.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior};
use strongroom::{Error, Result};

use super::columns::Column;
use super::pwenc::PwencSecret;

/// An open TrueNAS database, `/data/freenas-v1.db`.
pub(crate) struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    /// Opens the database and checks that it is one of TrueNAS. Creates nothing.
    ///
    /// A file that can only be read opens too; [`Database::check_writable`] tells. One process
    /// has one `Database` of a file at a time, for the reason that [`Database::scrub`] gives.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is missing, no SQLite database, locked by another process, or
    /// lacks a table or column that every known release has.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_patiently(path, PATIENCE)
    }

    /// Leaves even the write-ahead log as it is when the database is closed; SQLite merges it
    /// otherwise. For who only looks.
    ///
    /// # Errors
    /// [`Error::Input`] if SQLite cannot do it.
    pub(crate) fn leave_as_it_is(&self) -> Result<()> {
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map(|_| ())
            .map_err(|error| self.unusable(describe(&error)))
    }

    /// Makes sure that `secret` is this database's own, by the check value that the middleware
    /// itself goes by.
    ///
    /// # Errors
    /// [`Error::Input`] if it is another one, or the database has no check value.
    pub(crate) fn check_secret(&self, secret: &PwencSecret) -> Result<()> {
        let columns = self.rows(
            "SELECT stg_pwenc_check FROM system_settings ORDER BY id LIMIT 1",
            |row| text(row, 0),
        )?;
        let column = columns.into_iter().flatten().next().ok_or_else(|| {
            self.unusable(
                "it has no pwenc check value (system_settings.stg_pwenc_check), so no secret can \
                 be proven to be its own; nothing was changed",
            )
        })?;
        match secret.decrypt(&column) {
            Ok(value) if value.same_as(CHECK_VALUE) => Ok(()),
            _ => Err(self.unusable(
                "the pwenc secret is not this database's: the check value does not decrypt with \
                 it. Name the pwenc_secret that was saved with this database; nothing was changed",
            )),
        }
    }

    /// Every value of a column, in the order of primary keys, with the columns `beside` it. Names may
    /// repeat.
    ///
    /// # Errors
    /// [`Error::Input`] if one of the columns is not there or the table cannot be read.
    pub(crate) fn values(&self, column: &Column, beside: &[&str]) -> Result<Vec<Value>> {
        let (key, name) = Column::keys_of(column.table);
        let name = match name {
            Some(name) if self.has(column.table, name)? => format!("\"{name}\""),
            _ => "NULL".to_owned(),
        };
        let mut sql = format!("SELECT \"{key}\", {name}, \"{}\"", column.name);
        for other in beside {
            sql.extend([", \"", other, "\""]);
        }
        sql.extend([" FROM \"", column.table, "\" ORDER BY \"", key, "\""]);
        self.rows(&sql, |row| {
            Ok(Value {
                row: text(row, 0)?.unwrap_or_default(),
                name: text(row, 1)?.unwrap_or_default(),
                column: text(row, 2)?,
                beside: (3..3 + beside.len())
                    .map(|place| text(row, place))
                    .collect::<rusqlite::Result<_>>()?,
            })
        })
    }

    /// Whether the database has a column.
    ///
    /// # Errors
    /// [`Error::Input`] if the schema cannot be read.
    pub(crate) fn has(&self, table: &str, column: &str) -> Result<bool> {
        Ok(self.columns_of(table)?.iter().any(|name| name == column))
    }

    /// Every table, with its columns.
    ///
    /// # Errors
    /// [`Error::Input`] if the schema cannot be read.
    pub(crate) fn tables(&self) -> Result<Vec<(String, Vec<String>)>> {
        let names: Vec<String> = self.rows(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite^_%' \
             ESCAPE '^' ORDER BY name",
            |row| row.get(0),
        )?;
        names
            .into_iter()
            .map(|table| {
                let columns = self.columns_of(&table)?;
                Ok((table, columns))
            })
            .collect()
    }

    /// The texts of at least `len` characters in any column, whatever it is called.
    ///
    /// # Errors
    /// [`Error::Input`] if the table cannot be read.
    pub(crate) fn texts(&self, table: &str, column: &str, len: usize) -> Result<Vec<String>> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let (table, column) = (quoted(table), quoted(column));
        let sql = format!(
            "SELECT {column} FROM {table} WHERE typeof({column}) = 'text' AND length({column}) >= {len}"
        );
        let texts = self.rows(&sql, |row| text(row, 0))?;
        Ok(texts.into_iter().flatten().collect())
    }

    /// What the middleware calls the state of the schema: its release's last migration.
    ///
    /// # Errors
    /// [`Error::Input`] if the table is there and cannot be read.
    pub(crate) fn revision(&self) -> Result<Option<String>> {
        if !self.has("alembic_version", "version_num")? {
            return Ok(None);
        }
        let rows = self.rows("SELECT version_num FROM alembic_version", |row| {
            text(row, 0)
        })?;
        Ok(rows.into_iter().flatten().next())
    }

    /// Makes sure that the database can be written, so that a refusal comes before anything is
    /// sealed. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is read-only, locked, or its folder takes no journal.
    pub(crate) fn check_writable(&mut self) -> Result<()> {
        self.write(|transaction| {
            // Writes what is there already, for the journal that this needs; then rolls back.
            let version: i64 =
                transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
            transaction.pragma_update(None, "user_version", version)?;
            Ok(Outcome::RollBack(()))
        })
    }

    /// Writes values, all of them or, on an error, none. Gives back the places in `changes` of those
    /// that are something else by now than was read, or gone; these are left alone.
    ///
    /// # Errors
    /// [`Error::Input`] if the database cannot be written.
    pub(crate) fn replace(&mut self, changes: &[Change]) -> Result<Vec<usize>> {
        self.write(|transaction| {
            let mut missed = Vec::new();
            for (place, change) in changes.iter().enumerate() {
                let Cell { table, column, row } = &change.cell;
                let (key, _) = Column::keys_of(table);
                let besides = change.kmip_uid.as_ref().map_or("", |_| ", kmip_uid = ?4");
                let sql = format!(
                    "UPDATE \"{table}\" SET \"{column}\" = ?3{besides} \
                     WHERE \"{key}\" = ?1 AND \"{column}\" IS ?2"
                );
                let mut write = transaction.prepare_cached(&sql)?;
                let (old, new) = (&change.expected, &change.new);
                let written = match &change.kmip_uid {
                    Some(uid) => write.execute((row, old, new, uid)),
                    None => write.execute((row, old, new)),
                }?;
                if written == 0 {
                    missed.push(place);
                }
            }
            Ok(Outcome::Commit(missed))
        })
    }

    /// Rewrites the database without its free pages, syncs it, and makes sure that nothing of the
    /// ciphertexts in `gone` is left in its files. This clears what earlier writers left behind,
    /// too, and can be repeated at will. Out of its reach is what the filesystem keeps: snapshots,
    /// boot environments, blocks that are free but not overwritten. Against these, rotate.
    ///
    /// Gives back how long the database was locked for it.
    ///
    /// It closes the database for good, because the files are read at the end: closing a file of
    /// SQLite's in this process drops the locks that SQLite holds on it.
    ///
    /// # Errors
    /// [`Error::Input`] if another process is in the way, or ciphertext is left.
    pub(crate) fn scrub(self, gone: &[String]) -> Result<Duration> {
        let Self { connection, path } = self;
        let begun = Instant::now();
        rewrite(&connection).map_err(|error| unscrubbed(&path, &describe(&error)))?;
        let locked = begun.elapsed();
        connection
            .close()
            .map_err(|(_, error)| unscrubbed(&path, &describe(&error)))?;
        sync(&path)?;
        for file in ["", "-wal", "-journal"].map(|suffix| beside(&path, suffix)) {
            let left = match std::fs::read(&file) {
                Ok(bytes) => traces(&bytes, gone),
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(Error::io("read", &file)(error)),
            };
            if left > 0 {
                let reason = format!("{left} old ciphertexts are left in {}", file.display());
                return Err(unscrubbed(&path, &reason));
            }
        }
        Ok(locked)
    }

    fn open_patiently(path: &Path, patience: Duration) -> Result<Self> {
        check_header(path)?;
        let connection = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(|error| unusable(path, describe(&error)))?;
        let database = Self {
            connection,
            path: path.to_owned(),
        };
        database
            .prepare(patience)
            .map_err(|error| database.unusable(describe(&error)))?;
        database.check_schema()?;
        Ok(database)
    }

    fn prepare(&self, patience: Duration) -> rusqlite::Result<()> {
        self.connection.busy_timeout(patience)?;
        for (pragma, value) in [
            // What a row loses is overwritten, not just unlinked.
            ("secure_delete", "ON"),
            // VACUUM's copy of the database never is a file.
            ("temp_store", "MEMORY"),
            // A commit has reached the disk, the removal of its journal included.
            ("synchronous", "EXTRA"),
            // The schema of a file that somebody hands us runs no functions.
            ("trusted_schema", "OFF"),
        ] {
            self.connection
                .pragma_update_and_check(None, pragma, value, |_| Ok(()))
                .or_else(|error| match error {
                    rusqlite::Error::QueryReturnedNoRows => Ok(()),
                    other => Err(other),
                })?;
        }
        Ok(())
    }

    /// Whether it is TrueNAS's at all. That a release lacks other columns, whoever reads them says.
    fn check_schema(&self) -> Result<()> {
        let (table, column) = ("system_settings", "stg_pwenc_check");
        if self.has(table, column)? {
            return Ok(());
        }
        Err(self.unusable(format!(
            "it has no column {table}.{column}, as TrueNAS 24.10 to 27 have: it is no TrueNAS \
             database, or of an unknown release; nothing was changed"
        )))
    }

    fn columns_of(&self, table: &str) -> Result<Vec<String>> {
        let table = table.replace('\'', "''");
        self.rows(
            &format!("SELECT name FROM pragma_table_info('{table}')"),
            |row| row.get(0),
        )
    }

    fn rows<T>(
        &self,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.connection
            .prepare(sql)
            .and_then(|mut statement| statement.query_map((), read)?.collect())
            .map_err(|error| self.unusable(describe(&error)))
    }

    /// Runs `work` in one transaction that no other writer can get into.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Outcome<T>>,
    ) -> Result<T> {
        // SQLite opens what it may not write for reading, without a word.
        if self.connection.is_readonly("main").unwrap_or(true) {
            return Err(self.unusable(READ_ONLY));
        }
        let path = &self.path;
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| match work(&transaction)? {
                Outcome::Commit(result) => transaction.commit().map(|()| result),
                Outcome::RollBack(result) => transaction.rollback().map(|()| result),
            })
            .map_err(|error| unusable(path, describe(&error)))
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        unusable(&self.path, reason)
    }
}

/// A value of an encrypted column, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    /// The row's primary key.
    pub(crate) row: String,
    /// What people call the row; may be empty.
    pub(crate) name: String,
    /// The column.
    pub(crate) column: Option<String>,
    /// The columns that were asked for beside it.
    pub(crate) beside: Vec<Option<String>>,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Cell {
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    /// The row's primary key, as text.
    pub(crate) row: String,
}

impl Cell {
    pub(crate) fn new(column: &Column, row: &str) -> Self {
        Self {
            table: column.table,
            column: column.name,
            row: row.to_owned(),
        }
    }
}

/// A value to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) cell: Cell,
    /// What must be there, or nothing is written.
    pub(crate) expected: Option<String>,
    pub(crate) new: Option<String>,
    /// What `storage_encrypteddataset.kmip_uid` of the row becomes; only for rows of that table.
    #[expect(clippy::option_option, reason = "left alone, or NULL, or a text")]
    pub(crate) kmip_uid: Option<Option<String>>,
}

/// How long to wait for another process's transaction. The middleware's take milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `stg_pwenc_check` decrypts to.
const CHECK_VALUE: &[u8] = b"Donuts!";

const READ_ONLY: &str =
    "it cannot be written: the file or its filesystem is read-only. Run as root, or on a copy";

/// What becomes of a transaction's work.
enum Outcome<T> {
    Commit(T),
    RollBack(T),
}

fn unusable(path: &Path, reason: impl Into<String>) -> Error {
    Error::input(format!("database {}", path.display()), reason)
}

fn unscrubbed(path: &Path, reason: &str) -> Error {
    unusable(
        path,
        format!(
            "{reason}. The keys are sealed and out of its rows, but old copies may be left in its \
             files; run the same command again to finish"
        ),
    )
}

fn describe(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has it locked. Stop the middleware for as long as this takes: \
             `systemctl stop middlewared`"
                .to_owned()
        }
        Some(ErrorCode::ReadOnly) => READ_ONLY.to_owned(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => format!(
            "SQLite finds it damaged ({error}). Restore it from a configuration backup first"
        ),
        Some(ErrorCode::CannotOpen) => format!(
            "it, or a journal in its folder, cannot be opened ({error}). Run as root, and see that \
             the folder can be written"
        ),
        Some(ErrorCode::DiskFull) => {
            "there is no space left on its filesystem. Free some, at least its own size".to_owned()
        }
        _ => error.to_string(),
    }
}

/// SQLite itself would take a missing or an empty file for a new database.
fn check_header(path: &Path) -> Result<()> {
    let mut header = [0; 16];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) if &header == b"SQLite format 3\0" => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unusable(
            path,
            "there is no such file. On TrueNAS the database is /data/freenas-v1.db",
        )),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(unusable(path, error.to_string()))
        }
        _ => Err(unusable(
            path,
            "it is not a SQLite database. On TrueNAS the database is /data/freenas-v1.db",
        )),
    }
}

/// A column as text. SQLite lets any column hold anything, and what is no text is no ciphertext
/// either, so it may be bent into some.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
    })
}

/// Writes the database anew, and where it has a WAL, empties that.
fn rewrite(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")?;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode == "wal" {
        let blocked: bool =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
        if blocked {
            let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, None));
        }
    }
    Ok(())
}

fn sync(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    for path in [path, folder] {
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(Error::io("sync", path))?;
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// How many of the ciphertexts in `gone` have left at least a fragment in `bytes`.
///
/// A long text is spread over pages, and a freed one is partly overwritten, so any whole piece of
/// 16 characters (96 random bits) counts. A shorter text, at least 12 characters, counts as a whole.
fn traces(bytes: &[u8], gone: &[String]) -> usize {
    const PIECE: usize = 16;
    let mut owners: HashMap<&[u8], usize> = HashMap::new();
    let mut lengths = BTreeSet::from([PIECE]);
    for (owner, text) in gone.iter().enumerate() {
        let text = text.as_bytes();
        if text.len() < PIECE {
            lengths.insert(text.len());
            owners.insert(text, owner);
        }
        owners.extend(text.chunks_exact(PIECE).map(|piece| (piece, owner)));
    }
    lengths.remove(&0);
    let mut found = vec![false; gone.len()];
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    for run in bytes.split(|byte| !is_base64(byte)) {
        for piece in lengths.iter().flat_map(|length| run.windows(*length)) {
            if let Some(&owner) = owners.get(piece) {
                found[owner] = true;
            }
        }
    }
    found.into_iter().filter(|&found| found).count()
}

#[cfg(test)]
mod tests {
    use super::super::pwenc::Padding;
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

    /// A database with the three tables, and two secrets: its own and a stranger.
    struct Bench {
        folder: tempfile::TempDir,
        own: PwencSecret,
        other: PwencSecret,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let secret = |name: &str, byte: u8| {
                let path = folder.path().join(name);
                std::fs::write(&path, [byte; 32]).expect("written");
                PwencSecret::read(&path).expect("32 bytes")
            };
            let (own, other) = (secret("own", 1), secret("other", 2));
            let bench = Self { folder, own, other };
            bench.sql(&format!(
                "CREATE TABLE storage_encrypteddataset (id INTEGER PRIMARY KEY, name TEXT, \
                    encryption_key TEXT, kmip_uid TEXT);\
                 CREATE TABLE system_cloudcredentials (id INTEGER PRIMARY KEY, name TEXT, \
                    provider TEXT, attributes TEXT NOT NULL);\
                 CREATE TABLE system_settings (id INTEGER PRIMARY KEY, stg_pwenc_check TEXT);\
                 INSERT INTO system_settings VALUES (1, '{}');",
                bench.own.encrypt(CHECK_VALUE, Padding::Padded)
            ));
            bench
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("freenas-v1.db")
        }

        fn raw(&self) -> Connection {
            Connection::open(self.path()).expect("opened")
        }

        fn sql(&self, sql: &str) {
            self.raw().execute_batch(sql).expect("valid SQL");
        }

        fn open(&self) -> Result<Database> {
            Database::open_patiently(&self.path(), Duration::from_millis(50))
        }

        fn database(&self) -> Database {
            self.open().expect("a TrueNAS database")
        }

        fn add_dataset(&self, name: &str, column: Option<&str>, uid: Option<&str>) -> i64 {
            let raw = self.raw();
            raw.execute(
                "INSERT INTO storage_encrypteddataset (name, encryption_key, kmip_uid) \
                 VALUES (?1, ?2, ?3)",
                (name, column, uid),
            )
            .expect("inserted");
            raw.last_insert_rowid()
        }

        fn add_credential(&self, name: &str, column: &str) -> i64 {
            let raw = self.raw();
            raw.execute(
                "INSERT INTO system_cloudcredentials (name, provider, attributes) \
                 VALUES (?1, 'S3', ?2)",
                (name, column),
            )
            .expect("inserted");
            raw.last_insert_rowid()
        }

        fn column(&self, plaintext: &str) -> String {
            self.own.encrypt(plaintext.as_bytes(), Padding::Padded)
        }

        fn bytes(&self) -> Vec<u8> {
            ["", "-wal", "-journal"]
                .iter()
                .filter_map(|suffix| std::fs::read(beside(&self.path(), suffix)).ok())
                .flatten()
                .collect()
        }
    }

    /// What an operation that must fail says.
    fn refusal<T>(result: Result<T>) -> String {
        let error = result.err().expect("must fail");
        assert!(matches!(error, Error::Input { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("freenas-v1.db"), "{text}");
        text
    }

    fn datasets(database: &Database) -> Vec<Value> {
        let column = Column::of("storage_encrypteddataset", "encryption_key");
        let values = database.values(column.expect("catalogued"), &["kmip_uid"]);
        values.expect("read")
    }

    fn credentials(database: &Database) -> Vec<Value> {
        let column = Column::of("system_cloudcredentials", "attributes");
        let values = database.values(column.expect("catalogued"), &["provider"]);
        values.expect("read")
    }

    fn change(table: &'static str, row: i64, expected: &str, new: Option<&str>) -> Change {
        let (column, kmip_uid) = match table {
            "storage_encrypteddataset" => ("encryption_key", Some(None)),
            _ => ("attributes", None),
        };
        Change {
            cell: Cell {
                table,
                column,
                row: row.to_string(),
            },
            expected: Some(expected.to_owned()),
            new: new.map(str::to_owned),
            kmip_uid,
        }
    }

    fn cleared(row: i64, expected: &str) -> Change {
        change("storage_encrypteddataset", row, expected, None)
    }

    #[test]
    fn values_are_read_in_order_and_whatever_they_hold() {
        let bench = Bench::new();
        let column = bench.column(KEY);
        bench.add_dataset("tank/My Media", Some(&column), None);
        bench.add_dataset("tank/My Media", None, Some("uid"));
        bench.sql("INSERT INTO storage_encrypteddataset VALUES (9, 7, X'FF00', 1.5)");
        let values = datasets(&bench.database());
        let rows: Vec<_> = values.iter().map(|value| value.row.as_str()).collect();
        assert_eq!(rows, ["1", "2", "9"]);
        assert_eq!(values[0].column.as_ref(), Some(&column));
        assert_eq!(
            (&*values[1].name, values[1].beside[0].as_deref()),
            ("tank/My Media", Some("uid"))
        );
        assert_eq!(&*values[2].name, "7");
        assert!(
            bench
                .own
                .decrypt(values[2].column.as_ref().expect("text"))
                .is_err()
        );

        bench.add_credential("aws", &bench.column("{\"a\": 1}"));
        let values = credentials(&bench.database());
        assert_eq!(
            (&*values[0].name, values[0].beside[0].as_deref()),
            ("aws", Some("S3"))
        );
    }

    #[test]
    fn only_its_own_secret_is_taken() {
        let bench = Bench::new();
        assert!(bench.database().check_secret(&bench.own).is_ok());
        let error = refusal(bench.database().check_secret(&bench.other));
        assert!(error.contains("not this database's") && error.contains("nothing was changed"));
        bench.sql("DELETE FROM system_settings");
        assert!(refusal(bench.database().check_secret(&bench.own)).contains("no pwenc check"));
    }

    #[test]
    fn what_is_no_truenas_database_is_refused_and_nothing_is_made() {
        let bench = Bench::new();
        let path = bench.path();
        bench.sql("ALTER TABLE system_settings RENAME COLUMN stg_pwenc_check TO other");
        assert!(refusal(bench.open()).contains("system_settings.stg_pwenc_check"));
        for (content, expected) in [
            (&b""[..], "not a SQLite database"),
            (b"SQLite format 3\0 and no more", "damaged"),
            (
                b"PK\x03\x04 something else entirely",
                "not a SQLite database",
            ),
        ] {
            std::fs::write(&path, content).expect("written");
            assert!(refusal(bench.open()).contains(expected));
            assert_eq!(std::fs::read(&path).expect("still there"), content);
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(refusal(bench.open()).contains("no such file"));
        assert!(!path.exists());
    }

    #[test]
    fn a_locked_database_says_whom_to_stop() {
        let bench = Bench::new();
        let mut database = bench.database();
        let lock = bench.raw();
        lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
        assert!(refusal(database.check_writable()).contains("systemctl stop middlewared"));
        lock.execute_batch("COMMIT; BEGIN EXCLUSIVE")
            .expect("locked");
        assert!(refusal(bench.open()).contains("systemctl stop middlewared"));
        lock.execute_batch("COMMIT").expect("unlocked");
        database.check_writable().expect("free again");
    }

    #[test]
    fn a_read_only_database_can_be_read_and_is_refused_before_a_write() {
        let bench = Bench::new();
        let mut permissions = bench.path().metadata().expect("there").permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(bench.path(), permissions).expect("set");
        if File::options().append(true).open(bench.path()).is_ok() {
            return; // Root writes what it likes.
        }
        let mut database = bench.database();
        datasets(&database);
        assert!(refusal(database.check_writable()).contains("read-only"));
    }

    #[test]
    fn checking_for_writing_changes_nothing() {
        let bench = Bench::new();
        let before = bench.bytes();
        bench.database().check_writable().expect("writable");
        assert_eq!(bench.bytes(), before);
    }

    #[test]
    fn rows_that_changed_meanwhile_are_left_alone() {
        let bench = Bench::new();
        let (old, new) = (bench.column(KEY), bench.column(KEY));
        let first = bench.add_dataset("tank", Some(&old), Some("uid"));
        let second = bench.add_dataset("tank", Some(&new), None);
        let mut database = bench.database();
        let missed = database
            .replace(&[
                cleared(first, &old),
                cleared(second, &old),
                cleared(99, &old),
            ])
            .expect("written");
        assert_eq!(missed, [1, 2]);
        let rows = datasets(&database);
        assert_eq!((&rows[0].column, &rows[0].beside[0]), (&None, &None));
        assert_eq!(rows[1].column, Some(new.clone()));

        let first = bench.add_credential("a", &old);
        let second = bench.add_credential("b", &new);
        let replaced = |row| change("system_cloudcredentials", row, &old, Some("replaced"));
        let missed = database
            .replace(&[replaced(first), replaced(second)])
            .expect("written");
        assert_eq!(missed, [1]);
        let rows = credentials(&database);
        assert_eq!(rows[0].column.as_deref(), Some("replaced"));
        assert_eq!(rows[1].column, Some(new));
    }

    #[test]
    fn a_failing_write_changes_no_row() {
        let bench = Bench::new();
        let column = bench.column(KEY);
        let ids = ["a", "b"].map(|name| bench.add_dataset(name, Some(&column), None));
        bench.sql(
            "CREATE TRIGGER no BEFORE UPDATE ON storage_encrypteddataset WHEN old.name = 'b' \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
        );
        let mut database = bench.database();
        assert!(
            database
                .replace(&ids.map(|id| cleared(id, &column)))
                .is_err()
        );
        let kept = datasets(&database);
        assert!(kept.iter().all(|row| row.column.as_ref() == Some(&column)));
    }

    /// Fills, frees and clears rows, some over a page long, and gives back their ciphertexts:
    /// what lies in free pages, and what was just taken out of a row.
    fn leave_traces(bench: &Bench, mode: &str) -> (Vec<String>, Database) {
        let long = "x".repeat(9000);
        let raw = bench.raw();
        raw.execute_batch(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA secure_delete = OFF; \
             PRAGMA wal_autocheckpoint = 0"
        ))
        .expect("set");
        let mut gone = Vec::new();
        for number in 0..60 {
            let text = if number % 7 == 0 { &long } else { KEY };
            gone.push(bench.column(text));
            bench.add_dataset("freed", gone.last().map(String::as_str), None);
        }
        raw.execute_batch("DELETE FROM storage_encrypteddataset WHERE id % 2 = 0")
            .expect("deleted");
        assert!(
            traces(&bench.bytes(), &gone) > 40,
            "the old text is in the files"
        );
        let mut database = bench.database();
        let rows = datasets(&database).into_iter();
        let changes: Vec<_> = rows
            .filter_map(|row| Some(cleared(row.row.parse().ok()?, &row.column?)))
            .collect();
        assert_eq!(
            database.replace(&changes).expect("cleared"),
            Vec::<usize>::new()
        );
        (gone, database)
    }

    fn journal_mode(bench: &Bench) -> String {
        bench
            .raw()
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .expect("a mode")
    }

    #[test]
    fn nothing_is_left_after_a_scrub() {
        for mode in ["delete", "wal"] {
            let bench = Bench::new();
            let (gone, database) = leave_traces(&bench, mode);
            assert!(traces(&bench.bytes(), &gone) > 0);
            database.scrub(&gone).expect("scrubbed");
            assert_eq!(traces(&bench.bytes(), &gone), 0);
            assert_eq!(journal_mode(&bench), mode);
            let database = bench.database();
            assert_eq!(datasets(&database).len(), 30);
            database.scrub(&gone).expect("and again");
        }
    }

    #[test]
    fn a_scrub_that_a_reader_blocks_says_so_and_can_be_repeated() {
        for mode in ["delete", "wal"] {
            let bench = Bench::new();
            let (gone, database) = leave_traces(&bench, mode);
            let reader = bench.raw();
            reader
                .execute_batch("BEGIN; SELECT count(*) FROM storage_encrypteddataset")
                .expect("reading");
            let error = refusal(database.scrub(&gone));
            for word in [
                "systemctl stop middlewared",
                "keys are sealed",
                "again to finish",
            ] {
                assert!(error.contains(word), "{error}");
            }
            reader.execute_batch("COMMIT").expect("done");
            drop(reader);
            bench.database().scrub(&gone).expect("scrubbed");
            assert_eq!(traces(&bench.bytes(), &gone), 0);
        }
    }

    #[test]
    fn a_scrub_finds_what_a_row_still_holds() {
        let bench = Bench::new();
        let column = bench.column(KEY);
        bench.add_dataset("tank", Some(&column), None);
        let error = refusal(bench.database().scrub(&[bench.column(KEY), column]));
        assert!(error.contains("1 old ciphertexts are left"), "{error}");
        let short = bench.own.encrypt(b"!", Padding::None);
        bench.add_credential("short", &short);
        let error = refusal(bench.database().scrub(&[short]));
        assert!(error.contains("1 old ciphertexts are left"), "{error}");
    }
}
