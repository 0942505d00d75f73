//! How the module is linked. What was loaded once stays: hosts unload modules while a thread of
//! theirs may still run.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Hands our cryptography to libtss2: strongroom/src/tpm/crypto_callbacks.rs.
    println!("cargo::rustc-link-arg=-Wl,--wrap=Esys_Initialize");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
