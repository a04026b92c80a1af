"""`till bench` against a real shop: every workload, briefly."""

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from shop.process import binary

WORKLOADS = ["fresh", "hot", "zipf", "find", "mixed", "stress", "scenarios"]
BRIEFLY = ["--warm-up-ms", "100", "--orders", "1000", "--accounts", "500"]


def bench(*flags, expect=0):
    """Runs the generator; gives its report."""
    environment = {name: value for name, value in os.environ.items() if name != "PD_ENDPOINTS"}
    ended = subprocess.run(
        [binary(), "bench", *BRIEFLY, "--items", "500", "--duration-ms", "500", "--json", "-", *flags],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=environment,
    )
    assert ended.returncode == expect, ended
    return json.loads(ended.stdout)


def attached(shop, *flags, **more):
    return bench("--target", shop.url, "--pid", str(shop.process.pid), *flags, **more)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_has_figures(small_shop, workload):
    report = attached(small_shop, "--workload", workload, "--concurrency", "8")
    [point] = report["points"]
    assert "problems" not in point, point
    assert point["calls_per_s"] > 10 and point["latency"]
    for figures in point["latency"].values():
        assert 0 < figures["p50_us"] <= figures["p90_us"] <= figures["p99_us"] <= figures["max_us"]
    assert set(point["roles"]) == {"dev-kv", "http-bridge", "order", "stock", "payment", "coordinator"}
    assert all(costs["rss_mib"] > 0 for costs in point["roles"].values())
    assert point["check"]["items_and_users_compared"] == point["check"]["of"]
    assert point["audit"]["clean"]
    bought = point["fresh_per_s"] > 0
    assert bought == (workload != "find")
    assert (point["repeated_per_s"] > 0) == (workload == "stress")
    assert set(point["refused"]) == ({"OUT_OF_STOCK", "OUT_OF_CREDIT"} if workload == "scenarios" else set())
    if workload in ("fresh", "hot", "zipf"):
        each = point["store"]["per_fresh_checkout"]
        assert each["mutations"] > 0 and each["transactions"] > 0


def test_an_open_loop_keeps_its_rate_over_grpc_too(small_shop, tmp_path):
    picture = tmp_path / "picture.svg"
    for face in ([], ["--grpc"]):
        report = attached(small_shop, "--workload", "find", "--rate", "100,200", "--plot", str(picture), *face)
        for point in report["points"]:
            assert 0.5 < point["calls_per_s"] / point["offered_per_s"] < 1.5, point
    assert picture.read_text().count("<circle") == 4


def test_users_think(small_shop):
    [point] = attached(small_shop, "--users", "20", "--think-ms", "200")["points"]
    assert 20 < point["fresh_per_s"] < 105


def test_somebody_elses_sale_leaves_no_figures(small_shop):
    """A sale outside of the run makes the sums wrong, and the check must notice."""
    command = [binary(), "bench", *BRIEFLY, "--target", small_shop.url, "--workload", "mixed", "--json", "-"]
    command += ["--items", "4", "--duration-ms", "1500"]
    request = urllib.request.Request(f"{small_shop.url}/stock/subtract/0/1", method="POST")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None:
            # Before the run has made it, the item may not be there.
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=10):
                time.sleep(0.02)
        report = json.loads(running.stdout.read())
    assert running.returncode == 1
    [point] = report["points"]
    assert any("/stock/find/0: " in problem for problem in point["problems"]), point
    assert "calls_per_s" not in point and "latency" not in point


def test_a_shop_of_its_own_is_compared_with_itself_and_with_the_bare_store():
    report = bench("--up", "--compare", "batch=1", "--baseline", "tikv", "--concurrency", "16")
    assert [point["variant"] for point in report["points"]] == ["till", "till batch=1", "tikv"]
    assert all("problems" not in point for point in report["points"]), report["points"]
    assert {ratio["to"] for ratio in report["ratios"]} == {"till batch=1", "tikv"}
    batched, alone, _ = report["points"]
    share = [point["store"]["fresh_checkouts_per_transaction"] for point in (batched, alone)]
    assert share[0] > share[1], share
