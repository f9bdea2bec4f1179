// The issuer changes its key: new tokens are believed without a restart of the gate, and fetches stay few.

import { randomUUID } from 'node:crypto';

import { bearer, token } from '../agent.js';
import { check, differs } from '../checks.js';
import { expect } from '../gate.js';
import { API, USERS } from '../issuer.js';
import { decoded, ecKey, jws } from '../jws.js';
import { pause } from '../net.js';

export async function rotation(issuer, withGate) {
  const { alice } = USERS;
  const fetches = () => issuer.requests['/jwks'];
  const settings = () => ({ issuers: [{ rfc9068: { issuer: issuer.origin, audiences: [API], cooldown_s: 1 } }] });
  await withGate({ name: 'rotation', settings }, async (get) => {
    const old = await token(issuer, { user: 'alice' });
    expect('a token under the first key is believed', await get(alice, bearer(old)), 200, 'allowed',
      differs('fetches of the keys', fetches(), 1));

    issuer.restart();
    await pause(1.1); // longer than `cooldown_s`
    const fresh = await token(issuer, { user: 'alice' });
    expect('after a rotation a token under the new key is believed', await get(alice, bearer(fresh)), 200, 'allowed',
      differs('fetches of the keys', fetches(), 2));
    expect('a token under the withdrawn key is refused', await get(alice, bearer(old)), 401, 'key_unknown');

    // Whoever makes up key ids must not be able to make the gate a flood.
    const { header, claims } = decoded(fresh);
    const [before, began] = [fetches(), Date.now()];
    const codes = new Set();
    for (let count = 0; count < 30; count += 1) {
      const madeUp = jws({ ...header, kid: randomUUID() }, claims, ecKey());
      codes.add((await get(alice, bearer(madeUp))).record.code);
    }
    const allowed = 1 + Math.floor((Date.now() - began) / 1000);
    check('gate: 30 tokens with made-up key ids are refused, with at most one fetch a second', [
      differs('the codes', [...codes], ['key_unknown']),
      fetches() - before > allowed && `${fetches() - before} fetches, not ${allowed} at most`,
    ]);
  });
}
