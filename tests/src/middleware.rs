//! A stand-in for TrueNAS's middleware on its local socket: a websocket that keeps the methods
//! of dataset keys in memory, of alerts and of a standby controller as TrueNAS's own do, by JSON-RPC 2.0 or
//! by the older protocol.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::StatusCode;
use tungstenite::{Message, WebSocket};

/// What is in its memory, and what it was asked.
#[derive(Default)]
struct State {
    zfs: BTreeMap<String, String>,
    calls: Vec<String>,
    /// Alerts that stand: their kinds and what they say.
    alerts: Vec<(String, String)>,
    /// Whether there is a standby controller.
    has_standby: bool,
}

/// A middleware that listens for as long as this lives.
pub struct MiddlewareStandIn {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// JSON-RPC 2.0, as releases from 25.04.
    JsonRpc,
    /// The Distributed Data Protocol alone, as 24.10.
    Ddp,
    /// Takes connections, and says nothing.
    Hangs,
    /// Closes each connection.
    Closes,
    /// Knows neither path.
    Unknown,
    /// Answers something that is no JSON.
    Garbage,
    /// Does not let this client call what it hides.
    Refuses,
    /// Hands out and takes keys, and lets nobody raise alerts, as the newest releases.
    NoAlerts,
    /// Tells which keys it has, and hangs when it is given some.
    HangsLater,
}

