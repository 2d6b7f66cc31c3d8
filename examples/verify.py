"""Verifies a Txn-Token on standard input with PyJWT, as a downstream service would.

    python verify.py JWKS_URL CA_FILE TRUST_DOMAIN PURPOSE < token
"""

import json
import ssl
import sys

import jwt

REQUIRED = ["iat", "exp", "aud", "txn", "sub", "scope", "req_wl"]


def verify(token: str, keys: jwt.PyJWKClient, trust_domain: str, purpose: str) -> dict:
    header = jwt.get_unverified_header(token)
    if header.get("typ", "").lower().removeprefix("application/") != "txntoken+jwt":
        raise jwt.InvalidTokenError("not a Txn-Token")
    key = keys.get_signing_key(header["kid"])
    claims = jwt.decode(
        token,
        key,
        algorithms=[key.algorithm_name],  # the algorithm of the key, not that of the token header
        audience=trust_domain,
        options={"require": REQUIRED, "strict_aud": True},
    )
    if purpose not in claims["scope"].split(" "):
        raise jwt.InvalidTokenError(f"not for {purpose}")
    return claims


if __name__ == "__main__":
    url, ca_file, trust_domain, purpose = sys.argv[1:]
    keys = jwt.PyJWKClient(url, ssl_context=ssl.create_default_context(cafile=ca_file))
    try:
        claims = verify(sys.stdin.read().strip(), keys, trust_domain, purpose)
    except jwt.PyJWTError as error:
        sys.exit(f"refused: {error}")
    print(json.dumps(claims, indent=2))
