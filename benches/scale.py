#!/usr/bin/env python3
"""Fits the capacity model of docs/explanation/scale.md to measured figures, and keeps the page in step with both.

    scale.py              checks that the model fits the data in docs/explanation/scale/instances.json, and that the page
                          has the figures that follow from them
    scale.py DATA.json    takes the file that `cargo bench --bench load -- instances` wrote as these data, and writes the
                          figures of the page anew; changes nothing if the model does not fit

A figure or table of the page stands between `<!--=name-->` and `<!--/-->`. Needs nothing but the standard library.
"""

import json
import math
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/explanation/scale.md"
DATA = ROOT / "docs/explanation/scale/instances.json"

COUNTS = (1, 2, 3, 4)
KINDS = ("issue", "redemption")
CONNECTIONS = (4, 32)
# Of a request: CPU of the instance, of the primary and of each standby, in µs, and bytes of the write-ahead log.
RESOURCES = ("cpu_us", "primary_us", "standby_us", "bytes")
# How far a measured point may be from what the model, fitted to the other numbers of instances, says.
TOLERANCE = 0.4

# What the sizes of deployments assume.
BUSY = 0.6                # how much of a core is used
CORES = 4                 # of an instance
LEAST = 3                 # instances: one can fail while another is upgraded
POOL = 17                 # connections of an instance at most
USES_KEPT = 400           # days, the default of keys.retention
DAY = 24 * 60 * 60


class Data:
    """The medians of all rounds."""

    def __init__(self, path):
        self.raw = json.loads(path.read_text())
        self.measurements = self.raw["measurements"]

    def __call__(self, measurement, metric):
        try:
            return statistics.median(self.measurements[measurement][metric])
        except KeyError:
            sys.exit(f"{DATA}: has no {metric} of {measurement}; run all parts of the benchmark")

    def request(self, kind, connections, count, metric):
        return self(f"instances/{count}/{kind}/{connections}", metric)

    def idle(self, count, metric):
        return self(f"instances/{count}/idle", metric)


def least_squares(rows):
    """The coefficients that bring the sum of factor × coefficient nearest to 1, for all rows of factors."""
    size = len(rows[0])
    matrix = [[sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(row[i] for row in rows)]
              for i in range(size)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(matrix[i][column]))
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for i in range(size):
            if i != column:
                factor = matrix[i][column] / matrix[column][column]
                matrix[i] = [a - factor * b for a, b in zip(matrix[i], matrix[column])]
    return [matrix[i][size] / matrix[i][i] for i in range(size)]


class Model:
    """What a request and a second need of each resource: for every request of a kind, for every commit that writes, and
    for every second of an instance without requests."""

    def __init__(self, data, counts=COUNTS):
        # With n instances a second costs `base` and n times `beat`.
        self.base, self.beat = {}, {}
        for metric in (*RESOURCES, "commits"):
            ideal = [(count, max(data.idle(count, metric), 1e-9)) for count in counts]
            self.base[metric], self.beat[metric] = least_squares([(1 / y, n / y) for n, y in ideal])
        exchange = lambda n, metric: data.request("exchange", 32, n, metric)
        self.exchange = statistics.median(
            exchange(n, "cpu_us") - self.idle("cpu_us", n) / exchange(n, "per_second") for n in counts)
        self.request, self.commit = {}, {}
        for metric in RESOURCES:
            rows = []
            for kind in KINDS:
                for connections in CONNECTIONS:
                    for n in counts:
                        point = lambda name: data.request(kind, connections, n, name)
                        measured = point(metric) - self.idle(metric, n) / point("per_second")
                        factors = [float(kind == other) for other in KINDS] + [point("commits")]
                        rows.append([factor / measured for factor in factors])
            *requests, self.commit[metric] = least_squares(rows)
            self.request[metric] = dict(zip(KINDS, requests))

    def idle(self, metric, instances):
        return self.base[metric] + instances * self.beat[metric]

    def cost(self, metric, kind, commits):
        """Of a request, without heartbeats."""
        if kind == "exchange":
            return self.exchange if metric == "cpu_us" else 0
        return self.request[metric][kind] + commits * self.commit[metric]

    def rate(self, kind, commits, instances, used):
        """Requests a second if instances, primary and two standbys use this share of a core together."""
        shared = lambda of: of("cpu_us") + of("primary_us") + 2 * of("standby_us")
        left = 1e6 * used - shared(lambda metric: self.idle(metric, instances))
        return left / shared(lambda metric: self.cost(metric, kind, commits))


