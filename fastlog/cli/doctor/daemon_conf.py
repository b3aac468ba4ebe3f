"""What journald and rsyslog were told: as much of their configurations as fastlog doctor needs."""
from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastlog.cli.doctor.socket_probe import Process

# journald.conf(5): one main file, the first that exists; drop-ins in the order of their names,
# of equal names the one in the first of these directories.
_SYSTEMD = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")
_MAIN_CONFIGURATION = "/etc/rsyslog.conf"  # rsyslogd(8), -f
_INCLUDES_MAX = 200  # files; a configuration that includes itself ends there


class Setting(NamedTuple):
    value: str
    source: str  # the file, or "default"

    def __str__(self) -> str:
        return f"{self.value} ({self.source})"


class JournaldConf:
    """The section [Journal] of all files that count."""

    def __init__(self, root: str = "/") -> None:
        self.unreadable: list[str] = []
        self._settings: dict[str, Setting] = {}
        self._defaults: dict[str, str] = {}
        for path in _journald_files(Path(root)):
            self._read(path)

    def get(self, name: str, default: str) -> Setting:
        """A default that distributions change is commented out in the main file."""
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
    main = [root / each / "journald.conf" for each in _SYSTEMD]
    drop_ins: dict[str, Path] = {}
    for each in _SYSTEMD:
        for path in (root / each / "journald.conf.d").glob("*.conf"):
            drop_ins.setdefault(path.name, path)
    return ([path for path in main if os.path.lexists(path)][:1]
            + [drop_ins[name] for name in sorted(drop_ins)])


def seconds(span: str) -> float | None:
    """A time span as in systemd.time(7); None: not understood."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "": 1}
    parts = re.findall(r"([\d.]+)\s*([a-z]*)", span)
    try:
        return sum(float(number) * units[unit] for number, unit in parts) if parts else None
    except (KeyError, ValueError):
        return None


# The old names ($Name value) of what has a new one in an object: rsyslog's documentation of
# imuxsock, imjournal and the global settings. The object's kind, then the module's name.
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
    # For sockets that are added by $AddUnixListenSocket; input() objects ignore them.
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
# The end of a rule: "kern.* -/var/log/kern.log", "& /file;template", "then /file".
_FILE_RULE = re.compile(r"^[ \t]*[^$\s].*?[ \t]-?(/[^\s;\"{}]+)(?:;\S+)?[ \t]*(?:\}|$)"
                        r"|^[ \t]*-?(/[^\s;\"{}]+)(?:;\S+)?[ \t]*$", re.MULTILINE)


class RsyslogConf:
    """What an rsyslog.conf and the files it includes set.

    Attributes: `path`; `unreadable`, a line for each file that could not be
    read; `files`, the paths that rules name to write to.
    """

    def __init__(self, path: str = _MAIN_CONFIGURATION, root: str = "/") -> None:
        self.path = path
        self.unreadable: list[str] = []
        self.files: list[str] = []
        self._objects: list[tuple[str, dict[str, str], str]] = []
        self._root = root
        self._seen = 0
        self._read(path)

    def loads(self, module: str) -> bool:
        return any(kind == "module" and parameters.get("load") == module
                   for kind, parameters, _ in self._objects)

    def sockets(self) -> list[str]:
        """The unix sockets it listens on, without what systemd hands over."""
        paths = [parameters["socket"] for kind, parameters, _ in self._objects
                 if kind in ("input", "added") and "socket" in parameters]
        use = self._get("module", "imuxsock", "syssock.use")
        if self.loads("imuxsock") and (use is None or use.value.lower() != "off"):
            name = self._get("module", "imuxsock", "syssock.name")
            paths.append(name.value if name else "/dev/log")
        return paths

    def is_added(self, path: str) -> bool:
        """Whether it is the socket of an input() or the like, and not the system's."""
        return any(kind in ("input", "added") and parameters.get("socket") == path
                   for kind, parameters, _ in self._objects)

    def get_global(self, name: str, default: str) -> Setting:
        return self._get("global", "", name) or Setting(default, "default")

    def get_module(self, module: str, name: str, default: str) -> Setting:
        return self._get("module", module, name) or Setting(default, "default")

    def get_socket(self, path: str, name: str, default: str) -> Setting:
        """Of the input() that has this socket, else of the system's socket."""
        for kind, parameters, source in self._objects:
            if kind in ("input", "added") and parameters.get("socket") == path:
                found = (Setting(parameters[name], source) if name in parameters
                         else self._get("added", "", name) if kind == "added" else None)
                return found or Setting(default, "default")
        return self.get_module("imuxsock", f"syssock.{name}", default)

    def _get(self, kind: str, module: str, name: str) -> Setting | None:
        """The last one counts."""
        for each, parameters, source in reversed(self._objects):
            if each == kind and name in parameters and parameters.get("load", "") == module:
                return Setting(parameters[name], source)
        return None

    def _read(self, path: str) -> None:
        self._seen += 1
        if self._seen > _INCLUDES_MAX:
            return
        try:
            text = Path(self._root, path.lstrip("/")).read_text(errors="replace")
            text = text.replace("\0", "?")   # no path can have one
        except OSError as error:
            self.unreadable.append(f"{path}: {error.strerror}")
            return
        rest = _TOKEN.sub(lambda match: self._take(match, path), text.replace("\\\n", " "))
        for name, value in _DIRECTIVE.findall(rest):
            self._take_directive(name.lower(), value, path)
        self.files += [first or second for first, second in _FILE_RULE.findall(rest)]

    def _take(self, match: re.Match[str], path: str) -> str:
        """Note an object; what is left of the text in its place are the legacy lines."""
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
        elif "=" not in match["body"]:   # a call in an expression
            return match[0]
        return ""

    def _take_directive(self, name: str, value: str, path: str) -> None:
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
        found = sorted(glob.glob(os.path.join(self._root, pattern.lstrip("/"))))
        for path in found:
            if os.path.isfile(path):
                self._read("/" + os.path.relpath(path, self._root))


def configuration_of(rsyslogd: Process) -> str:
    """The path of the configuration that a running rsyslogd was started with."""
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
