// The gate: the release binary in front of an upstream that answers with what it was sent.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { check, differs, lacks, totals } from './checks.js';
import { APP, READ } from './issuer.js';
import { freePorts, listen, request, until } from './net.js';

const folder = mkdtempSync(join(tmpdir(), 'portcullis-oidc-provider-'));
const children = new Set();

// However this process ends, by itself or by a signal, nothing that it began stays behind.
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

const upstream = { requests: 0 };
upstream.origin = (await listen((asked, answer) => {
  upstream.requests += 1;
  answer.end(JSON.stringify(asked.rawHeaders));
})).origin;

/** A gate that is ready, or refused to start. `settings` makes its `issuers` and the like from its origin. */
async function start({ binary, policies }, { settings, files = {}, env = {} }) {
  const [port, admin] = await freePorts(2);
  const origin = `http://127.0.0.1:${port}`;
  const home = mkdtempSync(join(folder, 'gate-'));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(home, name), text, { mode: 0o600 });
  // JSON is YAML.
  writeFileSync(join(home, 'config.yaml'), JSON.stringify({
    listen: `127.0.0.1:${port}`,
    admin: `127.0.0.1:${admin}`,
    upstream: { url: upstream.origin },
    policies,
    routes: [{
      methods: ['GET'],
      path: '/users/{userId}/data',
      action: 'readOnly',
      resource: 'UserData::"{path.userId}"',
      attributes: { owner: 'User::"{path.userId}"' },
      scope: READ,
    }],
    ...settings(origin),
  }, null, 1));
  // As it ships: no setting of the caller's shell reaches it.
  const child = spawn(binary, ['serve', '--config', join(home, 'config.yaml')], {
    cwd: home, env: { PATH: process.env.PATH, HOME: home, ...env }, stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.add(child);
  const gate = { origin, child, stdout: '', stderr: '' };
  gate.ended = once(child, 'close').finally(() => children.delete(child));
  for (const name of ['stdout', 'stderr']) {
    child[name].setEncoding('utf8').on('data', (text) => { gate[name] += text; });
  }
  const gone = gate.ended.then(() => 'gone');
  const ready = () => request(`http://127.0.0.1:${admin}/readyz`).then(({ status }) => status === 200, () => false);
  gate.refused = await until('the gate to be ready', 10, () => Promise.race([gone, ready()])) === 'gone';
  return gate;
}

async function startOnFreePorts(...wanted) {
  for (let tries = 3; ; tries -= 1) {
    const gate = await start(...wanted);
    if (!gate.refused) return gate;
    // Another program may have taken a port between our look and the gate's start.
    const taken = gate.stderr.includes('cannot listen');
    if (!taken || tries === 1) throw new Error(`the gate did not start:\n${gate.stderr}`);
  }
}

async function stop({ child, ended }) {
  child.kill('SIGTERM');
  const patience = setTimeout(() => child.kill('SIGKILL'), 10_000);
  await ended;
  clearTimeout(patience);
}

/** The complete decision records so far. */
const records = ({ stdout }) => stdout.split('\n').slice(0, -1).map((line) => JSON.parse(line));

/** One request for a user's data: the answer, its record, and what of it reached the upstream. */
async function call(gate, user, headers, query = '') {
  const [reached, decided] = [upstream.requests, records(gate).length];
  const answer = await request(`${gate.origin}/users/${user.sub}/data${query}`, { headers });
  const [record, ...more] = await until('a decision record', 5, () => {
    const fresh = records(gate).slice(decided);
    return fresh.length > 0 && fresh;
  });
  return { ...answer, record, records: 1 + more.length, reached: upstream.requests - reached };
}

/**
 * Runs `use` with a gate's `get(user, headers, query)` and its origin, ends the gate, and sees that it wrote none of
 * the `secrets` that it came to know.
 */
export async function withGate(place, { name, secrets, ...wanted }, use) {
  const failedBefore = totals.failed;
  const gate = await startOnFreePorts(place, wanted);
  try {
    await use((...asked) => call(gate, ...asked), gate.origin);
  } finally {
    await stop(gate);
    if (totals.failed > failedBefore) console.error(`--- the end of what the gate logged\n${gate.stderr.slice(-4000)}`);
  }
  const leaked = secrets().filter((secret) => (gate.stdout + gate.stderr).includes(secret));
  check(`gate: ${name}: no token or secret in what it has written`, [
    gate.stdout === '' && 'it has written no record',
    leaked.length > 0 && `${leaked.length} of them are in it`,
  ]);
}

/** The answer's status, its one record, whether the upstream was asked, and the parts of its challenge. */
export function expect(name, answer, status, code, ...more) {
  const { decision, code: recorded } = answer.record;
  check(`gate: ${name}`, [
    differs('the status', answer.status, status),
    differs('the decision', [decision, recorded], [status === 200 ? 'allow' : 'deny', code]),
    differs('the number of records', answer.records, 1),
    differs('the number of upstream requests', answer.reached, status === 200 ? 1 : 0),
    ...more,
  ]);
}

export const challenged = (answer, ...parts) =>
  parts.map((part) => lacks('WWW-Authenticate', answer.headers['www-authenticate'], part));

/** What is wrong with the identity that the upstream was told, with names compared as CGI would compare them. */
export function told(answer, agent, user) {
  if (answer.status !== 200) return [];
  const raw = JSON.parse(answer.text);
  const seen = {};
  for (let at = 0; at < raw.length; at += 2) {
    (seen[raw[at].toLowerCase().replaceAll('_', '-')] ??= []).push(raw[at + 1]);
  }
  const identity = { agent: agent.id, user: user.sub, app: APP, decision: answer.record.decision_id };
  return [
    ...Object.entries(identity).map(([name, value]) => differs(name, seen[`x-portcullis-${name}`], [value])),
    seen.authorization && 'the upstream saw the token',
    differs('the recorded agent, user and app', ['agent', 'user', 'app'].map((name) => answer.record[name]),
      [identity.agent, identity.user, identity.app]),
  ];
}
