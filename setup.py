"""The native parts; everything else about the build is in pyproject.toml."""
import sys
from glob import glob

from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit("fastlog needs Linux (memfd_create, futex, MADV_WIPEONFORK); "
             f"it has no port to {sys.platform} yet.")

setup(ext_modules=[
    Extension(
        path.removesuffix(".pyx").replace("/", "."),
        [path],
        include_dirs=["fastlog"],
        depends=glob("fastlog/**/*.h", recursive=True) + glob("fastlog/**/*.pxd", recursive=True),
        # Times are computed as CPython computes them, to the last bit: no fused multiply-add.
        extra_compile_args=["-std=gnu11", "-pthread", "-ffp-contract=off"],
        extra_link_args=["-pthread"],
    )
    for path in sorted(glob("fastlog/**/*.pyx", recursive=True))
])
