//! A TPM as it is, without a vault: who made it, what its PCRs are, whether it can serve a vault.

use std::collections::BTreeMap;

use tss_esapi::constants::{AlgorithmIdentifier, CapabilityType, CommandCode, PropertyTag};
use tss_esapi::structures::CapabilityData;

use super::{Tcti, Tpm, Turn};
use crate::error::{Error, Result};

/// What a TPM says of itself. Nothing of it is secret, and nothing is believed: it is for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmState {
    /// TPM_PT_MANUFACTURER: four letters, such as `IFX`.
    pub manufacturer: String,
    /// TPM_PT_VENDOR_STRING_1 to 4.
    pub vendor: String,
    /// TPM_PT_FIRMWARE_VERSION_1 and 2, as four numbers.
    pub firmware: String,
    /// All PCRs of the SHA-256 bank, or `None` where that bank is off.
    pub pcrs: Option<BTreeMap<u8, [u8; 32]>>,
    /// Commands and algorithms that a vault rests on and that it does not have.
    pub lacks: Vec<&'static str>,
    /// Whether the owner hierarchy has an authorisation.
    pub owner_auth_set: bool,
    /// Whether the lockout hierarchy has one.
    pub lockout_auth_set: bool,
    /// Whether dictionary-attack protection has shut it.
    pub in_lockout: bool,
    /// How many failures of authorisation are counted.
    pub failed_tries: u32,
    /// How many it takes.
    pub max_tries: u32,
}

/// The commands of a vault, of init to recover, that some TPM might lack.
const COMMANDS: [(CommandCode, &str); 9] = [
    (CommandCode::PolicyAuthorizeNv, "TPM2_PolicyAuthorizeNV"),
    (CommandCode::PolicyAuthorize, "TPM2_PolicyAuthorize"),
    (CommandCode::PolicySigned, "TPM2_PolicySigned"),
    (CommandCode::PolicySecret, "TPM2_PolicySecret"),
    (CommandCode::PolicyOr, "TPM2_PolicyOR"),
    (CommandCode::PolicyPcr, "TPM2_PolicyPCR"),
    (CommandCode::NvDefineSpace, "TPM2_NV_DefineSpace"),
    (CommandCode::LoadExternal, "TPM2_LoadExternal"),
    (CommandCode::VerifySignature, "TPM2_VerifySignature"),
];

/// Its algorithms: of the root key, of sessions, of sealed objects.
const ALGORITHMS: [(AlgorithmIdentifier, &str); 6] = [
    (AlgorithmIdentifier::Sha256, "SHA-256"),
    (AlgorithmIdentifier::Aes, "AES"),
    (AlgorithmIdentifier::Cfb, "CFB mode"),
    (AlgorithmIdentifier::KeyedHash, "sealed data"),
    (AlgorithmIdentifier::Ecc, "elliptic curves"),
    (AlgorithmIdentifier::EcDsa, "ECDSA"),
];

/// TPMA_PERMANENT (Part 2, section 8.6).
mod permanent {
    pub(super) const OWNER_AUTH_SET: u32 = 1 << 0;
    pub(super) const LOCKOUT_AUTH_SET: u32 = 1 << 2;
    pub(super) const IN_LOCKOUT: u32 = 1 << 9;
}

impl TpmState {
    /// Asks a TPM. Loads nothing, changes nothing; some thirty commands.
    ///
    /// # Errors
    /// [`Error::TpmMissing`], and what the TPM answers.
    pub fn read(tcti: &Tcti) -> Result<Self> {
        let turn = Turn::to_look(tcti);
        Tpm::with_room(&turn, || Self::ask(&mut Tpm::connect(&turn)?))
    }

    fn ask(tpm: &mut Tpm) -> Result<Self> {
        let vendor = [
            PropertyTag::VendorString1,
            PropertyTag::VendorString2,
            PropertyTag::VendorString3,
            PropertyTag::VendorString4,
        ];
        let vendor: Result<Vec<_>> = vendor.map(|it| tpm.property(it)).into_iter().collect();
        let firmware = [
            tpm.property(PropertyTag::FirmwareVersion1)?,
            tpm.property(PropertyTag::FirmwareVersion2)?,
        ];
        let permanent = tpm.property(PropertyTag::Permanent)?;
        let pcrs: Vec<u8> = (0..24).collect();
        Ok(Self {
            manufacturer: letters(&[tpm.property(PropertyTag::Manufacturer)?]),
            vendor: letters(&vendor?),
            firmware: firmware
                .map(|part| format!("{}.{}", part >> 16, part & 0xFFFF))
                .join("."),
            pcrs: match tpm.sha256_pcrs(&pcrs) {
                Ok(values) => Some(pcrs.into_iter().zip(values).collect()),
                Err(Error::TpmTooOld(_)) => None,
                Err(error) => return Err(error),
            },
            lacks: tpm.lacks()?,
            owner_auth_set: permanent & permanent::OWNER_AUTH_SET != 0,
            lockout_auth_set: permanent & permanent::LOCKOUT_AUTH_SET != 0,
            in_lockout: permanent & permanent::IN_LOCKOUT != 0,
            failed_tries: tpm.property(PropertyTag::LockoutCounter)?,
            max_tries: tpm.property(PropertyTag::MaxAuthFail)?,
        })
    }
}

impl Tpm {
    /// A property (Part 2, section 6.13); 0 where the TPM does not have it.
    fn property(&mut self, tag: PropertyTag) -> Result<u32> {
        self.without_session("GetCapability(properties)", |tpm| {
            tpm.get_tpm_property(tag).map(Option::unwrap_or_default)
        })
    }

    fn lacks(&mut self) -> Result<Vec<&'static str>> {
        let mut lacks = Vec::new();
        for (command, name) in COMMANDS {
            if !self.has_command(command)? {
                lacks.push(name);
            }
        }
        for (algorithm, name) in ALGORITHMS {
            if !self.implements(algorithm)? {
                lacks.push(name);
            }
        }
        Ok(lacks)
    }

    fn implements(&mut self, algorithm: AlgorithmIdentifier) -> Result<bool> {
        let needed = u32::from(u16::from(algorithm));
        let first = self.without_session("GetCapability(algorithms)", |tpm| {
            match tpm.get_capability(CapabilityType::Algorithms, needed, 1) {
                // The first from there on is one that tss-esapi does not know: not this one.
                Err(tss_esapi::Error::WrapperError(_)) => Ok(None),
                other => other.map(|(first, _)| Some(first)),
            }
        })?;
        Ok(match first {
            Some(CapabilityData::Algorithms(list)) => list.find(algorithm).is_some(),
            _ => false,
        })
    }
}

/// Four characters in each number, as TPMs give their texts.
fn letters(parts: &[u32]) -> String {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_be_bytes()).collect();
    bytes
        .iter()
        .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
        .map(|byte| char::from(*byte))
        .collect::<String>()
        .trim()
        .to_owned()
}
