// An upstream that streams. What it does next waits for a word from the test where that shows an order.
//
//   /users/ID/events   an event; the next one once /release has been asked
//   /users/ID/echo     each part of the body is sent back as it comes
//   /users/ID/sink     how many bytes the body had
//   /users/ID/bytes/N  as many bytes
import { once } from 'node:events';
import { createServer } from 'node:http';

let release = () => {};
const part = Buffer.alloc(64 * 1024, 'x');

async function* bytes(count) {
  for (let left = count; left > 0; left -= part.length) yield left < part.length ? part.subarray(0, left) : part;
}

async function events(response) {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const released = new Promise((resolve) => (release = resolve));
  response.write('data: first\n\n');
  await released;
  response.end('data: second\n\n');
}

const server = createServer(async (request, response) => {
  const [, , , what, count] = request.url.split('/');
  if (request.url === '/release') {
    release();
    return response.end();
  }
  if (what === 'events') return events(response);
  if (what === 'echo') return request.pipe(response);
  if (what === 'bytes') {
    response.writeHead(200, { 'content-length': count });
    const closed = once(response, 'close');
    for await (const piece of bytes(Number(count))) {
      if (!response.write(piece)) await Promise.race([once(response, 'drain'), closed]);
      if (response.destroyed) return;
    }
    return response.end();
  }
  let size = 0;
  for await (const piece of request) size += piece.length;
  response.end(String(size));
});
server.on('clientError', (_, socket) => socket.destroy());
process.on('uncaughtException', (error) => error.code === 'ECONNRESET' || error.code === 'EPIPE' || process.exit(1));
server.requestTimeout = 0;
server.listen(Number(process.argv[2]), '127.0.0.1');
