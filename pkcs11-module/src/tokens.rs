//! Tokens (PKCS#11 3.1, section 5.5): what they are, and how one is begun, C_InitToken. The slots
//! that they are in are in [`crate::slots`].

use cryptoki_sys::{
    CK_EFFECTIVELY_INFINITE, CK_FLAGS, CK_RV, CK_SLOT_ID, CK_TOKEN_INFO, CK_ULONG,
    CK_UNAVAILABLE_INFORMATION, CK_UTF8CHAR, CKF_LOGIN_REQUIRED, CKF_RNG, CKF_SO_PIN_COUNT_LOW,
    CKF_SO_PIN_FINAL_TRY, CKF_SO_PIN_LOCKED, CKF_TOKEN_INITIALIZED, CKF_USER_PIN_COUNT_LOW,
    CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_INITIALIZED, CKF_USER_PIN_LOCKED, CKF_WRITE_PROTECTED,
    CKR_ARGUMENTS_BAD, CKR_SESSION_EXISTS, CKR_TOKEN_WRITE_PROTECTED,
};
use sha2::{Digest, Sha256};
use strongroom::object::{TokenLabel, TokenName};
use strongroom::pin::{Pin, PinState};
use strongroom::vault::{self, NewToken};
use strongroom::{Error, ErrorKind};

use crate::fault::{Answer, Fault, answer};
use crate::foreign::{Foreign, ulong};
use crate::general::{MANUFACTURER, library_version, padded};
use crate::pins::{given_pin, new_pin, read_pin};
use crate::state::{Module, with_module};

/// A token of the vault.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) name: TokenName,
    /// What people call it.
    pub(crate) label: String,
    /// Whether its objects can be read and used, and not made, changed or destroyed: by anybody, or
    /// by this process.
    pub(crate) write_protected: bool,
    /// Whether it holds keys to be used, and not only what is to be read.
    pub(crate) has_mechanisms: bool,
    /// Whether one logs in.
    pub(crate) has_pins: bool,
    serial: [u8; 16],
}

impl Token {
    /// A token in the vault of this id, and whether this process may write what it holds.
    pub(crate) fn new(vault: &str, token: vault::Token, may_write: bool) -> Self {
        let vault::Token {
            name,
            label,
            write_protected,
            has_pins,
            // What is behind a closed one says so when it is opened.
            fence: _,
        } = token;
        // The serial number is the same for as long as the vault lives, and another vault's
        // token of the same name has another.
        let digest = Sha256::digest(format!("{vault}/{name}"));
        let mut serial = [0; 16];
        hex::encode_to_slice(&digest[..8], &mut serial).expect("16 digits for 8 bytes");
        Self {
            label: label.map_or_else(|| name.to_string(), |label| label.to_string()),
            name,
            write_protected: write_protected || !may_write,
            has_mechanisms: !write_protected,
            has_pins,
            serial,
        }
    }
}

/// C_GetTokenInfo, section 5.5.3. Of a token with PINs the TPM is asked how the user's stands, in two
/// commands; the security officer's is told of after a wrong try alone.
pub(crate) unsafe extern "C" fn get_token_info(
    slot: CK_SLOT_ID,
    info: *mut CK_TOKEN_INFO,
) -> CK_RV {
    answer("C_GetTokenInfo", || {
        // SAFETY: the caller's CK_TOKEN_INFO.
        let info = unsafe { Foreign::one(info) }?;
        with_module(|module| {
            let blank = CK_TOKEN_INFO {
                label: padded(""),
                manufacturerID: padded(MANUFACTURER),
                model: padded("TPM 2.0 vault"),
                serialNumber: padded(""),
                flags: CKF_RNG,
                ulMaxSessionCount: CK_EFFECTIVELY_INFINITE,
                ulSessionCount: 0,
                ulMaxRwSessionCount: CK_EFFECTIVELY_INFINITE,
                ulRwSessionCount: 0,
                ulMaxPinLen: ulong(Pin::MAX),
                ulMinPinLen: ulong(Pin::MIN),
                ulTotalPublicMemory: CK_UNAVAILABLE_INFORMATION,
                ulFreePublicMemory: CK_UNAVAILABLE_INFORMATION,
                ulTotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
                ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
                hardwareVersion: library_version(),
                firmwareVersion: library_version(),
                utcTime: padded(""),
            };
            let Some(token) = module.slot(slot)?.cloned() else {
                info.set(0, blank);
                return Ok(());
            };
            let sessions = || module.sessions.values().filter(|it| it.slot() == slot);
            let mut told = CK_TOKEN_INFO {
                label: padded(&token.label),
                serialNumber: token.serial,
                flags: CKF_TOKEN_INITIALIZED | CKF_RNG,
                ulSessionCount: ulong(sessions().count()),
                ulRwSessionCount: ulong(sessions().filter(|it| it.may_write()).count()),
                ..blank
            };
            if token.write_protected {
                told.flags |= CKF_WRITE_PROTECTED;
                // Zero would mean infinitely many.
                told.ulMaxRwSessionCount = CK_UNAVAILABLE_INFORMATION;
            }
            if token.has_pins {
                told.flags |= CKF_LOGIN_REQUIRED | flags_of_pins(module, &token)?;
            } else {
                (told.ulMinPinLen, told.ulMaxPinLen) = (0, 0);
            }
            info.set(0, told);
            Ok(())
        })
    })
}

