// Tokens bound to the agent's key (DPoP, RFC 9449): they are worth nothing without a fresh proof by that key.

import { ask, bearer, bound, token } from '../agent.js';
import { check, differs } from '../checks.js';
import { challenged, expect, told } from '../gate.js';
import { API, CLIENTS, USERS } from '../issuer.js';
import { decoded, ecKey, flipped, proof, thumbprint } from '../jws.js';

const { alice } = USERS;
const PATH = `/users/${alice.sub}/data`;
const INVALID = ['DPoP', 'error="invalid_dpop_proof"'];

/** Proofs that must not do, each by what is wrong with it. */
function wrongProofs(key, right) {
  const { url } = right;
  const hourAgo = Math.floor(Date.now() / 1000) - 3600;
  return {
    'another method': proof(key, right, { claims: { htm: 'POST' } }),
    'another path': proof(key, right, { claims: { htu: `${url}/more` } }),
    'another origin': proof(key, right, { claims: { htu: `https://elsewhere.example${PATH}` } }),
    'another token': proof(key, right, { claims: { ath: thumbprint(key.jwk) } }),
    'no token': proof(key, { url }),
    'an old iat': proof(key, right, { claims: { iat: hourAgo } }),
    'an iat far ahead': proof(key, right, { claims: { iat: hourAgo + 7200 } }),
    'no jti': proof(key, right, { claims: { jti: undefined } }),
    'another key': proof(ecKey(), right),
    'another type': proof(key, right, { header: { typ: 'JWT' } }),
    'the private key in it': proof(key, right, { header: { jwk: key.privateJwk } }),
    'a changed signature': flipped(proof(key, right)),
  };
}

async function required(get, origin, { key, forAlice, unbound }) {
  const right = { url: origin + PATH, token: forAlice };
  const used = proof(key, right);
  let answer = await get(alice, bound(forAlice, used));
  expect('DPoP: a bound token with its proof is believed', answer, 200, 'allowed',
    ...told(answer, CLIENTS.agent, alice));
  answer = await get(alice, bound(forAlice, used));
  expect('DPoP: the same proof again is refused', answer, 401, 'proof_replayed', ...challenged(answer, ...INVALID));
  expect('DPoP: the query is no part of htu', await get(alice, bound(forAlice, proof(key, right)), '?page=2'),
    200, 'allowed');

  answer = await get(alice, bound(forAlice));
  expect('DPoP: a bound token without a proof is refused', answer, 401, 'proof_missing',
    ...challenged(answer, ...INVALID));
  expect('DPoP: a bound token as a plain bearer token is refused', await get(alice, bearer(forAlice)),
    401, 'binding_unchecked');
  expect('DPoP: where it is required, an unbound token is refused', await get(alice, bearer(unbound)),
    401, 'binding_missing');

  for (const [what, wrong] of Object.entries(wrongProofs(key, right))) {
    answer = await get(alice, bound(forAlice, wrong));
    expect(`DPoP: a proof with ${what} is refused`, answer, 401, 'proof_invalid', ...challenged(answer, ...INVALID));
  }
}

async function accepted(get, origin, { key, forAlice, unbound }) {
  expect('DPoP: where it is accepted, an unbound token is believed', await get(alice, bearer(unbound)), 200, 'allowed');
  const right = proof(key, { url: origin + PATH, token: forAlice });
  expect('DPoP: where it is accepted, so is a bound one with its proof', await get(alice, bound(forAlice, right)),
    200, 'allowed');
  expect('DPoP: where it is accepted, a bound token is still no bearer token', await get(alice, bearer(forAlice)),
    401, 'binding_unchecked');
}

async function nonceRequired(get, origin, { key, forAlice }) {
  const right = { url: origin + PATH, token: forAlice };
  let answer = await get(alice, bound(forAlice, proof(key, right)));
  const nonce = answer.headers['dpop-nonce'];
  expect('DPoP: a proof without a nonce is told one', answer, 401, 'proof_nonce_missing',
    ...challenged(answer, 'DPoP', 'error="use_dpop_nonce"'), !nonce && 'there is no DPoP-Nonce');
  answer = await get(alice, bound(forAlice, proof(key, { ...right, nonce })));
  expect('DPoP: a proof with the nonce is believed', answer, 200, 'allowed');
}

export async function dpop(issuer, withGate) {
  const key = ecKey();
  const { access_token: forAlice, token_type } = await ask(issuer, { user: 'alice', key });
  const { claims } = decoded(forAlice);
  console.log(`claims ${JSON.stringify(claims)}`);
  check("issuer: a token bound to the agent's key", [
    differs('token_type', token_type, 'DPoP'),
    differs('cnf', claims.cnf, { jkt: thumbprint(key.jwk) }),
  ]);
  const tokens = { key, forAlice, unbound: await token(issuer, { user: 'alice' }) };

  const runs = [
    ['required', required, { dpop: 'required' }],
    ['accepted', accepted, { dpop: 'accepted' }],
    ['nonce', nonceRequired, { dpop: 'required', dpop_nonce: 'required' }],
  ];
  for (const [name, run, binding] of runs) {
    const settings = (origin) => ({
      origins: [origin],
      issuers: [{ rfc9068: { issuer: issuer.origin, audiences: [API], ...binding } }],
    });
    await withGate({ name: `DPoP ${name}`, settings }, (get, origin) => run(get, origin, tokens));
  }
}
