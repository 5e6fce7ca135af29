"""Read variables with real shells."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

# Variables that a shell sets by itself.
OWN = {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}


def sourced(text: str, shell: str = "bash", before: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that a shell has after reading the text; `before` are those that it starts with."""
    script = "set -eua; . /dev/stdin; exec env -0"
    environ = {"PATH": os.defpath, **(before or {})}
    done = subprocess.run([shell, "-c", script], input=text.encode(), capture_output=True, check=True, env=environ)
    assert not done.stderr
    pairs = (pair.split("=", 1) for pair in done.stdout.decode().rstrip("\0").split("\0"))
    return {name: value for name, value in pairs if name not in OWN}
