// The gate in njs: it verifies each token anew, since Debian's version keeps nothing between requests.
import fs from 'fs';

const keys = JSON.parse(fs.readFileSync(`${process.env.GATE_FOLDER}/keys.json`)).keys;
const algorithms = {
  RS256: [{ name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }, { name: 'RSASSA-PKCS1-v1_5' }],
  ES256: [{ name: 'ECDSA', namedCurve: 'P-256' }, { name: 'ECDSA', hash: 'SHA-256' }],
};

async function check(r) {
  const token = (r.headersIn.Authorization || '').replace(/^Bearer /, '');
  const parts = token.split('.');
  if (parts.length !== 3) {
    return r.return(401);
  }
  const head = JSON.parse(Buffer.from(parts[0], 'base64url'));
  const jwk = keys.find((key) => key.kid === head.kid && key.alg === head.alg);
  if (!jwk) {
    return r.return(401);
  }
  const algorithm = algorithms[jwk.alg];
  const pem = fs.readFileSync(`${process.env.GATE_FOLDER}/${jwk.alg}.pem`, 'utf8');
  const der = Buffer.from(pem.replace(/-----[A-Z ]+-----|\n/g, ''), 'base64');
  const key = await crypto.subtle.importKey('spki', der, algorithm[0], false, ['verify']);
  const signature = Buffer.from(parts[2], 'base64url');
  if (!(await crypto.subtle.verify(algorithm[1], key, signature, `${parts[0]}.${parts[1]}`))) {
    return r.return(401);
  }
  const claims = JSON.parse(Buffer.from(parts[1], 'base64url'));
  const fresh = claims.exp > Date.now() / 1000 && claims.iss === 'https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents';
  if (!fresh || claims.client_id !== '1example23456789' || claims.token_use !== 'access') {
    return r.return(401);
  }
  const may = claims.scope.split(' ').includes('crossDomainService/read') && claims.callerApp === 'ExampleChatApplication';
  r.return(may && r.variables.request_uri === `/users/${claims.onBehalfOf.sub}/data` ? 204 : 403);
}

export default { check };
