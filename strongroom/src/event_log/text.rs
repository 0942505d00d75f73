//! The texts in a log. Whoever wrote the log chose them, and people see them on a terminal: control
//! characters are not passed on.

/// Text of a boot loader's, which some write in UTF-16 and some in ASCII, with or without NUL.
pub(super) fn either(bytes: &[u8]) -> String {
    let is_wide = bytes.len() >= 2 && bytes.len() % 2 == 0 && bytes[1] == 0 && bytes[0] != 0;
    if is_wide { utf16(bytes) } else { narrow(bytes) }
}

/// UTF-16, little-endian, up to a NUL.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|unit| harmless(unit.unwrap_or(char::REPLACEMENT_CHARACTER)))
        .collect()
}

/// ASCII, or UTF-8, up to a NUL.
pub(super) fn narrow(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let text = &bytes[..end.unwrap_or(bytes.len())];
    String::from_utf8_lossy(text)
        .chars()
        .map(harmless)
        .collect()
}

fn harmless(character: char) -> char {
    // What turns the direction of a line would show another text than there is.
    let turns = matches!(character, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    if character.is_control() || turns {
        char::REPLACEMENT_CHARACTER
    } else {
        character
    }
}
