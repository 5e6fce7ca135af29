"""The environment in other tools' words: what each file says, and that the tool's own schema accepts it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import SECRET, compose_data, shipped, write_service
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from devenv.cli.main import main
from devenv.errors import ConfigError
from devenv.images.references import images_for
from devenv.lifecycle.environment import Environment
from devenv.model import ComponentChoice, Desired, Profile, ServiceChoice, ServiceDefinition
from devenv.spec.catalogue import load_catalogue
from devenv.spec.desired import Inputs, resolve, secret_names
from devenv.wiring import export, packages as packages_module
from devenv.wiring.compose import compose_file
from devenv.wiring.packages import Packages
from tests import exports

SCHEMAS = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci", "compose": "vendor.compose-spec"}
DATA: dict[str, Any] = {tool: yaml.safe_load(exports.files(tool)[""]) for tool in ("github", "gitlab")}
ZUUL = exports.files("zuul")


def desired(catalogue: dict[str, ServiceDefinition], profile: Profile) -> Desired:
    names = list(profile.services)
    ports = {f"{name}/{key}": e.port for name in names for key, e in catalogue[name].endpoints.items()}
    secrets = dict.fromkeys(secret_names(names, profile, catalogue), SECRET)
    return resolve(names, Inputs("env-1", profile, catalogue, images_for(profile, catalogue), ports, secrets))


def schema_accepts(path: Path, tool: str) -> None:
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", SCHEMAS[tool], str(path)])
    assert done.exit_code == 0, done.output


# ---- Compose -----------------------------------------------------------------------------------------------------

GOLDEN = """\
name: env-1
services:
  web:
    image: example/web:latest
    user: nobody
    entrypoint:
    - run
    configs:
    - source: web-main.conf
      target: /etc/devenv/main.conf
    - source: web-healthy.sh
      target: /etc/devenv/healthy.sh
    volumes:
    - web-data:/data
    ports:
    - 127.0.0.1:80:80
    cap_drop:
    - ALL
    security_opt:
    - no-new-privileges:true
    pids_limit: 99
    mem_limit: 536870912
    stop_grace_period: 90s
    logging:
      driver: json-file
      options:
        max-size: 10m
        max-file: '2'
    healthcheck:
      test:
      - CMD
      - sh
      - /etc/devenv/healthy.sh
      interval: 2s
      timeout: 5s
      retries: 3
      start_period: 5m