/// C_InitToken, section 5.5.7: makes a token in the slot that has none yet; begins one anew that has
/// PINs, by its security officer's; and gives PINs to one that has none and holds nothing. One with
/// dataset keys, and one that is write-protected, stay as they are.
pub(crate) unsafe extern "C" fn init_token(
    slot: CK_SLOT_ID,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
    label: *mut CK_UTF8CHAR,
) -> CK_RV {
    answer("C_InitToken", || {
        // SAFETY: the caller's PIN, and the caller's label, whose length section 5.5.7 fixes.
        let (pin, label) = unsafe { (read_pin(pin, pin_len)?, Foreign::many(label, 32)?) };
        let label = read_label(&label)?;
        with_module(|module| {
            let token = module.slot(slot)?.cloned();
            if module.sessions.values().any(|it| it.slot() == slot) {
                return Err(Fault::Code(CKR_SESSION_EXISTS));
            }
            if let Some(token) = token {
                begin_anew(module, &token, &label, pin)?;
            } else {
                let name = free_name(module, &label);
                let other_label = (name.as_str() != label.as_str()).then_some(label);
                let token = NewToken {
                    name: name.clone(),
                    label: other_label,
                    officer: Some(new_pin(pin)?),
                    fence: None,
                };
                module.source()?.add_token(&token)?;
                module.put_token_in(slot, &name)?;
            }
            module.refresh_tokens()
        })
    })
}

fn begin_anew(
    module: &mut Module,
    token: &Token,
    label: &TokenLabel,
    pin: strongroom::Secret,
) -> Answer {
    if token.write_protected {
        return Err(Fault::Code(CKR_TOKEN_WRITE_PROTECTED));
    }
    let pin = if token.has_pins {
        given_pin(pin)?
    } else {
        new_pin(pin)?
    };
    let other_label = (token.name.as_str() != label.as_str()).then_some(label);
    module
        .source()?
        .begin_token_anew(&token.name, other_label, &pin)
        .map_err(|error| match error {
            Error::PinIncorrect { .. } => error.into(),
            // It holds what must not be lost so; the log says what.
            error if error.kind() == ErrorKind::Input => {
                log::error!("C_InitToken: {error}");
                Fault::Code(CKR_TOKEN_WRITE_PROTECTED)
            }
            error => error.into(),
        })
}

fn flags_of_pins(module: &mut Module, token: &Token) -> Answer<CK_FLAGS> {
    let source = module.source()?;
    let officer_state = source.officer_pin(&token.name);
    let user_state = match source.user_pin(&token.name) {
        Ok(Some(state)) => state,
        Ok(None) => return Ok(0),
        // The token is there all the same; a login will say what is wrong.
        Err(error) => {
            log::error!("C_GetTokenInfo: token {}: {error}", token.name);
            return Ok(CKF_USER_PIN_INITIALIZED);
        }
    };
    let counted = |state: PinState, [low, last, locked]: [CK_FLAGS; 3]| {
        let mut flags = 0;
        if state.is_locked() {
            flags |= locked;
        } else if state.is_final_try() {
            flags |= last | low;
        } else if state.is_set() && state.failures > 0 {
            flags |= low;
        }
        flags
    };
    let set = if user_state.is_set() {
        CKF_USER_PIN_INITIALIZED
    } else {
        0
    };
    let user = [
        CKF_USER_PIN_COUNT_LOW,
        CKF_USER_PIN_FINAL_TRY,
        CKF_USER_PIN_LOCKED,
    ];
    let officer = [
        CKF_SO_PIN_COUNT_LOW,
        CKF_SO_PIN_FINAL_TRY,
        CKF_SO_PIN_LOCKED,
    ];
    let officer = officer_state.map_or(0, |state| counted(state, officer));
    Ok(set | counted(user_state, user) | officer)
}

fn read_label(label: &Foreign<CK_UTF8CHAR>) -> Answer<TokenLabel> {
    let bad = || Fault::Code(CKR_ARGUMENTS_BAD);
    let bytes = label.bytes(32).ok_or_else(bad)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad())?;
    // Padded with blanks; some clients end it with a zero instead.
    let text = text.split('\0').next().unwrap_or(text);
    text.trim().parse().map_err(|_| bad())
}

/// A name that no token has, as near to the label as names may be.
fn free_name(module: &Module, label: &TokenLabel) -> TokenName {
    let plain: String = label
        .as_str()
        .to_lowercase()
        .chars()
        .map(|it| {
            if it.is_ascii_lowercase() || it.is_ascii_digit() {
                it
            } else {
                '-'
            }
        })
        .take(28)
        .collect();
    let taken = |name: &str| {
        module
            .tokens()
            .any(|(_, token)| token.name.as_str() == name)
    };
    let exact = label.as_str();
    (0..)
        .map(|number| match number {
            0 => exact.to_owned(),
            1 => plain.clone(),
            _ => format!("{plain}-{number}"),
        })
        .find_map(|name| {
            let free = !taken(&name);
            name.parse::<TokenName>().ok().filter(|_| free)
        })
        .expect("there are more numbers than tokens")
}
