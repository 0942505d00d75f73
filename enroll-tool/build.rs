//! How what is linked with the TPM's library is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Hands our cryptography to libtss2: strongroom/src/tpm/crypto_callbacks.rs.
    println!("cargo::rustc-link-arg=-Wl,--wrap=Esys_Initialize");
}
