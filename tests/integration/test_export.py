"""The steps of exported jobs, run as their CI runs them; what pip installs is the wheel of this checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from project import Project, ours

NOTHING: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": []}
# The project's own tests. They fail if the job is told so.
TESTS = """\
import os


def test_it():
    assert os.environ["ETCD_ENDPOINTS"]
    assert "FAIL" not in os.environ
"""


@pytest.fixture
def tested(project: Project) -> Project:
    """Make a project with tests and requirements."""
    project.configure("profile: coordination\n")
    (project.folder / "tests").mkdir()
    (project.folder / "tests" / "test_it.py").write_text(TESTS)
    (project.folder / "test-requirements.txt").write_text("pytest\n")
    return project


def exported(project: Project, tool: str, wheel: Path) -> list[Any]:
    """Export for a CI that installs the wheel in the project; return the content of each file."""
    if wheel.exists():
        shutil.copy(wheel, project.folder)
    return [*yaml.safe_load_all(project.devenv("export", tool, "--install", f"./{wheel.name}").stdout)]


def environ(project: Project, path: Sequence[Path] = (), **variables: str) -> dict[str, str]:
    """Return the variables of a job; none of them leads to this checkout."""
    found = {name: value for name, value in project.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**found, "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]), **variables}


def script(project: Project, lines: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-c", lines],
        cwd=project.folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


# ---- GitHub ------------------------------------------------------------------------------------------------------


@dataclass
class GitHub:
    """What GitHub's runner does with steps, as far as these jobs need it."""

    project: Project
    place: Path
    said: str = ""
    uploaded: list[str] = field(default_factory=list)

    @property
    def caches(self) -> list[Path]:
        return [*(self.place / "caches").glob("*")]

    def run(self, job: Mapping[str, Any], **variables: str) -> bool:
        """Run all steps as their conditions want it; return whether all passed."""
        self.said, self.uploaded, passed = "", [], True
        # What the cache lacks, and where it keeps that.
        kept: tuple[Path, Path] | None = None
        outputs, bin_ = self.place / "outputs", self.place / "python" / "bin"
        outputs.write_text("")
        variables = environ(self.project, [bin_], GITHUB_ACTIONS="true", GITHUB_OUTPUT=str(outputs), **variables)
        for step in job["steps"]:
            missed = "steps.cache.outputs.cache-hit != 'true'"
            if not {"": passed, "always()": True, missed: passed and bool(kept)}[step.get("if", "")]:
                continue
            action = step.get("uses", "").partition("@")[0]
            if "run" in step:
                done = script(self.project, step["run"], variables)
                self.said, passed = self.said + done.stdout, passed and done.returncode == 0
            elif action == "actions/setup-python":
                subprocess.run([sys.executable, "-m", "venv", str(bin_.parent)], check=True)
            elif action == "actions/cache":
                kept = self.restore(step["with"], dict(line.split("=") for line in outputs.read_text().splitlines()))
            elif action == "actions/upload-artifact":
                there = (self.project.folder / path for path in step["with"]["path"].split())
                self.uploaded = [path.name for path in there if path.exists()]
            else:
                assert action == "actions/checkout"
        if kept and passed:
            kept[1].parent.mkdir(exist_ok=True)
            shutil.move(*kept)
        return passed

    def restore(self, cache: Mapping[str, str], outputs: Mapping[str, str]) -> tuple[Path, Path] | None:
        """Bring the cache's file back. If there is none, return it and where to keep it after the job."""
        key, fallback = (
            outputs[re.fullmatch(r"\$\{\{ steps\.devenv\.outputs\.(\w+) \}\}", cache[name])[1]]  # type: ignore[index]
            for name in ("key", "restore-keys")
        )
        assert key.startswith(fallback) and fallback.startswith("devenv-")
        path, kept = self.project.folder / cache["path"], self.place / "caches" / key
        path.unlink(missing_ok=True)
        if not kept.exists():
            return path, kept
        shutil.copy(kept, path)
        return None


