"""The issuer of the comparison: two keys, and tokens such as Cognito makes for agents."""

import base64
import json
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents"
CLIENT = "1example23456789"
SCOPE = "crossDomainService/read"
APP = "ExampleChatApplication"


def b64(number, length):
    return base64.urlsafe_b64encode(number.to_bytes(length, "big")).rstrip(b"=").decode()


class Issuer:
    """Its keys stand in `folder`: `keys.json`, and each public key as `RS256.pem` and `ES256.pem`."""

    def __init__(self, folder):
        self.keys = {"RS256": rsa.generate_private_key(65537, 2048), "ES256": ec.generate_private_key(ec.SECP256R1())}
        rs, es = (self.keys[name].public_key().public_numbers() for name in ("RS256", "ES256"))
        self.jwks = {"keys": [
            {"kty": "RSA", "kid": "RS256", "use": "sig", "alg": "RS256", "n": b64(rs.n, 256), "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "kid": "ES256", "use": "sig", "alg": "ES256", "x": b64(es.x, 32), "y": b64(es.y, 32)},
        ]}
        (folder / "keys.json").write_text(json.dumps(self.jwks))
        for name, key in self.keys.items():
            pem = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            (folder / f"{name}.pem").write_bytes(pem)

    def token(self, algorithm="RS256", serial=0, kid=None, **over):
        now = int(time.time())
        claims = {
            "sub": CLIENT, "iss": ISSUER, "version": 2, "client_id": CLIENT,
            "onBehalfOf": {"sub": "user-1", "username": "my-example-username", "groups": ["readaccess"]},
            "callerApp": APP, "token_use": "access", "scope": f"{SCOPE} userData/read",
            "auth_time": now, "iat": now, "exp": now + 7200, "jti": f"aaaaaaaa-bbbb-cccc-dddd-{serial:012}", **over,
        }
        return jwt.encode(claims, self.keys[algorithm], algorithm, headers={"kid": kid or algorithm})

    def forged(self, serials, algorithm="RS256"):
        """Tokens that have each the signature of the one before."""
        before = self.token(algorithm).rpartition(".")[2]
        for serial in serials:
            body, _, signature = self.token(algorithm, serial).rpartition(".")
            yield f"{body}.{before}"
            before = signature
