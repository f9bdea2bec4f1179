"""The agents' pool's pre token generation trigger (Cognito event version V3_0).

A client credentials grant names only the agent. The agent sends the access token of the user
it works for along with its request, as client metadata; this trigger verifies that token and
writes what it says into the agent's own access token:

    onBehalfOf  {"sub", "username", "groups"}, or {} when no user token was sent
    callerApp   the application the agent was called from, or ""

A user token that is sent but does not verify raises, and Cognito then issues no token.

Environment: USERS_ISSUER and USERS_JWKS_URI, the users' pool's issuer and its keys.
"""

import base64
import json
import os
import time
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

_keys = {}  # kid -> public key; lives as long as the Lambda's worker, as a warm start does


class BadUserToken(Exception):
    """The user's token does not verify. The message never holds any part of the token."""


def handler(event, context):
    if event["triggerSource"] != "TokenGeneration_ClientCredentials":
        return event
    metadata = event["request"].get("clientMetadata") or {}
    on_behalf_of = {}
    # Present is meant: an empty token is a bad one, not "no user".
    if "onBehalfOfToken" in metadata:
        on_behalf_of = verified_user(metadata["onBehalfOfToken"])
    event["response"] = {
        "claimsAndScopeOverrideDetails": {
            "accessTokenGeneration": {
                "claimsToAddOrOverride": {
                    "onBehalfOf": on_behalf_of,
                    "callerApp": metadata.get("callerApp", ""),
                }
            }
        }
    }
    return event


def verified_user(token, now=None):
    """Who the access token is about, once it is sure that the users' pool issued it."""
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3:
        raise BadUserToken("not a signed JWT")
    header, claims = _json(parts[0]), _json(parts[1])
    # The algorithm is ours to choose, not the token's.
    if header.get("alg") != "RS256":
        raise BadUserToken("not RS256")
    try:
        _key(header.get("kid")).verify(
            _bytes(parts[2]), f"{parts[0]}.{parts[1]}".encode(), padding.PKCS1v15(), SHA256()
        )
    except InvalidSignature:
        raise BadUserToken("bad signature") from None
    if claims.get("iss") != os.environ["USERS_ISSUER"]:
        raise BadUserToken("another issuer")
    exp = claims.get("exp")
    if not isinstance(exp, (int, float)) or exp <= (time.time() if now is None else now):
        raise BadUserToken("expired")
    if claims.get("token_use") != "access":
        raise BadUserToken("not an access token")
    return {
        "sub": claims["sub"],
        "username": claims["username"],
        "groups": claims.get("cognito:groups", []),
    }


def _key(kid):
    # Asked for once per unknown kid, so a rotated key is found and a known one costs nothing.
    if kid not in _keys:
        with urllib.request.urlopen(os.environ["USERS_JWKS_URI"], timeout=3) as answer:
            for jwk in json.load(answer)["keys"]:
                if jwk.get("kty") == "RSA":
                    n, e = (int.from_bytes(_bytes(jwk[part]), "big") for part in ("n", "e"))
                    _keys[jwk["kid"]] = rsa.RSAPublicNumbers(e, n).public_key()
    if kid not in _keys:
        raise BadUserToken("unknown key")
    return _keys[kid]


def _bytes(text):
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise BadUserToken("not base64url") from None


def _json(part):
    try:
        value = json.loads(_bytes(part))
    except ValueError:
        raise BadUserToken("not JSON") from None
    if not isinstance(value, dict):
        raise BadUserToken("not an object")
    return value
