"""Name variables as pifpaf does, for test suites that read them. Pure.

`templates` are the values of each service's templates for runs, under pifpaf's own names. Its PIFPAF_URLS is its URL in
the administrator's list, if that is not PIFPAF_<SERVICE>_URL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PREFIX, _URLS = "PIFPAF", "PIFPAF_URLS"


@dataclass(frozen=True)
class Pifpaf:
    """Say under which names a program wants the administrator's variables, as pifpaf's options -e and -g do.

    `before` is what the variable `urls` holds already: a run around this one has set it.
    """

    prefix: str = _PREFIX
    urls: str = _URLS
    before: str = ""


def components(templates: Mapping[str, Mapping[str, str]], named: Sequence[str]) -> dict[str, str]:
    """Return a component's variables. PIFPAF_URL and PIFPAF_URLS are about the `named` services, in that order."""
    urls = _urls(templates, named)
    found = {key: value for values in templates.values() for key, value in values.items() if key != _URLS}
    return found | ({f"{_PREFIX}_URL": next(iter(urls.values())), _URLS: ";".join(urls.values())} if urls else {})


def administrators(templates: Mapping[str, Mapping[str, str]], named: Sequence[str], names: Pifpaf) -> dict[str, str]:
    """Return the administrator's variables of the `named` services, under the names that the program wants.

    A URL that the list has already is not added again.
    """
    urls = _urls(templates, named)
    if not urls:
        return {}
    first = next(iter(urls))
    listed = [names.before] if names.before else []
    listed += [
        url
        for name, common in urls.items()
        if (url := templates[name].get(_URLS, common)) not in names.before.split(";")
    ]
    pairs = [(key, value) for name in urls for key, value in templates[name].items() if key != _URLS]
    own = {key.replace(f"{_PREFIX}_", f"{names.prefix}_", 1): value for key, value in pairs}
    more = {f"{names.prefix}_DAEMON": first, f"{names.prefix}_URL": urls[first], names.urls: ";".join(listed)}
    return own | more


def _urls(templates: Mapping[str, Mapping[str, str]], named: Sequence[str]) -> dict[str, str]:
    """Return the URL of each named service that has one."""
    keys = {name: f"{_PREFIX}_{name.upper().replace('-', '_')}_URL" for name in named}
    return {name: url for name, key in keys.items() if (url := templates.get(name, {}).get(key))}
