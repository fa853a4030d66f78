"""Builds native_side against the spdkthread package in $SPDKTHREAD_TREE, with the flags of the package's own modules.

What is measured is not a better compiler.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    name="native_side",
    ext_modules=cythonize(
        [
            Extension(
                "native_side",
                ["native_side.pyx"],
                extra_compile_args=["-std=gnu11", "-O3", "-fno-math-errno", "-pthread"],
                extra_link_args=["-pthread"],
            )
        ],
        include_path=[os.environ["SPDKTHREAD_TREE"]],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    ),
)
