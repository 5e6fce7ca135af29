"""Replace `${name}` in templates. An unknown name is an error, and devenv never evaluates anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from devenv.errors import ConfigError

# As in Compose, `$${` stands for a literal `${`. A `$` without a brace stays as it is, so shell scripts and
# configuration files need no other escape.
_PLACEHOLDER = re.compile(r"\$(?P<escaped>\$\{)|\$\{(?P<name>[^{}]*)\}")


def render_file(path: Path, values: Mapping[str, str]) -> str:
    """Return the file's text with every `${name}` replaced. Raise ConfigError as `render` does, or if unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}", hint="check the file and its permissions") from error
    return render(text, values, str(path))


def render(text: str, values: Mapping[str, str], source: str) -> str:
    """Replace every `${name}` of `text` by `values[name]`.

    `source` names the text in the error. Raise ConfigError with every unknown name and its line.
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
