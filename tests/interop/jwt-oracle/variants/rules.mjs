// Time, issuer and audience.

import { issue } from "../jws.mjs";
import { AUDIENCE, LEEWAY, NOW, cognito, generic, profiles } from "../profiles.mjs";

/** Seconds from the edge of the leeway: the clock goes on while the test runs. */
const MARGIN = 60;
/** The last second of the year 9999. */
const CALENDAR_END = 253_402_300_799;

const NO_DATES = {
  "empty text": "",
  text: String(NOW + 600),
  null: null,
  true: true,
  "an array": [NOW + 600],
  "an object": {},
};

export function* dates(profile) {
  const dated = (name, claims, tag, good) => ({ name, tag, good, token: issue(profile, { claims }) });
  for (const name of ["exp", "nbf", "iat"]) {
    for (const [what, value] of Object.entries(NO_DATES)) yield dated(`${name} ${what}`, { [name]: value });
  }
  yield dated("exp absent", { exp: undefined }, "no exp");
  yield dated("exp negative", { exp: -1 });
  yield dated("exp zero", { exp: 0 });
  yield dated("exp past, within the leeway", { exp: NOW - LEEWAY + MARGIN }, undefined, true);
  yield dated("exp past", { exp: NOW - LEEWAY - MARGIN });
  yield dated("exp past by a fraction more", { exp: NOW - LEEWAY - MARGIN + 0.5 });
  yield dated("exp in milliseconds", { exp: (NOW + 3600) * 1000 }, "beyond the calendar");
  yield dated("exp at the end of the calendar", { exp: CALENDAR_END }, undefined, true);
  for (const exp of [CALENDAR_END + 1, 2 ** 53, 2 ** 64, 1e300]) {
    yield dated(`exp ${exp}`, { exp }, "beyond the calendar");
  }

  yield dated("nbf zero", { nbf: 0 }, undefined, true);
  yield dated("nbf ahead, within the leeway", { nbf: NOW + LEEWAY - MARGIN }, undefined, true);
  yield dated("nbf ahead", { nbf: NOW + LEEWAY + MARGIN });
  for (const nbf of [CALENDAR_END, 1e300]) yield dated(`nbf ${nbf}`, { nbf });
  yield dated("nbf negative", { nbf: -1 }, "before 1970");

  yield dated("iat absent", { iat: undefined }, "required claim absent");
  yield dated("iat zero", { iat: 0 }, undefined, true);
  yield dated("iat ahead, within the leeway", { iat: NOW + LEEWAY - MARGIN }, undefined, true);
  yield dated("iat ahead", { iat: NOW + LEEWAY + MARGIN }, "iat ahead");
  yield dated("iat at the end of the calendar", { iat: CALENDAR_END }, "iat ahead");
  yield dated("iat 1e300", { iat: 1e300 }, "beyond the calendar");
  yield dated("iat negative", { iat: -1 }, "before 1970");
}

export function* acrossIssuers(profile) {
  const claiming = (name, claims, tag) => ({ name, tag, token: issue(profile, { claims }) });
  const issuers = {
    absent: undefined,
    null: null,
    empty: "",
    "a number": 1,
    "an array that holds it": [profile.issuer],
    "an object": { [profile.issuer]: true },
    another: "https://evil.example",
    "with a slash more": `${profile.issuer}/`,
    "in capitals": profile.issuer.toUpperCase(),
    "with a blank behind": `${profile.issuer} `,
    "with a zero behind": `${profile.issuer}\u0000`,
    "with a port": profile.issuer.replace(/(https:\/\/[^/]+)/, "$1:443"),
    "with a user": profile.issuer.replace("https://", "https://a@"),
    "over http": profile.issuer.replace("https:", "http:"),
    "of which it is the beginning": `${profile.issuer}.evil.example`,
  };
  for (const [name, iss] of Object.entries(issuers)) yield claiming(`iss ${name}`, { iss });
  // Keys of one issuer under the name of another: the `kid` is the same, the key is not.
  for (const { issuer, name } of profiles.filter((other) => other !== profile)) {
    for (const alg of ["RS256", "ES256"]) {
      const token = issue(profile, { alg, claims: { iss: issuer, aud: AUDIENCE, token_use: "access" } });
      yield { name: `${alg}, iss of ${name}`, token };
    }
  }
  if (profile === cognito) {
    const iss = profile.issuer.replace("//cognito-idp", "//issuer-cognito-idp");
    yield claiming("iss of the pool in its global form", { iss }, "global issuer");
  }

  const audiences = {
    absent: undefined,
    null: null,
    empty: "",
    "a number": 1,
    "an object": { [AUDIENCE]: true },
    another: "https://other.example",
    "in capitals": AUDIENCE.toUpperCase(),
    "with a slash more": `${AUDIENCE}/`,
    "with a blank behind": `${AUDIENCE} `,
    "of which it is the beginning": `${AUDIENCE}.evil.example`,
    "in one text with another": `${AUDIENCE} https://other.example`,
    "in an array": [AUDIENCE],
    "in an array, last": ["x", "y", AUDIENCE],
    "in an array, twice": [AUDIENCE, AUDIENCE],
    "in an array with a number": [AUDIENCE, 1],
    "in an array with null": [null, AUDIENCE],
    "in an array in an array": [[AUDIENCE]],
    "an empty array": [],
    "an array of others": ["x", "y"],
  };
  for (const [name, aud] of Object.entries(audiences)) yield claiming(`aud ${name}`, { aud });
}

/** Where issuers of the generic profile name the client and the scopes. */
export function* forGeneric(profile) {
  const claiming = (name, claims, tag) => ({ name, tag, good: !tag, token: issue(profile, { claims }) });
  const client_id = undefined;
  for (const name of ["azp", "cid", "appid"]) {
    yield claiming(`the client in ${name}`, { client_id, [name]: "agent" });
    yield claiming(`${name} and client_id, the same`, { [name]: generic.claims.client_id });
    yield claiming(`${name} and client_id, not the same`, { [name]: "agent" }, "clients at odds");
    yield claiming(`${name} a number`, { client_id, [name]: 5 }, "client no text");
  }
  const scope = undefined;
  yield claiming("the scopes in scp, an array", { scope, scp: ["crossDomainService/read"] });
  yield claiming("the scopes in scp, text", { scope, scp: "crossDomainService/read" });
  yield claiming("scp and scope, the same", { scp: generic.claims.scope.split(" ") });
  yield claiming("scp and scope, not the same", { scp: "crossDomainService/read" }, "scopes at odds");
  yield claiming("scp null", { scp: null }, "scp no text");
  yield claiming("scp a number", { scp: 5 }, "scp no text");
  yield claiming("scp an array with a number", { scope, scp: ["crossDomainService/read", 5] }, "scp no text");
}
