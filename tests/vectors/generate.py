"""Generates jwks.json and tokens.json, the test vectors for verifiers of Txn-Tokens (see README.md).

    python generate.py          needs `cryptography` (examples/requirements.txt)

Every run generates new keys, does not store the private keys, and writes both files. So every run changes every token,
but the name, verdict and reason of existing vectors stay the same: review those.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FOLDER = Path(__file__).parent
NOW = 1793000000
DOMAIN = "trust-domain.example"
ISSUER = "https://tts.trust-domain.example:8443"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def whole(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


class Key:
    """A key pair that is published for one algorithm, and can sign with others."""

    def __init__(self, alg: str) -> None:
        self.alg = alg
        if alg in ("ES256", "ES384"):
            self.private = ec.generate_private_key(ec.SECP256R1() if alg == "ES256" else ec.SECP384R1())
            self.size = 32 if alg == "ES256" else 48
            numbers = self.private.public_key().public_numbers()
            x, y = (encode(n.to_bytes(self.size, "big")) for n in (numbers.x, numbers.y))
            public = {"crv": "P-256" if alg == "ES256" else "P-384", "kty": "EC", "x": x, "y": y}
        elif alg == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
            raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            public = {"crv": "Ed25519", "kty": "OKP", "x": encode(raw)}
        else:
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            numbers = self.private.public_key().public_numbers()
            public = {"e": encode(whole(numbers.e)), "kty": "RSA", "n": encode(whole(numbers.n))}
        self.kid = encode(hashlib.sha256(compact(public).encode()).digest())  # RFC 7638: the members are sorted
        self.jwk = {"kid": self.kid, "alg": alg, "use": "sig", **public}

    def sign(self, data: bytes, alg: str | None = None, salt: int = 32) -> bytes:
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            digest = hashes.SHA384() if (alg or self.alg) == "ES384" else hashes.SHA256()
            r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
            return r.to_bytes(self.size, "big") + s.to_bytes(self.size, "big")
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(data)
        alg = alg or self.alg
        digest = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}[alg[2:]]()
        pss = padding.PSS(padding.MGF1(digest), salt if alg == "PS256" else digest.digest_size)
        return self.private.sign(data, pss if alg.startswith("PS") else padding.PKCS1v15(), digest)

    def public(self, encoding: Encoding, form: PublicFormat) -> bytes:
        return self.private.public_key().public_bytes(encoding, form)


CURRENT, PREVIOUS, NEXT = Key("ES256"), Key("ES256"), Key("ES256")
ES384, EDDSA, RS256, PS256 = Key("ES384"), Key("EdDSA"), Key("RS256"), Key("PS256")
PUBLISHED = [NEXT, CURRENT, PREVIOUS, ES384, EDDSA, RS256, PS256]
HISTORICAL, ATTACKER = Key("ES256"), Key("ES256")

VECTORS: list[dict] = []


def claims(**changes: object) -> dict:
    """Valid claims; a change to `...` removes the member."""
    good = {
        "iss": ISSUER, "iat": NOW, "exp": NOW + 60, "aud": DOMAIN, "txn": "01a175d0-4e00-7b45-8c1a-3f2e9d7b6a50",
        "sub": "user-17", "scope": "order.refund", "req_wl": "gateway",
    }  # fmt: skip
    return {name: value for name, value in (good | changes).items() if value is not ...}


GOOD = compact(claims())


def header(key: Key = CURRENT, **changes: object) -> dict:
    good = {"typ": "txntoken+jwt", "alg": key.alg, "kid": key.kid}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def octets(part: object) -> bytes:
    if isinstance(part, bytes):
        return part
    return (part if isinstance(part, str) else compact(part)).encode()


def token(payload: object = GOOD, head: object = None, key: Key = CURRENT, **how: object) -> str:
    """A token with a valid signature over any header and payload: an object, text or bytes."""
    return signed(f"{encode(octets(head or header(key)))}.{encode(octets(payload))}", key, **how)


def signed(part: str, key: Key = CURRENT, **how: object) -> str:
    return f"{part}.{encode(key.sign(part.encode(), **how))}"


def add(name: str, text: str, expect: str, why: str, **more: object) -> None:
    assert name not in {vector["name"] for vector in VECTORS}, name
    good = {"now": NOW, "audience": DOMAIN} | more
    VECTORS.append({"name": name, "token": text, **good, "expect": expect, "why": why})


def valid(name: str, why: str, payload: object = GOOD, head: object = None, key: Key = CURRENT, **more: object) -> None:
    add(name, token(payload, head, key), "valid", why, **more)
    VECTORS[-1]["claims"] = payload if isinstance(payload, str) else compact(payload)


def refused_header(name: str, expect: str, why: str, **changes: object) -> None:
    add(name, token(head=header(**changes)), expect, why)


def refused_claims(name: str, why: str, **changes: object) -> None:
    add(name, token(claims(**changes)), "token_claims_invalid", why)


def replaced(old: str, new: str) -> str:
    """The text of the valid payload with one replacement."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def good_tokens() -> None:
    valid("current key", "A token as the service issues it (R-CLAIM-01).")
    valid("previous key", "A key stays published until its tokens have expired.", key=PREVIOUS)
    valid("next key", "Every published key verifies, even before it signs (A-141).", key=NEXT)
    for key in (ES384, EDDSA, RS256, PS256):
        valid(key.alg, f"{key.alg} is one of the five algorithms.", key=key)
    valid(
        "replaced, with a chain", "A replaced token names every client that requested one, oldest first.",
        claims(req_wl="order-service", req_wl_chain=["gateway", "order-service"]),
    )  # fmt: skip
    valid(
        "redeemed, with rctx.delayed", "A redeemed token contains the times of the expired token and the number of the use.",
        claims(req_wl="purge-job", req_wl_chain=["account-service", "purge-job"], scope="account.purge",
               rctx={"delayed": {"iat": NOW - 3456060, "exp": NOW - 3456000, "use": 1}}),
    )  # fmt: skip
    valid(
        "exact numbers", "Numbers keep every digit: do not convert them to doubles (R-CLAIM-07).",
        GOOD[:-1] + ',"tctx":{"amount":100000000000000000001,"rate":0.10,"small":1E-7,"negative":-0.50}}',
    )  # fmt: skip
    valid(
        "nested details", "The same name in different objects is not a duplicate.",
        claims(tctx={"sub": "x", "list": [{"sub": 1}, {"sub": None}]}, rctx={"sub": {"sub": True}}),
    )  # fmt: skip
    valid("aud is an array of one", "Some libraries write aud as an array (R-VERIFY-04).", claims(aud=[DOMAIN]))
    for name, typ in [
        ("typ with application/", "application/txntoken+jwt"),
        ("typ in other case", "TxnToken+JWT"),
        ("typ with both", "APPLICATION/TXNTOKEN+JWT"),
    ]:
        valid(name, "A media type is case-insensitive, and its prefix can be omitted (R-VERIFY-03).", head=header(typ=typ))
    valid(
        "unknown claims", "Unknown claims are ignored, never a reason to refuse a token (R-VERIFY-05).",
        claims(jti="7", new_claim={"x": [1, None]}, cnf={"jkt": "x"}),
    )  # fmt: skip
    valid("unknown header member", "RFC 7515 section 4: unknown members are ignored unless crit names them.", head=header(ver=1))
    valid("header in other order", "JSON members have no order, and white space is allowed.",
          head=f'{{ "kid" : "{CURRENT.kid}",\n"alg":"ES256" , "typ":"txntoken+jwt" }}')  # fmt: skip
    valid("escapes in claims", "A string and its escaped form are equal.", replaced('"user-17"', '"\\u0075ser\\u002d17"'))
    valid("sub beyond ASCII", "Claims are UTF-8.", claims(sub="zoë@例.example"))
    valid("several purposes", "scope is a list with single spaces (R-CLAIM-05).", claims(scope="order.refund a:b *"))
    valid("txn is any text", "No form of txn is prescribed (RFC 8417 section 2.2).", claims(txn="t"))
    valid("last second", "A token is valid until the second before exp (R-VERIFY-05).", now=NOW + 59)
    valid("iat 30 s ahead", "Clocks may differ by 30 s (R-VERIFY-05).", now=NOW - 30)
    valid("nbf reached", "nbf is checked if it is present.", claims(nbf=NOW))
    valid("nbf 30 s ahead", "Clocks may differ by 30 s.", claims(nbf=NOW + 30))
    valid("issuer as configured", "iss must be the configured issuer (R-VERIFY-06).", issuer=ISSUER)
    valid("no iss", "The key identifies the service; iss is optional (R-VERIFY-06).", claims(iss=...), issuer=ISSUER)
    part = token().rsplit(".", 1)[0]
    signature = CURRENT.sign(part.encode())
    other = P256_ORDER - int.from_bytes(signature[32:], "big")
    add("the other form of an ECDSA signature", f"{part}.{encode(signature[:32] + other.to_bytes(32, 'big'))}", "valid",
        "(r, n-s) is as valid as (r, s): do not use the text of a token as its identity (A-097).", claims=GOOD)  # fmt: skip


