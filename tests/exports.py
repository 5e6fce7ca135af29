"""Write tests/unit/wiring/exports/, the files for CIs: `python -m tests.exports`. A test checks that it is current."""

from __future__ import annotations

from pathlib import Path

from devenv.images.references import images_for
from devenv.model import ComponentChoice, Profile, ServiceChoice
from devenv.spec.catalogue import load_catalogue
from devenv.wiring.export import for_jobs

FOLDER = Path(__file__).parent / "unit" / "wiring" / "exports"
# The name here of each tool's only file.
FILES = {"github": "github.yaml", "gitlab": "gitlab.yaml", "zuul": ""}
CATALOGUE = load_catalogue()
NOVA = ComponentChoice("nova", roles=("admin",), catalog={"type": "compute", "name": "nova", "url": "http://n:1/v2"})
SERVICES = {name: ServiceChoice() for name in ("mysql", "keystone", "rabbitmq", "etcd")}
PROFILE = Profile(
    "base", SERVICES, "devenv.yaml", components={"nova": NOVA, "my-service": ComponentChoice("my-service")}
)


def files(tool: str, component: str = "", profile: Profile = PROFILE) -> dict[str, str]:
    return for_jobs(tool, "my-project", component, profile, CATALOGUE, images_for(profile, CATALOGUE))


def pages() -> dict[Path, str]:
    """Return each file with its content."""
    found = {(tool, name): text for tool in FILES for name, text in files(tool).items()}
    return {FOLDER / (FILES[tool] or f"{tool}/{name}"): text for (tool, name), text in found.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)
