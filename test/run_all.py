#!/usr/bin/env python3
"""Runs every Python test of the shop: consistency, contract, system.

    run_all.py [arguments of pytest]

Wants requirements.txt installed for the interpreter it is started with, and the executable in TILL_BIN (else
the newest in the target directory). Exit code: pytest's.
"""

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent


def main():
    return pytest.main(["--rootdir", str(HERE), "-c", str(HERE / "pytest.ini"), *(sys.argv[1:] or [str(HERE)])])


if __name__ == "__main__":
    sys.exit(main())
