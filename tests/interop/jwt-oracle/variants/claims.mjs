// Claims that say what a token is for, by their absence, their type and their spelling.

import { issue } from "../jws.mjs";
import { CLIENT, OURS } from "../profiles.mjs";

const [READ] = OURS;

/** By claim: the value's name, the value, and the tag where the two are known to differ. */
const TABLE = {
  token_use: [
    ["absent", undefined],
    ["access", "access"],
    ["id", "id", "token_use of another kind"],
    ["refresh", "refresh", "token_use of another kind"],
    ["in capitals", "ACCESS", "token_use of another kind"],
    ["with a blank", "access ", "token_use of another kind"],
    ["empty", "", "token_use of another kind"],
    ["null", null, "token_use no text"],
    ["a number", 1, "token_use no text"],
    ["an array", ["access"], "token_use no text"],
  ],
  client_id: [
    ["absent", undefined, "client absent"],
    ["empty", "", "client empty"],
    ["null", null, "client no text"],
    ["a number", 5, "client no text"],
    ["an array", [CLIENT], "client no text"],
    ["an object", { [CLIENT]: true }, "client no text"],
    ["another", "stranger"],
    ["in capitals", CLIENT.toUpperCase()],
    ["with something behind", `${CLIENT}0`],
    ["with a blank behind", `${CLIENT} `, "client no name"],
    ["with a line feed behind", `${CLIENT}\n`, "client no name"],
    ["with a zero inside", "1example\u000023456789", "client no name"],
    ["256 bytes long", "c".repeat(256)],
    ["257 bytes long", "c".repeat(257), "client no name"],
  ],
  scope: [
    ["absent", undefined],
    ["empty", ""],
    ["a blank", " "],
    ["another's", "userData/read"],
    ["ours twice", `${READ} ${READ}`],
    ...OURS.map((scope) => [JSON.stringify(scope), scope]),
    ["with something before", `x${READ}`],
    ["without its mark", "crossDomainService"],
    ["of a longer name", "crossDomainServices/read"],
    ["in other capitals", "crossdomainservice/read"],
    ["separated by a comma", `userData/read,${READ}`],
    ["separated by a tab", `userData/read\t${READ}`],
    ["separated by a no-break space", `userData/read\u00a0${READ}`],
    ["null", null, "scope null"],
    ["a number", 5],
    ["an object", { [READ]: true }],
    ["true", true],
    ["an array of ours", [READ], "scope an array of ours"],
    ["an array of another's", ["userData/read"], "scope an array without ours"],
    ["an empty array", [], "scope an array without ours"],
    ["an array with a number", [READ, 5]],
    ["an array in an array", [[READ]]],
  ],
  sub: [
    ["absent", undefined, "required claim absent"],
    ["empty", ""],
    ["null", null, "sub or jti null"],
    ["a number", 5, "sub or jti no text"],
    ["an array", ["user-1"], "sub or jti no text"],
    ["an object", {}, "sub or jti no text"],
    ["a control character", "\u0000"],
  ],
  jti: [
    ["absent", undefined, "required claim absent"],
    ["empty", ""],
    ["null", null, "sub or jti null"],
    ["a number", 5, "sub or jti no text"],
    ["an array", ["a"], "sub or jti no text"],
  ],
  // RFC 7800: whoever holds such a token must prove more than that.
  cnf: [
    ["of a key (DPoP)", { jkt: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" }, "bound to a key"],
    ["of a certificate", { "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" }, "bound to a key"],
    ["empty", {}, "bound to a key"],
    ["null", null, "bound to a key"],
    ["text", "x", "bound to a key"],
  ],
  nonce: [
    ["text", "n", "claim of an ID token"],
    ["null", null],
  ],
  at_hash: [["text", "h", "claim of an ID token"]],
  c_hash: [["text", "h", "claim of an ID token"]],
  callerApp: [
    ["absent", undefined],
    ["empty", ""],
    ["another", "OtherApplication"],
    ["a number", 5],
    ["null", null],
  ],
  auth_time: [["text", "yesterday"]],
  username: [["an array", ["jane"]]],
};

export function* claims(profile) {
  for (const [claim, rows] of Object.entries(TABLE)) {
    for (const [what, value, tag] of rows) {
      yield { name: `${claim} ${what}`, tag, token: issue(profile, { claims: { [claim]: value } }) };
    }
  }
}
