//! `zfs-floor KEY-FILE [DATASET...]`: loads the keys of datasets with nothing but what that takes, for
//! a benchmark to stand beside. For each it sends the TPM the five commands that open its sealed key
//! (PolicyPCR, PolicyAuthorizeNV, Load, Unseal, FlushContext), as bytes and in a session without any
//! cryptography, and gives the kernel the key, which is the same for all and comes from a file.
//! Prints how long that took, in nanoseconds. The TPM is /dev/tpm0, or the Unix socket that
//! STRONGROOM_TCTI names as `swtpm:path=SOCKET`; the vault is where STRONGROOM_DIR says.
//!
//! `zfs-floor --derive COUNT ITERATIONS`: derives keys from passphrases on all processors, and prints
//! how long that took.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_uint};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use libloading::Library;
use serde_json::Value;
use sha1::Sha1;
use strongroom_tests::vault_files::{KeyFile, key_file_member, read_json, slot};

const DEVICE: &str = "/dev/tpm0";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let took = match arguments.as_slice() {
        ["--derive", count, iterations] => derive(
            count.parse().expect("a number"),
            iterations.parse().expect("a number"),
        ),
        [key, datasets @ ..] => load(&fs::read(key).expect("a file"), datasets),
        [] => panic!("see the first lines of this program"),
    };
    println!("{took}");
}

fn derive(count: usize, iterations: u32) -> u128 {
    let processors = thread::available_parallelism().map_or(1, Into::into);
    let begun = Instant::now();
    thread::scope(|scope| {
        for first in 0..processors {
            scope.spawn(move || {
                for _ in (first..count).step_by(processors) {
                    let mut key = [0; 32];
                    pbkdf2::pbkdf2_hmac::<Sha1>(
                        b"correct horse",
                        b"a salt..",
                        iterations,
                        &mut key,
                    );
                    std::hint::black_box(key);
                }
            });
        }
    });
    begun.elapsed().as_nanos()
}

fn load(key: &[u8], datasets: &[&str]) -> u128 {
    let vault = std::env::var_os("STRONGROOM_DIR").unwrap_or_else(|| "/var/lib/strongroom".into());
    let vault = Path::new(&vault);
    let sealed = sealed_keys(vault, datasets);
    let manifest = read_json(&vault.join("vault.json"));
    let number = |pointer: &str| {
        let number = manifest.pointer(pointer).and_then(Value::as_u64);
        u32::try_from(number.expect("the manifest has it")).expect("a handle")
    };
    let (root, index) = (number("/root-key/handle"), number("/index"));
    let storage_key = KeyFile::parse(&manifest["tokens"]["datasets"]["storage-key"]);
    let pcrs = manifest["pcrs"].as_str().expect("a list of numbers");
    let pcrs: Vec<u64> = pcrs
        .split(',')
        .map(|pcr| pcr.parse().expect("a number"))
        .collect();
    let zfs = Zfs::open();

    let mut tpm = Tpm::open();
    let parent = tpm.load(root, PASSWORD, &storage_key);
    let session = tpm.start_policy_session();
    let begun = Instant::now();
    for (dataset, blob) in &sealed {
        tpm.policy_pcr(session, &pcrs);
        tpm.policy_authorize_nv(index, session);
        let item = tpm.load(parent, session, blob);
        tpm.unseal(item);
        tpm.flush(item);
        zfs.load_key(dataset, key);
    }
    let took = begun.elapsed().as_nanos();
    tpm.flush(session);
    tpm.flush(parent);
    took
}

/// The blobs of datasets' sealed keys; of all in the vault where none are named.
fn sealed_keys(vault: &Path, datasets: &[&str]) -> BTreeMap<String, KeyFile> {
    let folder = vault.join("objects/datasets");
    let objects = fs::read_dir(folder).expect("a vault");
    objects
        .map(|entry| read_json(&entry.expect("readable").path()))
        .filter_map(|object| {
            let label = object["metadata"]["label"]
                .as_str()
                .expect("a label")
                .to_owned();
            let wanted = datasets.is_empty() || datasets.contains(&label.as_str());
            let text = &slot(&object, "tpm")[key_file_member(slot(&object, "tpm"))];
            wanted.then(|| (label, KeyFile::parse(text)))
        })
        .collect()
}

/// TPM_RS_PW (Part 2, section 7.4), with the empty password.
const PASSWORD: u32 = 0x4000_0009;

/// The TPM as bytes (Part 3).
enum Tpm {
    Device(File),
    /// swtpm's, with a connection for each command, as libtss2 has.
    Socket(PathBuf),
}

