"""The messages of the container runtime are what scripts/messages makes of nri.proto."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_messages_are_fresh(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/messages", str(tmp_path)], check=True, timeout=60)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(made) == ["nri_pb2.py", "nri_pb2.pyi"]
    for name, text in made.items():
        assert text == (ROOT / "proxy_init/node" / name).read_text(), "run scripts/messages"
