"""The formats of logging.Formatter's three styles, taken apart into steps for formatter.pyx."""
from __future__ import annotations

import logging
import re
import string

TYPE_CHECKING = False  # importing typing takes as long as all of fastlog
if TYPE_CHECKING:
    from collections.abc import Iterator

#: What kind of step, the field's name, and the text or format: see _frontend/formatter.pyx, Conversion.
Part = tuple[str, str | None, str]

# A conversion of printf style with a mapping key, or what stands for a percent sign. It is not
# compiled here: importing would take longer.
_PERCENT = r"%(?:%|\((?P<key>[^()]*)\)(?P<spec>[#0\- +]*[0-9]*(?:\.[0-9]+)?[diouxXeEfFgGcrsa]))"


class UnsupportedFormat(Exception):
    """There is more to a format than text and plain fields."""


def parse(style: logging.PercentStyle) -> list[Part]:
    """The steps of a style's format, in order.

    Raises UnsupportedFormat, or ValueError, if logging.Formatter must do it, or say what is wrong.
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
    return [part for part in parts if part[0] != "literal" or part[2]]


def _percent(text: str) -> Iterator[Part]:
    end = 0
    for found in re.finditer(_PERCENT, text):
        yield _without_percent(text[end:found.start()])
        end = found.end()
        if found["key"] is None:
            yield "literal", None, "%"
        else:
            yield "percent", found["key"], "%" + found["spec"]
    yield _without_percent(text[end:])


def _without_percent(text: str) -> Part:
    if "%" in text:
        raise UnsupportedFormat
    return "literal", None, text


def _braces(text: str) -> Iterator[Part]:
    for literal, key, spec, conversion in string.Formatter().parse(text):
        yield "literal", None, literal
        if key is None:
            continue
        if not key.isidentifier() or "{" in spec or "}" in spec:  # type: ignore[operator]
            raise UnsupportedFormat
        whole = ("!" + conversion if conversion else "") + (":" + spec if spec else "")
        yield "braces", key, "{" + whole + "}"


def _template(template: string.Template, text: str) -> Iterator[Part]:
    if type(template) is not string.Template or template.template != text:
        raise UnsupportedFormat
    end = 0
    for found in template.pattern.finditer(text):
        yield "literal", None, text[end:found.start()]
        end = found.end()
        key = found["named"] or found["braced"]
        if key:
            yield "string", key, "$"
        elif found["escaped"] is not None:
            yield "literal", None, template.delimiter
        else:
            raise UnsupportedFormat
    yield "literal", None, text[end:]
