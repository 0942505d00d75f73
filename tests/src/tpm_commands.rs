//! The TPM's commands: their names, and how they stand in swtpm's log.

use std::time::Duration;

use crate::recorder::{Command, code_of};

/// The commands in a log that swtpm wrote at level 20, in order. It holds no times.
pub(crate) fn of_log(log: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        let is_request = line.starts_with(" SWTPM_IO_Read: ");
        if !is_request && !line.starts_with(" SWTPM_IO_Write: ") {
            continue;
        }
        let mut message = Vec::new();
        while let Some(bytes) = lines.peek().and_then(|line| bytes_of(line)) {
            message.extend(bytes);
            lines.next();
        }
        if is_request {
            let cc = code_of(&message);
            commands.push(Command {
                cc,
                name: name(cc),
                request: message,
                response: Vec::new(),
                rc: 0,
                duration: Duration::ZERO,
            });
        } else if let Some(command) = commands.last_mut() {
            command.rc = code_of(&message);
            command.response = message;
        }
    }
    commands
}

/// A line of the log that is nothing but bytes: ` 80 01 00 `.
fn bytes_of(line: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = line.split_whitespace().collect();
    let is_byte = |digits: &&str| digits.len() == 2;
    if digits.is_empty() || !digits.iter().all(is_byte) {
        return None;
    }
    hex::decode(digits.concat()).ok()
}

/// The name of a command code, without `TPM2_`.
pub(crate) fn name(cc: u32) -> &'static str {
    NAMES
        .binary_search_by_key(&cc, |(known, _)| *known)
        .map_or("unknown", |found| NAMES[found].1)
}

