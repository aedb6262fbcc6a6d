"""Every raw call of the stock Python client, synchronous and asynchronous."""

import asyncio
import sys
import urllib.request
import json

from tikv_client import RawClient
from tikv_client import asynchronous

ROWS = 500


def key(number):
    return b"key-%05d" % number


def regions(addr):
    with urllib.request.urlopen(f"http://{addr}/pd/api/v1/regions") as page:
        return json.load(page)["count"]


def check(got, expected, what):
    assert got == expected, f"{what}: got {got!r}, expected {expected!r}"


def synchronous(addr):
    client = RawClient.connect([addr])
    client.put(b"a", b"1")
    check(client.get(b"a"), b"1", "get")
    check(client.get(b"absent"), None, "get of an absent key")
    client.put(b"empty", b"")
    check(client.get(b"empty"), b"", "an empty value is a value")
    client.delete(b"a")
    check(client.get(b"a"), None, "get after delete")
    client.delete(b"empty")

    # Enough for several regions; PD cuts them while the client goes on.
    for start in range(0, ROWS, 100):
        client.batch_put({key(row): b"value-%d" % row for row in range(start, start + 100)})
    check(len(client.batch_get([key(row) for row in range(0, ROWS, 7)])), len(range(0, ROWS, 7)), "batch_get")

    def rows(first, last):
        return [(key(row), b"value-%d" % row) for row in range(first, last)]

    check(client.scan(key(0), key(ROWS), ROWS), rows(0, ROWS), "scan")
    check(client.scan(key(100), key(400), 50), rows(100, 150), "scan with a limit")
    check(client.scan_keys(key(10), key(300), ROWS), [key(row) for row in range(10, 300)], "scan_keys")
    check(client.scan(key(10), key(12), 10, False, True), rows(11, 13), "scan with other bounds")

    client.batch_delete([key(row) for row in range(0, 100)])
    client.delete_range(key(400), key(ROWS))
    check(client.scan(key(0), key(ROWS), ROWS), rows(100, 400), "scan after deletes")

    for family in ("default", "lock", "write"):
        client.put(b"family", family.encode(), family)
    for family in ("default", "lock", "write"):
        check(client.get(b"family", family), family.encode(), f"column family {family}")


async def asynchronous_calls(addr):
    client = await asynchronous.RawClient.connect([addr])
    await asyncio.gather(*(client.put(b"async-%03d" % row, b"%d" % row) for row in range(100)))
    values = await asyncio.gather(*(client.get(b"async-%03d" % row) for row in range(100)))
    check(values, [b"%d" % row for row in range(100)], "concurrent puts and gets")


def main():
    addr = sys.argv[1]
    synchronous(addr)
    asyncio.run(asynchronous_calls(addr))
    count = regions(addr)
    assert count > 4, f"the calls were to cross regions, there are {count}"
    print(f"OK: every raw call of the stock Python client, over {count} regions")


main()
