"""Ends of a process that run no exit function of logging: os._exit(), exec, signals to itself."""
import ctypes
import gc
import inspect
import os
import posix
import re
import signal
import threading
import time
from unittest import mock

import pytest

import fastlog

PROGRAM = """
import logging, os, signal, sys, threading, time
from os import _exit
early_exit = _exit
import fastlog
log = logging.getLogger("program")
log.setLevel(logging.DEBUG)
log.addHandler(handler := fastlog.SysLogHandler(sys.argv[1], **OPTIONS))
"""
HOOKED = [posix._exit, posix.abort, posix.execv, posix.execve, posix.kill, posix.killpg,
          signal.raise_signal, signal.pthread_kill]
# From Python 3.12 on, os.fork() warns if the process has more than one thread.
FORK_WITH_THREADS = ["-W", "ignore:This process:DeprecationWarning"]


def program(code, **options):
    return PROGRAM.replace("**OPTIONS", f"**{options!r}") + code


def numbers(count):
    return [b"<14>%d\0" % i for i in range(count)]


def address_of_code(function):
    """Return the address of the C function that a builtin calls (PyMethodDef.ml_meth)."""
    size = ctypes.sizeof(ctypes.c_void_p)
    method = ctypes.c_void_p.from_address(id(function) + object.__basicsize__).value
    return ctypes.c_void_p.from_address(method + size).value


