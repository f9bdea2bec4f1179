// The agent's side of the issuer: how it shows who it is, and gets tokens.

import { assertion, proof } from './jws.js';
import { request } from './net.js';
import { CLIENTS, READ, RESOURCES } from './issuer.js';

const encoded = (form) => new URLSearchParams(form).toString();
// `encodeURIComponent` is no form encoding, but decodes to the same.
const basic = ({ id, secret }) =>
  `Basic ${Buffer.from([id, secret].map(encodeURIComponent).join(':')).toString('base64')}`;

/** POST to one of the issuer's endpoints as `client`. `audience` is what its assertion is addressed to. */
export async function post(issuer, path, client, form, { audience = issuer.origin, headers = {} } = {}) {
  const credentials = client.secret ? {} : {
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: assertion(client.id, audience, client.key),
  };
  const answer = await request(issuer.origin + path, {
    method: 'POST',
    headers: {
      'content-type': 'application/x-www-form-urlencoded',
      ...(client.secret && { authorization: basic(client) }),
      ...headers,
    },
    body: encoded({ ...form, ...credentials }),
  });
  return { status: answer.status, body: answer.text && JSON.parse(answer.text) };
}

/** The headers that carry a token: alone, or bound to a key and with its proof. */
export const bearer = (value) => ({ authorization: `Bearer ${value}` });
export const bound = (value, shown) => ({ authorization: `DPoP ${value}`, ...(shown && { dpop: shown }) });

/** The issuer's whole answer to a request for a token: on behalf of `user`, bound to `key`, where given. */
export async function ask(issuer, wish = {}) {
  const { client = CLIENTS.agent, resource = RESOURCES.es256, scope = READ, user, key } = wish;
  const form = { grant_type: 'client_credentials', resource, scope, ...(user && { on_behalf_of: user }) };
  const headers = key ? { dpop: proof(key, { method: 'POST', url: `${issuer.origin}/token` }) } : {};
  const { status, body } = await post(issuer, '/token', client, form, { headers });
  if (status !== 200) throw new Error(`no token: ${status} ${JSON.stringify(body)}`);
  issuer.issued.push(body.access_token);
  return body;
}

export const token = async (issuer, wish) => (await ask(issuer, wish)).access_token;
