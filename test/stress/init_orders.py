#!/usr/bin/env python3
"""Fills the shop for a load test: 100,000 items, users and orders, as the course's stress test wants them.

    init_orders.py                             the address in ../urls.json, or TARGET_HOST
    init_orders.py --url http://localhost:8000 --orders 10000

Needs nothing but Python. Waits until the shop answers. Overwrites the records with the ids "0", "1", ...; an order
among them that was paid is unpaid again. Exit code 0: filled; 1: it was not.
"""

import argparse
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

URLS_FILE = pathlib.Path(__file__).resolve().parent.parent / "urls.json"


def urls(one=None):
    """Where order, stock and payment are: all at `one`, at TARGET_HOST, or as urls.json says."""
    one = one or os.environ.get("TARGET_HOST")
    if one:
        return dict.fromkeys(("ORDER_URL", "PAYMENT_URL", "STOCK_URL"), one.rstrip("/"))
    return {name: url.rstrip("/") for name, url in json.loads(URLS_FILE.read_text()).items()}


def wait(url, seconds):
    """Until the shop says that it is ready."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            print(f"waiting for {url}: {error}", flush=True)
            time.sleep(2)


def post(what, url):
    """One call, its time, its answer."""
    begun = time.monotonic()
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=120) as answer:
        text = answer.read().decode()
    print(f"{what}: {text.strip()} in {time.monotonic() - begun:.1f} s", flush=True)


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="address of all three services")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--stock", type=int, default=1_000_000, help="of each item")
    parser.add_argument("--price", type=int, default=1)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--credit", type=int, default=1_000_000, help="of each user")
    parser.add_argument("--orders", type=int, default=100_000, help="of two units each")
    parser.add_argument("--wait-seconds", type=float, default=60.0, help="for the shop to answer at all")
    return parser.parse_args()


def main():
    sizes = _arguments()
    at = urls(sizes.url)
    try:
        wait(at["ORDER_URL"], sizes.wait_seconds)
        post("items", f"{at['STOCK_URL']}/stock/batch_init/{sizes.items}/{sizes.stock}/{sizes.price}")
        post("users", f"{at['PAYMENT_URL']}/payment/batch_init/{sizes.users}/{sizes.credit}")
        post("orders", f"{at['ORDER_URL']}/orders/batch_init/{sizes.orders}/{sizes.items}/{sizes.users}/{sizes.price}")
    except urllib.error.HTTPError as error:
        print(f"refused with {error.code}: {error.read().decode()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
