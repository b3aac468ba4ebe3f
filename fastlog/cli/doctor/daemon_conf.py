"""Read the configuration files of journald and rsyslog, as far as fastlog doctor needs them."""
from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastlog.cli.doctor.processes import Process

# journald.conf(5): the main file is the first that exists in these directories. Drop-ins are read
# in the order of their names. If two have the same name, the one in the first directory counts.
_SYSTEMD = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")
_MAIN_CONFIGURATION = "/etc/rsyslog.conf"  # rsyslogd(8), -f
_FILES_MAX = 200  # so that reading a configuration that includes itself ends


class Setting(NamedTuple):
    value: str
    source: str  # the file, or "default"

    def __str__(self) -> str:
        return f"{self.value} ({self.source})"


class JournaldConf:
    """The section [Journal] of journald's configuration files.

    Attribute: `unreadable`, a line for each file that could not be read.
    """

    def __init__(self, root: str = "/") -> None:
        self.unreadable: list[str] = []
        self._settings: dict[str, Setting] = {}
        self._defaults: dict[str, str] = {}
        for path in _journald_files(Path(root)):
            self._read(path)

    def get(self, name: str, default: str) -> Setting:
        """Return a setting.

        A default that the distribution has changed is in the main file, in a comment.
        """
        return self._settings.get(name) or Setting(self._defaults.get(name, default), "default")

    def _read(self, path: Path) -> None:
        try:
            lines = path.read_text(errors="replace").replace("\\\n", " ").splitlines()
        except OSError as error:
            self.unreadable.append(f"{path}: {error.strerror}")
            return
        section = ""
        for line in map(str.strip, lines):
            if line.startswith("["):
                section = line
            name, equals, value = (part.strip() for part in line.partition("="))
            if not equals or section != "[Journal]" or not value:
                continue
            if line[0] not in "#;":
                self._settings[name] = Setting(value, str(path))
            elif path.name == "journald.conf":
                self._defaults[name.lstrip("#; ")] = value


def _journald_files(root: Path) -> list[Path]:
    main_files = [root / directory / "journald.conf" for directory in _SYSTEMD]
    drop_ins: dict[str, Path] = {}
    for directory in _SYSTEMD:
        for path in (root / directory / "journald.conf.d").glob("*.conf"):
            drop_ins.setdefault(path.name, path)
    return ([path for path in main_files if os.path.lexists(path)][:1]
            + [drop_ins[name] for name in sorted(drop_ins)])