def times() -> None:
    add("expired at exp", token(), "token_expired", "There is no leeway: a token is expired at exp (R-VERIFY-05).", now=NOW + 60)
    add("expired weeks ago", token(), "token_expired", "An expired token can only be redeemed.", now=NOW + 3456000)
    early = "token_not_yet_valid"
    add("iat 31 s ahead", token(), early, "iat is further in the future than the allowed 30 s (R-VERIFY-05).", now=NOW - 31)
    add("iat in milliseconds", token(claims(iat=NOW * 1000, exp=NOW * 1000 + 60)), early, "Times are seconds (A-056).")
    add("nbf 31 s ahead", token(claims(nbf=NOW + 31)), early, "nbf is checked, with the same 30 s (A-057).")
    for name in ("iat", "exp", "nbf"):
        for what, value in [("a string", str(NOW + 1)), ("null", None), ("true", True), ("an array", [NOW + 1])]:
            refused_claims(f"{name} is {what}", "A time is a JSON number (R-CLAIM-02, A-056, A-057).", **{name: value})
        refused_claims(f"{name} is negative", "A time is not before 1970 (A-056).", **{name: -1})
        refused_claims(f"{name} has a fraction", "A time is a whole number (R-CLAIM-02).", **{name: NOW + 1.5})
    huge = "A time that is too large must not overflow or mean that the token never expires (A-056)."
    for what, digits in [("2 to the 64", str(2**64)), ("1e400", "1e400"), ("4000 digits", "9" * 4000)]:
        add(f"exp is {what}", token(replaced(str(NOW + 60), digits)), "token_claims_invalid", huge)
    add("iat is 2 to the 64", token(replaced(f":{NOW},", f":{2**64},")), "token_claims_invalid", huge)
    for word in ("NaN", "Infinity"):
        add(f"exp is {word}", token(replaced(str(NOW + 60), word)), "token_claims_invalid", "Not JSON (A-056).")
    refused_claims("exp equals iat", "exp is later than iat (R-CLAIM-02).", exp=NOW)
    refused_claims("exp before iat", "exp is later than iat (R-CLAIM-02).", iat=NOW + 20, exp=NOW + 10)


