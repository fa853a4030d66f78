"""Results as Markdown tables and as plots."""

from __future__ import annotations

from pathlib import Path

from . import environment
from .harness import human

AXES = {
    "switch-interval": "switch interval, ms",
    "protocol": "connections (number)",
    "streams": "connections (number)",
    "cancelled": "pending timers (number)",
    "expiring": "pending timers (number)",
    "pending-timers-insert": "pending timers (number)",
    "pending-timers-cancel": "pending timers (number)",
    "pending-timers-expire": "pending timers (number)",
}
"""What the horizontal axis of a figure is, where its name does not say."""

HEAD = "| what | spdkthread | peer | its figure | unit | ratio (quartiles) | target | met |"
RULE = "|---|--:|---|--:|---|--:|---|---|"


def table(result: dict) -> str:
    """Return one question's Markdown: the question, the table, the notes, the machine."""
    lines = [f"## {result['name']}: {result['question']}", ""]
    if result.get("error"):
        lines += [f"Not measured: {result['error']}", ""]
    notes: list[str] = []
    if result["rows"]:
        lines += [HEAD, RULE]
        lines += [line(row, notes) for row in result["rows"]]
        lines.append("")
    for row in result["rows"]:
        if row["percentiles"]:
            break
    else:
        row = None
    if row is not None:
        lines += percentile_table(result["rows"])
    lines += [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    if notes:
        lines.append("")
    lines += [environment.sentence(result["facts"]), ""]
    return "\n".join(lines)


def line(row: dict, notes: list[str]) -> str:
    name = row["name"]
    if row["note"]:
        if row["note"] not in notes:
            notes.append(row["note"])
        name += f" [{notes.index(row['note']) + 1}]"
    ratio = "-"
    if row["ratio"] is not None:
        ratio = human(row["ratio"])
        if row["spread"]:
            ratio += f" ({human(row['spread'][0])} to {human(row['spread'][1])})"
    ours = human(row["ours"])
    if row["ratio"] is None and row["spread"]:
        ours += f" ({human(row['spread'][0])} to {human(row['spread'][1])})"
    met = {None: "-", True: "yes", False: "**no**"}[row["met"]]
    cells = [name, ours, row["peer_name"] or "-", human(row["peer"]), row["unit"], ratio, row["target"] or "-", met]
    return "| " + " | ".join(cells) + " |"


def percentile_table(rows: list[dict]) -> list[str]:
    shown: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        for side, values in row["percentiles"].items():
            shown.setdefault((row["name"], side), values)
    columns = list(max(shown.values(), key=len))
    lines = [f"| latency, ns | side | {' | '.join(columns)} |", "|---|---|" + "--:|" * len(columns)]
    for (name, side), values in shown.items():
        lines.append(f"| {name} | {side} | " + " | ".join(whole(values.get(c)) for c in columns) + " |")
    return [*lines, ""]


def whole(ns: float | None) -> str:
    return "-" if ns is None else f"{ns:,.0f}"


def terminal(result: dict, width: int) -> str:
    """Return one question's rows in lines of at most `width` characters. The file has the whole of them."""
    head = ["", "spdkthread", "peer", "", "unit", "ratio", ""]
    cells = [head]
    for row in result["rows"]:
        name = row["note"] if row["note"].startswith("not measured") else row["name"]
        verdict = {None: "", True: "met", False: "NOT MET"}[row["met"]]
        cells.append(
            [name, human(row["ours"]), row["peer_name"], human(row["peer"]), row["unit"], human(row["ratio"]), verdict]
        )
    lines = in_columns(cells, width, "<><><><") if len(cells) > 1 else []
    shown: dict[tuple[str, str], dict[str, float]] = {}
    for row in result["rows"]:
        for side, values in row["percentiles"].items():
            shown.setdefault((row["name"], side), values)
    if shown:
        columns = list(max(shown.values(), key=len))
        cells = [["latency, us", "", *columns]]
        cells += [
            [name, side, *(human(values[c] / 1000) if c in values else "-" for c in columns)]
            for (name, side), values in shown.items()
        ]
        lines += ["", *in_columns(cells, width, "<<" + ">" * len(columns))]
    if result.get("error"):
        lines.append(f"not measured: {result['error'].strip().splitlines()[-1]}"[:width])
    return "\n".join([*lines, ""])


def in_columns(cells: list[list[str]], width: int, align: str) -> list[str]:
    """Lay rows out in columns; where that is too wide, the columns of names are cut, the widest first."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(align))]
    gaps = 2 * (len(align) - 1)
    while sum(widths) + gaps > width:
        names = [i for i, side in enumerate(align) if side == "<" and widths[i] > 8]
        if not names:
            break
        widths[max(names, key=lambda i: widths[i])] -= 1
    return [
        "  ".join(cell(text, *column) for text, *column in zip(row, widths, align, strict=True)).rstrip()[:width]
        for row in cells
    ]


def cell(text: str, width: int, side: str) -> str:
    if len(text) > width:
        # What rows differ in may stand at the end.
        begin = width // 2
        text = f"{text[:begin]}…{text[len(text) - (width - begin - 1) :]}"
    return f"{text:{side}{width}}"


def markdown(results: list[dict], mode: str) -> str:
    parts = [
        f"# spdkthread beside its peers ({mode} run)",
        "",
        "Every figure is a cost: lower is better, and a ratio below 1 means that spdkthread is cheaper. The figures "
        "are medians over interleaved runs and the ratio is theirs; beside it stand the quartiles of the ratios of "
        "neighbouring runs. A percentile stands where ten samples or more lie beyond it.",
        "",
    ]
    targets = [row | {"name": f"{r['name']}: {row['name']}"} for r in results for row in r["rows"] if row["target"]]
    if targets:
        parts += ["## Targets of the design", "", HEAD, RULE, *(line(row | {"note": ""}, []) for row in targets), ""]
    return "\n".join([*parts, *(table(result) for result in results)])


def write(results: list[dict], mode: str, directory: Path, *, plots: bool = True) -> list[Path]:
    """Write results.md and the plots, and return the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = [directory / "results.md"]
    written[0].write_text(markdown(results, mode))
    if plots:
        try:
            import matplotlib
        except ImportError:
            return written
        matplotlib.use("Agg")
        for result in results:
            written += plot(result, directory)
    return written


def plot(result: dict, directory: Path) -> list[Path]:
    """Draw each figure that the rows of a question ask for."""
    written = []
    for figure in dict.fromkeys(row["figure"] for row in result["rows"] if row["figure"]):
        rows = [row for row in result["rows"] if row["figure"] == figure]
        path = directory / f"{result['name']}-{figure}.png"
        draw = draw_latency if any(row["curves"] for row in rows) else draw_cost
        draw(rows, result, path)
        written.append(path)
    return written


def draw_latency(rows: list[dict], result: dict, path: Path) -> None:
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(figsize=(10, 5))
    curves: dict[str, list] = {}
    several = len({row["name"] for row in rows}) > 1
    for row in rows:
        for side, points in row["curves"].items():
            curves.setdefault(f"{row['name']}: {side}" if several else side, points)
    for side, points in curves.items():
        axes.plot([1 / (1 - p / 100) for p, _ in points], [ns / 1000 for _, ns in points], label=side)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="percentile, % of the samples",
        ylabel="latency, µs",
        title=result["question"],
    )
    axes.set_xticks([2, 10, 100, 1000, 10000], ["50", "90", "99", "99.9", "99.99"])
    finish(fig, axes, result, path)


