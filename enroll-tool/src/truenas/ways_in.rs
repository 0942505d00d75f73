//! Ways into a TrueNAS system that ask for nothing, or for a password alone: whoever takes one is root in
//! an allowed boot, where the vault opens.

use strongroom::Result;

use super::columns::Column;
use super::database::Database;

/// What stands open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaysIn {
    /// Whether the console shows its menu, with a root shell in it, to whoever stands before it.
    pub(crate) console_without_password: bool,
    /// Whether root may log in by SSH with a password.
    pub(crate) root_by_ssh_password: bool,
}

impl WaysIn {
    /// Reads them. What a release does not have is taken for shut.
    ///
    /// # Errors
    /// [`strongroom::Error::Input`] if a table cannot be read.
    pub(crate) fn read(database: &Database) -> Result<Self> {
        let console = beside(
            database,
            "system_advanced",
            "adv_sed_passwd",
            ["adv_consolemenu"],
        )?;
        let users = beside(
            database,
            "account_bsdusers",
            "bsdusr_smbhash",
            [
                "bsdusr_uid",
                "bsdusr_ssh_password_enabled",
                "bsdusr_password_disabled",
                "bsdusr_locked",
            ],
        )?;
        Ok(Self {
            console_without_password: console.iter().any(|[menu]| is_true(menu.as_ref())),
            root_by_ssh_password: users.iter().any(|[uid, by_ssh, disabled, locked]| {
                uid.as_deref() == Some("0")
                    && is_true(by_ssh.as_ref())
                    && !is_true(disabled.as_ref())
                    && !is_true(locked.as_ref())
            }),
        })
    }
}

/// Columns of a table that also has an encrypted one, which alone are listed here; none where it lacks one.
fn beside<const N: usize>(
    database: &Database,
    table: &str,
    encrypted: &str,
    wanted: [&str; N],
) -> Result<Vec<[Option<String>; N]>> {
    for name in wanted.iter().chain([&encrypted]) {
        if !database.has(table, name)? {
            return Ok(Vec::new());
        }
    }
    let column = Column::of(table, encrypted).expect("it is catalogued");
    let rows = database.values(column, &wanted)?.into_iter();
    Ok(rows.filter_map(|row| row.beside.try_into().ok()).collect())
}

/// SQLite has no booleans.
fn is_true(value: Option<&String>) -> bool {
    value.is_some_and(|value| value != "0")
}
