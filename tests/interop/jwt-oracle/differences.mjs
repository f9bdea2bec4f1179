// Where the two verdicts differ, and why. Each row must match a variant, by its tag (and profile, where `profiles` are
// given), and every variant that it matches must differ as it says, with this code in the gate's record.

/** The gate refuses what the library believes. */
export const STRICTER = [
  // Structure.
  {
    name: "base64url in another spelling",
    tags: ["padding", "noncanonical base64url"],
    code: "token_malformed",
    reason: "RFC 7515 section 2: no padding; the library also ignores bits and characters that encode nothing",
  },
  {
    name: "longer than 8192 bytes",
    tags: ["too long"],
    code: "token_malformed",
    reason: "a bound on what is looked at; the library leaves that to its caller",
  },
  {
    name: "longer than a request head may be",
    tags: ["too long for HTTP"],
    code: "http_431",
    reason: "likewise, before there is a token",
  },
  // JSON.
  {
    name: "a name twice",
    tags: ["repeated name"],
    code: "token_malformed",
    reason: "RFC 7519 section 4 allows refusing; the library takes the last",
  },
  {
    name: "no Unicode",
    tags: ["no Unicode"],
    code: "token_malformed",
    reason: "RFC 8259 section 8: the library reads U+FFFD, or half a pair, in its place",
  },
  {
    name: "a number that no double holds",
    tags: ["number beyond a double"],
    code: "token_malformed",
    reason: "the library reads infinity",
  },
  {
    name: "nested deeper than 32",
    tags: ["nested too deep"],
    code: "token_malformed",
    reason: "a bound on what is looked at",
  },
  // Header.
  {
    name: "crit, b64, zip, enc",
    tags: ["meaning changed"],
    code: "token_header_refused",
    reason: "RFC 7515 section 4.1.11: what is critical must be understood; the library reads none of them",
  },
  {
    name: "typ of another kind of token",
    tags: ["typ of another kind"],
    code: "token_type_wrong",
    reason: "RFC 8725 section 3.11; the library does not read typ",
  },
  {
    name: "typ other than at+jwt",
    tags: ["typ absent", "typ JWT"],
    profiles: ["rfc9068"],
    code: "token_type_wrong",
    reason: "RFC 9068 section 4; the library does not read typ",
  },
  {
    name: "typ at+jwt in a pool's token",
    tags: ["typ at+jwt"],
    profiles: ["cognito_access"],
    code: "token_type_wrong",
    reason: "Cognito writes none such; the library does not read typ",
  },
  {
    name: "typ that is no text",
    tags: ["typ no text"],
    code: "token_malformed",
    reason: "RFC 7515 section 4.1.9; the library does not read typ",
  },
  // Algorithms and keys.
  {
    name: "an algorithm that the issuer is not to use",
    tags: ["algorithm not listed"],
    code: "algorithm_refused",
    reason: "the gate has a list for each issuer, the library takes what the key allows",
  },
  {
    name: "ES512",
    tags: ["algorithm not supported"],
    code: "algorithm_refused",
    reason: "the gate has none of it",
  },
  {
    name: "alg that is not of the key's type and curve",
    tags: ["alg of another key"],
    code: "key_unknown",
    reason: "RFC 7518 section 3.1; the library asks only keys that name an alg themselves, and takes Ed448 too",
  },
  {
    name: "an RSA key of 1024 bits",
    tags: ["weak key"],
    code: "key_unknown",
    reason: "RFC 7518 section 3.3: 2048 bits or more",
  },
  {
    name: "a key whose use is an empty text",
    tags: ["use empty"],
    code: "key_unknown",
    reason: "that is not sig; to the library it is as good as no use",
  },
  {
    name: "a key whose key_ops lack verify",
    tags: ["key_ops without verify"],
    code: "key_unknown",
    reason: "RFC 7517 section 4.3; the library does not read key_ops",
  },
  {
    name: "a private key in the set",
    tags: ["private key in the set"],
    code: "key_unknown",
    reason: "whoever reads the set could sign with it",
  },
  // Time and issuer.
  {
    name: "no exp",
    tags: ["no exp"],
    code: "token_malformed",
    reason: "a token that never ends; the library leaves it to the issuer",
  },
  {
    name: "iat ahead",
    tags: ["iat ahead"],
    code: "token_early",
    reason: "clocks are wrong, or the token is; the library does not compare iat",
  },
  {
    name: "a date after the year 9999",
    tags: ["beyond the calendar"],
    code: "token_malformed",
    reason: "no date at all, or milliseconds; the library takes every finite number",
  },
  {
    name: "a date before 1970",
    tags: ["before 1970"],
    code: "token_malformed",
    reason: "likewise",
  },
  {
    name: "the pool's global issuer",
    tags: ["global issuer"],
    code: "issuer_unknown",
    reason: "the library knows a pool by two names, the gate by the one in its configuration",
  },
  // Claims.
  {
    name: "a claim absent that RFC 9068 asks for",
    tags: ["required claim absent", "client absent"],
    profiles: ["rfc9068"],
    code: "token_malformed",
    reason: "RFC 9068 section 2.2; the library has no such profile",
  },
  {
    name: "no client",
    tags: ["client absent"],
    profiles: ["oidc_generic"],
    code: "client_refused",
    reason: "there is no agent to authorise; the library asks for a client in Cognito's tokens only",
  },
  {
    name: "a client with an empty name",
    tags: ["client empty"],
    profiles: ["rfc9068", "oidc_generic"],
    code: "client_refused",
    reason: "likewise",
  },
  {
    name: "a client that is no name",
    tags: ["client no text", "client no name"],
    profiles: ["rfc9068", "oidc_generic"],
    code: "token_malformed",
    reason: "not text, or over 256 bytes, control characters, blanks at an end: no id for policies and logs",
  },
  {
    name: "claims that name different clients",
    tags: ["clients at odds"],
    code: "client_refused",
    reason: "the library reads none of azp, cid and appid",
  },
  {
    name: "scope and scp that differ",
    tags: ["scopes at odds"],
    code: "token_malformed",
    reason: "the library does not read scp",
  },
  {
    name: "scp of another type",
    tags: ["scp no text"],
    code: "token_malformed",
    reason: "likewise",
  },
  {
    name: "token_use other than access",
    tags: ["token_use of another kind"],
    profiles: ["rfc9068", "oidc_generic"],
    code: "token_use_wrong",
    reason: "the library reads it in Cognito's tokens only",
  },
  {
    name: "token_use that is no text",
    tags: ["token_use no text"],
    profiles: ["rfc9068", "oidc_generic"],
    code: "token_malformed",
    reason: "likewise",
  },
  {
    name: "claims of an ID token",
    tags: ["claim of an ID token"],
    code: "token_use_wrong",
    reason: "OpenID Connect Core section 2; the library reads token_use alone",
  },
  {
    name: "a token bound to a key",
    tags: ["bound to a key"],
    code: "binding_unchecked",
    reason: "RFC 7800; the library takes it for a plain bearer token",
  },
  {
    name: "act and onBehalfOf that name different users",
    tags: ["users at odds"],
    code: "delegation_conflict",
    reason: "the library knows of no delegation",
  },
];

/** The gate believes what the library refuses: each reason must say why no harm can come of it. */
export const LOOSER = [
  {
    name: "no kid where the issuer has one key",
    tags: ["no kid, one key"],
    code: "allowed",
    reason: "RFC 7515 section 4.1.4: kid is optional, and there is nothing to choose; the library asks for one",
  },
  {
    name: "the second of two keys with one kid",
    tags: ["second key of a kid"],
    code: "allowed",
    reason: "RFC 7517 section 4.5: kid need not be unique; both keys are the issuer's, the library tries one",
  },
  {
    name: "scope as an array",
    tags: ["scope an array of ours"],
    profiles: ["oidc_generic"],
    code: "allowed",
    reason: "some issuers write it so, and words are compared whole either way; the library takes text only",
  },
  {
    name: "scope as an array without the route's",
    tags: ["scope an array without ours"],
    profiles: ["oidc_generic"],
    code: "scope_missing",
    reason: "likewise; the route's own scope is still asked for",
  },
];
