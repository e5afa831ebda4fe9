"""Fetches SGLang's own clients: the wheels from PyPI, held against their digests, and of each the files that a client needs.

    sglang_files.py FOLDER      makes FOLDER/VERSION/sglang/... for each version
"""
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# One whose client is a file that stands alone, and the newest, whose client imports others.
WHEELS = {
    "0.4.6.post5": "2a48053bd975e09ff10eabf1ef8bab4c913f3c3e16a3e45c13be1b4543cfeaed",
    "0.5.23": "00b3cd5b265ac76c64185fbb6b95424f324ddd9f428d0306b77bc9db9d859937",
}
PLATFORM = ["--platform", "manylinux_2_34_x86_64", "--python-version", "3.11", "--implementation", "cp"]


# bench_serving, and the language in which programs call a server.
FILES = {f"sglang/{name}.py" for name in ("bench_serving", "srt/utils/network", "__init__", "api", "global_config", "utils", "version")}
FOLDERS = ("sglang/benchmark/", "sglang/lang/")


def is_of_a_client(name):
    return name in FILES or name.startswith(FOLDERS)


def fetch(version, folder):
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it is there wholly or not at all.
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *PLATFORM, "--dest", downloads, f"sglang=={version}"]
        if subprocess.run(command).returncode:
            sys.exit(f"pip could not fetch the wheel of sglang {version}; what it said stands above")
        (wheel,) = Path(downloads).glob("*.whl")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEELS[version]:
            sys.exit(f"{wheel.name} has the SHA-256 {digest}, not the one that is expected, {WHEELS[version]}")
        with zipfile.ZipFile(wheel) as files:
            files.extractall(Path(downloads) / "files", [name for name in files.namelist() if is_of_a_client(name)])
        (Path(downloads) / "files").rename(folder / version)


if __name__ == "__main__":
    for version in WHEELS:
        if not (Path(sys.argv[1]) / version).exists():
            fetch(version, Path(sys.argv[1]))