@pytest.mark.parametrize("end, status", [
    ("early_exit(3)", 3),
    ("import ctypes; ctypes.CDLL(None).exit(6)", 6),
    ("os.execlp('true', 'true')", 0),
    ("os.execve('/bin/true', ['true'], {})", 0),
    ("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM),
    ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ("os.setsid(); os.kill(0, signal.SIGHUP)", -signal.SIGHUP),
    ("os.setsid(); os.kill(-os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ("os.setsid(); os.killpg(os.getpid(), signal.SIGUSR1)", -signal.SIGUSR1),
    ("signal.pthread_kill(threading.get_ident(), signal.SIGQUIT)", -signal.SIGQUIT),
    ("signal.signal(signal.SIGINT, signal.SIG_DFL); signal.raise_signal(signal.SIGINT)",
     -signal.SIGINT),
    ("signal.signal(signal.SIGPIPE, signal.SIG_DFL); signal.raise_signal(signal.SIGPIPE)",
     -signal.SIGPIPE),
    ("signal.signal(signal.SIGTERM, lambda *_: early_exit(4)); signal.raise_signal(15)", 4),
    ("threading.Thread(target=early_exit, args=(5,)).start(); time.sleep(60)", 5),
    ("atexit = __import__('atexit'); atexit.unregister(logging.shutdown)", 0),
])
def test_records_before_the_end_arrive(run_python, sink, end, status):
    """Records that were logged right before the end arrive, in order."""
    received = []
    reader = threading.Thread(target=lambda: received.extend(sink.take(1000)))
    reader.start()
    run_python(program(f"for i in range(1000): log.info('%d', i)\n{end}", close_timeout=30),
               sink.path, returncode=status)
    reader.join()
    assert received == numbers(1000)


def test_hooked_functions_look_the_same(make_handler):
    """Hooks change neither identity, name, signature nor documentation of a function."""
    def describe():
        return [(function.__name__, function.__doc__, inspect.isbuiltin(function),
                 function.__module__, str(inspect.signature(function)) if hasattr(
                     function, "__text_signature__") and function.__text_signature__ else None)
                for function in HOOKED]

    before = describe()
    make_handler("/nowhere")
    assert describe() == before
    assert os._exit is posix._exit is HOOKED[0]


@pytest.mark.usefixtures("with_gil")
def test_hooks_are_gone_with_the_last_handler():
    """Each builtin calls its own C function again when the last handler has been freed."""
    gc.collect()
    others = [address_of_code(function) for function in HOOKED]
    first = fastlog.SysLogHandler("/nowhere")
    hooked = [address_of_code(function) for function in HOOKED]
    second = fastlog.SysLogHandler("/nowhere")
    del first
    gc.collect()
    assert [address_of_code(function) for function in HOOKED] == hooked
    del second
    gc.collect()
    assert [address_of_code(function) for function in HOOKED] == others
    assert not set(hooked) & set(others) or hooked == others     # another test's handler lives


def test_other_wrappers_work(run_python, sink):
    """A mock in place of os._exit() is called, and a wrapper that calls the original delivers."""
    out = run_python(program("""
from unittest import mock
with mock.patch("os._exit") as replaced:
    os._exit(1)
original = os._exit
def wrapper(status):
    print(replaced.called, "wrapped", flush=True)
    original(status)
os._exit = wrapper
log.info("0")
os._exit(3)
"""), sink.path, returncode=3)
    assert out == "True wrapped\n"
    assert sink.take(1) == numbers(1)


def test_signal_to_another_process_does_not_wait(make_handler, logger_for, sink):
    """A signal that another process receives, or that ends nothing, leaves the records alone."""
    handler = make_handler(sink.path, close_timeout=1000)
    sink.hang()
    logger_for(handler).info("x")
    os.kill(os.getpid(), 0)
    os.kill(os.getpid(), signal.SIGWINCH)
    with pytest.raises(ProcessLookupError):
        os.kill(2 ** 22 + 1, signal.SIGTERM)          # above the highest pid
    for wrong in "x", -1, 2 ** 80, 1000:
        with pytest.raises((TypeError, OSError, OverflowError)):
            os.kill(os.getpid(), wrong)
        with pytest.raises((TypeError, OSError, OverflowError)):
            signal.raise_signal(wrong)
    received = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert received == [1] and handler.stats().pending == 1
    handler.close(0)


def test_program_goes_on_after_a_failed_exec(run_python, sink):
    """The program goes on after an exec that failed, and its later records arrive."""
    run_python(program("""
log.info("0")
try:
    os.execv("/nonexistent", ["x"])
except FileNotFoundError:
    log.info("1")
"""), sink.path)
    assert sink.take(2) == numbers(2)


def test_absent_daemon_does_not_hold_up_the_end(run_python, directory):
    """os._exit() waits briefly if the daemon was never reached, and says what was lost."""
    begin = time.monotonic()
    run_python(program("""
for _ in range(9): log.addHandler(fastlog.SysLogHandler(sys.argv[1], close_timeout=1000))
log.info("0")
os._exit(3)
""", close_timeout=1000), directory / "nobody", returncode=3,
               stderr=re.compile(r"(fastlog: 1 records were not delivered to .*\n){10}"))
    assert time.monotonic() - begin < 30


def test_hung_daemon_holds_up_the_end_for_close_timeout(run_python, sink):
    """os._exit() waits for close_timeout if the daemon hangs, and says what was lost."""
    sink.hang()
    run_python(program("for i in range(50): log.info('%d', i)\nos._exit(3)", close_timeout=0.3),
               sink.path, returncode=3,
               stderr=re.compile(r"^fastlog: 50 records were not delivered to .*\n$"))


def test_child_that_has_logged_nothing_ends_at_once(run_python, sink):
    """A child does not wait for its parent's records, which the parent delivers."""
    sink.hang()
    run_python(program("""
log.info("0")
if os.fork() == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
handler.close_timeout = 0.0
logging.raiseExceptions = False
""", close_timeout=1000), sink.path, options=FORK_WITH_THREADS)


@pytest.mark.parametrize("end", ["os.execv('/bin/true', ['true'])",
                                 "signal.raise_signal(signal.SIGTERM)"])
def test_ctrl_c_ends_the_wait(run_python, sink, end):
    """Ctrl-C interrupts the wait for a daemon that hangs, and the function raises."""
    sink.hang()
    out = run_python(program(f"""
log.info("0")
threading.Timer(0.2, signal.pthread_kill,
                (threading.main_thread().ident, signal.SIGINT)).start()
try:
    {end}
except KeyboardInterrupt:
    print("interrupted", flush=True)
logging.raiseExceptions = False
handler.close_timeout = 0.0
""", close_timeout=1000), sink.path)
    assert out == "interrupted\n"


def test_preexec_fn(run_python, sink):
    """Records that a preexec_fn logs arrive, although the child then runs another program."""
    run_python(program("""
import subprocess
subprocess.run(["true"], preexec_fn=lambda: [log.info("%d", i) for i in range(5)])
"""), sink.path, options=FORK_WITH_THREADS)
    assert sink.take(5) == numbers(5)


def test_fork_without_a_python_frame(run_python, sink):
    """The fork hook also works where C code has forked and no Python code runs, as in uWSGI."""
    run_python(program("""
import _thread
from fastlog import _exit_hooks
def finish(): done.set()
done = threading.Event()
_thread.start_new_thread(_exit_hooks._after_fork, ())      # its frame is the only one
_thread.start_new_thread(finish, ())
done.wait()
while _thread._count(): time.sleep(0.001)
log.info("0")
"""), sink.path)
    assert sink.take(1) == numbers(1)


def test_terminated_child_of_multiprocessing(run_python, sink):
    """A child that multiprocessing ends by SIGTERM delivers what it has logged."""
    run_python(program("""
import multiprocessing
context = multiprocessing.get_context("fork")
ready = context.Event()

def work():
    for i in range(10): log.info("%d", i)
    ready.set()
    time.sleep(60)

child = context.Process(target=work)
child.start()
ready.wait()
child.terminate()
child.join()
print(child.exitcode)
""", linger=1.0), sink.path, options=FORK_WITH_THREADS)
    assert sink.take(10) == numbers(10)


def test_child_of_multiprocessing_with_handlers_of_its_own(run_python, directory):
    """A child's own SIGTERM handler works, and an absent daemon does not hold terminate() up."""
    out = run_python(program("""
import multiprocessing
logging.raiseExceptions = False
context = multiprocessing.get_context("fork")
ready = context.Event()

def work(own):
    if own:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    log.info("x")
    ready.set()
    time.sleep(60)

for own in True, False:
    ready.clear()
    child = context.Process(target=work, args=(own,))
    child.start()
    ready.wait()
    child.terminate()
    child.join()
    print(child.exitcode)
handler.close_timeout = 0.0
""", close_timeout=1000), directory / "nobody", options=FORK_WITH_THREADS)
    assert out == f"9\n{-signal.SIGTERM}\n"


CONFIGURE = ["import logging.config; logging.config.dictConfig("
             "{'version': 1, 'disable_existing_loggers': False})",
             "import atexit; logging._handlerList.clear(); atexit.unregister(logging.shutdown)"]


@pytest.mark.parametrize("configure", CONFIGURE)
def test_handler_that_logging_forgot(run_python, sink, configure):
    """A handler that is not in logging's list, but on its logger, delivers at the exit."""
    run_python(program(f"log.info('0')\n{configure}\nfor i in range(1, 10): log.info('%d', i)",
                       linger=1.0), sink.path)
    assert sink.take(10) == numbers(10)


@pytest.mark.parametrize("configure", ["", "handler.close()", CONFIGURE[0], "logging.shutdown()"])
def test_each_lost_record_is_reported_once(run_python, sink, configure):
    """Whatever closes a handler, and however often, stderr reports each lost record once.

    A record of an exit function that runs after logging's own is reported, too.
    """
    sink.hang()
    errors = []
    run_python("import atexit\natexit.register(lambda: log.info('last'))\n"
               + program(f"log.info('0')\n{configure}\nlog.info('1')\nlog.info('2')",
                         close_timeout=0.2),
               sink.path, stderr=mock.Mock(search=lambda text: errors.append(text) or True))
    reported = [int(count) for count in re.findall(r"(\d+) records were not delivered", errors[0])]
    assert sum(reported) == 4, errors


def test_second_init_keeps_the_records(make_handler, logger_for, sink, threads):
    """handler.__init__() called again delivers what is pending, to the address before."""
    handler = make_handler(sink.path)
    log = logger_for(handler)
    count = sink.hang()
    for i in range(100):
        log.info("%d", i)
    for _ in range(2):
        handler.__init__(sink.path + ".other")
    assert len(sink.take(100)) == 100 and count
    assert handler.flush() is True
    handler.close()
    assert threads.find() == []


NO_THREAD = """
import resource
def forbid_threads():
    # Not even a thread's stack fits into the memory that is left.
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + (4 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    thread = threading.Thread(target=print)
    try:
        thread.start()
    except RuntimeError:
        return
    thread.join()
    os._exit(99)

def allow_threads():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def writers():
    names = [open(f"/proc/self/task/{task}/comm").read().strip()
             for task in os.listdir("/proc/self/task")]
    return names.count("fastlog-writer")
"""


@pytest.mark.usefixtures("with_gil")
def test_no_thread_can_be_started(run_python, sink):
    """Where no thread can be started, the calls send. The next one that can starts the writer."""
    run_python("import warnings; warnings.simplefilter('ignore')\n" + program(NO_THREAD + """
forbid_threads()
for i in range(6): log.info("%d", i)
assert writers() == 0 and handler.stats().sent == 6, handler.stats()
handler.close()
log.info("6")
assert writers() == 0
allow_threads()
log.info("7")
assert writers() == 1
"""), sink.path)
    assert sink.take(8) == numbers(8)


@pytest.mark.usefixtures("with_gil")
@pytest.mark.parametrize("overflow", ["block", "drop_new", "drop_oldest"])
def test_no_thread_and_a_daemon_that_hangs(run_python, sink, overflow):
    """Without a thread, too, no call waits for a daemon that hangs, and the losses are reported."""
    sink.hang()
    run_python("import warnings; warnings.simplefilter('ignore')\n" + program(NO_THREAD + """
forbid_threads()
for i in range(100): log.info("%d", i)
stats = handler.stats()
assert (stats.sent, stats.pending, stats.dropped) == (0, 100, 0), stats
assert handler.flush(0.1) is False
while not handler.stats().dropped + handler.stats().discarded: log.info("x" * 1000)
""", close_timeout=0.1, capacity=65536, overflow=overflow), sink.path,
               stderr=re.compile(r"fastlog: \d+ records were not delivered to "))


@pytest.mark.usefixtures("with_gil")
def test_no_thread_and_a_daemon_that_returns(run_python, sink, directory):
    """Without a thread, flush() sends what is left in the ring once the daemon is there."""
    run_python("import warnings; warnings.simplefilter('ignore')\n" + program(NO_THREAD + """
logging.raiseExceptions = False
forbid_threads()
for i in range(3): log.info("%d", i)
threading.stack_size(65536)
assert handler.flush(0) is False
os.rename(sys.argv[2], sys.argv[1])
assert handler.flush() is True
"""), directory / "later", sink.path)
    assert sink.take(3) == numbers(3)
