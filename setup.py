"""The extension modules. pyproject.toml contains the rest of the build's configuration.

With FASTLOG_DEBUG=1 in the environment, the C code is compiled for a debugger, and Cython writes
an annotated HTML page beside each source file. `make debug` uses this.
"""
import os
import sys
from glob import glob

from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit("fastlog needs Linux (mremap, futex, MADV_WIPEONFORK); "
             f"it has no port to {sys.platform} yet.")

# Without -ffp-contract=off, gcc may use fused multiply-add, and the times in records could differ
# from CPython's in the last bit.
compile_args = ["-std=gnu11", "-pthread", "-ffp-contract=off"]

if os.environ.get("FASTLOG_DEBUG") == "1":
    from Cython.Compiler import Options

    Options.annotate = True
    # Python's own flags may define _FORTIFY_SOURCE, which requires optimization.
    compile_args += ["-O0", "-g3", "-UNDEBUG", "-U_FORTIFY_SOURCE"]

setup(ext_modules=[
    Extension(
        path.removesuffix(".pyx").replace("/", "."),
        [path],
        include_dirs=["fastlog"],
        depends=glob("fastlog/**/*.h", recursive=True) + glob("fastlog/**/*.pxd", recursive=True),
        extra_compile_args=compile_args,
        extra_link_args=["-pthread"],
    )
    for path in sorted(glob("fastlog/**/*.pyx", recursive=True))
])
