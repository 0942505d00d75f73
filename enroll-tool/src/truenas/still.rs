//! A TrueNAS database that must stay as it is: read out of memory, so that SQLite touches no file,
//! takes no lock and leaves nothing beside it. What is in its write-ahead log is not seen.
//!
//! The file may be anybody's and anything: a failure is a reason in words, never more.

use std::collections::HashSet;
use std::fmt::Write as _;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Row};

use super::columns::{COLUMNS, Column};

/// How every SQLite database begins (sqlite.org/fileformat.html, section 1.3).
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A database in memory, of which only rows are read.
pub(crate) struct StillDatabase {
    connection: Connection,
}

/// A value of an encrypted column, as it stands.
pub(crate) struct Value {
    pub(crate) column: &'static Column,
    /// What people call its row; for a dataset key, the dataset.
    pub(crate) name: Option<String>,
    /// Of a cloud credential.
    pub(crate) provider: Option<String>,
    pub(crate) ciphertext: String,
}

/// A cloud credential, without its attributes.
pub(crate) struct CloudCredential {
    pub(crate) id: i64,
    pub(crate) provider: String,
}

impl StillDatabase {
    /// A database from its bytes.
    ///
    /// # Errors
    /// SQLite's words, if it cannot be read.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self, String> {
        let mut bytes = bytes.to_vec();
        // A database in WAL mode wants its log, which memory has none of. Rollback mode reads the same
        // pages.
        if let Some(versions) = bytes.get_mut(18..20) {
            versions.fill(1);
        }
        let open = || {
            let mut connection = Connection::open_in_memory()?;
            // The schema of a file that somebody hands us runs no functions.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.deserialize_read_exact("main", &*bytes, bytes.len(), true)?;
            Ok(connection)
        };
        open()
            .map(|connection| Self { connection })
            .map_err(|error: rusqlite::Error| error.to_string())
    }

    /// All values of the encrypted columns that it has and that hold anything.
    ///
    /// # Errors
    /// SQLite's words, if a table cannot be read.
    pub(crate) fn values(&self) -> Result<Vec<Value>, String> {
        let mut values = Vec::new();
        for column in &COLUMNS {
            let has = self.columns_of(column.table)?;
            if !has.contains(column.name) {
                continue;
            }
            let Column { table, name, .. } = column;
            let known = |wanted: Option<&'static str>| wanted.filter(|it| has.contains(*it));
            let mut sql = format!("SELECT {name}");
            for other in [known(Column::keys_of(table).1), known(Some("provider"))] {
                // Writing to a String cannot fail.
                let _ = write!(sql, ", {}", other.unwrap_or("NULL"));
            }
            let _ = write!(sql, " FROM {table}");
            self.rows(&sql, |row| {
                let Some(ciphertext) = text(row, 0)?.filter(|it| !it.is_empty()) else {
                    return Ok(());
                };
                values.push(Value {
                    column,
                    name: text(row, 1)?,
                    provider: text(row, 2)?,
                    ciphertext,
                });
                Ok(())
            })?;
        }
        Ok(values)
    }

    /// The cloud credentials.
    ///
    /// # Errors
    /// SQLite's words, if they cannot be read.
    pub(crate) fn cloud_credentials(&self) -> Result<Vec<CloudCredential>, String> {
        if !self
            .columns_of("system_cloudcredentials")?
            .contains("provider")
        {
            return Err("it has no table system_cloudcredentials".to_owned());
        }
        let mut found = Vec::new();
        self.rows("SELECT id, provider FROM system_cloudcredentials", |row| {
            found.push(CloudCredential {
                id: row.get(0)?,
                provider: text(row, 1)?.unwrap_or_default(),
            });
            Ok(())
        })?;
        Ok(found)
    }

    /// The columns of a table; none where it is missing, or is no table: a view can take for ever.
    fn columns_of(&self, table: &str) -> Result<HashSet<String>, String> {
        let mut columns = HashSet::new();
        let sql = format!(
            "SELECT name FROM pragma_table_info('{table}') WHERE EXISTS \
             (SELECT 1 FROM pragma_table_list('{table}') WHERE type = 'table')"
        );
        self.rows(&sql, |row| {
            columns.insert(row.get(0)?);
            Ok(())
        })?;
        Ok(columns)
    }

    fn rows(
        &self,
        sql: &str,
        mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), String> {
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                each(row)?;
            }
            Ok(())
        };
        let mut read = read;
        read().map_err(|error: rusqlite::Error| error.to_string())
    }
}

/// Text, or what is read as text; bytes that are none count as nothing.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null();
    Ok(bytes
        .ok()
        .flatten()
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .map(str::to_owned))
}
