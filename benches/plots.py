#!/usr/bin/env python3
"""Draws SVG plots from the data that `make bench` wrote, and writes its table: plots.py DATA.json FOLDER.

table.md is the table, and table.svg shows each of its rows as a share of its target. The others show the CPU time of a
request against what grows. Needs nothing but the standard library.
"""

import json
import math
import pathlib
import statistics
import sys

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 40, 60, 50
COLOURS = ["#1f77b4", "#d62728", "#2ca02c"]

# File, title, label of the x axis, and the series: legend, prefix of the measurements.
CURVES = [
    ("policies", "Cost of a request against the number of policies", "policies",
     [("client_credentials", "policies/")]),
    ("history", "Cost of a redemption against the number of historical keys", "historical keys",
     [("redemption", "history/")]),
    ("ledger", "Cost of a recorded token against the records of the ledger", "records",
     [("recorded token", "ledger/")]),
    ("connections", "Cost of a request against the number of connections", "connections",
     [("client_credentials", "connections/")]),
    ("size", "Cost of an exchange against the size of the access token", "bytes",
     [("Writ", "size/"), ("ideal", "ideal-size/")]),
]


def text(x, y, content, anchor="middle", size=12, weight="normal"):
    content = str(content).replace("&", "&amp;").replace("<", "&lt;")
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'font-weight="{weight}">{content}</text>')


def line(x1, y1, x2, y2, colour="#bbb", dash=""):
    dash = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'


def svg(height, parts):
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(rows):
    """Each ratio as a share of its target; the line is the target."""
    left, step = 330, 22
    height = TOP + step * len(rows) + 30
    largest = max(2.0, min(4.0, max(row["measured"] / row["target"] for row in rows)))
    scale = (WIDTH - left - 90) / largest
    parts = [text(WIDTH / 2, 22, "Measured, as a share of the target", size=15, weight="bold"),
             line(left + scale, TOP - 4, left + scale, height - 24, "#333", "4 3"),
             text(left + scale, height - 8, "target", size=11)]
    for index, row in enumerate(rows):
        share, y = row["measured"] / row["target"], TOP + step * index
        colour = "#2ca02c" if row["met"] else "#d62728"
        width = max(1, min(share, largest) * scale)
        parts.append(text(left - 8, y + 14, row["what"], "end", 11))
        parts.append(f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="{step - 6}" fill="{colour}"/>')
        parts.append(text(left + width + 5, y + 14, f'{number(row["measured"])} {row["unit"]}', "start", 11))
    return svg(height, parts)


def ticks(largest):
    step = 10 ** math.floor(math.log10(largest))
    step = next(step * factor for factor in (0.2, 0.5, 1, 2) if largest / (step * factor) <= 6)
    return [step * index for index in range(int(largest / step) + 1)]


def curve(title, label, series):
    """CPU time over a logarithmic axis, with the range of all rounds as bars."""
    points = [point for _, values in series for point in values]
    first, last = math.log10(min(x for x, _ in points)), math.log10(max(x for x, _ in points))
    top = max(max(values) for _, values in points) * 1.25
    place = lambda x: LEFT + (math.log10(x) - first) / max(last - first, 1e-9) * (WIDTH - LEFT - RIGHT)
    level = lambda y: HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)
    parts = [text(WIDTH / 2, 22, title, size=15, weight="bold")]
    for tick in ticks(top):
        parts += [line(LEFT, level(tick), WIDTH - RIGHT, level(tick), "#e5e5e5"),
                  text(LEFT - 8, level(tick) + 4, number(tick), "end")]
    for x in sorted({x for x, _ in points}):
        parts.append(text(place(x), HEIGHT - BOTTOM + 18, f"{x:,}"))
    parts += [line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#333"),
              text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, label),
              text(LEFT - 50, TOP - 16, "µs of CPU a request", "start")]
    for index, (name, values) in enumerate(series):
        colour = COLOURS[index]
        medians = [(place(x), level(statistics.median(y))) for x, y in values]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in medians)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (_, rounds) in zip(medians, values):
            parts += [line(x, level(min(rounds)), x, level(max(rounds)), colour),
                      f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>']
        parts.append(f'<rect x="{WIDTH - 190}" y="{TOP + 18 * index}" width="12" height="12" fill="{colour}"/>')
        parts.append(text(WIDTH - 172, TOP + 11 + 18 * index, name, "start"))
    return svg(HEIGHT, parts)


def minutes(soak):
    """Resident memory over the minutes of a soak."""
    values = soak["resident_mib"]
    top = max(values) * 1.25
    place = lambda x: LEFT + x / len(values) * (WIDTH - LEFT - RIGHT)
    level = lambda y: HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)
    parts = [text(WIDTH / 2, 22, "Resident memory during a soak", size=15, weight="bold")]
    for tick in ticks(top):
        parts += [line(LEFT, level(tick), WIDTH - RIGHT, level(tick), "#e5e5e5"),
                  text(LEFT - 8, level(tick) + 4, number(tick), "end")]
    for x in range(0, len(values) + 1, 10):
        parts.append(text(place(x), HEIGHT - BOTTOM + 18, x))
    path = " ".join(f"{place(x + 1):.1f},{level(y):.1f}" for x, y in enumerate(values))
    parts += [line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "#333"),
              f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>',
              text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "minutes"), text(LEFT - 50, TOP - 16, "MiB", "start")]
    return svg(HEIGHT, parts)


def markdown(rows):
    lines = ["| row | what | measured | target | |", "| --- | --- | ---: | ---: | --- |"]
    for row in rows:
        measured, target = (f'{number(row[name])} {row["unit"]}' for name in ("measured", "target"))
        lines.append(f'| `{row["row"]}` | {row["what"]} | {measured} | ≤ {target} | {"met" if row["met"] else "missed"} |')
    return "\n".join([*lines, ""])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data = json.loads(pathlib.Path(sys.argv[1]).read_text())
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    if data["rows"]:
        (folder / "table.svg").write_text(bars(data["rows"]))
        (folder / "table.md").write_text(markdown(data["rows"]))
    soak = data["measurements"].get("soak")
    if soak:
        (folder / "soak.svg").write_text(minutes(soak))
    for file, title, label, series in CURVES:
        drawn = []
        for name, prefix in series:
            values = [(int(key[len(prefix):]), metrics["cpu_us"]) for key, metrics in data["measurements"].items()
                      if key.startswith(prefix) and key[len(prefix):].isdigit()]
            if len(values) > 1:
                drawn.append((name, sorted(values)))
        if drawn:
            (folder / f"{file}.svg").write_text(curve(title, label, drawn))


main()
