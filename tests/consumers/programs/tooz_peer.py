"""Coordinate with other processes through tooz, as the test says.

Arguments: its name, a suffix for the backend's URL, then those of any oslo.config program.
"""

import sys

from dialogue import answer
from oslo_config import cfg
from tooz import coordination

name, suffix, *arguments = sys.argv[1:]
conf = cfg.ConfigOpts()
conf.register_opt(cfg.StrOpt("backend_url"), "coordination")
conf(arguments, project="consumer", default_config_files=[], default_config_dirs=[])
coordinator = coordination.get_coordinator(conf.coordination.backend_url + suffix, name.encode())
coordinator.start(start_heart=True)
locks = {}


def acquire(lock):
    locks[lock] = coordinator.get_lock(lock.encode())
    return locks[lock].acquire(blocking=False)


def join(group):
    coordinator.join_group_create(group.encode())


def leave(group):
    coordinator.leave_group(group.encode()).get()


def members(group):
    return sorted(member.decode() for member in coordinator.get_members(group.encode()).get())


answer(
    acquire=acquire,
    release=lambda lock: locks[lock].release(),
    join=join,
    leave=leave,
    members=members,
    heartbeat=coordinator.heartbeat,
)
