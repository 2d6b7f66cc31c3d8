"""Verifies the vectors with PyJWT, by the rules of ../README.md.

    python pyjwt.py FOLDER      needs PyJWT and cryptography; exit code 1 if a verdict is not as expected
"""

import base64
import json
import re
import sys
from decimal import Decimal
from pathlib import Path

import jwt

ALGORITHMS = {"ES256", "ES384", "EdDSA", "RS256", "PS256"}
OTHERS = {"RS384", "RS512", "PS384", "PS512"}  # valid algorithms that no published key uses
FORBIDDEN = {"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c", "epk", "p2c"}
SCOPE = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")
LONGEST, DEEPEST, AHEAD = 16 * 1024, 16, 30


class Refused(Exception):
    pass


def decode(part: str) -> bytes:
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise ValueError("not canonical")
    return data


def parse_object(data: bytes) -> dict:
    """Parses exactly one JSON object without repeated names."""

    def members(pairs: list) -> dict:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("repeated name")
        return dict(pairs)

    def constant(_: str) -> None:
        raise ValueError("not JSON")

    def check(value: object, depth: int) -> None:
        if isinstance(value, str):
            value.encode()  # an unpaired surrogate has no UTF-8 encoding
        if isinstance(value, (dict, list)):
            if depth == DEEPEST:
                raise ValueError("too deep")
            for inner in [*value, *value.values()] if isinstance(value, dict) else value:
                check(inner, depth + 1)

    value = json.loads(data.decode(), object_pairs_hook=members, parse_constant=constant, parse_float=Decimal)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    check(value, 0)
    return value


def parse_header(token: str) -> tuple[dict, bytes]:
    if len(token.encode()) > LONGEST or token.count(".") != 2:
        raise ValueError("not a compact JWS")
    head, payload, _ = map(decode, token.split("."))
    header = parse_object(head)
    if not all(isinstance(header.get(name, ""), str) for name in ("typ", "kid", "cty")):
        raise ValueError("not a string")
    kid = header.get("kid", "-")
    if not 1 <= len(kid) <= 256 or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in kid):
        raise ValueError("kid")
    if header.get("alg") not in [*ALGORITHMS, *OTHERS] or FORBIDDEN & header.keys() or header.get("cty", "").lower() == "jwt":
        raise ValueError("header")
    return header, payload


def parse_claims(payload: bytes) -> dict:
    claims = parse_object(payload)

    def ensure(condition: bool) -> None:
        if not condition:
            raise ValueError("claims")

    def is_text(value: object) -> bool:
        return isinstance(value, str) and value != ""

    def is_count(value: object) -> bool:
        return type(value) is int and 0 <= value < 2**64

    ensure(is_count(claims["iat"]) and is_count(claims["exp"]) and claims["exp"] > claims["iat"])
    ensure(is_count(claims.get("nbf", 0)))
    ensure(all(is_text(claims[name]) for name in ("txn", "sub", "req_wl")))
    ensure(isinstance(claims.get("iss", ""), str))
    ensure(isinstance(claims["scope"], str) and SCOPE.fullmatch(claims["scope"]) is not None)
    audience = claims["aud"]
    ensure(is_text(audience) or (isinstance(audience, list) and len(audience) == 1 and is_text(audience[0])))
    chain = claims.get("req_wl_chain", [])
    ensure(isinstance(chain, list) and all(isinstance(client, str) for client in chain))
    ensure(isinstance(claims.get("tctx", {}), dict) and isinstance(claims.get("rctx", {}), dict))
    if "delayed" in claims.get("rctx", {}):
        delayed = claims["rctx"]["delayed"]
        ensure(isinstance(delayed, dict) and all(is_count(delayed[name]) for name in ("iat", "exp", "use")))
    return claims


def verify(token: str, keys: dict[str, jwt.PyJWK], domain: str, issuer: str | None, now: int) -> dict:
    try:
        header, payload = parse_header(token)
    except (ValueError, RecursionError):
        raise Refused("token_malformed") from None
    if header.get("typ", "").lower().removeprefix("application/") != "txntoken+jwt":
        raise Refused("token_type_wrong")
    key = keys.get(header.get("kid"))
    if key is None:
        raise Refused("token_key_unknown")
    try:
        jwt.PyJWS().decode_complete(token, key, algorithms=[key.algorithm_name])
    except jwt.PyJWTError:
        raise Refused("token_signature_invalid") from None
    try:
        claims = parse_claims(payload)
    except (ValueError, KeyError, RecursionError):
        raise Refused("token_claims_invalid") from None
    if claims["aud"] not in (domain, [domain]):
        raise Refused("token_audience_mismatch")
    if issuer is not None and claims.get("iss", issuer) != issuer:
        raise Refused("token_issuer_mismatch")
    if now >= claims["exp"]:
        raise Refused("token_expired")
    if max(claims["iat"], claims.get("nbf", 0)) > now + AHEAD:
        raise Refused("token_not_yet_valid")
    return claims


def main(folder: Path) -> int:
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_json((folder / "jwks.json").read_text()).keys}
    vectors = json.loads((folder / "tokens.json").read_text(encoding="utf-8"), parse_float=Decimal)
    differences = 0
    for vector in vectors:
        try:
            claims = verify(vector["token"], keys, vector["audience"], vector.get("issuer"), vector["now"])
            verdict = "valid" if claims == vector.get("claims") else "valid, with other claims"
        except Refused as refused:
            verdict = str(refused)
        if verdict != vector["expect"]:
            differences += 1
            print(f"{vector['name']}: PyJWT returned {verdict}, expected {vector['expect']}")
    print(f"PyJWT {jwt.__version__}: {len(vectors) - differences} of {len(vectors)} vectors as expected")
    return 1 if differences or not vectors else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
