// A client that knows no more than the gate's address finds out whose tokens it needs (RFC 9728), by a library of others.

import * as oauth from 'oauth4webapi';

import { bearer, token } from '../agent.js';
import { check, differs } from '../checks.js';
import { challenged, expect } from '../gate.js';
import { API, READ, USERS } from '../issuer.js';

const { alice } = USERS;
const ON_LOOPBACK = { [oauth.allowInsecureRequests]: true };

async function discovered(issuer, get, origin) {
  const resource = new URL(origin + '/data');
  const answer = await get(alice, {});
  const at = `${origin}/.well-known/oauth-protected-resource/data`;
  expect('metadata: a challenge tells where it is', answer, 401, 'token_missing',
    ...challenged(answer, `resource_metadata="${at}"`));

  const response = await oauth.resourceDiscoveryRequest(resource, ON_LOOPBACK);
  check('metadata: the library looks for it at the same place', [differs('the address', response.url, at)]);
  const told = await oauth.processResourceDiscoveryResponse(resource, response);
  check('metadata: the library takes what it says', [
    differs('authorization_servers', told.authorization_servers, [issuer.origin]),
    differs('scopes_supported', told.scopes_supported, [READ]),
    differs('bearer_methods_supported', told.bearer_methods_supported, ['header']),
    differs('dpop_bound_access_tokens_required', told.dpop_bound_access_tokens_required, undefined),
  ]);

  const [named] = told.authorization_servers;
  const server = await oauth.processDiscoveryResponse(new URL(named),
    await oauth.discoveryRequest(new URL(named), { algorithm: 'oidc', ...ON_LOOPBACK }));
  check('metadata: it leads to the issuer', [
    differs('token_endpoint', new URL(server.token_endpoint).origin, issuer.origin),
  ]);
  expect('metadata: and a token from there is believed', await get(alice, bearer(await token(issuer, { user: 'alice' }))),
    200, 'allowed');

  let refused;
  try {
    const elsewhere = await fetch(at);
    await oauth.processResourceDiscoveryResponse(new URL(origin + '/other'), elsewhere);
  } catch (error) {
    refused = error;
  }
  check('metadata: the library takes it for no other resource', [!refused && 'it did']);
}

export async function metadata(issuer, withGate) {
  const settings = (origin) => ({
    issuers: [{ rfc9068: { issuer: issuer.origin, audiences: [API] } }],
    resource_metadata: { resource: `${origin}/data` },
  });
  await withGate({ name: 'metadata', settings }, (get, origin) => discovered(issuer, get, origin));
}
