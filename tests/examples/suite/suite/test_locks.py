"""Locks through tooz, where a variable of pifpaf's names a server."""

import os

import testtools
from tooz import coordination


class TestLocks(testtools.TestCase):
    def setUp(self):
        super().setUp()
        if not (url := os.environ.get("TOOZ_TEST_HTTP_URL")):
            self.skipTest("no server")
        self.coordinator = coordination.get_coordinator(f"etcd3+{url}", b"me")
        self.coordinator.start()
        self.addCleanup(self.coordinator.stop)

    def test_a_lock_is_held_by_one(self):
        lock = self.coordinator.get_lock(b"lock")
        self.assertTrue(lock.acquire())
        self.assertFalse(self.coordinator.get_lock(b"lock").acquire(blocking=False))
        lock.release()
