//! OpenSSH keys and signatures of unknown origin: a key has one encoding, and nobody's signature is valid by chance.

#![no_main]

use channel::NAMESPACE;
use channel::ssh::{PrivateKey, PublicKey, verify_sshsig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = PublicKey::from_blob(data) {
        assert_eq!(key.to_blob(), data);
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    let _ = verify_sshsig(data, NAMESPACE, b"message");
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(key) = text.parse::<PublicKey>() {
            assert_eq!(PublicKey::from_blob(&key.to_blob()), Ok(key));
        }
        let _ = PrivateKey::parse(text, &mut || None);
    }
});
