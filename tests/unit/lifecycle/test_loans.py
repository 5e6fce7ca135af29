"""What is lent ends with its run, in the process that lent it."""

from __future__ import annotations

import os

import pytest

from devenv.lifecycle.loans import own_stack


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("error", [None, SystemExit(0)])
def test_a_forked_child_that_leaves_the_body_ends_nothing(error: BaseException | None) -> None:
    read, write = os.pipe()
    process, child = os.getpid(), -1
    try:
        with own_stack() as stack:
            stack.callback(lambda: os.write(write, f"{os.getpid()} ".encode()))
            child = os.fork()
            if not child and error:
                raise error
    except SystemExit:
        pass
    finally:
        if os.getpid() != process:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read() == f"{process} "
