"""Run `devenv`, also as `python -m devenv`. An interrupt while it loads prints no traceback either."""

from __future__ import annotations

import sys

from devenv.cli.streams import guard


def main() -> None:
    # First of all: a socket must not get the number of a standard stream that the caller closed.
    guard()
    try:
        from devenv.cli.main import main as command_line
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
