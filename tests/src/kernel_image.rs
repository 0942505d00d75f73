//! Kernel images of a test's own: as PE images go, and unified ones by systemd's stub as far as their
//! sections do. Nothing starts them.

use sha2::{Digest, Sha256};

/// What a stub says of itself.
const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####";

/// A unified kernel image of a kernel, a command line and an initrd.
pub struct KernelImage {
    /// What the file holds.
    pub content: Vec<u8>,
    /// What the stub extends PCR 11 with, in order.
    pub sections: Vec<[u8; 32]>,
    /// What the kernel extends PCR 9 with for its command line.
    pub command_line: [u8; 32],
    /// And for its initrd.
    pub initrd: [u8; 32],
}

impl KernelImage {
    /// One whose initrd the stub hands on as it is: without a word on the release of the system.
    pub fn new(kernel: &[u8], command_line: &str, initrd: &[u8]) -> Self {
        let measured: [(&str, &[u8]); 3] = [
            (".linux", kernel),
            (".cmdline", command_line.as_bytes()),
            (".initrd", initrd),
        ];
        let mut sections = vec![(".sdmagic", MAGIC)];
        sections.extend(measured);
        let wide: Vec<u8> = command_line
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        Self {
            content: pe_image(&sections),
            sections: measured
                .iter()
                .flat_map(|(name, content)| [format!("{name}\0").into_bytes(), content.to_vec()])
                .map(|bytes| Sha256::digest(bytes).into())
                .collect(),
            command_line: Sha256::digest(wide).into(),
            initrd: Sha256::digest(initrd).into(),
        }
    }
}

/// A PE image of 64 bits with these sections (Microsoft's PE format).
///
/// # Panics
/// If there are too many for the headers.
pub fn pe_image(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const HEADER: usize = 0x40;
    const OPTIONAL: usize = HEADER + 24;
    const TABLE: usize = OPTIONAL + 0xF0;
    const HEADERS: usize = 0x400;
    let mut bytes = vec![0; HEADERS];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x3C, &[0x40]);
    put(HEADER, b"PE\0\0");
    put(
        HEADER + 6,
        &[u8::try_from(sections.len()).expect("a few sections")],
    );
    put(HEADER + 20, &0xF0_u16.to_le_bytes());
    put(OPTIONAL, &0x20B_u16.to_le_bytes());
    put(OPTIONAL + 60, &le(HEADERS));
    put(OPTIONAL + 108, &[16]);
    let mut content = Vec::new();
    for (index, (name, section)) in sections.iter().enumerate() {
        let at = TABLE + 40 * index;
        let begin = HEADERS + content.len();
        content.extend_from_slice(section);
        content.resize(content.len().next_multiple_of(0x200), 0);
        put(at, name.as_bytes());
        put(at + 8, &le(section.len()));
        put(at + 12, &le(0x1000 + begin));
        put(at + 16, &le(HEADERS + content.len() - begin));
        put(at + 20, &le(begin));
    }
    bytes.extend(content);
    bytes
}

fn le(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a small image").to_le_bytes()
}