configs:
  web-main.conf:
    content: |
      listen = 80
      nova S3cret-S3cret_S3cret costs $$5
  web-healthy.sh:
    content: |
      ask $${#login} S3cret-S3cret_S3cret
volumes:
  web-data: {}
x-devenv-attach:
  DEVENV_ATTACH_WEB: http://u:S3cret-S3cret_S3cret@127.0.0.1:80
"""


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """Write a service's templates for Compose, and return their folder."""
    folder = write_service(tmp_path, compose_data()).parent / "wire" / "export" / "compose"
    (folder / "component").mkdir(parents=True)
    (folder / "service.yaml").write_text("healthcheck: {test: [CMD, sh, /etc/devenv/healthy.sh]}\n")
    (folder / "healthy.sh").write_text("ask $${#login} ${secret.password}\n")
    (folder / "component" / "main.conf").write_text("${component.name} ${output.PASSWORD} costs $5\n")
    return folder


def composed(tmp_path: Path) -> str:
    catalogue = load_catalogue(tmp_path)
    profile = Profile("p", {"web": ServiceChoice()}, components={"nova": ComponentChoice("nova")})
    return compose_file(desired(catalogue, profile), catalogue)


def test_a_compose_file_has_all_that_the_service_and_its_components_need(web: Path, tmp_path: Path) -> None:
    assert composed(tmp_path) == GOLDEN


@pytest.mark.parametrize("text", ["healthcheck: [", "- a list", "{}", "healthcheck: {test: [a]}\nprivileged: true"])
def test_a_template_of_a_health_check_that_makes_no_sense_is_an_error(web: Path, tmp_path: Path, text: str) -> None:
    (web / "service.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"cannot use .*service\.yaml"):
        composed(tmp_path)


def test_accounts_that_are_no_json_are_an_error(web: Path, tmp_path: Path) -> None:
    (web / "component" / "main.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot merge .*main\.json"):
        composed(tmp_path)


def shipped_compose() -> tuple[Desired, dict[str, Any]]:
    target = desired(exports.CATALOGUE, exports.PROFILE)
    return target, yaml.safe_load(compose_file(target, exports.CATALOGUE))


def test_the_schema_of_compose_accepts_the_shipped_services(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(shipped_compose()[1]))
    schema_accepts(tmp_path / "compose.yaml", "compose")


def test_every_shipped_service_has_a_health_check_and_devenvs_precautions_but_one() -> None:
    target, data = shipped_compose()
    for name, service in target.services.items():
        found = data["services"][name]
        assert found["healthcheck"]["test"][0] == "CMD"
        assert found["image"] == service.image.reference and found["pull_policy"] == "never"
        assert found["user"] == service.options.user and found["cap_drop"] == ["ALL"]
        assert found["security_opt"] == ["no-new-privileges:true"] and found["mem_limit"]
        assert all(port.startswith("127.0.0.1:") for port in found["ports"])
        # Compose refuses read_only beside files whose content is in the Compose file.
        assert "read_only" not in found
    assert data["services"]["keystone"]["depends_on"] == {"mysql": {"condition": "service_started"}}


def test_nothing_in_it_is_called_as_devenv_calls_its_own() -> None:
    text = yaml.safe_dump(shipped_compose()[1])
    assert "io.devenv" not in text and "container_name" not in text and "devenv-env-1" not in text


def test_files_come_out_of_compose_as_they_went_in() -> None:
    target = shipped()
    data = yaml.safe_load(compose_file(target, exports.CATALOGUE))
    for name, service in target.services.items():
        sources = {config["target"]: config["source"] for config in data["services"][name]["configs"]}
        assert len(set(sources.values())) == len(sources)
        for path, content in service.files.items():
            if not path.endswith(("accounts.sql", ".json")):
                assert data["configs"][sources[path]]["content"].replace("$$", "$") == content.decode()


def test_components_are_in_the_files_that_make_accounts() -> None:
    data = shipped_compose()[1]
    accounts = json.loads(data["configs"]["keystone-accounts.json"]["content"])
    users = {user["name"]: user for user in accounts["users"]}
    assert users["nova"]["projects"] == {"service": "service,admin"} and users["nova"]["system"] == "reader"
    assert [entry["type"] for entry in accounts["catalog"]] == ["compute", ""]
    assert set(users) == {"admin", "devenv", "demo", "nova", "my-service"}
    definitions = json.loads(data["configs"]["rabbitmq-definitions.json"]["content"])
    assert [vhost["name"] for vhost in definitions["vhosts"]] == ["devenv", "/", "nova", "my-service"]
    sql = data["configs"]["mysql-accounts.sql"]["content"]
    assert [name for name in ("keystone", "nova", "my_service", "my-service") if f"'{name}'@'%'" in sql] == [
        "keystone",
        "nova",
        "my_service",
    ]


def test_an_etcd_with_logins_starts_with_them() -> None:
    catalogue = load_catalogue(switches={"etcd": {"auth": True}}, asked_by="devenv.yaml")
    profile = replace(exports.PROFILE, services={"etcd": ServiceChoice()})
    data = yaml.safe_load(compose_file(desired(catalogue, profile), catalogue))
    assert data["services"]["etcd"]["entrypoint"] == ["sh", "/etc/devenv/start.sh"]
    made = [line.split()[:2] for line in data["configs"]["etcd-accounts.sh"]["content"].splitlines()[-3:]]
    assert made == [["account", "root"], ["account", "'nova'"], ["account", "'my-service'"]]


# ---- CIs ---------------------------------------------------------------------------------------------------------


def test_what_cis_are_told_is_as_it_was_read_by_a_person() -> None:
    files = (path for path in exports.FOLDER.rglob("*") if path.is_file())
    there = {path: path.read_text() for path in (*files, exports.PAGE)}
    assert there == exports.pages(), "look at what changed, then run: python -m tests.exports"


@pytest.mark.parametrize("tool", ["github", "gitlab"])
@pytest.mark.parametrize("component", ["", "my-service"])
def test_the_published_schema_accepts_it(tool: str, component: str, tmp_path: Path) -> None:
    (tmp_path / "ci.yaml").write_text(exports.files(tool, component)[""])
    schema_accepts(tmp_path / "ci.yaml", tool)


@pytest.mark.parametrize(
    ("tool", "job", "variables", "host"),
    [
        ("github", lambda data: data["jobs"]["with-services"], "env", lambda name: "127.0.0.1"),
        ("gitlab", lambda data: data["with-services"], "variables", lambda name: name),
    ],
)
def test_a_job_says_where_its_services_are_and_nothing_else(
    tool: str, job: Callable[[Any], Any], variables: str, host: Callable[[str], str]
) -> None:
    # A CI has no image of Keystone to start, so the job says nothing about it.
    assert job(DATA[tool])[variables] == {
        "DEVENV_ATTACH_MYSQL": f"mysql://root:no-secret@{host('mysql')}:3306",
        "DEVENV_ATTACH_RABBITMQ": f"amqp://devenv:no-secret@{host('rabbitmq')}:5672",
        "DEVENV_ATTACH_ETCD": f"http://{host('etcd')}:2379",
    }


def test_the_servers_of_a_job_have_the_logins_that_devenv_is_told() -> None:
    services = DATA["github"]["jobs"]["with-services"]["services"]
    assert services["mysql"]["env"] == {"MYSQL_ROOT_PASSWORD": "no-secret"}
    assert services["rabbitmq"]["env"] == {"RABBITMQ_DEFAULT_USER": "devenv", "RABBITMQ_DEFAULT_PASS": "no-secret"}
    # devenv makes vhosts and users over the second port.
    assert services["rabbitmq"]["ports"] == ["5672:5672", "15672:15672"]
    assert services["mysql"]["ports"] == ["3306:3306"]


@pytest.mark.parametrize("component", ["", "my-service"])
@pytest.mark.parametrize("tool", ["github", "gitlab"])
def test_a_job_names_the_services_beside_it_and_the_component(tool: str, component: str) -> None:
    given = component or "nova"
    words = f"devenv ci mysql rabbitmq etcd --component {given} --timeout 1800 --artifacts devenv-artifacts -- python3 "
    assert words in " ".join(exports.files(tool, component)[""].split())


def test_gitlab_waits_for_the_port_that_is_used() -> None:
    services = {service["alias"]: service for service in DATA["gitlab"]["with-services"]["services"]}
    ports = {alias: service["variables"]["HEALTHCHECK_TCP_PORT"] for alias, service in services.items()}
    assert ports == {"mysql": "3306", "rabbitmq": "5672", "etcd": "2379"}


def test_what_a_reader_changes_comes_before_what_services_and_programs_are_told() -> None:
    for tool, jobs, last in (("github", DATA["github"]["jobs"], "env"), ("gitlab", DATA["gitlab"], "variables")):
        assert list(jobs) == ["with-devenv", "with-services"], tool
        assert list(jobs["with-services"])[-2:] == ["services", last]
    job = yaml.safe_load(ZUUL[".zuul.d/devenv.yaml"])[0]["job"]
    assert list(job)[:3] == ["name", "description", "vars"] and next(iter(job["vars"])) == "devenv_command"


@pytest.mark.parametrize("job", ["with-devenv", "with-services"])
def test_a_job_sets_up_python_installs_what_the_project_requires_and_keeps_its_results(job: str) -> None:
    needs = "-r test-requirements.txt -e ."
    steps = DATA["github"]["jobs"][job]["steps"]
    uses = [step["uses"].partition("@")[0] for step in steps if "uses" in step]
    assert uses[:2] == ["actions/checkout", "actions/setup-python"]
    (upload,) = (step for step in steps if "upload-artifact" in step.get("uses", ""))
    assert upload["if"] == "always()" and "junit.xml" in upload["with"]["path"]
    (install,) = (step["run"] for step in steps if "pip install" in step.get("run", ""))
    scripts = DATA["gitlab"][job]["script"]
    assert [line for line in scripts if "pip install" in line] == [install] and install.rstrip().endswith(needs)
    assert DATA["gitlab"][job]["artifacts"]["when"] == "always"
    assert "openstack-devenv @" in install
    assert ("actions/cache" in uses) == (job == "with-devenv")


def test_both_jobs_with_devenv_do_the_same() -> None:
    steps = [step["run"].strip() for step in DATA["github"]["jobs"]["with-devenv"]["steps"] if "run" in step]
    script = [line.strip() for line in DATA["gitlab"]["with-devenv"]["script"]]
    assert script[:2] == ["python3 -m venv .venv", ". .venv/bin/activate"]
    assert {line for line in steps if line.startswith(("pip", "devenv ci"))} <= {*script}


def test_without_a_component_in_devenv_yaml_the_tests_get_one_of_their_own() -> None:
    profile = replace(exports.PROFILE, components={}, services={"mysql": ServiceChoice(), "etcd": ServiceChoice()})
    job = yaml.safe_load(exports.files("github", profile=profile)[""])["jobs"]["with-services"]
    assert set(job["services"]) == {"mysql", "etcd"}
    assert job["env"].keys() == {"DEVENV_ATTACH_MYSQL", "DEVENV_ATTACH_ETCD"}
    (command,) = (step["run"] for step in job["steps"] if "devenv ci" in step.get("run", ""))
    assert command.startswith("devenv ci mysql etcd --timeout")


def installed_by_zuul(files: dict[str, str]) -> list[str]:
    """Return the words of the command that installs devenv."""
    tasks = yaml.safe_load(files["playbooks/devenv/pre.yaml"])[0]["tasks"]
    (command,) = (cmd for task in tasks if "pip install" in (cmd := task["ansible.builtin.command"]["cmd"]))
    return shlex.split(command.replace("{{ devenv_venv }}", "venv"))


def test_a_job_of_zuul_installs_what_devenv_needs_for_the_services() -> None:
    profile = replace(exports.PROFILE, services={"postgresql": ServiceChoice()})
    found = [installed_by_zuul(files)[2] for files in (ZUUL, exports.files("zuul", profile=profile))]
    url = "@ git+https://git.example.org/devenv@v0.1.0"
    assert found == [f"openstack-devenv {url}", f"openstack-devenv[postgresql] {url}"]


def test_a_job_of_zuul_collects_logs_and_a_report_where_the_base_job_looks_for_them() -> None:
    job = yaml.safe_load(ZUUL[".zuul.d/devenv.yaml"])[0]["job"]
    (task,) = yaml.safe_load(ZUUL["playbooks/devenv/run.yaml"])[0]["tasks"]
    words = task["ansible.builtin.command"]["argv"]
    options = dict(zip(words[2:8:2], words[3:9:2], strict=True))
    assert words[1] == "ci" and options["--artifacts"] == "{{ devenv_logs }}"
    assert job["vars"]["devenv_logs"].endswith("/zuul-output/logs/devenv")
    assert job["vars"]["devenv_timeout"] < job["timeout"]


# What somebody may name: none of it may end the line, the quotes or the file that it is written to.
ODD = ["./a b.whl", "./it's.whl", "./a#b: c.whl", "./$(id).whl", "./`id`.whl", "./é.whl", '"./a".whl', "./%s;&|.whl"]


@pytest.mark.parametrize("source", [*ODD, "openstack-devenv>=0.1, <1", "git+https://git.example.org/a?b=c&d#egg=x"])
def test_a_source_is_one_word_for_pip_whatever_is_in_it(source: str) -> None:
    packages = Packages(source)
    meant = ["pip", "install", packages_module.requirement(source, ()), "pytest"]
    github = yaml.safe_load(exports.files("github", packages=packages)[""])["jobs"]["with-devenv"]["steps"]
    (step,) = (step["run"] for step in github if "pip install" in step.get("run", ""))
    gitlab = yaml.safe_load(exports.files("gitlab", packages=packages)[""])["with-devenv"]["script"]
    (line,) = (line for line in gitlab if "pip install" in line)
    assert shlex.split(step) == shlex.split(line) == meant
    assert installed_by_zuul(exports.files("zuul", packages=packages))[1:] == meant[1:]
    assert "\n" not in step.strip()


@pytest.mark.parametrize("tool", ["github", "gitlab"])
def test_a_job_has_the_database_that_the_project_has(tool: str, tmp_path: Path) -> None:
    profile = replace(exports.PROFILE, services={"postgresql": ServiceChoice()})
    (tmp_path / "ci.yaml").write_text(text := exports.files(tool, profile=profile)[""])
    schema_accepts(tmp_path / "ci.yaml", tool)
    assert exports.CATALOGUE["postgresql"].official in text and "mysql" not in text
    assert "POSTGRES_PASSWORD: no-secret\n" in text
    assert f"postgresql://postgres:no-secret@{'127.0.0.1' if tool == 'github' else 'postgresql'}:5432\n" in text
    assert text.count("pip install 'openstack-devenv[postgresql] @ git+https://git.example.org/devenv@v0.1.0'") == 2


@pytest.mark.parametrize("tool", ["github", "gitlab"])
def test_a_job_runs_the_image_that_devenv_yaml_names(tool: str) -> None:
    profile = replace(
        exports.PROFILE, services={"mysql": ServiceChoice("example.org/mysql:8.0"), "etcd": ServiceChoice()}
    )
    text = exports.files(tool, profile=profile)[""]
    assert "example.org/mysql:8.0" in text and exports.CATALOGUE["etcd"].official in text


def test_two_servers_with_one_usual_port_are_refused_where_a_job_would_publish_both() -> None:
    profile = replace(exports.PROFILE, services={"mysql": ServiceChoice(), "mariadb": ServiceChoice()})
    with pytest.raises(ConfigError, match="cannot export for github: mysql and mariadb would both have port 3306"):
        exports.files("github", profile=profile)
    assert "mariadb" in exports.files("gitlab", profile=profile)[""] and exports.files("zuul", profile=profile)


def test_a_component_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot find component 'nowa' in devenv.yaml") as caught:
        exports.files("github", "nowa")
    assert caught.value.hint == "did you mean 'nova'? devenv.yaml has: my-service, nova; add others there"


def test_the_zuul_job_names_playbooks_that_are_there() -> None:
    job, project = yaml.safe_load(ZUUL[".zuul.d/devenv.yaml"])
    assert {job["job"][kind] for kind in ("pre-run", "run")} == ZUUL.keys() - {".zuul.d/devenv.yaml"}
    assert project["project"]["check"]["jobs"] == [job["job"]["name"]] == ["my-project-devenv"]


def test_ansible_understands_the_playbooks(tmp_path: Path) -> None:
    for role in ("ensure-pip", "ensure-docker"):  # roles of zuul-jobs
        (tmp_path / "roles" / role / "tasks").mkdir(parents=True)
        (tmp_path / "roles" / role / "tasks" / "main.yaml").write_text("[]\n")
    # One run for all: Ansible takes a second to start. Ansible names the file that it does not understand.
    books = {name.replace("/", "-"): text for name, text in ZUUL.items() if name.startswith("playbooks/")}
    for name, text in books.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "ansible", "playbook", "--syntax-check", "-i", "localhost,", *books]
    environ = {**os.environ, "ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"playbook: {name}" in done.stdout for name in books)


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "devenv.yaml").write_text("profile: database\ncomponents: [nova]\n")
    return tmp_path


def devenv(project: Path, *arguments: str) -> str:
    done = CliRunner().invoke(main, ["--project", str(project), "export", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_no_engine_is_asked_and_what_was_made_once_is_kept(project: Path) -> None:
    text = devenv(project, "compose")
    record = Environment(project).state.load()
    assert f"127.0.0.1:{record.ports['mysql/sql']}:3306" in text
    assert Environment(project).state.secrets(())["mysql/nova"] in text
    assert devenv(project, "compose") == text


def test_a_file_with_passwords_is_for_its_owner_alone(project: Path) -> None:
    text = devenv(project, "compose")
    devenv(project, "compose", "--output", str(project / "compose.yaml"))
    devenv(project, "gitlab", "--install", "./devenv.whl", "--output", str(project / "ci.yaml"))
    assert (project / "compose.yaml").read_text() == text
    assert (project / "compose.yaml").stat().st_mode & 0o777 == 0o600
    assert (project / "ci.yaml").stat().st_mode & 0o777 == 0o644


def test_several_files_go_below_a_folder_or_into_one_stream(project: Path) -> None:
    printed = devenv(project, "zuul", "--install", "./devenv.whl", "--output", str(project))
    names = [".zuul.d/devenv.yaml", *(f"playbooks/devenv/{name}.yaml" for name in ("pre", "run"))]
    assert printed.splitlines() == [f"wrote {project / name}" for name in names]
    stream = devenv(project, "zuul", "--install", "./devenv.whl")
    assert len(list(yaml.safe_load_all(stream))) == 3
    assert [line.removeprefix("# ") for line in stream.splitlines() if line.removeprefix("# ") in names] == names


def test_a_place_that_cannot_be_written_is_said(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*: it is a folder"):
        export.write("compose", {"": "text"}, project, project)
    with pytest.raises(ConfigError, match=r"cannot create .*devenv\.yaml"):
        export.write("zuul", {"a/b.yaml": "text"}, project / "devenv.yaml", project)
    with pytest.raises(ConfigError, match=r"cannot write .*nowhere"):
        export.write("compose", {"": "text"}, project / "nowhere" / "compose.yaml", project)


def test_a_tool_that_devenv_does_not_know_is_an_error(project: Path) -> None:
    with pytest.raises(ConfigError, match="cannot export for 'jenkins'") as caught:
        Environment(project).export("jenkins")
    assert caught.value.hint == "devenv exports for: compose, devstack, github, gitlab, kubernetes, zuul"


def test_devstack_is_told_what_it_was_told_by_every_service() -> None:
    lines = export.exported(shipped(), exports.CATALOGUE)[""].splitlines()
    assert lines[1] == "[[local|localrc]]" and "DATABASE_TYPE=mysql" in lines and "ETCD_PORT=2379" in lines