impl Tpm {
    fn open() -> Self {
        let tcti = std::env::var("STRONGROOM_TCTI").unwrap_or_default();
        if let Some(socket) = tcti.strip_prefix("swtpm:path=") {
            return Self::Socket(socket.into());
        }
        let device = File::options().read(true).write(true).open(DEVICE);
        Self::Device(device.expect("nobody has it"))
    }

    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut response = vec![0; 4096];
        let mut len = 0;
        match self {
            Self::Device(device) => {
                device.write_all(command)?;
                len = device.read(&mut response)?;
            }
            Self::Socket(socket) => {
                let mut stream = UnixStream::connect(socket)?;
                stream.write_all(command)?;
                // Header and rest may come one after the other.
                while len < 10 || len < size_of_message(&response) {
                    match stream.read(&mut response[len..])? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        read => len += read,
                    }
                }
            }
        }
        response.truncate(len);
        Ok(response)
    }

    fn load(&mut self, parent: u32, authority: u32, blob: &KeyFile) -> u32 {
        let parameters = [blob.private.as_slice(), &blob.public].concat();
        let answer = self.send(0x157, &[parent], Some(authority), &parameters);
        handle(&answer)
    }

    fn unseal(&mut self, item: u32) {
        self.send(0x15E, &[item], Some(PASSWORD), &[]);
    }

    fn flush(&mut self, handle: u32) {
        self.send(0x165, &[], None, &handle.to_be_bytes());
    }

    /// Neither salted nor bound, and of no cipher.
    fn start_policy_session(&mut self) -> u32 {
        const NULL: u32 = 0x4000_0007;
        let mut parameters = 16_u16.to_be_bytes().to_vec();
        parameters.extend([7; 16]);
        // No salt; TPM_SE_POLICY; TPM_ALG_NULL; TPM_ALG_SHA256.
        parameters.extend([0, 0, 0x01, 0x00, 0x10, 0x00, 0x0B]);
        handle(&self.send(0x176, &[NULL, NULL], None, &parameters))
    }

    fn policy_pcr(&mut self, session: u32, pcrs: &[u64]) {
        let mut selected = [0_u8; 3];
        for &pcr in pcrs {
            selected[usize::try_from(pcr / 8).expect("small")] |= 1 << (pcr % 8);
        }
        // No digest to compare with; one bank, SHA-256.
        let mut parameters = vec![0, 0, 0, 0, 0, 1, 0x00, 0x0B, 3];
        parameters.extend(selected);
        self.send(0x17F, &[session], None, &parameters);
    }

    fn policy_authorize_nv(&mut self, index: u32, session: u32) {
        self.send(0x192, &[index, index, session], Some(PASSWORD), &[]);
    }

    /// Sends a command, and answers what comes behind the response's header.
    fn send(
        &mut self,
        code: u32,
        handles: &[u32],
        authority: Option<u32>,
        parameters: &[u8],
    ) -> Vec<u8> {
        let mut body: Vec<u8> = handles.iter().flat_map(|it| it.to_be_bytes()).collect();
        if let Some(authority) = authority {
            // One authorisation: handle, no nonce, continueSession, no HMAC.
            body.extend(9_u32.to_be_bytes());
            body.extend(authority.to_be_bytes());
            body.extend([0, 0, 1, 0, 0]);
        }
        body.extend(parameters);
        let tag: u16 = if authority.is_some() { 0x8002 } else { 0x8001 };
        let size = u32::try_from(10 + body.len()).expect("small");
        let command = [
            tag.to_be_bytes().as_slice(),
            &size.to_be_bytes(),
            &code.to_be_bytes(),
            &body,
        ]
        .concat();
        let response = self.exchange(&command).expect("the TPM answers");
        assert_eq!(response[6..10], [0; 4], "command {code:#x}");
        response[10..].to_vec()
    }
}

/// What a message says of its own length, header and all.
fn size_of_message(message: &[u8]) -> usize {
    let size: [u8; 4] = message[2..6].try_into().expect("four bytes");
    u32::from_be_bytes(size).try_into().expect("small")
}

fn handle(answer: &[u8]) -> u32 {
    u32::from_be_bytes(answer[..4].try_into().expect("a handle"))
}

/// ZFS's library.
struct Zfs(Library);

impl Zfs {
    #[allow(unsafe_code, reason = "a C library has no safe interface")]
    fn open() -> Self {
        // SAFETY: it is ZFS's own, and its initialisers ask nothing of their process.
        let library = unsafe { Library::new("libzfs_core.so.3") }.expect("ZFS is installed");
        // SAFETY: the type is that of libzfs_core.h.
        let outcome = unsafe {
            library
                .get::<unsafe extern "C" fn() -> c_int>(b"libzfs_core_init\0")
                .expect("it is in the library")()
        };
        assert_eq!(outcome, 0, "libzfs_core_init");
        Self(library)
    }

    #[allow(unsafe_code, reason = "a C library has no safe interface")]
    fn load_key(&self, dataset: &str, key: &[u8]) {
        type LoadKey = unsafe extern "C" fn(*const c_char, c_int, *mut u8, c_uint) -> c_int;
        let name = CString::new(dataset).expect("a name");
        let mut key = key.to_vec();
        let len = c_uint::try_from(key.len()).expect("short");
        // SAFETY: the type is that of libzfs_core.h, and it reads the name and `len` bytes.
        let outcome = unsafe {
            self.0
                .get::<LoadKey>(b"lzc_load_key\0")
                .expect("it is in the library")(name.as_ptr(), 0, key.as_mut_ptr(), len)
        };
        assert_eq!(outcome, 0, "lzc_load_key {dataset}");
    }
}
