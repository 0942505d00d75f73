//! The middleware, on its local socket: a websocket (RFC 6455) on a Unix socket, which takes who is root
//! there for an administrator. Releases from 25.04 speak JSON-RPC 2.0 at `/api/current`; before, and
//! beside it for a while, they speak the Distributed Data Protocol at `/websocket`.
//!
//! Only what a hand-over of dataset keys needs, and what is to be told afterwards. Never `midclt`: it takes its arguments on the command
//! line, which everyone on the machine can read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom::{Error, Result};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::StatusCode;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

/// Where the middleware listens.
pub(crate) const SOCKET: &str = "/var/run/middleware/middlewared.sock";

/// The kind of alert that fits best.
const ALERT: &str = "KMIPZFSDatasetsSyncFailure";

/// A middleware that answers.
pub(crate) struct Middleware {
    socket: WebSocket<UnixStream>,
    path: PathBuf,
    patience: Duration,
    protocol: Protocol,
    calls: u64,
}

/// How it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// JSON-RPC 2.0, since 25.04.
    JsonRpc,
    /// The Distributed Data Protocol, before.
    Ddp,
}

/// Keys of datasets by their names, in hexadecimal digits, as the middleware has them.
///
/// What it is made of is ordinary memory, wiped when it is freed.
pub(crate) type MemoryKeys = BTreeMap<String, String>;

impl Middleware {
    /// Connects, and waits up to `patience` for a middleware that is about to start. Each answer may
    /// take as long.
    ///
    /// # Errors
    /// [`Error::Input`] for a socket that is not there, refuses, does not answer in time, or answers
    /// something else.
    pub(crate) fn connect(path: &Path, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let (socket, protocol) = match handshake(path, "/api/current", deadline)? {
            Some(socket) => (socket, Protocol::JsonRpc),
            None => match handshake(path, "/websocket", deadline)? {
                Some(socket) => (socket, Protocol::Ddp),
                None => {
                    return Err(unusable(
                        path,
                        "it knows neither /api/current nor /websocket: it is no middleware of \
                         TrueNAS 24.10 to 27",
                    ));
                }
            },
        };
        let mut middleware = Self {
            socket,
            path: path.to_owned(),
            patience,
            protocol,
            calls: 0,
        };
        match protocol {
            Protocol::JsonRpc => {
                // Or it hides the methods of the hand-over.
                let options = json!([{ "legacy_jobs": false, "private_methods": true }]);
                middleware.call("core.set_options", &options)?;
            }
            Protocol::Ddp => middleware.begin_ddp()?,
        }
        Ok(middleware)
    }

    /// How it is spoken to.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The dataset keys that it has in memory.
    ///
    /// # Errors
    /// [`Error::Input`] where it refuses, or answers something else.
    pub(crate) fn memory_keys(&mut self) -> Result<MemoryKeys> {
        let keys = self.call("kmip.kmip_memory_keys", &json!([]))?;
        let zfs = keys.get("zfs").cloned().unwrap_or(Value::Null);
        match zfs {
            Value::Null => Ok(MemoryKeys::new()),
            zfs => serde_json::from_value(zfs)
                .map_err(|_| self.unusable("its keys in memory are not what they were up to 27")),
        }
    }

    /// Changes the dataset keys that it has in memory, from what they are now. They are written nowhere.
    ///
    /// # Errors
    /// [`Error::Input`] where it refuses, or another process changes them for too long.
    pub(crate) fn change_memory_keys(
        &mut self,
        change: impl FnOnce(&mut MemoryKeys),
    ) -> Result<()> {
        let _turn = self.turn()?;
        let mut keys = self.memory_keys()?;
        change(&mut keys);
        self.call("kmip.update_memory_keys", &json!([{ "zfs": keys }]))
            .map(|_| ())
    }

