// Signatures that are not those of the token, for each algorithm that the issuer may use.

import { sign } from "node:crypto";

import { base64url, issue } from "../jws.mjs";

const P256_ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const ED25519_ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;

const integer = (bytes) => BigInt(`0x${bytes.toString("hex") || "0"}`);
const bytesOf = (value, length) => Buffer.from(value.toString(16).padStart(2 * length, "0"), "hex");

/** The same bytes with bit `bit` of the byte at `at` turned. */
function flipped(bytes, at, bit = 0) {
  const other = Buffer.from(bytes);
  other[at] ^= 1 << bit;
  return other;
}

const halves = (bytes) => [bytes.subarray(0, bytes.length / 2), bytes.subarray(bytes.length / 2)];

function* changes() {
  yield ["with its first bit turned", (bytes) => flipped(bytes, 0, 7)];
  yield ["with a bit in the middle turned", (bytes) => flipped(bytes, bytes.length >> 1)];
  yield ["with its last bit turned", (bytes) => flipped(bytes, bytes.length - 1)];
  yield ["one byte short", (bytes) => bytes.subarray(0, -1)];
  yield ["without its first byte", (bytes) => bytes.subarray(1)];
  yield ["cut in half", (bytes) => halves(bytes)[0]];
  yield ["one byte long", () => Buffer.alloc(1)];
  yield ["with a zero before it", (bytes) => Buffer.concat([Buffer.alloc(1), bytes])];
  yield ["with a zero behind it", (bytes) => Buffer.concat([bytes, Buffer.alloc(1)])];
  yield ["twice", (bytes) => Buffer.concat([bytes, bytes])];
  yield ["of zeros", (bytes) => Buffer.alloc(bytes.length)];
  yield ["of ones", (bytes) => Buffer.alloc(bytes.length, 255)];
  yield ["empty", () => Buffer.alloc(0)];
}

function* elliptic(profile, alg) {
  const swapped = (bytes) => Buffer.concat(halves(bytes).reverse());
  yield { name: "r and s swapped", token: issue(profile, { alg, editSignature: swapped }) };
  const [head, payload] = issue(profile, { alg }).split(".");
  const der = sign(`sha${alg.slice(2)}`, Buffer.from(`${head}.${payload}`), profile.keys.ec.pair.privateKey);
  yield { name: "as DER", token: `${head}.${payload}.${base64url(der)}` };
  // Every ECDSA signature has a twin, (r, n - s); it verifies too.
  const negated = (bytes) => {
    const [r, s] = halves(bytes);
    return Buffer.concat([r, bytesOf(P256_ORDER - integer(s), s.length)]);
  };
  yield { name: "with n - s for s", good: true, token: issue(profile, { alg, editSignature: negated }) };
  // CVE-2022-21449 and its kin: numbers outside 1 to n - 1.
  for (const [name, value] of [["one", 1n], ["the order", P256_ORDER], ["the order and one", P256_ORDER + 1n]]) {
    const both = () => Buffer.concat([bytesOf(value, 32), bytesOf(value, 32)]);
    yield { name: `with r and s ${name}`, token: issue(profile, { alg, editSignature: both }) };
  }
}

function* edwards(profile, alg) {
  // RFC 8032 section 5.1.7: S below the order, or a signature has many spellings.
  const raised = (bytes) => {
    const [point, scalar] = halves(bytes);
    const value = integer(Buffer.from(scalar).reverse()) + ED25519_ORDER;
    return Buffer.concat([point, bytesOf(value, 32).reverse()]);
  };
  yield { name: "with the order added to S", token: issue(profile, { alg, editSignature: raised }) };
}

function* rsa(profile, alg) {
  const modulus = (profile) => integer(Buffer.from(profile.keys["main/+="].jwk.n, "base64url"));
  const raised = (bytes) => bytesOf(integer(bytes) + modulus(profile), 257);
  const negated = (bytes) => bytesOf(modulus(profile) - integer(bytes), 256);
  yield { name: "with the modulus added", token: issue(profile, { alg, editSignature: raised }) };
  yield { name: "taken from the modulus", token: issue(profile, { alg, editSignature: negated }) };
}

const OF_ALGORITHM = { RS256: rsa, ES256: elliptic, EdDSA: edwards };

export function* signatures(profile) {
  for (const alg of profile.algorithms) {
    const named = (variant) => ({ ...variant, name: `${alg} signature ${variant.name}` });
    for (const [name, editSignature] of changes()) yield named({ name, token: issue(profile, { alg, editSignature }) });
    for (const variant of OF_ALGORITHM[alg]?.(profile, alg) ?? []) yield named(variant);
    const [head, payload, signature] = issue(profile, { alg }).split(".");
    const [otherHead, otherPayload] = issue(profile, { alg, header: { x: 1 }, claims: { sub: "other" } }).split(".");
    yield named({ name: "of another payload", token: `${head}.${otherPayload}.${signature}` });
    yield named({ name: "of another header", token: `${otherHead}.${payload}.${signature}` });
    const ofPayload = issue(profile, { alg, editParts: ([, body]) => [body] });
    yield named({ name: "of the payload alone", token: `${head}.${ofPayload}` });
  }
}
