"""Write the files for CIs: `python -m tests.exports`. A test checks that they are current.

They are in tests/unit/wiring/exports/, for a person to read, and the jobs with devenv in docs/ci.md.
"""

from __future__ import annotations

from pathlib import Path

from devenv.images.references import images_for
from devenv.model import ComponentChoice, Profile, ServiceChoice
from devenv.spec.catalogue import load_catalogue
from devenv.wiring.export import for_jobs
from devenv.wiring.packages import Packages

FOLDER = Path(__file__).parent / "unit" / "wiring" / "exports"
PAGE = Path(__file__).parents[1] / "docs" / "ci.md"
# The name here of each tool's only file.
FILES = {"github": "github.yaml", "gitlab": "gitlab.yaml", "zuul": ""}
CATALOGUE = load_catalogue()
NOVA = ComponentChoice("nova", roles=("admin",), catalog={"type": "compute", "name": "nova", "url": "http://n:1/v2"})
SERVICES = {name: ServiceChoice() for name in ("mysql", "keystone", "rabbitmq", "etcd")}
PROFILE = Profile(
    "base", SERVICES, "devenv.yaml", components={"nova": NOVA, "my-service": ComponentChoice("my-service")}
)
PACKAGES = Packages("git+https://git.example.org/devenv@v0.1.0", ("-r", "test-requirements.txt", "-e", "."))


def files(tool: str, component: str = "", profile: Profile = PROFILE, packages: Packages = PACKAGES) -> dict[str, str]:
    images = images_for(profile, CATALOGUE)
    return for_jobs(tool, "my-project", component, profile, CATALOGUE, images, packages)


def pages() -> dict[Path, str]:
    """Return each file with its content."""
    found = {(tool, name): text for tool in FILES for name, text in files(tool).items()}
    return {FOLDER / (FILES[tool] or f"{tool}/{name}"): text for (tool, name), text in found.items()} | {PAGE: page()}


def page() -> str:
    """Return docs/ci.md with the jobs with devenv as they are exported."""
    text = PAGE.read_text()
    for file, job in ((".github/workflows/tests.yml", _github()), (".gitlab-ci.yml", _gitlab())):
        before, start, rest = text.partition(f"```yaml\n# {file}\n")
        text = before + start + job + rest[rest.index("```") :]
    return text


def _github() -> str:
    """Return GitHub's file up to its first empty line, without the comment about its two jobs."""
    return files("github")[""].partition("\n\n")[0].partition("\n")[2] + "\n"


def _gitlab() -> str:
    """Return the first of the jobs in GitLab's file."""
    return files("gitlab")[""].split("\n\n")[1] + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)
