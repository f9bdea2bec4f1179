// Compares the two verdicts of each variant with what differences.mjs says of it.

import { LOOSER, STRICTER } from "./differences.mjs";

const TABLES = [
  { title: "The gate is stricter:", rows: STRICTER, gateBelieves: false },
  { title: "The gate is looser:", rows: LOOSER, gateBelieves: true },
];

const ROWS = TABLES.flatMap(({ rows, gateBelieves }) => rows.map((row) => ({ row, gateBelieves })));

function namedDifferences({ tag, profile }) {
  return ROWS.filter(({ row }) => row.tags.includes(tag) && (row.profiles?.includes(profile.name) ?? true));
}

/** What is wrong with two verdicts, given the differences that have a row. */
function problem(variant, gate, library, [named, second]) {
  if (gate.error) return `the gate ${gate.error}`;
  if (second) return `two rows speak of it: "${named.row.name}" and "${second.row.name}"`;
  const verb = ({ believed }) => (believed ? "believes" : "refuses");
  const why = library.reason ? ` (${library.reason})` : "";
  const verdicts = `the gate ${verb(gate)} (${gate.code}), the library ${verb(library)}${why}`;
  if (!named && gate.believed !== library.believed) return `no row names this: ${verdicts}`;
  if (named) {
    const { row, gateBelieves } = named;
    const asNamed = gate.believed === gateBelieves && library.believed !== gateBelieves && gate.code === row.code;
    if (!asNamed) return `not as "${row.name}" has it: ${verdicts}`;
  }
  if (variant.good && !(gate.believed && library.believed)) return `a good token: ${verdicts}`;
  return undefined;
}

/** The judgement of one variant. */
export function judge(variant, gate, library) {
  const named = namedDifferences(variant);
  return {
    name: `${variant.profile.name}: ${variant.name}`,
    row: named[0]?.row,
    believed: gate.believed && library.believed,
    problem: problem(variant, gate, library, named),
  };
}

/** The lines to print, and how much is in order and how much is not. */
export function summary(judged) {
  const right = judged.filter((it) => !it.problem);
  const failures = judged.filter((it) => it.problem).map((it) => `FAIL ${it.name}: ${it.problem}`);
  const lines = [];
  for (const { title, rows } of TABLES) {
    lines.push(title);
    for (const row of rows) {
      const count = right.filter((it) => it.row === row).length;
      lines.push(`${String(count).padStart(5)}  ${row.name} (${row.code}): ${row.reason}`);
      if (!judged.some((it) => it.row === row)) failures.push(`FAIL the row "${row.name}" speaks of no variant`);
    }
  }
  const agreed = right.filter((it) => !it.row);
  const believed = agreed.filter((it) => it.believed).length;
  lines.push(`Both believe ${believed} variants and refuse ${agreed.length - believed}.`);
  return { lines: [...lines, ...failures], passed: right.length, failed: failures.length };
}
