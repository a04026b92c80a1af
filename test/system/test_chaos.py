"""Some cells of the matrix of faults; `python3 -m chaos.run_chaos` runs them all."""

import asyncio

import pytest

from chaos.ledger import Ledger
from chaos.matrix import cells, nothing, run_cell
from chaos.race import LOADS
from conftest import running_shop
from shop.client import Client

CELLS = {f"{fault}, {role}": (fault, role, act) for fault, role, act in cells()}


@pytest.fixture(scope="module")
def two_of_each():
    with running_shop(2) as shop:
        yield shop


@pytest.mark.parametrize("cell", ["kill -9, coordinator", "frozen, stock", "frozen, dev-kv", "repeats and cuts, proxy"])
def test_every_operation_is_answered_and_the_books_agree(two_of_each, cell):
    fault, role, act = CELLS[cell]
    came = asyncio.run(run_cell(two_of_each, fault, role, act))
    assert came.answers["done"] > 50
    if role != "proxy":
        # Another replica serves, or dev-kv is back within the clients' patience.
        assert not came.trouble, came


@pytest.mark.parametrize("cell", ["kill -9, order", "kill -9, dev-kv"])
def test_one_replica_of_each_is_enough(small_shop, cell):
    fault, role, act = CELLS[cell]
    assert asyncio.run(run_cell(small_shop, fault, role, act)).answers["done"] > 50


@pytest.mark.parametrize(("load", "cell"), [("one-item", "kill -9, stock"), ("many-items", "kill -9, dev-kv")])
def test_the_consistency_race_is_exact_under_a_kill(two_of_each, load, cell):
    fault, role, act = CELLS[cell]
    came = asyncio.run(run_cell(two_of_each, fault, role, act, seed=load, ledger=LOADS[load]()))
    assert came.answers["done"] <= 100


async def audit(shop, ledger):
    async with Client(shop.url) as client:
        await ledger.audit(client, settle_seconds=0.5)


def test_a_ledger_that_does_not_fit_is_noticed(small_shop):
    ledger = Ledger(items=5, users=5, orders=50)
    asyncio.run(run_cell(small_shop, "none", "nobody", nothing, ledger=ledger))
    ledger.units["3"] += 1
    with pytest.raises(AssertionError, match="item 3 has"):
        asyncio.run(audit(small_shop, ledger))
