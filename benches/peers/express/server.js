// What a service's developer would write: a proxy of Express that checks tokens with aws-jwt-verify and asks Cedar's WASM build.
import { readFileSync } from 'node:fs';
import { Agent } from 'node:http';
import * as cedar from '@cedar-policy/cedar-wasm/nodejs';
import { JwtVerifier } from 'aws-jwt-verify';
import express from 'express';
import { createProxyMiddleware } from 'http-proxy-middleware';

const [port, upstream, folder, mode] = process.argv.slice(2);
const issuer = 'https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents';
const verifier = JwtVerifier.create({ issuer, audience: null });
verifier.cacheJwks(JSON.parse(readFileSync(`${folder}/keys.json`, 'utf8')));
const policies = readFileSync(`${folder}/one.cedar`, 'utf8');
cedar.preparsePolicySet('one', { staticPolicies: policies });

const app = express();
app.disable('x-powered-by');
if (mode === 'gate') {
  app.get('/users/:id/data', async (request, response, next) => {
    let claims;
    try {
      claims = await verifier.verify((request.headers.authorization ?? '').replace(/^Bearer /, ''));
      if (claims.client_id !== '1example23456789') throw new Error('another client');
    } catch {
      return response.status(401).json({ error: 'invalid_token' });
    }
    const user = { type: 'User', id: claims.onBehalfOf.sub };
    const resource = { type: 'UserData', id: request.params.id };
    const answer = cedar.statefulIsAuthorized({
      principal: { type: 'Agent', id: claims.client_id },
      action: { type: 'Action', id: 'readOnly' },
      resource,
      context: { scope: claims.scope.split(' '), callerApp: claims.callerApp, user: { __entity: user } },
      preparsedPolicySetId: 'one',
      entities: [{ uid: resource, attrs: { owner: { __entity: { type: 'User', id: request.params.id } } }, parents: [] }],
    });
    if (answer.type !== 'success' || answer.response.decision !== 'allow') {
      return response.status(403).json({ error: 'access_denied' });
    }
    next();
  });
}
const agent = new Agent({ keepAlive: true });
app.use(createProxyMiddleware({ target: upstream, agent }));
app.listen(Number(port), '127.0.0.1');
