"""fastlog recover: what ended processes left is sent, in order, and nothing else is touched."""
import os
import socket

import pytest


def records(*texts):
    return [f"<14>{text}\0".encode() for text in texts]


def test_command(leave, recover, make_sink, spool, directory):
    """A dry run shows and changes nothing; the real one sends, in order, and removes the file."""
    leave(*range(50))
    before = spool.read_bytes()
    done = recover(spool, "--dry-run")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"{spool}: 50 records of an earlier process"
    assert lines[1:] == [f"  <14>{i}" for i in range(50)]
    assert spool.read_bytes() == before

    done = recover(spool, "--timeout", "0.1")  # where the process would have sent them: nobody
    assert done.returncode == 1 and "50 could not be" in done.stderr
    sink = make_sink(directory / "elsewhere")
    done = recover(spool, "--address", sink.path, sink=sink, count=50)
    assert done.returncode == 0 and "50 records sent" in done.stdout
    assert done.received == records(*range(50)) and sink.is_empty()
    assert not spool.exists()


def test_over_tcp(leave, recover, spool):
    leave(*range(20))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = recover(spool, "--address", f"tcp:127.0.0.1:{port}")
        assert done.returncode == 0, done
        connection, _ = listener.accept()
        with connection:
            wire = connection.makefile("rb").read()
    assert wire == b"".join(records(*range(20)))


@pytest.mark.parametrize("arguments, status, said", [
    (["/nowhere/spool"], 1, "No such file"),
    (["x", "--address", "udp:nowhere"], 2, "--address must be udp:HOST:PORT"),
    (["x", "--address", "y" * 200], 2, "address must be at most"),
    (["x", "--timeout", "-1"], 2, "--timeout must be between"),
    ([], 2, "PATH"),
])
def test_says_what_is_wrong(recover, arguments, status, said):
    done = recover(*arguments)
    assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr


def test_knows_the_last_destination(leave, recover, make_sink, spool, directory):
    """Not the one of the process that made the file."""
    leave("a", address=str(directory / "before"))
    leave("b", address=str(directory / "now"))
    sink = make_sink(directory / "now")
    assert recover(spool).returncode == 0
    assert sink.take(2) == records("a", "b")


def test_a_relative_address_from_elsewhere(leave, recover, make_sink, spool, directory,
                                                  tmp_path):
    leave("a", address=os.path.relpath(directory / "log", tmp_path))
    sink = make_sink()
    assert recover(spool, cwd="/").returncode == 0
    assert sink.take(1) == records("a")


def test_what_cannot_be_printed(leave, recover, make_sink, directory):
    """A path that is no UTF-8, and text that stdout's encoding does not have."""
    spool = os.fsdecode(os.fsencode(directory) + b"/\xff")
    leave("\u20ac", path=spool)
    utf8 = {"PYTHONIOENCODING": "utf-8"}
    done = recover(spool, "--dry-run", environment=utf8)
    assert (done.returncode, done.stderr) == (0, "") and "\\udcff" in done.stdout
    done = recover(spool, "--dry-run", environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "") and "<14>\\u20ac" in done.stdout
    sink = make_sink()
    assert recover(spool, environment=utf8).returncode == 0
    assert sink.take(1) == records("\u20ac")


def test_with_all_names(leave, recover, make_sink, spool):
    """`recover PATH*`: a file that was found beside another is not missed when its turn comes."""
    leave("a")
    leave("b", path=f"{spool}.77")
    sink = make_sink()
    done = recover(spool, f"{spool}.77")
    assert (done.returncode, done.stderr) == (0, "")
    assert sink.take(2) == records("a", "b")


def test_set_aside_twice(leave, recover, make_sink, spool, directory):
    """Under the same process id, as in a container: the second does not replace the first."""
    for capacity, text in ((4096, "a"), (8192, "b"), (4096, "c"), (8192, "d")):
        leave(text, capacity=capacity, before="import os; os.getpid = lambda: 1",
              end="signal.raise_signal(signal.SIGKILL)")
    sink = make_sink()
    done = recover(spool)
    assert done.returncode == 0, done
    assert sorted(sink.take(4)) == records("a", "b", "c", "d")
    assert os.listdir(directory) == ["log"]


def test_childs_file_that_was_set_aside_is_found(leave, recover, make_sink, spool, directory):
    """A process with the same id but another capacity moved it out of its way."""
    leave("a", path=f"{spool}.77", capacity=4096)
    leave("b", path=f"{spool}.77", capacity=8192)
    sink = make_sink()
    done = recover(spool)
    assert done.returncode == 0, done
    assert sorted(sink.take(2)) == records("a", "b")
    assert os.listdir(directory) == ["log"]
