// JSON that is read in two ways, or by a lenient reader only.

import { issue } from "../jws.mjs";

/** Puts members behind the others. */
const append = (members) => (text) => text.replace(/}$/, `,${members}}`);
const nested = (depth) => `"deep":${"[".repeat(depth)}${"]".repeat(depth)}`;
const appendBytes = (...values) => (text) =>
  Buffer.concat([Buffer.from(append('"x":"')(text).slice(0, -1)), Buffer.from(values), Buffer.from('"}')]);

const REPEATED = {
  "a claim twice, the same": (text) => append(/"callerApp":"[^"]*"/.exec(text)[0])(text),
  "exp twice": append('"exp":9999999999'),
  "iss twice": (text) => append(/"iss":"[^"]*"/.exec(text)[0])(text),
  "scope twice, the first another": (text) => text.replace("{", '{"scope":"other",'),
  "a claim twice in two spellings": append('"caller\\u0041pp":"x"'),
  "onBehalfOf.sub twice": (text) => text.replace('"onBehalfOf":{', '"onBehalfOf":{"sub":"user-2",'),
  "a name twice deep inside": append('"a":[{"b":{"c":1,"c":1}}]'),
  "an empty name twice": append('"":1,"":2'),
};

const NO_OBJECT = [
  '["a"]', '"a"', "1", "null", "true", "", " ",
  "{", "{}}", "{} {}", "{'a':1}", "{a:1}", "<html>", "\u0000",
];

const BROKEN = {
  "something behind the payload": (text) => `${text}x`,
  "a second payload behind the first": (text) => text + text,
  "a zero behind the payload": (text) => `${text}\u0000`,
  "a byte order mark before the payload": (text) => `\ufeff${text}`,
  "a no-break space before the payload": (text) => `\u00a0${text}`,
  "a comma behind the last claim": (text) => text.replace(/}$/, ",}"),
  "a comment": (text) => text.replace("{", "{/**/"),
  "NaN": append('"x":NaN'),
  "a number with a zero before": append('"x":01'),
  "a number with a plus": append('"x":+1'),
  "a hexadecimal number": append('"x":0x10'),
  "a line feed in a string": append('"x":"\n"'),
  "an unknown escape": append('"x":"\\x41"'),
  "payload in UTF-16": (text) => Buffer.from(text, "utf16le"),
  "exp beyond every number": (text) => text.replace(/"exp":\d+/, '"exp":1e999'),
};

/** With the tag, and whether both believe it. */
const AT_THE_EDGE = {
  "a number beyond every double": ["number beyond a double", append('"x":1e999')],
  "a high surrogate alone": ["no Unicode", append('"x":"\\ud800"')],
  "a low surrogate alone": ["no Unicode", append('"x":"\\udc00a"')],
  "surrogates in the wrong order": ["no Unicode", append('"x":"\\udc00\\ud800"')],
  "a byte that is no UTF-8": ["no Unicode", appendBytes(0xff)],
  "an overlong spelling in UTF-8": ["no Unicode", appendBytes(0xc0, 0xaf)],
  "a surrogate in UTF-8": ["no Unicode", appendBytes(0xed, 0xa0, 0x80)],
  "nested 32 deep, the payload included": [undefined, append(nested(31)), true],
  "nested 33 deep": ["nested too deep", append(nested(32))],
  "nested 2000 deep": ["nested too deep", append(nested(2000))],
  "a long number": [undefined, append('"x":123456789012345678901234567890.5'), true],
  "a number too small": [undefined, append('"x":1e-999'), true],
  "a pair of surrogates": [undefined, append('"x":"\\ud83d\\udd11"'), true],
  "claims named as members of every object": [
    undefined,
    append('"__proto__":{"exp":1},"constructor":1,"toString":1'),
    true,
  ],
  "exp inside __proto__ alone": ["no exp", (text) => text.replace(/"exp":(\d+)/, '"__proto__":{"exp":$1}')],
};

export function* json(profile) {
  for (const [name, editPayload] of Object.entries(REPEATED)) {
    yield { name, tag: "repeated name", token: issue(profile, { editPayload }) };
  }
  const header = {
    "alg twice": '"alg":"RS256"',
    "alg twice in two spellings": '"\\u0061lg":"RS256"',
    "kid twice": '"kid":"main/+="',
    "x twice": '"x":1,"x":2',
  };
  for (const [name, members] of Object.entries(header)) {
    yield { name, tag: "repeated name", token: issue(profile, { editHeader: append(members) }) };
  }
  for (const text of NO_OBJECT) {
    yield { name: `the payload ${JSON.stringify(text)}`, token: issue(profile, { editPayload: () => text }) };
    yield { name: `the header ${JSON.stringify(text)}`, token: issue(profile, { editHeader: () => text }) };
  }
  for (const [name, editPayload] of Object.entries(BROKEN)) yield { name, token: issue(profile, { editPayload }) };
  for (const [name, [tag, editPayload, good]] of Object.entries(AT_THE_EDGE)) {
    yield { name, tag, good, token: issue(profile, { editPayload }) };
  }
}
