// On whose behalf the agent acts. Whether that is enough is not asked here: the library knows nothing of it, so but
// for claims that contradict each other both believe the token.

import { issue } from "../jws.mjs";

const ON_BEHALF_OF = {
  absent: undefined,
  empty: {},
  null: null,
  "empty text": "",
  text: "user-1",
  "JSON text": '{"sub":"user-1"}',
  "JSON text with a name twice": '{"sub":"user-2","sub":"user-1"}',
  "an array": ["user-1"],
  "a number": 1,
  "another user": { sub: "user-2" },
  "without sub": { username: "jane" },
  "sub a number": { sub: 1 },
  "sub empty": { sub: "" },
  "sub an entity": { sub: { __entity: { type: "User", id: "user-1" } } },
  "groups no set": { sub: "user-1", groups: "readaccess" },
};

/** So many actors, one in the other. */
const chain = (length) => Array.from({ length }).reduce((act) => ({ sub: "agent", act }), undefined);

export function* delegation(profile) {
  const acting = (name, claims, tag) => ({ name, tag, good: !tag, token: issue(profile, { claims }) });
  for (const [name, onBehalfOf] of Object.entries(ON_BEHALF_OF)) yield acting(`onBehalfOf ${name}`, { onBehalfOf });
  const [sub, onBehalfOf] = ["user-1", undefined];
  yield acting("act alone", { sub, onBehalfOf, act: chain(1) });
  yield acting("act of eight actors", { sub, onBehalfOf, act: chain(8) });
  yield acting("act of nine actors", { sub, onBehalfOf, act: chain(9) });
  yield acting("act null", { act: null });
  yield acting("act alone, of nobody", { sub, onBehalfOf, act: {} });
  yield acting("act and onBehalfOf of one user", { sub, act: chain(2) });
  yield acting("act and onBehalfOf of two users", { act: chain(1) }, "users at odds");
  yield acting("act of nobody beside onBehalfOf", { sub, act: {} }, "users at odds");
  yield acting("act text beside onBehalfOf", { sub, act: "agent" }, "users at odds");
  yield acting("act beside an unclear onBehalfOf", { sub, onBehalfOf: "x", act: chain(1) }, "users at odds");
}
