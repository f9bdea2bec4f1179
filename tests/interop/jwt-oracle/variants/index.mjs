// Every variant: `name`, `profile` and `token`; `good` where both must believe it; `tag`, by which differences.mjs
// speaks of it; `http`, the status, where the header itself is no header and the gate never comes to see a token.

import { cognito, generic, profiles, rfc9068, sole } from "../profiles.mjs";
import { algorithms } from "./algorithms.mjs";
import { claims } from "./claims.mjs";
import { delegation } from "./delegation.mjs";
import { good, soleKey } from "./good.mjs";
import { header } from "./header.mjs";
import { json } from "./json.mjs";
import { confusions, keys } from "./keys.mjs";
import { acrossIssuers, dates, forGeneric } from "./rules.mjs";
import { signatures } from "./signatures.mjs";
import { bytes, structure } from "./structure.mjs";

const EACH = [cognito, rfc9068, generic];

/** Each family, and the profiles whose tokens it varies. */
const FAMILIES = [
  [good, profiles],
  [algorithms, EACH],
  [signatures, EACH],
  [structure, EACH],
  [bytes, [cognito]],
  [header, EACH],
  [json, EACH],
  [dates, EACH],
  [claims, EACH],
  [acrossIssuers, EACH],
  [forGeneric, [generic]],
  [delegation, EACH],
  [keys, [cognito, rfc9068]],
  [confusions, [rfc9068]],
  [soleKey, [sole]],
];

export function* variants() {
  for (const [family, bases] of FAMILIES) {
    for (const profile of bases) {
      for (const variant of family(profile)) yield { ...variant, profile };
    }
  }
}
