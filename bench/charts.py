"""The charts in README: latency percentiles, and throughput with processor time."""
from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from hdrh.histogram import HdrHistogram
from workloads import BASELINES, paced_name, tight_name

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from results import Results

# The colours are by Okabe and Ito, who chose them for colour-blind readers. Markers tell the lines
# apart as well.
STYLES = {
    "bare %": ("#999999", ":", ""),
    "NullHandler": ("#555555", "--", ""),
    "SysLogHandler": ("#000000", "-", "s"),
    "QueueHandler": ("#E69F00", "-", "^"),
    "backgroundlog": ("#CC79A7", "-", "v"),
    "loguru": ("#F0C000", "-", "D"),
    "picologging": ("#56B4E9", "-", "P"),
    "rfc5424": ("#8C564B", "-", "X"),
    "systemd-python": ("#7F7F00", "-", "<"),
    "cysystemd": ("#B09C85", "-", ">"),
    "fastlog": ("#0072B2", "-", "o"),
    "fastlog Logger": ("#D55E00", "-", "o"),
    "fastlog Logger, spool": ("#D55E00", "--", ""),
    "C sendto": ("#009E73", "-", ""),
    "fastlog drain": ("#0072B2", "-", ""),
}
TICKS = (50, 90, 99, 99.9, 99.99)
PACED = paced_name(10_000, "busy")
TIGHT = tight_name(1)


def draw_all(results: Results, directory: Path) -> None:
    draw_latency(results).savefig(directory / "latency.png", dpi=130)
    draw_throughput(results).savefig(directory / "throughput.png", dpi=130)
    plt.close("all")


def axis_position(percent: float) -> float:
    """Return the position of a percentile on the x axis: 50 at 0.3, 90 at 1, 99 at 2, 99.9 at 3."""
    return -math.log10(1 - percent / 100)


def draw_latency(results: Results) -> Figure:
    """Draw a line per handler, with the median of the rounds' response times at each percentile."""
    figure, axes = plt.subplots(figsize=(9.5, 6))
    points = [50 + 50 * (1 - 10 ** (-4 * n / 200)) for n in range(201)]
    points = [percent for percent in points if percent <= 99.99] + [99.99]
    for subject in results.rows[PACED]:
        histograms = [HdrHistogram.decode(row["response"]["histogram"])
                      for row in results.rows[PACED][subject] if "response" in row]
        if not histograms:
            continue
        values = [statistics.median(histogram.get_value_at_percentile(percent)
                                    for histogram in histograms) / 1000 for percent in points]
        color, line, marker = STYLES[subject]
        is_fastlog = subject.startswith("fastlog")
        axes.plot([axis_position(percent) for percent in points], values, line, color=color,
                  linewidth=2.4 if is_fastlog else 1.4, label=subject, marker=marker, markevery=20,
                  markersize=5, zorder=3 if is_fastlog else 2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(
        lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.set_xticks([axis_position(percent) for percent in TICKS],
                    [f"{percent:g} %" for percent in TICKS])
    axes.set_xlim(axis_position(50), axis_position(99.99))
    axes.set_ylabel("µs from the moment the record was due (log scale)")
    rounds = max(map(len, results.rows[PACED].values()))
    axes.set_xlabel(f"percentile of the calls; each the median of {rounds} rounds")
    axes.set_title("10,000 records a second through rsyslogd: how long a logging call takes",
                   loc="left")
    axes.grid(alpha=0.3)
    # Sort the legend by the right ends of the lines.
    lines = sorted(axes.get_lines(), key=lambda line: -line.get_ydata()[-1])
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return add_footer(figure, results)


def draw_throughput(results: Results) -> Figure:
    """Draw the records per second and the processor time of one thread in a tight loop."""
    names = [name for name in results.rows[TIGHT] if name not in BASELINES
             and results.median(TIGHT, name, "rate") is not None]
    names.sort(key=lambda name: results.median(TIGHT, name, "rate") or 0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4), sharey=True)
    rates = [(results.median(TIGHT, name, "rate") or 0) / 1000 for name in names]
    draw_bars(left, names, rates, "thousand records/s at the sink")
    counts = [results.median(TIGHT, name, "expected") or 1 for name in names]
    cpus = [(results.median(TIGHT, name, "cpu") or 0) / count / 1000
            for name, count in zip(names, counts, strict=True)]
    draw_bars(right, names, cpus, "processor time of the process, µs a record")
    for index, name in enumerate(names):
        lost = results.missing(TIGHT, name) / max(1, sum(results.values(TIGHT, name, "expected")))
        if lost:
            left.annotate(f"loses {lost:.0%}", (rates[index], index), xytext=(44, 0), fontsize=8,
                          textcoords="offset points", va="center", color="#A00000")
    figure.suptitle("A tight loop of one thread through rsyslogd", x=0.01, ha="left")
    return add_footer(figure, results)


def draw_bars(axes: Axes, names: list[str], values: list[float], label: str) -> None:
    container = axes.barh(names, values, color=[STYLES[name][0] for name in names])
    axes.bar_label(container, fmt="%.1f", padding=3, fontsize=9)
    axes.set_xlabel(label)
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def add_footer(figure: Figure, results: Results) -> Figure:
    """Print the machine's description beneath the figure."""
    machine = ", ".join(f"{key} {value}" for key, value in results.machine.items()
                        if key != "load average before")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.text(0.01, 0.01, machine, fontsize=7, color="#555555")
    return figure
