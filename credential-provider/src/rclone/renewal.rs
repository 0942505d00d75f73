//! What rclone has written over a placeholder, sealed in the place of what the placeholder stood for.
//!
//! Two launches may do so for one credential at a time. The vault's lock has them take turns, and of
//! two tokens the one that expires later stays, whichever is sealed last.

use std::path::PathBuf;

use serde_json::Value;
use strongroom::object::ObjectId;
use strongroom::{Secret, Tcti, Unlocked, Vault, vault_dir};

use super::obscure;
use super::places::{Form, Place};
use crate::credential;
use crate::failure::Failure;

/// Seals each value in the place of the old one. Answers for each, in their order.
pub(crate) fn seal(values: &[(&Place, Secret)]) -> Vec<Result<(), Failure>> {
    let mut vault = match unlock() {
        Ok(vault) => vault,
        Err(failure) => return values.iter().map(|_| Err(failure.clone())).collect(),
    };
    values
        .iter()
        .map(|(place, value)| renew(&mut vault, place, value))
        .collect()
}

fn unlock() -> Result<Unlocked, Failure> {
    let mut vault = Vault::open(&vault_dir(None))?;
    if let Some(named) = std::env::var_os("STRONGROOM_VAULT_KEY_SHA256") {
        let fingerprint = named.to_str().and_then(sha256).ok_or_else(|| {
            Failure::usage("STRONGROOM_VAULT_KEY_SHA256 is not 64 hexadecimal digits")
        })?;
        vault = vault.expecting(fingerprint);
    }
    if let Some(file) = std::env::var_os("STRONGROOM_EVENT_LOG") {
        vault = vault.with_event_log(PathBuf::from(file));
    }
    Ok(vault.unlock_to_write(&Tcti::from_environment()?)?)
}

fn renew(vault: &mut Unlocked, place: &Place, value: &Secret) -> Result<(), Failure> {
    let object: ObjectId = place.object;
    let revealed = match place.form {
        Form::Obscured => std::str::from_utf8(value.expose())
            .ok()
            .and_then(obscure::reveal),
        Form::Plain | Form::File => None,
    };
    let value = revealed.as_ref().unwrap_or(value);
    let content = vault.unseal(object)?;
    let old = credential::field(&content, &place.key)?;
    if old.same_as(value.expose()) {
        return Ok(());
    }
    if is_older(value, &old) {
        log::info!("{place}: the vault has a newer token than this; it stays");
        return Ok(());
    }
    let renewed = credential::with_field(&content, &place.key, value)?;
    vault.replace(object, &renewed)?;
    log::info!("{place}: what rclone has written is sealed as object {object}");
    Ok(())
}

/// Whether a token expires before another one. What is no token, or never expires, is not older.
fn is_older(token: &Secret, than: &Secret) -> bool {
    match (expiry(token), expiry(than)) {
        (Some(token), Some(than)) => token < than,
        _ => false,
    }
}

/// When a token of rclone's expires: seconds since 1970, and nanoseconds.
fn expiry(token: &Secret) -> Option<(i64, u32)> {
    let token: Value = serde_json::from_slice(token.expose()).ok()?;
    let time = parse_time(token.get("expiry")?.as_str()?)?;
    // Go's zero time says that there is none.
    (time.0 > 0).then_some(time)
}

/// A time of RFC 3339.
fn parse_time(text: &str) -> Option<(i64, u32)> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let is = |place: usize, letters: &[u8]| {
        let letter = text.as_bytes().get(place);
        letter.is_some_and(|it| letters.contains(it))
    };
    let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    if !marks {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let digits = rest
        .strip_prefix('.')
        .map_or(0, |it| it.bytes().take_while(u8::is_ascii_digit).count());
    let nanos = match digits {
        0 => 0,
        _ => format!("{:0<9}", &rest[1..=digits.min(9)]).parse().ok()?,
    };
    let zone = &rest[if digits == 0 { 0 } else { digits + 1 }..];
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let two = |a: &u8, b: &u8| {
                let both = a.is_ascii_digit() && b.is_ascii_digit();
                both.then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
            };
            let seconds = two(h1, h2)? * 3600 + two(m1, m2)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = hour < 24 && minute < 60 && second <= 60;
    (is_date && is_time).then(|| {
        let seconds = days_since_1970(year, month, day) * 86_400;
        (seconds + hour * 3600 + minute * 60 + second - offset, nanos)
    })
}

/// Howard Hinnant's `days_from_civil`.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + day_of_era - 719_468
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let fits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !fits {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:34:56Z", 951_827_696, 0),
            ("2026-11-28T17:30:00.5+01:00", 1_795_883_400, 500_000_000),
            (
                "2026-11-28T16:29:59.123456789-00:01",
                1_795_883_459,
                123_456_789,
            ),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ] {
            assert_eq!(parse_time(text), Some((seconds, nanos)), "{text}");
        }
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-11-28T17:30:00",
            "2026-11-28T17:30:00+1",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn of_two_tokens_the_one_that_expires_later_is_newer() {
        let token = |expiry: &str| {
            let text = format!(r#"{{"access_token": "a", "expiry": "{expiry}"}}"#);
            Secret::take(text.into_bytes())
        };
        let older = |a, b| is_older(&token(a), &token(b));
        assert!(older("2026-11-28T17:30:00+01:00", "2026-11-28T16:30:01Z"));
        assert!(!older("2026-11-28T16:30:01Z", "2026-11-28T17:30:00+01:00"));
        assert!(!older("2026-11-28T16:30:01Z", "2026-11-28T16:30:01Z"));
        // pCloud's never expire.
        assert!(!older("0001-01-01T00:00:00Z", "2026-11-28T16:30:01Z"));
        assert!(!older("2026-11-28T16:30:01Z", "0001-01-01T00:00:00Z"));
        assert!(!is_older(
            &Secret::copy_of(b"no JSON"),
            &token("2026-11-28T16:30:01Z")
        ));
    }

    #[test]
    fn a_fingerprint_is_64_hexadecimal_digits() {
        assert_eq!(sha256(&"0A".repeat(32)), Some([10; 32]));
        assert_eq!(sha256("0a"), None);
        assert_eq!(sha256(&"é".repeat(32)), None);
    }
}
