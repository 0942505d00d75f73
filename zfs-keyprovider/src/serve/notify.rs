//! The service manager is told when the files can be opened (sd_notify(3), `Type=notify`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says `READY=1` to whoever set NOTIFY_SOCKET, if anybody did.
pub(super) fn ready() {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&place, b"READY=1") {
        log::warn!("the service manager cannot be told that the files are there: {error}");
    }
}

fn send(place: &OsStr, message: &[u8]) -> io::Result<()> {
    // An @ stands for the NUL that a socket without a file begins with.
    let address = match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(message, &address)
        .map(|_| ())
}
