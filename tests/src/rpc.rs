//! A client of p11-kit's server that says what it likes: by the protocol of p11-kit 0.24 and 0.25, without
//! p11-kit's own client, which sends only what it knows.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to a server.
pub struct Rpc {
    stream: UnixStream,
    number: u32,
}

/// The calls that are made here, by their numbers, with what goes in.
#[derive(Clone, Copy)]
pub enum Call {
    /// `C_Initialize`
    Initialize,
    /// `C_GetSlotList`
    GetSlotList,
    /// `C_GetMechanismList`
    GetMechanismList,
    /// `C_OpenSession`
    OpenSession,
    /// `C_CreateObject`
    CreateObject,
    /// `C_SignInit`
    SignInit,
    /// `C_DeriveKey`
    DeriveKey,
}

impl Call {
    fn number_and_signature(self) -> (u32, &'static str) {
        match self {
            Self::Initialize => (1, "ayyay"),
            Self::GetSlotList => (4, "yfu"),
            Self::GetMechanismList => (7, "ufu"),
            Self::OpenSession => (10, "uu"),
            Self::CreateObject => (20, "uaA"),
            Self::SignInit => (42, "uMu"),
            Self::DeriveKey => (62, "uMuaA"),
        }
    }
}

/// What goes into a call, one after the other.
#[derive(Default)]
pub struct Said(Vec<u8>);

impl Said {
    /// A byte.
    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    /// Room for so many numbers.
    #[must_use]
    pub fn room(self, count: u32) -> Self {
        self.short(count)
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.byte(1).counted(bytes)
    }

    /// A mechanism, with these bytes for its parameter.
    #[must_use]
    pub fn mechanism(self, kind: u32, parameter: &[u8]) -> Self {
        self.short(kind).counted(parameter)
    }

    /// So many attributes follow.
    #[must_use]
    pub fn attributes(self, count: u32) -> Self {
        self.short(count)
    }

    /// An attribute that is true or false.
    #[must_use]
    pub fn flag(self, kind: u32, value: bool) -> Self {
        self.short(kind).byte(1).short(1).byte(value.into())
    }

    /// One that is a number.
    #[must_use]
    pub fn numbered(self, kind: u32, value: u64) -> Self {
        self.short(kind).byte(1).short(8).number(value)
    }

    /// One that is bytes, or that the server takes for bytes.
    #[must_use]
    pub fn content(self, kind: u32, value: &[u8]) -> Self {
        let len = u32::try_from(value.len()).expect("a short value");
        self.short(kind).byte(1).short(len).counted(value)
    }

    fn short(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn counted(self, bytes: &[u8]) -> Self {
        let mut counted = self.short(u32::try_from(bytes.len()).expect("few bytes"));
        counted.0.extend(bytes);
        counted
    }
}

impl Rpc {
    /// Connects to a socket, and initializes the module behind it.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        // The version of the protocol.
        stream.write_all(&[0])?;
        let mut version = [9];
        stream.read_exact(&mut version)?;
        assert_eq!(version, [0], "the server's version");
        let mut client = Self { stream, number: 1 };
        let hello = Said::default()
            .bytes(b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1")
            .byte(0)
            .bytes(b"\0");
        let answer = client.call(Call::Initialize, &hello)?;
        assert_eq!(answer, Ok(Vec::new()), "C_Initialize");
        Ok(client)
    }

    /// Makes a call: what comes out of it, or the code that it fails with. An error where the server is no
    /// longer there.
    pub fn call(&mut self, call: Call, said: &Said) -> io::Result<Result<Vec<u8>, u64>> {
        let (number, signature) = call.number_and_signature();
        let body = Said::default().short(number).counted(signature.as_bytes());
        let body = [&body.0[..], &said.0].concat();
        self.number += 1;
        let len = u32::try_from(body.len()).expect("a short message");
        let header = Said::default().short(self.number).short(0).short(len);
        self.stream.write_all(&[&header.0[..], &body].concat())?;
        let mut header = [0; 12];
        self.stream.read_exact(&mut header)?;
        let field = |at: usize| {
            let bytes = header[at..at + 4].try_into().expect("four bytes");
            usize::try_from(u32::from_be_bytes(bytes)).expect("a length")
        };
        let mut answer = vec![0; field(4) + field(8)];
        self.stream.read_exact(&mut answer)?;
        let answer = &answer[field(4)..];
        let word = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().expect("four"));
        // Its number, its signature, and what that describes.
        let start = 8 + usize::try_from(word(4)).expect("a length");
        let rest = &answer[start..];
        Ok(match word(0) {
            0 => Err(number_in(rest)),
            _ => Ok(rest.to_vec()),
        })
    }
}

/// The number at the beginning of what a call came to.
pub fn number_in(answer: &[u8]) -> u64 {
    u64::from_be_bytes(answer[..8].try_into().expect("eight bytes"))
}

/// The numbers of a list that a call came to.
pub fn numbers_in(answer: &[u8]) -> Vec<u64> {
    // Whether there is a list, and how long it is.
    answer[5..].chunks_exact(8).map(number_in).collect()
}
