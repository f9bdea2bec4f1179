// The parts of a token, their base64url, and how long a token may be.

import { issue } from "../jws.mjs";

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** The same bytes, spelt with a last character whose unused bits are not zero. */
function noncanonical(part) {
  return part.slice(0, -1) + ALPHABET[ALPHABET.indexOf(part.at(-1)) | 1];
}

/** Fills JSON with blanks until its base64url ends in a character with unused bits. */
const uneven = (text) => text + " ".repeat((4 - (Buffer.byteLength(text) % 3)) % 3);

/** A good token of exactly so many bytes. */
function sized(profile, bytes) {
  // Parts of 4n + 1 characters there are none: the header grows until the payload can fill the rest.
  for (let x = ""; ; x += "x") {
    const given = (filler) => ({ header: { x }, claims: { filler: "f".repeat(filler) } });
    const rest = bytes - issue(profile, given(0)).length;
    for (let filler = Math.floor((rest * 3) / 4) - 2; filler < rest; filler += 1) {
      const token = issue(profile, given(filler));
      if (token.length === bytes) return token;
      if (token.length > bytes) break;
    }
  }
}

export function* structure(profile) {
  const token = issue(profile);
  const [head, payload, signature] = token.split(".");
  const parts = {
    "one part": head,
    "two parts": `${head}.${payload}`,
    "two parts and a dot": `${head}.${payload}.`,
    "a dot before": `.${token}`,
    "a dot behind": `${token}.`,
    "four parts": `${token}.${signature}`,
    "an empty part inside": `${head}..${payload}.${signature}`,
    "five parts, as an encrypted token has": `${head}.${payload}.${signature}.${payload}.${signature}`,
    "no payload": `${head}..${signature}`,
    "no header": `.${payload}.${signature}`,
    "dots alone": "..",
    "a thousand dots": ".".repeat(1000),
    "no base64url at all": "a.b.c",
    "a signature with a character of no alphabet": `${head}.${payload}.?${signature}`,
    "a comma and another token": `${token},${token}`,
    "quotes around": `"${token}"`,
  };
  for (const [name, token] of Object.entries(parts)) yield { name, token };

  const edited = (name, tag, given) => ({ name, tag, token: issue(profile, given) });
  yield edited("padding in the signed header", "padding", { editParts: ([head, body]) => [`${head}==`, body] });
  yield edited("padding in the signed payload", "padding", { editParts: ([head, body]) => [head, `${body}=`] });
  yield { name: "padding of the signature", tag: "padding", token: `${token}==` };
  yield { name: "too much padding", token: `${token}===` };
  yield edited("a header that is not canonical base64url", "noncanonical base64url", {
    editHeader: uneven,
    editParts: ([head, body]) => [noncanonical(head), body],
  });
  yield edited("a payload that is not canonical base64url", "noncanonical base64url", {
    editPayload: uneven,
    editParts: ([head, body]) => [head, noncanonical(body)],
  });
  yield {
    name: "a signature that is not canonical base64url",
    tag: "noncanonical base64url",
    token: `${head}.${payload}.${noncanonical(signature)}`,
  };
  yield edited("a payload with a stray character at its end", "noncanonical base64url", {
    editPayload: (text) => text + " ".repeat((3 - (Buffer.byteLength(text) % 3)) % 3),
    editParts: ([head, body]) => [head, `${body}A`],
  });
  yield edited("a payload in the standard alphabet", undefined, {
    claims: { marks: "????????" },
    editParts: ([head, body]) => [head, body.replaceAll("_", "/").replaceAll("-", "+")],
  });

  for (const bytes of [8190, 8191, 8192]) yield { name: `${bytes} bytes`, good: true, token: sized(profile, bytes) };
  for (const bytes of [8193, 16_384]) yield { name: `${bytes} bytes`, tag: "too long", token: sized(profile, bytes) };
}

/** Bytes that no token holds; some of them no header either. */
export function* bytes(profile) {
  const token = issue(profile);
  const middle = token.length >> 1;
  const inside = (text) => token.slice(0, middle) + text + token.slice(middle);
  for (const [name, text] of [["a blank", " "], ["a tab", "\t"]]) {
    yield { name: `${name} before`, token: text + token };
    yield { name: `${name} inside`, token: inside(text) };
  }
  yield { name: "a blank and another token", token: `${token} ${token}` };
  yield { name: "a byte over 127 inside", token: inside("\u00e9") };
  yield { name: "a byte order mark before", token: `\u00ef\u00bb\u00bf${token}` };
  const controls = { NUL: "\0", SOH: "\u0001", DEL: "\u007f", CR: "\r", LF: "\n", "a folded line": "\r\n " };
  for (const [name, text] of Object.entries(controls)) yield { name: `${name} inside`, http: 400, token: inside(text) };
  yield { name: "longer than a request head", tag: "too long for HTTP", http: 431, token: sized(profile, 40_000) };
}
