// Portcullis against a second real issuer: the npm package oidc-provider.
//
//   node flow.js POLICIES_FOLDER PATH_TO_PORTCULLIS_BINARY [PART...]
//
// One line for each check, and `N passed, M failed` at the end; exit 1 if any failed.

import { resolve } from 'node:path';

import { check, totals } from './checks.js';
import { withGate } from './gate.js';
import { CLIENTS, startIssuer } from './issuer.js';
import { dpop } from './parts/dpop.js';
import { introspection } from './parts/introspection.js';
import { metadata } from './parts/metadata.js';
import { rfc9068 } from './parts/rfc9068.js';
import { rotation } from './parts/rotation.js';

const PARTS = { rfc9068, rotation, dpop, introspection, metadata };

const [policies, binary, ...named] = process.argv.slice(2);
const unknown = named.filter((name) => !Object.hasOwn(PARTS, name));
if (!binary || unknown.length) {
  console.error(`usage: flow.js POLICIES BINARY [PART...], with the parts ${Object.keys(PARTS).join(', ')}`);
  process.exit(2);
}
for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]]) process.on(signal, () => process.exit(code));

const place = { policies: resolve(policies), binary: resolve(binary) };
// Of a token, a part alone would do harm too.
const partsOf = (token) => [token, ...token.split('.').slice(1)];

for (const name of named.length ? named : Object.keys(PARTS)) {
  const issuer = await startIssuer();
  const secrets = () => [
    ...issuer.issued.flatMap(partsOf),
    ...Object.values(CLIENTS).map(({ secret }) => secret).filter(Boolean),
  ];
  try {
    await PARTS[name](issuer, (wanted, use) => withGate(place, { secrets, ...wanted }, use));
  } catch (error) {
    check(`${name}: the run itself`, [error.stack]);
  }
}
console.log(`${totals.passed} passed, ${totals.failed} failed`);
process.exit(totals.failed ? 1 : 0);
