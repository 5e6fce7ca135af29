"""How devenv reads what images contain, and reports it."""

from __future__ import annotations

import pytest

from devenv.images.sbom import Contents, Package, debian_packages, python_package, spdx, upstream

STATUS = """Package: bash
Status: install ok installed
Maintainer: Somebody <somebody@debian.org>
Architecture: amd64
Version: 5.2.37-2+b8
Description: shell
 Version: 1 is no field, but a line of this one

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: broken
Status: install ok half-installed
Architecture: amd64
Version: 1

Package: perl
Status: install ok installed
Maintainer: devenv <root@localhost>
Architecture: all
Version: 9:0
"""
BASH = Package("deb", "bash", "5.2.37-2+b8", "amd64")
KEYSTONE = Package("pypi", "keystone", "30.0.0")


def test_dpkgs_record_names_what_is_installed_and_no_stand_in() -> None:
    assert list(debian_packages(STATUS)) == [BASH]


def test_a_record_of_an_unpacked_package_says_no_status() -> None:
    assert list(debian_packages("Package: etcd-server\nVersion: 3.5.16-4\nArchitecture: amd64\n")) == [
        Package("deb", "etcd-server", "3.5.16-4", "amd64")
    ]
    assert list(debian_packages("")) == list(debian_packages("no record")) == []


def test_a_python_distribution_says_its_name_and_version() -> None:
    assert python_package("Metadata-Version: 2.4\nName: keystone\nVersion: 30.0.0\n\nName: other\n") == KEYSTONE
    assert python_package("Name: keystone\n") is None


@pytest.mark.parametrize(
    ("version", "theirs"),
    [
        ("9.7.4-2", "9.7.4"),
        ("4.0.5-6+deb13u2", "4.0.5"),
        ("13.8+deb13u8", "13.8"),
        ("1:27.0.0-3", "27.0.0"),
        ("2:1.0-rc1-3", "1.0-rc1"),
        ("1.2+dfsg-3", "1.2"),
        ("30.0.0", "30.0.0"),
        ("", ""),
    ],
)
def test_the_version_of_the_authors_is_what_debian_adds_to(version: str, theirs: str) -> None:
    assert upstream(version) == theirs


@pytest.mark.parametrize(
    ("package", "url"),
    [
        (BASH, "pkg:deb/debian/bash@5.2.37-2%2Bb8?arch=amd64"),
        (Package("deb", "libstdc++6", "1:2~rc1", "amd64"), "pkg:deb/debian/libstdc%2B%2B6@1%3A2~rc1?arch=amd64"),
        (Package("pypi", "Flask_RESTful", "0.3.10"), "pkg:pypi/flask-restful@0.3.10"),
    ],
)
def test_a_package_has_a_url(package: Package, url: str) -> None:
    assert package.url == url


@pytest.mark.parametrize(
    ("reference", "digest", "name", "url"),
    [
        ("devenv/etcd:1", "", "devenv/etcd", "pkg:docker/devenv/etcd@sha256%3Aa"),
        ("mysql@sha256:b", "sha256:b", "mysql", "pkg:docker/mysql@sha256%3Ab"),
        ("r.example:5/a/b:1", "sha256:b", "r.example:5/a/b", "pkg:docker/a/b@sha256%3Ab?repository_url=r.example%3A5"),
    ],
)
def test_an_image_goes_by_its_digest_or_else_by_its_id(reference: str, digest: str, name: str, url: str) -> None:
    image = Contents(reference, "sha256:a", digest, ())
    assert (image.name, image.url) == (name, url)


def test_a_package_that_two_images_have_is_in_the_document_once() -> None:
    one = Contents("devenv/one:1", "sha256:1", "", [BASH])
    two = Contents("devenv/two:1", "sha256:2", "", [KEYSTONE, BASH])
    document = spdx([one, two], "devenv-1")
    assert [package["name"] for package in document["packages"]] == ["devenv/one", "devenv/two", "bash", "keystone"]
    names = {package["SPDXID"]: package["name"] for package in document["packages"]}
    related = [
        (names.get(r["spdxElementId"], "document"), r["relationshipType"], names[r["relatedSpdxElement"]])
        for r in document["relationships"]
    ]
    assert related == [
        ("document", "DESCRIBES", "devenv/one"),
        ("devenv/one", "CONTAINS", "bash"),
        ("document", "DESCRIBES", "devenv/two"),
        ("devenv/two", "CONTAINS", "bash"),
        ("devenv/two", "CONTAINS", "keystone"),
    ]
    assert spdx([one], "devenv-1")["documentNamespace"] != document["documentNamespace"]
