//! A JWT in JWS compact serialisation (RFC 7515 section 7.1), taken apart and trusted by nobody.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    RawToken, TokenError,
    algorithm::Algorithm,
    jwks::{Key, KeySet},
};
use crate::base::json;

/// Header parameters that change what a signature covers or how the payload is read.
const REFUSED_PARAMETERS: [&str; 4] = ["crit", "b64", "zip", "enc"];

/// A token taken apart. Nothing in it is believed until its signature is verified.
pub(super) struct Jws<'a> {
    pub(super) header: Map<String, Value>,
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// `typ`, lower case, without `application/` (RFC 7515 section 4.1.9).
    pub(super) media_type: Option<String>,
    payload: &'a str,
    /// What the signature covers.
    signed: &'a str,
    /// The signature as it stands in the token: canonical base64url.
    signature: &'a str,
}

impl<'a> Jws<'a> {
    /// Takes `token` apart.
    ///
    /// # Errors
    /// `Malformed`, `HeaderRefused` or `AlgorithmRefused`.
    pub(super) fn parse(token: RawToken<'a>) -> Result<Self, TokenError> {
        let (signed, signature) = token.as_str().rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(TokenError::Malformed);
        }
        let header = decode(header)?;
        if REFUSED_PARAMETERS.iter().any(|name| header.contains_key(*name)) {
            return Err(TokenError::HeaderRefused);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name);
        let kid = optional_text(&header, "kid")?;
        let media_type = optional_text(&header, "typ")?.map(|typ| {
            let typ = typ.to_ascii_lowercase();
            typ.strip_prefix("application/").map_or_else(|| typ.clone(), str::to_owned)
        });
        Ok(Self {
            algorithm: algorithm.ok_or(TokenError::AlgorithmRefused)?,
            header,
            kid,
            media_type,
            payload,
            signed,
            signature,
        })
    }

    /// The payload as claims.
    ///
    /// # Errors
    /// `Malformed` when it is not one strict JSON object.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, TokenError> {
        decode(self.payload)
    }

    /// The key of `keys`, named by the header, that made the signature.
    pub(super) fn signed_by<'k>(&'k self, keys: &'k KeySet) -> Option<&'k Key> {
        let mut named = keys.find(self.kid.as_deref(), self.algorithm);
        named.find(|key| key.verifies(self.signed, self.signature, self.algorithm))
    }

    /// Whether `key` made the signature.
    pub(super) fn is_signed_with(&self, key: &Key) -> bool {
        key.fits(self.algorithm) && key.verifies(self.signed, self.signature, self.algorithm)
    }
}

/// A part holds one JSON object. A dot in it (a fourth part) is no base64url either.
fn decode(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    json::parse_object(&bytes).map_err(|_| TokenError::Malformed)
}

fn optional_text(header: &Map<String, Value>, name: &str) -> Result<Option<String>, TokenError> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Malformed),
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "what was judged and what was skipped is said aloud")]
mod tests {
    use std::path::Path;

    use super::*;

    /// Vectors of Wycheproof on which implementations may differ.
    const DEBATABLE_MAX: usize = 6;

    fn rows(set: &str) -> Vec<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora").join(set);
        if !path.parent().is_some_and(Path::exists) {
            println!("SKIPPED: no {}", path.display());
            return Vec::new();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() > 30, "{} holds next to nothing", path.display());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Whether the signature of `token` verifies under `keys`, whatever the payload.
    fn is_signed(token: &str, keys: &Value) -> bool {
        let keys = KeySet::parse(keys.to_string().as_bytes());
        let jws = RawToken::parse(token.as_bytes()).map(Jws::parse);
        matches!((jws, keys), (Some(Ok(jws)), Ok(keys)) if jws.signed_by(&keys).is_some())
    }

    #[test]
    fn the_wycheproof_vectors_are_judged_right() {
        // Byte for byte the valid tc357; an illegal `?` in base64url.
        let known_bad = ["tc367", "tc370", "tc372", "tc373"].map(|tc| format!("json_web_signature_test/{tc}"));
        let (mut wrong, mut debatable) = (Vec::new(), Vec::new());
        let (mut judged, mut accepted) = (0, 0);
        for row in rows("wycheproof/jws_flat.jsonl") {
            let (id, expect) = (row["id"].as_str().unwrap(), row["expect_proxy_no_oct"].as_str().unwrap());
            if known_bad.iter().any(|bad| bad == id) {
                continue;
            }
            if expect == "debatable" {
                debatable.push(id.to_owned());
                continue;
            }
            let is = is_signed(row["jws"].as_str().unwrap_or_default(), &row["jwks"]);
            judged += 1;
            accepted += usize::from(is);
            if is != (expect == "must_accept") {
                wrong.push(format!("{id} {} {}: {expect}", row["group"], row["comment"]));
            }
        }
        println!("{judged} vectors judged, {accepted} accepted; left out as debatable: {debatable:?}");
        assert!(debatable.len() <= DEBATABLE_MAX, "{debatable:?}");
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_vectors_of_envoys_library_are_judged_right() {
        let (mut wrong, mut judged, mut stricter) = (Vec::new(), 0, 0);
        for row in rows("envoy-jwt/verify.jsonl") {
            let keys: Value = serde_json::from_str(row["keys"].as_str().unwrap()).unwrap_or_default();
            let token = row["token"].as_str().unwrap();
            // Key set and token are those of `JwtTextWithNoKidOk`, and the signature is right.
            if row["id"].as_str().is_some_and(|id| id.ends_with("JwtTextWithNoKidNoMatchingKey")) {
                continue;
            }
            let is = is_signed(token, &keys);
            let should = row["expect_status"] == "Ok";
            // It tries every key where the token names none, and takes keys of fewer bits.
            let nameless =
                RawToken::parse(token.as_bytes()).and_then(|it| Jws::parse(it).ok()).is_none_or(|it| it.kid.is_none());
            let weak = KeySet::parse(keys.to_string().as_bytes()).map_or(true, |set| !set.skipped().is_empty());
            judged += 1;
            match (should, is) {
                (true, false) if nameless || weak => stricter += 1,
                (should, is) if should != is => wrong.push(row["id"].to_string()),
                _ => {}
            }
        }
        println!("{judged} vectors judged, {stricter} refused although its library takes them");
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn key_sets_of_envoys_library_are_parsed_or_refused_with_a_reason() {
        let (mut parsed, mut refused, mut wrong) = (0, 0, Vec::new());
        for row in rows("envoy-jwt/jwks_parse.jsonl") {
            match KeySet::parse(row["input"].as_str().unwrap().as_bytes()) {
                Ok(_) if row["expect_status"] != "Ok" => wrong.push(row["id"].to_string()),
                Ok(_) => parsed += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
        println!("{parsed} key sets parsed, {refused} refused");
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
