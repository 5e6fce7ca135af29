"""Complete plans as text, and what holds for every plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from builders import DIGEST, NETWORK, consumer, container, converged, desired, part, service, with_containers
from hypothesis import given, strategies as st

from devenv.lifecycle.plan import (
    Terms,
    changes,
    describe,
    make_plan,
    plan_down,
    plan_empty,
    plan_images,
    plan_restart,
    plan_start,
    plan_stop,
    plan_wait,
)
from devenv.model import Desired, DesiredService, Observed, ObservedContainer, Plan, Source

MYSQL, ETCD, KEYSTONE = service("mysql", build=True), service("etcd"), consumer("keystone")
STACK = desired(MYSQL, KEYSTONE, ETCD)
UP = converged(STACK)
PROVISIONED = {"mysql/keystone": DIGEST}
NEEDS = {"mysql": [], "keystone": ["mysql"], "etcd": []}


def text(plan: Plan) -> str:
    return "\n".join(describe(plan))


def planned(target: Desired, observed: Observed, provisioned: Mapping[str, str] = PROVISIONED) -> list[str]:
    return describe(make_plan(target, observed, Terms(provisioned)))


def after(plan: Plan, key: str) -> set[str]:
    (operation,) = (op for op in plan.operations if op.key == key)
    return set(operation.after)


# ---- up ----------------------------------------------------------------------------------------------------------


def test_a_fresh_up_makes_everything() -> None:
    with_wheels = replace(KEYSTONE, image=replace(KEYSTONE.image, how="build", wheels="requirements.txt"))
    plan = make_plan(desired(MYSQL, with_wheels, ETCD), Observed())
    assert text(plan) == (
        "build image base: image missing\n"
        "build image mysql: image missing\n"
        "fetch wheels keystone: image missing\n"
        "build image keystone: image missing\n"
        "pull image etcd: image missing\n"
        "create network devenv-env: no network\n"
        "create mysql: no container\n"
        "start mysql: no container\n"
        "ready mysql\n"
        "provision mysql/keystone: new\n"
        "create keystone: no container\n"
        "start keystone: no container\n"
        "ready keystone\n"
        "create etcd: no container\n"
        "start etcd: no container\n"
        "ready etcd"
    )
    assert after(plan, "build image mysql") == {"build image base"}
    assert after(plan, "build image keystone") == {"build image base", "fetch wheels keystone"}
    assert after(plan, "fetch wheels keystone") == after(plan, "pull image etcd") == set()
    assert after(plan, "create mysql") == {"build image mysql", "create network devenv-env"}


def test_a_converged_environment_is_only_looked_at() -> None:
    plan = make_plan(STACK, UP, Terms(PROVISIONED))
    assert text(plan) == "ready mysql\nready keystone\nready etcd"
    assert not plan.changes


def test_an_exited_container_is_started_as_it_is() -> None:
    observed = with_containers(UP, container(MYSQL, "exited", exit_code=3))
    assert planned(STACK, observed) == [
        "start mysql: container exited 3",
        "ready mysql",
        "ready keystone",
        "ready etcd",
    ]


def test_a_container_whose_data_went_with_it_is_made_again_with_its_parts() -> None:
    one = service("mysql", volumes={"devenv-env-mysql-data": "/data"})
    target = desired(one, KEYSTONE, ETCD)
    observed = replace(with_containers(converged(target), container(one, "exited", exit_code=0)), volumes={})
    plan = planned(target, observed)
    assert plan[:3] == [
        "remove devenv-env-mysql: its data is gone",
        "create mysql: its data is gone",
        "start mysql: its data is gone",
    ]
    assert "provision mysql/keystone: mysql is recreated" in plan and "stop keystone: mysql lost its data" in plan


def test_an_engine_that_gets_images_by_itself_has_none_built_or_pulled() -> None:
    plan = make_plan(STACK, Observed(), Terms(images=False))
    assert not [op for op in plan.operations if "image" in op.action] and "create mysql: no container" in describe(plan)


def test_a_paused_container_goes_on() -> None:
    observed = with_containers(UP, container(ETCD, "paused"))
    assert planned(desired(ETCD), observed) == ["start etcd: container is paused", "ready etcd"]


def test_drift_recreates_a_service_and_its_dependents() -> None:
    old = service("mysql", version="0")
    observed = with_containers(UP, container(old))
    plan = make_plan(STACK, observed, Terms(PROVISIONED))
    assert text(plan) == (
        "stop mysql: file my.cnf changed\n"
        "remove devenv-env-mysql: file my.cnf changed\n"
        "create mysql: file my.cnf changed\n"
        "start mysql: file my.cnf changed\n"
        "ready mysql\n"
        "provision mysql/keystone: mysql is recreated\n"
        "stop keystone: mysql is recreated\n"
        "remove devenv-env-keystone: mysql is recreated\n"
        "create keystone: mysql is recreated\n"
        "start keystone: mysql is recreated\n"
        "ready keystone\n"
        "ready etcd"
    )
    assert after(plan, "create mysql") == {"remove devenv-env-mysql"}
    assert after(plan, "remove devenv-env-mysql") == {"stop mysql"}


def test_an_exited_container_with_drift_is_not_stopped_first() -> None:
    observed = with_containers(UP, container(service("etcd", version="0"), "exited", exit_code=0))
    assert planned(desired(ETCD), observed) == [
        "remove devenv-env-etcd: file my.cnf changed",
        "create etcd: file my.cnf changed",
        "start etcd: file my.cnf changed",
        "ready etcd",
    ]


def test_without_its_network_every_container_is_made_anew() -> None:
    cause = "its network was removed"
    assert planned(desired(ETCD), replace(UP, networks=())) == [
        "create network devenv-env: no network",
        f"stop etcd: {cause}",
        f"remove devenv-env-etcd: {cause}",
        f"create etcd: {cause}",
        f"start etcd: {cause}",
        "ready etcd",
    ]


@pytest.mark.parametrize("state", ["running", "exited", "paused"])
def test_a_container_on_none_of_the_networks_is_made_anew(state: str) -> None:
    # Somebody removed its network while it was stopped, and another `up` made a new one.
    observed = with_containers(UP, container(MYSQL, state, networks=("old",)))
    plan = planned(desired(MYSQL, ETCD), observed)
    assert "create mysql: its network was removed" in plan
    assert not [line for line in plan if "network devenv-env" in line or line.startswith("create etcd")]


@pytest.mark.parametrize("networks", [(NETWORK,), ("old", NETWORK), ()])
def test_a_container_on_one_of_the_networks_stays(networks: tuple[str, ...]) -> None:
    # Some engines do not report the networks of a container that does not run.
    observed = with_containers(UP, container(ETCD, "exited", exit_code=0, networks=networks))
    assert planned(desired(ETCD), observed) == ["start etcd: container exited 0", "ready etcd"]


DATABASE = service("mysql", volumes={"devenv-env-mysql-data": "/var/lib/mysql"})


def test_what_depends_on_a_service_that_lost_its_data_is_recreated() -> None:
    target = desired(DATABASE, KEYSTONE, consumer("nova", "keystone"), ETCD)
    up = converged(target)
    lost = replace(up, containers={n: c for n, c in up.containers.items() if n != "mysql"}, volumes={})
    plan = planned(target, lost)
    assert "create mysql: no container" in plan
    assert "create keystone: mysql lost its data" in plan
    assert "provision mysql/keystone: mysql is recreated" in plan
    assert "create nova: keystone is recreated" in plan
    assert not any(line.startswith("create etcd") for line in plan)


def test_what_depends_on_a_service_that_kept_its_data_stays() -> None:
    target = desired(DATABASE, KEYSTONE)
    up = converged(target)
    down = replace(up, containers={"keystone": up.containers["keystone"]})
    plan = planned(target, down)
    assert "create mysql: no container" in plan
    assert not any(line.startswith("create keystone") for line in plan)


def test_lost_data_is_the_cause_also_of_a_service_that_is_recreated_for_another() -> None:
    target = desired(DATABASE, KEYSTONE)
    up = with_containers(converged(target), container(service("mysql", version="0")))
    assert "create keystone: mysql lost its data" in planned(target, replace(up, volumes={}))


def test_a_volume_that_is_new_to_a_service_counts_as_data_that_is_not_there() -> None:
    target = desired(replace(DATABASE, volumes={**DATABASE.volumes, "devenv-env-mysql-log": "/log"}), KEYSTONE)
    up = with_containers(converged(desired(DATABASE, KEYSTONE)), container(service("mysql", version="0")))
    assert "create keystone: mysql lost its data" in planned(target, up)


@pytest.mark.parametrize("state", ["created", "dead", "removing"])
def test_a_container_that_may_be_half_made_is_made_anew(state: str) -> None:
    observed = with_containers(UP, container(ETCD, state))
    assert planned(desired(ETCD), observed) == [
        f"remove devenv-env-etcd: container is {state}",
        f"create etcd: container is {state}",
        f"start etcd: container is {state}",
        "ready etcd",
    ]


def test_a_second_container_of_a_service_is_removed() -> None:
    second = ObservedContainer("2", "someone-elses-copy", "etcd", "exited")
    plan = make_plan(desired(ETCD), replace(UP, extra=(second,)))
    assert set(describe(plan)) == {"ready etcd", "remove someone-elses-copy: second container of etcd"}
    assert plan.changes[0].subject == "2"


def test_a_renamed_container_is_gone_before_its_successor_comes() -> None:
    observed = with_containers(UP, container(service("etcd", version="0"), name="renamed"))
    assert "remove renamed" in after(make_plan(desired(ETCD), observed), "create etcd")


def test_a_second_container_that_has_the_name_is_gone_before_its_successor_comes() -> None:
    stale = container(service("etcd", version="0"), name="renamed")
    second = container(ETCD, "exited", id="2")
    plan = make_plan(desired(ETCD), replace(with_containers(UP, stale), extra=(second,)))
    assert {"remove renamed", "remove devenv-env-etcd"} <= after(plan, "create etcd")


def test_an_image_of_a_service_that_runs_already_is_not_missed() -> None:
    assert planned(desired(MYSQL), replace(UP, images={})) == ["ready mysql"]


def test_the_base_is_not_made_for_images_that_are_pulled() -> None:
    assert planned(desired(ETCD), Observed(networks=("n",)))[0] == "pull image etcd: image missing"


def test_images_can_be_had_alone() -> None:
    assert text(plan_images(STACK, Observed())) == (
        "build image base: image missing\n"
        "build image mysql: image missing\n"
        "pull image keystone: image missing\n"
        "pull image etcd: image missing"
    )
    assert plan_images(STACK, UP).operations == ()


# ---- order -------------------------------------------------------------------------------------------------------


def test_service_started_lets_a_service_start_at_once_and_be_ready_later() -> None:
    plan = make_plan(desired(MYSQL, consumer("keystone", condition="service_started")), Observed())
    assert after(plan, "start keystone") == {"create keystone"}
    assert after(plan, "ready keystone") == {"start keystone", "ready mysql", "provision mysql/keystone"}
    assert after(plan, "provision mysql/keystone") == {"ready mysql"}


def test_service_healthy_lets_a_service_start_when_the_other_is_ready_for_it() -> None:
    plan = make_plan(desired(MYSQL, consumer("keystone", condition="service_healthy")), Observed())
    assert after(plan, "start keystone") == {"create keystone", "ready mysql", "provision mysql/keystone"}


def test_independent_services_wait_for_nothing_of_each_other() -> None:
    plan = make_plan(desired(MYSQL, ETCD), Observed())
    assert not any("mysql" in key for op in plan.operations if op.target == "etcd" for key in op.after)


def test_what_a_first_start_left_half_done_is_made_anew_and_what_was_finished_is_kept() -> None:
    target = desired(DATABASE)
    volumes = dict.fromkeys(DATABASE.volumes, "mysql")
    killed = replace(converged(target), containers={"mysql": container(DATABASE, "created")}, volumes=volumes)
    plan = make_plan(target, killed, Terms(unfinished=["mysql"]))
    (volume,) = DATABASE.volumes
    assert f"remove volume {volume}: the first start was not finished" in describe(plan)
    assert after(plan, f"remove volume {volume}") == {"remove devenv-env-mysql"}
    assert f"remove volume {volume}" in after(plan, "create mysql")
    assert "remove volume" not in text(make_plan(target, killed))
    # A running container may still be at its first start: devenv leaves it alone, and waits.
    assert describe(make_plan(target, converged(target), Terms(unfinished=["mysql"]))) == ["ready mysql"]


# ---- first data: golden states, snapshots, reset ------------------------------------------------------------------

(DATA,) = DATABASE.volumes
GOLDEN = replace(DATABASE, golden=(DATA,), components={"nova": part("mysql/nova")})
FRESH = desired(GOLDEN, KEYSTONE)
FROM_GOLDEN = {DATA: Source("devenv/golden:mysql-data-1", "golden state")}


def test_a_first_start_is_kept_before_any_component_of_the_project_has_a_part_of_it() -> None:
    identity = replace(KEYSTONE, components={"nova": part("keystone/nova")})
    plan = make_plan(replace(desired(GOLDEN, identity), keep=True), replace(Observed(), images=UP.images))
    assert after(plan, "keep mysql") == {"ready mysql", "ready keystone"}
    assert after(plan, "provision mysql/nova") == {"ready mysql", "keep mysql"}
    # Keystone stores its users in MySQL.
    assert after(plan, "provision keystone/nova") == {"ready keystone", "keep mysql"}
    assert after(plan, "provision mysql/keystone") == {"ready mysql"}
    assert "keep" not in text(make_plan(FRESH, Observed()))


def test_a_volume_is_filled_before_the_container_is_made_and_then_nothing_is_kept() -> None:
    plan = make_plan(replace(FRESH, keep=True, sources=FROM_GOLDEN), Observed())
    (fill,) = (op for op in plan.operations if op.action == "fill")
    assert (fill.target, fill.cause, fill.subject) == (DATA, "golden state", "devenv/golden:mysql-data-1")
    assert fill.after == () and f"fill {DATA}" in after(plan, "create mysql")
    assert "keep" not in text(plan)


def test_data_that_are_there_are_neither_filled_nor_kept() -> None:
    target = replace(FRESH, keep=True, sources=FROM_GOLDEN)
    there = replace(converged(FRESH), containers={})
    assert not {"fill", "keep"} & {op.action for op in make_plan(target, there).operations}


def test_a_service_is_kept_once_all_that_wrote_to_it_before_is_recreated() -> None:
    observed = replace(converged(FRESH), volumes={})
    left = {name: c for name, c in observed.containers.items() if name == "keystone"}
    stale = make_plan(replace(FRESH, keep=True), replace(observed, containers=left))
    # devenv recreates Keystone, since its data are lost.
    assert "create keystone: mysql lost its data" in text(stale)
    assert {"ready mysql", "ready keystone"} <= after(stale, "keep mysql")
    alone = desired(GOLDEN, replace(KEYSTONE, depends={}))
    assert "keep mysql" in text(make_plan(replace(alone, keep=True), replace(observed, containers=left)))


def test_services_that_are_renewed_lose_containers_and_data_at_once_and_get_them_from_the_source() -> None:
    target = replace(FRESH, sources=FROM_GOLDEN)
    plan = make_plan(target, converged(FRESH), Terms(PROVISIONED, renew={"mysql": "reset", "keystone": "reset"}))
    assert describe(plan) == [
        "remove devenv-env-mysql: reset",
        f"remove volume {DATA}: reset",
        f"fill {DATA}: golden state",
        "create mysql: reset",
        "start mysql: reset",
        "ready mysql",
        "provision mysql/keystone: mysql is recreated",
        "stop keystone: reset",
        "remove devenv-env-keystone: reset",
        "create keystone: reset",
        "start keystone: reset",
        "ready keystone",
        "provision mysql/nova: new",
    ]
    assert after(plan, f"fill {DATA}") == {f"remove volume {DATA}"}
    assert after(plan, f"remove volume {DATA}") == {"remove devenv-env-mysql"}


def test_what_depends_on_a_service_that_is_renewed_is_made_anew_with_it() -> None:
    plan = make_plan(FRESH, converged(FRESH), Terms(renew={"mysql": "reset"}))
    assert "create keystone: mysql lost its data" in text(plan)


QUEUE = service(
    "queue",
    volumes={"q": "/var/lib/queue"},
    provisioner={"kind": "fake", "endpoint": "main", "initial": "/etc/devenv/initial.json"},
    components={"nova": part("queue/nova")},
)


def test_a_service_that_can_empty_itself_goes_on_running_and_gives_components_new_parts() -> None:
    target = desired(QUEUE)
    plan = make_plan(target, converged(target), Terms({}, renew={"queue": "reset"}))
    assert describe(plan) == ["empty queue: reset", "ready queue", "provision queue/nova: new"]
    assert after(plan, "ready queue") == {"empty queue"}
    assert after(plan, "provision queue/nova") == {"ready queue"}


def not_running(queue: DesiredService) -> tuple[Desired, Observed]:
    return desired(queue), with_containers(converged(desired(queue)), container(queue, "exited", exit_code=1))


def changed(queue: DesiredService) -> tuple[Desired, Observed]:
    return desired(queue), with_containers(converged(desired(queue)), container(queue, config_hash="other"))


def restored(queue: DesiredService) -> tuple[Desired, Observed]:
    return replace(desired(queue), sources={"q": Source("image", "snapshot one")}), converged(desired(queue))


@pytest.mark.parametrize("case", [not_running, changed, restored])
def test_it_is_made_anew_where_emptying_would_not_do(case: Callable[..., tuple[Desired, Observed]]) -> None:
    actions = [op.action for op in make_plan(*case(QUEUE), Terms(renew={"queue": "reset"})).operations]
    assert "empty" not in actions and {"remove", "remove volume", "create"} <= {*actions}


def test_it_is_made_anew_where_emptying_did_not_do() -> None:
    target = desired(QUEUE)
    plan = make_plan(target, converged(target), Terms({}, renew={"queue": "reset"}, in_place=False))
    assert [op.action for op in plan.operations][:3] == ["remove", "remove volume", "create"]


def test_a_component_is_emptied_where_it_has_a_part() -> None:
    assert describe(plan_empty(FRESH, "nova")) == [
        "ready mysql",
        "drop mysql/nova: reset asked for",
        "provision mysql/nova: reset asked for",
    ]


# ---- components --------------------------------------------------------------------------------------------------


def test_a_component_that_is_not_known_to_be_there_is_provisioned() -> None:
    assert planned(STACK, UP, {}) == [
        "ready mysql",
        "provision mysql/keystone: new",
        "ready keystone",
        "ready etcd",
    ]


def test_components_are_provisioned_again_when_the_service_is_made_anew() -> None:
    observed = replace(UP, containers={name: c for name, c in UP.containers.items() if name != "mysql"})
    assert "provision mysql/keystone: mysql is recreated" in planned(STACK, observed)


def test_a_component_whose_settings_changed_is_provisioned_again_and_alone() -> None:
    both = {"nova": part("mysql/nova", "2"), "glance": part("mysql/glance")}
    plan = planned(desired(replace(MYSQL, components=both)), UP, {"mysql/nova": "1", "mysql/glance": DIGEST})
    assert plan == ["ready mysql", "provision mysql/nova: its settings changed"]


def test_a_component_that_a_killed_devenv_may_have_left_is_provisioned_again() -> None:
    assert planned(STACK, UP, {"mysql/keystone": ""})[1] == "provision mysql/keystone: new"


def test_a_former_component_is_dropped_only_when_asked_for_and_where_it_has_something() -> None:
    formerly = {"nova": part("mysql/nova"), "glance": part("mysql/glance")}
    target, known = desired(replace(MYSQL, former=formerly)), {"mysql/nova": DIGEST}
    assert planned(target, UP, known) == ["ready mysql"]
    assert describe(make_plan(target, UP, Terms(known, drop=["nova"]))) == [
        "ready mysql",
        "drop mysql/nova: not in devenv.yaml any more",
    ]


def test_a_service_is_prepared_before_its_components_and_only_when_that_changed() -> None:
    settings = {"kind": "fake", "endpoint": "main", "prepare": "true"}
    target = desired(replace(ETCD, provisioner=settings, prepared="on", components={"nova": part("etcd/nova")}))
    plan = make_plan(target, UP, Terms({}))
    assert describe(plan) == ["ready etcd", "prepare etcd: its settings changed", "provision etcd/nova: new"]
    assert after(plan, "provision etcd/nova") == {"ready etcd", "prepare etcd"}
    assert planned(target, UP, {"etcd": "on", "etcd/nova": DIGEST}) == ["ready etcd"]
    off = desired(replace(ETCD, prepared="off"))
    assert planned(off, UP, {"etcd": "on"}) == ["ready etcd", "prepare etcd: its settings changed"]
    assert planned(off, UP, {}) == ["ready etcd"]


# ---- start, stop, restart, down ----------------------------------------------------------------------------------


def test_start_starts_what_does_not_run_and_waits_for_all() -> None:
    observed = with_containers(UP, container(MYSQL, "exited", exit_code=137))
    assert text(plan_start(STACK, observed, {})) == (
        "start mysql: container exited 137\nready mysql\nready keystone\nready etcd"
    )


REMEMBERED = replace(MYSQL, provisioner={"log_in": "true"}, components={n: part(f"mysql/{n}") for n in ("nova", "new")})
LOGINS = desired(REMEMBERED)


@pytest.mark.parametrize("make", [plan_start, plan_restart])
def test_a_server_that_forgets_logins_gets_those_of_the_components_that_it_has(
    make: Callable[[Desired, Observed, Mapping[str, str]], Plan],
) -> None:
    observed = with_containers(converged(LOGINS), container(REMEMBERED, "exited", exit_code=0))
    plan = make(LOGINS, observed, {"mysql/nova": DIGEST, "mysql/new": "another"})
    assert [(op.key, op.cause, op.component) for op in plan.operations if op.action == "log in"] == [
        ("log in mysql/nova", "mysql starts", "nova")
    ]
    assert after(plan, "log in mysql/nova") == {"ready mysql"}


def test_up_logs_in_where_it_starts_a_server_and_creates_no_part() -> None:
    known = {"mysql/nova": DIGEST, "mysql/new": DIGEST}
    up = converged(LOGINS)
    assert planned(LOGINS, up, known) == ["ready mysql"]
    stopped = with_containers(up, container(REMEMBERED, "exited", exit_code=0))
    logins = ["log in mysql/nova: mysql starts", "log in mysql/new: mysql starts"]
    assert planned(LOGINS, stopped, known)[2:] == logins
    assert planned(LOGINS, stopped, {"mysql/nova": DIGEST})[2:] == [logins[0], "provision mysql/new: new"]
    # A part that is created is logged in to by that.
    assert not [line for line in planned(LOGINS, replace(up, containers={}), known) if line.startswith("log in")]


def test_stop_stops_what_is_alive_and_dependents_first() -> None:
    containers = [container(MYSQL), container(KEYSTONE, "paused"), container(ETCD, "exited")]
    plan = plan_stop(containers, NEEDS)
    assert text(plan) == "stop keystone: stop asked for\nstop mysql: stop asked for"
    assert [op.subject for op in plan.operations] == ["id-keystone", "id-mysql"]
    assert after(plan, "stop mysql") == {"stop keystone"}


def test_stop_waits_for_nobody_who_does_not_run() -> None:
    assert after(plan_stop([container(MYSQL), container(KEYSTONE, "exited")], NEEDS), "stop mysql") == set()


def test_stop_keeps_the_order_where_a_dependent_has_more_dependents() -> None:
    names = {"mysql": (), "keystone": ("mysql",), "nova": ("keystone",), "glance": ("keystone",)}
    seen: set[str] = set()
    for op in plan_stop([container(service(name)) for name in names], names).operations:
        assert seen.issuperset(op.after)
        seen.add(op.key)


def test_restart_stops_dependents_first_and_starts_them_last() -> None:
    healthy = desired(MYSQL, consumer("keystone", condition="service_healthy"))
    plan = plan_restart(healthy, converged(healthy), {})
    cause = "restart asked for"
    assert text(plan) == (
        f"stop keystone: {cause}\nstop mysql: {cause}\nstart mysql: {cause}\nready mysql\n"
        f"start keystone: {cause}\nready keystone"
    )
    assert after(plan, "stop mysql") == {"stop keystone"}
    assert after(plan, "start keystone") == {"stop keystone", "ready mysql"}


def test_restart_starts_what_was_stopped() -> None:
    observed = with_containers(UP, container(ETCD, "exited"))
    assert text(plan_restart(desired(ETCD), observed, {})) == "start etcd: restart asked for\nready etcd"


def test_down_stops_gently_and_keeps_the_data() -> None:
    cause = "down asked for"
    plan = plan_down([container(MYSQL), container(ETCD, "exited")], NEEDS, ["n" * 64], {})
    assert text(plan) == (
        f"stop mysql: {cause}\nremove devenv-env-mysql: {cause}\nremove devenv-env-etcd: {cause}\n"
        f"remove network nnnnnnnnnnnn: {cause}"
    )
    assert after(plan, "remove network nnnnnnnnnnnn") == {"remove devenv-env-mysql", "remove devenv-env-etcd"}


def test_down_with_the_data_stops_nothing_and_removes_it_all() -> None:
    cause = "down asked for"
    plan = plan_down([container(MYSQL)], NEEDS, ["n" * 64], {"devenv-env-mysql-data": "mysql"}, gently=False)
    assert text(plan) == (
        f"remove devenv-env-mysql: {cause}\nremove network nnnnnnnnnnnn: {cause}\n"
        f"remove volume devenv-env-mysql-data: {cause}"
    )
    assert after(plan, "remove volume devenv-env-mysql-data") == {"remove devenv-env-mysql"}


def test_two_containers_of_one_service_are_both_stopped_and_removed() -> None:
    both = [container(ETCD), container(ETCD, id="2", name="copy")]
    for plan in (plan_stop(both, {}), plan_down(both, {}, [], {})):
        keys = [op.key for op in plan.operations]
        assert len(keys) == len(set(keys))
        assert {op.subject for op in plan.operations if op.action == "stop"} == {"id-etcd", "2"}


# ---- causes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "cause"),
    [
        ({"a": "1"}, {"a": "2"}, "a changed"),
        ({"a": "1", "z": "1"}, {"b": "1", "z": "2"}, "a removed, b added, z changed"),
        ({}, {}, "made by another version of devenv"),
    ],
)
def test_a_cause_names_every_input_that_differs(before: dict[str, str], now: dict[str, str], cause: str) -> None:
    assert changes(before, now) == cause


# ---- every plan --------------------------------------------------------------------------------------------------

CHAIN = desired(
    replace(DATABASE, image=MYSQL.image, golden=(DATA,)),
    service("rabbitmq", build=True),
    ETCD,
    KEYSTONE,
    consumer("nova", "keystone", "service_healthy", build=True),
)
VOLUMES = st.sampled_from([{}, {"devenv-env-mysql-data": "mysql"}])
STATES = st.sampled_from(["running", "exited", "paused", "created", "dead", "restarting"])


@st.composite
def observations(draw: st.DrawFn) -> Observed:
    """Draw any mixture of what an engine can hold, from nothing to a converged environment."""
    containers = []
    for name, wanted in CHAIN.services.items():
        current = wanted if draw(st.booleans()) else service(name, version="0")
        names = draw(st.lists(st.sampled_from([wanted.container, f"renamed-{name}"]), unique=True))
        containers += [
            container(
                current,
                draw(STATES),
                id=f"id-{called}",
                name=called,
                exit_code=draw(st.none() | st.just(1)),
                networks=draw(st.sampled_from([(NETWORK,), ("old",), ()])),
            )
            for called in names
        ]
    images = draw(st.sets(st.sampled_from([image.reference for image in CHAIN.images])))
    networks = (NETWORK,) if draw(st.booleans()) else ()
    return ModelEngine(
        CHAIN, Observed({}, networks, draw(VOLUMES), dict.fromkeys(images, "id"), tuple(containers))
    ).observe()


class ModelEngine:
    """A minimal engine: it refuses what a real one would refuse."""

    def __init__(self, target: Desired, observed: Observed) -> None:
        self.target = target
        self.images = set(observed.images)
        self.networks = list(observed.networks)
        self.volumes = dict(observed.volumes)
        found = [*observed.containers.values(), *observed.extra]
        self.containers = {c.id: c for c in found}
        self.provisioned: dict[str, str] = {}

    def apply(self, plan: Plan) -> None:
        for op in plan.operations:
            getattr(self, f"do_{op.action.replace(' ', '_')}")(op.target, op.subject)

    def of(self, name: str) -> ObservedContainer:
        """Return the container that `observe` would pick: a running one first."""
        return min((c for c in self.containers.values() if c.service == name), key=lambda c: not c.running)

    def do_build_image(self, name: str, reference: str) -> None:
        assert name == "base" or "devenv/base:1" in self.images
        self.images.add(reference)

    def do_pull_image(self, _name: str, reference: str) -> None:
        self.images.add(reference)

    def do_create_network(self, name: str, _: str) -> None:
        self.networks.append(f"id of {name}")

    def do_fill(self, volume: str, image: str) -> None:
        assert volume not in self.volumes and image
        self.volumes[volume] = "mysql"

    def do_remove_volume(self, volume: str, _: str) -> None:
        assert self.volumes[volume] not in {c.service for c in self.containers.values()}, "the volume is in use"
        del self.volumes[volume]

    def do_keep(self, name: str, _: str) -> None:
        assert self.of(name).running and all(pair == "mysql/keystone" for pair in self.provisioned if name in pair)

    def do_create(self, name: str, _: str) -> None:
        wanted: DesiredService = self.target.services[name]
        assert wanted.image.reference in self.images, "no such image"
        assert self.networks, "no such network"
        assert wanted.container not in {c.name for c in self.containers.values()}, "the name is in use"
        self.containers[f"new-{name}"] = container(wanted, "created", id=f"new-{name}", networks=(self.networks[0],))
        self.volumes |= dict.fromkeys(wanted.volumes, name)

    def do_start(self, name: str, subject: str) -> None:
        identity = subject or f"new-{name}"
        networks = self.containers[identity].networks
        assert not networks or set(networks) & set(self.networks), "no such network"
        self.containers[identity] = replace(self.containers[identity], state="running")

    def do_stop(self, _name: str, subject: str) -> None:
        self.containers[subject] = replace(self.containers[subject], state="exited")

    def do_remove(self, _name: str, subject: str) -> None:
        del self.containers[subject]

    def do_provision(self, pair: str, _: str) -> None:
        assert self.of(pair.partition("/")[0]).running
        self.provisioned[pair] = DIGEST

    def do_ready(self, name: str, _: str) -> None:
        assert self.of(name).running

    def observe(self) -> Observed:
        first = {c.service: self.of(c.service) for c in self.containers.values()}
        extra = tuple(c for c in self.containers.values() if c not in first.values())
        return Observed(first, tuple(self.networks), self.volumes, dict.fromkeys(self.images, "id"), extra)


def in_another_order(plan: Plan, data: st.DataObject) -> Plan:
    """Draw the same operations in any order that respects what each waits for."""
    waiting, done = list(plan.operations), []
    while waiting:
        free = [op for op in waiting if {o.key for o in done}.issuperset(op.after)]
        done.append(data.draw(st.sampled_from(free)))
        waiting.remove(done[-1])
    return Plan(tuple(done))


RENEWED = st.sampled_from([{}, {"mysql": "reset"}, dict.fromkeys(CHAIN.services, "reset")])
# Sources of data for new volumes, and services that earlier starts left half done.
FIRST_DATA = st.sampled_from([{}, {"keep": True}, {"sources": FROM_GOLDEN, "keep": True}])
HALF_DONE = st.sampled_from([(), ("mysql",)])


@given(observations(), st.sets(st.sampled_from(["mysql/keystone", "keystone/nova"])), FIRST_DATA, RENEWED, HALF_DONE)
def test_operations_come_after_what_they_wait_for_and_have_one_name_each(
    observed: Observed, known: set[str], first: dict[str, Any], renew: dict[str, str], half: tuple[str, ...]
) -> None:
    seen: set[str] = set()
    target = replace(CHAIN, **first)
    for op in make_plan(target, observed, Terms(dict.fromkeys(known, DIGEST), unfinished=half, renew=renew)).operations:
        assert seen.issuperset(op.after)
        assert op.key not in seen
        seen.add(op.key)


@given(
    observations(),
    st.sets(st.sampled_from(["mysql/keystone", "keystone/nova"])),
    FIRST_DATA,
    RENEWED,
    HALF_DONE,
    st.data(),
)
def test_a_plan_leads_from_anywhere_to_nothing_to_do(
    observed: Observed,
    known: set[str],
    first: dict[str, Any],
    renew: dict[str, str],
    half: tuple[str, ...],
    data: st.DataObject,
) -> None:
    engine = ModelEngine(CHAIN, observed)
    provisioned = dict.fromkeys(known, DIGEST)
    plan = make_plan(replace(CHAIN, **first), observed, Terms(provisioned, unfinished=half, renew=renew))
    engine.apply(in_another_order(plan, data))
    again = make_plan(CHAIN, engine.observe(), Terms(provisioned | engine.provisioned))
    assert describe(again) == [f"ready {name}" for name in CHAIN.services]


# ---- ports of an engine elsewhere --------------------------------------------------------------------------------


def test_the_ports_of_an_engine_elsewhere_are_forwarded_before_anything_is_created() -> None:
    published = replace(ETCD, ports={2379: 2379, 2380: 2380})
    plan = make_plan(desired(published), Observed(forwarded=frozenset()))
    assert "forward ports: nothing forwards them" in describe(plan)
    for key in ("create etcd", "start etcd", "ready etcd"):
        assert "forward ports" in after(plan, key)


@pytest.mark.parametrize("make", [make_plan, lambda *two: plan_start(*two, {}), plan_wait])
def test_ports_are_forwarded_again_unless_all_are(make: Callable[[Desired, Observed], Plan]) -> None:
    target = desired(replace(ETCD, ports={2379: 2379, 2380: 2380}))
    up = converged(target)
    for there, first in (
        (frozenset(), ["forward ports: nothing forwards them", "ready etcd"]),
        (frozenset({2379, 9}), ["forward ports: 1 more", "ready etcd"]),
        (frozenset({2379, 2380, 9}), ["ready etcd"]),
        (None, ["ready etcd"]),
    ):
        assert describe(make(target, replace(up, forwarded=there))) == first


# ---- services that somebody else runs ----------------------------------------------------------------------------


def attached(name: str, **changes: Any) -> DesiredService:
    theirs = service(name)
    return replace(theirs, attached=f"{name}://db.example", volumes={}, ports={}, files={}, **changes)


def test_a_plan_for_an_attached_service_only_makes_parts_in_it() -> None:
    one = part("mysql/nova")
    mysql = attached("mysql", components={"nova": one}, provisioner={"kind": "mysql", "log_in": "true"})
    target, none = replace(desired(mysql), images=()), Observed(attached=frozenset({"mysql"}))
    assert planned(target, none, {}) == ["ready mysql", "provision mysql/nova: new"]
    # Nobody tells devenv that the server has started again.
    assert planned(target, none, {"mysql/nova": one.digest}) == ["ready mysql", "log in mysql/nova: attached"]


def test_down_drops_what_devenv_made_in_attached_services_after_their_users_are_gone() -> None:
    parts = {"keystone": part("mysql/keystone"), "nova": part("mysql/nova")}
    theirs = desired(attached("mysql", former=parts))
    plan = plan_down(
        [container(KEYSTONE)], {}, (), {}, attached=theirs, provisioned={"mysql/keystone": "", "mysql": ""}
    )
    lines = describe(plan)
    assert "drop mysql/keystone: made in mysql://db.example" in lines
    assert "drop mysql/nova: made in mysql://db.example" not in lines
    assert after(plan, "drop mysql/keystone") == {next(op.key for op in plan.operations if op.action == "remove")}
    assert "drop mysql/keystone" in after(plan, "release mysql")
