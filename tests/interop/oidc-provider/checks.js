// What was found: one line for each check, and the totals.

export const totals = { passed: 0, failed: 0 };

/** One result line. `problems` says what is wrong; nothing in it is a pass. */
export function check(name, problems) {
  const found = problems.filter(Boolean);
  totals[found.length ? 'failed' : 'passed'] += 1;
  console.log(found.length ? `FAILED - ${name}: ${found.join('; ')}` : `ok - ${name}`);
}

export function differs(what, is, should) {
  const [found, wanted] = [is, should].map((value) => JSON.stringify(value));
  return found === wanted ? undefined : `${what} is ${found}, not ${wanted}`;
}

export function lacks(what, text, part) {
  return text?.includes(part) ? undefined : `${what} is ${JSON.stringify(text)}, without ${part}`;
}
