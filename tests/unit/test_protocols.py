"""RFC 3164 and RFC 5424: records as a real rsyslogd parses them, and invalid options."""
import datetime
import json
import logging
import os
import re
import socket
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from support import wait_until

import fastlog

# This rsyslogd writes each parsed record as a line of JSON. The configuration of its input is the
# documented one: docs/formats.md.
PARSED = """\
global(workDirectory="{directory}" maxMessageSize="{max_message_size}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket}" UseSpecialParser="off" ParseHostname="on"
      IgnoreTimestamp="off")
template(name="parsed" type="list" option.jsonf="on") {{
    property(outname="facility" name="syslogfacility-text" format="jsonf")
    property(outname="severity" name="syslogseverity-text" format="jsonf")
    property(outname="version" name="protocol-version" format="jsonf")
    property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="hostname" name="hostname" format="jsonf")
    property(outname="app_name" name="app-name" format="jsonf")
    property(outname="tag" name="syslogtag" format="jsonf")
    property(outname="procid" name="procid" format="jsonf")
    property(outname="msgid" name="msgid" format="jsonf")
    property(outname="data" name="structured-data" format="jsonf")
    property(outname="message" name="msg" format="jsonf")
}}
action(type="omfile" file="{server_log}" template="parsed")
"""


@pytest.fixture
def parsing_daemon(start_rsyslogd):
    return start_rsyslogd(configuration=PARSED)


def read_parsed(daemon, count):
    """Wait for `count` records and return all records that the daemon has parsed."""
    daemon.wait_for_lines(count)
    return [json.loads(line) for line in daemon.server_lines()]


def make_record(message, created, **extra):
    record = logging.makeLogRecord({"msg": message, "levelname": "WARNING", "levelno": 30, **extra})
    record.created = created
    return record


LOGGERS = pytest.mark.parametrize("cls", [logging.Logger, fastlog.Logger])


def test_rfc5424_header_is_parsed(make_handler, parsing_daemon):
    """rsyslogd parses every part of an RFC 5424 header, and the time to the microsecond."""
    handler = make_handler(
        parsing_daemon.socket, "local3", protocol="rfc5424", hostname="web-1.example.org",
        app_name="shop", procid="worker-7", msgid="ORDER",
        structured_data={"origin": {"software": "shop", "swVersion": "1.2"}})
    created = 1_700_000_000.123456
    handler.handle(make_record("paid by \u00e4nn", created))
    handler.handle(make_record("own", created + 1, msgid="PAY", structured_data={
        "order@32473": {"number": 4711, "by": 'a "b" ] \\ c'}, "empty@32473": {}}))
    first, second = read_parsed(parsing_daemon, 2)
    assert datetime.datetime.fromisoformat(first.pop("time")).timestamp() == created
    assert first == {
        "facility": "local3", "severity": "warning", "version": "1",
        "hostname": "web-1.example.org", "app_name": "shop", "tag": "shop[worker-7]",
        "procid": "worker-7", "msgid": "ORDER",
        "data": '[origin software="shop" swVersion="1.2"]', "message": "paid by \u00e4nn"}
    assert second["msgid"] == "PAY" and second["message"] == "own"
    assert second["data"] == (r'[order@32473 number="4711" by="a \"b\" \] \\ c"]'
                              r"[empty@32473]")


VALUES = ["", " ", 'a "b" ]', "\\", "]", '"', "\\]", '\\"', "end\\", "two\\\\", '[a b="c"]', "=",
          "x\ny", "\u00e4\N{EURO SIGN}\U0001f600", "long" * 1000]


def test_structured_data_values_are_parsed(make_handler, start_rsyslogd):
    """rsyslog's mmpstrucdata module parses each value of structured data as given."""
    configuration = PARSED.replace(
        "global(", 'global(parser.escapeControlCharactersOnReceive="off" ')
    daemon = start_rsyslogd(configuration=configuration.replace(
        "action(", 'module(load="mmpstrucdata")\naction(type="mmpstrucdata")\naction(').replace(
        '"structured-data"', '"$!rfc5424-sd!a@32473"'))
    handler = make_handler(daemon.socket, protocol="rfc5424")
    for value in VALUES:
        handler.handle(make_record("m", 0.0, structured_data={
            "first@32473": {}, "a@32473": {"value": value, "other": "b"}}))
    for value, parsed in zip(VALUES, read_parsed(daemon, len(VALUES)), strict=True):
        assert json.loads(parsed["data"]) == {"value": value, "other": "b"}
        assert parsed["message"] == "m"