    /// One of us at a time, for the call replaces all keys. What is locked is the folder that the socket is
    /// in: whoever speaks to this middleware can open that, and nobody else locks it.
    fn turn(&self) -> Result<File> {
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let open = File::open(folder).map_err(Error::io("open", folder))?;
        let deadline = Instant::now() + self.patience.max(Duration::from_secs(1));
        loop {
            match flock(&open, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(open),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(self.unusable("another process is handing keys to it for too long"));
                }
                Err(error) => return Err(Error::io("lock", folder)(error.into())),
            }
        }
    }

    /// Raises an alert that says `words`, where its admin sees alerts. Its kinds of alerts are fixed; the
    /// nearest is that of keys which a KMIP server does not give, and the words stand where that names
    /// datasets.
    ///
    /// # Errors
    /// [`Error::Input`] where it refuses: releases whose alerts cannot be raised from outside.
    pub(crate) fn raise_alert(&mut self, words: &str) -> Result<()> {
        self.call(
            "alert.oneshot_create",
            &json!([ALERT, { "datasets": words }]),
        )
        .map(|_| ())
    }

    /// Takes such alerts back.
    ///
    /// # Errors
    /// [`Error::Input`] where it refuses.
    pub(crate) fn take_alert_back(&mut self) -> Result<()> {
        self.call("alert.oneshot_delete", &json!([ALERT, null]))
            .map(|_| ())
    }

    /// Where there is a standby controller, has its whole database sent there, as it does itself after
    /// writes that it does not replay one by one. Whether there is one.
    ///
    /// # Errors
    /// [`Error::Input`] where it refuses.
    pub(crate) fn send_database_to_standby(&mut self) -> Result<bool> {
        if self.call("failover.licensed", &json!([]))? != json!(true) {
            return Ok(false);
        }
        self.call("failover.datastore.force_send", &json!([]))?;
        Ok(true)
    }

    fn begin_ddp(&mut self) -> Result<()> {
        self.send(&json!({ "msg": "connect", "version": "1", "support": ["1"] }))?;
        loop {
            let answer = self.receive()?;
            match answer["msg"].as_str() {
                Some("connected") => return Ok(()),
                Some("failed") => return Err(self.unusable("it speaks another version of DDP")),
                _ => {}
            }
        }
    }

    /// Calls a method. Of its errors nothing is told but the reason that it gives.
    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.calls += 1;
        let id = self.calls.to_string();
        let request = match self.protocol {
            Protocol::JsonRpc => {
                json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
            }
            Protocol::Ddp => {
                json!({ "msg": "method", "id": id, "method": method, "params": params })
            }
        };
        self.send(&request)?;
        loop {
            // Events, and answers to nobody, may come between.
            let answer = self.receive()?;
            if answer["id"] != json!(id) {
                continue;
            }
            return match answer.get("error").filter(|error| !error.is_null()) {
                None => Ok(answer["result"].clone()),
                Some(error) => Err(self.unusable(format!("{method} failed: {}", reason(error)))),
            };
        }
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        let sent = self.socket.send(Message::text(message.to_string()));
        sent.map_err(|error| self.broken(&error))
    }

    fn receive(&mut self) -> Result<Value> {
        loop {
            match self.socket.read().map_err(|error| self.broken(&error))? {
                Message::Text(text) => {
                    return serde_json::from_str(&text)
                        .map_err(|_| self.unusable("it answers something that is no JSON"));
                }
                Message::Close(_) => return Err(self.unusable("it has closed the connection")),
                _ => {}
            }
        }
    }

    fn broken(&self, error: &tungstenite::Error) -> Error {
        match error {
            tungstenite::Error::Io(error) if is_timeout(error) => {
                self.unusable("it does not answer in time")
            }
            other => self.unusable(other.to_string()),
        }
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        unusable(&self.path, reason)
    }
}

/// The part of an error that is for people.
fn reason(error: &Value) -> String {
    #[derive(Deserialize)]
    struct Told {
        reason: Option<String>,
        message: Option<String>,
        data: Option<Box<Told>>,
    }
    let told: Option<Told> = serde_json::from_value(error.clone()).ok();
    told.and_then(|told| {
        let inner = told.data.and_then(|data| data.reason);
        inner.or(told.reason).or(told.message)
    })
    .unwrap_or_else(|| "it does not say why".to_owned())
}

/// A websocket at a path of the middleware's, `None` where it does not know that.
fn handshake(
    socket: &Path,
    path: &str,
    deadline: Instant,
) -> Result<Option<WebSocket<UnixStream>>> {
    let stream = connected(socket, deadline)?;
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(100));
    for set in [
        stream.set_read_timeout(Some(left)),
        stream.set_write_timeout(Some(left)),
    ] {
        set.map_err(|error| unusable(socket, error.to_string()))?;
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MOST_BYTES))
        .max_frame_size(Some(MOST_BYTES));
    let url = format!("ws://localhost{path}");
    match tungstenite::client::client_with_config(url, stream, Some(config)) {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(HandshakeError::Failure(tungstenite::Error::Http(response)))
            if response.status() == StatusCode::NOT_FOUND =>
        {
            Ok(None)
        }
        Err(HandshakeError::Failure(tungstenite::Error::Io(error))) if is_timeout(&error) => {
            Err(unusable(socket, "it does not answer in time"))
        }
        Err(HandshakeError::Interrupted(_)) => Err(unusable(socket, "it does not answer in time")),
        Err(HandshakeError::Failure(error)) => Err(unusable(socket, error.to_string())),
    }
}

/// More than thousands of keys.
const MOST_BYTES: usize = 16 << 20;

/// Connects as soon as somebody listens.
fn connected(socket: &Path, deadline: Instant) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error)
                if Instant::now() < deadline
                    && matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
            {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(unusable(socket, error.to_string())),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn unusable(socket: &Path, reason: impl Into<String>) -> Error {
    Error::input(format!("middleware at {}", socket.display()), reason)
}
