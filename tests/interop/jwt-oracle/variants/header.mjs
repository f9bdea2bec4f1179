// Header parameters: which key, which kind of token, and everything that tries to say more.

import { issue } from "../jws.mjs";
import { stranger } from "../keys.mjs";

const KIDS = {
  absent: undefined,
  null: null,
  "a number": 5,
  "an array": ["main/+="],
  "an object": {},
  unknown: "unknown",
  "in another spelling": "MAIN/+=",
  "percent-encoded": "main%2F%2B%3D",
  "with a blank behind": "main/+= ",
  "with a zero behind": "main/+=\u0000",
  "of a file": "../../../../dev/null",
  "with SQL": "x' UNION SELECT 'secret' --",
  "of a member of every object": "__proto__",
  "of another key": "rsa",
  "of a key of another type": "ec",
  "long and unknown": "x".repeat(3000),
};

const TYPES = {
  "typ absent": [undefined],
  "typ JWT": ["JWT", "jwt", "application/JWT"],
  "typ at+jwt": ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"],
  "typ of another kind": [
    "dpop+jwt", "logout+jwt", "secevent+jwt", "id_token+jwt", "JWE",
    "", "at+jwt ", "x/at+jwt", "application/",
  ],
  "typ no text": [null, 5, ["JWT"], {}],
};

export function* header(profile) {
  const varied = (name, header, tag) => ({ name, tag, token: issue(profile, { header }) });
  for (const [name, kid] of Object.entries(KIDS)) yield varied(`kid ${name}`, { kid });
  for (const [tag, types] of Object.entries(TYPES)) {
    for (const typ of types) yield varied(`typ ${JSON.stringify(typ)}`, { typ }, tag);
  }

  const refused = {
    "crit of a claim": { crit: ["exp"], exp: 1 },
    "crit, empty": { crit: [] },
    "crit, null": { crit: null },
    "crit of what is unknown": { crit: ["urn:x"], "urn:x": true },
    "b64 false": { b64: false, crit: ["b64"] },
    "b64 true": { b64: true },
    "zip": { zip: "DEF" },
    "enc": { enc: "A256GCM" },
  };
  for (const [name, header] of Object.entries(refused)) yield varied(name, header, "meaning changed");

  // A key or the address of one, in the token itself, is never looked at: not where the signature is right …
  const jwk = stranger.publicKey.export({ format: "jwk" });
  const offered = {
    jku: "http://127.0.0.1:1/jwks",
    x5u: "http://127.0.0.1:1/x5u",
    jwk,
    x5c: [stranger.publicKey.export({ type: "spki", format: "der" }).toString("base64")],
    "x5t#S256": "AAAA",
  };
  for (const [name, value] of Object.entries(offered)) {
    yield { ...varied(`${name} in a good token`, { [name]: value }), good: true };
    // … nor where only the key that is offered would make it so (CVE-2018-0114).
    for (const kid of ["main/+=", "stranger"]) {
      const token = issue(profile, { header: { kid, [name]: value }, signer: stranger.privateKey });
      yield { name: `${name} of a stranger who names key ${kid}`, token };
    }
  }
}