@LOGGERS
def test_rfc5424_defaults(make_handler, parsing_daemon, cls):
    """By default a header has the host name, the process id and the time of the call."""
    handler = make_handler(parsing_daemon.socket, protocol="rfc5424")
    log = cls("x")
    log.addHandler(handler)
    before = time.time()
    log.info("%s", "a")
    after = time.time()
    [parsed] = read_parsed(parsing_daemon, 1)
    timestamp = datetime.datetime.fromisoformat(parsed["time"]).timestamp()
    assert before - 1e-6 <= timestamp <= after + 1e-6
    assert parsed["hostname"] == socket.gethostname()
    assert parsed["procid"] == str(os.getpid())
    assert (parsed["msgid"], parsed["data"], parsed["message"]) == ("-", "-", "a")
    assert parsed["facility"] == "user" and parsed["severity"] == "info"


def test_byte_order_mark_is_sent(make_handler, parsing_daemon):
    """A byte order mark at the start of the format is sent and stays part of the message."""
    handler = make_handler(parsing_daemon.socket, protocol="rfc5424")
    handler.setFormatter(logging.Formatter("\ufeff%(message)s"))
    handler.handle(make_record("\u00e4", 0.0))
    [parsed] = read_parsed(parsing_daemon, 1)
    assert (parsed["data"], parsed["message"]) == ("-", "\ufeff\u00e4")


@LOGGERS
def test_rfc3164_header_is_parsed(make_handler, parsing_daemon, cls):
    """rsyslogd parses every part of an RFC 3164 header as given."""
    handler = make_handler(parsing_daemon.socket, "local3", protocol="rfc3164", hostname="web-1",
                           app_name="shop", procid="7")
    log = cls("x")
    log.addHandler(handler)
    before = int(time.time())
    log.error("a: b")
    after = time.time()
    [parsed] = read_parsed(parsing_daemon, 1)
    assert before <= datetime.datetime.fromisoformat(parsed["time"]).timestamp() <= after
    assert (parsed["facility"], parsed["severity"]) == ("local3", "err")
    assert (parsed["hostname"], parsed["tag"]) == ("web-1", "shop[7]:")
    assert parsed["message"].removeprefix(" ") == "a: b"


def find_free_port(kind):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_bound(kind, port):
    """Return whether a socket is bound to the port, according to proc_net_tcp(5)."""
    lines = Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


def test_headers_are_parsed_over_the_network(make_handler, logger_for, start_rsyslogd):
    """imtcp accepts both framings and imudp datagrams, without a parser setting for the header."""
    ports = {"tcp": find_free_port(socket.SOCK_STREAM), "udp": find_free_port(socket.SOCK_DGRAM)}
    inputs = "".join(f'module(load="im{kind}")\n'
                     f'input(type="im{kind}" address="127.0.0.1" port="{port}")\n'
                     for kind, port in ports.items())
    daemon = start_rsyslogd(configuration=inputs + PARSED)
    for kind, port in ports.items():
        wait_until(lambda kind=kind, port=port: is_bound(kind, port), 20, f"{kind} {port}")
    count = 0
    for protocol in "rfc3164", "rfc5424":
        for kind, framing in ("tcp", "octet-counting"), ("tcp", "newline"), ("udp", None):
            handler = make_handler(
                ("127.0.0.1", ports[kind]), framing=framing,
                socktype=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM,
                protocol=protocol, hostname="web-1", app_name="shop", procid="7")
            log = logger_for(handler)
            log.info("a: b\ntwo \u00e4 \0 end")
            log.info("")
            count += 2
            first, second = read_parsed(daemon, count)[-2:]
            colon, space = (":", " ") if protocol == "rfc3164" else ("", "")
            assert first["message"] == space + "a: b#012two \u00e4 #000 end"
            assert second["message"] == space
            assert (first["hostname"], first["tag"]) == ("web-1", f"shop[7]{colon}")


