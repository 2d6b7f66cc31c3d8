#!/usr/bin/env python3
"""Draws a flame graph of CPU samples: perf script -F ip,sym,dso | flame.py TITLE > GRAPH.svg

Width is the share of the samples in which a function ran or waited for one that it had called. The shares of
cryptography, TLS, kernel, C library and all other code go to the standard error: what the kernel does is the kernel's,
and what a function of the cryptography or of TLS calls is theirs. Needs nothing but the standard library.
"""

import collections
import html
import re
import sys

WIDTH, ROW, TOP, LEAST = 1200, 17, 60, 0.002
COLOURS = {"cryptography": "#e8846f", "TLS": "#f2b8a6", "kernel": "#8fb4dd", "C library": "#c9c9c9",
           "other code": "#a9cf8f"}
FRAME = re.compile(r"\s*[0-9a-f]+\s+(.*?)\s+\(([^()]*)\)\s*$")
# Names of aws-lc: those of its C functions have a prefix, and those of its assembly none.
CRYPTOGRAPHY = re.compile(
    r"^(aws_lc_\d|aws_lc_rs|ecp_nistz|__ecp_|ecdsa_|(__)?bn_|rsa_|pkey_|ec_|sha\d|aes|gcm|ghash|aead_|rand_|ctr_drbg"
    r"|L?bignum|curve25519|mlkem|ml_kem|keccak|rustls_webpki|CRYPTO_|EVP_|BN_|RSA_|EC)")
TLS = re.compile(r"^&?(mut )?(rustls|tokio_rustls)::")


def kind(name, place):
    if "kernel" in place:
        return "kernel"
    if CRYPTOGRAPHY.match(name):
        return "cryptography"
    if TLS.match(name):
        return "TLS"
    return "C library" if "libc" in place else "other code"


def stacks(lines):
    """Each sample, the outermost function first."""
    stack = []
    for line in [*lines, ""]:
        frame = FRAME.match(line)
        if frame:
            stack.append((frame[1].replace("{{closure}}", "{}"), kind(frame[1].removeprefix("<"), frame[2])))
        elif stack:
            yield stack[::-1]
            stack = []


def belongs_to(stack):
    """The kind that a sample counts for."""
    kinds = [kind for _, kind in stack]
    if kinds[-1] == "kernel":
        return "kernel"
    return next((kind for kind in ("cryptography", "TLS") if kind in kinds), kinds[-1])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = {"count": 0, "of": {}}
    shares = collections.Counter()
    for stack in stacks(sys.stdin):
        # Stacks that could not be followed to their end would all stand beside the others.
        while len(stack) > 1 and stack[0][0] == "[unknown]":
            stack.pop(0)
        shares[belongs_to(stack)] += 1
        root["count"] += 1
        place = root
        for function in stack:
            place = place["of"].setdefault(function, {"count": 0, "of": {}})
            place["count"] += 1
    rows = []

    def draw(place, x, depth):
        for (name, of), inner in sorted(place["of"].items(), key=lambda item: -item[1]["count"]):
            share = inner["count"] / root["count"]
            if share >= LEAST:
                rows.append((depth, x, share * WIDTH, name, of, share))
                draw(inner, x, depth + 1)
            x += share * WIDTH

    draw(root, 0, 0)
    height = TOP + ROW * (1 + max((row[0] for row in rows), default=0)) + 10
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">')
    print(f'<rect width="{WIDTH}" height="{height}" fill="white"/>')
    print(f'<text x="{WIDTH / 2}" y="20" text-anchor="middle" font-size="15">{html.escape(sys.argv[1])}</text>')
    x = 10
    for name, colour in COLOURS.items():
        label = f"{name}: {100 * shares[name] / max(root['count'], 1):.0f} % of the samples"
        print(label, file=sys.stderr)
        print(f'<rect x="{x}" y="32" width="12" height="12" fill="{colour}"/>'
              f'<text x="{x + 17}" y="42" font-size="12">{label}</text>')
        x += 235
    for depth, x, width, name, of, share in rows:
        y, shown = height - 10 - ROW * (depth + 1), html.escape(name[:int(width / 6.2)] if width > 25 else "")
        print(f'<g><title>{html.escape(name)}: {100 * share:.1f} %</title>'
              f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{COLOURS[of]}" stroke="white"'
              f' stroke-width="0.5"/><text x="{x + 2:.1f}" y="{y + 12}" font-size="10">{shown}</text></g>')
    print("</svg>")


main()
