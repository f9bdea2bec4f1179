// The issuer: oidc-provider on loopback, with resources whose tokens are JWTs and one whose tokens are opaque.

import Provider, { errors } from 'oidc-provider';

import { ecKey, rsaSigningJwk } from './jws.js';
import { close, listen } from './net.js';

export const API = 'https://api.example';
export const READ = 'crossDomainService/read';
export const APP = 'ExampleChatApplication';

/** Resource indicators (RFC 8707). All but the last name the same audience: the gate. */
export const RESOURCES = {
  es256: 'https://api.example/es256',
  rs256: 'https://api.example/rs256',
  opaque: 'https://api.example/opaque',
  elsewhere: 'https://elsewhere.example',
};

const SCOPE = `${READ} crossDomainService/write`;
const SERVERS = {
  [RESOURCES.es256]: { audience: API, scope: SCOPE, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
  [RESOURCES.rs256]: { audience: API, scope: SCOPE, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } },
  [RESOURCES.opaque]: { audience: API, scope: SCOPE, accessTokenFormat: 'opaque' },
  [RESOURCES.elsewhere]: { scope: SCOPE, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } },
};

export const USERS = {
  alice: { sub: 'user-alice', username: 'alice', groups: ['readaccess'] },
  bob: { sub: 'user-bob', username: 'bob', groups: [] },
};

// The secrets hold characters that RFC 6749 section 2.3.1 has encoded before they go into a Basic header.
export const CLIENTS = {
  agent: { id: 'agent', secret: 'agent: 100% +/&=' },
  keyAgent: { id: 'key-agent', key: ecKey() },
  gate: { id: 'gate', secret: 'gate: 100% +/&=' },
  keyGate: { id: 'key-gate', key: ecKey() },
};

const GATES = [CLIENTS.gate.id, CLIENTS.keyGate.id];

function metadata({ id, secret, key }) {
  return {
    client_id: id,
    redirect_uris: [],
    response_types: [],
    grant_types: GATES.includes(id) ? [] : ['client_credentials'],
    token_endpoint_auth_method: secret ? 'client_secret_basic' : 'private_key_jwt',
    ...(secret ? { client_secret: secret } : { jwks: { keys: [key.published] } }),
  };
}

/** What the reference design's trigger adds. Here the issuer takes the agent's word for who has signed in. */
function extraTokenClaims({ oidc: { body } }) {
  const user = USERS[body.on_behalf_of];
  return { callerApp: APP, onBehalfOf: user ?? {} };
}

function provider(origin, keys) {
  return new Provider(origin, {
    clients: Object.values(CLIENTS).map(metadata),
    jwks: { keys },
    scopes: SCOPE.split(' '),
    extraTokenClaims,
    ttl: { ClientCredentials: 600 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      dPoP: { enabled: true },
      revocation: { enabled: true, allowedPolicy: (_, client, token) => client.clientId === token.clientId },
      introspection: { enabled: true, allowedPolicy: (_, client) => GATES.includes(client.clientId) },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(_, resource) {
          if (!SERVERS[resource]) throw new errors.InvalidTarget();
          return SERVERS[resource];
        },
      },
    },
  });
}

/** A running issuer. `requests` counts what it was asked, by path; `issued` holds its tokens. */
export async function startIssuer() {
  const rsa = rsaSigningJwk();
  const requests = {};
  let callback;
  const { server, origin } = await listen((asked, answer) => {
    requests[asked.url] = (requests[asked.url] ?? 0) + 1;
    callback(asked, answer);
  });
  const issuer = {
    origin,
    requests,
    issued: [],
    /** Begins anew, at the same address and without giving up its port, with a new ES256 key and nothing remembered. */
    restart() {
      issuer.key = ecKey();
      callback = provider(origin, [issuer.key.signing, rsa]).callback();
      server.closeAllConnections();
    },
    stop: () => close(server),
  };
  issuer.restart();
  return issuer;
}
