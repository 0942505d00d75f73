//! A recovery kit as a QR code (ISO/IEC 18004): on a terminal, on paper, as a drawing.

use qrcode::QrCode;
use qrcode::render::svg;
use qrcode::render::unicode::Dense1x2;
use strongroom::Secret;
use strongroom::error::Error;

/// Black on white, whatever colours a terminal has; and back.
const ON_PAPER: &str = "\x1b[0;30;47m";
const AS_BEFORE: &str = "\x1b[0m";

/// The light margin that a reader needs, in modules, on either side (ISO/IEC 18004, section 5.3.8).
const QUIET_ZONE: usize = 4;

/// A QR code that holds a secret, and so is one. (What the encoder allocates is wiped as all that
/// this program frees.)
pub(crate) struct Qr(QrCode);

impl Qr {
    /// # Errors
    /// [`Error::Input`] where it has no room for the text.
    pub(crate) fn of(text: &Secret) -> Result<Self, Error> {
        QrCode::new(text.expose())
            .map(Self)
            .map_err(|reason| Error::input("recovery kit", format!("as a QR code: {reason}")))
    }

    /// Its width in columns of text, margins included.
    pub(crate) fn columns(&self) -> usize {
        self.0.width() + 2 * QUIET_ZONE
    }

    /// In half blocks, two modules to a character. Each line begins with `# `, so that it is a
    /// comment in a kit.
    pub(crate) fn to_comment(&self, for_terminal: bool) -> Secret {
        let drawn = Secret::take(self.0.render::<Dense1x2>().build().into_bytes());
        let (before, after) = if for_terminal {
            (ON_PAPER, AS_BEFORE)
        } else {
            ("", "")
        };
        let mut pieces: Vec<&[u8]> = Vec::new();
        for line in drawn.expose().split(|byte| *byte == b'\n') {
            pieces.extend([b"# ", before.as_bytes(), line, after.as_bytes(), b"\n"]);
        }
        Secret::concat(&pieces)
    }

    pub(crate) fn to_svg(&self) -> Secret {
        Secret::take(self.0.render::<svg::Color<'_>>().build().into_bytes())
    }
}
