"""The findings of fastlog doctor, and how they are printed."""
from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from fastlog._spool.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

_WIDTH_MAX, _WIDTH_MIN = 96, 40
_STATUS_WIDTH = 9


class Finding(NamedTuple):
    """The result of one check.

    status: "ok"; "note", worth knowing; "warning", records may be lost or changed; "problem",
        records do not arrive at present.
    check: the stable name of the check.
    found: what the check found, in one or two sentences.
    todo: what to do about it, or an empty string.
    """

    status: Literal["ok", "note", "warning", "problem"]
    check: str
    found: str
    todo: str = ""


def as_text(findings: Iterable[Finding]) -> str:
    return "\n".join(map(_format_finding, findings))


def _format_finding(finding: Finding) -> str:
    indent = " " * _STATUS_WIDTH
    text = _wrap(finding.found, f"{finding.status:<{_STATUS_WIDTH}}", indent)
    if finding.todo:
        text += "\n" + _wrap(finding.todo, indent + "-> ", indent + "   ")
    return text


def _wrap(text: str, first_indent: str, indent: str) -> str:
    # The width of the terminal or $COLUMNS, else a width that fits most terminals.
    width = shutil.get_terminal_size((_WIDTH_MAX, 0)).columns
    # A path or a setting stays in one piece, so that it can be copied.
    return textwrap.fill(printable(text), max(_WIDTH_MIN, min(width, _WIDTH_MAX)),
                         initial_indent=first_indent, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)


def summary(findings: Iterable[Finding]) -> str:
    """Return a line with the number of problems and warnings."""
    statuses = [finding.status for finding in findings]
    counts = []
    for status in ("problem", "warning"):
        if count := statuses.count(status):
            counts.append(f"{count} {status}{'s' if count > 1 else ''}")
    return ", ".join(counts) or "no problems, no warnings"
