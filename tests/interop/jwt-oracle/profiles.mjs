// The issuers: what the gate is told of each, what the library is told of it, and the claims of a good token.

import { createRequire } from "node:module";

import { issuerKeys, keySet, soleKey } from "./keys.mjs";

// Where run.sh installs it; nothing is installed among the sources.
const installed = createRequire(new URL("../../../target/interop/jwt-oracle/", import.meta.url));
const { CognitoJwtVerifier, JwtVerifier } = installed("aws-jwt-verify");

export const NOW = Math.floor(Date.now() / 1000);
/** Wide enough for variants on either side of its edge that keep their side while the test runs. */
export const LEEWAY = 120;
export const AUDIENCE = "https://api.example";
export const CLIENT = "1example23456789";
const POOL = "us-east-1_agents";
const PREFIX = "crossDomainService/";

/**
 * The scopes of ours. The gate knows them by their prefix, the library by a list: so the list holds every word with
 * this prefix that stands in a variant.
 */
export const OURS = ["read", "write", "Read", "read.all", "x/../read", "read\tuserData/read", ""].map(
  (name) => PREFIX + name,
);

const COMMON_CLAIMS = {
  sub: CLIENT,
  client_id: CLIENT,
  scope: `${OURS[0]} userData/read`,
  onBehalfOf: { sub: "user-1", username: "jane", groups: ["readaccess"] },
  callerApp: "ExampleChatApplication",
  iat: NOW - 100,
  exp: NOW + 3600,
  jti: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
};

/** `kind` is the gate's name of the profile, `settings` its own besides the issuer and the keys. */
function profile(name, { kind = name, issuer, keys = issuerKeys(), claims, verifier, ...rest }) {
  verifier.cacheJwks(JSON.parse(keySet(keys)));
  return { name, kind, issuer, keys, claims: { iss: issuer, ...COMMON_CLAIMS, ...claims }, verifier, ...rest };
}

function withAudience(name, { issuer, settings, ...rest }) {
  return profile(name, {
    issuer,
    claims: { aud: AUDIENCE },
    settings: { audiences: [AUDIENCE], ...settings },
    verifier: JwtVerifier.create({ issuer, audience: AUDIENCE, graceSeconds: LEEWAY }),
    ...rest,
  });
}

// Algorithms of the RSA-PSS family are left out: the library has none of them, so it could not judge.
const ALL = ["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"];

export const cognito = profile("cognito_access", {
  issuer: `https://cognito-idp.us-east-1.amazonaws.com/${POOL}`,
  algorithms: ["RS256"],
  claims: { token_use: "access", version: 2, auth_time: NOW - 100 },
  settings: { client_ids: [CLIENT], scope_prefix: PREFIX },
  verifier: CognitoJwtVerifier.create({
    userPoolId: POOL,
    tokenUse: "access",
    clientId: [CLIENT],
    scope: OURS,
    graceSeconds: LEEWAY,
  }),
});

export const rfc9068 = withAudience("rfc9068", {
  issuer: "https://strict.example/issuer",
  algorithms: ALL,
  header: { typ: "at+jwt" },
  settings: { algorithms: ALL },
});

export const generic = withAudience("oidc_generic", {
  issuer: "https://generic.example",
  algorithms: ["RS256", "ES256"],
});

/** An issuer that publishes a single key. */
export const sole = withAudience("sole_key", {
  kind: "oidc_generic",
  issuer: "https://sole.example",
  keys: soleKey(),
  algorithms: ["RS256"],
});

export const profiles = [cognito, rfc9068, generic, sole];

/**
 * The library's verdict. The gate believes tokens of each of its issuers, so a token that was made for one profile and
 * names the issuer of another is believed if that one's verifier believes it.
 */
export function libraryVerdict(variant) {
  const reasons = new Map();
  for (const { name, verifier } of profiles) {
    try {
      verifier.verifySync(variant.token);
      return { believed: true };
    } catch (error) {
      reasons.set(name, `${error.constructor.name}: ${error.message}`);
    }
  }
  return { believed: false, reason: reasons.get(variant.profile.name) };
}