def draw_cost(rows: list[dict], result: dict, path: Path) -> None:
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(figsize=(10, 5))
    series: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["x"] is None:
            continue
        if row["ours"] is not None:
            series.setdefault(row["series"], {})[row["x"]] = row["ours"]
        if row["peer"] is not None:
            series.setdefault(row["peer_name"], {})[row["x"]] = row["peer"]
    for name, points in series.items():
        axes.plot(*zip(*sorted(points.items()), strict=True), marker="o", label=name)
    xs = [x for points in series.values() for x in points]
    if xs and max(xs) / max(1, min(xs)) >= 100:
        axes.set_xscale("log")
    figure = rows[0]["figure"]
    axes.set(
        yscale="log",
        xlabel=AXES.get(figure, f"{figure.replace('-', ' ')} (number)"),
        ylabel=f"cost, {rows[0]['unit']}",
        title=result["question"],
    )
    finish(fig, axes, result, path)


def finish(fig, axes, result: dict, path: Path) -> None:
    from matplotlib import pyplot

    axes.grid(True, which="both", alpha=0.25)
    # Beside the plot: inside, it would hide lines.
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    fig.text(0.01, 0.005, environment.sentence(result["facts"]), fontsize=5)
    fig.tight_layout(rect=(0, 0.02, 1, 1))
    fig.savefig(path, dpi=110)
    pyplot.close(fig)
