"""The agent of node mode, called by a runtime, at work in real network namespaces."""

import json
import random
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pods import ENVIRONMENT, namespace
from tests.node.conftest import Start
from tests.node.fake_runtime import (
    AgentProcess,
    CallFailed,
    FakeRuntime,
    Plugin,
    PluginGone,
    container,
    pod,
)
from tests.running import BOTH, fresh_namespace, run_in, saved, with_rules
from tests.schemas import read_json

USUAL = [
    "-p",
    "15001",
    "-z",
    "15006",
    "-u",
    "1337",
    "-m",
    "REDIRECT",
    "-i",
    "*",
    "-x",
    "",
    "-b",
    "*",
    "-d",
    "15090,15021,15020",
]
STATUS = "sidecar.istio.io/status"
WITH_VALIDATION = {
    STATUS: json.dumps({"initContainers": ["istio-validation"], "containers": ["istio-proxy"]})
}
VALIDATION = ("/usr/local/bin/pilot-agent", "istio-iptables")
CHECK_ONLY = ("--run-validation", "--skip-rule-apply")
PROXY = ("/usr/local/bin/pilot-agent", "proxy", "sidecar")


def own_flags(*words: str) -> Mapping[str, str]:
    return {"proxy-init.io/flags": shlex.join(words)}


def state(name: str) -> object:
    """All that rules consist of in a namespace, by the system's own programs."""
    rules = [with_rules(saved(name, family)) for family in BOTH]
    commands = ("ip -4 rule", "ip -6 rule", "ip -6 address show dev lo", "nft list ruleset inet")
    return rules, [namespace.run(name, command.split()).stdout for command in commands]


def state_of_a_call(*words: str, environ: Mapping[str, str] = {}) -> object:
    """The same after the command line was called in a namespace of its own."""
    with fresh_namespace() as name:
        result = run_in(name, *words, environ=environ)
        assert result.status == 0, result.stderr
        return state(name)


@pytest.fixture
def plugin(runtime: FakeRuntime, start: Start) -> Plugin:
    """An agent that has connected, and no pods yet."""
    start()
    return runtime.plugin()


# Rules.


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (USUAL, {}),
        ([*USUAL, "--ipv6"], {}),
        ([*USUAL, "-m", "TPROXY", "--ipv6"], {}),
        ([*USUAL, "--backend", "nft", "--ipv6"], {}),
        ([*USUAL, "-o", "9", "-q", "7", "-c", "eth1", "-k", "eth2"], {"INVALID_DROP": "true"}),
        ([*USUAL, "--capture-all-dns"], {"ISTIO_META_DNS_CAPTURE": "true", "PROXY_GID": "7"}),
        (["--ruleset", "1.0", "-i", "10.0.0.0/8", "-b", "80"], {}),
    ],
    ids=["usual", "IPv6", "TPROXY", "nft", "more flags", "variables", "1.0"],
)
def test_the_rules_are_those_of_the_init_container(
    plugin: Plugin, fresh: str, words: list[str], environ: Mapping[str, str]
) -> None:
    web = pod(fresh, annotations=WITH_VALIDATION)
    plugin.run(web)
    validation = (*VALIDATION, *words, *CHECK_ONLY)
    plugin.create(web, container(web, "istio-validation", validation, environ))
    assert state(fresh) == state_of_a_call(*words, environ=environ)


def test_rules_are_there_from_the_first_moment(plugin: Plugin, fresh: str) -> None:
    annotations = {**WITH_VALIDATION, "traffic.sidecar.istio.io/excludeOutboundPorts": "9"}
    plugin.run(pod(fresh, annotations=annotations))
    flags = "-p 15001 -z 15006 -u 1337 -g 1337 -i * -b * -d 15020,15021,15090 -o 9"
    assert state(fresh) == state_of_a_call(*flags.split())


