// Keys of the set that may verify nothing, or not this: the signature is always the key's own.

import { issue } from "../jws.mjs";
import { stranger } from "../keys.mjs";

/** By name of the key: the tag where the two are known to differ. */
const RS256 = {
  "": undefined,
  "ключ 🔑": undefined,
  ["k".repeat(2000)]: undefined,
  rsa: undefined,
  "rsa-verifies": undefined,
  "mixed-rsa": undefined,
  "twin-first": undefined,
  "rsa-number": undefined,
  "rsa-nameless": undefined,
  "rsa-enc": undefined,
  "rsa-rs512": undefined,
  "rsa-hs256": undefined,
  "rsa-es256": undefined,
  "twin-second": "second key of a kid",
  "rsa-weak": "weak key",
  "rsa-use-empty": "use empty",
  "rsa-encrypts": "key_ops without verify",
  "rsa-private": "private key in the set",
};

export function* keys(profile) {
  for (const [key, tag] of Object.entries(RS256)) {
    yield { name: `key "${key.slice(0, 20)}"`, tag, token: issue(profile, { key }) };
  }
  yield { name: "a stranger's key", token: issue(profile, { signer: stranger.privateKey }) };
  yield { name: "another key than the one named", token: issue(profile, { signer: profile.keys.rsa.pair.privateKey }) };
}

/** A signature that is right by the key alone: its algorithm is not the one that `alg` names. */
export function* confusions(profile) {
  const confused = [
    ["RS256", "ES256", "p256"],
    ["RS512", "ES512", "p256"],
    ["ES256", "RS256", "rsa"],
    ["ES384", "RS384", "rsa"],
    ["ES256", "ES256", "p384"],
    ["ES384", "ES384", "p256"],
    ["ES256", "ES256", "p521"],
    ["EdDSA", "RS256", "rsa"],
    ["EdDSA", "EdDSA", "ed448"],
  ];
  for (const [alg, signAs, key] of confused) {
    const name = `alg ${alg} over ${signAs} by key ${key}`;
    yield { name, tag: "alg of another key", token: issue(profile, { alg, signAs, key }) };
  }
  const refused = [
    ["RS256", "EdDSA", "ed25519"],
    ["RS256", "RS512", "rsa-rs512"],
    ["HS256", "RS256", "rsa-hs256"],
  ];
  for (const [alg, signAs, key] of refused) {
    yield { name: `alg ${alg} over ${signAs} by key ${key}`, token: issue(profile, { alg, signAs, key }) };
  }
  yield { name: "alg RS512 by a key for RS512", good: true, token: issue(profile, { alg: "RS512", key: "rsa-rs512" }) };
  const second = issue(profile, { alg: "ES256", key: "mixed-ec" });
  yield { name: "the second of two keys with one kid, of another type", tag: "second key of a kid", token: second };
}