/// TPM 2.0 Library, Part 2: TPM_CC, ascending.
const NAMES: &[(u32, &str)] = &[
    (0x11f, "NV_UndefineSpaceSpecial"),
    (0x120, "EvictControl"),
    (0x121, "HierarchyControl"),
    (0x122, "NV_UndefineSpace"),
    (0x124, "ChangeEPS"),
    (0x125, "ChangePPS"),
    (0x126, "Clear"),
    (0x127, "ClearControl"),
    (0x128, "ClockSet"),
    (0x129, "HierarchyChangeAuth"),
    (0x12a, "NV_DefineSpace"),
    (0x12b, "PCR_Allocate"),
    (0x12c, "PCR_SetAuthPolicy"),
    (0x12d, "PP_Commands"),
    (0x12e, "SetPrimaryPolicy"),
    (0x12f, "FieldUpgradeStart"),
    (0x130, "ClockRateAdjust"),
    (0x131, "CreatePrimary"),
    (0x132, "NV_GlobalWriteLock"),
    (0x133, "GetCommandAuditDigest"),
    (0x134, "NV_Increment"),
    (0x135, "NV_SetBits"),
    (0x136, "NV_Extend"),
    (0x137, "NV_Write"),
    (0x138, "NV_WriteLock"),
    (0x139, "DictionaryAttackLockReset"),
    (0x13a, "DictionaryAttackParameters"),
    (0x13b, "NV_ChangeAuth"),
    (0x13c, "PCR_Event"),
    (0x13d, "PCR_Reset"),
    (0x13e, "SequenceComplete"),
    (0x13f, "SetAlgorithmSet"),
    (0x140, "SetCommandCodeAuditStatus"),
    (0x141, "FieldUpgradeData"),
    (0x142, "IncrementalSelfTest"),
    (0x143, "SelfTest"),
    (0x144, "Startup"),
    (0x145, "Shutdown"),
    (0x146, "StirRandom"),
    (0x147, "ActivateCredential"),
    (0x148, "Certify"),
    (0x149, "PolicyNV"),
    (0x14a, "CertifyCreation"),
    (0x14b, "Duplicate"),
    (0x14c, "GetTime"),
    (0x14d, "GetSessionAuditDigest"),
    (0x14e, "NV_Read"),
    (0x14f, "NV_ReadLock"),
    (0x150, "ObjectChangeAuth"),
    (0x151, "PolicySecret"),
    (0x152, "Rewrap"),
    (0x153, "Create"),
    (0x154, "ECDH_ZGen"),
    (0x155, "HMAC"),
    (0x156, "Import"),
    (0x157, "Load"),
    (0x158, "Quote"),
    (0x159, "RSA_Decrypt"),
    (0x15b, "HMAC_Start"),
    (0x15c, "SequenceUpdate"),
    (0x15d, "Sign"),
    (0x15e, "Unseal"),
    (0x160, "PolicySigned"),
    (0x161, "ContextLoad"),
    (0x162, "ContextSave"),
    (0x163, "ECDH_KeyGen"),
    (0x164, "EncryptDecrypt"),
    (0x165, "FlushContext"),
    (0x167, "LoadExternal"),
    (0x168, "MakeCredential"),
    (0x169, "NV_ReadPublic"),
    (0x16a, "PolicyAuthorize"),
    (0x16b, "PolicyAuthValue"),
    (0x16c, "PolicyCommandCode"),
    (0x16d, "PolicyCounterTimer"),
    (0x16e, "PolicyCpHash"),
    (0x16f, "PolicyLocality"),
    (0x170, "PolicyNameHash"),
    (0x171, "PolicyOR"),
    (0x172, "PolicyTicket"),
    (0x173, "ReadPublic"),
    (0x174, "RSA_Encrypt"),
    (0x176, "StartAuthSession"),
    (0x177, "VerifySignature"),
    (0x178, "ECC_Parameters"),
    (0x179, "FirmwareRead"),
    (0x17a, "GetCapability"),
    (0x17b, "GetRandom"),
    (0x17c, "GetTestResult"),
    (0x17d, "Hash"),
    (0x17e, "PCR_Read"),
    (0x17f, "PolicyPCR"),
    (0x180, "PolicyRestart"),
    (0x181, "ReadClock"),
    (0x182, "PCR_Extend"),
    (0x183, "PCR_SetAuthValue"),
    (0x184, "NV_Certify"),
    (0x185, "EventSequenceComplete"),
    (0x186, "HashSequenceStart"),
    (0x187, "PolicyPhysicalPresence"),
    (0x188, "PolicyDuplicationSelect"),
    (0x189, "PolicyGetDigest"),
    (0x18a, "TestParms"),
    (0x18b, "Commit"),
    (0x18c, "PolicyPassword"),
    (0x18d, "ZGen_2Phase"),
    (0x18e, "EC_Ephemeral"),
    (0x18f, "PolicyNvWritten"),
    (0x190, "PolicyTemplate"),
    (0x191, "CreateLoaded"),
    (0x192, "PolicyAuthorizeNV"),
    (0x193, "EncryptDecrypt2"),
    (0x194, "AC_GetCapability"),
    (0x195, "AC_Send"),
    (0x196, "Policy_AC_SendSelect"),
    (0x197, "CertifyX509"),
    (0x198, "ACT_SetTimeout"),
    (0x199, "ECC_Encrypt"),
    (0x19a, "ECC_Decrypt"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_log() {
        let log = " Ctrl Cmd: length 5\n 00 00 00 05 00 \n SWTPM_IO_Read: length 12\n \
             80 01 00 00 00 0C 00 00 01 7B 00 08 \n SWTPM_IO_Write: length 10\n \
             80 01 00 00 00 0A 00 00 01 01 \nData client disconnected\n";
        let commands = of_log(log);
        assert_eq!(commands.len(), 1);
        assert_eq!(commands[0].name, "GetRandom");
        assert_eq!(commands[0].request.len(), 12);
        assert_eq!(commands[0].rc, 0x101);
    }

    #[test]
    fn finds_names() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(name(0x15e), "Unseal");
        assert_eq!(name(0x2000_0000), "unknown");
    }
}