def deviations(data):
    """Each measured point against a model that was fitted to the other numbers of instances: name, both values, and by
    how much they differ."""
    found = []
    for n in COUNTS:
        model = Model(data, [count for count in COUNTS if count != n])
        for kind, connections in [("exchange", 32), *((kind, c) for kind in KINDS for c in CONNECTIONS)]:
            point = lambda name: data.request(kind, connections, n, name)
            commits = point("commits")
            for metric in RESOURCES if kind != "exchange" else ("cpu_us",):
                found.append((f"{kind}, {connections} connections, {n} instances: {metric}", point(metric),
                              model.cost(metric, kind, commits) + model.idle(metric, n) / point("per_second")))
            if connections == 32:
                found.append((f"{kind}, {connections} connections, {n} instances: per_second", point("per_second"),
                              model.rate(kind, commits, n, 1 - point("slack_percent") / 100)))
    return [(name, measured, computed, computed / measured - 1) for name, measured, computed in found]


def number(value):
    """Two or three digits that count."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.0f}" if digits <= 0 else f"{rounded:.{digits}f}".rstrip("0").rstrip(".")


def size(count):
    """Bytes as people write them."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.2g} {unit}" if count < 10 else f"{count:.0f} {unit}"
        count /= 1000


def table(head, rows):
    align = "".join(" --- |" if index == 0 else " ---: |" for index in range(len(head)))
    lines = ["| " + " | ".join(head) + " |", "|" + align]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n" + "\n".join(lines) + "\n"


class Deployment:
    """What a load needs: exchanges a second, the shares of them that are recorded and redeemed, and for how many days
    recorded tokens are kept. Each write has a commit of its own, the worst case."""

    def __init__(self, model, bytes_of, exchanges, recorded, redeemed, days):
        writes = exchanges * (recorded + redeemed)
        shares = {"exchange": 1 - recorded - redeemed, "issue": recorded, "redemption": redeemed}
        need = lambda metric: exchanges * sum(share * model.cost(metric, kind, 1) for kind, share in shares.items())
        cores = need("cpu_us") / 1e6 / BUSY
        self.instances = max(LEAST, math.ceil(cores / CORES))
        self.writes = writes
        at = lambda metric: need(metric) + model.idle(metric, self.instances)
        self.cores = cores
        self.primary = at("primary_us") / 1e6 / BUSY
        self.standby = at("standby_us") / 1e6 / BUSY
        self.wal = at("bytes") * DAY
        self.tokens, self.uses = exchanges * recorded * DAY * days, exchanges * redeemed * DAY * USES_KEPT
        self.disk = self.tokens * bytes_of["tokens"] + self.uses * bytes_of["redemptions"]
        self.connections = self.instances * POOL


LOADS = [
    ("a start", 100, 0.10, 0.01, 90),
    ("10³, few writes", 1_000, 0.05, 0.01, 90),
    ("10³, all written", 1_000, 0.50, 0.50, 90),
    ("10⁴, few writes", 10_000, 0.05, 0.01, 90),
    ("10⁴, many writes", 10_000, 0.20, 0.20, 30),
    ("10⁵, no writes", 100_000, 0.0, 0.0, 0),
    ("10⁵, few writes", 100_000, 0.05, 0.01, 30),
    ("10⁵, many writes", 100_000, 0.20, 0.20, 30),
]


