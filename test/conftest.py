"""Shops for the tests."""

import contextlib
import pathlib
import tempfile

import pytest

from shop.openapi import Contract
from shop.process import Shop


@contextlib.contextmanager
def running_shop(replicas, *, flags=(), environment=(), start=True):
    """A shop in a directory of its own. At the end it must stop in order, leave no process behind, and have no ERROR in
    its log."""
    with tempfile.TemporaryDirectory(prefix="till-test-") as directory:
        shop = Shop(pathlib.Path(directory) / "data", replicas, flags, environment)
        try:
            if start:
                shop.start()
            yield shop
            stopped = shop.stop()
            assert stopped in (0, None), f"ended with {stopped}:\n{shop.tail()}"
            errors = shop.errors() if shop.log.exists() else []
            assert not errors, "errors in the log:\n" + "\n".join(errors[:20])
        except BaseException:
            if shop.log.exists():
                print(shop.tail())
            raise
        finally:
            if shop.process is not None and shop.process.poll() is None:
                shop.kill_everything()


@pytest.fixture(scope="session", params=[1, 2], ids=["one-replica", "two-replicas"])
def any_shop(request):
    """One shop for all tests of a kind, which must not disturb each other."""
    with running_shop(request.param) as shop:
        yield shop


@pytest.fixture(scope="module")
def small_shop():
    """One shop with one process of each role."""
    with running_shop(1) as shop:
        yield shop


@pytest.fixture(scope="session")
def shop():
    """One shop with two replicas of everything, for tests that need no other size."""
    with running_shop(2) as shop:
        yield shop


@pytest.fixture(scope="session")
def contract(shop):
    """What the shop publishes about itself."""
    return Contract(shop.openapi())
