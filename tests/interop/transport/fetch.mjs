// Node's fetch, and its own HTTP/2, through the gate: `fetch.mjs URL TOKEN RELEASE`.
import assert from 'node:assert/strict';
import { connect } from 'node:http2';

const [url, token, releaseUrl] = process.argv.slice(2);
const headers = { authorization: `Bearer ${token}` };
const users = `${url}/users/user-1`;

// A body that goes on only when the part before it has come back.
let more;
const body = new ReadableStream({ start: (controller) => (more = controller) });
more.enqueue(new TextEncoder().encode('one'));
const echo = await fetch(`${users}/echo`, { method: 'POST', body, duplex: 'half', headers });
const parts = echo.body.pipeThrough(new TextDecoderStream()).getReader();
assert.equal((await parts.read()).value, 'one');
more.enqueue(new TextEncoder().encode('two'));
assert.equal((await parts.read()).value, 'two');
more.close();
assert.ok((await parts.read()).done);

// Events come as they are sent.
const events = (await fetch(`${users}/events`, { headers })).body.pipeThrough(new TextDecoderStream()).getReader();
assert.equal((await events.read()).value, 'data: first\n\n');
await fetch(releaseUrl);
assert.equal((await events.read()).value, 'data: second\n\n');

// A refusal in between leaves the client well.
const refused = await fetch(`${url}/users/user-2/data`, { headers });
assert.equal(refused.status, 403);
assert.equal((await refused.json()).status, 403);
assert.equal((await fetch(`${users}/data`, { headers })).status, 200);

// HTTP/2 with prior knowledge: many streams on a connection, each decided by itself.
const session = connect(url);
const ask = (user) =>
  new Promise((resolve, reject) => {
    const stream = session.request({ ':path': `/users/${user}/data`, ...headers });
    stream.on('response', (head) => resolve(head[':status'])).on('error', reject).resume();
  });
const statuses = await Promise.all(Array.from({ length: 40 }, (_, index) => ask(index % 2 ? 'user-1' : 'user-2')));
assert.deepEqual(statuses, Array.from({ length: 40 }, (_, index) => (index % 2 ? 200 : 403)));
session.close();
