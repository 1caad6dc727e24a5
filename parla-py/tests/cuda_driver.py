"""The tests' own CUDA driver (`parla-device/fake-cuda`): in PARLA_FAKE_CUDA, or where cargo puts it; cargo builds it if there is a cargo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "libparla_fake_cuda.so"


def _built() -> Path | None:
    if chosen := os.environ.get("PARLA_FAKE_CUDA"):
        return Path(chosen)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    found = [target / profile / LIBRARY for profile in ("debug", "release")]
    found += [target / profile / "deps" / LIBRARY for profile in ("debug", "release")]
    return next((path for path in found if path.exists()), None)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A directory with the driver under the name that programs look for. It shows all its devices, whatever the shell says of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        yield _directory(tmp_path_factory)


def _directory(tmp_path_factory) -> Path:
    library = _built()
    if library is None and shutil.which("cargo") and (ROOT / "Cargo.toml").exists():
        subprocess.run(["cargo", "build", "-q", "-p", "parla-fake-cuda"], cwd=ROOT, check=True, timeout=50)
        library = _built()
    if library is None:
        pytest.skip("the fake CUDA driver is not built (cargo build -p parla-fake-cuda)")
    directory = tmp_path_factory.mktemp("fake-cuda")
    (directory / "libcuda.so.1").symlink_to(library.resolve())
    return directory


def run(driver: Path, program: str, *, limit: float = 50, **environment: str) -> str:
    """What a program prints that finds the driver, in `limit` seconds at most."""
    settings = {**os.environ, "LD_LIBRARY_PATH": str(driver), **environment}
    for simulated in [name for name in settings if name.startswith("PARLA_SIM")]:
        del settings[simulated]
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr
    return done.stdout