def percent(share):
    return f"{100 * share:.0f} %"


def figures(data, model):
    """Every figure and table of the page by name."""
    bytes_of = {name: data(f"bytes/{name}", "bytes") for name in ("tokens", "redemptions", "single_use", "ring", "past-key")}
    worst = max(deviations(data), key=lambda deviation: abs(deviation[3]))
    found = {
        "machine": f"{data.raw['machine']['processor']}, {data.raw['machine']['cores']} cores, "
                   f"Linux {data.raw['machine']['kernel']}, {data.raw['build']} build",
        "rounds": data.raw["rounds"],
        "requests": f"{data.raw['requests']:,}",
        "tolerance": percent(TOLERANCE),
        "worst": f"{100 * abs(worst[3]):.0f} %",
        "worst-point": worst[0].replace("_us", "").replace("per_second", "rate"),
        "connections": number(max(data.request(kind, 32, 1, "connections") for kind in KINDS)),
        "resident": number(data.idle(1, "resident_mib")),
        "beat-instance": number(model.beat["cpu_us"] / 1e4),
        "beat-primary": number(model.beat["primary_us"] / 1e4),
        "beat-bytes": number(model.beat["bytes"]),
        "beat-commits": number(model.beat["commits"]),
        "beat-wal-day": size(model.beat["bytes"] * DAY),
        "syncs": number(statistics.median(data.request(kind, c, n, "syncs_per_commit")
                                          for kind in KINDS for c in CONNECTIONS for n in COUNTS)),
        "ring": size(bytes_of["ring"]),
        "past-key": size(bytes_of["past-key"]),
        "drop-took": number(data("drop", "took_ms")),
    }
    found["rows"] = table(
        ["what", "measured", "target", ""],
        [(row["what"], f"{number(row['measured'])} {row['unit']}",
          "" if row["target"] is None else f"{'≥' if row['row'].startswith('insert') else '≤'} {row['target']:g} {row['unit']}",
          "" if row["target"] is None else "met" if row["met"] else "missed") for row in data.raw["rows"]])
    found["inserts"] = table(
        ["at once", "INSERTs a second", "p50", "p99", "redemptions a second", "p50", "p99"],
        [(at_once, *(cell for name in ("insert", "store") for cell in (
            number(data(f"{name}/{at_once}", "per_second")),
            f"{data(f'{name}/{at_once}', 'p50_us') / 1000:.1f} ms",
            f"{data(f'{name}/{at_once}', 'p99_us') / 1000:.1f} ms"))) for at_once in (8, 32)])
    measured = []
    for kind, connections in [("exchange", 32), *((kind, c) for kind in KINDS for c in reversed(CONNECTIONS))]:
        for n in COUNTS:
            point = lambda name: data.request(kind, connections, n, name)
            cells = [f"{kind}, {connections} connections", n, number(point("per_second")),
                     f"{100 - point('slack_percent'):.0f} %", number(point("cpu_us"))]
            if kind == "exchange":
                cells += ["", "", "", "", ""]
            else:
                cells += [number(point("primary_us")), number(point("standby_us")), number(point("bytes")),
                          f"{point('commits'):.2f}", f"{point('p50_us') / 1000:.1f} ms"]
            measured.append((*cells, f"{point('p99_us') / 1000:.1f} ms"))
    for kind in KINDS:
        point = lambda name: data(f"sled/{kind}/32", name)
        measured.append((f"{kind}, 32 connections", "sled", number(point("per_second")),
                         f"{100 - point('slack_percent'):.0f} %", number(point("cpu_us")), "", "", "", "", f"{point('p50_us') / 1000:.1f} ms", f"{point('p99_us') / 1000:.1f} ms"))
    found["measured"] = table(
        ["request", "instances", "a second", "core used", "instance µs", "primary µs", "standby µs", "WAL bytes", "commits", "p50", "p99"],
        measured)
    units = {"cpu_us": "instance, µs of CPU", "primary_us": "primary, µs of CPU", "standby_us": "each standby, µs of CPU",
             "bytes": "WAL, bytes"}
    found["model"] = table(
        ["", "exchange", "recorded token", "redemption", "commit", "second of an instance"],
        [(units[metric], number(model.cost(metric, "exchange", 0)),
          *(number(model.request[metric][kind]) for kind in KINDS), number(model.commit[metric]),
          number(model.beat[metric])) for metric in RESOURCES])
    names = {"tokens": "recorded token", "redemptions": "use of a token", "single_use": "used `jti` of a self-signed token"}
    found["records"] = table(
        ["record", "bytes", "10⁶", "10⁸", "10¹⁰"],
        [(what, number(bytes_of[name]), *(size(bytes_of[name] * count) for count in (1e6, 1e8, 1e10)))
         for name, what in names.items()])
    rows = []
    for name, exchanges, recorded, redeemed, days in LOADS:
        of = Deployment(model, bytes_of, exchanges, recorded, redeemed, days)
        written = of.writes > 0
        rows.append((name, f"{exchanges:,}", f"{percent(recorded)} + {percent(redeemed)}", of.instances, of.connections,
                     number(of.primary) if written else "under 1",
                     number(of.standby) if written else "under 1", f"{of.writes:,.0f}",
                     size(of.wal), f"{days} d" if written else "", size(of.disk) if written else ""))
    found["sizes"] = table(
        ["load", "requests a second", "recorded + redeemed", f"instances of {CORES} cores", "connections", "cores of the primary",
         "of each standby", "commits a second", "WAL a day", "tokens kept for", "disk of each node"], rows)
    per_core = {kind: BUSY * 1e6 / model.cost("cpu_us", kind, 1) for kind in ("exchange", *KINDS)}
    found["exchange-core"], found["redemption-core"] = number(per_core["exchange"]), number(per_core["redemption"])
    for count, cores in ((8, 8), (32, 32)):
        pair = sum(model.cost("primary_us", kind, 1) for kind in KINDS)
        batched = sum(model.cost("primary_us", kind, 0.1) for kind in KINDS)
        found[f"pairs-{count}"] = number(cores * BUSY * 1e6 / pair)
        found[f"pairs-{count}-batched"] = number(cores * BUSY * 1e6 / batched)
    return {name: str(value) for name, value in found.items()}


