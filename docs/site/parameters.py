"""Griffe extension that turns lines `name: meaning` in docstrings into list items.

Without it, Markdown would join the lines into one paragraph.
"""
import re

import griffe

PARAMETER = re.compile(r"^([a-z_]+(?:, [a-z_]+)*): ", re.MULTILINE)


class Parameters(griffe.Extension):
    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = PARAMETER.sub(r"- **\1**: ", obj.docstring.value)
