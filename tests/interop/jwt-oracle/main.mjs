// Portcullis's token verifier against aws-jwt-verify, variant by variant.
//
//     node main.mjs PATH_TO_PORTCULLIS_BINARY
//
// Exit 1 if a verdict differs in a way that differences.mjs does not name, or a name there stands for nothing.

import { Gate } from "./gate.mjs";
import { judge, summary } from "./judge.mjs";
import { libraryVerdict } from "./profiles.mjs";
import { variants } from "./variants/index.mjs";

// An interrupt leaves the way every other exit does, so that the gate ends too.
for (const [signal, code] of [["SIGHUP", 129], ["SIGINT", 130], ["SIGTERM", 143]]) {
  process.once(signal, () => process.exit(code));
}

const gate = await Gate.start(process.argv[2]);
const judged = [];
for (const variant of variants()) {
  judged.push(judge(variant, await gate.verdict(variant), libraryVerdict(variant)));
}
await gate.stop();

const { lines, passed, failed } = summary(judged);
for (const line of lines) console.log(line);
if (failed > 0) console.log(`the end of the gate's log:\n${gate.log()}`);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
