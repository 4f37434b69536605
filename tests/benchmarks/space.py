"""The demo app under many visitors: how long they wait, and whether the server grows.

    python tests/benchmarks/space.py outputs/demo/space --clients 30 --seconds 20

Every client asks one query after another through the API, as programs do, for the given time; every tenth query is one
of 20 MB, which must be refused. Prints answers, refusals, times and the memory of the server before, after and between.
"""

import argparse
import http.client
import json
import statistics
import threading
import time
from pathlib import Path

import httpx
import psutil

from polyvid.hub_cards.space.screenshot import serve

QUERIES = ("kondoo", "gari", "овца", "a woman is reading a book", "femme qui mange", "车", "pizza", "der Hund läuft")
TOO_LARGE = 20 << 20


def ask(client: httpx.Client, query: str) -> bool:
    """Whether the query was answered; False if the queue was full."""
    posted = client.post("gradio_api/call/find_by_words", json={"data": [query, "mmp", "auto"]})
    if posted.status_code == 503:
        return False
    posted.raise_for_status()
    answer = client.get(f"gradio_api/call/find_by_words/{posted.json()['event_id']}").text
    return answer.startswith("event: complete")


def ask_too_much(port: int) -> bool:
    """Whether a query of 20 MB is refused by its headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/gradio_api/call/find_by_words")
    connection.putheader("Content-Length", str(TOO_LARGE))
    connection.endheaders()
    refused = connection.getresponse().status == 413
    connection.close()
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("space", type=Path)
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    waits: list[float] = []
    refusals: list[float] = []
    failures: list[str] = []
    full = 0

    with serve(options.space) as address:
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        (process,) = (
            child for child in psutil.Process().children() if str(port) in child.environ().get("GRADIO_SERVER_PORT", "")
        )
        with httpx.Client(base_url=address, timeout=120) as client:
            for query in QUERIES:
                ask(client, query)
        memory = [process.memory_info().rss]
        end = time.monotonic() + options.seconds

        def visit(number: int) -> None:
            nonlocal full
            with httpx.Client(base_url=address, timeout=120) as client:
                turn = number
                while time.monotonic() < end:
                    turn += 1
                    started = time.monotonic()
                    try:
                        if turn % 10 == 0:
                            assert ask_too_much(port), "20 MB were not refused"
                            refusals.append(time.monotonic() - started)
                        elif ask(client, QUERIES[turn % len(QUERIES)]):
                            waits.append(time.monotonic() - started)
                        else:
                            full += 1
                            time.sleep(0.2)
                    except (httpx.HTTPError, OSError, AssertionError) as error:
                        failures.append(repr(error))

        clients = [threading.Thread(target=visit, args=(number,)) for number in range(options.clients)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            time.sleep(1)
            memory.append(process.memory_info().rss)
        cut = statistics.quantiles(waits, n=20)
        print(
            json.dumps(
                {
                    "answers": len(waits),
                    "seconds_median": round(cut[9], 3),
                    "seconds_p95": round(cut[18], 3),
                    "refused_20_mb": len(refusals),
                    "refusal_seconds_max": round(max(refusals, default=0.0), 3),
                    "queue_full": full,
                    "failures": failures[:3],
                    "server_mib": [round(value / 2**20) for value in (memory[0], max(memory), memory[-1])],
                    "server_mib_every_10_s": [round(value / 2**20) for value in memory[::10]],
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
