"""Strict `${name}` substitution: an unknown name is an error, and nothing is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from devenv.errors import ConfigError

# As in Compose, `$${` stands for a literal `${`; a `$` that no brace follows is left as it is,
# so that shell scripts and configuration files need no other escape.
_PLACEHOLDER = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<name>[^{}]*)\}")


def render_file(path: Path, values: Mapping[str, str]) -> str:
    """The file's text with every `${name}` replaced. Raises ConfigError if it cannot be read, or as `render` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}", hint="mend the file") from error
    return render(text, values, str(path))


def render(text: str, values: Mapping[str, str], source: str) -> str:
    """Replace every `${name}` of `text` by `values[name]`.

    `source` names the text in the error. Raises ConfigError, listing every unknown name with its line.
    """
    problems: list[str] = []

    def substitute(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        name = match["name"]
        if name not in values:
            line = text.count("\n", 0, match.start()) + 1
            problems.append(f"{source}:{line}: ${{{name}}}: no such value")
            return ""
        return values[name]

    rendered = _PLACEHOLDER.sub(substitute, text)
    if problems:
        raise ConfigError(
            f"cannot fill in {source}: {len(problems)} unknown value(s)",
            hint="known values: " + ", ".join(sorted(values)),
            detail=problems,
        )
    return rendered
