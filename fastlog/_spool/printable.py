"""Text from records, paths and process names, as it may be shown on a terminal or in a line.

Nothing in this file is on the data path of a record.
"""
from __future__ import annotations

import re

# Control characters (C0, DEL, C1), the line and paragraph separators, the controls of the
# bidirectional algorithm (Unicode Standard Annex #9), and the surrogates of undecodable bytes.
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
                       "\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def printable(text: str) -> str:
    r"""Return a text in one line that changes nothing on a terminal: ESC becomes \x1b."""
    return _CONTROLS.sub(_escape, text)
