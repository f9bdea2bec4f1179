// Opaque tokens: the gate asks the issuer what they say (RFC 7662), and remembers the answer for a while.

import { ask, bearer, bound, post } from '../agent.js';
import { check, differs } from '../checks.js';
import { expect, told } from '../gate.js';
import { API, APP, CLIENTS, READ, RESOURCES, USERS } from '../issuer.js';
import { ecKey, proof, thumbprint } from '../jws.js';
import { pause } from '../net.js';

const { agent, gate, keyGate } = CLIENTS;
const { alice, bob } = USERS;
const CACHE_MAX_S = 2;
const ENDPOINT = '/token/introspection';
const opaque = (issuer, key) => ask(issuer, { resource: RESOURCES.opaque, user: 'alice', key });

async function issuerHalf(issuer, key) {
  const said = async (client, value) => (await post(issuer, ENDPOINT, client, { token: value })).body;
  const plain = (await opaque(issuer)).access_token;
  for (const client of [gate, keyGate]) {
    const answer = await said(client, plain);
    console.log(`introspection ${JSON.stringify(answer)}`);
    check(`issuer: an introspection by ${client.id} tells all of an opaque token`, [
      differs('active', answer.active, true),
      differs('token_type', answer.token_type, 'Bearer'),
      differs('iss', answer.iss, issuer.origin),
      differs('aud', answer.aud, API),
      differs('client_id', answer.client_id, agent.id),
      differs('scope', answer.scope, READ),
      differs('onBehalfOf', answer.onBehalfOf, alice),
      differs('callerApp', answer.callerApp, APP),
    ]);
  }
  const tied = await said(gate, (await opaque(issuer, key)).access_token);
  console.log(`introspection ${JSON.stringify(tied)}`);
  check('issuer: an introspection tells what key a token is bound to', [
    differs('token_type', tied.token_type, 'DPoP'),
    differs('cnf', tied.cnf, { jkt: thumbprint(key.jwk) }),
  ]);
  check('issuer: an agent may not introspect', [differs('the answer', await said(agent, plain), { active: false })]);
}

async function bySecret(get, origin, { issuer, key }) {
  const asked = () => issuer.requests[ENDPOINT];
  const plain = (await opaque(issuer)).access_token;
  const before = asked();
  for (let count = 1; count <= 5; count += 1) {
    const answer = await get(alice, bearer(plain));
    expect(`an opaque token is believed, call ${count} of 5`, answer, 200, 'allowed', ...told(answer, agent, alice));
  }
  check('issuer: five calls took one introspection', [differs('introspections', asked() - before, 1)]);
  expect("an opaque token does not open another user's data", await get(bob, bearer(plain)), 403, 'access_denied');

  await post(issuer, '/token/revocation', agent, { token: plain });
  await pause(CACHE_MAX_S + 0.2);
  expect('a revoked token is refused once its answer has gone stale', await get(alice, bearer(plain)),
    401, 'token_inactive');
  expect('a token that nobody issued is refused', await get(alice, bearer('n0-such-t0ken')), 401, 'token_inactive');

  const tied = (await opaque(issuer, key)).access_token;
  const right = { url: `${origin}/users/${alice.sub}/data`, token: tied };
  expect('an opaque bound token with its proof is believed', await get(alice, bound(tied, proof(key, right))),
    200, 'allowed');
  expect('an opaque bound token as a plain bearer token is refused', await get(alice, bearer(tied)),
    401, 'binding_unchecked');
  expect('an opaque bound token with a proof by another key is refused',
    await get(alice, bound(tied, proof(ecKey(), right))), 401, 'proof_invalid');
}

async function byKey(get, _, { issuer }) {
  const answer = await get(alice, bearer((await opaque(issuer)).access_token));
  expect('a gate that has a key may introspect too', answer, 200, 'allowed', ...told(answer, agent, alice));
  const unseen = (await opaque(issuer)).access_token;
  await issuer.stop();
  expect('while the issuer is away nothing is said of a new token', await get(alice, bearer(unseen)),
    503, 'introspection_unavailable');
}

export async function introspection(issuer, withGate) {
  const key = ecKey();
  await issuerHalf(issuer, key);
  const runs = [
    ['secret', bySecret, {
      credentials: { client_id: gate.id, client_secret: { env: 'GATE_SECRET' } },
      env: { GATE_SECRET: gate.secret },
    }],
    ['key', byKey, {
      credentials: { client_id: keyGate.id, private_key: { file: 'key.pem' }, private_key_id: keyGate.key.kid },
      files: { 'key.pem': keyGate.key.pem },
    }],
  ];
  for (const [name, run, { credentials, ...start }] of runs) {
    const settings = (origin) => ({
      origins: [origin],
      issuers: [{
        introspection: {
          issuer: issuer.origin, introspection_uri: issuer.origin + ENDPOINT, ...credentials,
          audiences: [API], cache_max_s: CACHE_MAX_S, dpop: 'accepted',
        },
      }],
    });
    await withGate({ name: `introspection by ${name}`, settings, ...start }, (get, origin) =>
      run(get, origin, { issuer, key }));
  }
}
