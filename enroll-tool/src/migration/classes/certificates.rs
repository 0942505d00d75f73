//! Private keys of certificates: into the TPM, where it has their kind, with the certificate beside them.
//! In the database there is nothing left, as for a certificate that was brought in without its key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pem_rfc7468::LineEnding;
use strongroom::Secret;
use strongroom::key::{Curve, KeyAlgorithm, PUBLIC_KEY, PublicKey};
use strongroom::object::{Kind, Metadata, NewObject, ORIGIN, PIN, TokenName};

use super::{Form, Reading, Row, Successor, origin};
use crate::migration::plan::{Item, Left};
use crate::truenas::database::Cell;

/// Attribute of a private key that was PEM in a database: whether a line feed ended it. The rest of
/// the spelling is the one that RFC 7468 has for PKCS#8.
pub(crate) const NEWLINE: &str = "pem-newline";

const PRIVATE_KEY: &str = "PRIVATE KEY";

pub(super) fn read(row: Row, reading: &Reading<'_>) -> Result<Item, Left> {
    if row.value.column.is_none() {
        return Err(match row.object(reading.known) {
            Some(_) => row.left("is in the vault already"),
            None => row.left("the certificate is without a key"),
        });
    }
    let (text, padding) = row.text(reading.secret)?;
    let (pkcs8, newline) = parse(&text).ok_or_else(|| {
        row.left(
            "it is no private key in PKCS#8 as OpenSSL spells it in PEM (\"BEGIN PRIVATE KEY\"), so \
             it could not be given back to the letter",
        )
    })?;
    if reading.kept_certificate.as_ref() == Some(&row.value.row)
        && row.column.table == "system_certificate"
    {
        return Err(row.left(
            "the web interface serves with it; --ui-certificate moves it too, once nginx has been \
             told to take it from the TPM",
        ));
    }
    let public = PublicKey::of_pkcs8(&pkcs8).map_err(|error| row.left(error.to_string()))?;
    if !matches!(
        public.algorithm(),
        KeyAlgorithm::Rsa(_) | KeyAlgorithm::Ec(Curve::P256 | Curve::P384)
    ) {
        return Err(row.left(format!(
            "no TPM takes a key of its algorithm, {}",
            public.algorithm()
        )));
    }
    let label = row.label(&row.value.name)?;
    let cell = Cell::new(row.column, &row.value.row);
    let mut object = NewObject::new(TokenName::keys(), label, Kind::PrivateKey)
        .with_attribute(ORIGIN, origin(&cell))
        .with_attribute(NEWLINE, newline.to_string());
    if reading.keys_have_pin {
        // A service starts with nobody there to type.
        object = object.with_attribute(PIN, "false");
    }
    let certificate = row.value.beside.first().cloned().flatten();
    let certificate = certificate.and_then(|pem| first_certificate(&pem));
    let mut item = row.into_item(padding, object, pkcs8, Successor::Nothing);
    item.form = Form::PrivateKey { certificate };
    Ok(item)
}

/// The text that a private key was, from its PKCS#8.
pub(crate) fn pem(pkcs8: &Secret, object: &Metadata) -> Option<Secret> {
    let newline = object.attributes.get(NEWLINE)? == "true";
    Some(spell(pkcs8, newline))
}

/// Whether an object is the private key of a PKCS#8.
pub(crate) fn is_of(object: &Metadata, pkcs8: &Secret) -> bool {
    PublicKey::of_pkcs8(pkcs8).is_ok_and(|public| {
        object.attributes.get(PUBLIC_KEY) == Some(&BASE64.encode(public.spki()))
    })
}

/// PKCS#8 in DER, and whether a line feed ends the text; `None` unless it is spelled the one way that
/// can be given back.
fn parse(text: &Secret) -> Option<(Secret, bool)> {
    let (label, der) = pem_rfc7468::decode_vec(text.expose()).ok()?;
    let der = Secret::take(der);
    if label != PRIVATE_KEY {
        return None;
    }
    let newline = text.expose().ends_with(b"\n");
    spell(&der, newline)
        .same_as(text.expose())
        .then_some((der, newline))
}

fn spell(pkcs8: &Secret, newline: bool) -> Secret {
    let pem = pem_rfc7468::encode_string(PRIVATE_KEY, LineEnding::LF, pkcs8.expose())
        .expect("a label of letters, and memory for the text");
    let mut pem = pem.into_bytes();
    if !newline && pem.last() == Some(&b'\n') {
        pem.pop();
    }
    Secret::take(pem)
}

/// The first certificate of a chain, in DER.
fn first_certificate(chain: &str) -> Option<Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let start = chain.find("-----BEGIN CERTIFICATE-----")?;
    let end = start + chain[start..].find(END)? + END.len();
    pem_rfc7468::decode_vec(&chain.as_bytes()[start..end])
        .ok()
        .map(|(_, der)| der)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn a_key_is_given_back_to_the_letter_or_not_taken() {
        for text in [PEM, PEM.trim_end()] {
            let text = Secret::copy_of(text.as_bytes());
            let (der, newline) = parse(&text).expect("PKCS#8");
            assert!(spell(&der, newline).same_as(text.expose()));
        }
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----",
            &PEM.replace("PRIVATE KEY", "RSA PRIVATE KEY"),
            &PEM.replace('\n', "\r\n"),
            &format!("# a comment\n{PEM}"),
            &format!("{PEM}{PEM}"),
            &format!("{PEM}\n"),
        ] {
            assert!(parse(&Secret::copy_of(text.as_bytes())).is_none(), "{text}");
        }
    }

    #[test]
    fn the_first_of_a_chain_is_taken() {
        let one = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        let other = "-----BEGIN CERTIFICATE-----\nAwQF\n-----END CERTIFICATE-----\n";
        for chain in [format!("{one}{other}"), format!("subject=x\n{one}{other}")] {
            assert_eq!(first_certificate(&chain), Some(vec![0, 1, 2]));
        }
        assert_eq!(first_certificate("no certificate"), None);
    }
}
