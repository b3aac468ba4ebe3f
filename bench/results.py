"""The measured values, with one row per workload, subject and round, and their statistics."""
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
        #: The rounds by workload and subject.
        self.rows: dict[str, dict[str, list[Row]]] = {}
        #: ms to import logging.handlers, and then fastlog, in each process.
        self.imports: list[tuple[float, float]] = []

    def add(self, workload: str, subject: str, row: Row) -> None:
        self.rows.setdefault(workload, {}).setdefault(subject, []).append(row)

    def values(self, workload: str, subject: str, *path: str) -> list[float]:
        """Return the value at `path` of each round, or [] if any round does not have it."""
        values = []
        for row in self.rows.get(workload, {}).get(subject, []):
            value: Any = row
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return []
            values.append(float(value))
        return values

    def median(self, workload: str, subject: str, *path: str) -> float | None:
        values = self.values(workload, subject, *path)
        return statistics.median(values) if values else None

    def ratios(self, workload: str, subject: str, base: str, *path: str) -> list[float]:
        """Return subject / base for each round."""
        return divide(self.values(workload, subject, *path), self.values(workload, base, *path))

    def merged_histogram(self, workload: str, subject: str, kind: str) -> HdrHistogram | None:
        """Return the sum of all rounds' histograms of "response" or "service" times."""
        rows = [row for row in self.rows.get(workload, {}).get(subject, []) if kind in row]
        if not rows:
            return None
        merged = HdrHistogram.decode(rows[0][kind]["histogram"])
        for row in rows[1:]:
            merged.decode_and_add(row[kind]["histogram"])
        return merged

    def missing(self, workload: str, subject: str) -> float:
        return sum(self.values(workload, subject, "missing"))

    def machine_text(self) -> str:
        return ", ".join(f"{key} {value}" for key, value in self.machine.items())

    def write(self, path: Path, workloads: list[str]) -> None:
        """Write the rows of these workloads, with one merged histogram of all rounds."""
        data: dict[str, Any] = {"machine": self.machine, "sizes": self.sizes._asdict(),
                                "unit": "ns", "workloads": {}}
        if self.imports:
            data["imports"] = self.imports
        for workload in workloads:
            data["workloads"][workload] = {
                subject: self._subject_data(workload, subject, rows)
                for subject, rows in self.rows.get(workload, {}).items()}
        path.write_text(json.dumps(data, indent=1) + "\n")

    def read(self, path: Path) -> None:
        """Add the rows of a file of write(), without the histograms.

        Ignore the file if its run had other sizes. Values of this run take precedence.
        """
        data = json.loads(path.read_text())
        if data["sizes"] != json.loads(json.dumps(self.sizes._asdict())):
            return
        for workload, subjects in data["workloads"].items():
            for subject, subject_data in subjects.items():
                self.rows.setdefault(workload, {}).setdefault(subject, subject_data["rounds"])
        self.imports = self.imports or [(logging_ms, fastlog_ms) for logging_ms, fastlog_ms
                                        in data.get("imports", [])]

    def _subject_data(self, workload: str, subject: str, rows: list[Row]) -> Row:
        data: Row = {"rounds": [stored_row(row) for row in rows]}
        for kind in ("response", "service"):
            histogram = self.merged_histogram(workload, subject, kind)
            if histogram is not None:
                data[kind] = histogram.encode().decode()
        return data


def stored_row(row: Row) -> Row:
    """Return a row without its histograms and its clock readings, which mean nothing later."""
    return {key: {name: number for name, number in value.items() if name != "histogram"}
            if isinstance(value, dict) else value
            for key, value in row.items() if key not in ("begin", "logged", "end")}


def divide(values: list[float], bases: list[float]) -> list[float]:
    """Divide value by value, or return [] if one of the lists is incomplete."""
    if len(values) != len(bases):
        return []
    return [value / base for value, base in zip(values, bases, strict=True) if base]