def filled(page, values):
    """The page with these figures."""
    def figure(match):
        name = match[1]
        if name not in values:
            sys.exit(f"{PAGE}: there is no figure {name!r}; there are {', '.join(sorted(values))}")
        return f"<!--={name}-->{values[name]}<!--/-->"
    return re.sub(r"<!--=([\w-]+)-->.*?<!--/-->", figure, page, flags=re.DOTALL)


def main():
    arguments = sys.argv[1:]
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    new = pathlib.Path(arguments[0]) if arguments else None
    data = Data(new or DATA)
    found = deviations(data)
    for name, measured, computed, deviation in found if new else []:
        print(f"{name:60} measured {number(measured):>8}  model {number(computed):>8}  {100 * deviation:+.0f} %")
    wrong = [deviation for deviation in found if abs(deviation[3]) > TOLERANCE]
    for name, measured, computed, deviation in wrong:
        print(f"{name}: measured {number(measured)}, but {number(computed)} in the model ({100 * deviation:+.0f} %)",
              file=sys.stderr)
    if wrong:
        sys.exit(f"the model does not fit: {len(wrong)} of {len(found)} figures differ by more than {percent(TOLERANCE)}")
    page = PAGE.read_text()
    right = filled(page, figures(data, Model(data)))
    if new:
        DATA.parent.mkdir(parents=True, exist_ok=True)
        if new.resolve() != DATA:
            DATA.write_text(new.read_text())
        PAGE.write_text(right)
    elif page != right:
        sys.exit(f"{PAGE}: its figures do not follow from {DATA}; `benches/scale.py {DATA}` writes them anew")


main()
