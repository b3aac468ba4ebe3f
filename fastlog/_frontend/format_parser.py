"""Parse the formats of logging.Formatter's three styles, for _frontend/formatter.pyx."""
from __future__ import annotations

import logging
import re
import string

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Iterator

#: The kinds of parts. The conversions of fields are described at Conversion in
#: _frontend/formatter.pyx.
LITERAL, STRING, PERCENT, BRACES = "literal", "string", "percent", "braces"

#: The kind, the field's name (None for a literal), and the text or the format.
Part = tuple[str, str | None, str]

# A printf-style conversion with a mapping key, or an escaped percent sign. It is a str, because
# compiling it here would slow the import down.
_PERCENT = r"%(?:%|\((?P<key>[^()]*)\)(?P<spec>[#0\- +]*[0-9]*(?:\.[0-9]+)?[diouxXeEfFgGcrsa]))"


class UnsupportedFormat(Exception):
    """The format has more than text and plain fields."""


def parse(style: logging.PercentStyle) -> list[Part]:
    """Return the parts of a style's format, in order.

    Raises UnsupportedFormat or ValueError if logging.Formatter must apply the format or report its
    error.
    """
    text = style._fmt
    if type(text) is not str:
        raise UnsupportedFormat
    if type(style) is logging.PercentStyle:
        parts = _percent(text)
    elif type(style) is logging.StrFormatStyle:
        parts = _braces(text)
    elif type(style) is logging.StringTemplateStyle:
        parts = _template(style._tpl, text)
    else:
        raise UnsupportedFormat
    return [part for part in parts if part[0] != LITERAL or part[2]]


def _percent(text: str) -> Iterator[Part]:
    end = 0
    for match in re.finditer(_PERCENT, text):
        yield _without_percent(text[end:match.start()])
        end = match.end()
        if match["key"] is None:
            yield LITERAL, None, "%"
        else:
            yield PERCENT, match["key"], "%" + match["spec"]
    yield _without_percent(text[end:])


def _without_percent(text: str) -> Part:
    if "%" in text:
        raise UnsupportedFormat
    return LITERAL, None, text


def _braces(text: str) -> Iterator[Part]:
    for literal, key, spec, conversion in string.Formatter().parse(text):
        yield LITERAL, None, literal
        if key is None:
            continue
        if not key.isidentifier() or "{" in spec or "}" in spec:  # type: ignore[operator]
            raise UnsupportedFormat
        whole = ("!" + conversion if conversion else "") + (":" + spec if spec else "")
        yield BRACES, key, "{" + whole + "}"


def _template(template: string.Template, text: str) -> Iterator[Part]:
    if type(template) is not string.Template or template.template != text:
        raise UnsupportedFormat
    end = 0
    for match in template.pattern.finditer(text):
        yield LITERAL, None, text[end:match.start()]
        end = match.end()
        key = match["named"] or match["braced"]
        if key:
            yield STRING, key, "$"
        elif match["escaped"] is not None:
            yield LITERAL, None, template.delimiter
        else:
            raise UnsupportedFormat
    yield LITERAL, None, text[end:]
