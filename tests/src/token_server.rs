//! The part of a cloud that refreshes OAuth tokens (RFC 6749, section 6), on the loopback interface.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::json;

/// A running server. It gives out `access-1`, `access-2` and so on, each with a refresh token of the
/// same number, and ends with the test. Like the stricter clouds, it takes each refresh token once. What it
/// gives out is to be refreshed again at once.
pub struct TokenServer {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

/// For how many seconds a token is good. rclone refreshes one a little before it expires.
const SECONDS: u32 = 2;

impl TokenServer {
    /// Serves.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let requests = Arc::clone(&asked);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A client that has gone asks no more.
                let _ = answer(client, &requests);
            }
        });
        Self { port, asked }
    }

    /// Where tokens are refreshed.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    /// What was asked: the forms that clients have sent.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }
}

fn answer(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().unwrap_or(0);
        }
        if line.is_empty() {
            break;
        }
    }
    let mut form = vec![0; len];
    reader.read_exact(&mut form)?;
    let form = String::from_utf8_lossy(&form).into_owned();
    let (number, is_used) = {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_used = asked
            .iter()
            .any(|it| refresh_token(it) == refresh_token(&form));
        asked.push(form);
        (asked.len(), is_used)
    };
    let (status, token) = if is_used {
        ("400 Bad Request", json!({ "error": "invalid_grant" }))
    } else {
        let token = json!({ "access_token": format!("access-{number}"), "token_type": "Bearer",
            "refresh_token": format!("refresh-{number}"), "expires_in": SECONDS });
        ("200 OK", token)
    };
    let token = token.to_string();
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{token}",
        token.len()
    )
}

/// The refresh token of a form.
fn refresh_token(form: &str) -> Option<&str> {
    form.split('&')
        .find_map(|field| field.strip_prefix("refresh_token="))
}
