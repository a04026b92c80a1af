"""The load test for users does what its docs say: it fills the shop, buys, and fails if the shop fails."""

import collections
import csv
import http.server
import os
import pathlib
import subprocess
import sys
import threading

import pytest

STRESS = pathlib.Path(__file__).resolve().parent.parent / "stress"


def fill(url, *sizes):
    command = [sys.executable, "init_orders.py", "--url", url, "--wait-seconds", "5", *sizes]
    return subprocess.run(command, cwd=STRESS, capture_output=True, text=True, timeout=120)


def load(folder, *flags, **environment):
    """Runs locust for a few seconds; gives its exit code, its text, and requests and failures by line."""
    command = [sys.executable, "-m", "locust", "--headless", "--users", "40", "--spawn-rate", "40"]
    command += ["--run-time", "5s", "--only-summary", "--csv", str(folder / "run"), *flags]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, cwd=STRESS, capture_output=True, text=True, timeout=120, env=environment)
    with (folder / "run_stats.csv").open() as stats:
        lines = {line["Name"]: (int(line["Request Count"]), int(line["Failure Count"])) for line in csv.DictReader(stats)}
    return done.returncode, done.stdout + done.stderr, lines


@pytest.fixture
def broken_shop():
    """A shop that fails every call."""

    class Broken(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_courses_load_finds_no_failure_and_knows_fresh_from_repeated(small_shop, tmp_path):
    filled = fill(small_shop.url, "--items", "100", "--users", "100", "--orders", "100")
    assert filled.returncode == 0, filled.stdout + filled.stderr
    code, text, lines = load(tmp_path, "--host", small_shop.url, "--course", "--filled", "100", "--processes", "2")
    assert code == 0, text
    assert "Uncaught exception" not in text, text
    fresh, repeated = (lines[f"POST /orders/checkout/[order] ({which})"] for which in ("fresh", "repeated"))
    # Each of a hundred orders is fresh once, whichever process buys it.
    assert 0 < fresh[0] <= 100
    assert repeated[0] > 0
    assert lines["Aggregated"][1] == 0


def test_a_mixed_load_finds_no_failure(small_shop, tmp_path):
    filled = fill(small_shop.url, "--items", "500", "--users", "500", "--orders", "500")
    assert filled.returncode == 0, filled.stdout + filled.stderr
    code, text, lines = load(tmp_path, "--filled", "500", TARGET_HOST=small_shop.url)
    assert code == 0, text
    assert lines["POST /orders/checkout/[order] (fresh)"][0] > 0
    assert lines["Aggregated"][1] == 0


def test_a_shop_that_fails_fails_the_load_test(broken_shop, tmp_path):
    assert fill(broken_shop).returncode == 1
    code, text, lines = load(tmp_path, "--host", broken_shop, "--course", "--filled", "100")
    assert code == 1, text
    requests, failures = lines["POST /orders/checkout/[order] (fresh)"]
    assert failures == requests > 0


@pytest.fixture
def cutting_shop():
    """A shop that breaks the connection of each call's first try and answers the second. Also returns the keys that it
    got."""
    tries = collections.Counter()

    class Cutting(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            key = self.headers["Idempotency-Key"]
            tries[key] += 1
            if tries[key] == 1:
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tries
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_call_whose_connection_breaks_is_repeated_under_its_key(cutting_shop, tmp_path):
    url, tries = cutting_shop
    code, text, lines = load(tmp_path, "--host", url, "--course", "--filled", "100")
    assert code == 0, text
    name = "POST /orders/checkout/[order] (fresh)"
    assert lines[name][0] > 0
    assert lines[f"{name} (broken, repeated)"][0] >= lines[name][0]
    assert lines["Aggregated"][1] == 0
    # At the end of the run a last call may have been cut and not yet repeated.
    assert set(tries.values()) <= {1, 2}
