// Tokens, made to order: each part can be other than it should be, and the signature still right.

import { constants, createHmac, sign } from "node:crypto";

/** The key that signs a good token of an algorithm. */
const MAIN = { RS256: "main/+=", RS384: "rsa", RS512: "rsa", ES256: "ec", ES384: "p384", EdDSA: "ed25519" };

export const base64url = (data) => Buffer.from(data).toString("base64url");

/** The bytes of a signature over `input`. */
export function signature(algorithm, key, input) {
  if (algorithm === "EdDSA") return sign(null, Buffer.from(input), key);
  const [family, hash] = [algorithm.slice(0, 2), `sha${algorithm.slice(2)}`];
  switch (family) {
    case "HS":
      return createHmac(hash, key).update(input).digest();
    case "PS":
      return sign(hash, Buffer.from(input), {
        key,
        padding: constants.RSA_PKCS1_PSS_PADDING,
        saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
      });
    default:
      return sign(hash, Buffer.from(input), { key, dsaEncoding: "ieee-p1363" });
  }
}

const unchanged = (text) => text;

/**
 * A token of `profile`: a good one but for what is given.
 *
 * `header` and `claims` are laid over the good ones; `undefined` takes one away. `key` is the one that is named, and
 * signs unless `signer` does; `signAs` is how. `editHeader` and `editPayload` change the JSON text, `editParts` the two
 * encoded parts before they are signed, `editSignature` the signature's bytes.
 */
export function issue(profile, given = {}) {
  const { alg = "RS256", header, claims } = given;
  const { key = MAIN[alg], signer = profile.keys[key].pair.privateKey, signAs = alg } = given;
  const { editHeader = unchanged, editPayload = unchanged, editParts = unchanged, editSignature = unchanged } = given;
  const head = { alg, kid: profile.keys[key].jwk.kid, ...profile.header, ...header };
  const parts = [
    base64url(editHeader(JSON.stringify(head))),
    base64url(editPayload(JSON.stringify({ ...profile.claims, ...claims }))),
  ];
  const signed = editParts(parts).join(".");
  return `${signed}.${base64url(editSignature(signature(signAs, signer, signed)))}`;
}