def audiences() -> None:
    for name, aud in [
        ("another domain", "elsewhere.example"),
        ("a prefix", "trust-domain"),
        ("a longer name", DOMAIN + ".evil.example"),
        ("a subdomain", "x." + DOMAIN),
        ("other case", "Trust-Domain.example"),
        ("a trailing dot", DOMAIN + "."),
        ("the issuer", ISSUER),
    ]:
        why = "aud is compared byte for byte (R-VERIFY-04)."
        add(f"aud is {name}", token(claims(aud=aud)), "token_audience_mismatch", why)
    add("aud is an array of one other", token(claims(aud=["elsewhere.example"])), "token_audience_mismatch",
        "An array of one element means the same as the element (R-VERIFY-04).")  # fmt: skip
    add("good elsewhere", token(), "token_audience_mismatch", "The verifier belongs to another trust domain (R-VERIFY-09).",
        audience="elsewhere.example")  # fmt: skip
    for name, aud in [
        ("an array of two", [DOMAIN, "elsewhere.example"]),
        ("an array of ours twice", [DOMAIN, DOMAIN]),
        ("an empty array", []),
        ("an array in an array", [[DOMAIN]]),
        ("an object", {DOMAIN: True}),
        ("a number", 5),
        ("null", None),
        ("empty", ""),
    ]:
        refused_claims(f"aud is {name}", "aud is one trust domain (R-VERIFY-04).", aud=aud)
    for name, iss in [("another", "https://evil.example"), ("with a slash", ISSUER + "/"), ("empty", "")]:
        add(f"iss is {name}", token(claims(iss=iss)), "token_issuer_mismatch",
            "iss must be the configured issuer, byte for byte (R-VERIFY-06).", issuer=ISSUER)  # fmt: skip
    for name, iss in [("null", None), ("a number", 1), ("an array", [ISSUER])]:
        refused_claims(f"iss is {name}", "iss is a string or absent (R-CLAIM-08).", iss=iss)


