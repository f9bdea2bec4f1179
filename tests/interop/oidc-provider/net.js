// Loopback HTTP, and waiting for it.

import { once } from 'node:events';
import { createServer, request as open } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export const pause = (seconds) => sleep(seconds * 1000);

/** One request on a connection of its own, so that none outlives a server that is stopped. */
export async function request(url, { method = 'GET', headers = {}, body } = {}) {
  const asked = open(url, { method, headers, agent: false, timeout: 15_000 });
  asked.on('timeout', () => asked.destroy(new Error(`no answer from ${url}`)));
  asked.end(body);
  const [answer] = await once(asked, 'response');
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += chunk;
  return { status: answer.statusCode, headers: answer.headers, text };
}

export async function listen(handler) {
  const server = createServer(handler).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
}

export function close(server) {
  const closed = once(server, 'close');
  server.close();
  server.closeAllConnections();
  return closed;
}

/** Ports that were free just now: all are held at once, so that no two are the same. */
export async function freePorts(count) {
  const held = await Promise.all(Array.from({ length: count }, () => listen()));
  await Promise.all(held.map(({ server }) => close(server)));
  return held.map(({ origin }) => Number(new URL(origin).port));
}

/** The first true value of `probe`, asked again until the time is up. */
export async function until(what, seconds, probe) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s in vain for ${what}`);
    await pause(0.02);
  }
}