def test_runtimes_with_an_older_nri_call_it_a_change_of_state(plugin: Plugin, fresh: str) -> None:
    plugin.run_by_state_change(pod(fresh, annotations=own_flags(*USUAL)))
    assert state(fresh) == state_of_a_call(*USUAL)


def test_flags_of_the_agent_are_defaults_for_annotations(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    start("-x", "10.0.0.0/8", "-o", "7")
    plugin = runtime.plugin()
    plugin.run(pod(fresh, annotations={STATUS: "{}"}))
    flags = "-p 15001 -z 15006 -u 1337 -i * -b * -d 15020,15021,15090 -x 10.0.0.0/8 -o 7"
    assert state(fresh) == state_of_a_call(*flags.split())


def test_rules_that_wait_for_the_proxy(plugin: Plugin, fresh: str) -> None:
    nothing = state(fresh)
    annotations = {**WITH_VALIDATION, "proxy-init.io/rules-from": "istio-proxy"}
    web = pod(fresh, annotations=annotations)
    plugin.run(web)
    assert state(fresh) == nothing
    plugin.create(web, container(web, "istio-validation", (*VALIDATION, *USUAL, *CHECK_ONLY)))
    exact = state(fresh)
    assert exact == state_of_a_call(*USUAL)
    plugin.create(web, container(web, "migrate"))
    assert with_rules(saved(fresh, BOTH[0])) == {}
    plugin.create(web, container(web, "istio-proxy", PROXY))
    assert state(fresh) == exact


def test_pods_that_are_left_alone_are_named_once(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    agent = start()
    plugin = runtime.plugin()
    before = state(fresh)
    host = pod(None, "host", annotations=own_flags(*USUAL))
    silent = pod(fresh, "silent")
    own_init = pod(fresh, "own", annotations={STATUS: '{"initContainers": ["istio-init"]}'})
    for each in (host, silent, own_init):
        plugin.run(each)
        for name in ("a", "b"):
            plugin.create(each, container(each, name))
    assert state(fresh) == before
    for title in ("host", "silent", "own"):
        assert agent.log.count(f"default/{title}: left alone: ") == 1


# Failures.


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-o", "http"], "-o: got 'http', expected a port from 1 to 65535"),
        (["-x", "@/etc/passwd"], "-x: got '@/etc/passwd', expected a readable file"),
        (["--network-namespace", "x"], "--network-namespace: not possible in node mode"),
        (["--reconcil"], "did you mean --reconcile?"),
    ],
)
def test_a_mistake_fails_the_pod_with_the_sentence_of_the_command_line(
    plugin: Plugin, fresh: str, words: list[str], sentence: str
) -> None:
    before = state(fresh)
    with pytest.raises(CallFailed) as failed:
        plugin.run(pod(fresh, annotations=own_flags(*words)))
    assert sentence in str(failed.value)
    assert state(fresh) == before


