"""What the tests and the benchmarks share."""
from fastlog._daemons.daemon import wait_until as wait_until