@pytest.mark.long
def test_the_jobs_for_github_work_with_and_without_a_cache_and_keep_results_of_failures(
    tested: Project, wheel: Path, tmp_path: Path, client: docker.DockerClient
) -> None:
    (file,) = exported(tested, "github", wheel)
    github, job = GitHub(tested, tmp_path), file["jobs"]["with-devenv"]
    assert not github.run(job, FAIL="1"), github.said
    assert "1 failed" in github.said and github.uploaded == ["devenv-artifacts", "junit.xml"] and not github.caches
    assert (tested.folder / "devenv-artifacts" / "etcd.log").stat().st_size
    assert github.run(job), github.said
    assert "1 passed" in github.said and "loaded" not in github.said and len(github.caches) == 1
    assert github.run(job), github.said
    assert "1 passed" in github.said and "loaded 2 images" in github.said
    assert ours(client, tested.id) == NOTHING


# ---- GitLab ------------------------------------------------------------------------------------------------------


def check_gitlab(project: Project, job: Mapping[str, Any], lines: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run a job's lines twice, and check what they leave for the next job and for the reader."""
    for said in ("saved", "loaded 2 images"):
        done = script(project, "\n".join(lines), variables)
        assert done.returncode == 0 and "1 passed" in done.stdout and "section_start" in done.stdout, done.stdout
        assert said == "saved" or said in done.stdout
    assert len(list((project.folder / job["cache"]["paths"][0]).glob("devenv-*.tar"))) == 1
    for path in [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]:
        assert (project.folder / path).exists()


def test_the_job_for_gitlab_works_with_and_without_a_cache(tested: Project) -> None:
    (file,) = exported(tested, "gitlab", Path("devenv.whl"))
    job = file["with-devenv"]
    # What these install is in this Python already.
    first, second, third, *lines = job["script"]
    assert "venv" in first and "venv" in second and third.startswith("pip install ")
    variables = environ(tested, [Path(sys.executable).parent], GITLAB_CI="true", PYTHONPATH=str(tested.checkout))
    check_gitlab(tested, job, lines, variables)


@pytest.mark.long
def test_the_jobs_for_gitlab_work_in_a_virtual_environment_of_their_own(tested: Project, wheel: Path) -> None:
    (file,) = exported(tested, "gitlab", wheel)
    check_gitlab(tested, file["with-devenv"], file["with-devenv"]["script"], environ(tested, GITLAB_CI="true"))
    failed = script(tested, "\n".join(file["with-devenv"]["script"]), environ(tested, FAIL="1"))
    assert failed.returncode == 1 and "1 failed" in failed.stdout


# ---- Zuul --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_playbooks_for_zuul_install_test_and_collect_however_the_tests_end(
    tested: Project, wheel: Path, tmp_path: Path, client: docker.DockerClient
) -> None:
    (job, _), pre, run = exported(tested, "zuul", wheel)
    (tmp_path / "pre.yaml").write_text(yaml.safe_dump(pre))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    command = {"ensure_pip_virtualenv_command": f"{sys.executable} -m venv"}
    # What zuul-jobs' roles leave: a command, and an engine that this user may use.
    for role, tasks in (("ensure-pip", [{"ansible.builtin.set_fact": command}]), ("ensure-docker", [])):
        (tmp_path / "roles" / role / "tasks").mkdir(parents=True)
        (tmp_path / "roles" / role / "tasks" / "main.yaml").write_text(yaml.safe_dump(tasks))
    told = {**job["job"]["vars"], "ansible_user_dir": str(tmp_path)}
    told["zuul"] = {"project": {"src_dir": str(tested.folder.relative_to(tmp_path))}}

    def play(*books: str, **more: str) -> subprocess.CompletedProcess[str]:
        told_all = json.dumps({**told, **more})
        ansible = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", "-e", told_all]
        # With this test's Python, Ansible's modules run; devenv is in a virtual environment of its own.
        ansible += ["-e", f"ansible_python_interpreter={sys.executable}", *books]
        variables = environ(tested, ANSIBLE_HOME=str(tmp_path / "ansible"), LC_ALL="C.UTF-8")
        return subprocess.run(ansible, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    logs = tmp_path / "zuul-output" / "logs" / "devenv"
    done = play("pre.yaml", "run.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'tests="1"' in (logs / "junit.xml").read_text() and "passed" in (logs / "report.md").read_text()
    shutil.rmtree(logs)
    failed = play("run.yaml", devenv_command="exit 3")
    assert failed.returncode == 2 and '"rc": 3' in failed.stdout, failed.stdout
    assert (logs / "etcd.log").stat().st_size and "failed" in (logs / "report.md").read_text()
    assert ours(client, tested.id) == NOTHING