def test_a_refusal_of_the_kernel_fails_the_pod(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    dropped = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")
    start(before=dropped)
    plugin = runtime.plugin()
    with pytest.raises(CallFailed, match="NET_ADMIN"):
        plugin.run(pod(fresh, annotations=own_flags(*USUAL)))


def test_a_late_answer_is_an_error(plugin: Plugin, fresh: str) -> None:
    web = pod(fresh, annotations=own_flags(*USUAL))
    plugin.begin_run(web, seconds=0.004)
    with pytest.raises(CallFailed, match=r"the rules were not in place after \d\.\d s"):
        plugin.finish()
    plugin.run(web)
    assert state(fresh) == state_of_a_call(*USUAL)


def test_what_a_pod_says_does_not_fill_the_log(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    agent = start()
    plugin = runtime.plugin()
    size = len(agent.log)
    for words in (["\n" * 500] * 100, [f"--x{n}" for n in range(3000)], ["-b", "1," * 40_000]):
        with pytest.raises(CallFailed) as failed:
            plugin.run(pod(fresh, "\n" * 100_000, annotations=own_flags(*words, "-o", "x" * 9999)))
        assert len(str(failed.value)) < 4000
    assert len(agent.log) - size < 30_000


@contextmanager
def name_of_own_namespace() -> Iterator[str]:
    """A name in /run/netns for the network namespace that the agent is in."""
    with fresh_namespace() as name:
        path = f"/run/netns/{name}"
        subprocess.run(["umount", path], check=True)
        subprocess.run(["mount", "--bind", "/proc/self/ns/net", path], check=True)
        yield name


def test_the_agent_does_not_touch_its_own_namespace(plugin: Plugin) -> None:
    with name_of_own_namespace() as name, pytest.raises(CallFailed, match="own network namespace"):
        plugin.run(pod(name, annotations=own_flags(*USUAL)))


def test_what_is_no_namespace_is_refused(plugin: Plugin, tmp_path: Path) -> None:
    with pytest.raises(CallFailed, match="/run/netns/none"):
        plugin.run(pod("none", annotations=own_flags(*USUAL)))
    with pytest.raises(CallFailed, match="expected a network namespace in /run/netns"):
        plugin.run(pod("../../proc/1/ns/net", annotations=own_flags(*USUAL)))


@pytest.mark.parametrize("method", ["RunPodSandbox", "CreateContainer", "Synchronize", "Nonsense"])
def test_a_message_that_cannot_be_read_is_an_error_and_the_agent_goes_on(
    plugin: Plugin, fresh: str, method: str
) -> None:
    with pytest.raises(CallFailed, match=r"can't be read|unknown method"):
        plugin.call_with(method, b"\xff\xff\xff\xff")
    plugin.run(pod(fresh, annotations=own_flags(*USUAL)))


@pytest.mark.parametrize(
    "garbage", [bytes(64), b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["zeros", "HTTP"]
)
def test_after_bytes_that_are_no_protocol_it_connects_again(
    runtime: FakeRuntime, start: Start, fresh: str, garbage: bytes
) -> None:
    agent = start()
    plugin = runtime.plugin()
    plugin.connection.sendall(garbage)
    again = runtime.plugin()
    again.run(pod(fresh, annotations=own_flags(*USUAL)))
    assert "the runtime sent" in agent.log


# Connections, and repair.


def test_it_waits_for_the_runtime_and_survives_its_restarts(
    tmp_path: Path, start: Start, fresh: str
) -> None:
    agent = start()
    agent.wait_for_log("no connection to the runtime")
    web = pod(fresh, annotations=own_flags(*USUAL))
    for _ in range(3):
        runtime = FakeRuntime(tmp_path / "nri.sock")
        plugin = runtime.plugin([web])
        plugin.close()
        runtime.close()
    assert agent.log.count("no connection to the runtime") < 10


def test_pods_without_rules_or_with_others_are_repaired_at_every_connect(
    runtime: FakeRuntime, start: Start
) -> None:
    with ExitStack() as stack:
        names = [stack.enter_context(fresh_namespace()) for _ in range(4)]
        pods = [pod(name, f"web-{n}", own_flags(*USUAL)) for n, name in enumerate(names)]
        wanted = state_of_a_call(*USUAL)
        assert run_in(names[1], *USUAL, "-o", "7").status == 0
        assert run_in(names[2], *USUAL).status == 0
        command = ["iptables-legacy", "-t", "nat", "-D", "ISTIO_OUTPUT", "3"]
        assert namespace.run(names[2], command).returncode == 0
        assert run_in(names[3], *USUAL).status == 0

        agent = start()
        runtime.plugin(pods)
        agent.wait_for_log("all pods of the node have been looked at: 4")
        assert [state(name) for name in names] == [wanted] * 4
        assert agent.log.count("result=applied") == 3
        assert agent.log.count("event=repair") == 4


def test_after_a_restart_the_agent_knows_the_exact_flags(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    web = pod(fresh, annotations=WITH_VALIDATION)
    words = [*USUAL, "-u", "7", "-o", "9"]
    first = start()
    plugin = runtime.plugin()
    plugin.run(web)
    plugin.create(web, container(web, "istio-validation", (*VALIDATION, *words, *CHECK_ONLY)))
    exact = state(fresh)
    annotations = plugin.create(web, container(web, "istio-proxy", PROXY))
    first.kill()

    # The runtime no longer lists the container istio-validation, which has ended.
    assert run_in(fresh, "clean").status == 0
    second = start()
    proxy = container(web, "istio-proxy", PROXY, annotations=annotations)
    runtime.plugin([web], [proxy])
    second.wait_for_log("all pods of the node have been looked at: 1\n")
    assert state(fresh) == exact == state_of_a_call(*words)


def test_of_two_agents_only_the_first_sets_the_annotation(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    """As while one replaces the other; the runtime shows the second what the first has set."""
    web = pod(fresh, annotations=WITH_VALIDATION)
    argv = (*VALIDATION, *USUAL, *CHECK_ONLY)
    annotations: Mapping[str, str] = {}
    given = []
    for _ in range(2):
        start()
        plugin = runtime.plugin()
        plugin.run(web)
        created = container(web, "istio-validation", argv, annotations=annotations)
        annotations = plugin.create(web, created)
        given.append(list(annotations))
    assert given == [["proxy-init.io/validation"], []]


def test_where_the_exact_flags_are_lost_the_rules_that_are_there_stay(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    words = [*USUAL, "-u", "7"]
    assert run_in(fresh, *words).status == 0
    before = state(fresh)
    agent = start()
    plugin = runtime.plugin([pod(fresh, annotations=WITH_VALIDATION)])
    agent.wait_for_log("result=kept")
    assert state(fresh) == before
    assert run_in(fresh, "clean").status == 0
    plugin.close()
    runtime.plugin([pod(fresh, annotations=WITH_VALIDATION)])
    agent.wait_for_log("result=applied")
    assert state(fresh) != before


def test_what_the_runtime_tells_in_pieces_is_one(runtime: FakeRuntime, start: Start) -> None:
    with ExitStack() as stack:
        names = [stack.enter_context(fresh_namespace()) for _ in range(3)]
        pods = [pod(name, f"web-{n}", WITH_VALIDATION) for n, name in enumerate(names)]
        validation = (*VALIDATION, *USUAL, *CHECK_ONLY)
        containers = [container(each, "istio-validation", validation) for each in pods]
        agent = start()
        runtime.accept().start(pods, containers[::-1], pieces=3)
        agent.wait_for_log("all pods of the node have been looked at: 3")
        assert [state(name) for name in names] == [state_of_a_call(*USUAL)] * 3


def test_killed_at_any_moment_it_finishes_after_it_is_started_again(
    runtime: FakeRuntime, start: Start
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    wanted = state_of_a_call(*USUAL, "--ipv6")
    for _ in range(4):
        with fresh_namespace() as name:
            web = pod(name, annotations=own_flags(*USUAL, "--ipv6"))
            agent = start()
            plugin = runtime.plugin()
            plugin.begin_run(web)
            time.sleep(chance.uniform(0, 0.12))
            agent.kill()
            seen = len(agent.log)
            agent = start()
            plugin = runtime.plugin([web])
            until = time.monotonic() + 20
            while "have been looked at: 1" not in agent.log[seen:]:
                assert time.monotonic() < until, agent.log
                time.sleep(0.02)
            assert state(name) == wanted
            agent.kill()


def test_a_new_event_of_a_pod_does_not_wait_for_its_repair(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    """Of the same pod, with other flags: what is asked for last is what holds."""
    web = pod(fresh, annotations=own_flags(*USUAL, "-o", "7"))
    start()
    plugin = runtime.plugin([web])
    web.annotations["proxy-init.io/flags"] = shlex.join(USUAL)
    plugin.create(web, container(web, "app"))
    assert state(fresh) == state_of_a_call(*USUAL)


def test_at_sigterm_what_has_begun_is_finished(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    agent = start()
    plugin = runtime.plugin()
    plugin.begin_run(pod(fresh, annotations=own_flags(*USUAL)))
    time.sleep(0.01)
    assert agent.terminate() == 0
    try:
        plugin.finish()
    except PluginGone:  # the signal was faster than the call
        assert "result=" not in agent.log
    else:
        assert state(fresh) == state_of_a_call(*USUAL)
    assert "all rules stay" in agent.log


# What others may ask.


def listed(runtime: FakeRuntime, *words: str) -> str:
    command = [sys.executable, "-m", "proxy_init", "node", "pods", "--nri-socket"]
    result = subprocess.run(
        [*command, str(runtime.path), *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return result.stdout


def test_the_pods_of_the_node_are_listed(plugin: Plugin, runtime: FakeRuntime, fresh: str) -> None:
    plugin.run(pod(fresh, "web", own_flags(*USUAL)))
    plugin.run(pod(None, "host"))
    with pytest.raises(CallFailed):
        plugin.run(pod(fresh, "bad", own_flags("-o", "http")))
    gone = pod(fresh, "gone", own_flags(*USUAL))
    plugin.run(gone)
    plugin.remove(gone)
    pods = {each["pod"]: each for each in read_json("pods", listed(runtime, "-O", "json"))}
    assert {name: each["state"] for name, each in pods.items()} == {
        "web": "redirected",
        "host": "left alone",
        "bad": "failed",
    }
    assert pods["web"]["flags"] == USUAL
    assert pods["web"]["backend"] == "legacy"
    lines = listed(runtime).splitlines()
    assert [line.split()[:3] for line in lines[:2]] == [
        ["NAMESPACE", "POD", "STATE"],
        ["default", "web", "redirected"],
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_and_probes(runtime: FakeRuntime, start: Start, fresh: str) -> None:
    port = free_port()
    agent = start("--http-port", str(port))
    connected = runtime.accept()
    assert asked(port, "healthz")[0] == 200
    assert asked(port, "readyz")[0] == 503
    connected.start([pod(fresh, annotations=own_flags(*USUAL))])
    agent.wait_for_log("result=applied")
    assert asked(port, "readyz")[0] == 200
    assert asked(port, "other")[0] == 404
    lines = set(asked(port, "metrics")[1].splitlines())
    assert lines >= {
        'proxy_init_node_pods{state="redirected"} 1.0',
        'proxy_init_node_outcomes_total{outcome="applied"} 1.0',
        "proxy_init_node_repairs_total 1.0",
        "proxy_init_node_connections_total 1.0",
        "proxy_init_node_connected 1.0",
    }
    connected.close()
    agent.wait_for_log("closed the connection")
    assert asked(port, "readyz")[0] == 503


def test_a_client_that_says_nothing_holds_up_nobody(
    runtime: FakeRuntime, start: Start, fresh: str
) -> None:
    port = free_port()
    start("--http-port", str(port))
    plugin = runtime.plugin()
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        plugin.run(pod(fresh, annotations=own_flags(*USUAL)))


# Size.


def test_the_agent_does_not_grow(runtime: FakeRuntime, start: Start, fresh: str) -> None:
    agent: AgentProcess = start()
    plugin = runtime.plugin()

    def many(number: int, annotations: Mapping[str, str]) -> None:
        for _ in range(number):
            web = pod(fresh, annotations=annotations)
            plugin.run(web)
            plugin.create(web, container(web, "app", ["x" * 1000]))
            plugin.remove(web)

    many(20, own_flags(*USUAL))
    many(500, {"x": "y" * 1000})
    before = agent.resident()
    many(60, own_flags(*USUAL))
    many(1000, {"x": "y" * 1000})
    assert agent.resident() - before < 1 << 20
    assert agent.resident() < 45 << 20