@pytest.mark.parametrize("zone", ["UTC", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"])
def test_time_has_the_offset_of_the_zone(run_python, make_sink, zone):
    """The time is local with its UTC offset, before and after a change to daylight saving time."""
    sink = make_sink()
    run_python("""
import logging, os, sys, time, fastlog
os.environ["TZ"] = sys.argv[2]
time.tzset()
handler = fastlog.SysLogHandler(sys.argv[1], protocol="rfc5424")
for created in (1_700_000_000.0, 1_720_000_000.999999, 0.5, 1_710_054_000.9999999):
    record = logging.makeLogRecord({"msg": repr(created), "levelname": "INFO"})
    record.created = created
    handler.handle(record)
""", sink.path, zone)
    for datagram in sink.take(4):
        text = datagram.decode().rstrip("\0").split()
        parsed_time = datetime.datetime.fromisoformat(text[1])
        assert abs(parsed_time.timestamp() - float(text[-1])) < 1e-6


def test_leap_second_is_not_sent(run_python, sink):
    """The time never has second 60, which RFC 5424 section 6.2.3 forbids.

    The zones in zoneinfo/right contain leap seconds.
    """
    run_python("""
import logging, os, sys, time, fastlog
os.environ["TZ"] = "right/UTC"
time.tzset()
handler = fastlog.SysLogHandler(sys.argv[1], protocol="rfc5424")
record = logging.makeLogRecord({"msg": "m", "levelname": "INFO"})
record.created = 1483228826.5      # 2016-12-31T23:59:60.5
handler.handle(record)
""", sink.path)
    assert b":60" not in sink.take_one()


def test_rfc3164_pads_the_day(make_handler, sink):
    """The day has two characters, the first of which may be a space: RFC 3164 section 4.1.2."""
    handler = make_handler(sink.path, protocol="rfc3164", hostname="h", app_name="a", procid="1")
    for day, date in (9, b"Jan  9"), (10, b"Jan 10"):
        created = datetime.datetime(2024, 1, day, 3, 4, 5, 999_999)
        handler.handle(make_record("m", created.timestamp()))
        assert sink.take_one() == b"<12>" + date + b" 03:04:05 h a[1]: m\0"


def test_rfc3164_default_names_are_sanitized(run_python, parsing_daemon):
    """The default host name has no domain, and the default tag has no character that ends a tag."""
    run_python("""
import logging, socket, sys, fastlog
socket.gethostname = lambda: "web-1.example.org"
sys.argv[0] = "a:b[c]"
logging.root.addHandler(fastlog.SysLogHandler(sys.argv[1], protocol="rfc3164", procid="7"))
logging.warning("m")
""", parsing_daemon.socket)
    [parsed] = read_parsed(parsing_daemon, 1)
    assert (parsed["hostname"], parsed["tag"], parsed["message"]) == ("web-1", "a_b_c_[7]:", " m")


NAMES = st.text(st.characters(codec="utf-8"), max_size=40)
NAME = r"[!#-<>-\\^-~]{1,32}"
ELEMENT = re.compile(rf'\[({NAME})((?: {NAME}="(?:[^"\\\]]|\\["\\\]])*")*)\]')


@pytest.mark.slow
@settings(max_examples=200, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(NAMES, st.dictionaries(NAMES, st.text() | st.integers(), max_size=3),
                            max_size=3), msgid=NAMES)
def test_arbitrary_extra_makes_a_valid_record(handler5424, sink, data, msgid):
    """Any structured_data and msgid in `extra` make a record that matches RFC 5424's grammar."""
    handler5424.handle(make_record("m", 0.0, structured_data=data, msgid=msgid))
    text = sink.take_one().decode("utf-8").removesuffix("\0")
    header = re.match(r"<12>1 1970-01-01T\S+ host app 1 ([!-~]{1,32}) (.*) m\Z", text, re.DOTALL)
    assert header, text
    elements = list(ELEMENT.finditer(header[2]))
    assert "".join(element[0] for element in elements) == (header[2] if data else "")
    expected = {}
    for sd_id, parameters in data.items():
        name = re.sub(r"[^!#-<>-\\^-~]", "_", sd_id)[:32] or "_"
        expected.setdefault(name, []).extend(map(str, parameters.values()))
    assert [element[1] for element in elements] == list(expected) and (data or header[2] == "-")
    expected_values = [value for values in expected.values() for value in values]
    parsed_values = [re.sub(r'\\(["\\\]])', r"\1", value) for element in elements
                     for value in re.findall(r'="((?:[^"\\]|\\.)*)"', element[2], re.DOTALL)]
    assert parsed_values == [
        value.encode("utf-8", "backslashreplace").decode().replace("\0", "#000")
        for value in expected_values]


@pytest.fixture
def handler5424(make_handler, sink):
    return make_handler(sink.path, protocol="rfc5424", hostname="host", app_name="app", procid="1")


@pytest.mark.parametrize("data", ["text", 3, ["a"], {"a": 1}, {"a": {"b": None}}, {1: {2: 3}}])
def test_invalid_structured_data_is_left_out(handler5424, sink, data):
    """structured_data of a wrong type in `extra` causes no exception, and the record is sent."""
    handler5424.handle(make_record("m", 0.0, structured_data=data))
    assert sink.take_one().endswith(b" m\0")


class Unprintable:
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("extra, header_end", [
    ({"structured_data": {"a": {"b": Unprintable(), "c": 10 ** 5000}}},
     b'- [a b="<Unprintable without a str()>" c="<int without a str()>"]'),
    ({"structured_data": {Unprintable(): {Unprintable(): 1}}},
     b'- [<Unprintable_without_a_str()> <Unprintable_without_a_str()>="1"]'),
    ({"msgid": Unprintable()}, b"<Unprintable_without_a_str()> -"),
    ({"structured_data": {"a b": {"x": 1}, "c": {}, "a_b": {"y": 2}}}, b'- [a_b x="1" y="2"][c]'),
], ids=["values", "names", "msgid", "equal ids after sanitizing"])
def test_misbehaving_extra_is_sent(handler5424, sink, capsys, extra, header_end):
    """A record is sent even if its extra raises or has names that are equal after sanitizing.

    No SD-ID occurs twice, as RFC 5424 section 6.3.2 requires.
    """
    handler5424.handle(make_record("m", 0.0, **extra))
    assert sink.take_one().endswith(b" 1 " + header_end + b" m\0")
    assert capsys.readouterr().err == ""


def test_structured_data_changes_while_it_is_formatted(handler5424, sink, capsys):
    """Structured data that changes while it is formatted is sent as it was at the start.

    Another thread may change it, such as the context of a request.
    """
    class Changing:
        def __str__(self):
            elements[f"more{len(elements)}"] = {}
            elements["a"][f"more{len(elements)}"] = 1
            return "x"

    elements = {"a": {"b": Changing(), "c": 1}, "d": {}}
    handler5424.handle(make_record("m", 0.0, structured_data=elements))
    assert sink.take_one().endswith(b' 1 - [a b="x" c="1"][d] m\0')
    assert capsys.readouterr().err == ""


def test_none_in_extra_selects_the_constructors_value(make_handler, sink):
    """A msgid or structured_data that is missing or None takes the constructor's value."""
    handler = make_handler(sink.path, protocol="rfc5424", hostname="host", app_name="app",
                           procid="1", msgid="ID", structured_data={"a": {}})
    handler.handle(make_record("m", 0.0, msgid=None, structured_data=None))
    handler.handle(make_record("m", 0.0, structured_data={}))
    first, second = sink.take(2)
    assert first.endswith(b" 1 ID [a] m\0") and second.endswith(b" 1 ID - m\0")


def test_streams_use_octet_counting_by_default(make_handler, make_sink):
    """On a stream, RFC 5424 records use octet counting and no NUL unless configured otherwise."""
    sink = make_sink(kind=socket.SOCK_STREAM)
    handler = make_handler(sink.path, socktype=socket.SOCK_STREAM, protocol="rfc5424",
                           hostname="h", app_name="a", procid="1")
    handler.handle(make_record("one\ntwo", 0.0))
    size, _, rest = sink.take_bytes(3).partition(b" ")
    text = rest + sink.take_bytes(int(size) - len(rest))
    assert text.startswith(b"<12>1 1970-") and text.endswith(b" h a 1 - - one\ntwo")


@LOGGERS
def test_local_form_of_rfc_3164(make_handler, sink, cls):
    """hostname="" sends what syslog(3) sends: the time and the tag without a host name."""
    log = cls("x")
    log.addHandler(make_handler(f"unix://{sink.path}", protocol="rfc3164", hostname="",
                                app_name="shop"))
    log.warning("paid")
    expected = rb"<12>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d shop\[%d\]: paid\0" % os.getpid()
    assert re.fullmatch(expected, sink.take_one())


def test_rsyslogd_reads_the_local_form(make_handler, start_rsyslogd, logger_for):
    """rsyslogd's default input takes the time and the tag from the local form of RFC 3164."""
    configuration = PARSED.replace(' UseSpecialParser="off" ParseHostname="on"\n     ', "")
    daemon = start_rsyslogd(configuration=configuration)
    handler = make_handler(daemon.socket, protocol="rfc3164", hostname="", app_name="shop",
                           procid="7")
    logger_for(handler).warning("paid")
    [parsed] = read_parsed(daemon, 1)
    assert (parsed["tag"], parsed["app_name"], parsed["procid"]) == ("shop[7]:", "shop", "7")
    assert parsed["message"].strip() == "paid"


@pytest.mark.parametrize("options, error, message", [
    ({"protocol": "rfc9999"}, ValueError, "protocol must be one of"),
    ({"hostname": "a"}, ValueError, 'hostname is for protocol="rfc3164" and "rfc5424"$'),
    ({"hostname": ""}, ValueError, 'hostname is for protocol="rfc3164" and "rfc5424"$'),
    ({"msgid": "a"}, ValueError, 'msgid is for protocol="rfc5424"$'),
    ({"structured_data": {"a": 1}}, ValueError, 'structured_data is for protocol="rfc5424"$'),
    ({"protocol": "rfc3164", "hostname": "", "address": ("host", 514)}, ValueError,
     "hostname must not be empty over the network"),
    ({"protocol": "rfc3164", "msgid": "a"}, ValueError, 'msgid is for protocol="rfc5424"'),
    ({"protocol": "rfc5424", "ident": "a"}, ValueError, "ident is for protocol"),
    ({"protocol": "rfc5424", "hostname": "a b"}, ValueError, "hostname must be 1 to 255 printable"),
    ({"protocol": "rfc5424", "hostname": ""}, ValueError, "hostname must be 1 to 255 printable"),
    ({"protocol": "rfc5424", "app_name": "a" * 49}, ValueError, "app_name must be 1 to 48"),
    ({"protocol": "rfc3164", "app_name": "\u00e4"}, ValueError, "app_name must be 1 to 32"),
    ({"protocol": "rfc3164", "app_name": "a:b"}, ValueError, "app_name must be 1 to 32"),
    ({"protocol": "rfc3164", "procid": "1]"}, ValueError, "procid must be 1 to 128"),
    ({"protocol": "rfc5424", "procid": 7}, TypeError, "procid must be a str"),
    ({"protocol": "rfc5424", "msgid": "a\nb"}, ValueError, "msgid must be 1 to 32"),
    ({"protocol": "rfc5424", "structured_data": "x"}, TypeError, "structured_data must be a map"),
    ({"protocol": "rfc5424", "structured_data": {"a": 1}}, TypeError, "must be a mapping, not int"),
    ({"protocol": "rfc5424", "structured_data": {"a b": {}}}, ValueError, "must have names"),
    ({"protocol": "rfc5424", "structured_data": {"a": {"=": 1}}}, ValueError, "must have names"),
])
def test_invalid_options_are_rejected(make_handler, options, error, message):
    """An option that is invalid or belongs to another protocol raises an error that names it."""
    with pytest.raises(error, match=message):
        make_handler(**{"address": "/nowhere", **options})
