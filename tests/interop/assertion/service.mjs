// A service that takes what the gate has allowed: `node service.mjs VERIFY.mjs PORT KEYS ISSUER AUDIENCE`.

import { createServer } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';

const [snippet, port, keys, issuer, audience] = process.argv.slice(2);
const { verifier } = await import(pathToFileURL(snippet));
const allowed = verifier({ keys, issuer, audience });

createServer(async (asked, answer) => {
  const assertion = asked.headers['x-portcullis-assertion'] ?? '';
  const body = await buffer(asked);
  try {
    const { sub } = await allowed({ assertion, method: asked.method, target: asked.url, body });
    answer.end(JSON.stringify({ sub, assertion }));
  } catch (error) {
    answer.writeHead(403).end(JSON.stringify({ refused: error.message }));
  }
}).listen(Number(port), '127.0.0.1');
