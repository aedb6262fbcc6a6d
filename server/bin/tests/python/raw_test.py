"""The stock Python client (tikv-client 0.0.4) against a node: every raw call it has.

FLOTILLA names the binary. The node has a temporary folder and a free port, and cuts its regions
after few keys, so that every call works over several of them.
"""

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import tempfile
import time
import unittest
import urllib.request

import tikv_client
from tikv_client import asynchronous

# A region with more keys is cut.
SPLIT_KEYS = 60
# Rows that make several regions.
ROWS = 600
# How often a condition is looked at, and the pause between two looks, in seconds.
LOOKS = 1500
LOOK_EVERY = 0.02
# Seconds that a stop may take.
STOP_MAX = 60
FAMILIES = ("default", "lock", "write")


class Node:
    """A node in a process of its own."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="flotilla-python-")
        # Settings of whoever runs this are none of the node's.
        env = {k: v for k, v in os.environ.items() if not k.startswith("FLOTILLA")}
        settings = {
            "region.split-keys": SPLIT_KEYS,
            "region.heartbeat": "100ms",
            "storage.disk-reserve": "64MiB",
        }
        command = [os.environ["FLOTILLA"], "server"]
        command += ["--data-dir", os.path.join(self.folder.name, "data"), "--addr", "127.0.0.1:0"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        self.log = open(os.path.join(self.folder.name, "log"), "w+b")
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=self.log)
        line = self.process.stdout.readline().decode()
        told = re.fullmatch(r"flotilla serves on (\S+)\n", line)
        if told is None:
            self.process.kill()
            raise AssertionError(f"the node did not start: {line!r}\n{self.said()}")
        self.addr = told[1]

    def page(self, path):
        """A page of PD's JSON API."""
        with urllib.request.urlopen(f"http://{self.addr}{path}") as answer:
            return json.load(answer)

    def said(self):
        """What the node wrote to its log."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def stop(self):
        """Stops in order, and expects that nothing went wrong."""
        self.process.terminate()
        try:
            code = self.process.wait(STOP_MAX)
            if code != 0:
                raise AssertionError(f"the node ended with {code}:\n{self.said()}")
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.log.close()
            self.folder.cleanup()


def eventually(what, look):
    """Looks until there is something to see."""
    for _ in range(LOOKS):
        found = look()
        if found:
            return found
        time.sleep(LOOK_EVERY)
    raise AssertionError(f"waited {LOOKS * LOOK_EVERY:.0f} s in vain: {what}")


def rows(prefix):
    return [(b"%s %04d" % (prefix, nth), b"value %d" % nth) for nth in range(ROWS)]


class RawCalls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.loop = asyncio.new_event_loop()
        cls.addClassCleanup(cls.loop.close)
        asyncio.set_event_loop(cls.loop)
        cls.node = Node()
        cls.addClassCleanup(cls.node.stop)
        cls.client = tikv_client.RawClient.connect([cls.node.addr])

    @classmethod
    def tearDownClass(cls):
        del cls.client

    def setUp(self):
        for family in FAMILIES:
            self.client.delete_range(b"", b"\x7f", cf=family)

    def test_the_example_of_the_readme(self):
        with open("README.md", encoding="utf-8") as readme:
            example = readme.read().split("```python\n")[1].split("```")[0]
        self.assertIn("127.0.0.1:20160", example)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(example.replace("127.0.0.1:20160", self.node.addr), {})
        self.assertEqual(printed.getvalue(), "b'world'\nb'hello' b'world'\n")

    def test_a_key_is_written_read_replaced_and_deleted(self):
        self.assertIsNone(self.client.get(b"k"))
        for value in (b"one", b"two", b""):
            self.client.put(b"k", value)
            self.assertEqual(self.client.get(b"k"), value)
        self.client.delete(b"k")
        self.assertIsNone(self.client.get(b"k"))
        self.client.delete(b"k")

    def test_any_bytes_are_keys(self):
        keys = [b"", b"\0", b"\0\0", b"a", b"a\0", b"a\0\x7e", b"\x7e" * 100]
        for key in keys:
            self.client.put(key, b"of " + key)
        for key in keys:
            self.assertEqual(self.client.get(key), b"of " + key)
        listed = self.fresh().scan_keys(b"", b"\x7f", limit=100)
        self.assertEqual(listed, sorted(keys))

    def test_batches(self):
        written = dict(rows(b"batch"))
        self.client.batch_put(written)
        found = self.client.batch_get([*written, b"missing"])
        self.assertEqual(dict(found), written)
        some = [key for nth, key in enumerate(written) if nth % 3 == 0]
        self.client.batch_delete(some)
        found = self.client.batch_get(list(written))
        self.assertEqual(set(dict(found)), set(written) - set(some))

    def test_scans_over_several_regions(self):
        written = rows(b"scan")
        self.client.batch_put(dict(written))
        client = self.client_after_cuts(b"scan", written)
        keys = [key for key, _ in written]
        self.assertEqual(client.scan(b"scan", b"scao", limit=10_000), written)
        self.assertEqual(client.scan_keys(b"scan", b"scao", limit=10_000), keys)
        self.assertEqual(client.scan(b"scan", b"scao", limit=ROWS // 2), written[: ROWS // 2])
        self.assertEqual(client.scan(b"scan", b"scao", limit=1), written[:1])
        self.assertEqual(client.scan(b"scan", b"scao", limit=0), [])
        self.assertEqual(client.scan(b"scan 9", b"scao", limit=10), [])
        self.assertEqual(client.scan(b"scan", None, limit=10_000), written)
        one, other = 100, 400
        for include_start in (False, True):
            for include_end in (False, True):
                found = client.scan_keys(
                    keys[one],
                    keys[other],
                    limit=10_000,
                    include_start=include_start,
                    include_end=include_end,
                )
                expected = keys[one + (not include_start) : other + include_end]
                self.assertEqual(found, expected)

    def test_delete_range_over_several_regions(self):
        written = rows(b"range")
        self.client.batch_put(dict(written))
        client = self.client_after_cuts(b"range", written)
        keys = [key for key, _ in written]
        self.client.delete_range(keys[50], keys[500])
        left = keys[:50] + keys[500:]
        self.assertEqual(client.scan_keys(b"range", b"rangf", limit=10_000), left)
        self.client.delete_range(keys[0], keys[10], include_start=False, include_end=True)
        left = keys[:1] + keys[11:50] + keys[500:]
        self.assertEqual(client.scan_keys(b"range", b"rangf", limit=10_000), left)
        self.client.delete_range(keys[550])
        left = keys[:1] + keys[11:50] + keys[500:550]
        self.assertEqual(client.scan_keys(b"range", b"rangf", limit=10_000), left)

    def test_column_families_are_apart(self):
        for family in FAMILIES:
            self.client.put(b"k", family.encode(), cf=family)
            self.client.batch_put({b"only in " + family.encode(): b"v"}, cf=family)
        for family in FAMILIES:
            self.assertEqual(self.client.get(b"k", cf=family), family.encode())
            listed = self.fresh().scan_keys(b"", b"\x7f", limit=10, cf=family)
            self.assertEqual(listed, [b"k", b"only in " + family.encode()])
        self.client.delete(b"k", cf="lock")
        self.assertIsNone(self.client.get(b"k", cf="lock"))
        self.assertEqual(self.client.get(b"k"), b"default")

    def test_faults_are_told(self):
        longest = b"k" * 8192
        self.client.put(longest, b"v")
        with self.assertRaisesRegex(Exception, "key too large"):
            self.client.put(longest + b"k", b"v")
        with self.assertRaisesRegex(Exception, "value too large"):
            self.client.put(b"k", b"v" * (6 * 1024 * 1024 + 1))
        self.assertIsNone(self.client.get(b"k"))

    def test_several_tasks_at_once(self):
        async def work(nth):
            client = await asynchronous.RawClient.connect([self.node.addr])
            for step in range(50):
                key = b"task %d step %d" % (nth, step)
                await client.put(key, key)
                found = await client.get(key)
                self.assertEqual(found, key)
            await client.delete(b"task %d step 0" % nth)

        async def all_tasks():
            await asyncio.gather(*(work(nth) for nth in range(8)))

        self.loop.run_until_complete(all_tasks())
        listed = self.fresh().scan_keys(b"task", b"tasl", limit=1_000)
        self.assertEqual(len(listed), 8 * 49)

    def fresh(self):
        """A client that knows no region yet.

        A scan drops the errors by which a client learns that a region was cut, and returns nothing
        for it, until another call of this client has learnt it (docs/protocol.md, section 7).
        """
        return tikv_client.RawClient.connect([self.node.addr])

    def client_after_cuts(self, prefix, written):
        """A client that knows all the regions that the rows of `prefix` were cut into."""

        def cut():
            regions = self.node.page("/pd/api/v1/regions")["regions"]
            start = prefix.hex().upper()
            inside = sum(region["start_key"].startswith(start) for region in regions)
            large = any(region["approximate_keys"] > SPLIT_KEYS for region in regions)
            return inside >= 5 and not large

        def complete():
            client = self.fresh()
            found = client.scan(prefix, prefix + b"\x7f", limit=10_000)
            return client if found == written else None

        eventually("the regions are cut", cut)
        return eventually("a client finds all rows", complete)


if __name__ == "__main__":
    unittest.main()
