// JWT access tokens of RFC 9068, as plain bearer tokens; the keys are discovered from the issuer's metadata.

import { ask, bearer, token } from '../agent.js';
import { check, differs } from '../checks.js';
import { challenged, expect, told } from '../gate.js';
import { API, APP, CLIENTS, READ, RESOURCES, USERS } from '../issuer.js';
import { decoded, flipped, jws } from '../jws.js';

const { agent, keyAgent } = CLIENTS;
const { alice, bob } = USERS;

export async function rfc9068(issuer, withGate) {
  const { access_token: forAlice, token_type } = await ask(issuer, { user: 'alice' });
  const { header, claims } = decoded(forAlice);
  console.log(`header ${JSON.stringify(header)}\nclaims ${JSON.stringify(claims)}`);
  check('issuer: an access token of RFC 9068 that carries the user and the app', [
    differs('token_type', token_type, 'Bearer'),
    differs('the header', header, { alg: 'ES256', typ: 'at+jwt', kid: issuer.key.kid }),
    differs('iss', claims.iss, issuer.origin),
    differs('aud', claims.aud, API),
    differs('sub', claims.sub, agent.id),
    differs('client_id', claims.client_id, agent.id),
    differs('scope', claims.scope, READ),
    differs('onBehalfOf', claims.onBehalfOf, alice),
    differs('callerApp', claims.callerApp, APP),
  ]);

  const settings = () => ({ issuers: [{ rfc9068: { issuer: issuer.origin, audiences: [API] } }] });
  await withGate({ name: 'rfc9068', settings }, async (get) => {
    let answer = await get(alice, bearer(forAlice));
    expect('the agent reads the data of its user', answer, 200, 'allowed', ...told(answer, agent, alice));
    answer = await get(alice, {
      ...bearer(forAlice), X_Portcullis_User: 'victim', 'x-portcullis-agent': 'evil', 'X-Portcullis-App': 'evil',
    });
    expect("identity headers of the client's own are replaced", answer, 200, 'allowed', ...told(answer, agent, alice));
    expect("the agent does not read another user's data", await get(bob, bearer(forAlice)), 403, 'access_denied');

    const byRsa = await token(issuer, { client: keyAgent, resource: RESOURCES.rs256, user: 'bob' });
    answer = await get(bob, bearer(byRsa));
    expect('a token signed by RS256, for an agent that has a key, is believed', answer, 200, 'allowed',
      differs('alg', decoded(byRsa).header.alg, 'RS256'), ...told(answer, keyAgent, bob));

    answer = await get(alice, bearer(flipped(forAlice)));
    expect('a changed token is refused', answer, 401, 'signature_invalid',
      ...challenged(answer, 'Bearer', 'error="invalid_token"'));
    // An ID token's header, under the issuer's own key.
    const typed = jws({ ...header, typ: 'JWT' }, claims, issuer.key);
    expect('a token of another type is refused', await get(alice, bearer(typed)), 401, 'token_type_wrong');
    const elsewhere = await token(issuer, { resource: RESOURCES.elsewhere, user: 'alice' });
    expect('a token for another resource is refused', await get(alice, bearer(elsewhere)), 401, 'audience_wrong');
    const opaque = await token(issuer, { resource: RESOURCES.opaque, user: 'alice' });
    expect('an opaque token is refused', await get(alice, bearer(opaque)), 401, 'token_malformed');

    const forNobody = await token(issuer);
    expect("a token on nobody's behalf is refused", await get(alice, bearer(forNobody)), 403, 'delegation_missing');
    answer = await get(alice, bearer(await token(issuer, { scope: 'crossDomainService/write', user: 'alice' })));
    expect("a token without the route's scope is refused", answer, 403, 'scope_missing',
      ...challenged(answer, 'error="insufficient_scope"', READ));
    answer = await get(alice, {});
    expect('a request without a token is challenged', answer, 401, 'token_missing', ...challenged(answer, 'Bearer'));
  });
  check('the keys were found through the metadata, once', [
    differs('fetches of the metadata', issuer.requests['/.well-known/openid-configuration'], 1),
    differs('fetches of the keys', issuer.requests['/jwks'], 1),
  ]);
}
