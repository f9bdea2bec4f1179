// Keys, signed tokens and DPoP proofs, by hand: a library would not make the wrong ones.

import { createHash, generateKeyPairSync, randomUUID, sign } from 'node:crypto';

const now = () => Math.floor(Date.now() / 1000);
const b64 = (text) => Buffer.from(text).toString('base64url');
const sha256 = (text) => createHash('sha256').update(text).digest('base64url');

/** An ES256 key pair. `kid` is random: two keys of one issuer are never taken for each other. */
export function ecKey() {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const kid = randomUUID();
  const members = { kid, use: 'sig', alg: 'ES256' };
  return {
    kid,
    privateKey,
    pem: privateKey.export({ type: 'pkcs8', format: 'pem' }),
    jwk: publicKey.export({ format: 'jwk' }),
    privateJwk: privateKey.export({ format: 'jwk' }),
    published: { ...publicKey.export({ format: 'jwk' }), ...members },
    signing: { ...privateKey.export({ format: 'jwk' }), ...members },
  };
}

export function rsaSigningJwk() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
}

export function jws(header, claims, { privateKey }) {
  const signed = `${b64(JSON.stringify(header))}.${b64(JSON.stringify(claims))}`;
  const signature = sign('sha256', Buffer.from(signed), { key: privateKey, dsaEncoding: 'ieee-p1363' });
  return `${signed}.${signature.toString('base64url')}`;
}

/** Header and claims of a token, unverified. */
export function decoded(token) {
  const [header, claims] = token.split('.').map((part) => Buffer.from(part, 'base64url'));
  return { header: JSON.parse(header), claims: JSON.parse(claims) };
}

/** The token with another signature: all bits of a character in the middle count. */
export function flipped(token) {
  const at = token.length - 20;
  return token.slice(0, at) + (token[at] === 'A' ? 'B' : 'A') + token.slice(at + 1);
}

/** An assertion of RFC 7523 by which a client shows that it holds its key. */
export function assertion(clientId, audience, key) {
  const claims = { iss: clientId, sub: clientId, aud: audience, jti: randomUUID(), iat: now(), exp: now() + 60 };
  return jws({ alg: 'ES256', kid: key.kid }, claims, key);
}

/** RFC 7638, of an EC key. */
export const thumbprint = ({ crv, kty, x, y }) => sha256(JSON.stringify({ crv, kty, x, y }));

/** A DPoP proof (RFC 9449 section 4.2); `wrong` replaces members of its header and claims. */
export function proof(key, { method = 'GET', url, token, nonce }, wrong = {}) {
  const header = { typ: 'dpop+jwt', alg: 'ES256', jwk: key.jwk, ...wrong.header };
  const ath = token && sha256(token);
  const claims = { jti: randomUUID(), htm: method, htu: url, iat: now(), ath, nonce, ...wrong.claims };
  return jws(header, claims, key);
}
