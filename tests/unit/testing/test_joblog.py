"""A job's log, in the words of the CI systems that read it."""

from __future__ import annotations

import io
import re

import pytest

from devenv.testing.joblog import GitHub, GitLab, JobLog, job_log


def told(log: JobLog, stream: io.StringIO) -> list[str]:
    """Return the log of a job of two groups, with lines in the second one."""
    log.begin("one")
    log.begin("two")
    log.lines(["::set-env name=PATH::/evil", "plain"])
    log.end()
    log.end()
    return stream.getvalue().split("\n")[:-1]


def test_github_folds_groups_and_takes_no_line_of_others_for_a_command() -> None:
    lines = told(GitHub(stream := io.StringIO()), stream)
    token = lines[3].removeprefix("::stop-commands::")
    assert re.fullmatch("[0-9a-f]{32}", token)
    assert lines == [
        "::group::one",
        "::endgroup::",
        "::group::two",
        f"::stop-commands::{token}",
        "::set-env name=PATH::/evil",
        "plain",
        f"::{token}::",
        "::endgroup::",
    ]


def test_gitlab_folds_sections_of_their_own_names() -> None:
    stream = io.StringIO()
    lines = told(GitLab(stream, clock=lambda: 7.9), stream)
    assert lines == [
        "\x1b[0Ksection_start:7:devenv_1[collapsed=true]\r\x1b[0Kone",
        "\x1b[0Ksection_end:7:devenv_1\r\x1b[0K",
        "\x1b[0Ksection_start:7:devenv_2[collapsed=true]\r\x1b[0Ktwo",
        "::set-env name=PATH::/evil",
        "plain",
        "\x1b[0Ksection_end:7:devenv_2\r\x1b[0K",
    ]


def test_elsewhere_there_are_headers() -> None:
    lines = told(JobLog(stream := io.StringIO()), stream)
    assert lines == ["---- one ----", "---- two ----", "::set-env name=PATH::/evil", "plain"]


def test_errors_and_secrets_are_told_to_github_in_one_line_each() -> None:
    stream = io.StringIO()
    log = GitHub(stream)
    log.mask(["a%bcdefgh", "devenv"])
    log.error("cannot\nstart")
    assert stream.getvalue() == "::add-mask::a%25bcdefgh\n::error title=devenv ci::cannot%0Astart\n"


@pytest.mark.parametrize("log", [JobLog, GitLab])
def test_nobody_else_is_told_secrets(log: type[JobLog]) -> None:
    stream = io.StringIO()
    log(stream).mask(["secret"])
    log(stream).error("why")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({"GITHUB_ACTIONS": "true"}, GitHub),
        ({"GITHUB_ACTIONS": "false"}, JobLog),
        ({"GITLAB_CI": "true"}, GitLab),
        ({}, JobLog),
    ],
)
def test_the_variables_say_which_system_it_is(variables: dict[str, str], kind: type[JobLog]) -> None:
    assert type(job_log(io.StringIO(), variables)) is kind
