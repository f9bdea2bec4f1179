// The gate at work: the release binary, an upstream behind it, and the decision records it writes.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, createWriteStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect, createServer as createListener } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { keySet } from "./keys.mjs";
import { LEEWAY, OURS, profiles } from "./profiles.mjs";

const POLICIES = fileURLToPath(new URL("../../../policies", import.meta.url));
const STARTS_MAX = 5;

async function listening(server) {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server.address().port;
}

/** Both are held at once, so that they are not the same. */
async function freePorts() {
  const held = [createListener(), createListener()];
  const ports = await Promise.all(held.map(listening));
  await Promise.all(held.map((server) => once(server.close(), "close")));
  return ports;
}

function configuration(listen, admin, upstream) {
  const issuer = ({ name, kind, issuer, settings }) => ({
    [kind]: {
      issuer,
      jwks_file: `${name}.jwks.json`,
      leeway_s: LEEWAY,
      agent_id_prefix: name,
      user_id_prefix: "people",
      user_issuer: "https://people.example",
      ...settings,
    },
  });
  return {
    listen: `127.0.0.1:${listen}`,
    admin: `127.0.0.1:${admin}`,
    upstream: { url: `http://127.0.0.1:${upstream}` },
    issuers: profiles.map(issuer),
    routes: [
      {
        methods: ["GET"],
        path: "/users/{userId}/data",
        action: "readOnly",
        resource: 'UserData::"{path.userId}"',
        attributes: { owner: 'User::"people|{path.userId}"' },
        scope: OURS[0],
      },
    ],
  };
}

export class Gate {
  #folder = mkdtempSync(join(tmpdir(), "portcullis-jwt-oracle-"));
  // It answers as a refusal does: with the id of the decision.
  #upstream = createServer((request, answer) => {
    answer.setHeader("content-type", "application/json");
    answer.end(JSON.stringify({ decision_id: request.headers["x-portcullis-decision"] }));
  });
  #process;
  #port;
  #records = new Map();

  /** Starts a gate; what it leaves behind goes when this process does, however that comes. */
  static async start(binary) {
    const gate = new Gate();
    process.once("exit", () => gate.#discard());
    cpSync(POLICIES, join(gate.#folder, "policies"), { recursive: true });
    for (const { name, keys } of profiles) writeFileSync(join(gate.#folder, `${name}.jwks.json`), keySet(keys));
    const upstream = await listening(gate.#upstream);
    for (let starts = 1; !(await gate.#tryToStart(binary, upstream)); starts += 1) {
      if (starts === STARTS_MAX) throw new Error(`the gate does not start:\n${gate.log()}`);
    }
    return gate;
  }

  /** False when the gate ends again: a port may have been taken since it was found free. */
  async #tryToStart(binary, upstream) {
    const [port, admin] = await freePorts();
    // JSON is YAML.
    const config = join(this.#folder, "config.yaml");
    writeFileSync(config, JSON.stringify(configuration(port, admin, upstream)));
    this.#port = port;
    this.#process = spawn(binary, ["serve", "--config", config], {
      // No setting of the caller's shell reaches the gate.
      env: { PATH: process.env.PATH, HOME: this.#folder },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let failure;
    this.#process.once("error", (error) => (failure = error));
    this.#process.stderr.pipe(createWriteStream(this.#log, { flags: "a" }));
    createInterface(this.#process.stdout).on("line", (line) => {
      const record = JSON.parse(line);
      this.#records.set(record.decision_id, record);
    });
    const deadline = Date.now() + 10_000;
    while (Date.now() < deadline) {
      if (failure) throw failure;
      if (this.#hasEnded()) return false;
      const ready = await fetch(`http://127.0.0.1:${admin}/readyz`).catch(() => undefined);
      if (ready?.ok) return true;
      await pause(20);
    }
    throw new Error(`the gate is not ready after 10 s:\n${this.log()}`);
  }

  get #log() {
    return join(this.#folder, "stderr");
  }

  /** The end of what the gate has logged. */
  log() {
    return readFileSync(this.#log, "utf8").slice(-4000);
  }

  /** The gate's verdict: `believed` and the `code` of its record, or `error` when it has given none. */
  async verdict({ token, http }) {
    const answer = await this.#ask(token);
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1] ?? 0);
    if (http) {
      return status === http ? { believed: false, code: `http_${http}` } : { error: `answers ${status}, not ${http}` };
    }
    const record = await this.#recordOf(/"decision_id":"(\w{26})"/.exec(answer)?.[1]);
    if (!record) return { error: `answers ${status} without a decision record` };
    if (record.status !== status) return { error: `answers ${status} and records ${record.status}` };
    if (![200, 401, 403].includes(status)) return { error: `answers ${status} ${record.code}, which is no verdict` };
    return { believed: status !== 401, code: record.code };
  }

  async #recordOf(id) {
    const deadline = Date.now() + 5000;
    while (id && !this.#records.has(id) && Date.now() < deadline) await pause(1);
    return this.#records.get(id);
  }

  /** The bytes of the token as they stand: an HTTP client would refuse to send some. */
  #ask(token) {
    const fields = ["Host: gate.test", "Connection: close", `Authorization: Bearer ${token}`];
    return new Promise((resolve) => {
      const socket = connect(this.#port, "127.0.0.1");
      let answer = "";
      socket.setEncoding("latin1").setTimeout(10_000, () => socket.destroy());
      socket.on("data", (data) => (answer += data));
      // A reset after the answer is how a connection ends whose request was not read whole.
      socket.on("error", () => {}).on("close", () => resolve(answer));
      socket.write(["GET /users/user-1/data HTTP/1.1", ...fields, "", ""].join("\r\n"), "latin1");
    });
  }

  /** Lets the gate drain, for so long. */
  async stop() {
    this.#upstream.close();
    this.#upstream.closeAllConnections();
    if (this.#hasEnded()) return;
    const ended = once(this.#process, "exit");
    this.#process.kill("SIGTERM");
    const forced = setTimeout(() => this.#process.kill("SIGKILL"), 10_000);
    await ended;
    clearTimeout(forced);
  }

  #hasEnded() {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  #discard() {
    this.#process?.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
