#!/usr/bin/env python3
"""The tables and plots of docs/performance.md, from benches/results/load.json.

  tools/figures/plots.py                      writes docs/images/performance-*.svg and the tables
  tools/figures/plots.py --check              exits with 1 if a committed file differs
  tools/figures/plots.py --bench FIGURES      first takes the figures of `cargo bench --bench load -- --json FIGURES`
"""

import argparse
import json
import math
import re
import statistics
import sys
from pathlib import Path

import svg

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches/results/load.json"
PAGE = ROOT / "docs/performance.md"
IMAGES = ROOT / "docs/images"
WIDTH, LEFT, BARS = 880, 24, 520


def figure(value):
    """Three significant digits, with separators, as the bench prints them."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits > 0:
        shown = f"{value:.{digits}f}"
        return shown.rstrip("0").rstrip(".") if "." in shown else shown
    unit = 10 ** -digits
    return f"{round(value / unit) * unit:,.0f}"


def goal(row):
    """The goal's bound and whether it is a ratio to the reference."""
    found = re.fullmatch(r"[≥≤] ([\d,.]+)( ×)?", row.get("goal", ""))
    return (float(found[1].replace(",", "")), bool(found[2])) if found else None


def met(row):
    bound = goal(row)
    cell = row["cells"][0]
    if bound is None or not cell:
        return None
    got = cell.get("ratio") if bound[1] else cell.get("value")
    if got is None:
        return None
    return got >= bound[0] if row["goal"].startswith("≥") else got <= bound[0]


def measured(cell):
    return cell is not None and "value" in cell


def cell_text(cell):
    if cell is None:
        return "n/a"
    if "text" in cell:
        return cell["text"]
    ratio = f" · {figure(cell['ratio'])} ×" if "ratio" in cell else ""
    return figure(cell["value"]) + ratio


