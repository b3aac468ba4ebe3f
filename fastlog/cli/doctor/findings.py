"""What fastlog doctor says: findings, and how they are printed."""
from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

_WIDTH_MAX, _WIDTH_MIN = 96, 40
_STATUS_WIDTH = 9


class Finding(NamedTuple):
    """One thing that was looked at.

    status: "ok"; "note", worth knowing; "warning", records can get lost or
        changed; "problem", records do not arrive now.
    check: what was looked at, a name that stays.
    found, todo: one sentence each; todo may be empty.
    """

    status: Literal["ok", "note", "warning", "problem"]
    check: str
    found: str
    todo: str = ""


def as_text(findings: Iterable[Finding]) -> str:
    return "\n".join(map(_paragraph, findings))


def _paragraph(finding: Finding) -> str:
    indent = " " * _STATUS_WIDTH
    text = _wrap(finding.found, f"{finding.status:<{_STATUS_WIDTH}}", indent)
    if finding.todo:
        text += "\n" + _wrap(finding.todo, indent + "-> ", indent + "   ")
    return text


def _wrap(text: str, first: str, others: str) -> str:
    # A terminal's own width, $COLUMNS, or what fits into most.
    width = shutil.get_terminal_size((_WIDTH_MAX, 0)).columns
    # A path or a setting that is to be copied stays in one piece.
    return textwrap.fill(text, max(_WIDTH_MIN, min(width, _WIDTH_MAX)), initial_indent=first,
                         subsequent_indent=others, break_long_words=False, break_on_hyphens=False)


def summary(findings: Iterable[Finding]) -> str:
    statuses = [finding.status for finding in findings]
    counts = []
    for status in ("problem", "warning"):
        if count := statuses.count(status):
            counts.append(f"{count} {status}{'s' if count > 1 else ''}")
    return ", ".join(counts) or "no problem, no warning"
