"""What a CI's job installs: devenv from where its user or the project says, and never by a name alone unasked."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from devenv.cli.main import main
from devenv.errors import ConfigError
from devenv.wiring.export import SECRET, tools
from devenv.wiring.packages import Packages, packages_of, requirement

URL = "git+https://git.example.org/devenv@v0.1.0"


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        (URL, f"openstack-devenv[postgresql] @ {URL}"),
        ("https://example.org/a.whl#sha256=0", "openstack-devenv[postgresql] @ https://example.org/a.whl#sha256=0"),
        ("git+ssh://git@example.org/devenv", "openstack-devenv[postgresql] @ git+ssh://git@example.org/devenv"),
        ("./dist/devenv.whl", "./dist/devenv.whl[postgresql]"),
        ("openstack-devenv", "openstack-devenv[postgresql]"),
        ("openstack-devenv==0.1.0", "openstack-devenv[postgresql]==0.1.0"),
        ("OpenStack_devenv >= 0.1, < 1", "openstack-devenv[postgresql] >= 0.1, < 1"),
        (f"openstack-devenv @ {URL}", f"openstack-devenv[postgresql] @ {URL}"),
        (f"openstack-devenv[other, postgresql] @ {URL}", f"openstack-devenv[other,postgresql] @ {URL}"),
    ],
)
def test_pip_is_told_of_what_the_services_need_in_any_kind_of_source(source: str, meant: str, tmp_path: Path) -> None:
    assert packages_of(tmp_path, "github", source).source == source
    found = requirement(source, {"postgresql"})
    assert found == meant
    assert found.startswith("./") or Requirement(found).extras >= {"postgresql"}


@pytest.mark.parametrize(
    "source",
    # The first two are the names of other packages.
    [
        "devenv",
        "openstack-devenv-tools",
        "-r evil.txt",
        "--index-url=x",
        " ./a.whl",
        "./a\nb.whl",
        "./a\x1b[1m.whl",
        "./a b.whl",
        "https://",
        "https://example.org/a b",
        f"{URL} ; python_version>'3'",
        "openstack-devenv @ ./a.whl",
        f"openstack-devenv @ {URL} b",
    ],
)
def test_a_source_that_pip_would_take_for_something_else_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot install devenv from .*: it is no URL, no path and no requirement"
    ) as caught:
        packages_of(tmp_path, "github", source)
    assert "\n" not in caught.value.message and "\x1b" not in caught.value.message


@pytest.mark.parametrize("source", ["git@example.org:x/devenv", "git@example.org:/x/devenv"])
@pytest.mark.parametrize("prefix", ["", "openstack-devenv @ "])
def test_a_path_on_another_host_is_refused_with_the_url_that_pip_takes(
    source: str, prefix: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="pip takes it for a path") as caught:
        packages_of(tmp_path, "github", prefix + source)
    assert "--install 'git+ssh://git@example.org/x/devenv'" in caught.value.hint


@pytest.mark.parametrize("source", ["git+https://${{ github.actor }}.example.org/x", "./{{ x }}.whl", "./{% x %}.whl"])
def test_a_source_that_a_ci_would_replace_a_part_of_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CIs replace what is in braces"):
        packages_of(tmp_path, "github", source)


@pytest.mark.parametrize(
    "source",
    [
        "git+https://me:s3cret@git.example.org/devenv",
        "https://s3cret@git.example.org/devenv.whl",
        "openstack-devenv @ git+ssh://me:s3cret@git.example.org/devenv",
        "https://a@s3cret@git.example.org/[",
    ],
)
def test_a_login_is_not_written_to_a_file_that_is_committed(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write a login for git\.example\.org to a file") as caught:
        packages_of(tmp_path, "github", source)
    assert "s3cret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "query", ["x.whl?token=s3cret", "?private_token=s3cret#sha256=0", "x?s3cret ; python_version>'3'"]
)
def test_a_query_is_not_written_to_a_file_that_is_committed(query: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write a URL of git\.example\.org with '\?' to a file") as caught:
        packages_of(tmp_path, "github", f"openstack-devenv @ https://git.example.org/{query}")
    assert "s3cret" not in caught.value.message + caught.value.hint


# ---- what the project says ---------------------------------------------------------------------------------------

PYPROJECT = '[project]\nname = "x"\noptional-dependencies = {docs = ["sphinx"], test = ["stestr"]}\n'


@pytest.mark.parametrize(
    ("files", "installed"),
    [
        ({}, "pytest"),
        ({"test-requirements.txt": "", "requirements.txt": ""}, "-r requirements.txt -r test-requirements.txt"),
        ({"requirements.txt": "", "setup.py": ""}, "-r requirements.txt -e ."),
        ({"pyproject.toml": PYPROJECT}, "-e '.[test]'"),
        ({"pyproject.toml": '[build-system]\nrequires = ["pbr"]\n'}, "-e ."),
        ({"pyproject.toml": "[tool.ruff]\n"}, "pytest"),
    ],
)
def test_a_job_installs_what_the_project_requires(files: dict[str, str], installed: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    packages = packages_of(tmp_path, "github", "./devenv.whl")
    assert packages.with_devenv(()) == f"./devenv.whl {installed}"


PINNED = [
    ("test-requirements.txt", f"stestr\nopenstack-devenv @ {URL}  # for tests\n"),
    ("test-requirements.txt", f"-e {URL}#egg=openstack-devenv\n"),
    ("requirements.txt", "./wheels/openstack_devenv-0.1.0-py3-none-any.whl\n"),
    ("pyproject.toml", f'[project]\nname = "x"\ndependencies = ["OpenStack.devenv @ {URL}"]\n'),
    ("pyproject.toml", f'[project]\nname = "x"\noptional-dependencies = {{test = ["openstack-devenv @ {URL}"]}}\n'),
]


@pytest.mark.parametrize(("name", "text"), PINNED)
def test_a_project_that_says_where_devenv_comes_from_has_said_it(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    packages = packages_of(tmp_path, "github", "")
    assert packages.with_devenv({"postgresql"}) == shlex.join(packages.project) != ""
    with pytest.raises(ConfigError, match=f"cannot export for github with --install: {name} says where") as caught:
        packages_of(tmp_path, "github", URL)
    assert caught.value.hint == "leave --install out"


@pytest.mark.parametrize("text", ["", "openstack-devenv\n", "openstack-devenv>=0.1\n", f"# openstack-devenv @ {URL}\n"])
def test_a_project_that_says_only_the_name_does_not_say_where_devenv_comes_from(text: str, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(text)
    with pytest.raises(ConfigError, match="cannot export for gitlab without --install") as caught:
        packages_of(tmp_path, "gitlab", "")
    assert "--install 'git+https://" in caught.value.hint
    packages = packages_of(tmp_path, "gitlab", URL)
    assert packages == Packages(URL, ("-r", "requirements.txt"), named=text.startswith("openstack"))


def test_no_job_lets_pip_look_for_a_name_that_the_project_requires(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("openstack-devenv>=0.1\n")
    packages = packages_of(tmp_path, "github", "./a.whl")
    assert packages.with_devenv(()) == "./a.whl -r requirements.txt"
    assert packages.with_devenv({"postgresql"}) == "./a.whl './a.whl[postgresql]' -r requirements.txt"


def test_a_pyproject_that_is_no_toml_is_said(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[")
    with pytest.raises(ConfigError, match=r"cannot read .*pyproject\.toml"):
        packages_of(tmp_path, "github", URL)


def test_requirements_that_cannot_be_read_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "requirements.txt").write_bytes(b"\xff\n")
    assert packages_of(tmp_path, "github", URL).project == ("-r", "requirements.txt")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match=r"cannot read .*requirements\.txt: Permission denied"):
        packages_of(tmp_path, "github", URL)


@pytest.mark.parametrize(
    "text",
    ["project = 3", "[project]\ndependencies = 'x'", "[project]\ndependencies = [3]\noptional-dependencies = [1]"],
)
def test_what_only_pip_has_to_understand_is_left_to_pip(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert packages_of(tmp_path, "github", URL).project == ("-e", ".")


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", tools())
def test_every_export_that_installs_devenv_asks_where_from_and_no_other_takes_it(tool: str, tmp_path: Path) -> None:
    (tmp_path / "devenv.yaml").write_text("profile: coordination\n")
    command = ["--project", str(tmp_path), "export", tool]
    refused = CliRunner().invoke(main, [*command, "--install", URL] if tool in SECRET else command)
    assert refused.exit_code == 3 and refused.stdout == ""
    first, second = refused.stderr.splitlines()
    assert first.startswith(f"cannot export for {tool} with") and "--install" in first and second.startswith("hint: ")
    if tool not in SECRET:
        assert f"openstack-devenv @ {URL}" in CliRunner().invoke(main, [*command, "--install", URL]).stdout