impl MiddlewareStandIn {
    /// Listens at a socket that is not there yet.
    pub fn start(socket: &Path, behaviour: Behaviour) -> Self {
        let listener = UnixListener::bind(socket).expect("the test's own folder");
        let state = Arc::new(Mutex::new(State::default()));
        let ours = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&ours);
                thread::spawn(move || serve(client, behaviour, &state));
            }
        });
        Self {
            socket: socket.to_owned(),
            state,
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The dataset keys in its memory.
    pub fn keys(&self) -> BTreeMap<String, String> {
        self.with(|state| state.zfs.clone())
    }

    /// Puts a key into its memory, as from a KMIP server.
    pub fn has(&self, dataset: &str, key: &str) {
        self.with(|state| state.zfs.insert(dataset.to_owned(), key.to_owned()));
    }

    /// What its alerts say.
    pub fn alerts(&self) -> Vec<String> {
        self.with(|state| state.alerts.iter().map(|(_, text)| text.clone()).collect())
    }

    /// Puts a second controller beside it.
    pub fn has_standby(&self) {
        self.with(|state| state.has_standby = true);
    }

    /// Forgets the keys in its memory, as when it is started anew.
    pub fn forgets(&self) {
        self.with(|state| state.zfs.clear());
    }

    /// The methods that were called.
    pub fn calls(&self) -> Vec<String> {
        self.with(|state| state.calls.clone())
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for MiddlewareStandIn {
    fn drop(&mut self) {
        // Whoever waits in accept() ends with the process.
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(mut client: UnixStream, behaviour: Behaviour, state: &Mutex<State>) {
    match behaviour {
        Behaviour::Closes => return,
        Behaviour::Hangs => {
            // Until the client has enough of it.
            let _ = client.set_read_timeout(Some(Duration::from_secs(60)));
            let _ = io::copy(&mut client.by_ref().take(1 << 20), &mut io::sink());
            return;
        }
        _ => {}
    }
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "tungstenite's own")]
    let accept = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(&mut path);
        let known = match behaviour {
            Behaviour::Ddp => path == "/websocket",
            Behaviour::Unknown => false,
            _ => path == "/api/current" || path == "/websocket",
        };
        if known {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        Err(refusal)
    };
    let Ok(socket) = tungstenite::accept_hdr(client, accept) else {
        return;
    };
    match path.as_str() {
        "/api/current" => json_rpc(socket, behaviour, state),
        _ => ddp(socket, state),
    }
}

fn json_rpc(mut socket: WebSocket<UnixStream>, behaviour: Behaviour, state: &Mutex<State>) {
    let mut sees_private = false;
    while let Ok(Message::Text(text)) = socket.read() {
        let request: Value = serde_json::from_str(&text).expect("a client of JSON-RPC");
        if behaviour == Behaviour::Garbage {
            let _ = socket.send(Message::text("<html>"));
            continue;
        }
        // As after a subscription of somebody else's making.
        let event = json!({"jsonrpc": "2.0", "method": "collection_update", "params": {}});
        let _ = socket.send(Message::text(event.to_string()));
        let method = request["method"].as_str().unwrap_or_default();
        let answer = if method == "core.set_options" {
            sees_private = request["params"][0]["private_methods"] == true;
            Ok(Value::Null)
        } else if !sees_private
            || behaviour == Behaviour::Refuses
            || (behaviour == Behaviour::NoAlerts && method.starts_with("alert."))
        {
            Err("Method does not exist".to_owned())
        } else if behaviour == Behaviour::HangsLater && method == "kmip.update_memory_keys" {
            // Until the client has enough of it.
            let _ = socket.read();
            return;
        } else {
            call(method, &request["params"], state)
        };
        let mut response = json!({"jsonrpc": "2.0", "id": request["id"]});
        match answer {
            Ok(result) => response["result"] = result,
            Err(reason) => {
                response["error"] = json!({"code": -32601, "message": "Method call error",
                    "data": {"error": 22, "reason": reason}});
            }
        }
        if socket.send(Message::text(response.to_string())).is_err() {
            return;
        }
    }
}

fn ddp(mut socket: WebSocket<UnixStream>, state: &Mutex<State>) {
    while let Ok(Message::Text(text)) = socket.read() {
        let request: Value = serde_json::from_str(&text).expect("a client of DDP");
        let response = if request["msg"] == "connect" {
            json!({"msg": "connected", "session": "s"})
        } else {
            let method = request["method"].as_str().unwrap_or_default();
            match call(method, &request["params"], state) {
                Ok(result) => json!({"msg": "result", "id": request["id"], "result": result}),
                Err(reason) => json!({"msg": "result", "id": request["id"],
                    "error": {"error": 22, "reason": reason}}),
            }
        };
        if socket.send(Message::text(response.to_string())).is_err() {
            return;
        }
    }
}

/// A method as TrueNAS has it: `kmip.update_memory_keys` replaces the map as a whole.
fn call(method: &str, params: &Value, state: &Mutex<State>) -> Result<Value, String> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.calls.push(method.to_owned());
    match method {
        "kmip.kmip_memory_keys" => {
            Ok(json!({"zfs": state.zfs, "sed": {"global_password": "", "sed_disks_keys": {}}}))
        }
        "kmip.update_memory_keys" => {
            let Some(data) = params[0].as_object() else {
                return Err("data must be a dict".to_owned());
            };
            if let Some(zfs) = data.get("zfs") {
                state.zfs =
                    serde_json::from_value(zfs.clone()).map_err(|error| error.to_string())?;
            }
            Ok(Value::Null)
        }
        "alert.oneshot_create" => {
            let (Some(kind), Some(words)) = (params[0].as_str(), params[1]["datasets"].as_str())
            else {
                return Err("datasets is what its text asks for".to_owned());
            };
            if kind != "KMIPZFSDatasetsSyncFailure" {
                return Err(format!("Invalid alert class: {kind}"));
            }
            let text = format!("Failed to sync {words} dataset(s) keys with KMIP Server");
            // The same again is no second one.
            state.alerts.retain(|alert| alert.1 != text);
            state.alerts.push((kind.to_owned(), text));
            // A job's number.
            Ok(json!(17))
        }
        "alert.oneshot_delete" => {
            let kind = params[0].as_str().unwrap_or_default().to_owned();
            state.alerts.retain(|alert| alert.0 != kind);
            Ok(json!(18))
        }
        "failover.licensed" => Ok(json!(state.has_standby)),
        "failover.datastore.force_send" if state.has_standby => Ok(Value::Null),
        _ => Err("Method does not exist".to_owned()),
    }
}
