"""Variables that pass through tox: which lists of its configuration devenv adds them to."""

from __future__ import annotations

from pathlib import Path

import pytest

from devenv.testing.tox import hidden, passed_on


def override(folder: Path, environ: dict[str, str] | None = None) -> str:
    return passed_on(folder, {"A": "1", "B": "2"}, environ or {}).get("TOX_OVERRIDE", "")


INI = """
[tox]
envlist = py3
[testenv]
{common} = HOME
[testenv:functional]
passenv =
    OTHER
[testenv:{{mysql,postgresql}}-{{a,b}}]
pass_env = THIRD
[testenv:docs]
commands = true
"""


def test_every_list_gets_the_variables_under_the_name_that_the_file_gives_it(tmp_path: Path) -> None:
    (tmp_path / "tox.ini").write_text(INI.format(common="passenv"))
    assert override(tmp_path).split(";") == [
        "testenv.passenv+=A,B",
        "testenv:functional.passenv+=A,B",
        "testenv:mysql-a.pass_env+=A,B",
        "testenv:mysql-b.pass_env+=A,B",
        "testenv:postgresql-a.pass_env+=A,B",
        "testenv:postgresql-b.pass_env+=A,B",
    ]


def test_where_no_list_is_written_the_common_one_gets_them(tmp_path: Path) -> None:
    (tmp_path / "tox.ini").write_text("[testenv]\ncommands = true\n")
    assert override(tmp_path) == "testenv.pass_env+=A,B"


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("setup.cfg", "[tox:tox]\n[testenv]\npassenv = X\n", "testenv.passenv+=A,B"),
        ("setup.cfg", "[metadata]\nname = x\n", ""),
        ("pyproject.toml", "[project]\nname = 'x'\n", ""),
        ("pyproject.toml", "[tool.tox]\nlegacy_tox_ini = '''\n[testenv]\npassenv = X\n'''\n", "testenv.passenv+=A,B"),
        (
            "pyproject.toml",
            "[tool.tox.env_run_base]\npass_env = ['X']\n[tool.tox.env.own]\npass_env = ['Y']\n[tool.tox.env.other]\n",
            "tool.tox.env_run_base.pass_env+=A,B;tool.tox.env.own.pass_env+=A,B",
        ),
        ("tox.toml", "[env.own]\npass_env = ['Y']\n", "env_run_base.pass_env+=A,B;env.own.pass_env+=A,B"),
        ("tox.ini", "no section\n", ""),
        ("tox.toml", "no = toml = at all", ""),
    ],
)
def test_each_of_toxs_files_is_read_and_others_are_left_to_it(
    tmp_path: Path, name: str, text: str, changes: str
) -> None:
    (tmp_path / name).write_text(text)
    assert override(tmp_path) == changes


def test_changes_of_the_user_come_first_and_stay(tmp_path: Path) -> None:
    (tmp_path / "tox.ini").write_text("[testenv]\n")
    assert override(tmp_path, {"TOX_OVERRIDE": "testenv.deps+=x"}) == "testenv.deps+=x;testenv.pass_env+=A,B"


def test_without_a_configuration_nothing_is_changed(tmp_path: Path) -> None:
    assert passed_on(tmp_path, {"A": "1"}, {"TOX_OVERRIDE": "x=y"}) == {"A": "1"}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("tox.ini", "[testenv]\nsetenv =\n  X=1\n  A=here\n", True),
        ("tox.ini", "[testenv]\nset_env = A = here\n", True),
        ("tox.ini", "[testenv]\nsetenv =\n  {py3,py4}-x: A={env:A:here}\n", True),
        ("tox.ini", "[testenv]\n# A=here\nsetenv =\n  AA=1\n  X=A\npassenv = A\n", False),
        ("tox.ini", "[testenv]\nwith = prog -g A run x\nif = A==1\n", False),
        ("pyproject.toml", "[tool.tox.env_run_base]\nset_env = { A = 'here' }\n", True),
        ("tox.toml", "[env_run_base.set_env]\nA = 'here'\n", True),
    ],
)
def test_a_variable_that_the_project_sets_for_tox_is_told(tmp_path: Path, name: str, text: str, found: bool) -> None:
    (tmp_path / name).write_text(text)
    told = [f"{name} sets A itself, and so hides devenv's from the tests; run them without tox, or remove that line"]
    assert hidden(["python", "-m", "tox", "-e", "py3"], tmp_path, ["A"], {}) == (told if found else [])
    assert hidden(["stestr", "run"], tmp_path, ["A"], {}) == []
    assert hidden(["tox"], tmp_path, [], {}) == []


CONFIGURATION = "[testenv]\nsetenv = A = 1\npassenv = X\n"


@pytest.mark.parametrize("name", ["tox.ini", "other.ini", "sub/tox.ini"])
@pytest.mark.parametrize(
    "options",
    [["-c", "{}"], ["-c{}"], ["-c={}"], ["--conf", "{}"], ["--conf={}"], ["run", "-e", "py3", "-c", "{}"], []],
)
@pytest.mark.parametrize("tox", [["tox"], ["/usr/bin/tox"], ["python", "-m", "tox"]])
def test_a_configuration_that_the_command_or_the_environment_names_is_the_one_that_counts(
    tmp_path: Path, name: str, options: list[str], tox: list[str]
) -> None:
    (tmp_path / "tox.ini").write_text("[testenv]\npass_env = Y\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(CONFIGURATION)
    command = [*tox, *(option.format(name) for option in options)]
    environ = {} if options else {"TOX_CONFIG_FILE": str(tmp_path / name)}
    assert passed_on(tmp_path, {"A": "1"}, environ, command)["TOX_OVERRIDE"] == "testenv.passenv+=A"
    (line,) = hidden(command, tmp_path, ["A"], environ)
    assert line.startswith(f"{Path(name).name} sets A itself")


def test_a_folder_that_the_command_names_is_searched(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/setup.cfg").write_text("[tox:tox]\n" + CONFIGURATION)
    assert passed_on(tmp_path, {"A": "1"}, {}, ["tox", "-c", "sub"])["TOX_OVERRIDE"] == "testenv.passenv+=A"


def test_toxs_configuration_in_a_folder_above_counts_where_none_is_nearer(tmp_path: Path) -> None:
    (tmp_path / "tox.ini").write_text(CONFIGURATION)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert override(tmp_path / "sub") == "testenv.passenv+=A,B"


@pytest.mark.parametrize(
    "command", [["make", "-c", "other.ini"], ["tox", "--", "-c", "other.ini"], ["sh", "-c", "tox"]]
)
def test_options_of_other_programs_are_not_toxs(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "tox.ini").write_text("[testenv]\npass_env = Y\n")
    (tmp_path / "other.ini").write_text(CONFIGURATION)
    assert passed_on(tmp_path, {"A": "1"}, {}, command)["TOX_OVERRIDE"] == "testenv.pass_env+=A"


def test_a_file_that_is_not_there_is_left_to_tox(tmp_path: Path) -> None:
    (tmp_path / "tox.ini").write_text(CONFIGURATION)
    assert passed_on(tmp_path, {"A": "1"}, {}, ["tox", "-c", "no.ini"]) == {"A": "1"}
