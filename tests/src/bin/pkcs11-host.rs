//! `pkcs11-host MODULE`: a host of a PKCS#11 module that obeys the lines it reads, and answers each
//! with `done COUNT NANOSECONDS` or `failed REASON`. A test is at the other end, see
//! `strongroom_tests::host`.

use std::env;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::signature::Verifier;
use rsa::{BigUint, RsaPublicKey};
use sha2::{Digest, Sha256};

/// The label of the token that is used.
const TOKEN: &str = "keys";

type Answer<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let Some(module) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: pkcs11-host MODULE");
        return ExitCode::from(2);
    };
    let mut host = Host::default();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match host.obey(&module, &line) {
            Ok((count, took)) => println!("done {count} {}", took.as_nanos()),
            Err(error) => println!("failed {}", in_short(&*error)),
        }
        if line == "finish" {
            break;
        }
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Host {
    // Closed before the module is finalized.
    session: Option<Session>,
    module: Option<(Pkcs11, Option<Slot>)>,
}

impl Host {
    /// What was done, how often, and how long it took.
    fn obey(&mut self, module: &Path, line: &str) -> Answer<(usize, Duration)> {
        let words: Vec<_> = line.split(' ').collect();
        let start = Instant::now();
        let count = match words[..] {
            ["initialize"] => {
                let module = Pkcs11::new(module)?;
                module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
                self.module = Some((module, None));
                1
            }
            ["open"] => {
                let (module, slot) = self.module.as_mut().ok_or("there is no module")?;
                let found = slot_of(module)?;
                *slot = Some(found);
                self.session = Some(module.open_ro_session(found)?);
                1
            }
            ["login", pin] => {
                self.session()?
                    .login(UserType::User, Some(&AuthPin::new(pin.into())))?;
                1
            }
            ["list"] => {
                let session = self.session()?;
                let objects = session.find_objects(&[])?;
                for object in &objects {
                    session
                        .get_attributes(*object, &[AttributeType::Class, AttributeType::Label])?;
                }
                objects.len()
            }
            ["find", label] => {
                let wanted = [Attribute::Label(label.into())];
                self.session()?.find_objects(&wanted)?.len()
            }
            ["fill", count] => {
                let (module, slot) = self.module.as_ref().ok_or("there is no module")?;
                let session = module.open_rw_session(slot.ok_or("there is no slot")?)?;
                let count = count.parse()?;
                for number in 0..count {
                    session.create_object(&[
                        Attribute::Class(ObjectClass::DATA),
                        Attribute::Token(true),
                        Attribute::Private(false),
                        Attribute::Label(format!("object-{number}").into_bytes()),
                        Attribute::Value(b"for your eyes only".to_vec()),
                    ])?;
                }
                count
            }
            ["random", len, millis] => {
                let (len, time) = (len.parse()?, Duration::from_millis(millis.parse()?));
                let session = self.session()?;
                let (mut count, mut bytes) = (0, vec![0; len]);
                while start.elapsed() < time {
                    session.generate_random_slice(&mut bytes)?;
                    count += 1;
                }
                count
            }
            ["sign", label, count] => {
                return self.sign(label, 1, Until::Count(count.parse()?));
            }
            ["sign-for", label, threads, millis] => {
                let time = Duration::from_millis(millis.parse()?);
                return self.sign(label, threads.parse()?, Until::Elapsed(time));
            }
            ["finish"] => {
                self.session = None;
                if let Some((module, _)) = self.module.take() {
                    module.finalize()?;
                }
                1
            }
            _ => return Err(format!("what is {line:?}?").into()),
        };
        Ok((count, start.elapsed()))
    }

    fn session(&self) -> Answer<&Session> {
        Ok(self.session.as_ref().ok_or("there is no session")?)
    }

    /// Signs in so many threads, and then verifies everything.
    fn sign(&self, label: &str, threads: usize, until: Until) -> Answer<(usize, Duration)> {
        let (module, slot) = self.module.as_ref().ok_or("there is no module")?;
        let slot = slot.ok_or("there is no slot")?;
        let public = PublicKey::read(self.session()?, label)?;
        let together = Barrier::new(threads);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|thread| {
                    let (public, together) = (&public, &together);
                    scope.spawn(move || {
                        let ready = Signer::open(module, slot, label, public.mechanism());
                        together.wait();
                        let signed = ready?.sign(thread, until)?;
                        Answer::Ok(signed)
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().expect("a thread does not panic"))
                .collect()
        });
        let mut count = 0;
        let mut longest = Duration::ZERO;
        for (thread, outcome) in outcomes.into_iter().enumerate() {
            let signed = outcome.map_err(|error| format!("thread {thread}: {error}"))?;
            for (number, signature) in signed.signatures.iter().enumerate() {
                if !public.verifies(&message(thread, number), signature) {
                    return Err(format!("thread {thread}: signature {number} is wrong").into());
                }
            }
            count += signed.in_time;
            longest = longest.max(signed.took);
        }
        Ok((count, longest))
    }
}

