// Key pairs, and the key sets that publish them: good keys, and such as no token may be verified with.

import { createPrivateKey, createPublicKey, createSecretKey, generateKeyPairSync, randomBytes } from "node:crypto";

/**
 * A new pair, by way of PEM: a key that shares its lock with the job that made it can hang Node.js 20, when the job is
 * collected as garbage in the middle of the key's export as JWK.
 */
function generate(type, options) {
  const made = generateKeyPairSync(type, {
    ...options,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  return { publicKey: createPublicKey(made.publicKey), privateKey: createPrivateKey(made.privateKey) };
}

const rsa = (bits) => generate("rsa", { modulusLength: bits });
const ec = (curve) => generate("ec", { namedCurve: curve });

const second = rsa(2048);
const twin = rsa(2048);
const p256 = ec("P-256");

/** A pair that no set publishes. */
export const stranger = rsa(2048);

/** A key of which every secret half is known to whoever can read the key set. */
const shared = createSecretKey(randomBytes(32));

// Name (and `kid`, unless a member says otherwise), key pair, members of the JWK.
const COMMON = [
  ["rsa", second, {}],
  ["p256", p256, {}],
  ["p384", ec("P-384"), {}],
  ["p521", ec("P-521"), {}],
  ["ed25519", generate("ed25519"), { alg: "EdDSA", use: "sig" }],
  ["ed448", generate("ed448"), {}],
  ["", second, {}],
  ["ключ 🔑", second, {}],
  ["k".repeat(2000), second, {}],
  ["rsa-number", second, { kid: 5 }],
  ["rsa-nameless", second, { kid: undefined }],
  ["rsa-verifies", second, { key_ops: ["verify"] }],
  ["rsa-encrypts", second, { key_ops: ["encrypt"] }],
  ["rsa-enc", second, { use: "enc" }],
  ["rsa-use-empty", second, { use: "" }],
  ["rsa-rs512", second, { alg: "RS512" }],
  ["rsa-hs256", second, { alg: "HS256" }],
  ["rsa-es256", second, { alg: "ES256" }],
  ["rsa-private", second, second.privateKey.export({ format: "jwk" })],
  ["rsa-weak", rsa(1024), { alg: "RS256", use: "sig" }],
  ["twin-first", second, { kid: "twin" }],
  ["twin-second", twin, { kid: "twin" }],
  ["mixed-rsa", second, { kid: "mixed", alg: "RS256" }],
  ["mixed-ec", p256, { kid: "mixed", alg: "ES256" }],
];

function published([name, pair, members]) {
  return [name, { pair, jwk: { kid: name, ...pair.publicKey.export({ format: "jwk" }), ...members } }];
}

/** The keys of one issuer, by name. `main/+=` and `ec` are its own, the others every issuer's. */
export function issuerKeys() {
  const own = [
    ["main/+=", rsa(2048), { alg: "RS256", use: "sig" }],
    ["ec", ec("P-256"), { alg: "ES256", use: "sig" }],
  ];
  const oct = ["oct", { pair: { privateKey: shared }, jwk: { kid: "oct", ...shared.export({ format: "jwk" }) } }];
  return Object.fromEntries([...[...own, ...COMMON].map(published), oct]);
}

/** One key and no other. */
export function soleKey() {
  return Object.fromEntries([published(["main/+=", second, { alg: "RS256", use: "sig" }])]);
}

/** The document that publishes `keys`, as text. */
export function keySet(keys) {
  return JSON.stringify({ keys: Object.values(keys).map((key) => key.jwk) });
}
