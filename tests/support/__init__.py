"""Support code that the tests share. The benchmarks use `support.journald`, too."""
from fastlog._daemons.daemon import wait_until as wait_until

TIMEOUT = 30  # seconds that a test waits for something that must happen