def seconds(span: str) -> float | None:
    """Parse a time span of systemd.time(7). Return None if that fails."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "": 1}
    parts = re.findall(r"([\d.]+)\s*([a-z]*)", span)
    try:
        return sum(float(number) * units[unit] for number, unit in parts) if parts else None
    except (KeyError, ValueError):
        return None


# Legacy directives ($Name value) and the parameters that replace them, from rsyslog's documentation
# of imuxsock, imjournal and the global settings: the kind of object, its module, the parameter.
_LEGACY = {
    "maxmessagesize": ("global", "", "maxmessagesize"),
    "escapecontrolcharactersonreceive":
        ("global", "", "parser.escapecontrolcharactersonreceive"),
    "systemlogratelimitinterval": ("module", "imuxsock", "syssock.ratelimit.interval"),
    "systemlogratelimitburst": ("module", "imuxsock", "syssock.ratelimit.burst"),
    "systemlogsocketignoremsgtimestamp": ("module", "imuxsock", "syssock.ignoretimestamp"),
    "systemlogsocketname": ("module", "imuxsock", "syssock.name"),
    "imjournalratelimitinterval": ("module", "imjournal", "ratelimit.interval"),
    "imjournalratelimitburst": ("module", "imjournal", "ratelimit.burst"),
    # For sockets added by $AddUnixListenSocket. input() objects ignore these directives.
    "imuxsockratelimitinterval": ("added", "", "ratelimit.interval"),
    "imuxsockratelimitburst": ("added", "", "ratelimit.burst"),
    "inputunixlistensocketignoremsgtimestamp": ("added", "", "ignoretimestamp"),
}
_TOKEN = re.compile(r"""
    (?P<comment>\#[^\n]*|/\*.*?\*/)
  | (?P<object>\b[a-z_]+)\s*\((?P<body>(?:[^()"']|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')*)\)
  | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
""", re.VERBOSE | re.DOTALL | re.IGNORECASE)
_PARAMETER = re.compile(r"""([\w.]+)\s*=\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)')""")
_DIRECTIVE = re.compile(r"^[ \t]*\$(\w+)[ \t]+(.+?)[ \t]*$", re.MULTILINE)
# The file at the end of a rule: "kern.* -/var/log/kern.log", "& /file;template", "then /file".
_FILE_RULE = re.compile(r"^[ \t]*[^$\s].*?[ \t]-?(/[^\s;\"{}]+)(?:;\S+)?[ \t]*(?:\}|$)"
                        r"|^[ \t]*-?(/[^\s;\"{}]+)(?:;\S+)?[ \t]*$", re.MULTILINE)


class RsyslogConf:
    """The settings in an rsyslog.conf and the files that it includes.

    Attributes: `path`. `unreadable`, a line for each file that could not be read. `files`, the
    paths of the files that rules write to.
    """

    def __init__(self, path: str = _MAIN_CONFIGURATION, root: str = "/") -> None:
        self.path = path
        self.unreadable: list[str] = []
        self.files: list[str] = []
        # Kind, parameters, file. The kind of $AddUnixListenSocket is "added".
        self._objects: list[tuple[str, dict[str, str], str]] = []
        self._root = root
        self._files_read = 0
        self._read(path)

    def loads(self, module: str) -> bool:
        return any(kind == "module" and parameters.get("load") == module
                   for kind, parameters, _ in self._objects)

    def sockets(self) -> list[str]:
        """Return the unix sockets that rsyslogd listens on, except those passed by systemd."""
        paths = [parameters["socket"] for kind, parameters, _ in self._objects
                 if kind in ("input", "added") and "socket" in parameters]
        use = self._get("module", "imuxsock", "syssock.use")
        if self.loads("imuxsock") and (use is None or use.value.lower() != "off"):
            name = self._get("module", "imuxsock", "syssock.name")
            paths.append(name.value if name else "/dev/log")
        return paths

    def is_added(self, path: str) -> bool:
        """Return whether an input() or $AddUnixListenSocket has this socket."""
        return any(kind in ("input", "added") and parameters.get("socket") == path
                   for kind, parameters, _ in self._objects)

    def get_global(self, name: str, default: str) -> Setting:
        return self._get("global", "", name) or Setting(default, "default")

    def get_module(self, module: str, name: str, default: str) -> Setting:
        return self._get("module", module, name) or Setting(default, "default")

    def get_socket(self, path: str, name: str, default: str) -> Setting:
        """Return a setting of the input() with this socket, else of the system's socket."""
        for kind, parameters, source in self._objects:
            if kind in ("input", "added") and parameters.get("socket") == path:
                setting = (Setting(parameters[name], source) if name in parameters
                           else self._get("added", "", name) if kind == "added" else None)
                return setting or Setting(default, "default")
        return self.get_module("imuxsock", f"syssock.{name}", default)

    def _get(self, kind: str, module: str, name: str) -> Setting | None:
        """Return the last setting of this name, or None."""
        for object_kind, parameters, source in reversed(self._objects):
            if (object_kind == kind and name in parameters
                    and parameters.get("load", "") == module):
                return Setting(parameters[name], source)
        return None

    def _read(self, path: str) -> None:
        self._files_read += 1
        if self._files_read > _FILES_MAX:
            return
        try:
            text = Path(self._root, path.lstrip("/")).read_text(errors="replace")
            text = text.replace("\0", "?")   # a path cannot contain NUL
        except OSError as error:
            self.unreadable.append(f"{path}: {error.strerror}")
            return
        legacy_text = _TOKEN.sub(lambda match: self._add_object(match, path),
                                 text.replace("\\\n", " "))
        for name, value in _DIRECTIVE.findall(legacy_text):
            self._add_directive(name.lower(), value, path)
        self.files += [first or second for first, second in _FILE_RULE.findall(legacy_text)]

    def _add_object(self, match: re.Match[str], path: str) -> str:
        """Store an object, or read an included file. Return the text to leave in its place."""
        if match["comment"]:
            return ""
        if match["string"]:
            return match["string"]
        parameters = {name.lower(): double or single
                      for name, double, single in _PARAMETER.findall(match["body"])}
        kind = match["object"].lower()
        if parameters.get("config.enabled", "on").lower() == "off":
            return ""
        if kind == "include" and "file" in parameters:
            self._include(parameters["file"])
        elif kind == "action" and "file" in parameters:
            self.files.append(parameters["file"])
        elif kind in ("global", "module", "input"):
            self._objects.append((kind, parameters, path))
        elif "=" not in match["body"]:   # a function call in an expression
            return match[0]
        return ""

    def _add_directive(self, name: str, value: str, path: str) -> None:
        value = value.strip("\"'")
        if name == "includeconfig":
            self._include(value)
        elif name == "modload":
            self._objects.append(("module", {"load": os.path.basename(value)}, path))
        elif name == "addunixlistensocket":
            self._objects.append(("added", {"socket": value}, path))
        elif name == "omitlocallogging":
            use = "off" if value.lower() == "on" else "on"
            self._objects.append(("module", {"load": "imuxsock", "syssock.use": use}, path))
        elif name in _LEGACY:
            kind, module, parameter = _LEGACY[name]
            parameters = {parameter: value}
            if module:
                parameters["load"] = module
            self._objects.append((kind, parameters, path))

    def _include(self, pattern: str) -> None:
        if pattern.endswith("/"):
            pattern += "*"
        for path in sorted(glob.glob(os.path.join(self._root, pattern.lstrip("/")))):
            if os.path.isfile(path):
                self._read("/" + os.path.relpath(path, self._root))


def configuration_of(rsyslogd: Process) -> str:
    """Return the path of the configuration file that a running rsyslogd was started with."""
    try:
        words = Path(f"/proc/{rsyslogd.pid}/cmdline").read_text(errors="replace").split("\0")
        for i, word in enumerate(words):
            if word.startswith("-f"):
                path = word[2:] or words[i + 1]
                return (path if path.startswith("/")
                        else os.path.join(os.readlink(f"/proc/{rsyslogd.pid}/cwd"), path))
    except (OSError, IndexError):
        pass
    return _MAIN_CONFIGURATION