def required_claims() -> None:
    for name in ("iat", "exp", "aud", "txn", "sub", "scope", "req_wl"):
        refused_claims(f"{name} is missing", "The claim is required (R-VERIFY-05).", **{name: ...})
    for name in ("txn", "sub", "req_wl"):
        for what, value in [("empty", ""), ("a number", 17), ("null", None), ("an array", ["user-17"]), ("an object", {})]:
            refused_claims(f"{name} is {what}", "The claim is a string that is not empty (R-CLAIM-04).", **{name: value})
    for what, value in [
        ("an array", ["order.refund"]),
        ("empty", ""),
        ("a number", 1),
        ("null", None),
        ("a space", " "),
        ("with two spaces", "order.refund  order.read"),
        ("with a space before", " order.refund"),
        ("with a space behind", "order.refund "),
        ("with a tab", "order.refund\torder.read"),
        ("with a line break", "order.refund\n"),
        ("with a no-break space", "order.refund\u00a0order.read"),
        ("with a quote", 'order."refund"'),
        ("with a backslash", "order\\refund"),
        ("beyond ASCII", "ordér.refund"),
    ]:
        refused_claims(f"scope is {what}", "RFC 6749 section 3.3, with single spaces (R-CLAIM-05).", scope=value)
    for what, value in [("a string", "gateway"), ("null", None), ("an array of numbers", [1]), ("an object", {})]:
        refused_claims(f"req_wl_chain is {what}", "An array of strings, or absent.", req_wl_chain=value)
    for name in ("tctx", "rctx"):
        for what, value in [("a string", "{}"), ("null", None), ("an array", [])]:
            refused_claims(f"{name} is {what}", "An object, or absent (R-CLAIM-07).", **{name: value})
    delayed = {"iat": NOW - 120, "exp": NOW - 60, "use": 1}
    for what, value in [
        ("true", True),
        ("null", None),
        ("empty", {}),
        ("a string", "x"),
        ("without exp", {"iat": NOW - 120, "use": 1}),
        ("without use", {"iat": NOW - 120, "exp": NOW - 60}),
        ("with a negative use", delayed | {"use": -1}),
        ("with use as a string", delayed | {"use": "1"}),
        ("with a fraction of a use", delayed | {"use": 1.5}),
        ("with iat as a string", delayed | {"iat": str(NOW - 120)}),
    ]:
        refused_claims(f"rctx.delayed is {what}", "A token with a malformed rctx.delayed must not pass as an ordinary token.",
                       rctx={"delayed": value})  # fmt: skip


def types() -> None:
    for name, typ in [
        ("missing", ...),
        ("JWT", "JWT"),
        ("at+jwt", "at+jwt"),
        ("application/at+jwt", "application/at+jwt"),
        ("txntoken", "txntoken"),
        ("txn_token", "txn_token"),
        ("text/txntoken+jwt", "text/txntoken+jwt"),
        ("twice application/", "application/application/txntoken+jwt"),
        ("followed by a space", "txntoken+jwt "),
        ("empty", ""),
    ]:
        refused_header(f"typ is {name}", "token_type_wrong", "Another kind of JWT (R-VERIFY-03).", typ=typ)
    for name, typ in [("null", None), ("a number", 1), ("an array", ["txntoken+jwt"])]:
        refused_header(f"typ is {name}", "token_malformed", "typ is a string (RFC 7515 section 4.1.9).", typ=typ)