def table(report):
    head = ["work", *(f"{broker['name']} {broker['version']}" for broker in report["brokers"]), "goal"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in report["rows"]:
        unit = f" [{row['unit']}]" if row["unit"] else ""
        verdict = {None: "", True: " met", False: " **missed**"}[met(row)]
        cells = [row["title"] + unit, *map(cell_text, row["cells"]), row.get("goal", "") + verdict]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- {name}: {value}" for name, value in report["settings"].items()]
    notes += [f"- {broker['name']}: {broker['configuration']}" for broker in report["brokers"]]
    notes += [f"- {remark}" for remark in report.get("remarks", [])]
    return "\n".join(lines + [""] + notes) + "\n"


def chart(title, description, legend, groups, marks):
    """Groups of bars: (label, [(length 0..1, text, kind)]); marks: [(0..1, text)] are vertical lines."""
    parts = [svg.text(LEFT, 34, title, bold=True, size=16), svg.text(LEFT, 54, legend, kind="muted", size=12)]
    y = 78
    for label, bars in groups:
        parts.append(svg.text(LEFT, y, label, size=12))
        y += 6
        for length, words, kind in bars:
            parts.append(svg.rect(LEFT, y, max(length * BARS, 1), 11, kind, 2))
            parts.append(svg.text(LEFT + max(length * BARS, 1) + 6, y + 10, words, kind="muted", size=11))
            y += 14
        y += 15
    for at, words in marks:
        parts.append(svg.line(LEFT + at * BARS, 64, LEFT + at * BARS, y - 12))
        anchor = "start" if at < 0.1 else "middle"
        parts.append(svg.text(LEFT + at * BARS, y, words, kind="muted", size=11, anchor=anchor))
    return svg.document(WIDTH, y + 16, title, description, parts)


def ratio_chart(title, legend, rows, names):
    top = max(row["cells"][0]["ratio"] for row in rows)
    groups = []
    for row in rows:
        mine, other = row["cells"][0], row["cells"][1]
        words = f"{figure(mine['ratio'])} ×   ({figure(mine['value'])} to {figure(other['value'])} {row['unit']})"
        groups.append((row["title"], [(mine["ratio"] / top, words, "main")]))
    described = f"{names[0]} divided by {names[1]}, {len(rows)} rows of the table below"
    return chart(title, described, legend, groups, [(1 / top, f"{names[1]} = 1")])


def goal_chart(rows):
    groups = []
    for row in rows:
        value, bound = row["cells"][0]["value"], goal(row)[0]
        words = f"{figure(value)} of {figure(bound)} {row['unit']}"
        groups.append((row["title"], [(min(value / bound, 1.6) / 1.6, words, "main" if met(row) else "warn")]))
    legend = "Share of the goal; shorter is better. Rows that have no counterpart in the other brokers."
    return chart("Against its own goals", "Weir's figures divided by their goals", legend, groups, [(1 / 1.6, "goal")])


def listeners_chart(report):
    names = [broker["name"] for broker in report["brokers"]]
    groups = []
    for row in report["rows"]:
        if not row["unit"] or not all(map(measured, row["cells"])):
            continue
        top = max(cell["value"] for cell in row["cells"]) or 1
        bars = [(cell["value"] / top, f"{figure(cell['value'])} {row['unit']}   {name}", "main" if at == 0 else "other")
                for at, (name, cell) in enumerate(zip(names, row["cells"]))]
        groups.append((row["title"], bars))
    legend = "Each row has its own scale; shorter is better."
    return chart("A thousand listeners and one change", f"Rows for {', '.join(names)}", legend, groups, [])


def images(results):
    bench = results["bench"]
    names = [f"{broker['name']} {broker['version']}" for broker in bench["brokers"]]
    compared = [row for row in bench["rows"] if row["cells"][0] and "ratio" in row["cells"][0]]
    higher = [row for row in compared if row["unit"] == "msg per CPU s"]
    stored = [row for row in compared if row["unit"] == "msg/s"]
    lower = [row for row in compared if row["better"] == "lower"]
    own = [row for row in bench["rows"] if row not in compared and goal(row) and measured(row["cells"][0])]
    legend = f"{names[0]} divided by {names[1]} in the same round;"
    return {
        "performance-throughput.svg":
            ratio_chart("Messages per second of the broker's CPU", f"{legend} longer is better.", higher, names),
        "performance-store.svg":
            ratio_chart("QoS 1 messages per second, stored for offline clients", f"{legend} longer is better.", stored, names),
        "performance-cost.svg":
            ratio_chart("Latency, memory and CPU", f"{legend} shorter is better.", lower, names),
        "performance-goals.svg": goal_chart(own),
        "performance-listeners.svg": listeners_chart(results["listeners"]),
    }


def from_bench(report):
    """The medians of the bench's own JSON, which has every figure of every round."""
    names = [broker["name"] for broker in report["brokers"]]
    reference = names.index(report["reference"]) if report["reference"] else None

    def value(run, key):
        good = "error" not in run and not run.get("void")
        return run.get("values", {}).get(key) if good else None

    def cell(row, at, measure):
        runs, key = row["runs"].get(names[at], []), measure["key"]
        if not measure["unit"]:
            words = sorted({run["words"][key] for run in runs if key in run.get("words", {})})
            return {"text": "; or ".join(words)} if words else None
        values = [got for run in runs if (got := value(run, key)) is not None]
        if not values:
            return {"text": "void"} if runs else None
        found = {"value": statistics.median(values)}
        if reference is not None and at != reference:
            pairs = zip(runs, row["runs"].get(names[reference], []))
            ratios = [value(run, key) / value(other, key) for run, other in pairs if value(run, key) is not None and value(other, key)]
            if ratios:
                found["ratio"] = statistics.median(ratios)
        return found

    rows = [{"title": measure["title"], "unit": measure["unit"], "better": measure["better"], "goal": measure["goal"],
             "cells": [cell(row, at, measure) for at in range(len(names))]}
            for row in report["rows"] for measure in row["measures"]]
    return {"brokers": report["brokers"], "settings": report["settings"], "remarks": report["remarks"], "rows": rows}


def between(page, name, content):
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{content}\n{end}{rest.split(end)[1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--bench", metavar="FIGURES", type=Path)
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text())
    if args.bench:
        results.update({name: from_bench(report) for name, report in json.loads(args.bench.read_text()).items()})
    page = PAGE.read_text()
    for name, report in results.items():
        page = between(page, name, table(report))
    wanted = {PAGE: page, RESULTS: json.dumps(results, indent=1, ensure_ascii=False) + "\n"}
    wanted.update({IMAGES / name: content for name, content in images(results).items()})
    stale = [path for path, content in wanted.items() if not path.exists() or path.read_text() != content]
    if args.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run tools/figures/plots.py", file=sys.stderr)
        return 1 if stale else 0
    IMAGES.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(wanted[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
