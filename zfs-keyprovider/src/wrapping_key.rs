//! The 32 bytes that the kernel takes, from a key in one of ZFS's three forms, as ZFS's own
//! library derives them (OpenZFS, lib/libzfs/libzfs_crypto.c, `derive_key`).

use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use strongroom::Secret;
use strongroom::dataset_key::KeyFormat;

use crate::zfs::Dataset;

/// How long the kernel's wrapping key is, in bytes.
const LEN: usize = 32;

/// More iterations than anyone has chosen, and about a minute's work. A pool from elsewhere could
/// say a number that takes years, and nothing else would be loaded meanwhile.
const MAX_ITERS: u32 = 100_000_000;

/// Derives the wrapping key of a key in the dataset's keyformat.
///
/// # Errors
/// Words, for a key that is not of the form, and a dataset whose parameters cannot be.
pub(crate) fn derive(dataset: &Dataset, key: &Secret) -> Result<Secret, String> {
    let format = dataset
        .key_format
        .ok_or("nothing is known here of its keyformat")?;
    format.check(key).map_err(|error| error.to_string())?;
    if format != KeyFormat::Passphrase {
        return format
            .convert(key, KeyFormat::Raw)
            .map_err(|error| error.to_string());
    }
    let iters = u32::try_from(dataset.pbkdf2_iters)
        .ok()
        .filter(|iters| (1..=MAX_ITERS).contains(iters))
        .ok_or_else(|| {
            format!(
                "its pbkdf2iters of {} cannot be used here, which must be 1 to {MAX_ITERS}; load its \
                 key with `zfs load-key`",
                dataset.pbkdf2_iters
            )
        })?;
    // ZFS takes a passphrase for a C string.
    let line = key.expose();
    let passphrase = line.split(|&byte| byte == 0).next().unwrap_or(line);
    let mut derived = Secret::zeroed(LEN);
    let salt = dataset.pbkdf2_salt.to_le_bytes();
    pbkdf2_hmac::<Sha1>(passphrase, &salt, iters, derived.expose_mut());
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(format: KeyFormat, iters: u64, salt: u64) -> Dataset {
        Dataset {
            key_format: Some(format),
            pbkdf2_iters: iters,
            pbkdf2_salt: salt,
            ..Dataset::default()
        }
    }

    fn derived(dataset: &Dataset, key: &[u8]) -> Result<String, String> {
        derive(dataset, &Secret::copy_of(key)).map(|key| hex::encode(key.expose()))
    }

    #[test]
    fn raw_and_hex_are_the_wrapping_key_itself() {
        let raw: Vec<u8> = (0..32).collect();
        let digits = hex::encode(&raw);
        assert_eq!(
            derived(&dataset(KeyFormat::Raw, 0, 0), &raw),
            Ok(digits.clone())
        );
        let upper = digits.to_uppercase();
        assert_eq!(
            derived(&dataset(KeyFormat::Hex, 0, 0), upper.as_bytes()),
            Ok(digits)
        );
    }

    /// Beside Python's hashlib: `pbkdf2_hmac("sha1", b"correct horse", salt.to_bytes(8, "little"),
    /// 1000, 32)`.
    #[test]
    fn a_passphrase_is_derived_with_the_salt_in_little_endian() {
        let salted = dataset(KeyFormat::Passphrase, 1000, 0x0102_0304_0506_0708);
        assert_eq!(
            derived(&salted, b"correct horse").as_deref(),
            Ok("9cadcb71d02031e1ef2760880484608f9fc366668b3933d8b098aecea448bec2")
        );
        // As C reads it, it ends at a NUL.
        assert_eq!(
            derived(&salted, b"correct horse\0battery"),
            derived(&salted, b"correct horse")
        );
        let other = dataset(KeyFormat::Passphrase, 1000, 0x0807_0605_0403_0201);
        assert_ne!(
            derived(&other, b"correct horse"),
            derived(&salted, b"correct horse")
        );
    }

    #[test]
    fn what_cannot_be_derived_is_refused_and_not_shown() {
        let passphrase = |iters| dataset(KeyFormat::Passphrase, iters, 1);
        for iters in [0, u64::from(MAX_ITERS) + 1, u64::MAX] {
            let error = derived(&passphrase(iters), b"correct horse").expect_err("refused");
            assert!(error.contains(&iters.to_string()), "{error}");
        }
        let error = derived(&dataset(KeyFormat::Raw, 0, 0), b"correct horse").expect_err("short");
        assert!(!error.contains("correct"), "{error}");
        let unknown = Dataset::default();
        assert!(derived(&unknown, b"correct horse").is_err());
    }
}