def algorithms() -> None:
    bad = "token_malformed"
    why = "A signature is required; none in any letter case is refused (A-044)."
    for alg in ("none", "None", "NONE", "nOnE"):
        part = f"{encode(octets(header(alg=alg)))}.{encode(octets(GOOD))}"
        add(f"alg is {alg}", part + ".", bad, why)
    add("alg is none, signed all the same", token(head=header(alg="none")), bad, why)
    for name, alg in [
        ("missing", ...), ("null", None), ("a number", 256), ("an array", ["ES256"]), ("empty", ""),
        ("in lower case", "es256"), ("unknown", "ES256K"), ("followed by a space", "ES256 "),
    ]:  # fmt: skip
        refused_header(f"alg is {name}", bad, "alg is the exact name of a supported algorithm (A-044).", alg=alg)

    spki = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secrets = [
        ("the PEM of the public key", CURRENT, CURRENT.public(*spki)),
        ("the PEM without its last line break", CURRENT, CURRENT.public(*spki).strip()),
        ("the DER of the public key", CURRENT, CURRENT.public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
        ("the point of the public key", CURRENT, CURRENT.public(Encoding.X962, PublicFormat.UncompressedPoint)),
        ("the JWK of the public key", CURRENT, compact(CURRENT.jwk).encode()),
        ("x of the public key", CURRENT, CURRENT.jwk["x"].encode()),
        ("the kid", CURRENT, CURRENT.kid.encode()),
        ("nothing", CURRENT, b""),
        ("the PEM of the RSA key", RS256, RS256.public(*spki)),
        ("the PKCS 1 PEM of the RSA key", RS256, RS256.public(Encoding.PEM, PublicFormat.PKCS1)),
        ("the modulus", RS256, whole(RS256.private.public_key().public_numbers().n)),
        ("the Ed25519 key", EDDSA, EDDSA.public(Encoding.Raw, PublicFormat.Raw)),
    ]
    for name, key, secret in secrets:
        part = f"{encode(octets(header(key, alg='HS256')))}.{encode(octets(GOOD))}"
        mac = hmac.digest(secret, part.encode(), "sha256")
        add(f"HS256 keyed with {name}", f"{part}.{encode(mac)}", bad, "A public key must not be used as a secret (A-045).")

    other = "token_signature_invalid"
    why = "The algorithm is that of the published key, not that of the token header (A-046)."
    for key, alg in [(CURRENT, "ES384"), (RS256, "PS256"), (PS256, "RS256"), (RS256, "RS384"), (RS256, "RS512"),
                     (PS256, "PS384"), (PS256, "PS512")]:  # fmt: skip
        add(f"{alg} with the {key.alg} key", token(head=header(key, alg=alg), key=key, alg=alg), other, why)
    for key, alg, signer in [(CURRENT, "RS256", RS256), (CURRENT, "EdDSA", EDDSA), (RS256, "ES256", CURRENT),
                             (EDDSA, "ES256", CURRENT), (ES384, "ES256", CURRENT), (CURRENT, "ES384", ES384)]:  # fmt: skip
        add(f"{alg} by a key of its own, with the kid of the {key.alg} key", token(head=header(key, alg=alg), key=signer),
            other, why)  # fmt: skip


def headers() -> None:
    bad = "token_malformed"
    inject = "Keys come only from the published set: the token is refused, and nothing is fetched (A-047)."
    own = {name: value for name, value in ATTACKER.jwk.items() if name not in ("use", "alg")}
    certificate = base64.b64encode(ATTACKER.public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    for name, value in [
        ("jwk", own), ("jku", "https://evil.example/jwks.json"), ("x5u", "https://evil.example/x.pem"), ("x5c", [certificate]),
    ]:  # fmt: skip
        add(f"{name}, signed by the key in it", token(head=header(ATTACKER, **{name: value}), key=ATTACKER), bad, inject)
        add(f"{name} beside a good signature", token(head=header(**{name: value})), bad, inject)
    meaning = "The member changes the meaning of the token (A-049)."
    for name, changes in [
        ("crit names an unknown member", {"crit": ["x"], "x": 1}),
        ("crit names exp", {"crit": ["exp"], "exp": NOW + 60}),
        ("crit is empty", {"crit": []}),
        ("crit is a string", {"crit": "x"}),
        ("crit is null", {"crit": None}),
        ("crit with b64", {"crit": ["b64"], "b64": True}),
        ("b64 is true", {"b64": True}),
        ("zip", {"zip": "DEF"}),
        ("enc", {"enc": "A256GCM"}),
        ("epk", {"epk": {}}),
        ("p2c", {"p2c": 1000000}),
        ("cty is JWT", {"cty": "JWT"}),
    ]:
        refused_header(name, bad, meaning, **changes)
    head = encode(octets(header(crit=["b64"], b64=False)))
    signature = encode(CURRENT.sign(f"{head}.{GOOD}".encode()))
    add("payload not encoded", f"{head}.{encode(octets(GOOD))}.{signature}", bad, "An unencoded payload is never accepted (A-049).")

    unknown = "token_key_unknown"
    refused_header("kid is unknown", unknown, "No such key is published (R-VERIFY-02).", kid="unknown")
    refused_header("kid is missing", unknown, "Without kid a verifier must not try several keys.", kid=...)
    refused_header("kid in other case", unknown, "kid is compared byte for byte.", kid=CURRENT.kid.swapcase())
    refused_header("kid is a path", unknown, "kid is only a name (A-048).", kid="../../etc/passwd")
    refused_header("kid is SQL", unknown, "kid is only a name (A-048).", kid="x' OR '1'='1")
    add("historical key", token(head=header(HISTORICAL), key=HISTORICAL), unknown,
        "A historical key is not published; its tokens can only be redeemed (A-141).")  # fmt: skip
    for name, kid in [("empty", ""), ("a number", 1), ("null", None), ("an array", [CURRENT.kid]),
                      ("with NUL", "a\0"), ("with a line break", "a\r\nb"), ("257 characters", "k" * 257)]:  # fmt: skip
        refused_header(f"kid is {name}", bad, "kid is 1 to 256 characters without control characters (A-048).", kid=kid)
    refused_header("kid of another key", "token_signature_invalid", "The token was not signed with the previous key.", kid=PREVIOUS.kid)
    add("another's key under our kid", token(key=ATTACKER, head=header()), "token_signature_invalid", "The token was signed with an unpublished key.")

    good = compact(header())
    twice = "Parsers differ in which of two members counts (A-053)."
    for name, text in [
        ("alg twice", good.replace('"alg":"ES256"', '"alg":"none","alg":"ES256"')),
        ("alg twice, the other order", good.replace('"alg":"ES256"', '"alg":"ES256","alg":"none"')),
        ("alg twice, the same", good.replace('"alg":"ES256"', '"alg":"ES256","alg":"ES256"')),
        ("alg twice through an escape", good.replace('"alg":"ES256"', '"\\u0061lg":"none","alg":"ES256"')),
        ("kid twice", good.replace("{", '{"kid":"x",')),
        ("typ twice", good.replace("{", '{"typ":"JWT",')),
        ("an unknown member twice", good.replace("{", '{"x":1,"x":1,')),
    ]:
        add(f"header: {name}", token(head=text), bad, twice)
    for name, text in [
        ("an array", f"[{good}]"), ("a string", '"txntoken+jwt"'), ("null", "null"), ("not JSON", "txntoken+jwt"),
        ("trailing data", good + "{}"), ("BOM", b"\xef\xbb\xbf" + good.encode()), ("UTF-16", good.encode("utf-16-le")),
        ("invalid UTF-8", good.encode().replace(b"{", b'{"x":"\xff",')), ("a comment", good + "/**/"),
        ("5000 arrays", good.replace("{", '{"x":' + "[" * 5000 + "]" * 5000 + ",")),
    ]:  # fmt: skip
        add(f"header: {name}", token(head=text), bad, "The header is one JSON object (A-054, A-055).")


def spellings() -> None:
    bad = "token_malformed"
    why = "A token has exactly one text: three parts of base64url without padding (A-052)."
    good = token(claims(pad="?>?>~~~"))
    head, payload, signature = good.split(".")
    while not ("-" in signature and "_" in signature):
        good = signed(f"{head}.{payload}")
        signature = good.split(".")[2]
    standard = str.maketrans("-_", "+/")
    for name, text in [
        ("empty", ""),
        ("one part", head),
        ("two parts", f"{head}.{payload}"),
        ("four parts", f"{good}.{signature}"),
        ("five parts", f"{head}..{payload}.{signature}.{signature}"),
        ("a dot behind", good + "."),
        ("a dot before", "." + good),
        ("12000 dots", "." * 12000),
        ("no header", signed(f".{payload}")),
        ("signature padded", good + "=="),
        ("signature in standard base64", f"{head}.{payload}.{signature.translate(standard)}"),
        ("signature with unused bits", good[:-1] + chr(ord(good[-1]) + 1)),
        ("line break behind", good + "\n"),
        ("line break inside", f"{head}.\r\n {payload}.{signature}"),
        ("space inside", f"{head}. {payload}.{signature}"),
        ("no-break space before", "\u00a0" + good),
        ("two in a list", f"{good}, {good}"),
        ("comma behind", good + ","),
        ("Bearer", "Bearer " + good),
        ("quoted", f'"{good}"'),
        ("percent-encoded", good.replace(".", "%2E")),
        ("NUL behind", good + "\0"),
        ("letters beyond ASCII", "é" + good[1:]),
        ("signature of 20 kB", f"{head}.{payload}.{encode(bytes(20000))}"),
        ("longer than 16 KiB", token(claims(filler="x" * 16000))),
    ]:
        add(name, text, bad, why)
    loose = part_with_unused_bits(lambda filler: compact(claims(filler=filler)))
    loose_head = part_with_unused_bits(lambda filler: compact(header(filler=filler)))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    odd = loose[:-1] + alphabet[alphabet.index(loose[-1]) + 1]
    assert "-" in payload or "_" in payload, "needed for the vector with the standard alphabet"
    over = "The signature covers this text, but a token has exactly one text (A-052)."
    add("signed with a padded header", signed(f"{loose_head}=.{payload}"), bad, over)
    add("signed with a padded payload", signed(f"{head}.{loose}="), bad, over)
    add("signed with a payload in standard base64", signed(f"{head}.{payload.translate(standard)}"), bad, over)
    add("signed with unused bits in the payload", signed(f"{head}.{odd}"), bad, over)
    add("signed with a line break in the payload", signed(f"{head}.{payload[:8]}\n{payload[8:]}"), bad, over)

    form = "Compact serialisation only (R-VERIFY-01, A-051)."
    flat = {"payload": payload, "protected": head, "signature": signature}
    add("flattened JSON serialisation", compact(flat), bad, form)
    general = {"payload": payload, "signatures": [{"protected": head, "signature": signature}]}
    add("general JSON serialisation", compact(general), bad, form)
    add("nested JWT", token(good, header(cty="jwt")), bad, "A nested token is not a Txn-Token (A-051).")
    add("nested JWT without cty", token(good), "token_claims_invalid", "A nested token is not a Txn-Token (A-051).")


def part_with_unused_bits(text: Callable[[str], str]) -> str:
    """An encoded part that would need one `=` of padding, so that its last character has two unused bits."""
    return next(part for n in range(3) if len(part := encode(octets(text("x" * n)))) % 4 == 3)


def payloads() -> None:
    bad = "token_claims_invalid"
    twice = "Parsers differ in which of two members counts (A-053)."
    for name, text in [
        ("sub twice", replaced("{", '{"sub":"root",')),
        ("sub twice, the other order", GOOD[:-1] + ',"sub":"root"}'),
        ("sub twice through an escape", GOOD[:-1] + ',"\\u0073ub":"root"}'),
        ("sub twice, the same", GOOD[:-1] + ',"sub":"user-17"}'),
        ("exp twice", GOOD[:-1] + f',"exp":{NOW + 6000}}}'),
        ("aud twice", GOOD[:-1] + ',"aud":"elsewhere.example"}'),
        ("scope twice", replaced("{", '{"scope":"account.purge",')),
        ("an unknown claim twice", GOOD[:-1] + ',"x":1,"x":2}'),
        ("a member of tctx twice", GOOD[:-1] + ',"tctx":{"amount":1,"amount":1000}}'),
        ("a deep member twice", GOOD[:-1] + ',"x":[{"y":{"z":1,"\\u007a":2}}]}'),
    ]:
        add(f"claims: {name}", token(text), bad, twice)
    for name, text in [
        ("an array", f"[{GOOD}]"),
        ("a string", compact(GOOD)),
        ("null", "null"),
        ("a number", "1"),
        ("no text", ""),
        ("not JSON", "sub=user-17"),
        ("BOM", b"\xef\xbb\xbf" + GOOD.encode()),
        ("UTF-16", GOOD.encode("utf-16")),
        ("invalid UTF-8", GOOD.encode().replace(b"user-17", b"user-\xff")),
        ("an overlong UTF-8 form", GOOD.encode().replace(b"user-17", b"user\xc0\xad17")),
        ("half a surrogate pair", replaced("user-17", "user\\ud800")),
        ("trailing data", GOOD + "{}"),
        ("a trailing NUL", GOOD + "\0"),
        ("a comment", replaced("{", "{/* */")),
        ("a trailing comma", GOOD[:-1] + ",}"),
        ("single quotes", GOOD.replace('"', "'")),
        ("a line break in a string", replaced("user-17", "user\n17")),
        ("NaN in tctx", GOOD[:-1] + ',"tctx":{"amount":NaN}}'),
        ("a plus sign", replaced(f":{NOW},", f":+{NOW},")),
        ("a leading zero", replaced(f":{NOW},", f":0{NOW},")),
        ("5000 arrays", GOOD[:-1] + ',"x":' + "[" * 5000 + "]" * 5000 + "}"),
    ]:
        add(f"claims: {name}", token(text), bad, "The claims are one JSON object, read strictly (A-054, A-055).")


def signatures() -> None:
    bad = "token_signature_invalid"
    good = token()
    part, signature = good.rsplit(".", 1)
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s, n, zero = raw[:32], raw[32:], P256_ORDER.to_bytes(32, "big"), bytes(32)
    der = CURRENT.private.sign(part.encode(), ec.ECDSA(hashes.SHA256()))
    why = "The signature is not valid for this token and key (A-044, A-050)."
    for name, other in [
        ("stripped", b""),
        ("all zero", zero + zero),
        ("with r = 0", zero + s),
        ("with s = 0", r + zero),
        ("with r = s = n", n + n),
        ("with r and s swapped", s + r),
        ("as DER", der),
        ("one byte short", raw[:-1]),
        ("one byte long", raw + b"\0"),
        ("twice", raw + raw),
        ("with one bit changed", raw[:-1] + bytes([raw[-1] ^ 1])),
    ]:
        add(f"signature {name}", f"{part}.{encode(other)}", bad, why)
    rich = encode(octets(claims(scope="account.purge")))
    add("signature of another token", f"{part.split('.')[0]}.{rich}.{signature}", bad, "The signature does not cover these claims.")
    other = encode(octets(header(ver=1)))
    add("signature under another header", f"{other}.{part.split('.')[1]}.{signature}", bad, "The signature covers the header too.")

    part, signature = token(key=EDDSA).rsplit(".", 1)
    raw = base64.urlsafe_b64decode(signature + "==")
    large = int.from_bytes(raw[32:], "little") + ED25519_ORDER
    add("EdDSA signature with S plus the order", f"{part}.{encode(raw[:32] + large.to_bytes(32, 'little'))}", bad,
        "RFC 8032 section 5.1.7: S is below the order.")  # fmt: skip
    add("EdDSA signature all zero", f"{part}.{encode(bytes(64))}", bad, why)
    part, signature = token(key=RS256).rsplit(".", 1)
    raw = base64.urlsafe_b64decode(signature + "==")
    add("RSA signature with a zero before", f"{part}.{encode(bytes(1) + raw)}", bad, "RFC 8017: a signature is as long as the modulus.")
    add("RSA signature all zero", f"{part}.{encode(bytes(256))}", bad, why)
    part, signature = token(key=ES384).rsplit(".", 1)
    add("ES384 signature all zero", f"{part}.{encode(bytes(96))}", bad, why)
    add("PS256 with a salt of 20 bytes", token(key=PS256, salt=20), bad, "RFC 7518 section 3.5: the salt is as long as the hash.")


def format_vector(vector: dict) -> str:
    """The vector with one member per line, and the claims as they were signed, digit for digit."""
    lines = []
    for name, value in vector.items():
        text = value if name == "claims" else json.dumps(value, ensure_ascii=name != "why")
        lines.append(f"    {json.dumps(name)}: {text}")
    return "  {\n" + ",\n".join(lines) + "\n  }"


if __name__ == "__main__":
    for area in (good_tokens, times, audiences, required_claims, types, algorithms, headers, spellings, payloads, signatures):
        area()
    keys = ",\n".join(f"    {json.dumps(key.jwk)}" for key in PUBLISHED)
    (FOLDER / "jwks.json").write_text(f'{{\n  "keys": [\n{keys}\n  ]\n}}\n')
    (FOLDER / "tokens.json").write_text("[\n" + ",\n".join(map(format_vector, VECTORS)) + "\n]\n", encoding="utf-8")
    valid_ones = sum(vector["expect"] == "valid" for vector in VECTORS)
    print(f"{valid_ones} valid, {len(VECTORS) - valid_ones} refused")