/// The slot with the token.
fn slot_of(module: &Pkcs11) -> Answer<Slot> {
    for slot in module.get_slots_with_initialized_token()? {
        if module.get_token_info(slot)?.label() == TOKEN {
            return Ok(slot);
        }
    }
    Err(format!("there is no token {TOKEN}").into())
}

/// When to stop.
#[derive(Clone, Copy)]
enum Until {
    Count(usize),
    Elapsed(Duration),
}

/// A session of a thread's own, and a private key.
struct Signer {
    session: Session,
    key: ObjectHandle,
    mechanism: Mechanism<'static>,
}

impl Signer {
    fn open(
        module: &Pkcs11,
        slot: Slot,
        label: &str,
        mechanism: Mechanism<'static>,
    ) -> Answer<Self> {
        let session = module.open_ro_session(slot)?;
        let key = find(&session, ObjectClass::PRIVATE_KEY, label)?;
        Ok(Self {
            session,
            key,
            mechanism,
        })
    }

    fn sign(&self, thread: usize, until: Until) -> Answer<Signed> {
        let mut signatures = Vec::new();
        let mut in_time = 0;
        let start = Instant::now();
        let is_over = |count| match until {
            Until::Count(limit) => count >= limit,
            Until::Elapsed(time) => start.elapsed() >= time,
        };
        while !is_over(signatures.len()) {
            let number = signatures.len();
            let signature = self
                .session
                .sign(&self.mechanism, self.key, &message(thread, number))
                .map_err(|error| {
                    let (elapsed, error) = (start.elapsed(), in_short(&error));
                    format!("after {number} signatures and {elapsed:.1?}: {error}")
                })?;
            signatures.push(signature);
            in_time += match until {
                Until::Elapsed(time) => usize::from(start.elapsed() <= time),
                Until::Count(_) => 1,
            };
        }
        let took = match until {
            Until::Elapsed(time) => time,
            Until::Count(_) => start.elapsed(),
        };
        Ok(Signed {
            signatures,
            in_time,
            took,
        })
    }
}

/// What a thread has made.
struct Signed {
    signatures: Vec<Vec<u8>>,
    /// How many of these count: what comes after the time that was given does not. Who waits for a
    /// turn has others' time between.
    in_time: usize,
    took: Duration,
}

/// PKCS#11's errors by their names: the crate's texts are long, and do not name them.
fn in_short(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref() {
        Some(Error::Pkcs11(code, function)) => format!("C_{function:?}: {code:?}"),
        _ => error.to_string(),
    }
}

/// What a thread signs, which is nobody else's: threads must not get each other's signatures. It is
/// a digest, for ECDSA signs no other.
fn message(thread: usize, number: usize) -> [u8; 32] {
    Sha256::digest(format!("{thread} {number}")).into()
}

fn find(session: &Session, class: ObjectClass, label: &str) -> Answer<ObjectHandle> {
    let wanted = [Attribute::Class(class), Attribute::Label(label.into())];
    let found = session.find_objects(&wanted)?.pop();
    Ok(found.ok_or_else(|| format!("there is no {class} {label}"))?)
}

/// What verifies, by itself.
enum PublicKey {
    Rsa(rsa::pkcs1v15::VerifyingKey<Sha256>),
    P256(p256::ecdsa::VerifyingKey),
}

impl PublicKey {
    fn read(session: &Session, label: &str) -> Answer<Self> {
        let object = find(session, ObjectClass::PUBLIC_KEY, label)?;
        let values = session.get_attributes(object, &[AttributeType::KeyType])?;
        if values.contains(&Attribute::KeyType(KeyType::RSA)) {
            let wanted = [AttributeType::Modulus, AttributeType::PublicExponent];
            let values = session.get_attributes(object, &wanted)?;
            let [
                Attribute::Modulus(modulus),
                Attribute::PublicExponent(exponent),
            ] = &values[..]
            else {
                return Err("the public key has no modulus or no exponent".into());
            };
            let [modulus, exponent] =
                [modulus, exponent].map(|value| BigUint::from_bytes_be(value));
            let key = RsaPublicKey::new(modulus, exponent)?;
            return Ok(Self::Rsa(rsa::pkcs1v15::VerifyingKey::new(key)));
        }
        let values = session.get_attributes(object, &[AttributeType::EcPoint])?;
        let [Attribute::EcPoint(point)] = &values[..] else {
            return Err("the public key has no point".into());
        };
        // A DER OCTET STRING: two bytes before a point on P-256.
        let point = point.get(2..).ok_or("the point is too short")?;
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point)?;
        Ok(Self::P256(key))
    }

    fn mechanism(&self) -> Mechanism<'static> {
        match self {
            Self::Rsa(_) => Mechanism::Sha256RsaPkcs,
            Self::P256(_) => Mechanism::Ecdsa,
        }
    }

    fn verifies(&self, message: &[u8; 32], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => rsa::pkcs1v15::Signature::try_from(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(message, &signature).is_ok()),
        }
    }
}
