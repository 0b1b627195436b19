//! The keys of a ledger: made with it, kept in its file, never anywhere else.

use aws_lc_rs::rand;
use redb::{Database, Durability, ReadableTable as _};
use zeroize::Zeroizing;

use super::tables::{ENTRIES, FILES, FORMAT, HEAD, META, PAYLOADS, STREAMS, corrupt};
use crate::store::Error;
use crate::{Checkpoint, Nonces, SigningKey, origin};

const FORMAT_KEY: &str = "format";
const SIGNING_KEY: &str = "signing seed";
const VRF_KEY: &str = "vrf seed";
const NONCE_KEY: &str = "nonce secret";

/// What a ledger signs, places and hides with.
pub(super) struct Secrets {
    pub(super) signing: SigningKey,
    pub(super) vrf: vrf::SecretKey,
    pub(super) nonces: Nonces,
}

/// Reads the secrets; in a file without anything, makes them and all tables.
pub(super) fn load_or_make(db: &Database) -> Result<Secrets, Error> {
    let mut transaction = db.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let [signing, vrf, nonce] = {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get(FORMAT_KEY)?.map(|value| value.value().to_vec());
        match format {
            Some(found) if found != FORMAT => return Err(corrupt("another format")),
            Some(_) => {}
            None => {
                meta.insert(FORMAT_KEY, FORMAT)?;
                for name in [SIGNING_KEY, VRF_KEY, NONCE_KEY] {
                    let mut secret = Zeroizing::new([0; 32]);
                    rand::fill(secret.as_mut()).map_err(|_| corrupt("no random numbers"))?;
                    meta.insert(name, secret.as_slice())?;
                }
                let Checkpoint { size, log_root, map_root } = Checkpoint::empty();
                transaction.open_table(HEAD)?.insert((), (size, log_root.0, map_root.0))?;
            }
        }
        let secret = |name| -> Result<Zeroizing<[u8; 32]>, Error> {
            let value = meta.get(name)?.ok_or_else(|| corrupt("no secret"))?;
            let bytes = value.value().try_into().map_err(|_| corrupt("a secret of another length"))?;
            Ok(Zeroizing::new(bytes))
        };
        [secret(SIGNING_KEY)?, secret(VRF_KEY)?, secret(NONCE_KEY)?]
    };
    transaction.open_table(ENTRIES)?;
    transaction.open_table(PAYLOADS)?;
    transaction.open_table(FILES)?;
    transaction.open_table(STREAMS)?;
    transaction.commit()?;
    let suite = vrf::Suite::Edwards25519Sha512Tai;
    let vrf = vrf::SecretKey::from_bytes(suite, &vrf).expect("any 32 bytes are a seed of Ed25519");
    let vrf_key = vrf.public_key().as_bytes().try_into().expect("a public key of Ed25519 has 32 bytes");
    let signing = SigningKey::from_seed(&signing, |key| origin(key, &vrf_key));
    let signing = signing.expect("an origin is a name that a key can have");
    Ok(Secrets { signing, vrf, nonces: Nonces::new(&nonce) })
}
