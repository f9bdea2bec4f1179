// What `alg` says, what the signature is, and what the issuer may use.

import { createPublicKey } from "node:crypto";

import { issue } from "../jws.mjs";

const MISSPELT = ["rs256", "Rs256", "RS256 ", "RS-256", "RSA-SHA256"];
const UNKNOWN = ["RS1", "ES256K", "A256GCM", "RSA-OAEP", "x".repeat(1000)];
const OTHERS = ["HS256", "RS384", "RS512", "PS256", "ES256", "EdDSA"];

/** Everything public of a key that a careless verifier might take for an HMAC secret (CVE-2016-5431). */
function* secretsOf({ jwk }) {
  const key = createPublicKey({ key: jwk, format: "jwk" });
  const pem = key.export({ type: "spki", format: "pem" });
  yield ["PEM", pem];
  yield ["PEM without its last line feed", pem.trimEnd()];
  yield ["DER", key.export({ type: "spki", format: "der" })];
  yield ["JWK", JSON.stringify(jwk)];
  yield ["modulus or point", Buffer.from(jwk.n ?? jwk.x, "base64url")];
  yield ["kid", jwk.kid];
}

export function* algorithms(profile) {
  for (const alg of ["none", "None", "nOnE", "NONE", ""]) {
    yield { name: `alg "${alg}" over a good signature`, token: issue(profile, { header: { alg } }) };
    const unsigned = { header: { alg }, editSignature: () => Buffer.alloc(0) };
    yield { name: `alg "${alg}" and no signature`, token: issue(profile, unsigned) };
  }
  for (const [name, alg] of [["absent", undefined], ["null", null], ["an array", ["RS256"]], ["a number", 256]]) {
    yield { name: `alg ${name}`, token: issue(profile, { header: { alg } }) };
  }
  for (const alg of [...MISSPELT, ...UNKNOWN, ...OTHERS]) {
    yield { name: `alg "${alg}" over an RS256 signature`, token: issue(profile, { header: { alg } }) };
  }
  for (const signAs of ["RS384", "PS256"]) {
    yield { name: `alg RS256 over a signature by ${signAs}`, token: issue(profile, { signAs }) };
  }
  yield { name: "PS256, well signed", token: issue(profile, { alg: "PS256", key: "rsa" }) };
  // The key "rsa" names no algorithm of its own.
  for (const key of ["main/+=", "rsa", "ec"]) {
    for (const [what, signer] of secretsOf(profile.keys[key])) {
      yield { name: `HS256 by the ${what} of key ${key}`, token: issue(profile, { alg: "HS256", key, signer }) };
    }
  }
  yield { name: "HS256 by an oct key of the set", token: issue(profile, { alg: "HS256", key: "oct" }) };
  for (const alg of ["RS384", "RS512", "ES256", "ES384", "EdDSA"]) {
    if (!profile.algorithms.includes(alg)) {
      yield { name: `${alg}, well signed`, tag: "algorithm not listed", token: issue(profile, { alg }) };
    }
  }
  const es512 = issue(profile, { alg: "ES512", key: "p521" });
  yield { name: "ES512, well signed", tag: "algorithm not supported", token: es512 };
}
