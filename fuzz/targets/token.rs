//! Whatever an agent presents is refused or believed, in bounded time and memory, and without the issuer's signature it is
//! refused. The first byte says what the rest is: a whole token, or the header and payload of one that the issuer signs.

#![no_main]

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use portcullis::{
    base::{
        clock::Timestamp,
        fetch::{Ask, Document, Fetch, FetchError},
        files::Files,
        outside::Outside,
    },
    token::{Issuers, RawToken, Trust, issuer::Rules},
};
use serde_json::json;
use tokio::runtime::Runtime;

const NOW: u64 = 1_795_000_100;

/// Nothing here may want the network.
struct Nobody;

#[async_trait]
impl Fetch for Nobody {
    async fn fetch(&self, _: Ask<'_>) -> Result<Document, FetchError> {
        unreachable!("a token caused a fetch")
    }
}

struct Bench {
    runtime: Runtime,
    issuers: Issuers,
    key: EcdsaKeyPair,
}

impl Bench {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let encode = |bytes| URL_SAFE_NO_PAD.encode::<&[u8]>(bytes);
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": encode(x), "y": encode(y) });
        let config = json!({ "oidc_generic": {
            "issuer": "https://a.example", "audiences": ["api"], "jwks": { "keys": [jwk] }, "dpop": "accepted",
            "lifetime_max_s": 3600, "delegation_age_max_s": 600,
        } });
        let files = Files::memory([]);
        let rules = Rules::compile(&serde_json::from_value(config).unwrap(), &files).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let inside = runtime.enter();
        let clock = Arc::new(portcullis::base::clock::SystemClock);
        let outside = Outside::without_databases(clock, Arc::new(Nobody), files);
        let issuers = Issuers::start(Trust::plain(vec![rules]).unwrap(), &outside, None);
        drop(inside);
        runtime.block_on(issuers.first_attempts());
        Self { runtime, issuers, key }
    }

    /// A token of exactly this header and payload, parted by the first zero byte.
    fn sign(&self, text: &[u8]) -> String {
        let middle = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let (header, payload) = (&text[..middle], text.get(middle + 1..).unwrap_or_default());
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn judge(&self, token: &[u8]) -> bool {
        let Some(token) = RawToken::parse(token) else { return false };
        let now = Timestamp::from_seconds(NOW);
        match self.runtime.block_on(self.issuers.verify(token, now)) {
            Ok(verified) => {
                assert!(verified.expires() > now && verified.issuer() == "https://a.example");
                true
            }
            Err(_) => false,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    let bench = BENCH.get_or_init(Bench::new);
    match data.split_first() {
        Some((b's', text)) => drop(bench.judge(bench.sign(text).as_bytes())),
        Some((_, token)) => assert!(!bench.judge(token), "nobody signed this"),
        None => {}
    }
});
