//! Random numbers (PKCS#11 3.1, section 5.21): of a generator in the module's memory that the TPM and the
//! kernel seed together, and seed again when it has given much or lived long. It is ChaCha of twelve
//! rounds, as is the standard generator of the crate rand; seven are the most that anybody has attacked.
//!
//! It belongs to the module of one process: a child of a fork has a module of its own, and so a generator
//! of its own. What the TPM gives may be seen on the bus, and what the kernel gives need not be
//! believed: either of them alone is enough for a seed that nobody knows.

use std::time::{Duration, Instant};

use cryptoki_sys::{CK_RV, CK_SESSION_HANDLE, CK_ULONG};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use strongroom::Secret;

use crate::fault::{Answer, Fault, answer};
use crate::foreign::Foreign;
use crate::state::with_module;

/// How many bytes one seed is good for.
const MOST: usize = 1 << 24;

/// And for how long.
const LONGEST: Duration = Duration::from_secs(300);

/// The longest seed that a caller may give at once.
const MAX_SEED: usize = 1 << 16;

/// The generator.
#[derive(Default)]
pub(crate) struct Generator {
    state: Option<State>,
    /// What callers gave, for the next seed.
    given: Option<Secret>,
}

struct State {
    stream: Box<ChaCha12Rng>,
    left: usize,
    seeded: Instant,
}

impl Generator {
    /// Whether it must be seeded before it gives so many bytes. More than a seed is good for are given
    /// of one that is new.
    fn wants_seed(&self, len: usize) -> bool {
        self.state
            .as_ref()
            .is_none_or(|state| state.left < len.min(MOST) || state.seeded.elapsed() > LONGEST)
    }

    /// Seeds it with the kernel's random numbers, the TPM's if it gave any, what callers gave, and what
    /// it would have given next.
    fn seed(&mut self, of_tpm: Option<&Secret>) {
        let mut before = Secret::zeroed(32);
        if let Some(state) = &mut self.state {
            state.stream.fill_bytes(before.expose_mut());
        }
        let kernel = Secret::random(32);
        let given = self.given.take();
        let mut hash = Sha256::new();
        for part in [Some(&before), Some(&kernel), of_tpm, given.as_ref()] {
            let part = part.map_or(&[][..], Secret::expose);
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut seed = Secret::zeroed(32);
        seed.expose_mut().copy_from_slice(&hash.finalize());
        let seed = seed.expose().try_into().expect("32 bytes");
        self.state = Some(State {
            stream: Box::new(ChaCha12Rng::from_seed(seed)),
            left: MOST,
            seeded: Instant::now(),
        });
    }

    /// Takes what a caller gives for the next seed, which is due then.
    fn give(&mut self, seed: &Secret) {
        let before = self.given.take().unwrap_or_else(|| Secret::zeroed(0));
        let digest = Sha256::new()
            .chain_update(before.expose())
            .chain_update(seed.expose())
            .finalize();
        self.given = Some(Secret::copy_of(&digest));
        if let Some(state) = &mut self.state {
            state.left = 0;
        }
    }

    fn fill(&mut self, random: &Foreign<u8>) {
        let state = self.state.as_mut().expect("it was seeded");
        random.fill_by_pieces(|piece| state.stream.fill_bytes(piece));
        state.left = state.left.saturating_sub(random.len());
    }
}

/// C_SeedRandom, section 5.21.1: the seed is one more beside the others.
pub(crate) unsafe extern "C" fn seed_random(
    session: CK_SESSION_HANDLE,
    seed: *mut u8,
    seed_len: CK_ULONG,
) -> CK_RV {
    answer("C_SeedRandom", || {
        // SAFETY: the caller's seed.
        let seed = unsafe { Foreign::many(seed, seed_len) }?;
        let seed = seed
            .secret(MAX_SEED)
            .ok_or(Fault::Code(cryptoki_sys::CKR_ARGUMENTS_BAD))?;
        with_module(|module| {
            module.session(session)?;
            module.generator.give(&seed);
            Ok(())
        })
    })
}

/// C_GenerateRandom, section 5.21.2.
pub(crate) unsafe extern "C" fn generate_random(
    session: CK_SESSION_HANDLE,
    random: *mut u8,
    random_len: CK_ULONG,
) -> CK_RV {
    answer("C_GenerateRandom", || {
        // SAFETY: the caller's memory.
        let random = unsafe { Foreign::many(random, random_len) }?;
        with_module(|module| {
            module.session(session)?;
            if module.generator.wants_seed(random.len()) {
                let of_tpm = tpm_random(module)?;
                module.generator.seed(of_tpm.as_ref());
            }
            module.generator.fill(&random);
            Ok(())
        })
    })
}

/// The TPM's random numbers. A TPM that is busy or gone is no reason to have none: the kernel's are as
/// good.
fn tpm_random(module: &mut crate::state::Module) -> Answer<Option<Secret>> {
    match module.source()?.tpm_random() {
        Ok(random) => Ok(Some(random)),
        Err(error) => {
            log::warn!("random numbers are seeded by the kernel alone for now: {error}");
            Ok(None)
        }
    }
}
