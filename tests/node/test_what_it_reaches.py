"""What those who create pods can make the agent touch. Seen with strace, which misses nothing: no
program is run, and no file is read or written for what a pod says."""

import re
import shlex
from pathlib import Path

import pytest

from tests.node.conftest import Start
from tests.node.fake_runtime import CallFailed, FakeRuntime, container, pod
from tests.running import fresh_namespace, run_in

USUAL = ("-p", "15001", "-z", "15006", "-u", "1337", "-i", "*", "-b", "*")
HOSTILE = (
    ("-x", "@{file}"),
    ("-b", "@/proc/1/environ"),
    ("-u", "$(touch {file})"),
    ("--network-namespace", "{file}"),
    ("--pod", "kube-system/x"),
    ("--ruleset", "1.0"),
)
VARIABLES = {
    "XTABLES_LOCKFILE": "{file}",
    "TERMINATION_LOG": "{file}",
    "ISTIO_CLUSTER_CONFIG": "{file}",
    "NETWORK_NAMESPACE": "{file}",
    "XTABLES_LIBDIR": "{file}",
    "LD_PRELOAD": "{file}",
}
CALLS = "execve,execveat,open,openat,openat2,creat,connect,setns,unlink,rename,mkdir,mount"


def test_a_pod_reaches_nothing_of_the_agents(
    runtime: FakeRuntime, start: Start, tmp_path: Path
) -> None:
    trace, secret = tmp_path / "trace", tmp_path / "secret-of-the-agent"
    strace = ("strace", "-f", "-qq", "-e", f"trace={CALLS}", "-o", str(trace))
    agent = start("--log-level", "debug", before=strace)
    plugin = runtime.plugin()
    seen = trace.stat().st_size
    with fresh_namespace() as name:
        for words in HOSTILE:
            flags = shlex.join(word.format(file=secret) for word in (*USUAL, *words))
            one = pod(name, annotations={"proxy-init.io/flags": flags})
            if words != ("--ruleset", "1.0"):
                with pytest.raises(CallFailed):
                    plugin.run(one)
            else:
                plugin.run(one)
        for variable, value in VARIABLES.items():
            two = pod(name)
            argv = ("istio-iptables", *USUAL, "--ruleset", "1.0")
            environ = {variable: value.format(file=secret)}
            validation = container(two, "istio-validation", argv, environ)
            if variable in ("ISTIO_CLUSTER_CONFIG", "NETWORK_NAMESPACE"):
                with pytest.raises(CallFailed):
                    plugin.create(two, validation)
            else:
                plugin.create(two, validation)
        calls = trace.read_text()[seen:]
        entered = [f'"/run/netns/{name}"', '"/proc/self/ns/net"']

    assert "setns(" in calls  # it was traced
    assert secret.name not in calls
    assert "environ" not in calls
    assert "execve" not in calls
    assert "AF_INET" not in calls  # users are looked up, which may ask nscd
    assert not secret.exists()
    opened = re.findall(r"\bopen(?:at)?\((?:AT_FDCWD, )?(\"[^\"]*\"), ([A-Z_|]+)", calls)
    written = [path for path, how in opened if re.search("O_(WRONLY|RDWR|CREAT|TRUNC)", how)]
    assert set(written) <= {*entered, '"/dev/null"'}
    assert {path for path, _ in opened if "netns" in path} == {f'"/run/netns/{name}"'}
    assert agent.process.poll() is None


def test_a_network_namespace_that_is_gone_is_not_made(runtime: FakeRuntime, start: Start) -> None:
    with fresh_namespace() as name:
        assert run_in(name, *USUAL).status == 0
    start()
    plugin = runtime.plugin()
    flags = {"proxy-init.io/flags": shlex.join(USUAL)}
    with pytest.raises(CallFailed, match="No such file"):
        plugin.run(pod(name, annotations=flags))
    assert not Path("/run/netns", name).exists()
