"""Tests write into a directory of their own: `ERPD_HOME` points there before any test module is imported."""

import os
import shutil
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    os.environ["ERPD_HOME"] = tempfile.mkdtemp(prefix="erpd-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["ERPD_HOME"], ignore_errors=True)
