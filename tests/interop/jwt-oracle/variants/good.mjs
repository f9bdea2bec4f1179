// Tokens that both must believe: without these, agreement could mean that everything is refused.

import { issue } from "../jws.mjs";
import { AUDIENCE, NOW, OURS } from "../profiles.mjs";

export function* good(profile) {
  const believed = (name, given) => ({ name, good: true, token: issue(profile, given) });
  for (const alg of profile.algorithms) yield believed(`a good token, ${alg}`, { alg });
  const audience = profile.claims.aud && { aud: ["https://other.example", AUDIENCE] };
  yield believed("several audiences", { claims: audience });
  yield believed("one scope", { claims: { scope: OURS[0] } });
  yield believed("scopes and blanks", { claims: { scope: ` userData/read  ${OURS[0]} ` } });
  yield believed("dates with fractions", { claims: { exp: NOW + 600.25, iat: NOW - 0.5, nbf: NOW - 60.75 } });
  const unknown = { a: null, b: [1, { c: true }], d: -1.5e-7, e: "\u0000é🔑" };
  yield believed("claims that nobody knows", { claims: unknown });
  yield believed("a header that says more", { header: { cty: "x", x5t: "x", unknown: [1] } });
  const spaced = (text) => `\n ${text}\t `;
  yield believed("blanks around the JSON", { editPayload: spaced, editHeader: spaced });
  yield believed("names and values with escapes", {
    editPayload: (text) => text.replace('"exp"', '"\\u0065xp"').replace('"callerApp":"E', '"callerApp":"\\u0045'),
    editHeader: (text) => text.replace('"alg":"', '"\\u0061lg":"'),
  });
}

export function* soleKey(profile) {
  yield { name: "no kid", tag: "no kid, one key", token: issue(profile, { header: { kid: undefined } }) };
  yield { name: "another kid", token: issue(profile, { header: { kid: "other" } }) };
  yield {
    name: "no kid, payload changed",
    token: issue(profile, { header: { kid: undefined }, editSignature: (bytes) => bytes.fill(1) }),
  };
}
