"""What was measured: one row for each workload, handler and round; medians and ratios of them."""
from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from hdrh.histogram import HdrHistogram

from fastlog.cli.bench import machine

if TYPE_CHECKING:
    from pathlib import Path

    from workloads import Sizes

Row = dict[str, Any]


class Results:
    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.machine = machine()
        self.rows: dict[str, dict[str, list[Row]]] = {}
        self.imports: list[tuple[float, float]] = []

    def add(self, workload: str, subject: str, row: Row) -> None:
        self.rows.setdefault(workload, {}).setdefault(subject, []).append(row)

    def values(self, workload: str, subject: str, *path: str) -> list[float]:
        """A value of each round; [] if it was not measured, or failed in any."""
        found = []
        for row in self.rows.get(workload, {}).get(subject, []):
            value: Any = row
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return []
            found.append(float(value))
        return found

    def median(self, workload: str, subject: str, *path: str) -> float | None:
        found = self.values(workload, subject, *path)
        return statistics.median(found) if found else None

    def ratios(self, workload: str, subject: str, base: str, *path: str) -> list[float]:
        """subject / base, each of the same round."""
        return divide(self.values(workload, subject, *path), self.values(workload, base, *path))

    def together(self, workload: str, subject: str, kind: str) -> HdrHistogram | None:
        """The rounds' histograms of "response" or "service" times, added."""
        rows = [row for row in self.rows.get(workload, {}).get(subject, []) if kind in row]
        if not rows:
            return None
        found = HdrHistogram.decode(rows[0][kind]["histogram"])
        for row in rows[1:]:
            found.decode_and_add(row[kind]["histogram"])
        return found

    def missing(self, workload: str, subject: str) -> float:
        return sum(self.values(workload, subject, "missing"))

    def where(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.machine.items())

    def write(self, path: Path, workloads: list[str]) -> None:
        """The rows of these workloads, with one histogram for all rounds."""
        facts: dict[str, Any] = {"machine": self.machine, "sizes": self.sizes._asdict(),
                                 "unit": "ns", "workloads": {}}
        if self.imports:
            facts["imports"] = self.imports
        for workload in workloads:
            facts["workloads"][workload] = {
                subject: self._facts(workload, subject, rows)
                for subject, rows in self.rows.get(workload, {}).items()}
        path.write_text(json.dumps(facts, indent=1) + "\n")

    def read(self, path: Path) -> None:
        """Add what write() wrote, but for the histograms, if it is of a run of the same size."""
        facts = json.loads(path.read_text())
        if facts["sizes"] != json.loads(json.dumps(self.sizes._asdict())):
            return
        for workload, subjects in facts["workloads"].items():
            for subject, found in subjects.items():
                self.rows.setdefault(workload, {}).setdefault(subject, found["rounds"])
        self.imports = self.imports or [(first, second) for first, second
                                        in facts.get("imports", [])]

    def _facts(self, workload: str, subject: str, rows: list[Row]) -> Row:
        facts: Row = {"rounds": [without_histograms(row) for row in rows]}
        for kind in ("response", "service"):
            histogram = self.together(workload, subject, kind)
            if histogram is not None:
                facts[kind] = histogram.encode().decode()
        return facts


def without_histograms(row: Row) -> Row:
    """The begin and end of a round are of no use once it is over."""
    return {key: {name: number for name, number in value.items() if name != "histogram"}
            if isinstance(value, dict) else value
            for key, value in row.items() if key not in ("begin", "logged", "end")}


def divide(values: list[float], bases: list[float]) -> list[float]:
    """Value by value; [] if one of the two was not measured."""
    if len(values) != len(bases):
        return []
    return [value / base for value, base in zip(values, bases, strict=True) if base]
