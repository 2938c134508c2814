"""The workflow of the forge: audited by zizmor, and what it calls is here."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github/workflows/ci.yml"


def audit(workflow: Path) -> subprocess.CompletedProcess[str]:
    """What zizmor finds: needless permissions, text of strangers in a shell, and the like."""
    zizmor = Path(sys.executable).with_name("zizmor")
    config = ROOT / ".github/zizmor.yml"
    return subprocess.run(
        [zizmor, "--offline", "--config", config, workflow],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_workflow_passes_its_audit() -> None:
    result = audit(WORKFLOW)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_audit_finds_needless_permissions_and_text_of_strangers_in_a_shell(
    tmp_path: Path,
) -> None:
    (tmp_path / ".github/workflows").mkdir(parents=True)
    workflow = tmp_path / ".github/workflows/ci.yml"
    text = WORKFLOW.read_text().replace("permissions: {}\n", "")
    text = text.replace("    permissions:\n      contents: read\n", "")
    title = "${{ github.event.pull_request.title }}"
    workflow.write_text(text.replace("run: sudo tests/run", f"run: echo {title}"))
    found = audit(workflow)
    assert found.returncode != 0
    assert "excessive-permissions" in found.stdout
    assert "template-injection" in found.stdout


def test_the_scripts_that_the_workflow_calls_exist() -> None:
    called = set(re.findall(r"\b((?:scripts|tests)/\w+)", WORKFLOW.read_text()))
    assert called == {"scripts/bootstrap", "scripts/image", "scripts/wheel", "tests/run"}
    assert all((ROOT / name).is_file() for name in called)
